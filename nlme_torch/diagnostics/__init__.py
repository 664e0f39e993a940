"""Numbers about a fit, as tidy tables; the pictures are in :mod:`nlme_torch.plots`."""

from nlme_torch.diagnostics.convergence import convergence_table as convergence_table
from nlme_torch.diagnostics.effects import effect_covariates as effect_covariates
from nlme_torch.diagnostics.effects import effect_draws as effect_draws
from nlme_torch.diagnostics.effects import effect_summary as effect_summary
from nlme_torch.diagnostics.fit_curves import fit_curves as fit_curves
from nlme_torch.diagnostics.network_function import NetworkFunction as NetworkFunction
from nlme_torch.diagnostics.network_function import network_function as network_function
from nlme_torch.diagnostics.network_function import network_surface as network_surface
from nlme_torch.diagnostics.network_function import network_trajectories as network_trajectories
from nlme_torch.diagnostics.predictive_density import PredictiveDensity as PredictiveDensity
from nlme_torch.diagnostics.predictive_density import predictive_density as predictive_density
from nlme_torch.diagnostics.residuals import residual_quantiles as residual_quantiles
from nlme_torch.diagnostics.trend import trend as trend

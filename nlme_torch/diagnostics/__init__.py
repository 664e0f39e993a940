"""Numbers about a fit, as tidy tables; the pictures are in :mod:`nlme_torch.plots`."""

from .convergence import convergence_table as convergence_table
from .effects import effect_covariates as effect_covariates
from .effects import effect_draws as effect_draws
from .effects import effect_summary as effect_summary
from .fit_curves import fit_curves as fit_curves
from .network_function import NetworkFunction as NetworkFunction
from .network_function import network_function as network_function
from .network_function import network_surface as network_surface
from .network_function import network_trajectories as network_trajectories
from .predictive_density import PredictiveDensity as PredictiveDensity
from .predictive_density import predictive_density as predictive_density
from .residuals import residual_quantiles as residual_quantiles
from .trend import trend as trend

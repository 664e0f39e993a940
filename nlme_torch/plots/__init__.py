"""Pictures of a fit; the numbers behind them are in :mod:`nlme_torch.diagnostics`.

Every function draws in the house style, changes no setting, never shows or closes anything, and returns the
matplotlib ``Axes`` (one panel; ``ax=`` says where to draw) or ``Figure`` (several panels) for the caller to
change and save. ``labels=`` says what to write for a name, with its unit: ``labels={"time": "time (h)",
"conc": "theophylline (mg/L)"}``.
"""

from nlme_torch.plots.convergence import convergence as convergence
from nlme_torch.plots.data import data as data
from nlme_torch.plots.effects import effects as effects
from nlme_torch.plots.estimates import comparison as comparison
from nlme_torch.plots.estimates import correlation as correlation
from nlme_torch.plots.estimates import profile as profile
from nlme_torch.plots.fits import fit_pages as fit_pages
from nlme_torch.plots.fits import fits as fits
from nlme_torch.plots.forest import forest as forest
from nlme_torch.plots.goodness_of_fit import goodness_of_fit as goodness_of_fit
from nlme_torch.plots.network import network as network
from nlme_torch.plots.network import network_over_time as network_over_time
from nlme_torch.plots.network_heatmap import network_heatmap as network_heatmap
from nlme_torch.plots.observation import observation as observation
from nlme_torch.plots.residual_panel import residual_panel as residual_panel
from nlme_torch.plots.vpc import vpc as vpc

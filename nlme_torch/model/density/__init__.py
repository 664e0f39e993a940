"""The densities of a model joined to data, and what is evaluated with them."""

from nlme_torch.model.density.density import Density as Density

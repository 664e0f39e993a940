"""Models: the class that users subclass, its parameters, random effects, networks and densities."""

from nlme_torch.model.declare.model import Model as Model
from nlme_torch.model.density.density import Conditional as Conditional
from nlme_torch.model.density.density import Density as Density
from nlme_torch.model.density.network_scales import scale_networks as scale_networks
from nlme_torch.model.density.simulation import simulate as simulate
from nlme_torch.model.dosing.dosing import Dosing as Dosing
from nlme_torch.model.networks.networks import MLP as MLP
from nlme_torch.model.networks.random_weights import RandomWeights as RandomWeights
from nlme_torch.model.parameters.covariate_effects import Power as Power
from nlme_torch.model.parameters.covariate_effects import Shift as Shift
from nlme_torch.model.parameters.individual_parameters import Latent as Latent
from nlme_torch.model.parameters.individual_parameters import LogitNormal as LogitNormal
from nlme_torch.model.parameters.individual_parameters import LogNormal as LogNormal
from nlme_torch.model.parameters.individual_parameters import Normal as Normal
from nlme_torch.model.parameters.individual_parameters import Occasions as Occasions
from nlme_torch.model.parameters.parameters import Bounded as Bounded
from nlme_torch.model.parameters.parameters import Positive as Positive
from nlme_torch.model.parameters.parameters import Real as Real
from nlme_torch.model.parameters.priors import L1 as L1
from nlme_torch.model.parameters.priors import L2 as L2
from nlme_torch.model.random_effects.covariance import Diagonal as Diagonal
from nlme_torch.model.random_effects.covariance import Fixed as Fixed
from nlme_torch.model.random_effects.covariance import Full as Full
from nlme_torch.model.random_effects.covariance import LowRank as LowRank
from nlme_torch.model.random_effects.covariance import Scalar as Scalar
from nlme_torch.model.random_effects.random_effects import Omega as Omega

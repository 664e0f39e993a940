r"""Estimation: one entry point, one file per method, and the result.

Random effects are written in one of two ways, and a file says so where it is the second:

* :math:`\eta`, as the model has them, ``(effect, chain, start, subject)``: whatever draws them (``mcmc``, ``saem``, the
  sampled likelihoods) or shows them (``effects``, ``estimates``, tables).
* z, with :math:`\eta = L z` and :math:`\Omega = L L^\top`, ``(effect, start, subject)``: whatever expands around a mode
  (``marginal``, ``foce``) and whatever searches it for a result (``modes.mode_search``). One unit is one standard
  deviation of the prior in every model, and a variance may be zero.

``modes.effect_density.StandardisedDensity`` and ``foce.maximum_likelihood.natural_effects`` turn z into :math:`\eta`,
nothing else does. A density that is sampled or climbed is :math:`\log p`; what an approximation expands is
:math:`g = -\log p(y \mid L z) + \tfrac12 z^\top z`.
"""

from nlme_torch.inference.effects.moves import Moves as Moves
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood as LogLikelihood
from nlme_torch.inference.estimates.staged import Staged as Staged
from nlme_torch.inference.estimates.status import Status as Status
from nlme_torch.inference.fitting.fit import fit as fit
from nlme_torch.inference.fitting.loading import load as load
from nlme_torch.inference.fitting.ofv import ObjectiveValue as ObjectiveValue
from nlme_torch.inference.fitting.ofv import ofv as ofv
from nlme_torch.inference.fitting.result import Fit as Fit
from nlme_torch.inference.foce.fo import FO as FO
from nlme_torch.inference.foce.foce import FOCE as FOCE
from nlme_torch.inference.foce.focei import FOCEI as FOCEI
from nlme_torch.inference.foce.laplace import Laplace as Laplace
from nlme_torch.inference.foce.quadrature import Quadrature as Quadrature
from nlme_torch.inference.foce.rescue import Rescue as Rescue
from nlme_torch.inference.information.leave_one_out import LeaveOneOut as LeaveOneOut
from nlme_torch.inference.information.leave_one_out import leave_one_out as leave_one_out
from nlme_torch.inference.information.stochastic import StochasticInformation as StochasticInformation
from nlme_torch.inference.likelihood.likelihood import AnnealedImportanceSampling as AnnealedImportanceSampling
from nlme_torch.inference.likelihood.likelihood import ImportanceSampling as ImportanceSampling
from nlme_torch.inference.likelihood.likelihood import loglik as loglik
from nlme_torch.inference.optimise.minimisers import BFGS as BFGS
from nlme_torch.inference.optimise.minimisers import LBFGS as LBFGS
from nlme_torch.inference.optimise.minimisers import Adam as Adam
from nlme_torch.inference.optimise.trust_region import TrustRegion as TrustRegion
from nlme_torch.inference.pooled.pooled import Pooled as Pooled
from nlme_torch.inference.saem.certificate import Certification as Certification
from nlme_torch.inference.saem.race import Race as Race
from nlme_torch.inference.saem.saem import SAEM as SAEM
from nlme_torch.inference.saem.schedule import StepSchedule as StepSchedule
from nlme_torch.inference.simulation.result import Simulation as Simulation
from nlme_torch.inference.simulation.simulate import simulate as simulate
from nlme_torch.inference.strategies.augment import augment as augment
from nlme_torch.inference.strategies.covariate_search import CovariateSearch as CovariateSearch
from nlme_torch.inference.strategies.covariate_search import covariate_search as covariate_search
from nlme_torch.inference.strategies.ensemble import Ensemble as Ensemble
from nlme_torch.inference.strategies.multistart import Multistart as Multistart
from nlme_torch.inference.strategies.multistart import multistart as multistart
from nlme_torch.inference.uncertainty.bootstrap import Bootstrap as Bootstrap
from nlme_torch.inference.uncertainty.bootstrap import case_bootstrap as case_bootstrap
from nlme_torch.inference.uncertainty.bootstrap import parametric_bootstrap as parametric_bootstrap
from nlme_torch.inference.uncertainty.profile import Profile as Profile
from nlme_torch.inference.uncertainty.profile import profile as profile
from nlme_torch.inference.uncertainty.sir import SIR as SIR
from nlme_torch.inference.uncertainty.sir import sir as sir
from nlme_torch.inference.uncertainty.sse import SimulationEstimation as SimulationEstimation
from nlme_torch.inference.uncertainty.sse import sse as sse
from nlme_torch.inference.uncertainty.standard_errors import Uncertainty as Uncertainty
from nlme_torch.inference.uncertainty.standard_errors import standard_errors as standard_errors
from nlme_torch.inference.validation.comparison import Comparison as Comparison
from nlme_torch.inference.validation.comparison import compare as compare
from nlme_torch.inference.validation.cross_validation import CrossValidation as CrossValidation
from nlme_torch.inference.validation.cross_validation import cross_validate as cross_validate
from nlme_torch.inference.validation.held_out import held_out as held_out

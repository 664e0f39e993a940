"""nlme_torch: nonlinear mixed-effects models with neural networks inside the dynamics.

Nothing but this file is loaded by ``import nlme_torch``: a name brings its module along when it is first used.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nlme_torch import compartments as compartments
    from nlme_torch import data as data
    from nlme_torch import diagnostics as diagnostics
    from nlme_torch import errors as errors
    from nlme_torch import examples as examples
    from nlme_torch import inference as inference
    from nlme_torch import model as model
    from nlme_torch import nonmem as nonmem
    from nlme_torch import omega as omega
    from nlme_torch import plots as plots
    from nlme_torch import reporting as reporting
    from nlme_torch import settings as settings
    from nlme_torch import solve as solve
    from nlme_torch.data import Dataset as Dataset
    from nlme_torch.data import Regimen as Regimen
    from nlme_torch.data import check_frame as check_frame
    from nlme_torch.errors import DataError as DataError
    from nlme_torch.errors import FitError as FitError
    from nlme_torch.errors import ModelError as ModelError
    from nlme_torch.errors import NLMEError as NLMEError
    from nlme_torch.errors import SolveError as SolveError
    from nlme_torch.inference import BFGS as BFGS
    from nlme_torch.inference import FO as FO
    from nlme_torch.inference import FOCE as FOCE
    from nlme_torch.inference import FOCEI as FOCEI
    from nlme_torch.inference import LBFGS as LBFGS
    from nlme_torch.inference import SAEM as SAEM
    from nlme_torch.inference import SIR as SIR
    from nlme_torch.inference import Adam as Adam
    from nlme_torch.inference import AnnealedImportanceSampling as AnnealedImportanceSampling
    from nlme_torch.inference import Bootstrap as Bootstrap
    from nlme_torch.inference import Certification as Certification
    from nlme_torch.inference import Comparison as Comparison
    from nlme_torch.inference import CovariateSearch as CovariateSearch
    from nlme_torch.inference import CrossValidation as CrossValidation
    from nlme_torch.inference import Ensemble as Ensemble
    from nlme_torch.inference import Fit as Fit
    from nlme_torch.inference import ImportanceSampling as ImportanceSampling
    from nlme_torch.inference import Laplace as Laplace
    from nlme_torch.inference import LeaveOneOut as LeaveOneOut
    from nlme_torch.inference import LogLikelihood as LogLikelihood
    from nlme_torch.inference import Moves as Moves
    from nlme_torch.inference import Multistart as Multistart
    from nlme_torch.inference import ObjectiveValue as ObjectiveValue
    from nlme_torch.inference import Pooled as Pooled
    from nlme_torch.inference import Profile as Profile
    from nlme_torch.inference import Quadrature as Quadrature
    from nlme_torch.inference import Race as Race
    from nlme_torch.inference import Rescue as Rescue
    from nlme_torch.inference import Simulation as Simulation
    from nlme_torch.inference import SimulationEstimation as SimulationEstimation
    from nlme_torch.inference import Staged as Staged
    from nlme_torch.inference import Status as Status
    from nlme_torch.inference import StepSchedule as StepSchedule
    from nlme_torch.inference import StochasticInformation as StochasticInformation
    from nlme_torch.inference import TrustRegion as TrustRegion
    from nlme_torch.inference import Uncertainty as Uncertainty
    from nlme_torch.inference import augment as augment
    from nlme_torch.inference import case_bootstrap as case_bootstrap
    from nlme_torch.inference import compare as compare
    from nlme_torch.inference import covariate_search as covariate_search
    from nlme_torch.inference import cross_validate as cross_validate
    from nlme_torch.inference import fit as fit
    from nlme_torch.inference import held_out as held_out
    from nlme_torch.inference import leave_one_out as leave_one_out
    from nlme_torch.inference import load as load
    from nlme_torch.inference import loglik as loglik
    from nlme_torch.inference import multistart as multistart
    from nlme_torch.inference import ofv as ofv
    from nlme_torch.inference import parametric_bootstrap as parametric_bootstrap
    from nlme_torch.inference import profile as profile
    from nlme_torch.inference import simulate as simulate
    from nlme_torch.inference import sir as sir
    from nlme_torch.inference import sse as sse
    from nlme_torch.inference import standard_errors as standard_errors
    from nlme_torch.model import L1 as L1
    from nlme_torch.model import L2 as L2
    from nlme_torch.model import MLP as MLP
    from nlme_torch.model import Bounded as Bounded
    from nlme_torch.model import Diagonal as Diagonal
    from nlme_torch.model import Dosing as Dosing
    from nlme_torch.model import Fixed as Fixed
    from nlme_torch.model import Full as Full
    from nlme_torch.model import Latent as Latent
    from nlme_torch.model import LogitNormal as LogitNormal
    from nlme_torch.model import LogNormal as LogNormal
    from nlme_torch.model import LowRank as LowRank
    from nlme_torch.model import Model as Model
    from nlme_torch.model import Normal as Normal
    from nlme_torch.model import Occasions as Occasions
    from nlme_torch.model import Omega as Omega
    from nlme_torch.model import Positive as Positive
    from nlme_torch.model import Power as Power
    from nlme_torch.model import RandomWeights as RandomWeights
    from nlme_torch.model import Real as Real
    from nlme_torch.model import Scalar as Scalar
    from nlme_torch.model import Shift as Shift
    from nlme_torch.model import observation as observation
    from nlme_torch.model import scale_networks as scale_networks
    from nlme_torch.nonmem import from_nonmem as from_nonmem
    from nlme_torch.reporting import report as report
    from nlme_torch.solve import RK4 as RK4
    from nlme_torch.solve import Auto as Auto
    from nlme_torch.solve import Rodas5P as Rodas5P
    from nlme_torch.solve import TorchDiffEq as TorchDiffEq
    from nlme_torch.solve import Tsit5 as Tsit5

_PARTS = (
    "compartments",
    "data",
    "diagnostics",
    "errors",
    "examples",
    "inference",
    "model",
    "nonmem",
    "omega",
    "plots",
    "reporting",
    "settings",
    "solve",
)
_NAMES = {
    "nlme_torch.data": ("Dataset", "Regimen", "check_frame"),
    "nlme_torch.errors": ("DataError", "FitError", "ModelError", "NLMEError", "SolveError"),
    "nlme_torch.inference": (
        "BFGS",
        "FO",
        "FOCE",
        "FOCEI",
        "LBFGS",
        "SAEM",
        "SIR",
        "Adam",
        "AnnealedImportanceSampling",
        "Bootstrap",
        "Certification",
        "Comparison",
        "CovariateSearch",
        "CrossValidation",
        "Ensemble",
        "Fit",
        "ImportanceSampling",
        "Laplace",
        "LeaveOneOut",
        "LogLikelihood",
        "Moves",
        "Multistart",
        "ObjectiveValue",
        "Pooled",
        "Profile",
        "Quadrature",
        "Race",
        "Rescue",
        "Simulation",
        "Staged",
        "SimulationEstimation",
        "Status",
        "StepSchedule",
        "StochasticInformation",
        "TrustRegion",
        "Uncertainty",
        "augment",
        "case_bootstrap",
        "compare",
        "covariate_search",
        "cross_validate",
        "fit",
        "held_out",
        "leave_one_out",
        "load",
        "loglik",
        "multistart",
        "ofv",
        "parametric_bootstrap",
        "profile",
        "simulate",
        "sir",
        "sse",
        "standard_errors",
    ),
    "nlme_torch.model": (
        "L1",
        "L2",
        "MLP",
        "Bounded",
        "Diagonal",
        "Dosing",
        "Fixed",
        "Full",
        "Latent",
        "LogitNormal",
        "LogNormal",
        "LowRank",
        "Model",
        "Normal",
        "Occasions",
        "Omega",
        "Positive",
        "Power",
        "RandomWeights",
        "Real",
        "Scalar",
        "Shift",
        "observation",
        "scale_networks",
    ),
    "nlme_torch.nonmem": ("from_nonmem",),
    "nlme_torch.reporting": ("report",),
    "nlme_torch.solve": ("RK4", "Auto", "Rodas5P", "TorchDiffEq", "Tsit5"),
}
_RENAMED = {
    "Adaptive": ("TorchDiffEq", "nlme_torch.solve", "TorchDiffEq"),
    "LaplaceLikelihood": ("Laplace(mode_starts=)", "nlme_torch.inference.foce.former_names", "laplace_likelihood"),
    "QuadratureLikelihood": ("Quadrature(nodes=)", "nlme_torch.inference.foce.former_names", "quadrature_likelihood"),
}
"""Old name to what is written instead, and where what it stands for lives."""
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [*_PARTS, *_HOMES]


if not TYPE_CHECKING:  # a type checker is to know the names above and no others

    def __getattr__(name: str) -> object:
        """Load a public name from where it lives, as PEP 562 has it."""
        if name in _RENAMED:
            instead, home, own_name = _RENAMED[name]
            warnings.warn(f"nlme_torch.{name} is {instead} now.", DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(home), own_name)
        if name in _PARTS:
            value = importlib.import_module(f"nlme_torch.{name}")
        elif name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'nlme_torch' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

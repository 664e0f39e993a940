"""nlme_torch: nonlinear mixed-effects models with neural networks inside the dynamics."""

from nlme_torch.errors import DataError as DataError
from nlme_torch.errors import FitError as FitError
from nlme_torch.errors import ModelError as ModelError
from nlme_torch.errors import NLMEError as NLMEError
from nlme_torch.errors import SolveError as SolveError
from nlme_torch.model import L1 as L1
from nlme_torch.model import L2 as L2
from nlme_torch.model import MLP as MLP
from nlme_torch.model import Bounded as Bounded
from nlme_torch.model import Diagonal as Diagonal
from nlme_torch.model import Fixed as Fixed
from nlme_torch.model import Full as Full
from nlme_torch.model import Latent as Latent
from nlme_torch.model import LogitNormal as LogitNormal
from nlme_torch.model import LogNormal as LogNormal
from nlme_torch.model import LowRank as LowRank
from nlme_torch.model import Model as Model
from nlme_torch.model import Normal as Normal
from nlme_torch.model import Omega as Omega
from nlme_torch.model import Positive as Positive
from nlme_torch.model import Power as Power
from nlme_torch.model import RandomWeights as RandomWeights
from nlme_torch.model import Real as Real
from nlme_torch.model import Scalar as Scalar
from nlme_torch.model import Shift as Shift

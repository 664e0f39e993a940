"""Tables of what was observed and given: reading, checking, and turning them into padded tensors."""

from . import examples as examples
from .batch import Batch as Batch
from .batch import Outcome as Outcome
from .checks import check_frame as check_frame
from .columns import Interpolation as Interpolation
from .dataset import Dataset as Dataset
from .describe import Description as Description
from .doses import DoseKind as DoseKind
from .doses import Doses as Doses
from .events import Event as Event
from .examples import phenobarbital as phenobarbital
from .examples import theophylline as theophylline
from .regimen import Regimen as Regimen
from .simulated import with_outcomes as with_outcomes

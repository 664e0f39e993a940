"""Tables of what was observed and given: reading, checking, and turning them into padded tensors."""

from . import examples as examples
from .batch import Batch as Batch
from .batch import Outcome as Outcome
from .columns import Interpolation as Interpolation
from .dataset import Dataset as Dataset
from .doses import DoseKind as DoseKind
from .doses import Doses as Doses
from .events import Event as Event
from .examples import phenobarbital as phenobarbital
from .examples import theophylline as theophylline

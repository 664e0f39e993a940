"""Tables of what was observed and given: reading, checking, and turning them into padded tensors."""

import importlib
import warnings
from typing import TYPE_CHECKING

from nlme_torch.data.dataset.checks import check_frame as check_frame
from nlme_torch.data.dataset.dataset import Dataset as Dataset
from nlme_torch.data.dataset.describe import Description as Description
from nlme_torch.data.dataset.simulated import with_outcomes as with_outcomes
from nlme_torch.data.design.regimen import Regimen as Regimen
from nlme_torch.data.dosing.doses import DoseKind as DoseKind
from nlme_torch.data.dosing.doses import Doses as Doses
from nlme_torch.data.events.events import Event as Event
from nlme_torch.data.records.batch import Batch as Batch
from nlme_torch.data.records.batch import Outcome as Outcome
from nlme_torch.data.table.columns import Interpolation as Interpolation

_ELSEWHERE = ("examples", "phenobarbital", "theophylline")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Find the examples where they were before."""
        if name not in _ELSEWHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        path = "nlme_torch.examples" if name == "examples" else f"nlme_torch.examples.{name}"
        warnings.warn(f"nlme_torch.data.{name} is {path} now.", DeprecationWarning, stacklevel=2)
        module = importlib.import_module("nlme_torch.examples")
        return module if name == "examples" else getattr(module, name)

"""What a density knows of its model and data."""

from collections.abc import Mapping

from torch import Tensor

from nlme_torch.data.records.batch import Batch
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.observed import ObservedRecords
from nlme_torch.model.dosing.dose_plan import DosePlan
from nlme_torch.model.individual.individual import Covariates
from nlme_torch.model.trajectory.vector_field import VectorFields
from nlme_torch.solve import Solver


class Joined:
    """A model and the data as it reads them, for whoever evaluates a part of it alone; a density fills it.

    Attributes:
        model: The model, which knows the levels of its covariates.
        batch: The data as tensors.
        solver: How differential equations are solved.
        fields: The model's equation as a function of tensors.
    """

    model: Model
    batch: Batch
    solver: Solver
    fields: VectorFields
    _times: Tensor
    _covariates: Covariates
    _covariates_between: tuple[Covariates, Covariates] | None
    _regressors: dict[tuple[str, str], Tensor]
    _position: dict[str, int]
    _slices: dict[str, slice]
    _occasions: Tensor | None
    _observed: tuple[ObservedRecords, ...]
    _plan: DosePlan | None

    @property
    def covariates(self) -> Covariates:
        """The covariates as ``individual`` and ``predict`` take them, ``(subject,)`` or ``(record, 1, 1, subject)``."""
        return self._covariates

    @property
    def regressors(self) -> Mapping[tuple[str, str], Tensor]:
        """Parameter and covariate to what multiplies the coefficient, ``(subject,)`` or ``(level, subject)``."""
        return self._regressors

    @property
    def slices(self) -> Mapping[str, slice]:
        """Where the effects of an occasion, a latent or a network stand, by the name of what they belong to."""
        return self._slices

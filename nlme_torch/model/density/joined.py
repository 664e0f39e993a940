"""What a density knows of its data, by public names."""

from collections.abc import Mapping

from torch import Tensor

from nlme_torch.model.individual.individual import Covariates


class Joined:
    """Data as a model reads them, for whoever evaluates a part of it alone; a density fills it."""

    _covariates: Covariates
    _regressors: dict[tuple[str, str], Tensor]
    _slices: dict[str, slice]

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

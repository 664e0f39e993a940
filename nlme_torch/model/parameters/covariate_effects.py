"""Covariate effects that are linear on the transformed scale of an individual parameter."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nlme_torch.errors import ModelError


class CovariateEffect(nn.Module):
    r"""Regression coefficients times functions of one covariate; subclasses give the function of a number.

    .. math:: \mu_i = h(\phi_{pop}) + \sum_k \beta_k x_k(c_i)

    A covariate that holds numbers has one coefficient, with the function that the subclass gives. One that holds text
    has a coefficient for each of its levels but the reference, with x = 1 for the subjects of that level and 0 for the
    others; ``cl_RACE[black]`` is the name of the one of level ``black``. The reference, where the typical value holds,
    is ``ref=``, or the level that most subjects have (of several the first in the order of the levels). Both are
    linear, so that SAEM updates every beta in closed form.

    Args:
        covariate: Name of the covariate in the data.
        ref: Reference value, or reference level; None where the subclass or the data choose.
        coefficient: Initial value of beta, of all levels or by level.
        fixed: Keep the coefficients (fixed allometry, say).
    """

    def __init__(
        self, covariate: str, ref: float | str | None, coefficient: float | Mapping[str, float], fixed: bool
    ) -> None:
        super().__init__()
        self.covariate, self.ref = covariate, ref
        self.by_level = dict(coefficient) if isinstance(coefficient, Mapping) else None
        initial = float(coefficient) if not isinstance(coefficient, Mapping) else 0.0
        self.beta = nn.Parameter(torch.tensor(initial, dtype=torch.float64), requires_grad=not fixed)
        self.reference: str | None = None
        self.levels: tuple[str, ...] | None = None

    def regressor(self, covariate: Tensor) -> Tensor:
        """Return ``x(covariate)`` of a covariate that holds numbers, elementwise."""
        raise NotImplementedError

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What stands behind the covariate in the name of each coefficient: nothing, or ``[level]``."""
        return ("",) if self.levels is None else tuple(f"[{level}]" for level in self.levels)

    def learn(self, levels: Sequence[str], counts: Mapping[str, int]) -> None:
        """Fix the levels and the reference, in place.

        Args:
            levels: Levels of the covariate in the data, in their order; none if it holds numbers.
            counts: Level to the number of subjects.

        Raises:
            ModelError: The reference is a level of a covariate that holds numbers, or the other way round, or unknown;
                or a coefficient is given for a level that the data have not.
        """
        kind = f"{type(self).__name__}({self.covariate!r})"
        if not levels:
            if isinstance(self.ref, str) or self.by_level is not None:
                raise ModelError(f"{kind}: the covariate holds numbers in these data, and the effect names levels.")
            return
        stated = self.by_level or {}
        unknown = [level for level in (*stated, self.ref) if level is not None and level not in levels]
        if unknown:
            raise ModelError(
                f"{kind}: {unknown[0]!r} is no level of the covariate; the data have {', '.join(map(repr, levels))}."
            )
        candidates = {level: counts[level] for level in levels if counts[level] and level not in stated}
        reference = self.ref if isinstance(self.ref, str) else max(candidates, key=candidates.get, default=None)  # type: ignore[arg-type]
        if reference is None or reference in stated:
            raise ModelError(f"{kind}: every level has a coefficient; leave the one of the reference out.")
        kept = tuple(level for level in levels if level != reference and (counts[level] or level in stated))
        self.set_levels(str(reference), kept)

    def set_levels(self, reference: str, levels: Sequence[str]) -> None:
        """Give the effect its reference and one coefficient for each of some levels, in place."""
        initial = self.beta.detach()
        start = [(self.by_level or {}).get(level, float(initial)) if initial.dim() == 0 else 0.0 for level in levels]
        self.reference, self.levels = reference, tuple(levels)
        self.beta = nn.Parameter(initial.new_tensor(start), requires_grad=self.beta.requires_grad)

    def extra_repr(self) -> str:
        """Show the covariate, and the levels where there are any."""
        return self.covariate if self.levels is None else f"{self.covariate}, reference {self.reference}"


class Power(CovariateEffect):
    r"""A power law of a positive covariate, for log-normal parameters: x = log(covariate / ref).

    .. math:: \phi_i = \phi_{pop} (c_i / ref)^{\beta} e^{\eta_i}

    For text, where there is no power, it is what :class:`Shift` is: ``phi_pop exp(beta)`` for the subjects of a level.

    Args:
        covariate: Name of the covariate in the data, positive numbers or text.
        ref: Reference value of the covariate, where the typical value holds; the reference level of text.
        exponent: Initial value of beta; of text, of all levels or by level.
        fixed: Keep the exponent.

    Example:
        >>> import nlme_torch as nlme
        >>> cl = nlme.LogNormal(0.13, nlme.Power("WT", ref=70, exponent=0.75, fixed=True))
    """

    def __init__(
        self,
        covariate: str,
        ref: float | str,
        *,
        exponent: float | Mapping[str, float] = 0.0,
        fixed: bool = False,
    ) -> None:
        if not isinstance(ref, str) and not ref > 0:
            raise ModelError(f"Power({covariate!r}): ref must be positive, got {ref}.")
        super().__init__(covariate, ref if isinstance(ref, str) else float(ref), exponent, fixed)

    def learn(self, levels: Sequence[str], counts: Mapping[str, int]) -> None:
        """Fix the levels and the reference; see :meth:`CovariateEffect.learn`."""
        if levels and not isinstance(self.ref, str):
            _refuse_number(self, levels)
        super().learn(levels, counts)

    def regressor(self, covariate: Tensor) -> Tensor:
        """Return ``log(covariate / ref)``."""
        assert isinstance(self.ref, float)
        return (covariate / self.ref).log()


class Shift(CovariateEffect):
    r"""A linear effect on the transformed scale: x = covariate - ref, or one shift for each level of text.

    .. math:: h(\phi_i) = h(\phi_{pop}) + \beta (c_i - ref) + \eta_i \quad\text{or}\quad
              h(\phi_i) = h(\phi_{pop}) + \beta_{c_i} + \eta_i, \; \beta_{ref} = 0

    Args:
        covariate: Name of the covariate in the data: a centred number, a 0/1 indicator, or text.
        ref: Reference value, where the typical value holds, 0 if None; of text the reference level, if None the one
            that most subjects have.
        coefficient: Initial value of beta; of text, of all levels or by level (``{"black": 0.2}``).
        fixed: Keep the coefficients.

    Example:
        >>> import nlme_torch as nlme
        >>> cl = nlme.LogNormal(0.13, nlme.Shift("RACE", ref="white"))
    """

    def __init__(
        self,
        covariate: str,
        ref: float | str | None = None,
        *,
        coefficient: float | Mapping[str, float] = 0.0,
        fixed: bool = False,
    ) -> None:
        super().__init__(covariate, ref if ref is None or isinstance(ref, str) else float(ref), coefficient, fixed)

    def learn(self, levels: Sequence[str], counts: Mapping[str, int]) -> None:
        """Fix the levels and the reference; see :meth:`CovariateEffect.learn`."""
        if levels and isinstance(self.ref, float):
            _refuse_number(self, levels)
        super().learn(levels, counts)

    def regressor(self, covariate: Tensor) -> Tensor:
        """Return ``covariate - ref``."""
        if isinstance(self.ref, str):
            raise ModelError(f"Shift({self.covariate!r}): the covariate holds numbers, and ref is {self.ref!r}.")
        return covariate - (0.0 if self.ref is None else self.ref)


def _refuse_number(effect: CovariateEffect, levels: Sequence[str]) -> None:
    raise ModelError(
        f"{type(effect).__name__}({effect.covariate!r}): ref is the number {effect.ref:g}, but the covariate holds "
        f"text; name the reference level, one of {', '.join(map(repr, levels))}."
    )

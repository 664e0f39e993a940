"""The step sizes of a stochastic approximation: explore with memory of nothing, then average."""

from dataclasses import dataclass

from nlme_torch.errors import FitError
from nlme_torch.settings import check_types


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    r"""Step sizes of SAEM.

    .. math:: \gamma_k = 1 \;(k \le K_1), \qquad \gamma_k = (k - K_1)^{-\alpha} \;(k > K_1)

    Attributes:
        burn_in: Iterations at the start in which only the chains move.
        exploration: Most iterations K1 with step size one.
        smoothing: Iterations K2 with decreasing step size; their iterates are averaged.
        power: alpha in (1/2, 1].

    Raises:
        FitError: A number of iterations is negative, smoothing is empty, or alpha is out of range.

    Example:
        >>> schedule = StepSchedule(burn_in=5, exploration=10, smoothing=4, power=1.0)
        >>> [schedule.step_size(since) for since in (1, 2, 4)]
        [1.0, 0.5, 0.25]

    References:
        Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
        doi:10.1016/j.csda.2004.07.033
    """

    burn_in: int = 5
    exploration: int = 300
    smoothing: int = 300
    power: float = 0.7

    def __post_init__(self) -> None:
        check_types(self, FitError)
        if min(self.burn_in, self.exploration) < 0 or self.smoothing < 1:
            raise FitError("SAEM needs burn_in >= 0, exploration >= 0 and smoothing >= 1 iterations.")
        if not 0.5 < self.power <= 1:
            raise FitError(f"SAEM's step-size power must lie in (0.5, 1], got {self.power}.")

    def step_size(self, smoothing_iteration: int) -> float:
        """Return gamma at an iteration counted from 1 in the smoothing phase; 0 or less means exploration."""
        return 1.0 if smoothing_iteration <= 0 else float(smoothing_iteration) ** -self.power

    @property
    def total(self) -> int:
        """Most iterations altogether."""
        return self.burn_in + self.exploration + self.smoothing

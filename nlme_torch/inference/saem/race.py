r"""Successive halving of starts: many begin, the better half goes on for longer.

A rough likelihood has many maxima, and where a fit ends is decided early. Rounds of SAEM's own exploration, each with
fewer starts and more iterations than the one before, spend the time on starts that deserve it:

.. math:: n_{r+1} = \max(\lceil n_r / 2 \rceil, \text{keep}), \qquad T_{r+1} = \text{growth} \cdot T_r

References:
    Jamieson and Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization, AISTATS.
    arXiv:1502.07943
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.modes.starts import laplace_of_starts, usable_starts
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.settings import check_types

if TYPE_CHECKING:
    from nlme_torch.inference.saem.step import SAEMAlgorithm


@dataclass(frozen=True, kw_only=True)
class Race:
    """How SAEM's starts compete before the fit itself begins; see :class:`nlme_torch.SAEM`.

    Attributes:
        keep: Starts that remain at the end, and begin the fit.
        iterations: Iterations of the first round.
        growth: How many times longer each round is than the one before.

    Raises:
        FitError: Nothing would be kept, a round would be empty, or rounds would become shorter.

    Example:
        >>> import nlme_torch as nlme
        >>> method = nlme.SAEM(starts=24, spread=1.0, race=nlme.Race(keep=2))
        >>> method.race.rounds(24)
        [(24, 50), (12, 75), (6, 112), (3, 169)]
    """

    keep: int = 2
    iterations: int = 50
    growth: float = 1.5

    def __post_init__(self) -> None:
        check_types(self, FitError)
        if self.keep < 1 or self.iterations < 1 or not self.growth >= 1:
            raise FitError(
                f"Race: keep={self.keep} and iterations={self.iterations} must be at least 1, growth={self.growth} too."
            )

    def rounds(self, starts: int) -> list[tuple[int, int]]:
        """Return the starts and iterations of every round.

        Args:
            starts: Starts at the beginning.
        """
        planned, iterations = [], float(self.iterations)
        while starts > self.keep:
            planned.append((starts, round(iterations)))
            starts, iterations = max(math.ceil(starts / 2), self.keep), self.growth * iterations
        return planned

    def run(
        self,
        algorithm: "SAEMAlgorithm",
        values: ParameterValues,
        generator: torch.Generator,
        report: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """Let the starts compete.

        Args:
            algorithm: SAEM for the model and its data.
            values: Raw name to ``(start, *shape)``.
            generator: Source of randomness.
            report: Called after every iteration.

        Returns:
            The values of the starts that remain, the best first; one that cannot be evaluated at its typical values is
            out. Where no start of a round has a likelihood, those that were ahead in the round before.
        """
        current = dict(values)
        for starts, iterations in self.rounds(next(iter(current.values())).shape[0]):
            state = algorithm.init(usable_starts(algorithm.density, current), generator)
            for _ in range(iterations):
                state = algorithm.step(state, generator, smoothing=False)
                report()
            reached = laplace_of_starts(algorithm.density, state.values, state.transformed)
            # starts without a likelihood come last, in the order in which they came
            ranking = reached.argsort(descending=True, stable=True)[: max(math.ceil(starts / 2), self.keep)]
            current = {name: value[ranking] for name, value in state.values.items()}
        return current

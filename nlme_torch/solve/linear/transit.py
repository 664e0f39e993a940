"""Absorption through a chain of transit compartments with one common rate."""

import functools
from dataclasses import dataclass
from math import factorial

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.linear.compiled import ClosedForm, evaluate
from nlme_torch.solve.linear.exponentials import scaled_phi
from nlme_torch.solve.linear.numbers import as_tensors
from nlme_torch.solve.linear.system import Linear, LinearSystem


@dataclass(frozen=True)
class TransitAbsorption(Linear):
    r"""A depot, n transit compartments and a central one; everything before the central one leaves at one rate.

    .. math:: \dot a_0 = -k a_0, \quad \dot a_j = k (a_{j-1} - a_j), \quad \dot c = k a_n - \frac{CL}{V} c

    Attributes:
        rate: (*batch) the common rate constant k [1 / time]; the mean transit time is (n + 1) / k.
        n_transit: number of transit compartments between depot and central, 0 or more.
        clearance: (*batch) CL [volume / time].
        volume: (*batch) V [volume].

    Raises:
        SolveError: if ``n_transit`` is not a count.

    Example:
        >>> TransitAbsorption(rate=1.2, n_transit=1, clearance=0.13, volume=8.0).states
        ('depot', 'transit', 'central')

    References:
        Savic, Jonker, Kerbusch, Karlsson (2007), doi:10.1007/s10928-007-9066-0.
    """

    rate: Tensor | float
    n_transit: int
    clearance: Tensor | float
    volume: Tensor | float

    def __post_init__(self) -> None:
        if isinstance(self.n_transit, bool) or not isinstance(self.n_transit, int) or self.n_transit < 0:
            raise SolveError(f"TransitAbsorption: n_transit must be a count such as 1, got {self.n_transit!r}")
        as_tensors(self)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the compartments: depot, transit (or transit1, transit2, ...), central."""
        count = self.n_transit
        names = ("transit",) if count == 1 else tuple(f"transit{index + 1}" for index in range(count))
        return ("depot", *names, "central")

    def matrix(self) -> Tensor:
        """Return A, (state, state, *batch) [1 / time]."""
        rate, elimination = torch.broadcast_tensors(self.rate, self.clearance / self.volume)
        count = len(self.states)
        zero = torch.zeros_like(rate)
        entries = [zero] * count**2
        for index in range(count - 1):
            entries[index * count + index], entries[(index + 1) * count + index] = -rate, rate
        entries[-1] = -elimination
        return torch.stack(entries).reshape(count, count, *rate.shape)

    def exponential(self, elapsed: Tensor) -> Tensor:
        r"""Return exp(A t), (state, state, *shape).

        Along the chain these are Poisson probabilities; into the central compartment, m steps away,

        .. math:: (k t)^m e^{-k t} \varphi_m((k - k_e) t), \qquad \varphi_m(u) = \sum_j u^j / (j + m)!
        """
        assert isinstance(self.rate, Tensor)
        rate, elimination = torch.broadcast_tensors(self.rate, self.clearance / self.volume)
        return evaluate(_chain(self.n_transit + 1), elapsed, [rate, elimination], axes=rate.ndim)

    def integral(self, elapsed: Tensor) -> Tensor:
        """Return the integral of exp(A s) from 0 to t, (state, state, *shape), by the matrix exponential."""
        return LinearSystem(self.matrix()).integral(elapsed)


@functools.cache
def _chain(steps: int) -> ClosedForm:
    """The exponential for a number of steps into the central compartment."""

    def exponential(elapsed: Tensor, rate: Tensor, elimination: Tensor) -> Tensor:
        travelled, eliminated = rate * elapsed, elimination * elapsed
        power = [torch.ones_like(travelled)]
        for _ in range(steps):
            power.append(power[-1] * travelled)
        left = torch.exp(-travelled)
        chain = [left * power[index] / factorial(index) for index in range(steps)]
        arrived = scaled_phi(steps, travelled, travelled - eliminated)
        central = [power[index + 1] * arrived[index] for index in range(steps)]
        zero = torch.zeros_like(travelled)
        rows = [[chain[row - column] if row >= column else zero for column in range(steps + 1)] for row in range(steps)]
        rows.append([*reversed(central), torch.exp(-eliminated)])
        return torch.stack([torch.stack(row) for row in rows])

    return exponential

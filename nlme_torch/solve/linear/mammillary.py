"""One, two and three compartments with elimination from the central one, with or without first-order absorption."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from nlme_torch.solve.linear.compiled import evaluate
from nlme_torch.solve.linear.numbers import as_tensors
from nlme_torch.solve.linear.spectral_forms import closed_form
from nlme_torch.solve.linear.spectrum import spectrum
from nlme_torch.solve.linear.system import Linear, LinearSystem

Rates: TypeAlias = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


class Mammillary(Linear):
    r"""A central compartment with peripheral ones around it, and perhaps a depot that empties into it.

    With the eigenvalues :math:`\lambda_i` of the disposition matrix M and its projectors :math:`P_i`, and the divided
    differences f[.] of :math:`f(x) = e^{x t}`, which are exact where rates are equal,

    .. math:: e^{Mt} = \sum_i P_i f[\lambda_i], \quad \text{depot} \to k_a \sum_i P_i e_c f[\lambda_i, -k_a], \quad
              \int_0^t: f[\ldots] \to f[\ldots, 0]
    """

    absorption: Tensor | float | None
    peripheral: ClassVar[int] = 0

    def __post_init__(self) -> None:
        as_tensors(self)

    @abstractmethod
    def rates(self) -> Rates:
        """Return elimination, outward and inward rate constants, each (*batch) [1 / time]."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the compartments: ``depot`` (with absorption), ``central``, ``peripheral`` or numbered ones."""
        count = self.peripheral
        names = ("peripheral",) if count == 1 else tuple(f"peripheral{index + 1}" for index in range(count))
        return (*(() if self.absorption is None else ("depot",)), "central", *names)

    def matrix(self) -> Tensor:
        """Return A, (state, state, *batch) [1 / time]."""
        elimination, outward, inward = self.rates()
        leaving = elimination
        for rate in outward:
            leaving = leaving + rate
        zero = torch.zeros_like(leaving)
        rows = [[-leaving, *inward]]
        for index, (out, back) in enumerate(zip(outward, inward, strict=True)):
            rows.append([out, *(-back if other == index else zero for other in range(len(outward)))])
        if self.absorption is not None:
            assert isinstance(self.absorption, Tensor)
            ka = self.absorption
            rows = [[-ka, *(zero for _ in rows)], [ka, *rows[0]], *([zero, *row] for row in rows[1:])]
        count = len(rows)
        flat = torch.broadcast_tensors(*(entry for row in rows for entry in row))
        return torch.stack(flat).reshape(count, count, *flat[0].shape)

    def exponential(self, elapsed: Tensor) -> Tensor:
        """Return exp(A t), (state, state, *shape)."""
        return self._evaluate(elapsed, integrated=False)

    def integral(self, elapsed: Tensor) -> Tensor:
        """Return the integral of exp(A s) from 0 to t, (state, state, *shape)."""
        return self._evaluate(elapsed, integrated=True)

    def _evaluate(self, elapsed: Tensor, integrated: bool) -> Tensor:
        absorbed = isinstance(self.absorption, Tensor)
        rates, absorption = self._aligned_rates()
        modes = spectrum(*rates)
        close = modes.close
        if close is not None and bool(close.any()):
            modes = spectrum(*_keep_apart(close, *rates))
        else:
            close = None
        form = closed_form(integrated, absorbed)
        parameters = [modes.values, modes.projectors, *([absorption] if absorbed else [])]
        result = evaluate(form, elapsed, parameters, axes=rates[0].ndim)
        return result if close is None else self._replace_close(close, result, elapsed, integrated)

    def by_spectrum(self, elapsed: Tensor, integrated: bool) -> tuple[Tensor, Tensor | None]:
        """Return exp(A t) or its integral by the spectrum alone, and where that is inexact; None for nowhere."""
        rates, absorption = self._aligned_rates()
        modes = spectrum(*rates)
        absorbed = isinstance(self.absorption, Tensor)
        parameters = [modes.values, modes.projectors, *([absorption] if absorbed else [])]
        return evaluate(closed_form(integrated, absorbed), elapsed, parameters, axes=rates[0].ndim), modes.close

    def _replace_close(self, close: Tensor, result: Tensor, elapsed: Tensor, integrated: bool) -> Tensor:
        """The result with the matrix exponential where the eigenvalues nearly coincide."""
        shape = result.shape[2:]
        where = close.expand(shape)
        matrix = self.matrix()
        matrix = matrix.reshape((*matrix.shape[:2], *(1,) * (len(shape) + 2 - matrix.ndim), *matrix.shape[2:]))
        generic = LinearSystem(matrix.expand((*matrix.shape[:2], *shape))[..., where])
        elapsed = elapsed.expand(shape)[where]
        exact = generic.integral(elapsed) if integrated else generic.exponential(elapsed)
        mask = where.expand(result.shape)
        return torch.where(mask, torch.zeros_like(result).masked_scatter(mask, exact), result)

    def _aligned_rates(self) -> tuple[Rates, Tensor]:
        """The rates, and the absorption rate (without a depot, the elimination rate again), all of one shape."""
        elimination, outward, inward = self.rates()
        absorption = self.absorption if isinstance(self.absorption, Tensor) else elimination
        count = len(outward)
        if all(rate.shape == elimination.shape for rate in (absorption, *outward, *inward)):
            return (elimination, outward, inward), absorption
        absorption, elimination, *others = torch.broadcast_tensors(absorption, elimination, *outward, *inward)
        return (elimination, tuple(others[:count]), tuple(others[count:])), absorption


def _keep_apart(close: Tensor, elimination: Tensor, outward: tuple[Tensor, ...], inward: tuple[Tensor, ...]) -> Rates:
    """The rates with unequal ones in place of those whose eigenvalues nearly coincide."""
    return (
        torch.where(close, 1.0, elimination),
        tuple(torch.where(close, 1.0, rate) for rate in outward),
        tuple(torch.where(close, 1.0 + index, rate) for index, rate in enumerate(inward)),
    )


@dataclass(frozen=True)
class OneCompartment(Mammillary):
    r"""One compartment, with first-order absorption from a depot if an absorption rate is given.

    .. math:: \dot a = -k_a a, \qquad \dot c = k_a a - \frac{CL}{V} c

    Attributes:
        clearance: (*batch) CL [volume / time].
        volume: (*batch) V [volume].
        absorption: (*batch) ka [1 / time], or None for no depot.

    Example:
        >>> OneCompartment(clearance=2.8, volume=32.0, absorption=1.5).states
        ('depot', 'central')

    References:
        Gibaldi, Perrier (1982), Pharmacokinetics, 2nd edition, doi:10.1201/b14095.
    """

    clearance: Tensor | float
    volume: Tensor | float
    absorption: Tensor | float | None = None

    def rates(self) -> Rates:
        """Return the elimination rate constant CL / V, (*batch) [1 / time]; nothing flows elsewhere."""
        return self.clearance / self.volume, (), ()  # type: ignore[return-value]


@dataclass(frozen=True)
class TwoCompartment(Mammillary):
    r"""A central and a peripheral compartment, with first-order absorption if an absorption rate is given.

    .. math:: \dot c = k_a a - (k_{10} + k_{12}) c + k_{21} p, \quad \dot p = k_{12} c - k_{21} p, \qquad
              k_{10} = CL / V_1, \; k_{12} = Q / V_1, \; k_{21} = Q / V_2

    Attributes:
        clearance: (*batch) CL [volume / time].
        volume: (*batch) V1 [volume] of the central compartment.
        intercompartmental_clearance: (*batch) Q [volume / time].
        peripheral_volume: (*batch) V2 [volume].
        absorption: (*batch) ka [1 / time], or None for no depot.

    Example:
        >>> TwoCompartment(1.0, 10.0, 2.0, 20.0).states
        ('central', 'peripheral')

    References:
        Gibaldi, Perrier (1982), Pharmacokinetics, 2nd edition, doi:10.1201/b14095.
    """

    peripheral: ClassVar[int] = 1
    clearance: Tensor | float
    volume: Tensor | float
    intercompartmental_clearance: Tensor | float
    peripheral_volume: Tensor | float
    absorption: Tensor | float | None = None

    def rates(self) -> Rates:
        """Return k10, (k12,), (k21,), each (*batch) [1 / time]."""
        flow = self.intercompartmental_clearance
        return self.clearance / self.volume, (flow / self.volume,), (flow / self.peripheral_volume,)  # type: ignore[return-value]


@dataclass(frozen=True)
class ThreeCompartment(Mammillary):
    r"""A central compartment between two peripheral ones, with first-order absorption if a rate is given.

    .. math:: \dot c = k_a a - (k_{10} + k_{12} + k_{13}) c + k_{21} p_1 + k_{31} p_2, \quad
              \dot p_j = k_{1,j+1} c - k_{j+1,1} p_j, \qquad k_{10} = CL / V_1, \; k_{1j} = Q_j / V_1, \;
              k_{j1} = Q_j / V_j

    Attributes:
        clearance: (*batch) CL [volume / time].
        volume: (*batch) V1 [volume] of the central compartment.
        intercompartmental_clearance1: (*batch) Q2 [volume / time] to the first peripheral one.
        peripheral_volume1: (*batch) V2 [volume].
        intercompartmental_clearance2: (*batch) Q3 [volume / time].
        peripheral_volume2: (*batch) V3 [volume].
        absorption: (*batch) ka [1 / time], or None for no depot.

    Example:
        >>> ThreeCompartment(1.0, 10.0, 2.0, 20.0, 0.1, 50.0, absorption=0.7).states
        ('depot', 'central', 'peripheral1', 'peripheral2')

    References:
        Gibaldi, Perrier (1982), Pharmacokinetics, 2nd edition, doi:10.1201/b14095.
    """

    peripheral: ClassVar[int] = 2
    clearance: Tensor | float
    volume: Tensor | float
    intercompartmental_clearance1: Tensor | float
    peripheral_volume1: Tensor | float
    intercompartmental_clearance2: Tensor | float
    peripheral_volume2: Tensor | float
    absorption: Tensor | float | None = None

    def rates(self) -> Rates:
        """Return k10, (k12, k13), (k21, k31), each (*batch) [1 / time]."""
        outward = (self.intercompartmental_clearance1 / self.volume, self.intercompartmental_clearance2 / self.volume)
        inward = (
            self.intercompartmental_clearance1 / self.peripheral_volume1,
            self.intercompartmental_clearance2 / self.peripheral_volume2,
        )
        return self.clearance / self.volume, outward, inward  # type: ignore[return-value]

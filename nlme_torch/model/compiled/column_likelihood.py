"""The compiled likelihood of a model: log p(y_i | eta_i) of any number of columns in one call."""

import ctypes
import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.model.compiled.gradient import gradient_program
from nlme_torch.model.compiled.jets import jet_length, jet_program
from nlme_torch.model.compiled.program import DensityProgram, density_program, trace_density
from nlme_torch.model.compiled.readings import DataReadings, population_readings
from nlme_torch.model.compiled.source import gradient_source, jet_source, likelihood_source
from nlme_torch.model.compiled.stops import MovedDoses, Stops
from nlme_torch.model.density.density import Conditional
from nlme_torch.solve.kernel.build import BuildError, build
from nlme_torch.solve.kernel.derivatives import NoDerivativeError
from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.problem.tolerance import absolute_tolerance

_log = logging.getLogger(__name__)

_LONG, _DOUBLE, _POINTER = ctypes.c_long, ctypes.c_double, ctypes.c_void_p


class _ColumnData(ctypes.Structure):
    _fields_ = [
        *((name, _LONG) for name in ("columns", "starts", "subjects", "records")),
        *((name, _POINTER) for name in ("means", "population", "of_subjects", "of_records", "observed")),
        ("stops", _LONG),
        *((name, _POINTER) for name in ("times", "amounts", "rates", "resets", "last")),
        *((name, _POINTER) for name in ("stop_of", "added", "restarted", "record_times", "record_resets")),
        ("doses", _LONG),
        *((f"dose_{name}", _POINTER) for name in ("record", "kind", "state", "lagged")),
        *((f"dose_{name}", _POINTER) for name in ("time", "amount", "rate", "duration", "limit")),
        ("walk", _POINTER),
        *((name, _DOUBLE) for name in ("rtol", "atol")),
        *((name, _LONG) for name in ("to_scale", "max_steps")),
        *((name, _POINTER) for name in ("replay", "release")),
    ]


MOST_JETS = 64
"""Derivatives that a process keeps; to write one out takes up to a second, whatever lies on the disk."""
# programs and the inputs along which they were differentiated; None where that cannot be done
_jets: dict[tuple[str, tuple[int, ...]], ctypes.CDLL | None] = {}


@dataclass(frozen=True, eq=False)
class CompiledLikelihood:
    """The compiled likelihood of a density, at any parameters.

    Attributes:
        program: What a column does.
        source: The same as it was compiled, which tells programs apart.
        library: The compiled program.
        kernel: The compiled equations; None where there are none to be walked.
        readings: What is taken from the data.
        stops: When equations stop, or what moves doses; None without equations.
    """

    program: DensityProgram
    source: str
    library: ctypes.CDLL
    kernel: Kernel | None
    readings: DataReadings
    stops: Stops | MovedDoses | None
    residuals: dict[tuple[Any, ...], ctypes.CDLL | None] = field(default_factory=dict)
    _latest: list[Any] = field(default_factory=list)

    def derivatives(self, directions: Sequence[int]) -> ctypes.CDLL | None:
        """Compile value, gradient and Hessian along some inputs; None where that cannot be done or is not worth it.

        Args:
            directions: Positions: effects, their means, then the readings of the population.
        """
        if self.kernel is not None or self.moved:
            return None
        key = self.source, tuple(directions)
        if key not in _jets:
            while len(_jets) >= MOST_JETS:
                del _jets[next(iter(_jets))]
            _jets[key] = _make_jets(self.program, key[1])
        return _jets[key]

    def residual_sums(self, conditional: Conditional, scales: Mapping[str, tuple[str, ...]]) -> ctypes.CDLL | None:
        """Compile sums of squared residuals; None where that cannot be done.

        Args:
            conditional: The density at any parameters.
            scales: Names of sums to their outcomes.
        """
        key = tuple(scales.items())
        if key not in self.residuals:
            try:
                trace = trace_density(conditional, self.infusions, scales, self.moved)
                layout = None if self.kernel is None else self.kernel.layout
                self.residuals[key] = build(likelihood_source(density_program(trace), layout))
            except (NotScalarError, BuildError) as error:
                _log.info("sums of squared residuals are not compiled: %s", error)
                self.residuals[key] = None
        return self.residuals[key]

    @cached_property
    def gradient(self) -> ctypes.CDLL | None:
        """The compiled gradient with respect to the effects; None where there is none."""
        if self.program.exponential or self.moved:
            return None
        try:
            layout = None
            if self.kernel is not None:
                layout = self.kernel.layout
                self.transposed  # noqa: B018  a compiler that fails is noticed while there is another way
            return build(gradient_source(gradient_program(self.program), layout))
        except (NoDerivativeError, NotScalarError, BuildError) as error:
            _log.info("the gradient of the likelihood is not compiled as a whole: %s", error)
            return None

    @cached_property
    def transposed(self) -> ctypes.CDLL:
        """The transposed walk, without derivatives in what all subjects share."""
        assert self.kernel is not None
        flags = [torch.zeros((), dtype=torch.float64).requires_grad_(mine) for mine in self.kernel.layout.own]
        return self.kernel.differentiating(tuple(flags)).backwards

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """What the compiled code reads of the data and of the stops."""
        found: dict[str, Tensor | None] = {
            "of_subjects": self.readings.of_subjects(),
            "of_records": self.readings.of_records(),
            "observed": self.readings.masks,
        }
        if self.stops is not None:
            found |= {name: getattr(self.stops, name) for name in self.stops.__dataclass_fields__}
        return {name: value.contiguous() for name, value in found.items() if value is not None}

    @property
    def infusions(self) -> bool:
        """Whether anything is infused."""
        return self.stops is not None and self.stops.infusions

    @property
    def moved(self) -> bool:
        """Whether parameters move or change doses."""
        return isinstance(self.stops, MovedDoses)

    def at(self, conditional: Conditional) -> "ColumnLikelihood":
        """Fix the parameters.

        Args:
            conditional: The density at these parameters.
        """
        latest = self._latest[0] if self._latest else None
        if latest is None or self._latest[1]() is not conditional:
            latest = ColumnLikelihood(self, conditional)
            self._latest[:] = [latest, weakref.ref(conditional)]
        return latest


class ColumnLikelihood:
    r"""log p(y_i | eta_i) at fixed parameters, as a function of columns of effects.

    Args:
        compiled: The compiled likelihood.
        conditional: The density at these parameters.

    Attributes:
        function: Address of the compiled function.
        rows: Number of starts times subjects.
    """

    def __init__(self, compiled: CompiledLikelihood, conditional: Conditional) -> None:
        density, stops = conditional.density, compiled.stops
        subjects = density.batch.n_subjects
        self.rows = conditional.starts * subjects
        self.compiled = compiled
        self.function = ctypes.cast(compiled.library.evaluate, ctypes.c_void_p)
        with torch.no_grad():
            population = [
                value.reshape(conditional.starts, -1).mT for value in population_readings(conditional).values()
            ]
            moving = {"means": conditional.mean.expand(-1, -1, subjects)}
            if population:
                moving["population"] = torch.cat(population)
        numbers: dict[str, Any] = {
            "starts": conditional.starts, "subjects": subjects, "records": len(compiled.readings.times)
        }  # fmt: skip
        if isinstance(stops, Stops):
            numbers["stops"] = len(stops.times)
        elif stops is not None:
            numbers["doses"] = len(stops.dose_record)
        if compiled.kernel is not None:
            solver = density.solver
            assert isinstance(solver, PerSubjectSolver)
            numbers |= {
                "walk": ctypes.cast(compiled.kernel.forwards.walk, ctypes.c_void_p).value,
                "rtol": solver.rtol,
                "atol": float(absolute_tolerance(solver.rtol, solver.atol)),
                "to_scale": int(solver.atol == "auto"),
                "max_steps": int(solver.max_steps),
            }
        self._arrays = compiled.arrays | {name: value.detach().contiguous() for name, value in moving.items()}
        pointers = {name: value.data_ptr() for name, value in self._arrays.items()}
        self.data = _ColumnData(**numbers, **pointers)

    def __call__(self, effects: Float[Tensor, "effect *batch row"]) -> Float[Tensor, "*batch row"]:
        """Evaluate.

        Args:
            effects: ``(effect, *batch, start * subject)``.

        Returns:
            Log likelihoods, -inf where the model cannot be evaluated.
        """
        return self._evaluated(self.compiled.library, effects, 1)[0]

    def residual_squares(
        self, conditional: Conditional, effects: Tensor, scales: Mapping[str, tuple[str, ...]]
    ) -> Tensor | None:
        """Return every column's sums of squared standardised residuals, ``(scale, *batch, start * subject)``.

        Args:
            conditional: The density at these parameters.
            effects: ``(effect, *batch, start * subject)``.
            scales: Names of sums to their outcomes.

        Returns:
            The sums, zero where the model cannot be evaluated; None where they cannot be compiled.
        """
        library = self.compiled.residual_sums(conditional, scales)
        return None if library is None else self._evaluated(library, effects, len(scales))

    def gradient(self, effects: Float[Tensor, "effect *batch row"]) -> tuple[Tensor, Tensor] | None:
        """Return values and their gradients with respect to the effects.

        Args:
            effects: ``(effect, *batch, start * subject)``.

        Returns:
            ``(*batch, start * subject)`` and ``(effect, *batch, start * subject)``; None where gradients are not
            compiled.
        """
        library = self.gradient_library()
        if library is None:
            return None
        columns = effects.detach().flatten(1).contiguous()
        count = columns.shape[1]
        value, slope = torch.empty(count, dtype=torch.float64), torch.empty_like(columns)
        self.data.columns = count
        library.gradient.argtypes = [_POINTER] * 4 + [_LONG] * 2
        places = (ctypes.addressof(self.data), columns.data_ptr(), value.data_ptr(), slope.data_ptr())
        library.gradient(*places, 0, count)
        return value.reshape(effects.shape[1:]), slope.reshape(effects.shape)

    def gradient_library(self) -> ctypes.CDLL | None:
        """The compiled gradient, ready to be called with this object's data; None where there is none."""
        library, compiled = self.compiled.gradient, self.compiled
        if library is not None and compiled.kernel is not None and not self.data.replay:
            self.data.replay = ctypes.cast(compiled.transposed.replay, _POINTER).value
            self.data.release = ctypes.cast(compiled.kernel.forwards.release, _POINTER).value
        return library

    def _evaluated(self, library: ctypes.CDLL, effects: Tensor, outputs: int) -> Tensor:
        columns = effects.detach().flatten(1).contiguous()
        count = columns.shape[1]
        out = torch.zeros(outputs, count, dtype=torch.float64)
        self.data.columns = count
        library.evaluate.argtypes = [_POINTER, _POINTER, _POINTER, _LONG, _LONG]
        library.evaluate(ctypes.addressof(self.data), columns.data_ptr(), out.data_ptr(), 0, count)
        return out.reshape(outputs, *effects.shape[1:])

    def jets(self, effects: Float[Tensor, "effect *batch row"], directions: Sequence[int]) -> Tensor | None:
        """Return value, gradient and Hessian along some inputs, ``(entry, *batch, start * subject)``.

        Args:
            effects: ``(effect, *batch, start * subject)``.
            directions: Positions of inputs.

        Returns:
            Value, first derivatives, and second ones (1, 1), (2, 1), (2, 2), (3, 1), ...; None where they cannot be
            compiled.
        """
        library = self.compiled.derivatives(directions)
        if library is None:
            return None
        columns = effects.detach().flatten(1).contiguous()
        out = torch.empty(jet_length(len(directions)), columns.shape[1], dtype=torch.float64)
        self.data.columns = columns.shape[1]
        library.jets.argtypes = [_POINTER, _POINTER, _POINTER, _LONG, _LONG]
        library.jets(ctypes.addressof(self.data), columns.data_ptr(), out.data_ptr(), 0, columns.shape[1])
        return out.reshape(-1, *effects.shape[1:])


def _make_jets(program: DensityProgram, directions: tuple[int, ...]) -> ctypes.CDLL | None:
    if program.exponential and all(operand == 0 for operand in program.exponential):
        return None  # a matrix exponential by scaling and squaring has no derivatives written out
    try:
        return build(jet_source(jet_program(program.trace, directions)))
    except (NoDerivativeError, NotScalarError, BuildError) as error:
        _log.info("derivatives of the likelihood are not compiled as a whole: %s", error)
        return None

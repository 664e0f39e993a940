"""The compiled likelihood of a model: log p(y_i | eta_i) of any number of columns in one call."""

import ctypes
import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.model.compiled.gradient import gradient_program
from nlme_torch.model.compiled.jets import jet_length, jet_program
from nlme_torch.model.compiled.program import DensityProgram, density_program, trace_density
from nlme_torch.model.compiled.readings import DataReadings, population_readings
from nlme_torch.model.compiled.source import gradient_source, jet_source, likelihood_source
from nlme_torch.model.compiled.stops import MovedDoses, Stops, common_stops, moved_doses
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.trajectory.system import DifferentialSystem
from nlme_torch.model.trajectory.vector_field import VectorFields
from nlme_torch.solve.kernel.build import BuildError, build, compiler
from nlme_torch.solve.kernel.derivatives import NoDerivativeError
from nlme_torch.solve.kernel.find import find_kernel
from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.problem.problem import build_problem
from nlme_torch.solve.problem.tolerance import absolute_tolerance

TOLERANCE = 1e-9
"""Largest relative difference from the tensor operations; a tenth of the last digit that a user sees printed."""
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


@dataclass(frozen=True, eq=False)
class CompiledLikelihood:
    """The compiled likelihood of a density, at any parameters.

    Attributes:
        program: What a column does.
        library: The compiled program.
        kernel: The compiled equations; None where there are none to be walked.
        jets: Positions of inputs to the compiled derivatives along them, made when they are first asked for; None
            where they cannot be.
        readings: What is taken from the data.
        stops: When equations stop, or what moves doses; None without equations.
    """

    program: DensityProgram
    library: ctypes.CDLL
    kernel: Kernel | None
    readings: DataReadings
    stops: Stops | MovedDoses | None
    jets: dict[tuple[int, ...], ctypes.CDLL | None] = field(default_factory=dict)
    residuals: dict[tuple[Any, ...], ctypes.CDLL | None] = field(default_factory=dict)
    _latest: list[Any] = field(default_factory=list)

    def derivatives(self, directions: Sequence[int]) -> ctypes.CDLL | None:
        """Compile value, gradient and Hessian along some inputs; None where that cannot be done or is not worth it.

        Args:
            directions: Positions: effects, their means, then the readings of the population.
        """
        key = tuple(directions)
        if key not in self.jets:
            self.jets[key] = None if self.kernel is not None or self.moved else _make_jets(self.program, key)
        return self.jets[key]

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
        out = torch.empty(outputs, count, dtype=torch.float64)
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


# what was compiled for a density, with the fields by which it knows what the model's Python code read at that time
_kept: "WeakKeyDictionary[Density, dict[bool, tuple[VectorFields, CompiledLikelihood | None]]]" = WeakKeyDictionary()


def compiled_likelihood(conditional: Conditional) -> CompiledLikelihood | None:
    """Compile the likelihood of a density, once, if it can be.

    The compiled program is compared with the tensor operations at draws of the effects before it is given out, so that
    a model whose records or subjects feel each other is never compiled wrongly.

    Args:
        conditional: The density at parameters from where it can be evaluated.

    Returns:
        The compiled likelihood; None without a compiler, off the CPU, for models that cannot be written out for one
        record of one subject (the log says why), and at parameters where no draw of the effects can be evaluated.
    """
    density, several = conditional.density, conditional.starts > 1
    kept = _kept.setdefault(density, {})
    if several not in kept or kept[several][0] is not density.fields:
        if not _can_be_compared(conditional):
            return None  # at other parameters it may be
        kept[several] = density.fields, _compiled(conditional)
    return kept[several][1]


def log_likelihood(conditional: Conditional, eta: Float[Tensor, "effect chain start subject"]) -> Tensor:
    """Return log p(y_i | eta_i) without a graph, by compiled code where that is possible.

    Args:
        conditional: The density at some parameters.
        eta: ``(effect, chain, start, subject)``.

    Returns:
        ``(chain, start, subject)``, -inf where the model cannot be evaluated.
    """
    compiled = compiled_likelihood(conditional)
    if compiled is None:
        with torch.no_grad():
            return conditional.log_likelihood(eta)
    return compiled.at(conditional)(eta.flatten(-2)).reshape(eta.shape[1:])


def _compiled(conditional: Conditional) -> CompiledLikelihood | None:
    density = conditional.density
    if compiler() is None or density._times.device.type != "cpu" or density._times.dtype is not torch.float64:
        return None
    try:
        with torch.no_grad():
            found = _make(conditional)
            if _agrees(found, conditional):
                return found
            reason = "compiled, it differs from the tensor operations"
    except (NotScalarError, BuildError) as error:
        reason = str(error)
    _log.info("the likelihood of %s is not compiled as a whole: %s", type(density.model).__name__, reason)
    return None


def _make(conditional: Conditional) -> CompiledLikelihood:
    density, model = conditional.density, conditional.density.model
    readings, kernel, stops = DataReadings.of(density), None, None
    if model.states:
        stops = common_stops(conditional) or moved_doses(conditional)
        kernel = None if model.has_compartments else _kernel(conditional)
    infusions = stops is not None and stops.infusions
    program = density_program(trace_density(conditional, infusions, moved=isinstance(stops, MovedDoses)))
    layout = None if kernel is None else kernel.layout
    if layout is not None and list(map(math.prod, layout.shapes)) != list(map(len, program.parameters)):
        raise NotScalarError("the equations take their parameters in another shape")
    text = likelihood_source(program, layout)
    return CompiledLikelihood(program, build(text), kernel, readings, stops)


def _make_jets(program: DensityProgram, directions: tuple[int, ...]) -> ctypes.CDLL | None:
    try:
        return build(jet_source(jet_program(program.trace, directions)), "-O2")
    except (NoDerivativeError, NotScalarError, BuildError) as error:
        _log.info("derivatives of the likelihood are not compiled as a whole: %s", error)
        return None


def _kernel(conditional: Conditional) -> Kernel:
    density = conditional.density
    solver = density.solver
    if not isinstance(solver, PerSubjectSolver) or not solver.compile:
        raise NotScalarError("its solver is not a compiled one with steps of each subject's own")
    # two chains, so that what is one subject's own is told from what all share
    eta = _draws(conditional, 2, 0.1)
    trajectory = conditional.trajectory(conditional.individual(eta), eta)
    system, line = trajectory.system, trajectory.timeline
    assert isinstance(system, DifferentialSystem)
    problem = build_problem(system.field, trajectory.initial, line.times, system.parameters, line.events)
    kernel = find_kernel(problem, solver.method)
    if kernel is None:
        raise NotScalarError("its equations are not compiled")
    return kernel


def _draws(conditional: Conditional, chains: int, scale: float) -> Tensor:
    generator = torch.Generator(conditional.mean.device).manual_seed(chains)
    return scale * conditional.sample(chains, generator)


def _can_be_compared(conditional: Conditional) -> bool:
    """Whether any draw of the effects can be evaluated: where none can, right and wrong programs look the same."""
    with torch.no_grad():
        return bool(torch.isfinite(conditional.log_likelihood(_draws(conditional, 3, 0.3))).any())


def _agrees(found: CompiledLikelihood, conditional: Conditional) -> bool:
    """Whether it is what the tensor operations give, at draws of the effects of three sizes."""
    likelihood = found.at(conditional)
    for scale in (0.0, 0.3, 1.0):
        eta = _draws(conditional, 3, scale)
        expected = conditional.log_likelihood(eta)
        ours = likelihood(eta.flatten(-2)).unflatten(-1, eta.shape[-2:])
        finite = torch.isfinite(expected)
        difference = (ours - expected).abs() / (1.0 + expected.abs())
        if not torch.equal(torch.isfinite(ours), finite) or bool((difference[finite] > TOLERANCE).any()):
            return False
    return True

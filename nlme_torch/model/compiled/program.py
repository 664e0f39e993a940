"""The likelihood of a model written out in scalars, from the effects of a subject to its records' log densities."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlme_torch.model.compiled.one_record import OneRecordConditional, OneRecordDensity
from nlme_torch.model.compiled.readings import DataReadings, population_readings
from nlme_torch.model.compiled.split import Split, depends_on_records, split
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.dosing.dosing import dosing_value
from nlme_torch.model.individual.individual import flatten, stack_states
from nlme_torch.model.observation.unchecked import unchecked
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.scalarise import scalarise
from nlme_torch.solve.linear.mammillary import Mammillary
from nlme_torch.solve.linear.system import LinearSystem


@dataclass(frozen=True)
class Trace:
    """What one column does, written out: inputs to parameters to log densities at records.

    Inputs of kind "own" are the effects, their means, what is read of the population and what is read of the subject,
    in this order; inputs of kind "y" are what is read of the record, then the time that has passed since the last stop,
    then the states at the record.

    Attributes:
        program: The instructions.
        effects: Number of effects.
        population: Number of readings of the population.
        subjects: Number of readings of a subject.
        records: Number of readings of a record.
        terms: What is added up over records.
        places: For each term the pattern of outcomes where it is evaluated, and the output to which it is added.
        patterns: Number of patterns of outcomes.
        likelihood: Whether the terms are log densities; else they are squared residuals.
        initial: Initial states.
        parameters: What the vector field takes, tensor by tensor.
        exponential: exp(A t) of linear compartments, row by row.
        integral: The integral of exp(A s) from 0 to t, row by row; empty without infusions.
        matrix: A, row by row.
        inexact: One operand, whether exponential and integral are inexact and to be found from A; empty for no.
        modifiers: Lag, bioavailability, rate and duration of doses into every state, in this order; empty where no
            parameter moves or changes doses.
    """

    program: Program
    effects: int
    population: int
    subjects: int
    records: int
    terms: tuple[object, ...]
    places: tuple[tuple[int, int], ...]
    patterns: int
    likelihood: bool
    initial: tuple[object, ...]
    parameters: tuple[tuple[object, ...], ...]
    exponential: tuple[object, ...]
    integral: tuple[object, ...]
    matrix: tuple[object, ...]
    inexact: tuple[object, ...]
    modifiers: tuple[object, ...]

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.initial)


@dataclass(frozen=True)
class DensityProgram:
    """A trace cut into what is the same at all records of a subject and what is done at each record.

    Attributes:
        trace: The whole.
        parts: Its two parts.
        terms: What is added up, in the second part.
        exponential: Likewise exp(A t).
        integral: Likewise its integral.
        matrix: Likewise A.
        inexact: Likewise, whether these are inexact.
        initial: Initial states: positions among what is held, or numbers.
        parameters: Likewise what the vector field takes.
        modifiers: Likewise what moves or changes doses.
    """

    trace: Trace
    parts: Split
    terms: tuple[object, ...]
    exponential: tuple[object, ...]
    integral: tuple[object, ...]
    matrix: tuple[object, ...]
    inexact: tuple[object, ...]
    initial: tuple[object, ...]
    parameters: tuple[tuple[object, ...], ...]
    modifiers: tuple[object, ...]


def density_program(trace: Trace) -> DensityProgram:
    """Cut a trace in two."""
    flat = _joined(trace.parameters)
    linear = (trace.exponential, trace.integral, trace.matrix, trace.inexact)
    parts = split(trace.program, (trace.terms, *linear, (*trace.initial, *flat, *trace.modifiers)))
    held = [held_position(parts, operand) for operand in parts.outputs[5]]
    places = iter(held[trace.states : trace.states + len(flat)])
    terms, exponential, integral, matrix, inexact = parts.outputs[:5]
    return DensityProgram(
        trace=trace,
        parts=parts,
        terms=terms,
        exponential=exponential,
        integral=integral,
        matrix=matrix,
        inexact=inexact,
        initial=tuple(held[: trace.states]),
        parameters=tuple(tuple(next(places) for _ in entry) for entry in trace.parameters),
        modifiers=tuple(held[trace.states + len(flat) :]),
    )


def held_position(parts: Split, operand: object) -> object:
    """Where among what is held an operand of the second part stands; a number stays one."""
    if not isinstance(operand, Ref):
        return operand
    name, operands = parts.at_records.instructions[operand.index]
    assert name == "input" and operands[0] == "own"
    return Ref(int(operands[1]))  # type: ignore[call-overload]


def trace_density(
    conditional: Conditional,
    infusions: bool = False,
    scales: Mapping[str, Sequence[str]] | None = None,
    moved: bool = False,
) -> Trace:
    """Write a model's likelihood, or its squared residuals, out in scalars.

    Args:
        conditional: Densities at some parameters, for the shapes of what is read.
        infusions: Whether anything is infused into linear compartments.
        scales: Names of sums to the outcomes whose squared residuals they add up; None for the likelihood.
        moved: Whether parameters move or change doses.

    Raises:
        NotScalarError: Something cannot be written out for one subject and one record.
    """
    density, model = conditional.density, conditional.density.model
    readings = DataReadings.of(density)
    if any(value.dim() > 2 for values in readings.outcomes for value in values.values()):
        raise NotScalarError("every start has its own observations")
    population = population_readings(conditional)
    program = Program()
    count = {"own": 0, "y": 0}

    def inputs(kind: str, *shape: int) -> np.ndarray:
        array = np.empty(shape, dtype=object)
        for index in np.ndindex(*shape):
            array[index] = program.input(kind, count[kind])
            count[kind] += 1
        return array

    effects = model.n_effects
    of_subjects, of_records = len(readings.of_subjects()), readings.of_records().shape[1]
    arrays = [inputs("own", effects, 1, 1, 1), inputs("own", effects, 1, 1)]
    arrays += [inputs("own", 1, *value.shape[1:]) for value in population.values()]
    of_population = count["own"] - 2 * effects
    arrays += [inputs("own", 1) for _ in range(of_subjects)]
    arrays += [inputs("y", 1, 1) for _ in range(of_records)]
    arrays += [inputs("y", 1, 1, 1, 1)]
    arrays += [inputs("y", 1, 1, 1, 1) for _ in model.states]
    sizes: list[int] = []
    patterns = len(readings.outcomes)
    places = [(pattern, 0) for pattern in range(patterns)]
    if scales is not None:
        places = [
            (pattern, output)
            for pattern, observed in enumerate(readings.outcomes)
            for output, outcomes in enumerate(scales.values())
            if set(outcomes) & set(observed)
        ]

    def likelihood(eta: Tensor, mean: Tensor, *values: Tensor) -> list[Tensor]:
        rest = iter(values)
        parameters = {key: next(rest) for key in population}
        own = iter([next(rest) for _ in range(of_subjects)])
        there = iter([next(rest) for _ in range(of_records)])
        elapsed, at_record = next(rest), tuple(rest)
        single = OneRecordDensity(density, readings.rebuilt(lambda: next(own), lambda: next(there)))
        one = OneRecordConditional(single, mean, parameters)
        with unchecked():
            individual = one.individual(eta)
            states = at_record if model.states else None
            if scales is None:
                terms = one.log_densities(individual, states)
            else:
                terms = one.squared_residuals(individual, states, places, scales)
            found = [terms]
        found += _equations(one, individual, elapsed, infusions) if model.states else [[], [], [], [], [], []]
        found.append(_modifiers(one, individual) if moved else [])
        sizes.extend(map(len, found))
        return [tensor for group in found for tensor in group]

    results = iter(tuple(result.reshape(-1)) for result in scalarise(likelihood, arrays, program, constants=True))
    groups = [tuple(next(results) for _ in range(size)) for size in sizes]
    initial, parameters = _joined(groups[1]), groups[2]
    if any(depends_on_records(program, operand) for operand in (*initial, *_joined((*parameters, *groups[7])))):
        raise NotScalarError("initial states or parameters of the equations change from record to record")
    return Trace(
        program, effects, of_population, of_subjects, of_records,
        _joined(groups[0]), tuple(places), patterns, scales is None, initial, parameters, *map(_joined, groups[3:]),
    )  # fmt: skip


def _joined(groups: Sequence[Sequence[object]]) -> tuple[object, ...]:
    return tuple(operand for group in groups for operand in group)


def _equations(one: OneRecordConditional, individual: Any, elapsed: Tensor, infusions: bool) -> list[list[Tensor]]:
    """Initial states, the parameters of the vector field, and what a trace holds of linear compartments."""
    model = one.density.model
    flat = flatten(vars(individual))
    if flat.changing:
        raise NotScalarError("parameters of the equations change from record to record")
    initial = stack_states(model.initial(individual), model.states, torch.zeros(1, 1, 1).double(), "initial")
    if not model.has_compartments:
        return [[initial], list(flat.leaves), [], [], [], []]
    linear = model.compartments(individual)
    matrix = linear.matrix()
    if isinstance(linear, Mammillary):
        exponential, inexact = linear.by_spectrum(elapsed, integrated=False)
        integral = [linear.by_spectrum(elapsed, integrated=True)[0]] if infusions else []
        return [[initial], [], [exponential], integral, [matrix], [] if inexact is None else [inexact]]
    if isinstance(linear, LinearSystem):
        nothing = torch.zeros_like(matrix)
        return [[initial], [], [nothing], [nothing] if infusions else [], [matrix], [elapsed == elapsed]]
    exact = [linear.integral(elapsed)] if infusions else []
    return [[initial], [], [linear.exponential(elapsed)], exact, [matrix], []]


def _modifiers(one: OneRecordConditional, individual: Any) -> list[Tensor]:
    """Lag, bioavailability, rate and duration of doses into every state; 0, 1 and NaN where none is given."""
    model, like = one.density.model, one.density._times
    dosing = model.dosing(individual)
    found = []
    for state in model.states:
        for name, otherwise in (("lag", 0.0), ("bioavailability", 1.0), ("rate", math.nan), ("duration", math.nan)):
            if state in dosing and getattr(dosing[state], name) is not None:
                found.append(dosing_value(dosing, state, name, like))
            else:
                found.append(torch.full_like(like, otherwise))
    return found

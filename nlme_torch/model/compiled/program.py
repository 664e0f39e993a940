"""The likelihood of a model written out in scalars, from the effects of a subject to its records' log densities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlme_torch.model.compiled.one_record import OneRecordConditional, OneRecordDensity
from nlme_torch.model.compiled.readings import DataReadings, population_readings
from nlme_torch.model.compiled.split import Split, depends_on_records, split
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.individual.individual import flatten, stack_states
from nlme_torch.model.observation.unchecked import unchecked
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.scalarise import scalarise


@dataclass(frozen=True)
class DensityProgram:
    """What one column does: inputs to parameters, and parameters to log densities at records.

    Inputs of kind "own" are the effects, their means, what is read of the population and what is read of the subject,
    in this order; inputs of kind "y" are what is read of the record, then the states there, then the time that has
    passed since the last stop.

    Attributes:
        parts: The program, cut where it begins to depend on records.
        log_densities: For every pattern of outcomes, its log density at a record.
        initial: Initial states.
        parameters: What the vector field takes, tensor by tensor.
        exponential: exp(A t) of linear compartments, row by row.
        integral: The integral of exp(A s) from 0 to t, row by row.
    """

    parts: Split
    log_densities: tuple[object, ...]
    initial: tuple[object, ...]
    parameters: tuple[tuple[object, ...], ...]
    exponential: tuple[object, ...]
    integral: tuple[object, ...]

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.initial)


def density_program(conditional: Conditional) -> DensityProgram:
    """Write a model's likelihood out in scalars.

    Args:
        conditional: Densities at some parameters, for the shapes of what is read.

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
    arrays = [inputs("own", effects, 1, 1, 1), inputs("own", effects, 1, 1)]
    arrays += [inputs("own", 1, *value.shape[1:]) for value in population.values()]
    subjects = [inputs("own", 1) for _ in range(len(readings.of_subjects()))]
    records = [inputs("y", 1, 1) for _ in range(readings.of_records().shape[1])]
    states = [inputs("y", 1, 1, 1, 1) for _ in model.states]
    arrays += [*subjects, *records, *states, inputs("y", 1, 1, 1, 1)]
    sizes: list[int] = []

    def likelihood(eta: Tensor, mean: Tensor, *values: Tensor) -> list[Tensor]:
        rest = iter(values)
        parameters = {key: next(rest) for key in population}
        own = [next(rest) for _ in subjects]
        there = [next(rest) for _ in records]
        at_record = tuple(next(rest) for _ in states)
        elapsed = next(rest)
        mine, its = iter(own), iter(there)
        single = OneRecordDensity(density, readings.rebuilt(lambda: next(mine), lambda: next(its)))
        one = OneRecordConditional(single, mean, parameters)
        with unchecked():
            individual = one.individual(eta)
            found = [one.log_densities(individual, at_record if model.states else None)]
        found += _equations(one, individual, elapsed) if model.states else [[], [], [], []]
        sizes.extend(map(len, found))
        return [tensor for group in found for tensor in group]

    results = scalarise(likelihood, arrays, program)
    flat = [tuple(result.reshape(-1)) for result in results]
    groups, start = [], 0
    for size in sizes:
        groups.append(flat[start : start + size])
        start += size
    log_densities, initial, parameters, exponential, integral = (_joined(group) for group in groups)
    for operand in (*initial, *parameters):
        if depends_on_records(program, operand):
            raise NotScalarError("initial states or parameters of the equations change from record to record")
    parts = split(program, (log_densities, exponential, integral, (*initial, *parameters)))
    # what the equations take is asked for among what is held
    held = [_position(parts, operand) for operand in parts.outputs[3]]
    sizes_of = [len(entry) for entry in groups[2]]
    places = iter(held[len(initial) :])
    return DensityProgram(
        parts=parts,
        log_densities=parts.outputs[0],
        initial=tuple(held[: len(initial)]),
        parameters=tuple(tuple(next(places) for _ in range(size)) for size in sizes_of),
        exponential=parts.outputs[1],
        integral=parts.outputs[2],
    )


def _position(parts: Split, operand: object) -> object:
    """Where among what is held an operand of the second part stands; a number stays one."""
    if not isinstance(operand, Ref):
        return operand
    name, operands = parts.at_records.instructions[operand.index]
    assert name == "input" and operands[0] == "own"
    return Ref(int(operands[1]))  # type: ignore[call-overload]


def _joined(groups: Sequence[Sequence[object]]) -> tuple[object, ...]:
    return tuple(operand for group in groups for operand in group)


def _equations(one: OneRecordConditional, individual: Any, elapsed: Tensor) -> list[list[Tensor]]:
    """Initial states, the parameters of the vector field, and exponential and integral of linear compartments."""
    model = one.density.model
    flat = flatten(vars(individual))
    if flat.changing:
        raise NotScalarError("parameters of the equations change from record to record")
    initial = stack_states(model.initial(individual), model.states, torch.zeros(1, 1, 1).double(), "initial")
    if not model.has_compartments:
        return [[initial], list(flat.leaves), [], []]
    linear = model.compartments(individual)
    return [[initial], [], [linear.exponential(elapsed)], [linear.integral(elapsed)]]

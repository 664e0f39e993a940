"""A model called on the scalars of a few subjects and records: what it asks of PyTorch, written out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlme_torch.model.compiled.one_record import OneRecordConditional, OneRecordDensity
from nlme_torch.model.compiled.readings import DataReadings, population_readings
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.dosing.dosing import dosing_value
from nlme_torch.model.individual.individual import flatten, stack_states
from nlme_torch.model.observation.unchecked import unchecked
from nlme_torch.solve.kernel.program import Program
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.scalarise import scalarise
from nlme_torch.solve.linear.mammillary import Mammillary
from nlme_torch.solve.linear.system import LinearSystem


@dataclass(frozen=True)
class Written:
    """What was written out.

    Attributes:
        program: The instructions. An input that stands at ``(position, record, subject)`` has the number
            ``(position * size + record) * size + subject``.
        groups: Arrays of operands: log densities or squared residuals; initial states; parameters of the vector field;
            exp(A t); its integral; A; whether these are inexact; what moves or changes doses.
        counts: Numbers of effects, of readings of the population, of a subject and of a record.
        places: For each of the first group the pattern of outcomes where it is evaluated, and the output it belongs to.
        size: Number of subjects and of records.
    """

    program: Program
    groups: list[list[np.ndarray]]
    counts: tuple[int, int, int, int]
    places: tuple[tuple[int, int], ...]
    size: int


def write_out(
    conditional: Conditional,
    infusions: bool = False,
    scales: Mapping[str, Sequence[str]] | None = None,
    moved: bool = False,
    size: int = 1,
) -> Written:
    """Write a model's likelihood, or its squared residuals, out in scalars.

    Args:
        conditional: Densities at some parameters, for the shapes of what is read.
        infusions: Whether anything is infused into linear compartments.
        scales: Names of sums to the outcomes whose squared residuals they add up; None for the likelihood.
        moved: Whether parameters move or change doses.
        size: Number of subjects, and of records of each.

    Raises:
        NotScalarError: Something cannot be written out.
    """
    density, model = conditional.density, conditional.density.model
    readings = DataReadings.of(density)
    if any(value.dim() > 2 for values in readings.outcomes for value in values.values()):
        raise NotScalarError("every start has its own observations")
    population = population_readings(conditional)
    program = Program()
    count = {"own": 0, "y": 0}

    def inputs(kind: str, *leading: int, records: bool = False, subjects: bool = True, between: int = 0) -> np.ndarray:
        shape = (*leading, *([size] if records else []), *(1,) * between, *([size] if subjects else []))
        array = np.empty(shape, dtype=object)
        for place in np.ndindex(*leading):
            for index in np.ndindex(*shape[len(leading) :]):
                record, subject = index[0] if records else 0, index[-1] if subjects else 0
                number = (count[kind] * size + record) * size + subject
                array[(*place, *index)] = program.input(kind, number)
            count[kind] += 1
        return array

    effects = model.n_effects
    of_subjects, of_records = len(readings.of_subjects()), readings.of_records().shape[1]
    arrays = [inputs("own", effects, between=2), inputs("own", effects, between=1)]
    arrays += [inputs("own", 1, *value.shape[1:], subjects=False) for value in population.values()]
    of_population = count["own"] - 2 * effects
    arrays += [inputs("own") for _ in range(of_subjects)]
    arrays += [inputs("y", records=True) for _ in range(of_records)]
    arrays += [inputs("y", 1, between=2)]
    arrays += [inputs("y", records=True, between=2) for _ in model.states]
    sizes: list[int] = []
    places = [(pattern, 0) for pattern in range(len(readings.outcomes))]
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

    results = iter(scalarise(likelihood, arrays, program, constants=True))
    groups = [[next(results) for _ in range(length)] for length in sizes]
    return Written(program, groups, (effects, of_population, of_subjects, of_records), tuple(places), size)


def _equations(one: OneRecordConditional, individual: Any, elapsed: Tensor, infusions: bool) -> list[list[Tensor]]:
    """Initial states, the parameters of the vector field, and what a trace holds of linear compartments."""
    model = one.density.model
    flat = flatten(vars(individual))
    if flat.changing:
        raise NotScalarError("parameters of the equations change from record to record")
    like = elapsed.new_zeros(1, 1, elapsed.shape[-1])
    initial = stack_states(model.initial(individual), model.states, like, "initial")
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

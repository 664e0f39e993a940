"""The likelihood of a model written out in scalars, from the effects of a subject to its records' log densities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nlme_torch.model.compiled.split import Split, depends_on_records, split
from nlme_torch.model.compiled.written import write_out
from nlme_torch.model.density.density import Conditional
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.reading import NotScalarError


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
    written = write_out(conditional, infusions, scales, moved)
    program = written.program
    groups = [tuple(tuple(array.reshape(-1)) for array in group) for group in written.groups]
    initial, parameters = _joined(groups[1]), groups[2]
    if any(depends_on_records(program, operand) for operand in (*initial, *_joined((*parameters, *groups[7])))):
        raise NotScalarError("initial states or parameters of the equations change from record to record")
    return Trace(
        program, *written.counts, _joined(groups[0]), written.places, len(conditional.density._observed),
        scales is None, initial, parameters, *map(_joined, groups[3:]),
    )  # fmt: skip


def _joined(groups: Sequence[Sequence[object]]) -> tuple[object, ...]:
    return tuple(operand for group in groups for operand in group)

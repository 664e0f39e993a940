r"""Value, gradient and Hessian of the likelihood along some of its inputs, written out in scalars.

The tangent of every term, state and transition along each direction, and the tangent of that, are written with
what they share; what is the same at all records is done once. With states x that a linear system moves,

.. math::
    x' = M x + G r, \qquad x'_i = M_i x + M x_i + G_i r, \qquad
    x'_{ij} = M_{ij} x + M_i x_j + M_j x_i + M x_{ij} + G_{ij} r
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from nlme_torch.model.compiled.program import Trace, held_position
from nlme_torch.model.compiled.split import Split, split
from nlme_torch.solve.kernel.derivatives import tangents
from nlme_torch.solve.kernel.reading import NotScalarError

LONGEST = 8000
"""Instructions; a longer program takes more than about five seconds to compile."""


@dataclass(frozen=True)
class JetProgram:
    """A trace with its first and second derivatives along k directions.

    A jet is a value, its k first derivatives, and its second derivatives (1, 1), (2, 1), (2, 2), (3, 1), ...

    Attributes:
        trace: What is differentiated.
        directions: Positions of the inputs of kind "own" along which.
        parts: The two parts of the program; the states' jets stand where the trace has its states.
        terms: The jet of every term.
        exponential: The jet of exp(A t), matrix by matrix.
        integral: Likewise of its integral.
        initial: The jet of the initial states, state vector by state vector.
        matrix: A itself.
        inexact: One operand, whether exponential and integral are inexact; empty for no.
    """

    trace: Trace
    directions: tuple[int, ...]
    parts: Split
    terms: tuple[tuple[object, ...], ...]
    exponential: tuple[object, ...]
    integral: tuple[object, ...]
    initial: tuple[object, ...]
    matrix: tuple[object, ...]
    inexact: tuple[object, ...]

    @property
    def length(self) -> int:
        """Numbers in a jet."""
        return jet_length(len(self.directions))


def jet_length(directions: int) -> int:
    """Return how many numbers value, gradient and Hessian are."""
    return 1 + directions + directions * (directions + 1) // 2


def jet_program(trace: Trace, directions: Sequence[int], longest: int = LONGEST) -> JetProgram:
    """Differentiate a trace twice.

    Args:
        trace: What a column does.
        directions: Positions of inputs of kind "own".
        longest: Most instructions.

    Raises:
        NoDerivativeError: An operation has no derivative rule.
        NotScalarError: The program gets longer than is worth compiling.
    """
    program = copy.deepcopy(trace.program)
    places = program.inputs()
    count, states, first = len(directions), trace.states, trace.records + 1

    def state_input(jet: int, state: int) -> int:
        """The instruction that reads an entry of a state's jet."""
        return program.input("y", first + jet * states + state).index

    def seeds(direction: int, of: Sequence[int], along: Sequence[int]) -> dict[int, object]:
        """What moves along a direction: the input itself, and jets of states from some entries to others."""
        moving: dict[int, object] = {}
        own = places.get(("own", directions[direction]))
        if own is not None:
            moving[own] = 1.0
        for before, after in zip(of, along, strict=True):
            for state in range(states):
                moving[state_input(before, state)] = program.input("y", first + after * states + state)
        return moving

    flat = [*trace.terms, *trace.exponential, *trace.integral, *trace.initial]
    jets: list[list[object]] = [flat]
    lengths = [len(program.instructions)]
    for i in range(count):
        jets.append(tangents(program, seeds(i, [0], [1 + i]), flat, lengths[0], careful=True))
        lengths.append(len(program.instructions))
    for i in range(count):
        for j in range(i + 1):
            second = 1 + count + i * (i + 1) // 2 + j
            moving = seeds(j, [0, 1 + i], [1 + j, second])
            jets.append(tangents(program, moving, jets[1 + i], lengths[1 + i], careful=True))
            if len(program.instructions) > longest:
                raise NotScalarError(f"its derivatives along {count} inputs are too long to be compiled soon")
    sizes = [len(trace.terms), len(trace.exponential), len(trace.integral), states]
    starts = [sum(sizes[:index]) for index in range(4)]

    def group(index: int) -> tuple[object, ...]:
        return tuple(operand for jet in jets for operand in jet[starts[index] : starts[index] + sizes[index]])

    linear = (trace.matrix, trace.inexact)
    parts = split(program, [*(group(index) for index in range(4)), *linear])
    terms = sizes[0]
    return JetProgram(
        trace,
        tuple(directions),
        parts,
        tuple(tuple(parts.outputs[0][term::terms]) for term in range(terms)),
        parts.outputs[1],
        parts.outputs[2],
        tuple(held_position(parts, operand) for operand in parts.outputs[3]),
        *parts.outputs[4:],
    )

"""A program cut in two: what is the same at all records of a subject, and what is done at each record."""

from collections.abc import Sequence
from dataclasses import dataclass

from nlme_torch.solve.kernel.program import Program, Ref


@dataclass(frozen=True)
class Split:
    """A program in two parts.

    Attributes:
        before: The first part; its inputs are those of the whole that do not change between records.
        held: Its results that the second part reads, in order.
        at_records: The second part; inputs ("own", k) are the results held, inputs "y" those that change.
        outputs: One list of operands of the second part for each list that was asked for.
    """

    before: Program
    held: tuple[object, ...]
    at_records: Program
    outputs: tuple[tuple[object, ...], ...]


def split(program: Program, outputs: Sequence[Sequence[object]]) -> Split:
    """Cut a program where it begins to depend on inputs of kind "y".

    Args:
        program: The whole.
        outputs: Lists of its operands.
    """
    second = Program()
    changing = _changing(program)
    held: dict[int, int] = {}
    moved: dict[int, object] = {}

    def taken(operand: object) -> object:
        """The same operand in the second part."""
        if not isinstance(operand, Ref):
            return operand
        if operand.index in moved:
            return moved[operand.index]
        if operand.index not in held:
            held[operand.index] = len(held)
        value: object = second.input("own", held[operand.index])
        if program.is_mask(operand):
            value = second.apply("ne", value, 0.0)
        moved[operand.index] = value
        return value

    needed = program.needed(operand for group in outputs for operand in group)
    for index, (name, operands) in enumerate(program.instructions):
        if index in changing and index in needed:
            if name == "input":
                moved[index] = second.input(str(operands[0]), int(operands[1]))  # type: ignore[call-overload]
            else:
                moved[index] = second.apply(name, *map(taken, operands))
    ends = tuple(tuple(taken(operand) for operand in group) for group in outputs)
    return Split(program, tuple(Ref(index) for index in held), second, ends)


def depends_on_records(program: Program, operand: object) -> bool:
    """Whether an operand depends on an input of kind "y"."""
    return isinstance(operand, Ref) and operand.index in _changing(program)


def _changing(program: Program) -> set[int]:
    """What depends on records."""
    return program.depending(lambda kind, _: kind == "y")

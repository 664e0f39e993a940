"""Jumps of a vector field at times that no record knows of."""

from nlme_torch.solve.kernel.field import FieldProgram
from nlme_torch.solve.kernel.program import Program, Ref

_COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
_STEPS = frozenset({"floor", "ceil", "trunc", "round", "remainder"})


def jumps_in_time(field: FieldProgram) -> bool:
    """Whether the slopes jump at times that depend on time and parameters alone.

    A comparison of the time, or its whole part, decides between different values there; ``clamp`` and the like, which
    compare as well but do not jump, are left out, and so is whatever depends on a state.

    Args:
        field: The field in scalars; passengers count as parameters.
    """
    program = field.program
    timed, on_state = _depending(program, "t"), _depending(program, "y", field.states - field.passengers)
    switches = {
        index
        for index, (name, _) in enumerate(program.instructions)
        if index in timed and index not in on_state and (name in _COMPARISONS or name in _STEPS)
    }
    smooth = {
        operands[0].index
        for name, operands in program.instructions
        if name == "select"
        and isinstance(operands[0], Ref)
        and (_is_clamp(program, operands) or _is_softplus(program, operands))
    }
    return bool(switches - smooth)


def _is_clamp(program: Program, operands: tuple[object, ...]) -> bool:
    """Whether a choice is between the two sides of its own comparison."""
    condition, *branches = operands
    assert isinstance(condition, Ref)
    name, sides = program.instructions[condition.index]
    return name in _COMPARISONS and set(map(repr, branches)) == set(map(repr, sides))


def _is_softplus(program: Program, operands: tuple[object, ...]) -> bool:
    """Whether a choice is between x and softplus(x), by the size of x: equal to 2e-9 where torch changes over."""
    condition, *branches = operands
    assert isinstance(condition, Ref)
    name, sides = program.instructions[condition.index]
    if name not in _COMPARISONS or len(branches) != 2:
        return False
    soft = [
        program.instructions[branch.index][1][0]
        for branch in branches
        if isinstance(branch, Ref) and program.instructions[branch.index][0] == "softplus"
    ]
    plain = [branch for branch in branches if branch in soft]
    limits = [side for side in sides if isinstance(side, int | float)]
    return bool(plain) and plain[0] in sides and bool(limits) and limits[0] >= 20


def _depending(program: Program, kind: str, below: int | None = None) -> set[int]:
    """The instructions that depend on an input of a kind, of those below a position."""
    found: set[int] = set()
    for index, (name, operands) in enumerate(program.instructions):
        if name == "input":
            if operands[0] == kind and (below is None or int(operands[1]) < below):  # type: ignore[call-overload]
                found.add(index)
        elif any(isinstance(operand, Ref) and operand.index in found for operand in operands):
            found.add(index)
    return found

"""Derivatives of a program, as more operations of the same program: they can be differentiated again."""

import math
from collections.abc import Mapping, Sequence

from .program import BOOLEAN, Program, Row

def pull_back(
    program: Program, outputs: Sequence[Row], cotangents: Sequence[Row | None], inputs: Sequence[Row]
) -> list[Row | None]:
    """Reverse mode: the product of cotangents with the Jacobian.

    Args:
        program: gets the operations of the derivative.
        outputs: rows that were computed.
        cotangents: one row per output, None for zero.
        inputs: rows to differentiate by.

    Returns:
        One row per input, None where the outputs do not depend on it.
    """
    moving = program.dependent(inputs)
    last = max(outputs, default=-1)
    gathered: dict[Row, Row] = {}

    def collect(row: Row, cotangent: Row) -> None:
        gathered[row] = program.apply("add", gathered[row], cotangent) if row in gathered else cotangent

    for output, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None and output in moving:
            collect(output, cotangent)
    for row in range(last, -1, -1):
        if row not in gathered or not program.nodes[row].arguments:
            continue
        for argument, partial in _partials(program, row, moving):
            collect(argument, program.apply("mul", gathered[row], partial))
    return [gathered.get(row) for row in inputs]


def push_forward(program: Program, outputs: Sequence[Row], tangents: Mapping[Row, Row]) -> list[Row | None]:
    """Forward mode: the product of the Jacobian with tangents.

    Args:
        program: gets the operations of the derivative.
        outputs: rows that were computed.
        tangents: input row to the row of its tangent.

    Returns:
        One row per output, None where the tangent is zero.
    """
    moved: dict[Row, Row] = dict(tangents)
    moving = program.dependent(tangents)
    for row in program.needed(outputs):
        if row in moved or row not in moving:
            continue
        total: Row | None = None
        for argument, partial in _partials(program, row, moving):
            if argument in moved:
                term = program.apply("mul", moved[argument], partial)
                total = term if total is None else program.apply("add", total, term)
        if total is not None:
            moved[row] = total
    return [moved.get(row) for row in outputs]


def _partials(program: Program, row: Row, moving: set[Row]) -> list[tuple[Row, Row]]:
    """Arguments of a row that move, each with the derivative of the row by it."""
    node = program.nodes[row]
    if node.operation in BOOLEAN or node.operation in ("sign", "floor", "ceil"):
        return []
    pairs = []
    for position, argument in enumerate(node.arguments):
        if argument in moving and program.nodes[argument].operation not in BOOLEAN:
            pairs.append((argument, _partial(program, row, position)))
    return pairs


def _partial(program: Program, row: Row, position: int) -> Row:
    """The derivative of a row by one of its arguments."""
    operation, arguments = program.nodes[row].operation, program.nodes[row].arguments
    apply, number = program.apply, program.constant
    one = number(1.0)
    x, other = arguments[0], arguments[-1]
    match operation, position:
        case "add", _:
            return one
        case "sub", _:
            return one if position == 0 else number(-1.0)
        case "mul", _:
            return arguments[1 - position]
        case "div", 0:
            return apply("div", one, other)
        case "div", 1:
            return apply("neg", apply("div", row, other))
        case "neg", _:
            return number(-1.0)
        case "pow", 0:
            return apply("mul", other, apply("pow", x, apply("sub", other, one)))
        case "pow", 1:
            return apply("where", apply("eq", row, number(0.0)), number(0.0), apply("mul", row, apply("log", x)))
        case "exp", _:
            return row
        case "expm1", _:
            return apply("add", row, one)
        case "log", _:
            return apply("div", one, x)
        case "log1p", _:
            return apply("div", one, apply("add", x, one))
        case "tanh", _:
            return apply("sub", one, apply("mul", row, row))
        case "sigmoid", _:
            return apply("mul", row, apply("sub", one, row))
        case "softplus", _:
            return apply("sigmoid", x)
        case "sqrt", _:
            return apply("div", number(0.5), row)
        case "sin", _:
            return apply("cos", x)
        case "cos", _:
            return apply("neg", apply("sin", x))
        case "tan", _:
            return apply("add", one, apply("mul", row, row))
        case "atan", _:
            return apply("div", one, apply("add", one, apply("mul", x, x)))
        case "erf", _:
            return apply("mul", number(2 / math.sqrt(math.pi)), apply("exp", apply("neg", apply("mul", x, x))))
        case "abs", _:
            return apply("sign", x)
        case ("maximum" | "minimum"), _:
            mine, its = (x, other) if position == 0 else (other, x)
            wins = apply("gt" if operation == "maximum" else "lt", mine, its)
            tie = apply("where", apply("eq", mine, its), number(0.5), number(0.0))
            return apply("where", wins, one, tie)
        case "where", _:
            return apply("where", x if position == 1 else apply("not", x), one, number(0.0))
    raise NotImplementedError(f"no derivative of {operation}")

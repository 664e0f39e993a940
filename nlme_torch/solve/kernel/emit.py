"""C++ text of programs, and a vector field's programs together with the driver that walks."""

import math
from collections.abc import Sequence

from nlme_torch.solve.kernel.field import FieldProgram
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.scalarise import NotScalarError
from nlme_torch.solve.tableau import Tableau

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=",
}  # fmt: skip
_LOGIC = {"and": "&", "or": "|"}
_INPUTS = {"t": "t", "y": "y[{}]", "own": "p[{}]", "shared": "p[OWN + {}]", "bar": "bar[{}]"}
_LARGEST_PROGRAM = 20_000


def forward_source(field: FieldProgram) -> str:
    """``field(t, y, p, dy)`` in C++."""
    outputs = [(f"dy[{index}] =", value) for index, value in enumerate(field.outputs)]
    return f"static void field(V t, const V *y, const V *p, V *dy) {{\n{_body(field.program, outputs)}\n}}\n"


def transposed_source(field: FieldProgram) -> str:
    """``field_vjp(t, y, p, bar, t_bar, y_bar, p_bar)`` in C++, adding into p_bar."""
    program, found = field.transposed()
    outputs = [("*t_bar =", found.get(("t", 0), 0.0))]
    outputs += [(f"y_bar[{index}] =", found.get(("y", index), 0.0)) for index in range(field.states)]
    for kind, place in (("own", "p_bar[{}] +="), ("shared", "p_bar[OWN + {}] +=")):
        outputs += [
            (place.format(index), value) for (k, index), value in sorted(found.items(), key=_place) if k == kind
        ]
    signature = "V t, const V *y, const V *p, const V *bar, V *t_bar, V *y_bar, V *p_bar"
    return f"static void field_vjp({signature}) {{\n{_body(program, outputs)}\n}}\n"


def driver(field: FieldProgram, tableau: Tableau, functions: Sequence[str], header: str) -> str:
    """A complete C++ file.

    Args:
        field: for its sizes.
        tableau: the Runge-Kutta pair.
        functions: the C++ functions that the driver calls.
        header: the driver.

    Returns:
        C++ text.
    """
    count = len(tableau.stages) + 1
    rows = ",\n  ".join("{" + ", ".join(map(repr, row)) + "}" for row in tableau.stages)
    return "\n".join(
        [
            '#include "lanes.h"',
            f"constexpr int D = {field.states}, OWN = {field.own}, SHARED = {field.shared};",
            f"constexpr int S = {count};",
            f"constexpr double ORDER = {tableau.order};",
            f"static const double NODE[] = {{{', '.join(map(repr, tableau.nodes))}}};",
            f"static const double A[][{count - 1}] = {{\n  {rows}}};",
            f"static const double E[] = {{{', '.join(map(repr, tableau.error))}}};",
            *functions,
            f'#include "{header}"',
            "",
        ]
    )


def _place(item: tuple[tuple[str, int], object]) -> tuple[str, int]:
    return item[0]


def _body(program: Program, outputs: Sequence[tuple[str, object]]) -> str:
    needed: set[int] = set()
    stack = [value.index for _, value in outputs if isinstance(value, Ref)]
    while stack:
        index = stack.pop()
        if index not in needed:
            needed.add(index)
            stack += [o.index for o in program.instructions[index][1] if isinstance(o, Ref)]
    if len(needed) > _LARGEST_PROGRAM:
        raise NotScalarError(f"the right-hand side has {len(needed)} scalar operations per subject")
    lines = []
    for index in sorted(needed):
        name, operands = program.instructions[index]
        kind = "M" if program.is_mask(Ref(index)) else "V"
        lines.append(f"  const {kind} v{index} = {_expression(program, name, operands)};")
    lines += [f"  {target} num({_number(program, value)});" for target, value in outputs]
    return "\n".join(lines)


def _expression(program: Program, name: str, operands: tuple[object, ...]) -> str:
    if name == "input":
        return _INPUTS[str(operands[0])].format(operands[1])
    if name in _LOGIC:
        return f"{_mask(program, operands[0])} {_LOGIC[name]} {_mask(program, operands[1])}"
    if name == "not":
        return f"~{_mask(program, operands[0])}"
    if name == "select":
        condition, *branches = operands
        if all(program.is_mask(branch) for branch in branches):
            return f"pick({_mask(program, condition)}, {', '.join(_mask(program, b) for b in branches)})"
        return f"pick({_mask(program, condition)}, {', '.join(f'num({_number(program, b)})' for b in branches)})"
    numbers = [_number(program, operand) for operand in operands]
    if not any(isinstance(operand, Ref) for operand in operands):
        numbers = [f"all({number})" for number in numbers]
    if name in _INFIX:
        return f"{numbers[0]} {_INFIX[name]} {numbers[1]}"
    if name == "neg":
        return f"-{numbers[0]}"
    if name == "isnan":
        return f"({numbers[0]} != {numbers[0]})"
    return f"v{name}({', '.join(f'num({number})' for number in numbers)})"


def _number(program: Program, value: object) -> str:
    if isinstance(value, Ref):
        return f"pick(v{value.index}, all(1.0), V{{}})" if program.is_mask(value) else f"v{value.index}"
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INF" if number > 0 else "(-INF)"
    return f"({number!r})" if number < 0 else repr(number)


def _mask(program: Program, value: object) -> str:
    if isinstance(value, Ref):
        return f"v{value.index}" if program.is_mask(value) else f"(v{value.index} != 0.0)"
    return "~M{}" if value else "M{}"

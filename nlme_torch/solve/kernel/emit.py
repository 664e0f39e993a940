"""C++ text of programs, and a vector field's programs together with the driver that walks."""

import math
from collections.abc import Mapping, Sequence

from nlme_torch.solve.kernel.field import FieldProgram
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.tableau import Method

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=",
}  # fmt: skip
_LOGIC = {"and": "&", "or": "|"}
_INPUTS = {
    "t": "t", "y": "y[{}]", "own": "p[{}]", "shared": "p[OWN + {}]", "bar": "bar[{}]",
    "jacobian": "jacobian_bar[{}]", "slant": "slant_bar[{}]",
}  # fmt: skip
_LARGEST_PROGRAM = 20_000
"""Operations per subject: a limit to what a compiler is asked to translate."""


def forward_source(field: FieldProgram) -> str:
    """``field(t, y, p, dy)`` in C++."""
    outputs = [(f"dy[{index}] =", value) for index, value in enumerate(field.outputs)]
    return f"static void field(V t, const V *y, const V *p, V *dy) {{\n{body(field.program, outputs)}\n}}\n"


def transposed_source(field: FieldProgram) -> str:
    """``field_vjp(t, y, p, bar, t_bar, y_bar, p_bar)`` in C++, adding into p_bar."""
    return _pullback("field_vjp", "const V *bar", *field.transposed(), field.states)


def jacobian_source(field: FieldProgram) -> str:
    """``field_jacobian(t, y, p, jacobian, slant)`` in C++."""
    program, rows, slants = field.jacobian()
    outputs = [(f"jacobian[{index}] =", value) for index, value in enumerate(rows)]
    outputs += [(f"slant[{index}] =", value) for index, value in enumerate(slants)]
    signature = "V t, const V *y, const V *p, V *jacobian, V *slant"
    return f"static void field_jacobian({signature}) {{\n{body(program, outputs)}\n}}\n"


def jacobian_transposed_source(field: FieldProgram) -> str:
    """``jacobian_vjp(t, y, p, jacobian_bar, slant_bar, t_bar, y_bar, p_bar)`` in C++, adding into p_bar."""
    bars = "const V *jacobian_bar, const V *slant_bar"
    return _pullback("jacobian_vjp", bars, *field.jacobian_transposed(), field.states)


def walk_source(field: FieldProgram, method: Method) -> str:
    """A C++ file with the adaptive walk."""
    functions = [forward_source(field)]
    if method.implicit is not None:
        functions.append(jacobian_source(field))
    return "\n".join([_constants(field, method, transposed=False), *functions, '#include "adaptive_walk.h"', ""])


def reverse_source(field: FieldProgram, method: Method) -> str:
    """A C++ file with the replay of steps and its transpose."""
    functions = [forward_source(field), transposed_source(field)]
    if method.implicit is not None:
        functions += [jacobian_source(field), jacobian_transposed_source(field)]
    return "\n".join([_constants(field, method, transposed=True), *functions, '#include "transpose.h"', ""])


def _constants(field: FieldProgram, method: Method, transposed: bool) -> str:
    explicit, implicit = method.explicit, method.implicit
    main = explicit or implicit
    assert main is not None
    lines = [
        f"#define EXPLICIT {int(explicit is not None)}",
        f"#define IMPLICIT {int(implicit is not None)}",
        f"#define FIXED {int(explicit is not None and not explicit.error)}",
        f"#define TRANSPOSED {int(transposed)}",
        f"#define CAREFUL {int(field.careful)}",
        '#include "lanes.h"',
        f"constexpr int JUDGED = {field.states - field.passengers};",
        f"constexpr int D = {field.states}, OWN = {field.own}, SHARED = {field.shared};",
        f"constexpr double ORDER = {main.order}, LIMIT = {1.0 if explicit is None else explicit.limit};",
    ]
    if explicit is not None:
        lines += [
            f"constexpr int ES = {len(explicit.stages) + 1};",
            _row("E_NODE", explicit.nodes),
            _rows("E_A", explicit.stages),
        ]
        if explicit.error:
            lines.append(_row("E_ERROR", explicit.error))
    if implicit is not None:
        lines += [
            f"constexpr int IS = {len(implicit.nodes)};",
            f"constexpr double I_GAMMA = {implicit.gamma!r};",
            _row("I_NODE", implicit.nodes),
            _row("I_SLANT", implicit.slants),
            _rows("I_A", implicit.stages),
            _rows("I_C", implicit.couplings),
        ]
    return "\n".join(lines)


def _row(name: str, values: Sequence[float]) -> str:
    return f"static const double {name}[] = {{{', '.join(map(repr, values))}}};"


def _rows(name: str, rows: Sequence[Sequence[float]]) -> str:
    text = ",\n  ".join("{" + ", ".join(map(repr, row)) + "}" for row in rows)
    return f"static const double {name}[][{len(rows[-1])}] = {{\n  {text}}};"


def _pullback(name: str, bars: str, program: Program, found: Mapping[tuple[str, int], object], states: int) -> str:
    outputs = [("*t_bar =", found.get(("t", 0), 0.0))]
    outputs += [(f"y_bar[{index}] =", found.get(("y", index), 0.0)) for index in range(states)]
    for kind, place in (("own", "p_bar[{}] +="), ("shared", "p_bar[OWN + {}] +=")):
        outputs += [(place.format(index), found[k, index]) for k, index in sorted(found) if k == kind]
    signature = f"V t, const V *y, const V *p, {bars}, V *t_bar, V *y_bar, V *p_bar"
    return f"static void {name}({signature}) {{\n{body(program, outputs)}\n}}\n"


def body(program: Program, outputs: Sequence[tuple[str, object]]) -> str:
    """C++ statements that compute operands and give them to places, such as ``("dy[0] =", operand)``."""
    needed = program.needed(value for _, value in outputs)
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

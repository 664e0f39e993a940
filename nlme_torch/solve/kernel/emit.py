"""C++ text of programs, and of the vector field's programs together with the driver that walks."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.scalarise import NotScalarError, scalarise, trace
from nlme_torch.solve.tableau import Tableau

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=",
}  # fmt: skip
_LOGIC = {"and": "&", "or": "|"}
_LARGEST_PROGRAM = 20_000


def emit(program: Program, outputs: Sequence[tuple[str, object]]) -> str:
    """Statements that compute the outputs.

    Args:
        program: the instructions.
        outputs: pairs of assignment ("dy[0] =") and operand.

    Returns:
        The body of a C++ function.

    Raises:
        NotScalarError: if the program is too long to compile in reasonable time.
    """
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
        return str(operands[0])
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


def _inputs(program: Program, name: str, shape: Sequence[int], start: int = 0) -> tuple[np.ndarray, int]:
    array = np.empty(tuple(shape), dtype=object)
    for offset, index in enumerate(np.ndindex(*shape)):
        array[index] = program.input(f"{name}[{start + offset}]")
    return array, start + array.size


class FieldSource:
    """The C++ functions of one vector field for one layout of parameters.

    Args:
        field: the vector field.
        states: number of states.
        own: shapes, component axes only, of the parameters that each subject has its own values of; in order.
        shared: shapes of the parameters that are the same for all subjects.
        is_own: for each parameter in the field's order, whether it is an ``own`` one.
        axes: number of batch axes.

    Raises:
        NotScalarError: if the field cannot be written out.
    """

    def __init__(
        self,
        field: VectorField,
        states: int,
        own: Sequence[tuple[int, ...]],
        shared: Sequence[tuple[int, ...]],
        is_own: Sequence[bool],
        axes: int,
    ) -> None:
        self.states, self.axes = states, axes
        self.own_count = sum(math.prod(shape) for shape in own)
        self.shared_count = sum(math.prod(shape) for shape in shared)
        self._field = field
        own_shapes, shared_shapes = iter(own), iter(shared)
        self._shapes = [
            (*next(own_shapes), *(1,) * axes) if mine else tuple(next(shared_shapes)) for mine in is_own
        ]
        self._is_own = list(is_own)

    def forward(self) -> str:
        """``field(t, y, p, dy)``."""
        program = Program()
        inputs = self._arguments(program)
        (slope,) = scalarise(trace(self._call, self._examples()), inputs, program)
        outputs = [(f"dy[{i}] =", value) for i, value in enumerate(slope.reshape(self.states, -1)[:, 0])]
        return f"static void field(V t, const V *y, const V *p, V *dy) {{\n{emit(program, outputs)}\n}}\n"

    def transposed(self) -> str:
        """``field_vjp(t, y, p, bar, t_bar, y_bar, p_bar)``, adding into p_bar."""
        program = Program(linear=True)
        inputs = self._arguments(program)
        bar, _ = _inputs(program, "bar", (self.states, *(1,) * self.axes))

        def pullback(cotangent: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(self._call, *arguments)[1](cotangent)

        examples = self._examples()
        gradients = scalarise(trace(pullback, [torch.zeros_like(examples[1]), *examples]), [bar, *inputs], program)
        outputs = [("*t_bar =", gradients[0].reshape(-1)[0])]
        outputs += [(f"y_bar[{i}] =", value) for i, value in enumerate(gradients[1].flat)]
        places = [place for place in self._places() for place in range(place.start, place.stop)]
        values = [value for gradient in gradients[2:] for value in gradient.flat]
        for place, value in zip(places, values, strict=True):
            if isinstance(value, Ref) or value != 0:
                outputs.append((f"p_bar[{place}] +=", value))
        signature = "V t, const V *y, const V *p, const V *bar, V *t_bar, V *y_bar, V *p_bar"
        return f"static void field_vjp({signature}) {{\n{emit(program, outputs)}\n}}\n"

    def _call(self, t: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        return self._field(t, y, parameters)

    def _examples(self) -> list[Tensor]:
        ones = [1] * self.axes
        shapes = [ones, [self.states, *ones], *self._shapes]
        return [torch.zeros(tuple(shape), dtype=torch.float64) for shape in shapes]

    def _places(self) -> list[range]:
        """Position of each parameter among p: the own ones first, then the shared ones."""
        positions, own, shared = [], 0, self.own_count
        for shape, mine in zip(self._shapes, self._is_own, strict=True):
            size = math.prod(shape)
            positions.append(range(own, own + size) if mine else range(shared, shared + size))
            own, shared = (own + size, shared) if mine else (own, shared + size)
        return positions

    def _arguments(self, program: Program) -> list[np.ndarray]:
        time = np.empty((1,) * self.axes, dtype=object)
        time.fill(program.input("t"))
        state, _ = _inputs(program, "y", (self.states, *(1,) * self.axes))
        rest = [
            _inputs(program, "p", shape, place.start)[0] for shape, place in zip(self._shapes, self._places(), strict=True)
        ]
        return [time, state, *rest]


def driver(source: FieldSource, tableau: Tableau, parts: Sequence[Callable[[], str]], headers: Sequence[str]) -> str:
    """A complete C++ file.

    Args:
        source: sizes of the problem.
        tableau: the Runge-Kutta pair.
        parts: methods of the source whose functions are needed.
        headers: the drivers that use them.

    Returns:
        C++ text.
    """
    count = len(tableau.stages) + 1
    rows = ",\n  ".join("{" + ", ".join(map(repr, row)) + "}" for row in tableau.stages)
    return "\n".join(
        [
            '#include "lanes.h"',
            f"constexpr int D = {source.states}, OWN = {source.own_count}, SHARED = {source.shared_count};",
            f"constexpr int S = {count};",
            f"constexpr double ORDER = {tableau.order};",
            f"static const double NODE[] = {{{', '.join(map(repr, tableau.nodes))}}};",
            f"static const double A[][{count - 1}] = {{\n  {rows}}};",
            f"static const double E[] = {{{', '.join(map(repr, tableau.error))}}};",
            *(part() for part in parts),
            *(f'#include "{header}"' for header in headers),
            "",
        ]
    )

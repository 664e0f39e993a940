"""Programs as C++ functions."""

from collections.abc import Sequence

from nlme_torch.solve.tableau import Tableau

from . import adjoint_source, common_source, replay_source, vector_math, walk_source
from .derivatives import pull_back, push_forward
from .program import BOOLEAN, Program, Row

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
          "and": "&", "or": "|"}  # fmt: skip
_CALLS = {name: f"v_{name}" for name in ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "sqrt", "sin", "cos", "tan",
          "atan", "erf", "abs", "sign", "floor", "ceil", "pow")}  # fmt: skip
_CALLS |= {"maximum": "v_max", "minimum": "v_min", "where": "choose"}
_INPUTS = {"t": "t", "y": "y[{}]", "p": "p[{}]", "q": "vec(q[{}])", "bar": "bar[{}]"}
_INLINED_CALLS = 24


class Field:
    """A vector field to be compiled: its program and the sizes of what it reads.

    Args:
        program: the operations.
        outputs: row of the derivative of each state.
        own: number of rows of own parameters.
        shared: number of shared numbers.
        differentiated: number of leading own and shared rows that get a gradient, all by default.
    """

    def __init__(
        self, program: Program, outputs: Sequence[Row], own: int, shared: int, differentiated: tuple[int, int] | None = None
    ) -> None:
        self.program, self.outputs, self.own, self.shared = program, list(outputs), own, shared
        self.differentiated = (own, shared) if differentiated is None else differentiated

    def tangent(self) -> "Field":
        """The field of states and tangents together: ``(f, df/dy u + df/dp v)``."""
        program, states = self.program, len(self.outputs)
        tangents = {program.input("y", index): program.input("y", states + index) for index in range(states)}
        tangents |= {program.input("p", index): program.input("p", self.own + index) for index in range(self.own)}
        tangents |= {program.input("q", index): program.input("q", self.shared + index) for index in range(self.shared)}
        zero = program.constant(0.0)
        moved = [zero if row is None else row for row in push_forward(program, self.outputs, tangents)]
        return Field(program, self.outputs + moved, 2 * self.own, 2 * self.shared, (self.own, self.shared))

    def walk_source(self, tableau: Tableau) -> str:
        """The adaptive walk."""
        return self._source(tableau, [self.outputs], [self._field()], walk_source.SOURCE)

    def replay_source(self, tableau: Tableau) -> str:
        """The walk along given steps."""
        return self._source(tableau, [self.outputs], [self._field()], replay_source.SOURCE)

    def adjoint_source(self, tableau: Tableau) -> str:
        """The discrete adjoint."""
        rows, function = self._pull()
        return self._source(tableau, [self.outputs, rows], [self._field(), function], adjoint_source.SOURCE)

    def _source(self, tableau: Tableau, rows: list[list[Row]], functions: list[str], algorithm: str) -> str:
        stages = len(tableau.stages)
        calls = sum(self.program.nodes[row].operation in _CALLS for row in self.program.needed(sum(rows, [])))
        padded = [(*row, *(0.0,) * (stages - len(row))) for row in tableau.stages]
        table = ", ".join("{" + ", ".join(map(repr, row)) + "}" for row in padded)
        constants = [
            f"static constexpr int STATES = {len(self.outputs)}, OWN = {self.own}, SHARED = {self.shared}, STAGES = {stages};",
            f"static constexpr double ORDER = {tableau.order};",
            f"static constexpr double A[{stages}][{stages}] = {{{table}}};",
            f"static constexpr double C[] = {{{', '.join(map(repr, tableau.nodes))}}};",
            f"static constexpr double E[] = {{{', '.join(map(repr, tableau.error))}}};",
        ]
        kind = f"#define KIND {'INLINE' if calls <= _INLINED_CALLS else 'PLAIN'}"
        mathematics = vector_math.SOURCE.replace("// x = n ln 2 + r", kind + "\n// x = n ln 2 + r", 1)
        return "\n".join([mathematics, *constants, *functions, common_source.SOURCE, algorithm])

    def _field(self) -> str:
        lines = self._lines(self.outputs)
        lines += [f"    out[{index}] = r{row};" for index, row in enumerate(self.outputs)]
        return "PLAIN void field(V t, const V *y, const V *p, const double *q, V *out) {\n" + "\n".join(lines) + "\n}"

    def _pull(self) -> tuple[list[Row], str]:
        program, states = self.program, len(self.outputs)
        own, shared = self.differentiated
        inputs = [program.input("y", index) for index in range(states)]
        inputs += [program.input("p", index) for index in range(own)] + [program.input("q", index) for index in range(shared)]
        bars: list[Row | None] = [program.input("bar", index) for index in range(states)]
        gradients = pull_back(program, self.outputs, bars, [*inputs, program.input("t")])
        rows = [row for row in gradients if row is not None]
        lines = self._lines(rows)
        for index, row in enumerate(gradients):
            value = "vec(0)" if row is None else f"choose(live, r{row}, vec(0))"
            if index < states:
                lines.append(f"    y_bar[{index}] = {value};")
            elif index == len(gradients) - 1:
                lines.append(f"    *t_bar = {value};")
            elif row is not None and index < states + own:
                lines.append(f"    own[{index - states}] += {value};")
            elif row is not None:
                lines.append(f"    shared[{index - states - own}] += {value};")
        head = (
            "PLAIN void pull(V t, const V *y, const V *p, const double *q, const V *bar, M live,\n"
            "                V *y_bar, V *own, V *shared, V *t_bar) {\n"
        )
        return rows, head + "\n".join(lines) + "\n}"

    def _lines(self, outputs: Sequence[Row]) -> list[str]:
        lines = []
        for row in self.program.needed(outputs):
            node = self.program.nodes[row]
            arguments = [f"r{argument}" for argument in node.arguments]
            if node.operation == "const":
                value = f"vec({_number(node.value)})"
            elif node.operation == "input":
                value = _INPUTS[node.kind].format(int(node.value))
            elif node.operation in _INFIX:
                value = f" {_INFIX[node.operation]} ".join(arguments)
            elif node.operation in ("neg", "not"):
                value = ("-" if node.operation == "neg" else "~") + arguments[0]
            else:
                value = f"{_CALLS[node.operation]}({', '.join(arguments)})"
            lines.append(f"    const {'M' if node.operation in BOOLEAN else 'V'} r{row} = {value};")
        return lines


def _number(value: float) -> str:
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(value)

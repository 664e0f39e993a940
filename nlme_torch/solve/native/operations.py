"""PyTorch's elementwise operations in terms of a program's."""

from collections.abc import Callable
from typing import Any

import torch

from .program import Program, Row

_aten = torch.ops.aten


class Unsupported(Exception):
    """A vector field that cannot be compiled; the message says why."""


KEPT = frozenset({_aten.softplus.default, _aten.addmm.default, _aten.stack.default, _aten.unbind.int})
"""Operations that are not to be decomposed any further before they are read."""

MOVES = frozenset({
    _aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.unsqueeze.default, _aten.squeeze.dim,
    _aten.squeeze.dims, _aten.squeeze.default, _aten.expand.default, _aten.permute.default, _aten.transpose.int,
    _aten.t.default, _aten.select.int, _aten.slice.Tensor, _aten.cat.default, _aten.stack.default, _aten.unbind.int,
    _aten.split.Tensor, _aten.split_with_sizes.default, _aten.index.Tensor, _aten.index_select.default, _aten.flip.default,
    _aten.repeat.default, _aten.diagonal.default,
})  # fmt: skip
"""Operations that only move numbers."""

INDEXED = frozenset({_aten.index.Tensor, _aten.index_select.default})
COPIES = frozenset({_aten.clone.default, _aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default})

Scalar = Row
Rule = Callable[..., Row]


def pointwise(program: Program, operation: Any, arguments: tuple[Row | None, ...], options: dict[str, Any]) -> Row:
    """Add one elementwise operation to a program.

    Args:
        program: gets the operations.
        operation: PyTorch's operation.
        arguments: one row per argument, None where the argument is None.
        options: keyword arguments, numbers.

    Returns:
        The row of the result.

    Raises:
        Unsupported: where the operation is not known.
    """
    name = operation.overloadpacket.__name__
    options = {key: value for key, value in options.items() if value is not None}
    if name in _SAME and not options:
        return program.apply(_SAME[name], *arguments)  # type: ignore[arg-type]
    if name not in _RULES:
        raise Unsupported(f"{operation} has no compiled form")
    try:
        return _RULES[name](program, *arguments, **options)
    except TypeError:
        raise Unsupported(f"{operation} with {options} has no compiled form") from None


def is_pointwise(operation: Any) -> bool:
    """Whether an operation works element by element."""
    return torch.Tag.pointwise in getattr(operation, "tags", ())


_SAME = {
    "mul": "mul", "div": "div", "neg": "neg", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh",
    "sigmoid": "sigmoid", "sqrt": "sqrt", "sin": "sin", "cos": "cos", "tan": "tan", "atan": "atan", "erf": "erf",
    "abs": "abs", "sign": "sign", "floor": "floor", "ceil": "ceil", "maximum": "maximum", "minimum": "minimum", "lt": "lt",
    "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne", "logical_and": "and", "logical_or": "or",
    "logical_not": "not", "bitwise_and": "and", "bitwise_or": "or", "bitwise_not": "not", "where": "where",
}  # fmt: skip


def _scaled(program: Program, row: Row, alpha: float) -> Row:
    return program.apply("mul", program.constant(alpha), row)


def _add(program: Program, x: Row, other: Row, alpha: float = 1.0) -> Row:
    return program.apply("add", x, _scaled(program, other, alpha))


def _sub(program: Program, x: Row, other: Row, alpha: float = 1.0) -> Row:
    return program.apply("sub", x, _scaled(program, other, alpha))


def _rsub(program: Program, x: Row, other: Row, alpha: float = 1.0) -> Row:
    return program.apply("sub", other, _scaled(program, x, alpha))


def _softplus(program: Program, x: Row, beta: Row | None = None, threshold: Row | None = None) -> Row:
    """As PyTorch has it: the identity beyond the threshold."""
    beta = program.constant(1.0) if beta is None else beta
    threshold = program.constant(20.0) if threshold is None else threshold
    scaled = program.apply("mul", beta, x)
    smooth = program.apply("div", program.apply("softplus", scaled), beta)
    return program.apply("where", program.apply("gt", scaled, threshold), x, smooth)


def _pow(program: Program, x: Row, exponent: Row) -> Row:
    node = program.nodes[exponent]
    power = node.value if node.operation == "const" else None
    square = lambda: program.apply("mul", x, x)  # noqa: E731
    if power == 0.5:
        return program.apply("sqrt", x)
    if power in (1.0, 2.0, 3.0, 4.0):
        return {1: lambda: x, 2: square, 3: lambda: program.apply("mul", square(), x),
                4: lambda: program.apply("mul", square(), square())}[int(power)]()  # fmt: skip
    if power in (-1.0, -2.0):
        return program.apply("div", program.constant(1.0), x if power == -1.0 else square())
    return program.apply("pow", x, exponent)


def _clamp(program: Program, x: Row, min: Row | None = None, max: Row | None = None) -> Row:  # noqa: A002
    for bound, comparison in ((min, "lt"), (max, "gt")):
        if bound is not None:
            x = program.apply("where", program.apply(comparison, x, bound), bound, x)
    return x




def _hyperbolic(sign: str) -> Rule:
    def rule(program: Program, x: Row) -> Row:
        both = program.apply(sign, program.apply("exp", x), program.apply("exp", program.apply("neg", x)))
        return program.apply("mul", program.constant(0.5), both)

    return rule


_RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "softplus": _softplus,
    "pow": _pow,
    "clamp": _clamp,
    "clamp_min": lambda program, x, low: _clamp(program, x, low),
    "clamp_max": lambda program, x, high: _clamp(program, x, None, high),
    "relu": lambda program, x: program.apply(
        "where", program.apply("le", x, program.constant(0.0)), program.constant(0.0), x
    ),
    "reciprocal": lambda program, x: program.apply("div", program.constant(1.0), x),
    "rsqrt": lambda program, x: program.apply("div", program.constant(1.0), program.apply("sqrt", x)),
    "square": lambda program, x: program.apply("mul", x, x),
    "exp2": lambda program, x: program.apply("pow", program.constant(2.0), x),
    "log2": lambda program, x: program.apply("div", program.apply("log", x), program.constant(0.6931471805599453)),
    "log10": lambda program, x: program.apply("div", program.apply("log", x), program.constant(2.302585092994046)),
    "isnan": lambda program, x: program.apply("ne", x, x),
    "sinh": _hyperbolic("sub"),
    "cosh": _hyperbolic("add"),
}

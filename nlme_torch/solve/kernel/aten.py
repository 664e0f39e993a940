"""PyTorch's elementary operations, as rearrangements of operand arrays and as scalar operations."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nlme_torch.solve.kernel.program import Program


def _filled(shape: tuple[int, ...] | None, value: object) -> np.ndarray:
    array = np.empty(() if shape is None else shape, dtype=object)
    array.fill(value)
    return array


def _split(array: np.ndarray, sizes: Any, dim: int = 0) -> list[np.ndarray]:
    if isinstance(sizes, int):
        sizes = [min(sizes, array.shape[dim] - start) for start in range(0, array.shape[dim], sizes)]
    return np.split(array, np.cumsum(sizes)[:-1], axis=dim)


def _slice(array: np.ndarray, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    index = [slice(None)] * array.ndim
    index[dim] = slice(start, None if end is None or end > array.shape[dim] else end, step)
    return array[tuple(index)]


def _expand(shape: Any, array: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
    return np.broadcast_to(array, shape)


def _slice_scatter(shape: Any, base: np.ndarray, source: np.ndarray, *where: Any, **named: Any) -> np.ndarray:
    result = base.copy()
    _slice(result, *where, **named)[...] = source
    return result


def _select_scatter(shape: Any, base: np.ndarray, source: np.ndarray, dim: int, index: int) -> np.ndarray:
    result = base.copy()
    result[(slice(None),) * (dim % base.ndim) + (index,)] = source
    return result


def _index(shape: Any, array: np.ndarray, indices: Any) -> np.ndarray:
    if not all(index is None or all(isinstance(v, int) for v in index.flat) for index in indices):
        raise ValueError("indices depend on values")
    return array[tuple(slice(None) if index is None else index.astype(int) for index in indices)]


def _same(shape: Any, array: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
    return array


VIEWS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("detach", "alias"), _same),
    **dict.fromkeys(
        ("clone", "contiguous", "lift_fresh_copy", "positive"), lambda shape, array, *_, **__: array.copy()
    ),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze"),
        lambda shape, array, *_: np.reshape(array, shape),
    ),
    "expand": _expand,
    "permute": lambda shape, array, dims: np.transpose(array, dims),
    "transpose": lambda shape, array, a, b: np.swapaxes(array, a, b),
    "t": lambda shape, array: array.T,
    "select": lambda shape, array, dim, index: _at(array, dim, index),
    "slice": lambda shape, array, *where, **named: _slice(array, *where, **named),
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "unbind": lambda shape, array, dim=0: [_at(array, dim, i) for i in range(array.shape[dim])],
    "split": lambda shape, array, sizes, dim=0: _split(array, sizes, dim),
    "split_with_sizes": lambda shape, array, sizes, dim=0: _split(array, sizes, dim),
    "stack": lambda shape, arrays, dim=0: np.stack(arrays, dim),
    "cat": lambda shape, arrays, dim=0: np.concatenate(arrays, dim),
    "flip": lambda shape, array, dims: np.flip(array, dims),
    "index": _index,
    "zeros": lambda shape, *_, **__: _filled(shape, 0.0),
    "ones": lambda shape, *_, **__: _filled(shape, 1.0),
    "zeros_like": lambda shape, *_, **__: _filled(shape, 0.0),
    "ones_like": lambda shape, *_, **__: _filled(shape, 1.0),
    "new_zeros": lambda shape, *_, **__: _filled(shape, 0.0),
    "new_ones": lambda shape, *_, **__: _filled(shape, 1.0),
    **dict.fromkeys(
        ("empty", "empty_like", "new_empty", "empty_strided", "empty_permuted"),
        lambda shape, *_, **__: _filled(shape, 0.0),
    ),
    "full": lambda shape, size, value, **__: _filled(shape, value),
    "full_like": lambda shape, like, value, **__: _filled(shape, value),
    "new_full": lambda shape, like, size, value, **__: _filled(shape, value),
    "scalar_tensor": lambda shape, value, **__: _filled(shape, value),
    "arange": lambda shape, *a, **__: np.array([*range(*map(int, a))], dtype=object).reshape(shape),
}


def _at(array: np.ndarray, dim: int, index: int) -> np.ndarray:
    """One place along an axis, sharing memory even where a single operand is left."""
    axis = dim % array.ndim
    place = index % array.shape[axis]
    return array[(slice(None),) * axis + (slice(place, place + 1),)].squeeze(axis)


# Operations that exist in C++ under the same meaning, by their name there.
_DIRECT = {
    "neg": "neg", "abs": "abs", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p",
    "sqrt": "sqrt",
    "tanh": "tanh", "sigmoid": "sigmoid", "sin": "sin", "cos": "cos", "tan": "tan", "atan": "atan",
    "asin": "asin",
    "acos": "acos", "sinh": "sinh", "cosh": "cosh", "erf": "erf", "erfc": "erfc", "erfcx": "erfcx",
    "lgamma": "lgamma",
    "digamma": "digamma",
    "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "round", "mul": "mul", "maximum": "max",
    "minimum": "min", "pow": "pow", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne",
    "bitwise_and": "and", "logical_and": "and", "bitwise_or": "or", "logical_or": "or", "bitwise_not": "not",
    "logical_not": "not", "where": "select", "isnan": "isnan", "atan2": "atan2",
}  # fmt: skip


def _chain(name: str) -> Callable[..., object]:
    return lambda p, *operands: p.apply(name, *operands)


def _sign(p: Program, x: object) -> object:
    negative = p.apply("select", p.apply("lt", x, 0.0), -1.0, 0.0)
    return p.apply("select", p.apply("gt", x, 0.0), 1.0, negative)


def _gelu(p: Program, x: object) -> object:
    half = p.apply("mul", 0.5, x)
    return p.apply("mul", half, p.apply("add", 1.0, p.apply("erf", p.apply("mul", x, math.sqrt(0.5)))))


def _whole(p: Program, a: object, b: object) -> object:
    """Return a // b: what is left of a without the remainder, so that both jump together, as in PyTorch."""
    return p.apply("round", p.apply("div", p.apply("sub", a, p.apply("remainder", a, b)), b))


_SCALAR: dict[str, Callable[..., object]] = {
    **{name: _chain(target) for name, target in _DIRECT.items()},
    "div": lambda p, a, b: p.apply("div", a, b),
    "reciprocal": lambda p, a: p.apply("div", 1.0, a),
    "rsqrt": lambda p, a: p.apply("div", 1.0, p.apply("sqrt", a)),
    "square": lambda p, a: p.apply("mul", a, a),
    "log2": lambda p, a: p.apply("mul", p.apply("log", a), 1 / math.log(2)),
    "log10": lambda p, a: p.apply("mul", p.apply("log", a), 1 / math.log(10)),
    "relu": lambda p, a: p.apply("select", p.apply("le", a, 0.0), 0.0, a),
    "_at_least": lambda p, a, low: p.apply("select", p.apply("lt", a, low), low, a),
    "_at_most": lambda p, a, high: p.apply("select", p.apply("gt", a, high), high, a),
    "sign": _sign,
    "sgn": _sign,
    "gelu": _gelu,
    "remainder": _chain("remainder"),
    "hypot": lambda p, a, b: p.apply("sqrt", p.apply("add", p.apply("mul", a, a), p.apply("mul", b, b))),
    "special_erfcx": _chain("erfcx"),
    "_whole": _whole,
    "isfinite": lambda p, a: p.apply("lt", p.apply("abs", a), math.inf),
    "isinf": lambda p, a: p.apply("eq", p.apply("abs", a), math.inf),
    "_to_copy": lambda p, a: a,
    "to": lambda p, a: a,
}


def is_known(name: str) -> bool:
    """Whether an operation needs no further decomposition."""
    return name in VIEWS or name in _SCALAR or name in _COMPOSED or name in REDUCTIONS


_COMPOSED = frozenset(
    {"add", "sub", "rsub", "clamp", "clamp_min", "clamp_max", "addcmul", "mm", "bmm", "addmm", "baddbmm"}
)


def pointwise(program: Program, name: str, args: Any, kwargs: Any) -> Any:
    """Apply an elementwise operation to operand arrays.

    Raises:
        KeyError: if the operation is not known.
    """
    if name in ("add", "sub", "rsub"):
        left, right, alpha = args[0], args[1], kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        if name == "rsub":
            left, right = right, left
        if alpha != 1:
            right = _broadcast(program, "mul", right, alpha)
        return _broadcast(program, "add" if name == "add" else "sub", left, right)
    if name == "addcmul":
        product = _broadcast(program, "mul", args[1], args[2])
        return _broadcast(program, "add", args[0], _broadcast(program, "mul", product, kwargs.get("value", 1)))
    if name in ("clamp", "clamp_min", "clamp_max"):
        bounds = dict(zip(("min", "max") if name != "clamp_max" else ("max",), args[1:], strict=False)) | kwargs
        result = args[0]
        if bounds.get("min") is not None:
            result = _broadcast(program, "_at_least", result, bounds["min"])
        if bounds.get("max") is not None:
            result = _broadcast(program, "_at_most", result, bounds["max"])
        return result
    if name in ("_to_copy", "to"):
        args, kwargs = args[:1], {}
    if name == "div" and kwargs.get("rounding_mode") == "floor":
        return _broadcast(program, "_whole", *args)
    if name == "div" and kwargs.get("rounding_mode"):
        return _broadcast(program, kwargs["rounding_mode"], _broadcast(program, "div", *args))
    if name == "gelu" and kwargs.get("approximate", "none") != "none":
        raise KeyError("gelu with the tanh approximation")
    return _broadcast(program, name, *args)


def _broadcast(program: Program, name: str, *operands: Any) -> Any:
    function = _SCALAR[name] if name in _SCALAR else _chain({"add": "add", "sub": "sub"}[name])
    result = np.frompyfunc(lambda *scalars: function(program, *scalars), len(operands), 1)(*operands)
    return result if isinstance(result, np.ndarray) else _filled((), result)


REDUCTIONS = {
    "sum": "add", "mean": "add", "prod": "mul", "amax": "maximum", "amin": "minimum", "any": "logical_or",
    "all": "logical_and",
}  # fmt: skip


def reduce(program: Program, name: str, args: Any, kwargs: Any, shape: Any) -> np.ndarray:
    """Sum, mean, product or extremes over some axes of an operand array."""
    array = args[0]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [] if dims is None else list(np.atleast_1d(np.array(dims, dtype=int)))
    axes = tuple(d % array.ndim for d in dims) or tuple(range(array.ndim))
    rest = [size for axis, size in enumerate(array.shape) if axis not in axes]
    rows = np.moveaxis(array, axes, range(len(axes))).reshape(-1, *rest)
    total = _filled(tuple(rest), 0.0) if rows.shape[0] == 0 else rows[0]
    for row in rows[1:]:
        total = _broadcast(program, REDUCTIONS[name], total, row)
    if name == "mean":
        total = _broadcast(program, "mul", total, 1.0 / max(rows.shape[0], 1))
    total = total if isinstance(total, np.ndarray) else _filled((), total)
    return total.reshape(shape)

"""Derivatives of programs: one rule per operation, applied forwards (tangents) or backwards (adjoints)."""

import math
from collections.abc import Callable, Mapping, Sequence

from nlme_torch.solve.kernel.program import MASKS, Program, Ref, is_number


class NoDerivativeError(Exception):
    """An operation without a derivative rule."""


def tangents(
    program: Program,
    seeds: Mapping[int, object],
    outputs: Sequence[object],
    length: int | None = None,
    careful: bool = False,
) -> list[object]:
    """The directional derivative of outputs.

        v' = sum_i (dv/du_i) u_i'

    Args:
        program: receives the new instructions.
        seeds: derivative of each input, by its index.
        outputs: operands to differentiate.
        length: number of instructions that the outputs can depend on; all by default.
        careful: whether a tangent that is exactly 0 stays 0 whatever it is multiplied by, infinity and NaN included.

    Returns:
        One operand per output.

    Raises:
        NoDerivativeError: if an operation has no rule.
    """
    moving = dict(seeds)
    program.linear = True
    for index, (name, operands) in enumerate(program.instructions[:length]):
        if name == "input" or name in MASKS:
            continue
        if name == "select":
            condition, *branches = operands
            speeds = [moving.get(b.index, 0.0) if isinstance(b, Ref) else 0.0 for b in branches]
            moving[index] = program.apply("select", condition, *speeds)
            continue
        total: object = 0.0
        for position, operand in enumerate(operands):
            speed = moving.get(operand.index, 0.0) if isinstance(operand, Ref) else 0.0
            if not is_number(speed, 0):
                partial = _partial(program, name, operands, Ref(index), position, careful)
                total = program.apply("add", total, program.apply("zmul" if careful else "mul", partial, speed))
        moving[index] = total
    return [moving.get(output.index, 0.0) if isinstance(output, Ref) else 0.0 for output in outputs]


def adjoints(
    program: Program, outputs: Sequence[object], bars: Sequence[object], careful: bool = False
) -> dict[int, object]:
    """The transposed derivative of outputs, for every input.

        u_i_bar = sum_v v_bar dv/du_i

    Args:
        program: receives the new instructions.
        outputs: operands to differentiate.
        bars: the cotangent of each output.
        careful: whether a product with an exact 0 is 0 whatever the other factor, so that an infinite cotangent
            reaches nothing that it does not depend on.

    Returns:
        The cotangent of each instruction's result, by index; inputs among them.

    Raises:
        NoDerivativeError: if an operation has no rule.
    """
    program.linear = True
    found: dict[int, object] = {}

    def add(operand: object, bar: object) -> None:
        if isinstance(operand, Ref) and not is_number(bar, 0):
            found[operand.index] = program.apply("add", found.get(operand.index, 0.0), bar)

    for output, bar in zip(outputs, bars, strict=True):
        add(output, bar)
    for index in range(len(program.instructions) - 1, -1, -1):
        name, operands = program.instructions[index]
        if index not in found or name == "input" or name in MASKS:
            continue
        bar = found[index]
        if name == "select":
            condition, first, second = operands
            add(first, program.apply("select", condition, bar, 0.0))
            add(second, program.apply("select", condition, 0.0, bar))
            continue
        for position, operand in enumerate(operands):
            if isinstance(operand, Ref) and not program.is_mask(operand):
                partial = _partial(program, name, operands, Ref(index), position, careful)
                add(operand, program.apply("zmul" if careful else "mul", partial, bar))
    return found


def _partial(
    program: Program, name: str, operands: tuple[object, ...], result: Ref, position: int, careful: bool
) -> object:
    try:
        rule = _RULES[name][position]
    except (KeyError, IndexError):
        raise NoDerivativeError(f"no derivative rule for {name}") from None
    if not careful:
        return rule(program.apply, *operands, result)

    def apply(what: str, *values: object) -> object:
        return program.apply(_CAREFUL.get(what, what), *values)

    return rule(apply, *operands, result)


_Apply = Callable[..., object]
# Products and quotients that are 0 where a factor or the numerator is.
_CAREFUL = {"mul": "zmul", "div": "zdiv"}
_ZERO = (lambda do, *_: 0.0,)


def _over(do: _Apply, value: object) -> object:
    return do("div", 1.0, value)


def _one_minus_square(do: _Apply, value: object) -> object:
    return do("sub", 1.0, do("mul", value, value))


def _one_plus_square(do: _Apply, value: object) -> object:
    return do("add", 1.0, do("mul", value, value))


def _normal(do: _Apply, value: object, sign: float) -> object:
    return do("mul", sign * 2 / math.sqrt(math.pi), do("exp", do("neg", do("mul", value, value))))


def _power_base(do: _Apply, base: object, exponent: object, result: object) -> object:
    smaller = do("pow", base, do("sub", exponent, 1.0))
    return do("mul", exponent, smaller)


def _power_exponent(do: _Apply, base: object, exponent: object, result: object) -> object:
    return do("select", do("eq", result, 0.0), 0.0, do("mul", result, do("log", base)))


def _where_larger(do: _Apply, value: object, other: object, result: object) -> object:
    """1 where a value exceeds the other, 0 where it is smaller, and half where they are equal, as in PyTorch."""
    return do("select", do("gt", value, other), 1.0, do("select", do("eq", value, other), 0.5, 0.0))


def _squares(do: _Apply, y: object, x: object) -> object:
    return do("add", do("mul", x, x), do("mul", y, y))


_RULES: dict[str, tuple[Callable[..., object], ...]] = {
    "add": (lambda do, a, b, r: 1.0, lambda do, a, b, r: 1.0),
    "sub": (lambda do, a, b, r: 1.0, lambda do, a, b, r: -1.0),
    "mul": (lambda do, a, b, r: b, lambda do, a, b, r: a),
    "div": (lambda do, a, b, r: _over(do, b), lambda do, a, b, r: do("neg", do("div", r, b))),
    "zmul": (lambda do, a, b, r: b, lambda do, a, b, r: a),
    "zdiv": (lambda do, a, b, r: _over(do, b), lambda do, a, b, r: do("neg", do("div", r, b))),
    "neg": (lambda do, a, r: -1.0,),
    "abs": (lambda do, a, r: do("select", do("lt", a, 0.0), -1.0, do("select", do("gt", a, 0.0), 1.0, 0.0)),),
    "exp": (lambda do, a, r: r,),
    "expm1": (lambda do, a, r: do("add", r, 1.0),),
    "log": (lambda do, a, r: _over(do, a),),
    "log1p": (lambda do, a, r: _over(do, do("add", a, 1.0)),),
    "softplus": (lambda do, a, r: do("sigmoid", a),),
    "sigmoid": (lambda do, a, r: do("mul", r, do("sub", 1.0, r)),),
    "tanh": (lambda do, a, r: _one_minus_square(do, r),),
    "sqrt": (lambda do, a, r: do("div", 0.5, r),),
    "sin": (lambda do, a, r: do("cos", a),),
    "cos": (lambda do, a, r: do("neg", do("sin", a)),),
    "tan": (lambda do, a, r: _one_plus_square(do, r),),
    "atan": (lambda do, a, r: _over(do, _one_plus_square(do, a)),),
    "asin": (lambda do, a, r: _over(do, do("sqrt", _one_minus_square(do, a))),),
    "acos": (lambda do, a, r: do("neg", _over(do, do("sqrt", _one_minus_square(do, a)))),),
    "sinh": (lambda do, a, r: do("cosh", a),),
    "cosh": (lambda do, a, r: do("sinh", a),),
    "erf": (lambda do, a, r: _normal(do, a, 1.0),),
    "erfc": (lambda do, a, r: _normal(do, a, -1.0),),
    "erfcx": (lambda do, a, r: do("sub", do("mul", 2.0, do("mul", a, r)), 2 / math.sqrt(math.pi)),),
    "lgamma": (lambda do, a, r: do("digamma", a),),
    "digamma": (lambda do, a, r: do("trigamma", a),),
    "floor": _ZERO, "ceil": _ZERO, "trunc": _ZERO, "round": _ZERO,
    "max": (_where_larger, lambda do, a, b, r: _where_larger(do, b, a, r)),
    "min": (lambda do, a, b, r: _where_larger(do, b, a, r), _where_larger),
    "remainder": (lambda do, a, b, r: 1.0, lambda do, a, b, r: do("neg", do("round", do("div", do("sub", a, r), b)))),
    "pow": (_power_base, _power_exponent),
    "atan2": (
        lambda do, y, x, r: do("div", x, _squares(do, y, x)),
        lambda do, y, x, r: do("neg", do("div", y, _squares(do, y, x))),
    ),
}  # fmt: skip

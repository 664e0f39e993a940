"""Sums, products, derivatives and simple rules of expressions."""

from collections.abc import Callable, Iterable

from nlme_torch.nonmem.expressions import (
    ONE,
    ZERO,
    Binary,
    Call,
    Element,
    Expression,
    Name,
    Number,
    Unary,
    Where,
    children,
    rebuilt,
    walk,
)


def is_number(expression: Expression, value: float) -> bool:
    """Whether an expression is this number."""
    return isinstance(expression, Number) and expression.value == value


def contains(expression: Expression, wanted: Callable[[Expression], bool]) -> bool:
    """Whether any part of an expression fulfils a condition."""
    return any(wanted(part) for part in walk(expression))


def simplified(expression: Expression) -> Expression:
    """Return an expression without sums of 0, products with 0 and 1, and comparisons of numbers."""

    def change(part: Expression) -> Expression | None:
        inner = children(part)
        if not inner:
            return part
        simple = with_children(part, tuple(simplified(child) for child in inner))
        return _rule(simple)

    return rebuilt(expression, change)


def with_children(part: Expression, inner: tuple[Expression, ...]) -> Expression:
    """Return an expression with other parts."""
    match part:
        case Call(function, _):
            return Call(function, inner)
        case Unary(operator, _):
            return Unary(operator, inner[0])
        case Binary(operator, _, _):
            return Binary(operator, *inner)
        case Where():
            return Where(*inner)
    return part


def _rule(part: Expression) -> Expression:
    match part:
        case Unary("-", operand) if is_number(operand, 0):
            return ZERO
        case Unary("-", Unary("-", operand)):
            return operand
        case Unary("not", Number() as constant):
            return ZERO if constant.value else ONE
        case Binary("+", left, right):
            return right if is_number(left, 0) else left if is_number(right, 0) else part
        case Binary("-", left, right):
            if is_number(right, 0):
                return left
            return Unary("-", right) if is_number(left, 0) else part
        case Binary("*", left, right):
            if is_number(left, 0) or is_number(right, 0):
                return ZERO
            return right if is_number(left, 1) else left if is_number(right, 1) else part
        case Binary("/", left, right):
            return ZERO if is_number(left, 0) else left if is_number(right, 1) else part
        case Binary("**", base, power):
            return ONE if is_number(power, 0) or is_number(base, 1) else base if is_number(power, 1) else part
        case Binary("and", left, right):
            if is_number(left, 0) or is_number(right, 0):
                return ZERO
            return right if isinstance(left, Number) else left if isinstance(right, Number) else part
        case Binary("or", left, right):
            if any(isinstance(side, Number) and side.value for side in (left, right)):
                return ONE
            return right if isinstance(left, Number) else left if isinstance(right, Number) else part
        case Binary(operator, Number() as left, Number() as right) if operator in _COMPARED:
            return ONE if _COMPARED[operator](left.value, right.value) else ZERO
        case Call("EXP", (operand,)) if is_number(operand, 0):
            return ONE
        case Call("LOG", (operand,)) if is_number(operand, 1):
            return ZERO
        case Call("SQRT" | "ABS", (operand,)) if is_number(operand, 0) or is_number(operand, 1):
            return operand
        case Where(condition, yes, no):
            if isinstance(condition, Number):
                return yes if condition.value else no
            return yes if yes == no else part
    return part


_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def derivative(expression: Expression, variable: Element) -> Expression | None:
    """Return the derivative by THETA, ETA or EPS; None where a function has none that is known here."""
    if expression == variable:
        return ONE
    if not contains(expression, lambda part: part == variable):
        return ZERO
    match expression:
        case Unary("-", operand):
            inner = derivative(operand, variable)
            return None if inner is None else Unary("-", inner)
        case Where(condition, yes, no):
            a, b = derivative(yes, variable), derivative(no, variable)
            known = a is not None and b is not None and not contains(condition, lambda part: part == variable)
            return Where(condition, a, b) if known and a is not None and b is not None else None
        case Binary(operator, left, right):
            a, b = derivative(left, variable), derivative(right, variable)
            return None if a is None or b is None else _binary(operator, left, right, a, b)
        case Call(function, (argument,)):
            inner = derivative(argument, variable)
            outer = _outer(function, argument)
            return None if inner is None or outer is None else Binary("*", outer, inner)
    return None


def _binary(operator: str, left: Expression, right: Expression, a: Expression, b: Expression) -> Expression | None:
    if operator in "+-":
        return Binary(operator, a, b)
    if operator == "*":
        return Binary("+", Binary("*", a, right), Binary("*", left, b))
    if operator == "/":
        return Binary("-", Binary("/", a, right), Binary("/", Binary("*", left, b), Binary("**", right, Number("2"))))
    if operator == "**":
        by_base = Binary("*", Binary("*", right, Binary("**", left, Binary("-", right, ONE))), a)
        by_power = Binary("*", Binary("*", Binary("**", left, right), Call("LOG", (left,))), b)
        if b == ZERO:
            return by_base
        return by_power if a == ZERO else Binary("+", by_base, by_power)
    return None


def _outer(function: str, argument: Expression) -> Expression | None:
    match function:
        case "EXP":
            return Call("EXP", (argument,))
        case "LOG":
            return Binary("/", ONE, argument)
        case "SQRT":
            return Binary("/", Number("0.5"), Call("SQRT", (argument,)))
        case "LOG10":
            return Binary("/", Number("0.43429448190325182"), argument)
        case "SIN":
            return Call("COS", (argument,))
        case "COS":
            return Unary("-", Call("SIN", (argument,)))
    return None


def terms(expression: Expression) -> list[Expression]:
    """Return the summands of an expression, those that are subtracted with a minus."""
    match expression:
        case Binary("+", left, right):
            return terms(left) + terms(right)
        case Binary("-", left, right):
            return terms(left) + [Unary("-", part) for part in terms(right)]
        case Unary("-", operand) if isinstance(operand, Binary | Unary):
            return [Unary("-", part) for part in terms(operand)] if len(terms(operand)) > 1 else [expression]
    return [expression]


def factors(expression: Expression) -> list[Expression]:
    """Return the factors of an expression; what is divided by stands as ``1 / x``."""
    match expression:
        case Binary("*", left, right):
            return factors(left) + factors(right)
        case Binary("/", left, right) if not is_number(left, 1):
            return factors(left) + [Binary("/", ONE, right)]
    return [expression]


def total(parts: Iterable[Expression]) -> Expression:
    """Return the sum of expressions."""
    found: Expression | None = None
    for part in parts:
        if found is None:
            found = part
        elif isinstance(part, Unary) and part.operator == "-":
            found = Binary("-", found, part.operand)
        else:
            found = Binary("+", found, part)
    return ZERO if found is None else found


def product(parts: Iterable[Expression]) -> Expression:
    """Return the product of expressions."""
    found: Expression | None = None
    for part in parts:
        match part:
            case Binary("/", Number() as one, right) if one.value == 1 and found is not None:
                found = Binary("/", found, right)
            case _:
                found = part if found is None else Binary("*", found, part)
    return ONE if found is None else found


def replaced(expression: Expression, old: Expression, new: Expression) -> Expression:
    """Return an expression with one part in place of another."""
    return rebuilt(expression, lambda part: new if part == old else None)


def names(expression: Expression) -> list[Name]:
    """Return the variables and data items in an expression."""
    return [part for part in walk(expression) if isinstance(part, Name)]

"""A vector field as a list of scalar operations, the same for every subject."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Row = int
"""Index of a node: the value of one quantity for all subjects."""


class Node(NamedTuple):
    """One operation on rows: ``const`` holds its value, ``input`` a kind and an index, the others the rows they read."""

    operation: str
    arguments: tuple[Row, ...] = ()
    value: float = 0.0
    kind: str = ""


BOOLEAN = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})

_TORCH: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg, "pow": torch.pow,
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "softplus": lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())),
    "sqrt": torch.sqrt, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "atan": torch.atan, "erf": torch.erf,
    "abs": torch.abs, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil, "maximum": torch.maximum,
    "minimum": torch.minimum, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne,
    "and": torch.logical_and, "or": torch.logical_or, "not": torch.logical_not, "where": torch.where,
}  # fmt: skip

_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "neg": lambda a: -a, "pow": lambda a, b: a**b, "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "tanh": math.tanh,
}  # fmt: skip


class Program:
    """Operations in the order in which they can be done; equal operations are one node.

    Attributes:
        nodes: the operations.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Node, Row] = {}

    def constant(self, value: float) -> Row:
        """Return the row of a number."""
        return self._intern(Node("const", value=float(value)))

    def input(self, kind: str, index: int = 0) -> Row:
        """Return the row of an input, such as ``("y", 0)``."""
        return self._intern(Node("input", value=float(index), kind=kind))

    def apply(self, operation: str, *arguments: Row) -> Row:
        """Return the row of an operation on rows, simplified where that changes no bit of a finite result."""
        return self._simplify(operation, arguments) if operation in _FOLD else self._shorten(operation, arguments)

    def _shorten(self, operation: str, arguments: tuple[Row, ...]) -> Row:
        if operation == "where" and arguments[1] == arguments[2]:
            return arguments[1]
        return self._intern(Node(operation, arguments))

    def _simplify(self, operation: str, arguments: tuple[Row, ...]) -> Row:
        numbers = [self.nodes[row].value if self.nodes[row].operation == "const" else None for row in arguments]
        if None not in numbers:
            try:
                return self.constant(_FOLD[operation](*numbers))
            except (ArithmeticError, ValueError):
                return self._intern(Node(operation, arguments))
        first, last = arguments[0], arguments[-1]
        left, right = numbers[0], numbers[-1]
        if operation == "add" and 0.0 in (left, right):
            return last if left == 0.0 else first
        if operation in ("sub", "div") and right == (0.0 if operation == "sub" else 1.0):
            return first
        if operation == "neg" and self.nodes[first].operation == "neg":
            return self.nodes[first].arguments[0]
        if operation == "mul":
            for number, other in ((left, last), (right, first)):
                if number in (1.0, -1.0):
                    return other if number == 1.0 else self.apply("neg", other)
            for mask, other in ((first, last), (last, first)):
                switch = self._switch(mask)
                if switch is not None:
                    return self.apply("where", switch, other, self.constant(0.0))
        if operation in ("add", "mul"):
            arguments = (min(arguments), max(arguments))
        return self._intern(Node(operation, arguments))

    def _switch(self, row: Row) -> Row | None:
        """The condition of a row that is one where it holds and zero elsewhere."""
        node = self.nodes[row]
        if node.operation != "where":
            return None
        one, zero = (self.nodes[argument] for argument in node.arguments[1:])
        is_switch = one == Node("const", value=1.0) and zero == Node("const", value=0.0)
        return node.arguments[0] if is_switch else None

    def _intern(self, node: Node) -> Row:
        if node not in self._known:
            self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return self._known[node]

    def needed(self, outputs: Iterable[Row]) -> list[Row]:
        """Rows on which the outputs depend, themselves included, in order."""
        marked = set(outputs)
        for row in range(max(marked, default=-1), -1, -1):
            if row in marked:
                marked.update(self.nodes[row].arguments)
        return sorted(marked)

    def dependent(self, inputs: Iterable[Row]) -> set[Row]:
        """Rows that depend on any of the inputs, themselves included."""
        marked = set(inputs)
        for row, node in enumerate(self.nodes):
            if any(argument in marked for argument in node.arguments):
                marked.add(row)
        return marked

    def evaluate(self, outputs: Iterable[Row], inputs: Callable[[str, int], Tensor]) -> list[Tensor]:
        """Values of rows by torch operations.

        Args:
            outputs: the rows wanted.
            inputs: the tensor of an input, given its kind and index.

        Returns:
            One tensor per output.
        """
        outputs = list(outputs)
        values: dict[Row, Tensor] = {}
        for row in self.needed(outputs):
            node = self.nodes[row]
            if node.operation == "const":
                values[row] = torch.tensor(node.value, dtype=torch.float64)
            elif node.operation == "input":
                values[row] = inputs(node.kind, int(node.value))
            else:
                values[row] = _TORCH[node.operation](*(values[argument] for argument in node.arguments))
        return [values[row] for row in outputs]

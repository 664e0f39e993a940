"""What ``dynamics`` computes of the time and parameters alone, written down so that it can be evaluated at any time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlme_torch.model.switches.time_curves import Curve
from nlme_torch.model.switches.time_jumps import Jump, Restored

_NOTHING: Mapping[int, Any] = {}


@dataclass(frozen=True)
class Place:
    """Stands for a value: an input, or what an operation gave."""

    index: int


@dataclass(frozen=True)
class Operation:
    """A call of PyTorch's.

    Attributes:
        function: What was called.
        operands: Its arguments; a :class:`Place` for a tensor.
        named: Its named arguments.
        switch: The switch that decides the result between jumps; None for an operation that does not jump.
        restored: How the result follows from operands and what is held between jumps.
    """

    function: Callable[..., Any]
    operands: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...] = ()
    switch: int | None = None
    restored: Restored | None = None


@dataclass(frozen=True)
class Switch:
    """An operation that jumps at times that depend on parameters alone.

    Attributes:
        jump: How.
        operands: Of the jump.
        level: 0 if its operands move in one straight line, else one more than that of the switches they depend on.
        moves: Whether the times may depend on parameters.
        bend: The curve that its operands are linear in; None where they move in straight lines.
    """

    jump: Jump
    operands: tuple[Any, ...]
    level: int
    moves: bool
    bend: "Bend | None" = None


@dataclass(frozen=True)
class Bend:
    """A curve on a tape.

    Attributes:
        curve: The function.
        value: Where its value is.
        line: Where what it is a function of is.
    """

    curve: Curve
    value: Place
    line: Place


@dataclass(frozen=True)
class Tape:
    """Operations in order.

    Attributes:
        inputs: Number of inputs: the time, what changes from record to record, parameters.
        operations: What is computed of them.
    """

    inputs: int
    operations: tuple[Operation, ...]

    def evaluate(
        self, inputs: Sequence[Tensor], held: Mapping[int, Tensor], given: Mapping[int, Any] = _NOTHING
    ) -> list[Any]:
        """Compute everything.

        Args:
            inputs: The time ``(*shape)``, what changes ``(*shape)`` each, and parameters that broadcast to it.
            held: By switch, what it holds; the others are computed.
            given: By place, values to take in place of what would be computed.

        Returns:
            Inputs, then the results of the operations.
        """
        values: list[Any] = list(inputs)
        for operation in self.operations:
            if len(values) in given:
                values.append(given[len(values)])
                continue
            operands = chosen(operation.operands, values)
            if operation.switch in held:
                assert operation.switch is not None and operation.restored is not None
                values.append(operation.restored(operands, held[operation.switch]))
            else:
                # where a switch decides, results are wanted in gradients only once it is held
                with torch.set_grad_enabled(torch.is_grad_enabled() and operation.switch is None):
                    values.append(operation.function(*operands, **dict(operation.named)))
        return values


def chosen(operands: tuple[Any, ...], values: Sequence[Any]) -> tuple[Any, ...]:
    """Operands with the values in their places."""
    return tuple(values[operand.index] if isinstance(operand, Place) else operand for operand in operands)

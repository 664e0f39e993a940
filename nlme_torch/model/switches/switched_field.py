"""Dynamics that switch in time as a vector field: what is held between two switches rides along with the states."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nlme_torch.errors import ModelError
from nlme_torch.model.switches.switch_trace import Notice, Switches, Tracing
from nlme_torch.model.switches.time_jumps import jump_name

Dynamics = Callable[[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]
"""``(t, states, changing, parameters) -> (state, *batch)``."""


class SwitchedVectorField:
    """``dy/dt`` in which no comparison of the time is left: each reads what a passenger holds.

    Passengers follow the states and what changes from record to record. They jump where the switches do, which are
    stops of the solver, so that it never steps over a switch.

    Args:
        dynamics: The vector field of a model, taken apart.
        states: Number of the model's states.
        switches: Its switches.

    Attributes:
        found: What is known of its switches.
        switches: Each of them.
    """

    def __init__(self, dynamics: Dynamics, states: int, switches: Switches) -> None:
        self._dynamics, self._states, self.found = dynamics, states, switches
        self.switches = switches.switches
        self.kernels: dict[Any, Any] = {}

    def __call__(self, t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Evaluate the derivative.

        Args:
            t: ``(*batch)`` [time].
            y: ``(state, *batch)``: states, what changes from record to record, and what switches hold.
            parameters: The tensors of ``p``, right-aligned with the batch.

        Returns:
            ``(state, *batch)`` [state / time].
        """
        rows, count = y.unbind(0), len(self.switches)
        states, changing, held = rows[: self._states], rows[self._states : -count], rows[-count:]
        holding = _Holding(self.found, held)
        with holding:
            derivative = self._dynamics(t, states, changing, parameters)
        holding.check()
        return torch.cat([derivative, torch.zeros_like(y[self._states :])])


class _Holding(TorchFunctionMode):
    """While active, operations that are switches read what is held."""

    def __init__(self, switches: Switches, held: tuple[Tensor, ...]) -> None:
        super().__init__()
        self._calls, self._held, self._count = switches.calls, held, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if jump_name(func, args, kwargs) is not None:
            self._count += 1
            call = self._calls[self._count - 1] if self._count <= len(self._calls) else None
            if call is not None:
                switch, restored = call
                return restored(args, self._held[switch])
        return func(*args, **(kwargs or {}))

    def check(self) -> None:
        """Refuse dynamics that do other things from call to call."""
        if self._count != len(self._calls):
            raise ModelError(
                f"dynamics compared {len(self._calls)} times in one call and {self._count} times in another: write it "
                "so that it does the same in every call, with torch.where in place of branches of Python."
            )


def find_switches(
    dynamics: Dynamics, states: int, initial: Tensor, parameters: tuple[Tensor, ...], interpolated: bool
) -> Switches | None:
    """Look for switches in time.

    Args:
        dynamics: The vector field of a model, taken apart.
        states: Number of the model's states.
        initial: ``(state, chain, start, subject)``, states and then what changes from record to record.
        parameters: The tensors of ``p``, right-aligned with the batch.
        interpolated: Whether what changes moves in straight lines between records.

    Returns:
        What was found; None where nothing is called that may jump.
    """

    def examples(values: Iterable[Tensor]) -> tuple[Tensor, ...]:
        return tuple(value.detach()[..., :1, :1, :1].clone() for value in values)

    (time, *rows), given = examples((torch.zeros_like(initial[0]), *initial)), examples(parameters)
    known, changing = tuple(rows[:states]), tuple(rows[states:])
    with torch.no_grad(), Notice() as notice:
        dynamics(time, known, changing, given)
    if not notice.noticed:
        return None
    for value in (time, *rows, *given):
        value.requires_grad_(value.is_floating_point())
    with torch.enable_grad(), Tracing(time, changing, given, known, interpolated) as tracing:
        dynamics(time, known, changing, given)
    return tracing.found()

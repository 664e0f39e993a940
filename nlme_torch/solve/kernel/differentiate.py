"""A compiled solve as a differentiable function: backward, and backward again as often as the field allows."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.library import Inputs, Limits, Outcome, Tape, replay, transpose, walk


@dataclass
class Solve:
    """One compiled solve: what is needed besides the tensors that carry gradients.

    Attributes:
        kernel: the compiled field.
        limits: tolerances.
        last: (subject) index of the last stop.
        resets: (stop, subject) or None.
        record: whether steps are to be kept for derivatives.
        outcome: filled by the walk.
        tape: filled by the walk.
    """

    kernel: Kernel
    limits: Limits
    last: Tensor
    resets: Tensor | None
    record: bool
    outcome: Outcome | None = None
    tape: Tape | None = None

    def inputs(self, tensors: tuple[Tensor | None, ...]) -> Inputs:
        """The kernel's inputs from the differentiable tensors in their order."""
        initial, times, own, shared, amounts, rates = tensors
        assert initial is not None and times is not None and own is not None and shared is not None
        return Inputs(initial, times, self.last, own, shared, amounts, rates, self.resets)

    def tangent(self) -> "Solve":
        """The same solve of states and their derivatives along a direction, by the same steps."""
        return replace(self, kernel=self.kernel.tangent)

    def arrivals(self, *tensors: Tensor | None) -> Tensor:
        """(stop, state, subject) states on arrival; fills outcome and tape.

        Args:
            *tensors: initial (state, subject), times (stop, subject), own (parameter, subject), shared
                (parameter), amounts and rates (stop, state, subject) or None.
        """
        if self.record:
            return _Arrivals.apply(self, *tensors)
        arrivals, self.outcome, _ = walk(self.kernel.forwards, self.inputs(tensors), self.limits, False)
        return arrivals


class _Arrivals(torch.autograd.Function):
    """The adaptive walk; its derivative holds the relative step sizes constant."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, *tensors: Tensor | None) -> Tensor:
        ctx.solve = solve
        ctx.save_for_backward(*tensors)
        arrivals, solve.outcome, solve.tape = walk(solve.kernel.forwards, solve.inputs(tensors), solve.limits, True)
        return arrivals

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        cotangent = torch.where(torch.isfinite(cotangent), cotangent, 0.0)
        return (None, *_Transpose.apply(ctx.solve, ctx.needs_input_grad[2], cotangent, *ctx.saved_tensors))


class _Transpose(torch.autograd.Function):
    """v, x -> J(x)' v; differentiated by the tangent field: (u' J' v) has the x-gradient of (J u)' v."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, with_times: bool, cotangent: Tensor, *tensors: Tensor | None) -> Any:
        ctx.solve, ctx.with_times = solve, with_times
        ctx.save_for_backward(cotangent, *tensors)
        assert solve.tape is not None and solve.outcome is not None
        return transpose(
            solve.kernel.backwards, solve.inputs(tensors), solve.limits, solve.tape, solve.outcome.status,
            cotangent, with_times,
        )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Any, ...]:
        solve: Solve = ctx.solve
        cotangent, *tensors = ctx.saved_tensors
        if ctx.with_times:
            raise NotImplementedError("second derivatives with respect to times need Tsit5(compile=False)")
        pairs = [
            value if index == 1 or value is None else torch.cat([value, _or_zero(direction, value)], _AXES[index])
            for index, (value, direction) in enumerate(zip(tensors, directions, strict=True))
        ]
        tangent = solve.tangent()
        tangents = _Replay.apply(tangent, *pairs)[:, tensors[0].shape[0] :]
        padded = torch.cat([torch.zeros_like(cotangent), cotangent], 1)
        gradients = _Transpose.apply(tangent, False, padded, *pairs)
        halves = [
            None if gradient is None or value is None else gradient.narrow(_AXES[index], 0, value.shape[_AXES[index]])
            for index, (gradient, value) in enumerate(zip(gradients, tensors, strict=True))
        ]
        return (None, None, torch.where(torch.isfinite(tangents), tangents, 0.0), *halves)


class _Replay(torch.autograd.Function):
    """The arrivals by the steps of an earlier walk, as a function of everything but the steps."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, *tensors: Tensor | None) -> Tensor:
        ctx.solve = solve
        ctx.save_for_backward(*tensors)
        assert solve.tape is not None and solve.outcome is not None
        return replay(solve.kernel.backwards, solve.inputs(tensors), solve.limits, solve.tape, solve.outcome.status)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        cotangent = torch.where(torch.isfinite(cotangent), cotangent, 0.0)
        return (None, *_Transpose.apply(ctx.solve, False, cotangent, *ctx.saved_tensors))


# The axis along which values and their tangents are joined: initial, times, own, shared, amounts, rates.
_AXES = (0, 0, 0, 0, 1, 1)


def _or_zero(direction: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if direction is None else direction

"""A compiled solve as a differentiable function: backward, and backward again as often as the field allows."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.library import Inputs, Limits, Outcome, Tape, replay, transpose, walk

Gradients: TypeAlias = tuple[Tensor | None, ...]
# The axis along which values and their tangents are joined: initial, times, own, shared, amounts, rates.
_AXES = (0, 0, 0, 0, 1, 1)
_SHARED = 3
"""Which argument all subjects share."""


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

    def solved_only(self, cotangent: Tensor) -> Tensor:
        """The cotangent (stop, state, subject) without what is not finite of subjects whose solve failed."""
        assert self.outcome is not None
        return torch.where(torch.isfinite(cotangent) | (self.outcome.status == 0), cotangent, 0.0)

    def transposed(self, cotangent: Tensor, with_times: bool, tensors: tuple[Tensor | None, ...]) -> Gradients:
        """The transposed derivative of the arrivals, with absolute zeros for the subjects that need them.

        Where a derivative is infinite and what it is multiplied with is exactly 0, plain arithmetic gives NaN. This
        is rare: it is noticed in the result, and those subjects are done again by the careful kernel.

        Args:
            cotangent: (stop, state, subject).
            with_times: whether to differentiate the times too.
            tensors: the differentiable tensors in their order.

        Returns:
            One gradient per tensor, None where there is none.
        """
        assert self.tape is not None and self.outcome is not None
        inputs, tape, status = self.inputs(tensors), self.tape, self.outcome.status

        def by(kernel: Kernel, chosen: Tensor | None) -> Gradients:
            return transpose(kernel.backwards, inputs, self.limits, tape, status, cotangent, with_times, chosen)

        found = by(self.kernel, None)
        shared = found[_SHARED]
        assert shared is not None
        spoiled = torch.zeros_like(status, dtype=torch.bool)
        for place, gradient in enumerate(found):
            if gradient is not None and place != _SHARED and gradient.numel():
                spoiled = spoiled | ~torch.isfinite(gradient).reshape(-1, len(status)).all(0)
        if not bool(spoiled.any()) and not bool(torch.isfinite(shared).all()):
            spoiled = torch.ones_like(spoiled)
        spoiled = spoiled & (status == 0)
        if self.kernel.field.careful or not bool(spoiled.any()):
            return found
        again = by(self.kernel.careful, spoiled.nonzero()[:, 0])
        if shared.numel():
            others = (~spoiled).nonzero()[:, 0]
            shared = again[_SHARED] if not len(others) else by(self.kernel, others)[_SHARED] + again[_SHARED]  # type: ignore[operator]
        return tuple(
            shared if place == _SHARED else None if fast is None else torch.where(spoiled, careful, fast)  # type: ignore[arg-type]
            for place, (fast, careful) in enumerate(zip(found, again, strict=True))
        )

    def replayed(self, tensors: tuple[Tensor | None, ...]) -> Tensor:
        """The arrivals of states and tangents by the steps of an earlier walk, with absolute zeros where needed."""
        assert self.tape is not None and self.outcome is not None
        inputs, tape, status = self.inputs(tensors), self.tape, self.outcome.status
        found = replay(self.kernel.backwards, inputs, self.limits, tape, status)
        states, tangents = found.split(found.shape[1] // 2, 1)
        spoiled = (torch.isfinite(states) & ~torch.isfinite(tangents)).flatten(0, 1).any(0) & (status == 0)
        if self.kernel.field.careful or not bool(spoiled.any()):
            return found
        chosen = spoiled.nonzero()[:, 0]
        return torch.where(
            spoiled, replay(self.kernel.careful.backwards, inputs, self.limits, tape, status, chosen), found
        )

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
        cotangent = ctx.solve.solved_only(cotangent)
        return (None, *_Transpose.apply(ctx.solve, ctx.needs_input_grad[2], cotangent, *ctx.saved_tensors))


class _Transpose(torch.autograd.Function):
    """v, x -> J(x)' v; differentiated by the tangent field: (u' J' v) has the x-gradient of (J u)' v."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, with_times: bool, cotangent: Tensor, *tensors: Tensor | None) -> Any:
        ctx.solve, ctx.with_times = solve, with_times
        ctx.save_for_backward(cotangent, *tensors)
        return solve.transposed(cotangent, with_times, tensors)

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
        states, tangents = _Replay.apply(tangent, *pairs).split(tensors[0].shape[0], 1)
        padded = torch.cat([torch.zeros_like(cotangent), cotangent], 1)
        gradients = _Transpose.apply(tangent, False, padded, *pairs)
        halves = [
            None if gradient is None or value is None else gradient.narrow(_AXES[index], 0, value.shape[_AXES[index]])
            for index, (gradient, value) in enumerate(zip(gradients, tensors, strict=True))
        ]
        return (None, None, torch.where(torch.isfinite(states), tangents, 0.0), *halves)


class _Replay(torch.autograd.Function):
    """The arrivals by the steps of an earlier walk, as a function of everything but the steps."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, *tensors: Tensor | None) -> Tensor:
        ctx.solve = solve
        ctx.save_for_backward(*tensors)
        return solve.replayed(tensors)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        cotangent = ctx.solve.solved_only(cotangent)
        return (None, *_Transpose.apply(ctx.solve, False, cotangent, *ctx.saved_tensors))


def _or_zero(direction: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if direction is None else direction

"""What a multilayer perceptron refuses to be made of."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nlme_torch.errors import ModelError


def checked_scale(scale: Sequence[float] | str, count: int, side: str = "input") -> Tensor:
    """The scale of the inputs or outputs as a tensor."""
    numbers = () if isinstance(scale, str) else tuple(map(float, scale))
    if len(numbers) != count or not all(0 < number < math.inf for number in numbers):
        name, words = ("scale", "'auto', 'standard'") if side == "input" else ("output_scale", "'auto'")
        raise ModelError(
            f"MLP: {name} must be {words} or {count} positive numbers, one for each {side}; got {scale!r}."
        )
    return torch.tensor(numbers, dtype=torch.float64)


def check_constraints(
    inputs: int, activation: str, output: str, increasing: Sequence[int], decreasing: Sequence[int], zero_at_zero: bool
) -> None:
    """Refuse constraints that the architecture cannot keep."""
    named = (*increasing, *decreasing)
    if any(not 0 <= position < inputs for position in named) or len(set(named)) < len(named):
        raise ModelError(
            f"MLP with {inputs} inputs: increasing={tuple(increasing)} and decreasing={tuple(decreasing)} must name "
            f"different inputs by position, 0 to {inputs - 1}."
        )
    if named and "silu" in (activation, output):
        raise ModelError("MLP: silu is not monotone; use tanh, softplus or sigmoid.")
    for name, value in (("activation", activation), ("output", output)):
        if zero_at_zero and value not in ("tanh", "silu", "identity"):
            raise ModelError(f"MLP: {name}={value!r} is not zero at zero; use tanh, silu or identity.")

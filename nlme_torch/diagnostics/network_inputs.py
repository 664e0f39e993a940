"""Which input of a network varies in a picture, over which range, and where the others are held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from nlme_torch.diagnostics.network_calls import NetworkCalls
from nlme_torch.errors import ModelError

VARY = "vary"
Inputs = Sequence[str] | Mapping[str, str | float | Sequence[float] | None]


@dataclass(frozen=True)
class InputPlan:
    """What every input does.

    Attributes:
        labels: One per input.
        varied: Positions of the inputs that vary.
        limits: Lowest and highest value of each varied input.
        held: Slices, each with one entry per input: a number, or None where the input varies or is each
            subject's own.
    """

    labels: tuple[str, ...]
    varied: tuple[int, ...]
    limits: tuple[tuple[float, float], ...]
    held: tuple[tuple[float | None, ...], ...]


def plan_inputs(
    calls: NetworkCalls, inputs: Inputs | None, count: int, limits: Sequence[tuple[float, float] | None]
) -> InputPlan:
    """Settle what was left open: inputs that move along solutions vary first, then those that differ.

    Args:
        calls: The calls at the conditional modes.
        inputs: Labels in the order of the network's arguments, or label to ``"vary"``, a number (held there),
            several numbers (one slice each) or None (held: each subject's own value where it is constant
            within subjects, such as a latent, otherwise the mean over the observations).
        count: How many inputs vary.
        limits: Range of each varied input, or None for the range that the data visited.

    Returns:
        The plan.

    Raises:
        ModelError: The inputs do not fit the network.
    """
    own, visited = subject_level(calls), visited_values(calls, calls.solved)
    seen = visited_values(calls, calls.solved & calls.observed)
    labels = calls.labels if inputs is None else tuple(inputs)
    if len(labels) != len(calls.labels) or isinstance(inputs, str):
        raise ModelError(
            f"the network has {len(calls.labels)} inputs, {', '.join(calls.labels)}; "
            f"inputs must name as many, got {inputs!r}."
        )
    wishes = list(inputs.values()) if isinstance(inputs, Mapping) else [None] * len(labels)
    varied = [index for index, wish in enumerate(wishes) if wish == VARY]
    free = [index for index, wish in enumerate(wishes) if wish is None]
    by_movement = sorted(free, key=lambda index: (own[index], np.ptp(visited[index]) == 0))
    varied = sorted(varied + by_movement[: max(count - len(varied), 0)])
    if len(varied) != count:
        raise ModelError(f"{count} of the inputs {', '.join(labels)} must vary here, not {len(varied)}.")
    choices: list[list[float | None]] = []
    for index, wish in enumerate(wishes):
        if index in varied or (wish is None and own[index]):
            choices.append([None])
        elif wish is None:
            choices.append([float(np.mean(seen[index]))])
        else:
            choices.append(_numbers(labels[index], wish))
    padded = [*limits, *[None] * count][:count]
    ranges = tuple(given or _range(visited[index]) for index, given in zip(varied, padded, strict=True))
    return InputPlan(labels, tuple(varied), ranges, tuple(product(*choices)))


def _numbers(name: str, wish: object) -> list[float | None]:
    try:
        return [float(value) for value in np.atleast_1d(np.asarray(wish, dtype=float))]
    except (TypeError, ValueError):
        raise ModelError(f"input {name!r}: give {VARY!r}, a number, several numbers or None, not {wish!r}.") from None


def visited_values(calls: NetworkCalls, where: Tensor) -> list[np.ndarray]:
    """Return, for every input, the values at the records asked for, ``(record, subject)``, flat."""
    mask = where[None, :, None].expand(calls.inputs.shape[1:])
    return [values[mask].numpy(force=True) for values in calls.inputs]


def subject_level(calls: NetworkCalls) -> list[bool]:
    """Say of every input whether it is constant along each subject's solution."""
    mask = calls.solved[:, None].expand(calls.inputs.shape[2:])
    result = []
    for values in calls.inputs:
        top = torch.where(mask, values, -torch.inf).amax(1).amax(0)
        bottom = torch.where(mask, values, torch.inf).amin(1).amin(0)
        moved = torch.where(mask.any(0), top - bottom, 0.0)
        result.append(bool((moved <= 1e-9 * (1.0 + top.abs())).all()))
    return result


def own_values(calls: NetworkCalls, index: int) -> Tensor:
    """Return a subject-level input of the first call, ``(chain, subject)``."""
    return calls.inputs[index, 0, 0]


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = max(0.1 * abs(low), 0.1) if low == high else 0.0
    return low - margin, high + margin

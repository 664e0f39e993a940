"""Which parameters each subject has its own values of, and their packing for a kernel."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the tensors of a problem are laid out, independent of the number of subjects.

    Attributes:
        states: number of states.
        axes: number of batch axes.
        shapes: for each parameter its component axes (own) or its whole shape (shared).
        own: for each parameter, whether its trailing axes are the batch's.
    """

    states: int
    axes: int
    shapes: tuple[tuple[int, ...], ...]
    own: tuple[bool, ...]

    def places(self, chosen: tuple[bool, ...]) -> frozenset[tuple[str, int]]:
        """The kernel's inputs ("own" or "shared", position) that chosen parameters fill."""
        found, counts = set(), {"own": 0, "shared": 0}
        for shape, mine, wanted in zip(self.shapes, self.own, chosen, strict=True):
            kind, size = "own" if mine else "shared", math.prod(shape)
            if wanted:
                found |= {(kind, counts[kind] + index) for index in range(size)}
            counts[kind] += size
        return frozenset(found)

    def pack(self, parameters: tuple[Tensor, ...], batch: torch.Size, like: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters as (own, subject) and (shared,), by differentiable operations.

        Args:
            parameters: the problem's parameters.
            batch: the batch shape.
            like: a tensor of the wanted dtype.

        Returns:
            Two tensors.
        """
        count = math.prod(batch)
        own, shared = [], []
        for value, shape, mine in zip(parameters, self.shapes, self.own, strict=True):
            value = value.to(like)
            if mine:
                own.append(value.expand(*shape, *batch).reshape(math.prod(shape), count))
            else:
                shared.append(value.reshape(-1))
        return (
            _join(own) if own else like.new_zeros(0, count),
            _join(shared) if shared else like.new_zeros(0),
        )


def layouts(states: int, batch: torch.Size, parameters: tuple[Tensor, ...]) -> list[Layout]:
    """The possible readings of the parameters' shapes, the likeliest first.

    A parameter is a subject's own when its trailing axes are the batch's (each equal, or 1 in some places). Tensors
    with as many axes as the batch or fewer may also be shared vectors that happen to have that length: the second
        reading.

    Args:
        states: number of states.
        batch: the batch shape.
        parameters: the problem's parameters.

    Returns:
        One or two layouts; a caller compares the kernel's slopes with the field's to decide.
    """
    axes = len(batch)
    first, second = [], []
    for value in parameters:
        trailing = value.shape[value.ndim - axes :] if value.ndim >= axes else None
        fits = trailing is not None and all(s in (1, b) for s, b in zip(trailing, batch, strict=True))
        constant = fits and all(s == 1 for s in trailing or ()) and any(b != 1 for b in batch)
        mine = fits and not constant
        first.append((mine, tuple(value.shape[: value.ndim - axes]) if mine else tuple(value.shape)))
        doubtful = mine and value.ndim <= axes + 1
        second.append((False, tuple(value.shape)) if doubtful else first[-1])
    found = []
    for reading in (first, second):
        own, shapes = zip(*reading, strict=True) if reading else ((), ())
        layout = Layout(states, axes, tuple(shapes), tuple(own))
        if layout not in found:
            found.append(layout)
    return found


def _join(pieces: list[Tensor]) -> Tensor:
    return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces)

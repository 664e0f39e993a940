"""Parameters of many shapes as columns: one column per subject, one row per number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

import torch
from torch import Tensor

_LARGEST_REPEATED = 64
"""A parameter shared by all subjects with more numbers than this is kept once instead of once per subject."""


@dataclass(frozen=True)
class Layout:
    """How one parameter is read.

    Attributes:
        components: leading axes, which are no batch axes.
        shared: one value for all subjects, kept once.
        repeated: whether a shared parameter has batch axes all the same, of length one.
    """

    components: tuple[int, ...]
    shared: bool
    repeated: bool = True

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.components)


def guess_layouts(
    parameters: Sequence[Tensor], batch: Sequence[int], component_axes: Sequence[int] | None = None, limit: int = 32
) -> list[tuple[Layout, ...]]:
    """Readings of parameters that are right-aligned with the batch, the likeliest first.

    Args:
        parameters: tensors (*components, *batch-broadcastable).
        batch: the batch shape.
        component_axes: number of component axes of each parameter, where the vector field knows it.
        limit: largest number of readings.

    Returns:
        Readings, each one layout per parameter.
    """
    choices = []
    for index, parameter in enumerate(parameters):
        if component_axes is not None:
            options = [component_axes[index]]
        else:
            least = max(0, parameter.ndim - len(batch))
            options = [axes for axes in range(least, parameter.ndim + 1) if _fits(parameter.shape[axes:], batch)]
        choices.append([_layout(parameter, axes) for axes in options])
    return list(islice(product(*choices), limit))


def own_columns(parameters: Sequence[Tensor], layouts: Sequence[Layout], batch: torch.Size) -> Tensor | None:
    """The parameters of each subject stacked, (row, column); None where there are none."""
    pieces = []
    for parameter, layout in zip(parameters, layouts, strict=True):
        if not layout.shared and layout.rows:
            axes = len(layout.components)
            missing = len(batch) - (parameter.ndim - axes)
            aligned = parameter.reshape(*layout.components, *(1,) * missing, *parameter.shape[axes:])
            pieces.append(aligned.expand(*layout.components, *batch).reshape(layout.rows, -1).double())
    return torch.cat(pieces) if pieces else None


def shared_values(parameters: Sequence[Tensor], layouts: Sequence[Layout]) -> Tensor | None:
    """The parameters that all subjects share, in one vector; None where there are none."""
    pieces = [p.reshape(-1).double() for p, layout in zip(parameters, layouts, strict=True) if layout.shared]
    return torch.cat(pieces) if pieces else None


def _layout(parameter: Tensor, axes: int) -> Layout:
    components = tuple(parameter.shape[:axes])
    if axes == parameter.ndim:
        return Layout(components, shared=True, repeated=False)
    single = all(size == 1 for size in parameter.shape[axes:])
    return Layout(components, shared=single and math.prod(components) > _LARGEST_REPEATED)


def _fits(shape: Sequence[int], batch: Sequence[int]) -> bool:
    trailing = list(batch)[len(batch) - len(shape) :] if shape else []
    return len(shape) <= len(batch) and all(size in (1, whole) for size, whole in zip(shape, trailing, strict=True))

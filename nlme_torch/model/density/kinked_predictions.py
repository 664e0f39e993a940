"""Whether ``predict`` has kinks that move with parameters: where a search by gradients may be misled.

A closed form may switch at a lag (``torch.where(t > p.lag, ...)``) or be cut (``clamp``, ``relu``, ``abs``). Where such
a place passes an observation, the likelihood has a kink or a jump as a function of what moves it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.switches.time_jumps import jump_name

_BENT = frozenset(
    {
        "abs", "absolute", "relu", "relu6", "leaky_relu", "prelu", "threshold", "hardtanh", "hardsigmoid", "hardswish",
        "hardshrink", "softshrink", "clamp", "clip", "clamp_min", "clamp_max", "minimum", "maximum", "fmin", "fmax",
        "max", "min", "amax", "amin", "median", "sort", "searchsorted", "bucketize", "frac", "eq", "ne",
    }
)  # fmt: skip


class _Kinks(TorchFunctionMode):
    """While active, notices whether an operation that bends or jumps meets what depends on parameters."""

    noticed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        if name in _BENT or jump_name(func, args, kwargs) is not None:
            leaves = tree_leaves((args, kwargs))
            self.noticed = self.noticed or any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
        return func(*args, **(kwargs or {}))


def predictions_kink(density: Density) -> bool:
    """Return whether a model without dynamics predicts by something that bends or jumps where parameters decide.

    Args:
        density: A model with its data.
    """
    model, batch = density.model, density.batch
    if model.has_dynamics:
        return False
    with torch.enable_grad():
        values = {name: value.detach().requires_grad_() for name, value in parameter_values(model).items()}
        effects = torch.zeros(
            model.n_effects, 1, 1, batch.n_subjects, dtype=batch.dtype, device=batch.device, requires_grad=True
        )
        conditional = density.at(values)
        individual = conditional.individual(effects)
        with _Kinks() as kinks:
            conditional.predict(individual, effects)
    return kinks.noticed

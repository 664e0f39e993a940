"""The estimated parameters that have a standard error: as a vector, and as the scalars that a reader expects."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.raw_parameters import omega_name, raw_parameters
from nlme_torch.model.declare.scalars import omega_scalars, structural_scalars
from nlme_torch.model.declare.values import ParameterValues, flatten_values, free_names, unflatten_values
from nlme_torch.model.parameters.transforms import Identity, Log, Transform
from nlme_torch.model.random_effects.covariance import (
    DiagonalCovariance,
    FullCovariance,
    PartlyFixedCovariance,
    ScalarCovariance,
)


class FreeScalars:
    """The free parameters of a model apart from network weights, whose permutations leave a likelihood unchanged.

    Args:
        model: The model.
        values: Raw name to ``(1, *shape)``: the estimates, and the values of everything fixed.

    Attributes:
        whole: All free parameters on the estimation scale, ``(parameter,)``.
        kept: Which of them are no network weights, ``(kept,)``.
        labels: Short names of the kept parameters on the estimation scale.
        names: Names of the scalars on the natural scale that move with them.
        scales: How each scalar is mapped to the whole real line, where its confidence limits are symmetric.

    Raises:
        FitError: Nothing but network weights is estimated.
    """

    def __init__(self, model: Model, values: ParameterValues) -> None:
        self.model, self.values = model, dict(values)
        self.free = free_names(model)
        table, position = raw_parameters(model), 0
        kept: list[int] = []
        for name in self.free:
            count = model.get_parameter(name).numel()
            if not table[name].role.of_network:
                kept += range(position, position + count)
            position += count
        if not kept:
            raise FitError("no parameter with a standard error was estimated: everything is fixed or a network weight.")
        self.kept = torch.as_tensor(kept)
        self.whole = flatten_values(values, self.free)[0]
        labels = raw_labels(model, self.free)
        self.labels = [labels[place] for place in kept]
        vector = self.vector.detach().requires_grad_()
        with torch.enable_grad():
            found = self._scalars(vector[None])
            self.names = [name for name, value in found.items() if value.requires_grad and _moves(value, vector)]
        self.scales = [_scale(model, name) for name in self.names]

    @property
    def vector(self) -> Tensor:
        """The kept parameters at the estimates, ``(kept,)``."""
        return self.whole[self.kept]

    def complete(self, vectors: Float[Tensor, "start kept"]) -> Float[Tensor, "start parameter"]:
        """Return all free parameters, with network weights at their estimates."""
        whole = self.whole.expand(len(vectors), -1)
        return whole.index_copy(1, self.kept.to(whole.device), vectors)

    def at(self, vectors: Float[Tensor, "start kept"]) -> dict[str, Tensor]:
        """Return raw name to ``(start, *shape)``."""
        return unflatten_values(self.complete(vectors), self.values, self.free)

    def natural(self, vectors: Float[Tensor, "start kept"]) -> Float[Tensor, "start scalar"]:
        """Return the scalars in the order of :attr:`names`."""
        found = self._scalars(vectors)
        return torch.stack([found[name] for name in self.names], 1)

    def jacobian(self) -> Float[Tensor, "scalar kept"]:
        """Return the derivatives of the scalars at the estimates."""
        # copies on the start axis: entry k of copy k
        copies = self.vector.detach().expand(len(self.names), -1).clone().requires_grad_()
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(self.natural(copies).diagonal().sum(), copies)
        return slopes

    def _scalars(self, vectors: Tensor) -> dict[str, Tensor]:
        values = self.at(vectors)
        return {**structural_scalars(self.model, values), **omega_scalars(self.model, values)}


def slope_of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the gradient of a scalar function at a point."""
    point = at.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(point), point)[0]


def raw_labels(model: Model, names: Sequence[str]) -> list[str]:
    """Return a short name of every entry of some raw parameters, in the order of their vector."""
    labels: list[str] = []
    omegas, table = _omega_labels(model), raw_parameters(model)
    for name in names:
        count, short = model.get_parameter(name).numel(), table[name].label
        labels += omegas.get(name) or ([short] if count == 1 else [f"{short}[{index}]" for index in range(count)])
    return labels


def _omega_labels(model: Model) -> dict[str, list[str]]:
    """Raw name of a covariance parameter to the names of the variances and covariances that it stands for."""
    labels = {}
    for block in model.blocks:
        names, covariance = block.distinct_names, block.distinct
        if isinstance(covariance, DiagonalCovariance):
            labels[omega_name(block, "log_sd")] = [f"omega_{name}" for name in names]
        elif isinstance(covariance, ScalarCovariance):
            labels[omega_name(block, "log_sd")] = [f"omega_{block.name}"]
        elif isinstance(covariance, FullCovariance):
            pairs = torch.tril_indices(covariance.size, covariance.size).T.tolist()
            labels[omega_name(block, "factor")] = [_entry_label(names, row, column) for row, column in pairs]
        elif isinstance(covariance, PartlyFixedCovariance):
            labels[omega_name(block, "entries")] = [
                _entry_label(names, row, column) for row, column in covariance.positions()
            ]
    return labels


def _entry_label(names: Sequence[str], row: int, column: int) -> str:
    return f"omega_{names[row]}" if row == column else f"omega_{names[column]},{names[row]}"


def _moves(value: Tensor, vector: Tensor) -> bool:
    (slope,) = torch.autograd.grad(value.sum(), vector, retain_graph=True, allow_unused=True)
    return slope is not None and bool((slope != 0).any())


def _scale(model: Model, name: str) -> Transform:
    if name.startswith("omega_"):
        return Identity() if "," in name else Log()
    return getattr(model.components.get(name), "transform", Identity())

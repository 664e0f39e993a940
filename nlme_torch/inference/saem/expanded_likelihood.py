r"""The likelihood of held draws near some parameters, to second order, from compiled derivatives.

.. math:: Q(u) = \sum_i \frac{1}{C} \sum_c \Big( \ell_{ic} + g_{ic}^\top u_i + \tfrac12 u_i^\top H_{ic} u_i \Big)

where u is by how much the means of effects and the population's parameters have moved from where it was expanded.
There the value, gradient and Hessian of Q in any parameters behind them are those of the likelihood itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.compiled.readings import population_readings
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter

MOST_DIRECTIONS = 10
"""With more, second derivatives written out are too long to be compiled soon."""


@dataclass(frozen=True)
class MovedInputs:
    """What of the inputs of a compiled likelihood some raw parameters move.

    Attributes:
        effects: Positions of the effects whose means move.
        readings: Positions of what is read of the population.
    """

    effects: tuple[int, ...]
    readings: tuple[int, ...]

    def directions(self, n_effects: int) -> tuple[int, ...]:
        """Positions among all inputs: effects, their means, readings of the population."""
        return (*self.effects, *(2 * n_effects + reading for reading in self.readings))

    def values(self, conditional: Conditional) -> Float[Tensor, "direction start subject"]:
        """Means of the effects and what is read of the population."""
        subjects = conditional.density.batch.n_subjects
        rows = [conditional.mean[effect].expand(-1, subjects) for effect in self.effects]
        if self.readings:
            found = [value.reshape(conditional.starts, -1) for value in population_readings(conditional).values()]
            flat = torch.cat(found, 1)
            rows += [flat[:, reading, None].expand(-1, subjects) for reading in self.readings]
        return torch.stack(rows)

    def slopes(
        self, density: Density, values: ParameterValues, names: Sequence[str]
    ) -> tuple[Float[Tensor, "direction start subject parameter"], Float[Tensor, "direction start parameter"]]:
        """First and, where they are not zero, second derivatives of these inputs in raw parameters.

        Args:
            density: The model with its data.
            values: Raw name to ``(start, *shape)``.
            names: Raw names; second derivatives are those of one parameter twice.
        """
        some = values[names[0]]
        starts, subjects, count = len(some), density.batch.n_subjects, sum(values[name][0].numel() for name in names)
        positions = _population_positions(density.at(values))
        first = some.new_zeros(len(self.effects) + len(self.readings), starts, subjects, count)
        second = some.new_zeros(len(first), starts, count)
        column = 0
        for name in names:
            owner, _, rest = name.partition(".")
            width = values[name][0].numel()
            part = slice(column, column + width)
            column += width
            component = density.model.components[owner]
            if isinstance(component, PopulationParameter):
                row = len(self.effects) + self.readings.index(positions[owner])
                with torch.enable_grad():
                    leaf = values[name].detach().clone().requires_grad_()
                    (slope,) = torch.autograd.grad(component.natural(leaf).sum(), leaf, create_graph=True)
                    bend = torch.zeros_like(leaf)
                    if slope.requires_grad:
                        (bend,) = torch.autograd.grad(slope.sum(), leaf)
                first[row, :, :, column - 1] = slope.detach()[:, None]
                second[row, :, column - 1] = bend
            elif effect_positions(density)[owner] in self.effects:
                row = self.effects.index(effect_positions(density)[owner])
                regressor = 1.0 if rest == "typical" else density.regressors[owner, rest.split(".")[1]]
                if isinstance(regressor, Tensor) and regressor.dim() == 2:
                    regressor = regressor.mT
                elif isinstance(regressor, Tensor):
                    regressor = regressor[:, None]
                first[row, :, :, part] = regressor
        return first, second


@dataclass(frozen=True)
class ExpandedLikelihood:
    """Q of every start as a function of the parameters, right to second order.

    Attributes:
        density: The model with its data.
        moved: What moves.
        origin: Its values where the expansion was made, ``(direction, start, subject)``.
        jets: Value, gradient and Hessian, averaged over draws, ``(entry, start, subject)``.
        finite: Draws that can be evaluated.
    """

    density: Density
    moved: MovedInputs
    origin: Tensor
    jets: Tensor
    finite: Bool[Tensor, "chain start subject"]

    def __call__(self, values: ParameterValues) -> Float[Tensor, "start"]:
        """Return Q, differentiable in the parameters."""
        shift = self.moved.values(self.density.at(values)) - self.origin
        count = len(shift)
        total = self.jets[0] + (self.jets[1 : 1 + count] * shift).sum(0)
        rows, columns = torch.tril_indices(count, count)
        weight = torch.where(rows == columns, 0.5, 1.0).to(shift)[:, None, None]
        total = total + (weight * self.jets[1 + count :] * shift[rows] * shift[columns]).sum(0)
        return total.sum(-1)

    def derivatives(
        self, values: ParameterValues, names: Sequence[str]
    ) -> tuple[Float[Tensor, "start parameter"], Float[Tensor, "start parameter parameter"]]:
        """Return gradient and Hessian of Q in raw parameters, where the expansion was made.

        Args:
            values: Raw name to ``(start, *shape)``, at which the expansion was made.
            names: Raw names.
        """
        first, second = self.moved.slopes(self.density, values, names)
        count = len(first)
        slope = self.jets[1 : 1 + count]
        rows, columns = torch.tril_indices(count, count)
        hessian = slope.new_zeros(count, count, *slope.shape[1:])
        hessian[rows, columns] = self.jets[1 + count :]
        hessian[columns, rows] = self.jets[1 + count :]
        turned = torch.einsum("desn,esnq->dsnq", hessian, first)
        bends = torch.einsum("dsnp,dsnq->spq", first, turned)
        bends = bends + torch.diag_embed(torch.einsum("ds,dsp->sp", slope.sum(-1), second))
        return torch.einsum("dsn,dsnp->sp", slope, first), bends


def expand_likelihood(
    density: Density,
    values: ParameterValues,
    names: Sequence[str],
    held: Float[Tensor, "effect chain start subject"],
    effects_held: bool,
) -> ExpandedLikelihood | None:
    """Expand the likelihood of draws about some parameters.

    Args:
        density: The model with its data.
        values: Where, raw name to ``(start, *shape)``.
        names: Raw names of the parameters that will move.
        held: Draws of phi, or of eta.
        effects_held: Whether they are of eta.

    Returns:
        The expansion; None where derivatives are not compiled.
    """
    with torch.no_grad():
        conditional = density.at(values)
        moved = moved_inputs(conditional, names, effects_held)
        compiled = None if moved is None else compiled_likelihood(conditional)
        if moved is None or compiled is None:
            return None
        eta = held if effects_held else held - conditional.mean[:, None]
        jets = compiled.at(conditional).jets(eta.flatten(-2), moved.directions(density.model.n_effects))
        if jets is None:
            return None
        jets = jets.reshape(-1, *eta.shape[1:])
        finite = torch.isfinite(jets[0])
        if bool((torch.isnan(jets[0]) | (finite & torch.isnan(jets).any(0))).any()):
            return None
        jets = torch.where(finite, jets, 0.0).mean(1)
        return ExpandedLikelihood(density, moved, moved.values(conditional), jets, finite)


def moved_inputs(conditional: Conditional, names: Sequence[str], effects_held: bool) -> MovedInputs | None:
    """Return which means of effects and readings of the population some raw parameters move; None if that is unknown.

    Args:
        conditional: Densities at some parameters.
        names: Raw names.
        effects_held: Whether eta is held, so that typical values move; with phi held nothing depends on its mean.
    """
    density = conditional.density
    starts_of, position_of = _population_positions(conditional), effect_positions(density)
    effects: dict[int, None] = {}
    readings: dict[int, None] = {}
    for name in names:
        owner = name.partition(".")[0]
        component = density.model.components.get(owner)
        if isinstance(component, IndividualParameter):
            if effects_held:
                effects[position_of[owner]] = None
        elif isinstance(component, PopulationParameter):
            readings[starts_of[owner]] = None
        else:
            return None
    if not 0 < len(effects) + len(readings) <= MOST_DIRECTIONS:
        return None
    return MovedInputs(tuple(effects), tuple(readings))


def _population_positions(conditional: Conditional) -> dict[str, int]:
    """Where what is read of every component of the population begins."""
    found, position = {}, 0
    for (owner, _), value in population_readings(conditional).items():
        found[owner] = position
        position += value[0].numel()
    return found


def effect_positions(density: Joined) -> dict[str, int]:
    """Return the position of the effect of every individual parameter."""
    return {
        owner: block.start + index
        for block in density.model.blocks
        if block.kind == "individual"
        for index, owner in enumerate(block.owners)
    }

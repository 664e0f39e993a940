r"""SAEM's M-step by Newton's method, for the few parameters that have neither an effect nor a closed form.

With the draws held, :math:`Q(\psi) = \tfrac{1}{C} \sum_c \sum_i \log p(y_i \mid \phi_i^{(c)}, \psi) + \log p(\psi)` is
climbed by

.. math:: \psi \leftarrow \psi + \gamma_k \bar H_k^{-1} \nabla Q, \qquad
          \bar H_k = \bar H_{k-1} + \gamma_k (-\nabla^2 Q - \bar H_{k-1})

which for a quadratic Q is the maximum of its average over the iterations, as the closed forms are. The step does not
depend on the units of a parameter. Far from the maximum, where Q is not concave, eigenvalues enter by their absolute
values, and steps are shortened until Q rises.

References:
    Lange (1995), A gradient algorithm locally equivalent to the EM algorithm. doi:10.1111/j.2517-6161.1995.tb02037.x
    Dauphin et al. (2014), Identifying and attacking the saddle point problem in high-dimensional non-convex
    optimization.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.inference.saem.expanded_likelihood import expand_likelihood
from nlme_torch.model.compiled.compiled_likelihood import log_likelihood
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import ParameterValues, flatten_values, unflatten_values
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Density
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.transforms import Identity

REFRESHED_EVERY = 10
"""Steps after which a Hessian is formed again, once the first ones are behind."""
MOST_PARAMETERS = 40
"""With more of them a Hessian per iteration costs more than it saves."""
SMALLEST_EIGENVALUE = 1e-4
"""Of the Hessian scaled to a unit diagonal."""
NOTHING_TO_GAIN = 1e-7
"""A direction along which Q is expected to rise by less is left alone: a vanishing scale has neither slope nor
curvature, and their ratio would carry it away."""
CHECKED_FROM = 0.5
"""Expected rise of Q from which a step is tried before it is taken."""
LOST, HALVINGS = 0.1, 6
"""Share of the draws that a step may leave without a value: beyond it lies the edge of where the model has any, and the
step is halved, so often at most."""
DAMPINGS = (0.0, 0.0, 0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
STRETCHES = (1.0, 2.0, 4.0, *(1.0,) * 9)
"""Of the steps that are tried, the first being Newton's own; dampings are those of the scaled Hessian."""


class Curvature(NamedTuple):
    """What the steps so far have learnt.

    Attributes:
        information: Averaged negative Hessian of Q, ``(start, parameter, parameter)``.
        rise: What the last step promised to add to Q, ``(start,)``.
        steps: Steps taken.
    """

    information: Tensor
    rise: Tensor
    steps: int


def by_curvature(model: Model, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of some raw parameters move by Newton steps: those that are no network weights, if they are few."""
    weights: set[str] = set()
    for name, component in model.components.items():
        if isinstance(component, Network | RandomWeights):
            weights.update(own for own in names if own.startswith(f"{name}."))
    chosen = tuple(name for name in names if name not in weights)
    return chosen if sum(model.get_parameter(name).numel() for name in chosen) <= MOST_PARAMETERS else ()


def curvature_step(
    density: Density,
    values: ParameterValues,
    names: tuple[str, ...],
    transformed: Float[Tensor, "effect chain start subject"],
    state: Curvature | None,
    gain: float,
    *,
    hold_effects: bool = False,
) -> tuple[dict[str, Tensor], Curvature]:
    """Take one Newton step at the current draws.

    Args:
        density: The model with its data.
        values: Current values, raw name to ``(start, *shape)``.
        names: Raw names of the parameters to move.
        transformed: Current draws of phi, which are held.
        state: What is known of the curvature, None at first.
        gain: gamma in (0, 1].
        hold_effects: Hold eta = phi - mean, so that typical values may move too and every phi with them.

    Returns:
        The new values of the named parameters, and the averaged curvature.
    """
    vector = flatten_values(values, names).detach()
    held = (transformed - density.at(values).mean[:, None]).detach() if hold_effects else transformed
    draws = _Draws(density, held, hold_effects)
    known = state is not None and state.steps > 10 and state.steps % REFRESHED_EVERY != 0
    slope, information, usable = _derivatives(draws, values, names, vector, curvature=not known)
    if known:
        assert state is not None
        information = state.information
    elif state is not None:
        information = torch.where(torch.isfinite(information), information, state.information)
        information = state.information + gain * (information - state.information)
    information = torch.where(torch.isfinite(information), information, 0.0)
    longest = _longest(density.model, names, vector)
    steps, rise = _ladder(slope, information, longest)
    step = gain * steps[:, 0]
    if bool((rise > CHECKED_FROM).any()):
        step = _best(draws, values, names, vector, gain * steps, usable)
    step = _within(draws, values, names, vector, step, usable)
    new = unflatten_values(vector + step, values, names)
    return {name: new[name] for name in names}, Curvature(information, rise, 0 if state is None else state.steps + 1)


class _Draws(NamedTuple):
    """What the parameters are judged by.

    Attributes:
        density: The model with its data.
        held: Draws of phi, or of eta, ``(effect, chain, start, subject)``.
        effects: Whether they are of eta.
    """

    density: Density
    held: Tensor
    effects: bool

    def objective(self, values: ParameterValues, usable: Tensor | None) -> tuple[Tensor, Tensor]:
        """Q of every start over the draws that can be used, and the log-likelihood of every draw."""
        conditional = self.density.at(values)
        eta = self.held if self.effects else self.held - conditional.mean[:, None]
        eta = eta if usable is None else torch.where(usable, eta, 0.0)
        each = conditional.log_likelihood(eta) if torch.is_grad_enabled() else log_likelihood(conditional, eta)
        kept = each if usable is None else torch.where(usable, each, 0.0)
        return kept.sum(-1).mean(0) + self.density.log_prior(values), each


def _derivatives(
    draws: _Draws, values: ParameterValues, names: tuple[str, ...], vector: Tensor, *, curvature: bool
) -> tuple[Tensor, Tensor, Bool[Tensor, "chain start subject"]]:
    """Gradient ``(start, parameter)`` and negative Hessian of Q, and which draws they are over."""
    expanded = expand_likelihood(draws.density, values, names, draws.held, draws.effects)
    if expanded is not None:
        slope, hessian = expanded.derivatives(values, names)
        by_prior = prior_derivatives(draws.density, values, names, vector)
        if by_prior is not None:
            slope, hessian = slope + by_prior[0], hessian + by_prior[1]
        return torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0), -hessian, expanded.finite
    with torch.enable_grad():
        leaf = vector.clone().requires_grad_()
        moved = unflatten_values(leaf, values, names)
        total, each = draws.objective(moved, None)
        finite = torch.isfinite(each.detach())
        if not bool(finite.all()):
            # a masked NaN still has a NaN gradient: what cannot be evaluated is moved to where it can, then masked
            total, each = draws.objective(moved, finite)
        if not total.requires_grad:  # nothing depends on these parameters
            return torch.zeros_like(vector), torch.zeros_like(vector[:, :, None] * vector[:, None]), finite
        (slope,) = gradients(total.sum(), leaf, create_graph=curvature, materialize_grads=True)
        rows = [
            gradients(slope[:, entry].sum(), leaf, materialize_grads=True)[0]
            if slope.requires_grad
            else torch.zeros_like(leaf)
            for entry in range(vector.shape[1])
        ]
    hessian = torch.stack(rows, 1)
    return torch.nan_to_num(slope.detach(), nan=0.0, posinf=0.0, neginf=0.0), -0.5 * (hessian + hessian.mT), finite


def prior_derivatives(
    density: Density, values: ParameterValues, names: tuple[str, ...], vector: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return gradient and Hessian of the log prior in raw parameters, ``(start, ...)``; None without priors.

    Args:
        density: The model with its data.
        values: Raw name to ``(start, *shape)``.
        names: Raw names.
        vector: Their values, ``(start, parameter)``.
    """
    with torch.enable_grad():
        leaf = vector.clone().requires_grad_()
        total = density.log_prior(unflatten_values(leaf, values, names))
        if not total.requires_grad:
            return None
        (slope,) = torch.autograd.grad(total.sum(), leaf, create_graph=True)
        rows = [
            torch.autograd.grad(entry, leaf, retain_graph=True, materialize_grads=True)[0]
            if entry.requires_grad
            else torch.zeros_like(leaf)
            for entry in slope.sum(0)
        ]
    return slope.detach(), torch.stack(rows, 1)


def _ladder(slope: Tensor, information: Tensor, longest: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's step, stretched and damped ones, ``(start, rung, parameter)``, and what the first promises.

    Damped steps follow a curved valley, stretched ones a flat one.
    """
    size = information.diagonal(dim1=-2, dim2=-1).abs().sqrt().clamp_min(1e-150)
    scaled = information / size[:, :, None] / size[:, None, :]
    eigenvalues, vectors = torch.linalg.eigh(scaled.clamp(-1e6, 1e6))
    eigenvalues = eigenvalues.abs().clamp_min(SMALLEST_EIGENVALUE)
    along = torch.einsum("sji,sj->si", vectors, slope / size)
    rise = 0.5 * along.square() / eigenvalues
    along = torch.where(rise > NOTHING_TO_GAIN, along, 0.0)
    damping = slope.new_tensor(DAMPINGS)[:, None]
    stretch = slope.new_tensor(STRETCHES)[:, None]
    steps = stretch * along[:, None] / (eigenvalues[:, None] + damping)
    steps = torch.einsum("sij,srj->sri", vectors, steps) / size[:, None]
    return steps * (longest[:, None] / steps.abs().clamp_min(1e-300)).amin(-1, keepdim=True).clamp_max(1.0), rise.sum(1)


def _longest(model: Model, names: tuple[str, ...], vector: Tensor) -> Tensor:
    """Longest step of every parameter: a factor e on a log scale, its own size and one unit on the natural one."""
    limits, position = torch.ones_like(vector), 0
    for name in names:
        count = model.get_parameter(name).numel()
        component = model.components.get(name.partition(".")[0])
        natural = isinstance(getattr(component, "transform", None), Identity)
        if natural and name.endswith((".unconstrained", ".typical")):
            part = slice(position, position + count)
            limits[:, part] = 1 + vector[:, part].abs()
        position += count
    return limits


def _within(
    draws: _Draws, values: ParameterValues, names: tuple[str, ...], vector: Tensor, step: Tensor, usable: Tensor
) -> Tensor:
    """The step, or as much of it as leaves the draws of every start a value."""
    most = (1 - LOST) * usable.sum((0, 2))
    with torch.no_grad():
        for _ in range(HALVINGS):
            _, each = draws.objective(unflatten_values(vector + step, values, names), usable)
            over = (usable & torch.isfinite(each)).sum((0, 2)) < most
            if not bool(over.any()):
                return step
            step = torch.where(over[:, None], 0.5 * step, step)
    return torch.where(over[:, None], 0.0, step)


def _best(
    draws: _Draws, values: ParameterValues, names: tuple[str, ...], vector: Tensor, steps: Tensor, usable: Tensor
) -> Tensor:
    """The step of the ladder with the highest Q of every start; zero where Q rises along none."""
    starts, rungs, _ = steps.shape
    with torch.no_grad():
        trials = torch.cat([vector[:, None], vector[:, None] + steps], 1).flatten(0, 1)
        several = {name: value.repeat_interleave(rungs + 1, 0) for name, value in values.items()}
        many = draws._replace(held=draws.held.repeat_interleave(rungs + 1, 2))
        found, _ = many.objective(unflatten_values(trials, several, names), usable.repeat_interleave(rungs + 1, 1))
        found = torch.nan_to_num(found, nan=-torch.inf).unflatten(0, (starts, rungs + 1))
        best = found.argmax(1)
    return torch.cat([torch.zeros_like(steps[:, :1]), steps], 1)[torch.arange(starts), best]

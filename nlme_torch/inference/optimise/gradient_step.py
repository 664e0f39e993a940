r"""The other half of SAEM's M-step: parameters without a closed form move along the gradient at the current draws.

.. math:: \nabla_\psi \Big( \tfrac{1}{C} \sum_c \sum_i \log p(y_i \mid \phi_i^{(c)}, \psi) + \log p(\psi) \Big)

taken by Adam with a step that shrinks with the step size of the stochastic approximation. phi is held, not eta: a
typical value that has a random effect never moves this way.
"""

import torch
from torch import Tensor

from nlme_torch.inference.numerics import adam
from nlme_torch.inference.numerics.adam import AdamState as AdamState
from nlme_torch.model.declare.values import ParameterValues, flatten_values, unflatten_values
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Density


def adam_init(values: ParameterValues, names: tuple[str, ...]) -> AdamState:
    """Return zero moments for the named parameters."""
    return adam.init(flatten_values(values, names))


def gradient_step(
    density: Density,
    values: ParameterValues,
    names: tuple[str, ...],
    transformed: Tensor,
    state: AdamState,
    learning_rate: float,
    *,
    hold_effects: bool = False,
) -> tuple[dict[str, Tensor], AdamState]:
    """Take one ascent step for the parameters that have no closed form.

    Args:
        density: The model with its data.
        values: Current values.
        names: Raw names of the parameters to move.
        transformed: Current draws of phi, ``(effect, chain, start, subject)``.
        state: Moments of the gradient.
        learning_rate: Size of a step on the estimation scale.
        hold_effects: Read ``transformed`` as eta instead and let typical values move with it held.

    Returns:
        The new values of the named parameters, and the new moments.
    """
    vector = flatten_values(values, names).detach().requires_grad_()
    with torch.enable_grad():
        moved = unflatten_values(vector, values, names)
        conditional = density.at(moved)
        # phi = mean + eta is held by letting eta follow the mean
        eta = transformed if hold_effects else transformed - conditional.mean[:, None]
        log_joint = conditional.log_likelihood(eta)
        failed = ~torch.isfinite(log_joint)
        if bool(failed.any()):
            # a masked NaN still has a NaN gradient: what cannot be evaluated is moved to where it can, and then masked
            log_joint = conditional.log_likelihood(torch.where(failed, 0.0, eta))
        usable = torch.where(failed | ~torch.isfinite(log_joint), 0.0, log_joint)
        objective = usable.sum(-1).mean(0) + density.log_prior(moved)
        (gradient,) = gradients(objective.sum(), vector)
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    direction, moments = adam.step(state, gradient)
    vector = vector.detach() + learning_rate * direction
    new = unflatten_values(vector, values, names)
    return {name: new[name] for name in names}, moments

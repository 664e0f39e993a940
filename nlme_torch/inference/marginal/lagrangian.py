r"""FOCE and FOCEI as functions of parameters and conditional modes at once, with the modes' equations beside them.

.. math:: F(\theta, z) = \sum_i \Big( 2 g_i(\theta, z_i) + \log |H_i(\theta, z_i)| \Big) - 2 \log p(\theta), \qquad
          c_i(\theta, z_i) = \nabla_z g_i(\theta, z_i) = 0

On the surface c = 0 this is the objective of a fit. As a function of :math:`\theta` alone its derivatives hold inverse
powers of :math:`\nabla^2 g`, and grow without bound where a mode is nearly flat; F, c and the surface itself are as
smooth as the model. The gradient of the Lagrangian :math:`F - \lambda^\top c` costs no more than that of F: c is linear
in the slopes of the predictions, so :math:`\lambda` only changes the weights with which they are differentiated.

References:
    Nocedal and Wright (2006), Numerical Optimization, chapter 18. doi:10.1007/978-0-387-40065-5
    Almquist, Leander and Jirstrand (2015), Using sensitivity equations for computing gradients of the FOCE and FOCEI
    approximations to the population likelihood. doi:10.1007/s10928-015-9409-1
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.inference.modes.derivatives import derivatives
from nlme_torch.inference.modes.newton import inner_modes
from nlme_torch.model.declare.values import ParameterValues, unflatten_values
from nlme_torch.model.density.absolute_zeros import gradients


class Slopes(NamedTuple):
    """F and the gradient of F, or of the Lagrangian, at several points.

    Attributes:
        value: F, ``(start,)``; infinite where a subject cannot be solved.
        by_parameters: ``(start, parameter)``.
        by_effects: ``(effect, start, subject)``.
    """

    value: Tensor
    by_parameters: Tensor
    by_effects: Tensor


class FullSpace:
    """The objective of FOCE or FOCEI as a function of parameters and standardised effects.

    Args:
        approximation: FOCE or FOCEI, joined to a model and its data.
        values: Raw name to ``(1, *shape)``: the values of fixed parameters.
    """

    def __init__(self, approximation: Linearised, values: ParameterValues) -> None:
        self.approximation, self.values = approximation, dict(values)

    def at(self, vectors: Tensor) -> ParameterValues:
        """Return named values of several vectors of free parameters, ``(start, parameter)``."""
        values = unflatten_values(vectors, self.values, self.approximation.names)
        return {name: value.expand(len(vectors), *value.shape[1:]) for name, value in values.items()}

    def slopes(
        self,
        vectors: Float[Tensor, "start parameter"],
        effects: Float[Tensor, "effect start subject"],
        multipliers: Float[Tensor, "effect start subject"] | None = None,
    ) -> Slopes:
        """Return F and its partial derivatives, or those of the Lagrangian where multipliers are given."""
        direct = self.approximation.partial_derivatives(self.at(vectors), effects, multipliers)
        free = vectors.detach().requires_grad_()
        with torch.enable_grad():
            log_prior = self.approximation.density.log_prior(self.at(free))
            pull = torch.zeros_like(free)
            if log_prior.requires_grad:
                (pull,) = torch.autograd.grad(log_prior.sum(), free)
        value = direct.value.sum(-1) - 2 * log_prior.detach()
        return Slopes(value, direct.by_parameters - 2 * pull, direct.by_effects)

    def equations(
        self, vectors: Float[Tensor, "start parameter"], effects: Float[Tensor, "effect start subject"]
    ) -> Float[Tensor, "effect start subject"]:
        """Return c, the gradient of g in the effects, zero at a mode."""
        with torch.no_grad():
            conditional = self.approximation.density.at(self.at(vectors))
        integrand = self.approximation.integrand(conditional)
        with torch.enable_grad():
            points = effects.detach()[:, None].clone().requires_grad_()
            (slopes,) = gradients(integrand(points).sum(), points)
        return slopes[:, 0]

    def bends(
        self, vector: Float[Tensor, "parameter"], effects: Float[Tensor, "effect 1 subject"]
    ) -> tuple[Float[Tensor, "effect subject"], Float[Tensor, "effect effect subject"]]:
        """Return c and its derivative in the effects, the exact Hessian of g, at one point."""
        with torch.no_grad():
            conditional = self.approximation.density.at(self.at(vector[None]))
        integrand = self.approximation.integrand(conditional)
        found = derivatives(lambda z: -integrand(z), effects[:, None], max_columns=2**62)
        return -found.gradient[:, 0, 0], -found.hessian[:, :, 0, 0]

    def minima(
        self, vector: Float[Tensor, "parameter"], starts: Float[Tensor, "effect start subject"]
    ) -> Float[Tensor, "effect 1 subject"] | None:
        """Return the lowest of the minima of g downhill from several starts; None where a subject has none."""
        with torch.no_grad():
            conditional = self.approximation.density.at(self.at(vector[None]))
        integrand = self.approximation.integrand(conditional)
        found = [inner_modes(integrand, start) for start in starts.split(1, dim=1)]
        with torch.no_grad():
            heights = torch.cat([integrand(end.effects[:, None])[0] for end in found])
        heights = torch.where(torch.cat([end.usable for end in found]), heights, torch.inf)
        if not bool(torch.isfinite(heights.amin(0)).all()):
            return None
        ends = torch.cat([end.effects for end in found], 1)
        return ends.gather(1, heights.argmin(0).expand(len(ends), 1, -1))

"""The likelihood without random effects: every subject is the typical one."""

import torch
from torch import Tensor

from nlme_torch.inference.marginal.approximation import Approximation, Evaluation, Integrand
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Conditional


class Naive(Approximation):
    r"""Naive pooling: :math:`p(y_i) \approx p(y_i \mid \eta_i = 0)`."""

    has_modes = False
    name = "Pooled"

    def restricted(self, subjects: Tensor) -> "Naive":
        """Return the same for some of the subjects."""
        return Naive(self.some_subjects(subjects))

    def integrand(self, conditional: Conditional) -> Integrand:
        """Return the negative log joint density."""
        return lambda effects: 0.5 * effects.square().sum(0) - conditional.log_likelihood(conditional.colour(effects))

    def evaluate(
        self, values: ParameterValues, centre: Tensor, *, gradient: bool, weights: Tensor | None = None
    ) -> Evaluation:
        """Return -2 log-likelihood at zero effects; the curvature is that of the prior of the effects."""
        centre = torch.zeros_like(centre)
        vector, conditional = self.parameters(values, gradient)
        with torch.set_grad_enabled(gradient):
            value = -2 * conditional.log_likelihood(conditional.colour(centre[:, None]))[0]
        identity = torch.eye(len(centre), dtype=centre.dtype, device=centre.device)
        curvature = identity[:, :, None, None].expand(-1, -1, *centre.shape[1:])
        if not gradient:
            return Evaluation(value, curvature, centre, None)
        total = (value if weights is None else weights * value).sum()
        (slope,) = gradients(total, vector, materialize_grads=True)
        return Evaluation(value.detach(), curvature, centre, slope)

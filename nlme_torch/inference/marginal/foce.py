r"""FO, FOCE and FOCEI: the model linearised in the effects, its -2 log-likelihood and exact gradient.

With :math:`e = y - f`, :math:`a = \partial f/\partial z`, :math:`c = \partial \log r / \partial z` and
:math:`H = I + \sum (a a^\top / r + \tfrac12 c c^\top)` at the mode of g (FOCE: r at z = 0, c = 0),

.. math:: -2 \log p(y_i) \approx \sum \left(e^2 / r + \log r\right) + \hat z^\top \hat z + \log |H|

FO expands at z = 0, where :math:`y \sim N(f, a a^\top + r)`; by Woodbury's identity it is the same expression with the
linear predictor :math:`u = H^{-1} \sum a e / r` of the effects in place of the mode and :math:`e - a^\top u` in place
of e.

The gradient needs second derivatives of f only. The value's derivatives with respect to (f, log r, a, c) are written
out; a is a derivative itself, and :math:`\sum W_j^\top \partial_j f` is differentiated as the gradient of
:math:`W^\top f`. The mode moves by :math:`d\hat z = -(\nabla^2 g)^{-1} \partial_\theta \nabla g\, d\theta` with the
exact Hessian, which is not H.

References:
    Beal and Sheiner (1982), Estimating population kinetics, Crit. Rev. Biomed. Eng. 8, 195-222.
    Lindstrom and Bates (1990), Nonlinear mixed effects models for repeated measures data. doi:10.2307/2532087
    Wang (2007), Derivation of various NONMEM estimation methods. doi:10.1007/s10928-007-9060-6
    Almquist, Leander and Jirstrand (2015), Using sensitivity equations for computing gradients of the FOCE and FOCEI
    approximations to the population likelihood. doi:10.1007/s10928-015-9409-1
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nlme_torch.inference.marginal.approximation import (
    Approximation,
    Evaluation,
    Integrand,
    own_replica,
    replicas,
    solve_per_subject,
)
from nlme_torch.inference.marginal.normal_records import NormalRecords
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Conditional, Density


class Linearised(Approximation):
    """FO, FOCE or FOCEI for one model and its data.

    Args:
        density: The model, joined to data and solver.
        kind: Which.
    """

    def __init__(self, density: Density, kind: Literal["FO", "FOCE", "FOCEI"]) -> None:
        super().__init__(density)
        self.kind: Literal["FO", "FOCE", "FOCEI"] = kind
        self.records = NormalRecords(density, kind)

    @property
    def name(self) -> str:
        """Which of the three."""
        return self.kind

    @property
    def has_modes(self) -> bool:  # type: ignore[override]
        """Whether the expansion point is a mode rather than zero."""
        return self.kind != "FO"

    def restricted(self, subjects: Tensor) -> "Linearised":
        """Return the same for some of the subjects."""
        return Linearised(self.some_subjects(subjects), self.kind)

    def integrand(self, conditional: Conditional) -> Integrand:
        """Return g: with the variance at zero effects for FOCE, with interaction otherwise."""
        records = self.records
        observed, weight, half = records.observed[:, None], records.weight[:, None], 0.5 * records.constant
        frozen = None
        if self.kind == "FOCE" and not self.records.homoscedastic:
            with torch.no_grad():
                zero = self.origin(conditional.starts)[:, None]
                frozen = records.predict(conditional, zero)[1]

        def negative_log_joint(effects: Tensor) -> Tensor:
            location, log_variance, solved = records.predict(conditional, conditional.colour(effects))
            log_variance = log_variance if frozen is None else frozen
            squares = (observed - location).square() * torch.exp(-log_variance)
            value = 0.5 * (weight * (squares + log_variance)).sum(0) + half + 0.5 * effects.square().sum(0)
            return torch.where(solved & torch.isfinite(value), value, torch.inf)

        return negative_log_joint

    def evaluate(
        self, values: ParameterValues, centre: Tensor, *, gradient: bool, weights: Tensor | None = None
    ) -> Evaluation:
        """Approximate -2 log-likelihood; see :meth:`Approximation.evaluate`."""
        if self.kind == "FO":
            centre = torch.zeros_like(centre)
        graph = self._graph(values, centre, False)
        expansion = self._expand(graph, centre)
        result = _linear(expansion) if self.kind == "FO" else _conditional(expansion)
        value = self._finite(result.value, graph)
        if not gradient:
            return Evaluation(value, result.curvature, result.effects, None)
        if weights is not None:
            result = result._replace(
                by_location=weights * result.by_location,
                by_log_variance=weights * result.by_log_variance,
                by_slope=weights * result.by_slope,
                by_bend=weights * result.by_bend,
                by_effects=weights * result.by_effects,
            )
        with torch.enable_grad():
            moved = None if self.kind == "FO" else _movement(result, graph, self.records)
            graph = self._graph(values, centre, True)
            (total,) = gradients(_surrogate(result, graph, self.records, moved), graph.vector)
        return Evaluation(value, result.curvature, result.effects, total)

    def partial_derivatives(
        self, values: ParameterValues, effects: Tensor, multipliers: Tensor | None = None
    ) -> "PartialDerivatives":
        r"""Differentiate with the expansion points held, at any of them, modes or not.

        Args:
            values: Raw name to ``(start, *shape)``.
            effects: Expansion points, ``(effect, start, subject)``.
            multipliers: With them it is :math:`F - \sum \lambda^\top \nabla g` that is differentiated,
                ``(effect, start, subject)``.

        Returns:
            The value itself, multipliers or not, and the derivatives.
        """
        graph = self._graph(values, effects, False)
        expansion = self._expand(graph, effects)
        result = _conditional(expansion)
        value = self._finite(result.value, graph)
        if multipliers is not None:
            result = _less_equations(result, expansion, multipliers)
        with torch.enable_grad():
            graph = self._graph(values, effects, True)
            surrogate = _surrogate(result, graph, self.records)
            by_copies, by_vector = gradients(surrogate, (graph.copies, graph.vector), materialize_grads=True)
        return PartialDerivatives(value, by_vector, by_copies.sum(1) + result.by_effects)

    def _graph(self, values: ParameterValues, centre: Tensor, gradient: bool) -> "_Graph":
        """Predict, to be differentiated in the effects, and if wanted in the parameters: that costs more."""
        with torch.enable_grad():
            vector, conditional = self.parameters(values, gradient)
            copies = replicas(centre)
            return _Graph(vector, copies, *self._predict(conditional, copies))

    def _expand(self, graph: "_Graph", centre: Tensor) -> "_Expansion":
        """Differentiate predictions in the effects."""
        with torch.enable_grad():
            slope, bend = _slopes(graph.location, graph.log_variance, graph.copies)
        residual = self.records.observed - graph.location[:, 0].detach()
        return _Expansion(residual, graph.log_variance[:, 0].detach(), slope, bend, self.records.weight, centre)

    def _finite(self, value: Tensor, graph: "_Graph") -> Tensor:
        """Add the constants; infinite where a subject was not solved."""
        value = value + self.records.constant
        solved = graph.solved.expand(graph.copies.shape[1:])[0]
        return torch.where(solved & torch.isfinite(value), value, torch.inf)

    def _predict(self, conditional: Conditional, copies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Location and log variance at the copies; FO and FOCE know the variance at zero effects only."""
        if self.kind == "FOCEI" or self.records.homoscedastic:
            return self.records.predict(conditional, conditional.colour(copies))
        joined = conditional.colour(torch.cat([copies, torch.zeros_like(copies[:, :1])], 1))
        location, log_variance, solved = self.records.predict(conditional, joined)
        return location[:, :-1], log_variance[:, -1:].expand_as(location[:, :-1]), solved.expand(joined.shape[1:])[:-1]


class PartialDerivatives(NamedTuple):
    """-2 log-likelihood as a function of parameters and expansion points.

    Attributes:
        value: ``(start, subject)``; infinite where it cannot be evaluated.
        by_parameters: Of the sum over subjects, ``(start, parameter)``.
        by_effects: ``(effect, start, subject)``.
    """

    value: Tensor
    by_parameters: Tensor
    by_effects: Tensor


class _Graph(NamedTuple):
    """What is differentiated, with predictions ``(record, replica, start, subject)``."""

    vector: Tensor
    copies: Tensor
    location: Tensor
    log_variance: Tensor
    solved: Tensor


class _Expansion(NamedTuple):
    """Everything at the expansion point: ``(record, start, subject)``, slopes ``(record, effect, start, subject)``."""

    residual: Tensor
    log_variance: Tensor
    slope: Tensor
    bend: Tensor
    weight: Tensor
    effects: Tensor


class _Value(NamedTuple):
    """-2 log-likelihood without constants, and its derivatives with respect to f, log r, a, c and the effects."""

    value: Tensor
    curvature: Tensor
    effects: Tensor
    by_location: Tensor
    by_log_variance: Tensor
    by_slope: Tensor
    by_bend: Tensor
    by_effects: Tensor


def _slopes(location: Tensor, log_variance: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of location and log variance, replica j with respect to effect j; by transposing a transpose."""
    probes = [torch.zeros_like(location).requires_grad_() for _ in range(2)]
    pulled = _pull(location, log_variance, copies, *probes)
    slope, bend = gradients(own_replica(pulled), probes, materialize_grads=True)
    return slope, bend


def _pull(location: Tensor, log_variance: Tensor, copies: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The gradient of ``first . location + second . log_variance`` with respect to the copies, with a graph."""
    pairs = [(o, v) for o, v in ((location, first), (log_variance, second)) if o.requires_grad]
    outputs, vectors = zip(*pairs, strict=True)
    (pulled,) = gradients(outputs, copies, vectors, create_graph=True, materialize_grads=True)
    return pulled


def _conditional(at: _Expansion) -> _Value:
    precision = at.weight * torch.exp(-at.log_variance)
    scaled = at.residual * precision
    squares = at.residual * scaled
    curvature, inverse, log_determinant = _curvature(at, precision)
    fitted = torch.einsum("ijsn,rjsn->risn", inverse, at.slope)
    leverage = precision * (fitted * at.slope).sum(1)
    value = (squares + at.weight * at.log_variance).sum(0) + at.effects.square().sum(0) + log_determinant
    return _Value(
        value,
        curvature,
        at.effects,
        -2 * scaled,
        at.weight - squares - leverage,
        2 * precision[:, None] * fitted,
        at.weight[:, None] * torch.einsum("ijsn,rjsn->risn", inverse, at.bend),
        2 * at.effects,
    )


def _linear(at: _Expansion) -> _Value:
    precision = at.weight * torch.exp(-at.log_variance)
    curvature, inverse, _ = _curvature(at._replace(bend=torch.zeros_like(at.bend)), precision)
    predictor = torch.einsum("ijsn,rjsn,rsn->isn", inverse, at.slope, precision * at.residual)
    residual = at.residual - (at.slope * predictor).sum(1)
    result = _conditional(at._replace(residual=residual, effects=predictor, bend=torch.zeros_like(at.bend)))
    by_slope = result.by_slope - 2 * (precision * residual)[:, None] * predictor
    return result._replace(by_slope=by_slope, by_bend=torch.zeros_like(at.bend))


def _curvature(at: _Expansion, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H, its inverse (both ``(effect, effect, start, subject)``) and its log determinant."""
    count = at.slope.shape[1]
    columns = (at.slope * precision.sqrt()[:, None]).permute(2, 3, 1, 0)
    bends = (at.bend * (0.5 * at.weight[:, None]).sqrt()).permute(2, 3, 1, 0)
    identity = torch.eye(count, dtype=columns.dtype, device=columns.device)
    matrix = identity + columns @ columns.mT + bends @ bends.mT
    factor = linear_algebra.cholesky(matrix)
    inverse = torch.cholesky_inverse(factor)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return matrix.movedim((-2, -1), (0, 1)), inverse.movedim((-2, -1), (0, 1)), log_determinant


def _less_equations(result: _Value, at: _Expansion, multipliers: Tensor) -> _Value:
    r"""Subtract :math:`\lambda^\top \nabla g`, :math:`\nabla g = z + \sum (\tfrac12 (1 - e^2/r) c - a e / r)`."""
    precision = at.weight * torch.exp(-at.log_variance)
    scaled = at.residual * precision
    squares = at.residual * scaled
    along, bent = (multipliers * at.slope).sum(1), (multipliers * at.bend).sum(1)
    return result._replace(
        by_location=result.by_location - precision * along - scaled * bent,
        by_log_variance=result.by_log_variance - scaled * along - 0.5 * squares * bent,
        by_slope=result.by_slope + scaled[:, None] * multipliers,
        by_bend=result.by_bend - 0.5 * (at.weight - squares)[:, None] * multipliers,
        by_effects=result.by_effects - multipliers,
    )


def _surrogate(result: _Value, graph: _Graph, records: NormalRecords, moved: Tensor | None = None) -> Tensor:
    r"""A number whose gradient is that of the value, the effects' own part left out.

    With ``moved`` that of the value less :math:`\sum m^\top \nabla g`: as the value is differentiated through its
    slopes, and :math:`\nabla g` is linear in them, both are one gradient.
    """
    by_slope, by_bend = result.by_slope.detach(), result.by_bend.detach()
    if moved is not None:
        by_location, by_log_variance = _of_joint(graph, records)
        by_slope, by_bend = by_slope - moved * by_location, by_bend - moved * by_log_variance
    pulled = _pull(graph.location, graph.log_variance, graph.copies, by_slope, by_bend)
    return (
        (result.by_location.detach() * graph.location[:, 0]).sum()
        + (result.by_log_variance.detach() * graph.log_variance[:, 0]).sum()
        + own_replica(pulled)
    )


def _of_joint(graph: _Graph, records: NormalRecords) -> tuple[Tensor, Tensor]:
    """The derivatives of g with respect to location and log variance, ``(record, replica, start, subject)``."""
    residual, weight = records.observed[:, None] - graph.location, records.weight[:, None]
    scaled = residual * torch.exp(-graph.log_variance)
    return -weight * scaled, 0.5 * weight * (1 - residual * scaled)


def _movement(result: _Value, graph: _Graph, records: NormalRecords) -> Tensor:
    r"""The modes' multipliers :math:`m = (\nabla^2 g)^{-1} \partial_z F`, ``(effect, start, subject)``.

    As parameters change the modes move, and the value by :math:`-m^\top \partial_\theta \nabla g` for it.
    """
    copies = graph.copies
    score = copies + _pull(graph.location, graph.log_variance, copies, *_of_joint(graph, records))
    (hessian,) = gradients(own_replica(score), copies)
    (by_effects,) = gradients(_surrogate(result, graph, records), copies, materialize_grads=True)
    return solve_per_subject(hessian, by_effects.sum(1) + result.by_effects)

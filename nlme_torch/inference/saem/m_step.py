r"""The closed-form half of SAEM's M-step: typical values, covariate effects, Omega and residual scales.

With phi_i = A_i b + eta_i, eta_i ~ N(0, Omega), and the averaged moments m_i of phi_i and S of sum phi_i phi_i',

.. math::
    \hat b = \Big(\sum_i A_i^\top \Omega^{-1} A_i\Big)^{-1} \sum_i A_i^\top \Omega^{-1} m_i, \qquad
    \hat\Omega = \tfrac{1}{N} \Big(S - \sum_i (m_i \mu_i^\top + \mu_i m_i^\top - \mu_i \mu_i^\top)\Big)

followed by the projection of Omega onto its structure. A prior on b turns the first into a few Newton steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.saem.sufficient_statistics import Statistics
from nlme_torch.model.covariates.identified import refuse_confounded
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.priors import L1
from nlme_torch.model.parameters.transforms import Identity
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock


@dataclass(frozen=True)
class _Column:
    """One regression coefficient of a block: where it acts and which raw parameter holds it."""

    effect: int
    name: str
    entry: int | None
    regressor: Tensor | None
    free: bool
    component: IndividualParameter | RandomWeights | None


class ClosedForm:
    """The closed-form M-step of a model; built once per fit.

    Args:
        density: The model with its data.
        scales: Residual-scale parameters and their outcomes.

    Raises:
        ModelError: Covariate effects of a parameter cannot be told apart in these data.
    """

    def __init__(self, density: Density, scales: Mapping[str, tuple[str, ...]]) -> None:
        self.density, self.scales = density, scales
        self._columns = {
            block.name: self._regression(block) for block in density.model.blocks if block.kind != "standard"
        }
        self._designs: dict[str, Tensor] = {}
        refuse_confounded(density.model, density.regressors)

    def covered(self) -> set[str]:
        """Raw names of the parameters that this step updates."""
        names = {f"{name}.unconstrained" for name in self.scales}
        for block in self.density.model.blocks:
            for column in self._columns.get(block.name, ()):
                names.add(column.name)
            if block.covariance is not None:
                names.update(f"_covariances.{block.name}.{name}" for name, _ in block.covariance.named_parameters())
        return names

    def means_names(self) -> tuple[str, ...]:
        """Raw names of the estimated typical values and covariate effects."""
        columns = [column for block in self._columns.values() for column in block if column.free]
        return tuple(dict.fromkeys(column.name for column in columns))

    def step(self, conditional: Conditional, statistics: Statistics, variance_floor: float) -> dict[str, Tensor]:
        """Return new values.

        Args:
            conditional: Densities at the current values.
            statistics: Averaged sufficient statistics.
            variance_floor: Smallest allowed ratio of a new variance to the old one (simulated annealing), 0 for none.

        Returns:
            Raw name to ``(start, *shape)``, for the covered parameters.
        """
        new: dict[str, Tensor] = {}
        for block in self.density.model.blocks:
            if block.kind == "standard" or block.covariance is None:
                continue
            factor = conditional.cholesky(block.name).expand(conditional.starts, -1, -1)
            first = statistics.first[block.slice]
            new.update(self._means(block, factor, first, conditional.values))
            if block.covariance.free():
                mean = self._fitted(block, {**conditional.values, **new}, first)
                cross = torch.einsum("isn,jsn->sij", first - mean, mean)
                moment = statistics.second[block.name] - cross - cross.mT - torch.einsum("isn,jsn->sij", mean, mean)
                moment = 0.5 * (moment + moment.mT) / first.shape[-1]
                moment = _anneal(moment, factor @ factor.mT, variance_floor)
                for name, value in block.covariance.maximise(moment).items():
                    new[f"_covariances.{block.name}.{name}"] = value
        for name, total in statistics.residual.items():
            new[f"{name}.unconstrained"] = self._residual(name, total, conditional.values, variance_floor)
        return new

    def means(self, block: RandomEffectBlock, conditional: Conditional, first: Tensor) -> dict[str, Tensor]:
        """Return the means of one block that maximise the complete-data likelihood of given draws.

        Args:
            block: A block whose effects have means.
            conditional: Densities at the current values.
            first: Mean over chains of all phi, ``(effect, start, subject)``.
        """
        factor = conditional.cholesky(block.name).expand(conditional.starts, -1, -1)
        return self._means(block, factor, first[block.slice], conditional.values)

    # ------------------------------------------------------------------ typical values and covariate effects

    def _regression(self, block: RandomEffectBlock) -> tuple[_Column, ...]:
        model, columns = self.density.model, []
        if block.kind == "occasion":
            return ()
        for position, owner in enumerate(block.owners):
            component = model.components[owner]
            if isinstance(component, IndividualParameter):
                free = not component.fixed
                columns.append(_Column(position, f"{owner}.typical", None, None, free, component))
                for covariate, effect in component.covariates.items():
                    regressor = self.density.regressors[owner, covariate]
                    name = f"{owner}.covariates.{covariate}.beta"
                    free = bool(effect.beta.requires_grad)
                    if regressor.dim() == 1:
                        columns.append(_Column(position, name, None, regressor, free, None))
                    else:
                        columns += [_Column(position, name, k, row, free, None) for k, row in enumerate(regressor)]
            elif isinstance(component, RandomWeights):
                free = component.network.weights.requires_grad
                columns += [
                    _Column(entry, f"{owner}.network.weights", entry, None, free, component)
                    for entry in range(block.size)
                ]
        return tuple(columns)

    def _coefficient(self, column: _Column, values: ParameterValues) -> Tensor:
        value = values[column.name]
        return value if column.entry is None else value[:, column.entry]

    def _fitted(self, block: RandomEffectBlock, values: ParameterValues, like: Tensor) -> Tensor:
        """Mean of phi, ``(effect, start, subject)``."""
        rows = [torch.zeros_like(like[0]) for _ in range(block.size)]
        for column in self._columns[block.name]:
            part = self._coefficient(column, values)[:, None]
            rows[column.effect] = rows[column.effect] + (part if column.regressor is None else part * column.regressor)
        return torch.stack(rows)

    def _means(
        self, block: RandomEffectBlock, factor: Tensor, first: Tensor, values: ParameterValues
    ) -> dict[str, Tensor]:
        columns = [column for column in self._columns[block.name] if column.free]
        if not columns:
            return {}
        offset = first - self._fitted(block, values, first)
        current = torch.stack([self._coefficient(column, values) for column in columns], dim=1)
        design, precision = self._design(block, columns, first), torch.cholesky_inverse(factor)
        if len(design) == 1:  # without covariates all subjects have the same
            weighted = precision @ design[0]
            information = first.shape[-1] * (design[0].mT @ weighted)
            score = torch.einsum("sep,es->sp", weighted, offset.sum(-1))
        else:
            weighted = torch.einsum("sef,nfq->sneq", precision, design)
            information = torch.einsum("nep,sneq->spq", design, weighted)
            score = torch.einsum("snep,esn->sp", weighted, offset)
        step = linear_algebra.solve(information, score[..., None])[..., 0]
        solved = current + step.nan_to_num(0.0)  # what the draws say nothing about stays as it is
        if any(_prior_of(column) is not None for column in columns):
            solved = _newton_with_priors(solved, information, columns)
        return _collect(columns, solved, values)

    def _design(self, block: RandomEffectBlock, columns: list[_Column], like: Tensor) -> Tensor:
        """The regression's design, ``(subject, effect, coefficient)``; one subject's where it is that of all."""
        if block.name not in self._designs:
            common = all(column.regressor is None for column in columns)
            design = like.new_zeros(1 if common else like.shape[-1], block.size, len(columns))
            for index, column in enumerate(columns):
                design[:, column.effect, index] = 1.0 if column.regressor is None else column.regressor
            self._designs[block.name] = design
        return self._designs[block.name]

    # ------------------------------------------------------------------ residual error

    def _residual(self, name: str, total: Tensor, values: ParameterValues, variance_floor: float) -> Tensor:
        batch = self.density.batch
        count = sum(int(batch.outcomes[outcome].mask.sum()) for outcome in self.scales[name])
        old = values[f"{name}.unconstrained"]
        log_sigma = 0.5 * (total / count).clamp_min(1e-300).log()
        component = self.density.model.components[name]
        assert isinstance(component, PopulationParameter)
        if component.prior is not None:
            log_sigma = _maximise_scale(component, log_sigma, total, count)
        return torch.maximum(log_sigma, old + 0.5 * torch.log(old.new_tensor(variance_floor)))


def _prior_of(column: _Column) -> Distribution | None:
    if isinstance(column.component, RandomWeights):
        return column.component.network.prior
    return None if column.component is None else column.component.prior


def _lasso(column: _Column) -> float:
    """Strength of an L1 penalty that acts on the coefficient itself, 0 for any other prior."""
    prior, component = _prior_of(column), column.component
    itself = isinstance(component, RandomWeights) or (
        component is not None and isinstance(component.transform, Identity)
    )
    return prior.strength if isinstance(prior, L1) and itself else 0.0


def _log_prior(coefficients: Tensor, columns: list[_Column]) -> Tensor:
    """Log prior of the coefficients, ``(start,)``, but for the L1 penalties that have a kink."""
    total = coefficients.new_zeros(coefficients.shape[0])
    for index, column in enumerate(columns):
        value = coefficients[:, index]
        if _lasso(column):
            continue
        if isinstance(column.component, RandomWeights):
            total = total + column.component.network.log_prior(value[:, None])
        elif column.component is not None:
            total = total + column.component.log_prior(value)
    return total


def _newton_with_priors(centre: Tensor, information: Tensor, columns: list[_Column], iterations: int = 25) -> Tensor:
    """Maximise ``-(b - centre)' information (b - centre) / 2 + log prior(b)``; priors are separable."""
    point = centre.clone()
    lasso = centre.new_tensor([_lasso(column) for column in columns])
    for _ in range(iterations):
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            # the zero keeps a graph where no prior is smooth
            (slope,) = torch.autograd.grad(
                _log_prior(leaf, columns).sum() + 0.0 * leaf.square().sum(), leaf, create_graph=True
            )
            (curvature,) = torch.autograd.grad(slope.sum(), leaf)
        score = slope.detach() - torch.einsum("spq,sq->sp", information, point - centre)
        step = _penalised_step(point, information - torch.diag_embed(curvature.clamp_max(0.0)), score, lasso)
        point = point + step
        if step.abs().max() < 1e-10:
            break
    return point


def _penalised_step(point: Tensor, quadratic: Tensor, score: Tensor, lasso: Tensor) -> Tensor:
    """The step d that minimises ``d' quadratic d / 2 - score' d + sum lasso |point + d|``.

    By coordinates and soft thresholds where there is a lasso, so that a coefficient can become exactly zero.
    """
    if not bool((lasso > 0).any()):
        return linear_algebra.solve(quadratic, score[..., None])[..., 0].nan_to_num(0.0)
    new = point.clone()
    for _ in range(200):
        before = new.clone()
        for index in range(new.shape[1]):
            scale = quadratic[:, index, index]
            pull = score[:, index] - (quadratic[:, index] * (new - point)).sum(-1) + scale * new[:, index]
            new[:, index] = torch.nn.functional.softshrink(pull, float(lasso[index])) / scale
        if (new - before).abs().max() < 1e-13:
            break
    return new - point


def _collect(columns: list[_Column], solved: Tensor, values: ParameterValues) -> dict[str, Tensor]:
    new: dict[str, Tensor] = {}
    for index, column in enumerate(columns):
        if column.entry is None:
            new[column.name] = solved[:, index]
        else:
            new.setdefault(column.name, values[column.name].clone())[:, column.entry] = solved[:, index]
    return new


def _anneal(moment: Tensor, old: Tensor, floor: float) -> Tensor:
    """Keep every variance above a fraction of its old value, leaving correlations as they are."""
    if floor <= 0:
        return moment
    variances = moment.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300)
    wanted = torch.maximum(variances, floor * old.diagonal(dim1=-2, dim2=-1))
    stretch = (wanted / variances).sqrt()
    return moment * stretch[:, :, None] * stretch[:, None, :]


def _maximise_scale(component: PopulationParameter, start: Tensor, total: Tensor, count: int) -> Tensor:
    """Maximise ``-n log sigma - total / (2 sigma^2) + log prior(sigma)`` over log sigma by Newton's method."""
    point = start
    for _ in range(50):
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            objective = component.log_prior(leaf) - count * leaf - 0.5 * total * torch.exp(-2 * leaf)
            (slope,) = torch.autograd.grad(objective.sum(), leaf, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), leaf)
        step = (slope / (-curvature).clamp_min(1e-8)).detach().clamp(-1.0, 1.0)
        point = point + step
        if step.abs().max() < 1e-12:
            break
    return point

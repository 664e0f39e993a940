r"""Covariate effects found after a fit: a network regressed on every subject's conditional distribution.

The likelihood of a subject as a function of its effects is read off the fit, in its normal approximation

.. math:: p(y_i \mid \eta) \propto \exp\big(b_i^\top \eta - \tfrac12 \eta^\top A_i \eta\big), \qquad
          A_i = P_i - \Omega^{-1}, \; b_i = P_i m_i

with conditional mean m and precision P. Then the marginal likelihood of
:math:`\eta_i \sim N(a + NN(c_i; w), \Omega')` is maximised over a, w and Omega'. A subject with few data has a small A
and counts for little; its conditional mode, which the old Omega has drawn to zero, is never taken for a measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError, ModelError
from nlme_torch.inference.effects.at_modes import effects_at_modes
from nlme_torch.inference.estimates.estimation import Estimation, UnrepeatableMethod
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.fit import fit as estimate
from nlme_torch.inference.fitting.result import Fit
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.augmented import NETWORK, augmented
from nlme_torch.model.declare.raw_parameters import omega_name, raw_name
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.networks.networks import MLP
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock
from nlme_torch.settings import check_values


def augment(
    fit: Fit,
    network: MLP,
    *,
    covariates: Sequence[str] | None = None,
    parameters: Sequence[str] | None = None,
    iterations: int = 300,
    seed: int = 0,
    likelihood: LikelihoodMethod | None = None,
) -> Fit:
    """Explain the random effects of a fit by a network of covariates, and refit Omega.

    Fast, because no differential equation is solved; approximate, because conditional distributions are taken as normal
    and all other parameters as known. ``nlme.fit(result.model, data, method)`` continues jointly, which is better where
    many subjects have few data.

    Args:
        fit: A fit without the covariates.
        network: One input per covariate and one output per parameter; a prior (``L2``) keeps it from explaining noise.
            With ``scale="standard"`` covariates are standardised, with ``"auto"`` divided by their root mean square.
        covariates: Names of covariates that are constant within subjects; all of the data if None.
        parameters: Individual parameters that they may shift; all that have random effects if None.
        iterations: Largest number of iterations of the optimiser (L-BFGS).
        seed: Seed of the effects and the likelihood of the result.
        likelihood: How the likelihood of the result is computed.

    Returns:
        A fit of the augmented model, whose ``individual`` shifts the parameters by ``covariate_network``; its typical
        values and variances are new, everything else is as it was.

    Raises:
        FitError: There are no covariates or no such effects.
        ModelError: The network does not suit, or a covariate changes within subjects.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> network = nlme.MLP(1, 2, scale="auto", prior=nlme.L2(1.0))
        >>> better = nlme.augment(fit, network, covariates=["Wt"], parameters=["cl", "v"], likelihood=nlme.FOCEI())
        >>> bool(better.omega.loc["eta_v", "eta_v"] < fit.omega.loc["eta_v", "eta_v"])
        True
    """
    check_fit("augment", fit)
    check_values("augment", FitError, network=(network, MLP), iterations=(iterations, int), seed=(seed, int))
    names = tuple(fit.data.covariate_names if covariates is None else covariates)
    owners = tuple(owner for block in fit.model.blocks if block.kind == "individual" for owner in block.owners)
    chosen = owners if parameters is None else tuple(parameters)
    if not names:
        raise FitError("augment: the data have no covariates to explain random effects by.")
    if not chosen or not set(chosen) <= set(owners):
        raise FitError(f"augment: parameters={list(chosen)} must be among {', '.join(owners) or '(there are none)'}.")
    batch = fit.density.batch
    for name in names:
        if name not in batch.covariates:
            raise FitError(f"augment: the data have no covariate {name!r}; they have {', '.join(batch.covariates)}.")
        if name in batch.categories:
            raise ModelError(f"augment: covariate {name!r} holds text; give 0/1 columns for its levels.")
        if batch.covariates[name].dim() > 1:
            raise ModelError(f"augment: covariate {name!r} changes within subjects; leave it out.")
    inputs = torch.stack([batch.covariates[name] for name in names])
    model = augmented(fit.model, network, names, chosen)
    own = getattr(model, NETWORK)
    if own.awaits_scale:
        centre = inputs.mean(1, keepdim=True) if own.centred else torch.zeros_like(inputs[:, :1])
        sizes = (inputs - centre).square().mean(1).sqrt()
        own.set_scale(torch.where(sizes > 0, sizes, 1.0).tolist(), centre[:, 0].tolist() if own.centred else None)
    method = _Regression(fit, inputs, chosen, iterations)
    found = estimate(
        model,
        fit.data,
        method,
        seed=seed,
        solver=fit.solver,
        likelihood=likelihood,
        device=inputs.device,
        progress=False,
    )
    # the regression is of these subjects' distributions: on other data sets it would be wrong
    return replace(found, method=UnrepeatableMethod(str(method)))


@dataclass(frozen=True)
class _Regression:
    """The regression, as an estimation method."""

    fit: Fit
    inputs: Tensor
    parameters: tuple[str, ...]
    iterations: int

    def __str__(self) -> str:
        return f"augment({self.fit.method})"

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Find weights, typical values and variances; the rest keeps the values of the fit."""
        model, initial = density.model, dict(parameter_values(density.model))
        blocks = [block for block in model.blocks if block.kind == "individual"]
        owners = [owner for block in blocks for owner in block.owners]
        own = torch.cat([torch.arange(block.start, block.stop) for block in blocks])
        outputs = torch.tensor([owners.index(name) for name in self.parameters])
        network: MLP = getattr(model, NETWORK)
        weights = str(raw_name(NETWORK, network))
        typical = [str(raw_name(owner, model.components[owner])) for owner in owners]
        moved = [weights, *typical, *(omega_name(block, key) for block in blocks for key in _free_keys(block))]
        moved = [name for name in moved if model.get_parameter(name).requires_grad]
        values = {**initial, **{name: initial[name].clone().requires_grad_() for name in moved}}
        information, linear = _likelihoods(self.fit, own, density.at(initial).covariance()[0][own][:, own])
        rows: list[dict[str, float | str]] = []

        def objective() -> Tensor:
            mean = torch.stack([values[name] - initial[name] for name in typical], -1)
            found = network.bind(values[weights].mT)(*self.inputs)
            shifts = torch.stack(found if isinstance(found, tuple) else (found,), -1)
            mean = mean.expand(len(shifts), -1).index_add(1, outputs, shifts)
            factor = linear_algebra.cholesky(density.at(values).covariance()[0][own][:, own])
            return -_log_marginal(information, linear, mean, factor) - density.log_prior(values)[0]

        def closure() -> Tensor:
            with torch.enable_grad():
                optimiser.zero_grad()
                loss = objective()
                loss.backward()
            rows.append({"iteration": len(rows) + 1, "phase": "augment", "penalised_loglik": -float(loss.detach())})
            return loss.detach()

        optimiser = torch.optim.LBFGS(
            [values[name] for name in moved], max_iter=self.iterations, history_size=20, tolerance_grad=1e-7,
            tolerance_change=1e-12, line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimiser.step(closure)
        found = {name: value.detach() for name, value in values.items()}
        reason = f"regression of conditional distributions on covariates, {len(rows)} evaluations by L-BFGS"
        effects = effects_at_modes(density.at(found), generator)
        before, after = (density.at(which).covariance()[0][own, own] for which in (initial, found))
        return Estimation(
            found, pd.DataFrame(rows), Status.COMPLETED, reason, _warnings(owners, before, after), effects=effects
        )


def _warnings(owners: list[str], before: Tensor, after: Tensor) -> tuple[str, ...]:
    """Name the effects of which hardly any variance is left."""
    left = {owner: float(ratio) for owner, ratio in zip(owners, after / before, strict=True)}
    explained = [f"eta_{owner} ({100 * ratio:.1f} % left)" for owner, ratio in left.items() if ratio < 0.05]
    if not explained:
        return ()
    return (
        f"the covariates explain nearly all of the variance of {', '.join(explained)}: a network with a weak prior "
        "explains noise as well; compare held-out likelihoods (nlme.held_out) for stronger priors",
    )


def _free_keys(block: RandomEffectBlock) -> list[str]:
    """Names of the parameters of a block's covariance."""
    return [] if block.covariance is None else [name for name, _ in block.covariance.named_parameters()]


def _log_marginal(information: Tensor, linear: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    r"""Log of the integral of :math:`e^{b'\eta - \eta'A\eta/2}` over N(mean, L L'), summed over subjects."""
    slope = linear - (information @ mean[..., None])[..., 0]
    curved = torch.eye(len(factor), dtype=factor.dtype, device=factor.device) + factor.mT @ information @ factor
    inner = (slope @ factor)[..., None]
    gain = (inner * linear_algebra.solve(curved, inner)).sum()
    there = (mean * (linear + slope)).sum()  # 2 b'm - m'Am
    return 0.5 * (there + gain - torch.linalg.slogdet(curved).logabsdet.sum())


def _likelihoods(fit: Fit, effects: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """A ``(subject, effect, effect)`` and b ``(subject, effect)``; the effects of other blocks are integrated out."""
    mean = fit.effects.means[effects].mT
    covariance = fit.effects.covariances[effects][:, effects].permute(2, 0, 1)
    factor = linear_algebra.cholesky(omega)
    # in units of the prior's standard deviations, where A + I is the precision and A has no negative eigenvalue
    scaled = torch.linalg.solve_triangular(factor, covariance, upper=False)
    scaled = torch.linalg.solve_triangular(factor, scaled.mT, upper=False)
    sizes, vectors = linear_algebra.symmetric_eigen(0.5 * (scaled + scaled.mT))
    precision = 1 / sizes.clamp(1e-12, 1.0)
    back = linear_algebra.inverse(factor).mT @ vectors  # (subject, effect, eigenvalue)
    information = (back * (precision - 1)[:, None]) @ back.mT
    whole = (back * precision[:, None]) @ back.mT
    return information, (whole @ mean[..., None])[..., 0]

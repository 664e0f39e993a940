"""Fits side by side: likelihoods by one method, information criteria, likelihood-ratio tests of nested models."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.information.leave_one_out import leave_one_out
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod, loglik
from nlme_torch.inference.validation.held_out import held_out as held_out_likelihood
from nlme_torch.model.declare.scalars import omega_scalars, structural_scalars
from nlme_torch.model.declare.values import free_names, parameter_values

if TYPE_CHECKING:
    from nlme_torch.data import Dataset
    from nlme_torch.inference.fitting.result import Fit


@dataclass(frozen=True)
class Comparison:
    """Several fits to the same data; it prints as a table.

    Attributes:
        table: One row per fit: method of estimation, -2LL, OFV, number of parameters, AIC, BIC, corrected BIC, and the
            likelihood-ratio test against the largest model in which it is nested.
        parameters: One row per scalar parameter, one column per fit (natural scale).
        method: Name of the common likelihood method.

    Where a model has a network, or other subjects were given, the table has a column more: ``left out``, -2LL of the
    subjects under fits without them (:func:`leave_one_out`, an estimate), or ``held out``, that of the other subjects.
    """

    table: pd.DataFrame
    parameters: pd.DataFrame
    method: str

    @property
    def verdict(self) -> str:
        """Which fit wins training and loses hold-out, in a sentence; empty if none does."""
        judge = next((name for name in ("held out", "left out") if name in self.table), None)
        if judge is None or self.table[judge].isna().all():
            return ""
        known = self.table.dropna(subset=[judge])
        names, training, others = known.index.tolist(), known["-2LL"].to_numpy(), known[judge].to_numpy()
        fitted, other = int(training.argmin()), int(others.argmin())
        if fitted == other:
            return ""
        gain, loss = training[other] - training[fitted], others[fitted] - others[other]
        estimated = " (estimated)" if judge == "left out" else ""
        by = f"{loss:.1f}" if loss < 1e4 else "far more"
        return (
            f"{names[fitted]} wins training by {gain:.1f} in -2LL and loses hold-out{estimated} to {names[other]} by "
            f"{by}: it is over-fitted"
        )

    def __str__(self) -> str:
        shown = self.table.to_string(float_format=lambda value: f"{value:.3f}", na_rep="")
        verdict = f"\n{self.verdict}" if self.verdict else ""
        return f"-2LL of every fit by {self.method}\n{shown}{verdict}\n\n{self.parameters.to_string(na_rep='')}"

    __repr__ = __str__


def compare(
    method: LikelihoodMethod | None = None, *, held_out: "Dataset | None" = None, seed: int = 0, **fits: "Fit"
) -> Comparison:
    r"""Compare fits by a common approximation of the likelihood.

    .. math:: \text{BIC}_c = -2LL + p_{\text{random}} \log N + p_{\text{fixed}} \log n

    with N subjects and n observations; parameters of effects that differ between subjects count with N.

    Args:
        method: How every -2LL is computed; None takes the method that all fits share, and else the default of
            :func:`loglik`. Likelihoods by different approximations cannot be compared.
        held_out: Subjects that none of the fits has seen, by whose likelihood they are judged as well; None estimates
            it from the fits where a model has a network.
        seed: Seed of a Monte-Carlo method.
        **fits: The fits by the names that the table shows.

    Returns:
        Criteria, tests and estimates side by side.

    Raises:
        FitError: Fewer than two fits, or fits to different data.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> a = nlme.fit(model, data, nlme.FO(), progress=False)
        >>> b = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> nlme.compare(nlme.FOCEI(), fo=a, focei=b).table["OFV"].round(2).tolist()
        [128.01, 116.8]

    References:
        Delattre, Lavielle and Poursat (2014), A note on BIC in mixed-effects models. doi:10.1214/14-EJS890
    """
    if len(fits) < 2:
        raise FitError(f"compare needs at least two fits by name, got {len(fits)}: nlme.compare(a=fit1, b=fit2).")
    first = next(iter(fits.values()))
    for name, fit in fits.items():
        if fit.data.hash != first.data.hash:
            raise FitError(f"{name!r} was fitted to other data; likelihoods of different data cannot be compared.")
    shared = {fit.log_likelihood.method for fit in fits.values()}
    if method is None and len(shared) == 1:
        values, label = {name: fit.log_likelihood for name, fit in fits.items()}, shared.pop()
    else:
        values = {name: loglik(fit, method, seed=seed) for name, fit in fits.items()}
        label = values[next(iter(fits))].method
    judged = _judged(fits, held_out, method, seed)
    rows = {}
    for name, fit in fits.items():
        minus2ll, count = values[name].minus2ll, fit.n_parameters
        random = _random_count(fit)
        subjects, observations = fit.data.n_subjects, fit.data.n_observations
        rows[name] = {
            "fitted by": str(fit.method),
            "-2LL": minus2ll,
            **judged.get(name, {}),
            "OFV": values[name].ofv,
            "parameters": count,
            "AIC": minus2ll + 2 * count,
            "BIC": minus2ll + count * math.log(observations),
            "BICc": minus2ll + random * math.log(subjects) + (count - random) * math.log(observations),
            **_test(name, fits, {other: value.minus2ll for other, value in values.items()}),
        }
    scalars = {}
    for name, fit in fits.items():
        raw = parameter_values(fit.model)
        found = {**structural_scalars(fit.model, raw), **omega_scalars(fit.model, raw)}
        scalars[name] = {scalar: float(value[0]) for scalar, value in found.items()}
    return Comparison(pd.DataFrame.from_dict(rows, orient="index"), pd.DataFrame(scalars), label)


def _judged(
    fits: "dict[str, Fit]", others: "Dataset | None", method: LikelihoodMethod | None, seed: int
) -> dict[str, dict[str, float]]:
    """-2LL of subjects that were not fitted, by fit: of others, or estimated where a model has a network."""
    if others is not None:
        return {
            name: {"held out": held_out_likelihood(fit, others, method, seed=seed).minus2ll}
            for name, fit in fits.items()
        }
    if not any(fit.model.has_network for fit in fits.values()):
        return {}
    found = {}
    for name, fit in fits.items():
        try:
            estimate = fit.left_out or leave_one_out(fit)
            found[name] = {"left out": estimate.minus2ll}
        except NLMEError:
            found[name] = {"left out": math.nan}
    return found


def _random_count(fit: "Fit") -> int:
    """Free parameters of what differs between subjects: typical values with effects, their covariates, Omega."""
    owners = {owner for block in fit.model.blocks for owner in block.owners}
    names = [name for name in free_names(fit.model) if name.startswith("_covariances.") or name.split(".")[0] in owners]
    return sum(fit.model.get_parameter(name).numel() for name in names)


def _test(name: str, fits: "dict[str, Fit]", minus2ll: dict[str, float]) -> dict[str, object]:
    """The likelihood-ratio test against the largest model that contains this one, if there is any."""
    larger = [other for other in fits if other != name and _nested(fits[name], fits[other])]
    if not larger:
        return {"LRT against": "", "chi2": math.nan, "df": math.nan, "p": math.nan}
    other = max(larger, key=lambda label: (fits[label].n_parameters, -minus2ll[label]))
    degrees = fits[other].n_parameters - fits[name].n_parameters
    statistic = max(minus2ll[name] - minus2ll[other], 0.0)
    half = torch.tensor(0.5, dtype=torch.float64)
    p = 1 - float(torch.special.gammainc(degrees * half, statistic * half))
    return {"LRT against": other, "chi2": statistic, "df": degrees, "p": p}


def _nested(small: "Fit", large: "Fit") -> bool:
    """Whether two fits are of one model class, the smaller with fixed what the larger estimates, at equal values.

    Nesting between different classes cannot be seen from outside; it is not guessed.
    """
    if type(small.model) is not type(large.model) or small.n_parameters >= large.n_parameters:
        return False
    mine, theirs = set(free_names(small.model)), set(free_names(large.model))
    same = dict(small.model.named_parameters()).keys() == dict(large.model.named_parameters()).keys()
    return same and mine < theirs

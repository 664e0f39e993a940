"""Fits side by side: likelihoods by one method, information criteria, likelihood-ratio tests of nested models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from html import escape
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import pandas as pd

from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.estimates.estimation import UnrepeatableMethod
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.information.leave_one_out import leave_one_out
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod, loglik
from nlme_torch.inference.validation.held_out import held_out as held_out_likelihood
from nlme_torch.inference.validation.nesting import Nesting, find_nesting
from nlme_torch.model.declare.raw_parameters import Role, raw_parameters
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
        tests: One row per pair of nested fits: model, within, chi2, df, p, and the distribution of chi2 under the
            smaller model.

    Where a model has a network, or other subjects were given, the table has a column more: ``left out``, -2LL of the
    subjects under fits without them (:func:`leave_one_out`, an estimate), or ``held out``, that of the other subjects.
    """

    table: pd.DataFrame
    parameters: pd.DataFrame
    method: str
    tests: pd.DataFrame = field(default_factory=pd.DataFrame)

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
        parts = [
            f"-2LL of every fit by {self.method}\n{self._criteria.to_string(float_format='{:.3f}'.format, na_rep='')}"
        ]
        if self.verdict:
            parts[0] += f"\n{self.verdict}"
        if len(self.tests):
            parts.append(f"likelihood-ratio tests\n{self._shown_tests.to_string(index=False)}")
        return "\n\n".join([*parts, self.parameters.to_string(na_rep="")])

    __repr__ = __str__

    @property
    def _criteria(self) -> pd.DataFrame:
        """The table without the tests, which have one of their own."""
        return self.table.drop(columns=["LRT against", "chi2", "df", "p"], errors="ignore")

    @property
    def _shown_tests(self) -> pd.DataFrame:
        """The tests with numbers as they are printed."""
        return self.tests.assign(
            chi2=[f"{value:.3f}" for value in self.tests["chi2"]], p=[f"{value:.2g}" for value in self.tests["p"]]
        )

    def _repr_html_(self) -> str:
        parts = [
            f"<b>-2LL of every fit by {escape(self.method)}</b>",
            self._criteria.to_html(float_format="{:.3f}".format, na_rep=""),
        ]
        if self.verdict:
            parts.append(f"<p>{escape(self.verdict)}</p>")
        if len(self.tests):
            parts += ["<b>likelihood-ratio tests</b>", self._shown_tests.to_html(index=False)]
        return "".join([*parts, "<b>estimates</b>", self.parameters.to_html(na_rep="", float_format="{:.4g}".format)])


def compare(
    *given: "Fit | LikelihoodMethod",
    method: LikelihoodMethod | None = None,
    held_out: "Dataset | None" = None,
    nested: Sequence[str] | Mapping[str, str] | None = None,
    seed: int = 0,
    **named: "Fit",
) -> Comparison:
    r"""Compare fits by a common approximation of the likelihood.

    .. math:: \text{BIC}_c = -2LL + p_{\text{random}} \log N + p_{\text{fixed}} \log n

    with N subjects and n observations; parameters of effects that differ between subjects count with N.

    A model is nested in another if that one estimates all of its parameters, and is the same model where the others
    have the value that removes them: a coefficient 0, a variance 0. Whether it is, is found by computing both. Where
    variances are removed the likelihood ratio is distributed as a mixture of chi-squares, which the table names.

    Args:
        *given: Fits, which the table calls by the classes of their models; the method may stand among them.
        method: How every -2LL is computed; None takes the method that all fits share, and else the default of
            :func:`loglik`. Likelihoods by different approximations cannot be compared.
        held_out: Subjects that none of the fits has seen, by whose likelihood they are judged as well; None estimates
            it from the fits where a model has a network.
        nested: What cannot be seen: names of fits of which each is a special case of the next, or smaller to larger.
        seed: Seed of a Monte-Carlo method.
        **named: Fits by the names that the table shows.

    Returns:
        Criteria, tests and estimates side by side.

    Raises:
        FitError: Fewer than two fits, something that is no fit, fits to different data, or ``nested`` names what is
            not there.

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
    methods_given = [entry for entry in given if isinstance(entry, LikelihoodMethod)]
    others = {f"argument {k + 1}": e for k, e in enumerate(given) if not isinstance(e, LikelihoodMethod | Fitted)}
    for name, entry in (others | {name: fit for name, fit in named.items() if not isinstance(fit, Fitted)}).items():
        raise FitError(f"compare: {name} is a {type(entry).__name__} and no fit; write nlme.compare(fit1, fit2).")
    method = method or next(iter(methods_given), None)
    fits = _named([entry for entry in given if isinstance(entry, Fitted)], named)
    if len(fits) < 2:
        raise FitError(
            f"compare needs at least two fits, got {len(fits)}: nlme.compare(fit1, fit2) or (a=fit1, b=fit2)."
        )
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
    tests = _tests(fits, {name: value.minus2ll for name, value in values.items()}, nested)
    methods = _short_methods(fits)
    rows = {}
    for name, fit in fits.items():
        minus2ll, count = values[name].minus2ll, fit.n_parameters
        random = _random_count(fit)
        subjects, observations = fit.data.n_subjects, fit.data.n_observations
        rows[name] = {
            "fitted by": methods[name],
            "-2LL": minus2ll,
            **judged.get(name, {}),
            "OFV": values[name].ofv,
            "parameters": count,
            "AIC": minus2ll + 2 * count,
            "BIC": minus2ll + count * math.log(observations),
            "BICc": minus2ll + random * math.log(subjects) + (count - random) * math.log(observations),
            **_largest(name, tests, fits),
        }
    scalars = {}
    for name, fit in fits.items():
        raw = parameter_values(fit.model)
        found = {**structural_scalars(fit.model, raw), **omega_scalars(fit.model, raw)}
        scalars[name] = {scalar: float(value[0]) for scalar, value in found.items()}
    return Comparison(pd.DataFrame.from_dict(rows, orient="index"), pd.DataFrame(scalars), label, tests)


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
    table = raw_parameters(fit.model)
    names = [n for n in free_names(fit.model) if table[n].role is Role.OMEGA or table[n].owner in owners]
    return sum(fit.model.get_parameter(name).numel() for name in names)


def _tests(
    fits: "dict[str, Fit]", minus2ll: dict[str, float], nested: Sequence[str] | Mapping[str, str] | None
) -> pd.DataFrame:
    """Likelihood-ratio tests of all pairs of nested fits, the smaller first."""
    stated = _stated(fits, nested)
    rows = []
    for small, large in permutations(fits, 2):
        found = find_nesting(fits[small], fits[large])
        if found is None and (small, large) in stated:
            found = Nesting(fits[large].n_parameters - fits[small].n_parameters)
        if found is not None:
            statistic = max(minus2ll[small] - minus2ll[large], 0.0)
            rows.append((small, large, statistic, found.degrees, found.p_value(statistic), found.distribution))
    return pd.DataFrame(rows, columns=["model", "within", "chi2", "df", "p", "distribution"])


def _stated(fits: "dict[str, Fit]", nested: Sequence[str] | Mapping[str, str] | None) -> set[tuple[str, str]]:
    """Pairs of fits that the user says are nested."""
    if nested is None:
        return set()
    pairs = set(nested.items()) if isinstance(nested, Mapping) else set(combinations(nested, 2))
    for small, large in pairs:
        unknown = [name for name in (small, large) if name not in fits]
        if unknown:
            raise FitError(f"compare: nested= names {unknown[0]!r}; the fits are {', '.join(map(repr, fits))}.")
        if fits[small].n_parameters >= fits[large].n_parameters:
            raise FitError(
                f"compare: nested= says that {small!r} is a special case of {large!r}, which has no more parameters "
                f"({fits[large].n_parameters} and {fits[small].n_parameters}); write the smaller one first."
            )
    return pairs


def _largest(name: str, tests: pd.DataFrame, fits: "dict[str, Fit]") -> dict[str, object]:
    """The likelihood-ratio test against the largest model that contains this one, if there is any."""
    own = tests[tests["model"] == name]
    if own.empty:
        return {"LRT against": "", "chi2": math.nan, "df": math.nan, "p": math.nan}
    test = max((row for _, row in own.iterrows()), key=lambda row: (fits[row["within"]].n_parameters, row["chi2"]))
    return {"LRT against": test["within"], "chi2": test["chi2"], "df": test["df"], "p": test["p"]}


def _short_methods(fits: "dict[str, Fit]") -> dict[str, str]:
    """The name of every fit's method, and of its settings those in which methods of that name differ."""
    short = {}
    for name, fit in fits.items():
        method = fit.method
        alike = [other.method for other in fits.values() if type(other.method) is type(method)]
        if not is_dataclass(method) or isinstance(method, UnrepeatableMethod):
            short[name] = str(method)
            continue
        differing = [
            f.name for f in fields(method) if any(getattr(m, f.name) != getattr(method, f.name) for m in alike)
        ]
        settings = ", ".join(f"{field}={getattr(method, field)}" for field in differing)
        short[name] = type(method).__name__ + (f"({settings})" if settings else "")
    return short


def _named(given: "Sequence[Fit]", named: "Mapping[str, Fit]") -> "dict[str, Fit]":
    """Fits by name; those without are called by the classes of their models."""
    fits: dict[str, Fit] = {}
    for fit in given:
        kind = type(fit.model).__name__
        alike = sum(type(other.model).__name__ == kind for other in given)
        numbers = (f"{kind} {number}" for number in range(1, len(given) + 1))
        fits[kind if alike == 1 else next(label for label in numbers if label not in fits)] = fit
    return {**fits, **named}

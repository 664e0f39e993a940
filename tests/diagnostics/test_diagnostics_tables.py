"""The other tables behind the pictures."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.fitted_models import quick_fit, shared_fit, walking_trace

import nlme_torch as nlme
from nlme_torch.diagnostics import (
    convergence_table,
    effect_covariates,
    effect_draws,
    effect_summary,
    fit_curves,
    residual_quantiles,
    trend,
)


def test_curves_pass_through_the_predictions_and_follow_the_closed_form():
    fit = quick_fit()
    curves = fit_curves(fit, subjects=[3, 1], points=40)
    assert curves["id"].unique().tolist() == [1, 3]
    merged = fit.predictions.merge(curves, on=["id", "time", "outcome"], suffixes=("", "_curve"))
    assert len(merged) == 22
    np.testing.assert_allclose(merged["IPRED"], merged["IPRED_curve"], rtol=1e-12)
    np.testing.assert_allclose(merged["PRED"], merged["PRED_curve"], rtol=1e-12)
    own = curves[curves["id"] == 3]
    ka, cl, v = (
        fit.parameters.loc[["ka", "cl", "v"], "estimate"]
        * np.exp(fit.eta.loc[3, ["eta_ka", "eta_cl", "eta_v"]]).to_numpy()
    )
    dose, k, t = 70.5 * 4.53, cl / v, own["time"].to_numpy()
    expected = dose * ka / (v * (ka - k)) * (np.exp(-k * t) - np.exp(-ka * t))
    np.testing.assert_allclose(own["IPRED"], expected, atol=1e-9)
    assert own["time"].is_monotonic_increasing and len(own) >= 40
    with pytest.raises(nlme.DataError, match="no subject 99"):
        fit_curves(fit, subjects=[99])


def test_curves_of_several_outcomes_stand_below_each_other():
    curves = fit_curves(shared_fit(), subjects=[2], points=10)
    assert curves.groupby("outcome").size().nunique() == 1
    assert set(curves["outcome"]) == {"conc", "effect", "count"}


def test_the_trace_in_long_form_holds_the_trace():
    fit = quick_fit()
    table = convergence_table(fit)
    for name in ("ka", "omega_cl", "sigma", "complete_loglik"):
        part = table[table["parameter"] == name]
        np.testing.assert_array_equal(part["value"], fit.trace[name])
        np.testing.assert_array_equal(part["iteration"], fit.trace["iteration"])
    kinds = table.groupby("kind")["parameter"].unique()
    assert set(kinds["omega"]) == {"omega_ka", "omega_cl", "omega_v"} and set(kinds["structural"]) == {
        "ka",
        "cl",
        "v",
        "sigma",
    }
    assert set(table["phase"]) == {"burn-in", "explore", "smooth"}


def test_weights_and_their_variances_are_grouped_by_network():
    model = nlme.examples.TheophyllineFourNetworks(nlme.Diagonal(0.1))
    trace = walking_trace(model)
    table = convergence_table(replace(quick_fit(), model=model, trace=trace))
    sizes = table.groupby(["kind", "group"])["parameter"].nunique()
    assert sizes["weights", "elimination"] == 7 and sizes["omega", "omega_elimination"] == 7
    scalar = nlme.examples.TheophyllineFourNetworks(nlme.Scalar(0.1))
    table = convergence_table(replace(quick_fit(), model=scalar, trace=walking_trace(scalar)))
    assert table.groupby(["kind", "group"])["parameter"].nunique()["omega", "omega_elimination"] == 1
    published = nlme.examples.TheophyllineFourNetworks()
    trace = walking_trace(published)
    trace[[name for name in trace if name.startswith("omega")]] = 1.0
    assert "omega" not in set(convergence_table(replace(quick_fit(), model=published, trace=trace))["kind"])


def test_the_envelope_of_ordered_residuals_is_exact():
    fit = quick_fit()
    table = residual_quantiles(fit, level=0.9)
    count = len(table)
    np.testing.assert_array_equal(table["IWRES"], np.sort(fit.predictions["IWRES"]))
    # P(U_(i) <= u) = P(Binomial(n, u) >= i)
    rank = np.arange(1, count + 1)
    np.testing.assert_allclose(stats.binom.sf(rank - 1, count, stats.norm.cdf(table["lower"])), 0.05, rtol=1e-8)
    np.testing.assert_allclose(stats.binom.sf(rank - 1, count, stats.norm.cdf(table["upper"])), 0.95, rtol=1e-8)
    assert table["theoretical"].iloc[count // 2] == -table["theoretical"].iloc[count // 2 - 1]
    with pytest.raises(nlme.DataError, match="no outcome 'x'"):
        residual_quantiles(fit, "x")


def test_a_trend_is_a_weighted_straight_line_at_every_point():
    numbers = np.random.default_rng(2)
    x, y = numbers.uniform(0, 10, 50), numbers.normal(size=50)
    line = trend(x, y, span=0.5, points=9)
    at = line["x"].iloc[4]
    distance = np.abs(x - at)
    width = 1.001 * np.sort(distance)[24]
    weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
    # numpy squares its weights
    slope, level = np.polyfit(x - at, y, 1, w=np.sqrt(weight))
    assert line["y"].iloc[4] == pytest.approx(level, rel=1e-9)
    np.testing.assert_allclose(trend(x, 3 - 2 * x)["y"], 3 - 2 * trend(x, x)["x"], atol=1e-9)


def test_a_trend_survives_ties_and_too_few_points():
    ties = trend([0.0] * 30 + [1.0] * 2, [1.0] * 30 + [3.0] * 2, span=0.5)
    assert np.isfinite(ties["y"]).all() and ties["y"].iloc[0] == pytest.approx(1.0)
    assert trend([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).empty and trend([1.0, 2.0], [1.0, 2.0]).empty
    assert len(trend([1.0, 2.0, np.nan, 3.0], [1.0, 2.0, 5.0, 3.0])) == 60


def test_effects_beside_their_distribution():
    fit = quick_fit()
    table = effect_summary(fit)
    np.testing.assert_allclose(table["omega_sd"], np.sqrt(np.diag(fit.omega)))
    np.testing.assert_allclose(table["shrinkage"], 1 - table["mode_sd"] / table["omega_sd"], rtol=1e-12)
    draws = effect_draws(fit, ["eta_cl"])
    assert draws["eta_cl"].std(ddof=1) == pytest.approx(table.loc["eta_cl", "draw_sd"], rel=1e-12)
    per_subject = draws.groupby("id", sort=False)["eta_cl"].mean().to_numpy()
    np.testing.assert_allclose(per_subject, fit.eta_mean["eta_cl"], rtol=1e-12)
    # draws do not shrink as modes do: their spread agrees with omega at the maximum of the likelihood
    np.testing.assert_allclose(table["draw_sd"], table["omega_sd"], rtol=0.12)
    with pytest.raises(nlme.ModelError, match="no random effect 'eta_x'"):
        effect_summary(fit, ["eta_x"])


def test_effects_beside_covariates():
    fit = shared_fit()
    table = effect_covariates(fit, effects=["eta_v", "z[0]"])
    assert table.groupby(["effect", "covariate"]).size().to_dict() == {
        (effect, name): 12 for effect in ("eta_v", "z[0]") for name in ("Wt", "Dose", "sex")
    }
    part = table[(table["effect"] == "eta_v") & (table["covariate"] == "Wt")]
    expected = stats.pearsonr(fit.data.covariates["Wt"], fit.eta["eta_v"]).statistic
    np.testing.assert_allclose(part["correlation"], expected, rtol=1e-12)
    with pytest.raises(nlme.ModelError, match="no covariate 'age'"):
        effect_covariates(fit, covariates=["age"])

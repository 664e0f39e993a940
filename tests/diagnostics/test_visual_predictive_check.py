"""Visual and numerical predictive checks against loops, and survival against its definition."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.fitted_models import made_fit, quick_fit, shared_fit
from support.phenobarbital_reference import nonmem_fit
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.diagnostics import (
    kaplan_meier,
    numerical_predictive_check,
    prediction_corrected_vpc,
    time_bins,
    vpc,
)
from nlme_torch.model.density.replicates import draw_replicates


def simulated(fit, outcome, simulations, seed):
    """Simulated observations in the order of the rows, ``(observation, replicate)``, subject by subject."""
    batch = fit.density.batch
    values = draw_replicates(fit.density, simulations, [outcome], seed).values[outcome].numpy()
    mask = batch.outcomes[outcome].mask.numpy()
    return np.concatenate([values[mask[:, k], :, k] for k in range(batch.n_subjects)])


@pytest.mark.parametrize("corrected", [False, True])
def test_percentiles_of_a_vpc_are_those_of_a_loop(corrected):
    fit, edges = nonmem_fit(), [1.0, 10.0, 60.0, 120.0, 400.0]
    check = prediction_corrected_vpc if corrected else vpc
    found = check(fit, simulations=60, seed=3, bins=edges, percentiles=(0.1, 0.5), level=0.8)
    table = fit.table(simulations=0)
    table = table[table["DV"].notna()].reset_index(drop=True)
    sims = simulated(fit, "DV", 60, 3)
    row = 0
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        here = (table["TIME"] >= left) & (table["TIME"] < right)
        factor = (table.loc[here, "PRED"].median() / table.loc[here, "PRED"]).to_numpy() if corrected else 1.0
        for percentile in (0.1, 0.5):
            line = found.table.iloc[row]
            observed = np.quantile(table.loc[here, "DV"] * factor, percentile)
            each = [np.quantile(sims[here, k] * factor, percentile) for k in range(60)]
            expected = [observed, *np.quantile(each, [0.1, 0.5, 0.9])]
            np.testing.assert_allclose(
                line[["observed", "lower", "median", "upper"]].to_numpy(dtype=float), expected, rtol=1e-10
            )
            assert line["count"] == here.sum()
            row += 1
    assert row == len(found.table) and found.beyond is None and found.left_out == 0
    assert found.corrected is corrected


def censored_fit(limit=0.2):
    """A line with values below a limit."""
    frame = pd.DataFrame({"ID": np.repeat(np.arange(60), 4), "TIME": np.tile([0.0, 1.0, 2.0, 3.0], 60), "DV": 1.0})
    frame["x"] = np.repeat(np.arange(60) % 2, 4)
    model = Line(b=nlme.Normal(-0.3, nlme.Shift("x"), omega=0.05)).with_values({"sigma": 0.3, "omega_a": 0.1})
    data = nlme.Dataset.from_frame(frame, covariates=["x"])
    drawn = nlme.simulate(model, data, seed=2).frame
    drawn["CENS"] = (drawn["DV"] < limit).astype(int)
    drawn["DV"] = drawn["DV"].clip(lower=limit)
    return made_fit(model, nlme.Dataset.from_frame(drawn, covariates=["x"]), draws=2)


def test_what_is_below_the_limit_has_a_panel_of_its_own():
    fit = censored_fit()
    found = vpc(fit, simulations=80, seed=1, stratify="x")
    assert sorted(found.table["stratum"].unique()) == ["x 0", "x 1"]
    frame, sims = fit.data.frame, simulated(fit, "DV", 80, 1)
    for _, line in found.beyond.iterrows():
        here = (frame["TIME"] == line["x"]) & (frame["x"] == int(line["stratum"][-1]))
        assert line["observed"] == pytest.approx(frame.loc[here, "CENS"].mean())
        shares = (sims[here] < 0.2).mean(0)
        assert [line["lower"], line["upper"]] == pytest.approx(np.quantile(shares, [0.05, 0.95]))
    low = found.table[(found.table["percentile"] == 0.05) & (found.table["x"] == 3.0)]
    assert low["observed"].isna().all()  # the percentile is among the censored
    assert found.table[found.table["percentile"] == 0.95]["observed"].notna().all()


def test_counts_and_categories_are_shown_by_proportions():
    class Coin(nlme.Model):
        def __init__(self):
            super().__init__()
            self.a = nlme.Normal(0.0, omega=0.5)

        def predict(self, t, p, cov):
            return p.a - 0.5 * t

        def observe(self, t, y, p):
            return {"DV": nlme.observation.Bernoulli(y)}

    frame = pd.DataFrame({"ID": np.repeat(np.arange(40), 3), "TIME": np.tile([0.0, 1.0, 2.0], 40), "DV": 0})
    frame["DV"] = np.random.default_rng(0).integers(0, 2, len(frame))
    fit = made_fit(Coin(), nlme.Dataset.from_frame(frame), draws=2)
    found = vpc(fit, simulations=50)
    assert found.kind == "categories" and len(found.table) == 6
    ones = found.table[found.table["category"] == 1.0]
    np.testing.assert_allclose(ones["observed"], frame.groupby("TIME")["DV"].mean())
    sims = simulated(fit, "DV", 50, 0)
    shares = sims[frame["TIME"] == 1.0].mean(0)
    np.testing.assert_allclose(ones.iloc[1][["lower", "upper"]].astype(float), np.quantile(shares, [0.05, 0.95]))
    with pytest.raises(nlme.DataError, match="no measurement"):
        prediction_corrected_vpc(fit)
    assert vpc(shared_fit(), "count", simulations=20).kind == "percentiles"  # many values


def test_kaplan_meier_is_scipys():
    numbers = np.random.default_rng(4)
    time = np.round(numbers.exponential(2.0, (50, 3)), 1)
    event = numbers.uniform(size=(50, 3)) < 0.7
    grid = np.linspace(0, 5, 21)
    found = kaplan_meier(time, event, grid)
    for k in range(3):
        data = stats.CensoredData.right_censored(time[:, k], ~event[:, k])
        np.testing.assert_allclose(found[:, k], stats.ecdf(data).sf.evaluate(grid), atol=1e-12)


class Hazard(nlme.Model):
    """A hazard that is constant for every subject."""

    states = ("hazard",)

    def __init__(self):
        super().__init__()
        self.rate = nlme.LogNormal(0.5, omega=0.2)

    def initial(self, p):
        return (0.0,)

    def dynamics(self, t, y, p):
        return (p.rate + 0 * y.hazard,)

    def observe(self, t, y, p):
        return {"event": nlme.observation.TimeToEvent(p.rate + 0 * y.hazard, y.hazard)}


def test_the_survival_that_a_model_simulates_is_its_own():
    numbers = np.random.default_rng(1)
    time = numbers.exponential(1 / (0.5 * np.exp(np.sqrt(0.2) * numbers.normal(size=200))))
    frame = pd.DataFrame({"ID": np.arange(200), "TIME": np.minimum(time, 4.0), "event": (time < 4.0).astype(int)})
    frame["arm"] = frame["ID"] % 2
    data = nlme.Dataset.from_frame(frame, outputs="event", start=0.0)
    fit = made_fit(Hazard(), data, draws=2)
    found = vpc(fit, simulations=100, stratify="arm", level=0.95)
    assert found.kind == "survival" and sorted(found.table["stratum"].unique()) == ["arm 0", "arm 1"]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    rates = 0.5 * np.exp(np.sqrt(0.2) * nodes)
    exact = (weights * np.exp(-rates * found.table["x"].to_numpy()[:, None])).sum(1) / weights.sum()
    np.testing.assert_allclose(found.table["median"], exact, atol=0.03)
    inside = found.table["observed"].between(found.table["lower"], found.table["upper"])
    assert inside.mean() > 0.8
    part = found.table[found.table["stratum"] == "arm 0"]
    own = frame[frame["arm"] == 0]
    data = stats.CensoredData.right_censored(own["TIME"], own["event"] == 0)
    np.testing.assert_allclose(part["observed"], stats.ecdf(data).sf.evaluate(part["x"]), atol=1e-12)
    assert part["at_risk"].iloc[0] == 100


def test_the_shares_outside_prediction_intervals_are_those_of_a_loop():
    fit = quick_fit()
    found = numerical_predictive_check(fit, simulations=90, seed=2, intervals=[0.8], level=0.9)
    y, sims = fit.data.frame["conc"].to_numpy(), simulated(fit, "conc", 90, 2)
    ends = np.quantile(sims, [0.1, 0.9], axis=1)
    expected = [np.mean(y < ends[0]), np.mean(y > ends[1])]
    np.testing.assert_allclose(found["observed"], expected)
    each = [np.mean(sims[:, k] < ends[0]) for k in range(90)]
    np.testing.assert_allclose(found.loc[0, ["lower", "upper"]].astype(float), np.quantile(each, [0.05, 0.95]))
    assert found["count"].tolist() == [132, 132]


def brute_force(values, bins):
    """Least squares over all ways to cut sorted values."""
    from itertools import combinations

    values = np.sort(values)
    cuts = ([0, *cut, len(values)] for cut in combinations(range(1, len(values)), bins - 1))
    pairs = (zip(cut[:-1], cut[1:], strict=True) for cut in cuts)
    return min(sum(((values[a:b] - values[a:b].mean()) ** 2).sum() for a, b in pair) for pair in pairs)


def test_bins_are_those_of_least_squares():
    values = np.random.default_rng(7).gamma(1.0, 3.0, 14)
    for bins in (2, 3, 4):
        edges = time_bins(values, bins)
        place = np.digitize(values, edges[1:-1])
        squares = sum(((values[place == k] - values[place == k].mean()) ** 2).sum() for k in range(bins))
        assert squares == pytest.approx(brute_force(values, bins))
    nominal = np.tile([0.0, 1.0, 2.0, 8.0], 10)
    np.testing.assert_allclose(time_bins(nominal), [0, 0.5, 1.5, 5.0, 8.0])
    groups = np.concatenate([k * 10 + np.random.default_rng(k).normal(0, 0.5, 20) for k in range(6)])
    edges = time_bins(groups)
    assert len(edges) == 7 and all(4 < edge % 10 < 6 for edge in edges[1:-1])
    lonely = np.concatenate([np.random.default_rng(1).uniform(0, 10, 100), [90.0]])
    counts = np.histogram(lonely, time_bins(lonely))[0]
    assert counts.min() >= 5
    assert len(time_bins(np.random.default_rng(2).uniform(0, 1, 20_000))) <= 21
    with pytest.raises(nlme.DataError, match="must increase"):
        time_bins(values, [1.0, 1.0])


def test_times_after_a_dose_and_unknown_columns():
    fit = nonmem_fit()
    found = vpc(fit, simulations=10, against="time after dose", bins=3)
    frame = fit.data.frame
    last = frame["TIME"].where(frame["AMT"] > 0).groupby(frame["ID"]).ffill()
    expected = (frame["TIME"] - last)[frame["MDV"] == 0].to_numpy()
    np.testing.assert_allclose(found.points["x"], expected)
    by_dose = vpc(fit, simulations=10, stratify="dose", bins=1)
    assert by_dose.points["stratum"].nunique() == 2
    with pytest.raises(nlme.DataError, match="against='height'"):
        vpc(fit, against="height")
    with pytest.raises(nlme.DataError, match="stratify='height'"):
        vpc(fit, stratify="height")
    with pytest.raises(nlme.DataError, match="several outcomes"):
        vpc(shared_fit())

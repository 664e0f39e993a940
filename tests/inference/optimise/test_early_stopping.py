"""Early stopping, several initialisations, ensembles."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.errors import FitError
from nlme_torch.inference.optimise.early_stopping import pooled_log_likelihood, split_density
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


class Curve(nlme.Model):
    """One curve for all, by a network, with known error."""

    def __init__(self):
        super().__init__()
        self.curve = nlme.MLP(1, 12, 1)
        self.sigma = nlme.Fixed(0.5)

    def predict(self, t, p, cov):
        return p.curve(6 * (t - 1))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def line_data(subjects=16, seed=0):
    rng = np.random.default_rng(seed)
    times = rng.uniform(-1, 1, 3 * subjects)
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), 3), "TIME": times + 1})
    frame["DV"] = times + rng.normal(0, 0.5, 3 * subjects)
    return nlme.Dataset.from_frame(frame.sort_values(["ID", "TIME"]))


def by_hand(model, frame):
    """Log-likelihood of independent normal errors, written out in numpy."""
    with torch.no_grad():
        value = model.curve.bind(model.curve.weights[:, None])(torch.tensor(6 * (frame.TIME.to_numpy() - 1)))
    residual = (frame.DV.to_numpy() - value.numpy()) / 0.5
    return float(np.sum(-0.5 * residual**2 - np.log(0.5) - 0.5 * np.log(2 * np.pi)))


def test_early_stopping_keeps_what_was_best_for_the_held_out_subjects():
    data = line_data()
    method = nlme.Pooled(steps=600, learning_rate=0.1, hold_out=0.25, patience=60)
    fit = nlme.fit(Curve(), data, method, seed=4, progress=False)
    _, held = split_density(Density(Curve(), data.batch(), nlme.Auto()), 0.25, torch.Generator().manual_seed(4))
    history = fit.trace.set_index("iteration")["held_out_loglik"].dropna()
    best = history.idxmax()
    assert best < len(fit.trace) < 600 and len(fit.trace) - best >= 60, "over-fitted long before the last step"
    assert fit.termination.startswith(f"{len(fit.trace)} steps of Adam; kept step {best}, the best for 4 held-out")
    left = data.subset(held.batch.subjects)
    assert by_hand(fit.model, left.frame) == pytest.approx(history.max(), abs=1e-9)
    assert float(pooled_log_likelihood(held, parameter_values(fit.model))) == pytest.approx(history.max())
    row = fit.trace[fit.trace.iteration == best].filter(like="curve.").iloc[0]
    np.testing.assert_allclose(row, fit.model.curve.weights.detach(), rtol=1e-12)
    trained_on_all = nlme.fit(Curve(), data, nlme.Pooled(steps=600, learning_rate=0.1), progress=False)
    fresh = line_data(400, seed=9).frame
    assert by_hand(fit.model, fresh) > by_hand(trained_on_all.model, fresh) + 10


def test_early_stopping_keeps_each_starts_own_best():
    data = line_data()
    density = Density(Curve(), data.batch(), nlme.Auto())
    drawn = [parameter_values(Curve().initialise(seed)) for seed in (1, 2)]
    both = {name: torch.cat([one[name] for one in drawn]) for name in drawn[0]}
    method = nlme.Pooled(steps=150, learning_rate=0.1, hold_out=0.25, patience=150)
    together = method.maximise(density, both)["curve.weights"]
    for start, one in enumerate(drawn):
        torch.testing.assert_close(together[start], method.maximise(density, one)["curve.weights"][0])


def test_multistart_orders_by_held_out_likelihood():
    data = line_data()
    found = nlme.multistart(
        Curve(), data, nlme.Pooled(steps=40), starts=5, keep=3, warm_up=nlme.Pooled(steps=30), seed=2, progress=False
    )
    train, held = data.split(test=0.25, seed=2)
    assert found.best is found.fits[0] and len(found.fits) == 3
    values = [-2 * by_hand(fit.model, held.frame) for fit in found.fits]
    assert values == sorted(values)
    np.testing.assert_allclose(found.table["held_out"].dropna(), values, rtol=1e-9)
    np.testing.assert_allclose(
        found.table["training"].dropna(), [-2 * by_hand(fit.model, train.frame) for fit in found.fits], rtol=1e-9
    )
    assert all(fit.data == train for fit in found.fits)
    given_up = found.table["held_out"].isna()
    screened = found.table["warm_up_held_out"]
    assert given_up.sum() == 2 and screened[given_up].min() >= screened[~given_up].max()
    alone = nlme.Pooled(steps=30).maximise(Density(Curve(), train.batch(), nlme.Auto()), parameter_values(Curve()))
    model = Curve()
    model.curve.weights.data = alone["curve.weights"][0]
    assert found.table.warm_up[0] == pytest.approx(-2 * by_hand(model, train.frame)), (
        "the first start is the model's own"
    )


def test_an_ensemble_averages_predictions():
    data = line_data(6)
    fits = [nlme.fit(Curve().initialise(k), data, nlme.Pooled(steps=20), progress=False) for k in range(3)]
    ensemble = nlme.Ensemble(fits)
    found = ensemble.predict([2.0, 2.2])
    each = np.stack([fit.predict([2.0, 2.2])["PRED"] for fit in fits])
    np.testing.assert_allclose(found["PRED"], each.mean(0))
    np.testing.assert_allclose(found["PRED_sd"], each.std(0, ddof=1))
    assert found[["id", "time"]].equals(fits[0].predict([2.0, 2.2])[["id", "time"]])
    others = line_data(4, seed=5)
    own = ensemble.individualise(others)
    assert list(own["DV"]) == list(fits[0].individualise(others).predictions["DV"])
    np.testing.assert_allclose(
        own["IPRED"], np.mean([fit.individualise(others).predictions["IPRED"] for fit in fits], 0)
    )
    error = [np.mean((fit.individualise(others).predictions["PRED"] - own["DV"]) ** 2) for fit in fits]
    assert np.mean((own["PRED"] - own["DV"]) ** 2) < np.mean(error), "by convexity"
    other = nlme.fit(Curve(), others, nlme.Pooled(steps=2), progress=False)
    with pytest.raises(FitError, match="different subjects"):
        nlme.Ensemble([fits[0], other]).predict([1.0])


def test_what_cannot_be_done_is_refused():
    class Plain(Curve):
        def __init__(self):
            super().__init__()
            del self.curve

    with pytest.raises(FitError, match="at least two"):
        nlme.Ensemble([])
    with pytest.raises(FitError, match="keep=9"):
        nlme.multistart(Curve(), line_data(), starts=3, keep=9)
    with pytest.raises(FitError, match="has none"):
        nlme.multistart(Plain(), line_data())
    with pytest.raises(FitError, match="below one"):
        nlme.Pooled(hold_out=1.0)
    with pytest.raises(FitError, match="leaves none on one side"):
        nlme.fit(Curve(), line_data(2), nlme.Pooled(hold_out=0.1), progress=False)

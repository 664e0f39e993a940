"""Held-out likelihood and cross-validation against the exact likelihood of the linear Gaussian mixed model."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.mixed_linear import MixedLinear, lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.errors import FitError


@pytest.fixture(scope="module")
def lines():
    frame, design = simulate_lines(subjects=24, seed=3)
    return lines_data(frame), design


def exact(fit, design, ids):
    """Log-likelihood of subjects 1, 2, ... by the textbook's formula at a fit's parameters."""
    kept = [int(label) - 1 for label in ids]
    part = MixedLinear(
        *(tuple(entries[k] for k in kept) for entries in (design.responses, design.fixed, design.random))
    )
    estimate = fit.parameters["estimate"]
    return part.log_marginal(
        estimate[["a", "b", "b_x"]].to_numpy(), np.asarray(fit.omega, dtype=float), estimate["sigma"]
    )


@pytest.fixture(scope="module")
def trained(lines):
    return nlme.fit(Line(full=True), lines[0].subset(range(1, 17)), nlme.FO(), progress=False)


@pytest.mark.parametrize("likelihood", [nlme.Laplace(), nlme.Quadrature(nodes=5), nlme.FOCEI()])
def test_held_out_likelihood_is_the_exact_one_of_other_subjects(lines, trained, likelihood):
    (data, design), fit = lines, trained
    found = nlme.held_out(fit, data.subset(range(17, 25)), likelihood)
    assert list(found.subjects["id"]) == list(range(17, 25))
    expected = exact(fit, design, range(17, 25))
    np.testing.assert_allclose(found.subjects["log_likelihood"], expected, atol=1e-6)
    assert found.minus2ll == pytest.approx(-2 * sum(expected), abs=1e-5)


def test_held_out_likelihood_by_importance_sampling(lines, trained):
    (data, design), fit = lines, trained
    test = data.subset(range(17, 25))
    found = nlme.held_out(fit, test, seed=3)
    assert 0 < found.standard_error < 0.2
    assert abs(found.value - sum(exact(fit, design, range(17, 25)))) < 4 * found.standard_error
    assert nlme.held_out(fit, test, seed=3).value == found.value
    assert fit.model.n_effects == 2 and fit.data.n_subjects == 16, "the fit is as it was"


class SameSlope(Line):
    """No random slope: wrong here."""

    def __init__(self):
        super().__init__(b=nlme.Normal(0.0, nlme.Shift("x"), omega=nlme.Fixed(1e-6)))


def test_cross_validation_sums_the_exact_likelihoods_of_left_out_subjects(lines):
    data, design = lines
    models = {"line": lambda: Line(full=True), "same slope": SameSlope}
    found = nlme.cross_validate(
        lambda name: models[name](), data, nlme.FO(), candidates=list(models), folds=2, seed=2,
        likelihood=nlme.FO(), progress=False,
    )  # fmt: skip
    own = found.subjects[found.subjects.candidate == "line"]
    assert sorted(own["id"]) == list(range(1, 25)) and own.groupby("fold").size().eq(12).all()
    total, training = 0.0, 0.0
    for _, part in own.groupby("fold"):
        fit = nlme.fit(Line(full=True), data.subset(set(data.subjects) - set(part["id"])), nlme.FO(), progress=False)
        expected = exact(fit, design, part["id"])
        np.testing.assert_allclose(part["log_likelihood"], expected, atol=1e-6)
        total, training = total - 2 * sum(expected), training + fit.minus2ll * 24 / 12 / 2
    assert found.table.held_out["line"] == pytest.approx(total, abs=1e-5)
    assert found.table.training["line"] == pytest.approx(training, abs=1e-5)
    assert found.best == "line"
    wide = found.subjects.pivot(index="id", columns="candidate", values="log_likelihood")
    gaps = 2 * (wide["line"] - wide["same slope"])
    assert found.table.difference["same slope"] == pytest.approx(gaps.sum())
    assert found.table.standard_error["same slope"] == pytest.approx(gaps.std() * np.sqrt(24))
    assert found.table.difference["line"] == 0 and "over-fitted" not in str(found)


class Wiggle(nlme.Model):
    """One curve for all, by a network."""

    def __init__(self, strength):
        super().__init__()
        self.curve = nlme.MLP(1, 12, 1, prior=nlme.L2(strength))
        self.sigma = nlme.Fixed(0.5)

    def predict(self, t, p, cov):
        return p.curve(6 * (t - 1))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def test_a_strength_that_wins_training_and_loses_the_left_out_subjects_is_said_to_be_over_fitted():
    rng = np.random.default_rng(0)
    times = rng.uniform(-1, 1, 36)
    frame = pd.DataFrame({"ID": np.repeat(np.arange(12), 3), "TIME": times, "DV": times + rng.normal(0, 0.5, 36)})
    data = nlme.Dataset.from_frame(frame.assign(TIME=frame.TIME + 1).sort_values(["ID", "TIME"]))
    found = nlme.cross_validate(
        Wiggle, data, nlme.Pooled(steps=200, learning_rate=0.2), candidates=[1e-6, 0.3], folds=2, seed=0, progress=False
    )
    assert found.best == 0.3 and found.table.training.idxmin() == 1e-6
    assert "1e-06 fits its own subjects better and is over-fitted" in str(found)
    noise = found.table.assign(standard_error=found.table.difference)
    assert "over-fitted" not in str(replace(found, table=noise)), "a gap within its error says nothing"


def test_a_candidate_that_cannot_be_fitted_loses(lines, caplog):
    class Hopeless(Line):
        def predict(self, t, p, cov):
            return torch.full_like(t, float("nan"))

    models = {"hopeless": Hopeless, "line": Line}
    with caplog.at_level(logging.WARNING):
        found = nlme.cross_validate(
            lambda name: models[name](), lines[0], nlme.FO(), candidates=["hopeless", "line"], folds=2,
            likelihood=nlme.FO(), progress=False,
        )  # fmt: skip
    assert found.best == "line" and found.table.failed["hopeless"] == 2 and "hopeless failed in fold 1" in caplog.text
    with pytest.raises(FitError, match="no candidate"):
        nlme.cross_validate(Hopeless(), lines[0], nlme.FO(), folds=2, progress=False)


def test_what_cannot_be_cross_validated_is_refused(lines):
    for settings, words in (
        ({"folds": 1}, "choose 2 to 24"), ({"folds": 25}, "choose 2 to 24"), ({"candidates": [1]}, "a function"),
    ):  # fmt: skip
        with pytest.raises(FitError, match=words):
            nlme.cross_validate(Line(), lines[0], nlme.FO(), progress=False, **settings)
    for candidates, words in ((None, "needs candidates"), ([1, 1], "the same")):
        with pytest.raises(FitError, match=words):
            nlme.cross_validate(lambda _: Line(), lines[0], nlme.FO(), candidates=candidates, progress=False)

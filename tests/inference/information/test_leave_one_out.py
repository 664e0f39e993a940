"""Likelihoods of left-out subjects: against refits without them, exactly where the model is linear."""

import importlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.errors import FitError
from nlme_torch.model.declare.values import parameter_values

leave_one_out_module = importlib.import_module("nlme_torch.inference.information.leave_one_out")

TIMES = np.linspace(0, 2, 6)
FOCEI = nlme.FOCEI(mode_starts=1)


class Curve(nlme.Model):
    """A curve for all by a network, and a level of every subject."""

    def __init__(self, units=12, strength=None, fixed=True):
        super().__init__()
        self.level = nlme.Normal(0.0, omega=0.3, fixed=fixed)
        hidden = (units,) if units else ()
        self.curve = nlme.MLP(1, *hidden, 1, prior=None if strength is None else nlme.L2(strength))
        self.sigma = nlme.Fixed(0.5) if fixed else nlme.Positive(0.5)

    def predict(self, t, p, cov):
        return p.level + p.curve(3 * (t - 1))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def with_known_variances(model):
    """The model with its Omega held."""
    assert model.n_effects == 1
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not name.startswith("_covariances"))
    return model


def line_data(subjects, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), len(TIMES)), "TIME": np.tile(TIMES, subjects)})
    level = 0.3 * rng.normal(size=subjects)[frame.ID]
    frame["DV"] = level + frame.TIME - 1 + 0.5 * rng.normal(size=len(frame))
    return nlme.Dataset.from_frame(frame)


def fitted(model, data, steps):
    short = nlme.FOCEI(optimiser=nlme.BFGS(iterations=3), mode_starts=1)
    return nlme.fit(model, data, nlme.Staged(nlme.Pooled(steps, 0.1), short), progress=False)


def test_it_is_exact_for_a_linear_network_with_a_prior():
    data, strength = line_data(5, seed=3), 2.0
    design = np.column_stack([3 * (TIMES - 1), np.ones(len(TIMES))])
    covariance = 0.3 + 0.25 * np.eye(len(TIMES))
    inverse = np.linalg.inv(covariance)
    y = data.frame.DV.to_numpy().reshape(5, -1)

    def best(subjects):
        information = len(subjects) * design.T @ inverse @ design + 2 * strength * np.eye(2)
        return np.linalg.solve(information, design.T @ inverse @ y[subjects].sum(0))

    def minus2ll(own, subjects):
        residual = y[own] - design @ best(subjects)
        return residual @ inverse @ residual + np.linalg.slogdet(2 * np.pi * covariance)[1]

    model = with_known_variances(Curve(0, strength))
    model.curve.weights.data = torch.tensor(best(range(5)))  # exactly where the fit would end
    fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
    found = nlme.leave_one_out(fit).subjects.set_index("id")
    for k in range(5):
        assert found.fitted[k] == pytest.approx(minus2ll(k, range(5)), abs=1e-6)
        assert found.left_out[k] == pytest.approx(minus2ll(k, [j for j in range(5) if j != k]), abs=1e-5)


def test_a_classical_model_agrees_with_refits_without_each_subject():
    data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
    fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
    found = nlme.leave_one_out(fit)
    # nlme.cross_validate(model, data, nlme.FOCEI(), folds=12, likelihood=nlme.FOCEI()), 11 s
    refitted = {1: 35.606, 2: 39.816, 3: 21.341, 4: 31.673, 5: 55.723, 6: 29.878, 7: 23.356, 8: 27.512, 9: 34.318,
                10: 29.961, 11: 25.162, 12: 30.722}  # fmt: skip
    gaps = (found.subjects.set_index("id").left_out - pd.Series(refitted)).abs()
    assert gaps.median() < 0.2 and gaps.max() < 2.5, "of the subject that nobody resembles"
    assert gaps.mean() < found.linearisation_error < 2.0
    loss = sum(refitted.values()) - fit.minus2ll
    assert found.loss == pytest.approx(found.minus2ll - fit.minus2ll)
    assert abs(found.loss - loss) < 0.5 * abs(2 * fit.n_parameters - loss), "Akaike's guess is further off"
    assert fit.left_out is None and "left out" not in str(fit), "only networks are judged unasked"


def test_a_network_that_wins_training_and_loses_hold_out_says_so_unasked():
    data, others = line_data(3, seed=1), line_data(600, seed=9)
    greedy, modest = (fitted(Curve(units), data, steps=400) for units in (12, 0))
    assert greedy.minus2ll < modest.minus2ll
    assert "warning: wins training, loses hold-out" in str(greedy)
    assert "wins training" not in str(modest) and "when left out" in str(modest)
    really = nlme.compare(FOCEI, held_out=others, greedy=greedy, modest=modest)
    assert really.table["held out"]["greedy"] > really.table["held out"]["modest"]
    lost = [nlme.held_out(one, others, FOCEI).subjects.log_likelihood for one in (modest, greedy)]
    lost = lost[0] - lost[1]
    assert lost.mean() > 3 * lost.sem(), "no matter of the subjects that were held out"
    for found in (really, nlme.compare(FOCEI, greedy=greedy, modest=modest)):
        assert found.verdict.startswith("greedy wins training by") and found.verdict in str(found)


def test_the_same_network_with_many_subjects_is_silent():
    fit = fitted(Curve(8), line_data(60, seed=2), steps=150)
    assert fit.left_out is not None and 0 < fit.left_out.inflation < 0.05
    assert "wins training" not in str(fit)
    held = nlme.held_out(fit, line_data(400, seed=8), FOCEI).minus2ll / 400
    assert fit.left_out.minus2ll / 60 == pytest.approx(held, abs=0.6), "-2LL per subject, standard error 0.5"


def test_what_is_not_normal_is_refused():
    class Counts(Curve):
        def observe(self, t, y, p):
            return {"DV": dist.Poisson(torch.exp(y))}

    frame = line_data(3).frame
    frame["DV"] = np.arange(len(frame)) % 3
    fit = nlme.fit(
        Counts(0), nlme.Dataset.from_frame(frame), nlme.Laplace(optimiser=nlme.BFGS(iterations=2)), progress=False
    )
    with pytest.raises(FitError, match="normal"):
        nlme.leave_one_out(fit)
    assert fit.left_out is None and "hold-out not judged: leave_one_out" in str(fit)


class Saturation(nlme.Model):
    """Elimination by a network of concentration and a latent, which its samples determine only in part."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.v = nlme.LogNormal(10.0, omega=0.09)
        self.z = nlme.Latent(1)
        self.rate = nlme.MLP(2, 4, 1)
        self.sigma = nlme.Positive(0.2)

    def initial(self, p):
        return (100.0,)

    def dynamics(self, t, y, p):
        c = y.central / p.v
        return (-5 * torch.nn.functional.softplus(p.rate(c / 5 - 1, p.z)) * c / (1 + c),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


def saturation_data(subjects, seed):
    """Michaelis-Menten elimination of 100 units, by small explicit steps."""
    rng = np.random.default_rng(seed)
    v, most = 10 * np.exp(0.3 * rng.normal(size=subjects)), 8 * np.exp(0.3 * rng.normal(size=subjects))
    amount, rows = np.full(subjects, 100.0), []
    for step in range(1, 2001):
        slope = most * (amount / v) / (2 + amount / v)
        middle = amount - 0.005 * slope
        amount = amount - 0.01 * most * (middle / v) / (2 + middle / v)
        if step / 100 in (0.5, 1, 2, 4, 6, 8, 12, 16, 20):
            values = amount / v + 0.2 * rng.normal(size=subjects)
            rows += [(k + 1, step / 100, value) for k, value in enumerate(values)]
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "DV"]).sort_values(["ID", "TIME"])
    return nlme.Dataset.from_frame(frame)


def test_a_network_that_is_not_nearly_linear_in_its_weights_is_not_judged():
    short = nlme.FOCEI(mode_starts=1, optimiser=nlme.TrustRegion(iterations=25))
    method = nlme.Staged(nlme.Pooled(steps=60), short)
    fit = nlme.fit(Saturation(), saturation_data(12, 1), method, progress=False)
    new = nlme.held_out(fit, saturation_data(20, 2), FOCEI).minus2ll / 20
    if fit.left_out is None:
        assert "hold-out not judged: leave_one_out" in str(fit) and "cross_validate" in str(fit)
        assert "when left out" not in str(fit)
    else:
        estimated = fit.left_out.minus2ll / 12
        spread = fit.left_out.standard_error / 12 + fit.left_out.linearisation_error
        assert estimated == pytest.approx(new, abs=4 * spread + 2.0)
    normal = leave_one_out_module._Normal.expand(fit.density, parameter_values(fit.model), fit.effects.modes)
    with pytest.raises(FitError, match="of 12 subjects the estimates would move farther"):
        replace(normal, residuals=20 * normal.residuals).gain_without_one()


class Decline(nlme.Model):
    """A level of every subject, which falls at a rate that a network of the time gives."""

    def __init__(self):
        super().__init__()
        self.level = nlme.LogNormal(5.0, omega=0.1)
        self.rate = nlme.MLP(1, 3, 1, prior=nlme.L2(0.1))
        self.sigma = nlme.Positive(0.2)

    def predict(self, t, p, cov):
        return p.level * torch.exp(-torch.nn.functional.softplus(p.rate(t / 6 - 1)) * t / 4)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def decline_data(subjects, seed):
    """Levels and first-order rates that differ between subjects."""
    rng, times = np.random.default_rng(seed), np.array([0.25, 0.5, 1, 2, 3, 4, 6, 8, 12])
    level, rate = 5 * np.exp(0.3 * rng.normal(size=subjects)), 0.3 * np.exp(0.2 * rng.normal(size=subjects))
    values = level[:, None] * np.exp(-rate[:, None] * times) + 0.2 * rng.normal(size=(subjects, len(times)))
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), len(times)), "TIME": np.tile(times, subjects)})
    return nlme.Dataset.from_frame(frame.assign(DV=values.ravel()))


def test_a_network_agrees_with_refits_within_the_error_that_is_stated():
    data, short = decline_data(10, 1), nlme.FOCEI(mode_starts=1, optimiser=nlme.TrustRegion(iterations=60))
    fit = nlme.fit(Decline(), data, nlme.Staged(nlme.Pooled(steps=150), short), progress=False)
    found = nlme.leave_one_out(fit)
    estimated = found.subjects.set_index("id")
    for subject in (3, 6, 9):
        others = data.subset([other for other in data.subjects if other != subject])
        refit = nlme.fit(fit.model, others, short, progress=False)
        exact = nlme.held_out(refit, data.subset([subject]), FOCEI).minus2ll
        assert estimated.left_out[subject] == pytest.approx(exact, abs=estimated.error[subject] + 1e-3)
    assert found.linearisation_error == pytest.approx(estimated.error.mean())
    assert f"(+-{found.linearisation_error:.2g})" in str(fit) and found.linearisation_error < 3.0

"""The compiled likelihood equals the tensor operations, to rounding, or is not given out."""

import logging
import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.linalg import expm
from support.compiled_models import (
    Absorbed,
    Delayed,
    Domain,
    Linear,
    Matrix,
    Saturable,
    assert_same,
    both,
    density_of,
    draws,
    history_data,
    line_density,
    lines,
    moved,
)
from support.extreme_models import EXAMPLES
from support.linear_cases import textbook_matrix
from support.small_models import DOUBLE, Everything, Line, everything_data

import nlme_torch as nlme
from nlme_torch import observation
from nlme_torch.model.compiled import compiled_likelihood as compilation
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood, log_likelihood
from nlme_torch.model.density.density import Density
from nlme_torch.solve.kernel.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

FEW = (nlme.examples.TheophyllineClosedForm, nlme.examples.Phenobarbital)


def examples(chosen):
    pairs = [(make, model) for make, models in EXAMPLES.items() for model in models]
    return [pytest.param(*pair, id=pair[1].__name__) for pair in pairs if (pair[1] in FEW) is chosen]


@pytest.mark.parametrize(("make", "model"), examples(True))
def test_examples(make, model):
    density = density_of(model(), make())
    for starts in (1, 3):
        conditional = moved(density, starts)
        assert_same(conditional, draws(conditional))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "model"), examples(False))
def test_all_examples(make, model):
    test_examples(make, model)


def test_a_model_with_one_of_each():
    conditional = moved(density_of(Everything(), everything_data()), 1, 0.01)
    assert_same(conditional, draws(conditional, scale=0.3))


@pytest.mark.parametrize("model", [Absorbed, Matrix, Saturable])
@pytest.mark.parametrize("starts", [1, 2])
def test_boluses_infusions_resets_and_duplicated_times(model, starts):
    conditional = moved(density_of(model(), history_data()), starts)
    assert_same(conditional, draws(conditional, 3))


@pytest.mark.parametrize("subjects", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("starts", [1, 2, 3, 7])
def test_every_start_has_its_own_parameters_however_few_subjects_there_are(subjects, starts):
    """Neighbours in a vector may be of starts 0, 1, 2 and 0 again."""
    conditional = moved(line_density(subjects), starts, 0.5)
    assert_same(conditional, draws(conditional, 3))


class Three(Linear):
    """Three compartments whose peripheral ones return equally fast: two eigenvalues meet."""

    states = ("central", "peripheral1", "peripheral2")

    def __init__(self):
        super().__init__()
        self.apart = nlme.Real(0.0)

    def compartments(self, p):
        return nlme.compartments.ThreeCompartment(p.cl, p.v, p.q, p.w, 2 * p.q, 2 * p.w * (1 + p.apart))


def by_expm(model, eta, values):
    """log p(y | eta) of the first subject of the history, by scipy's exponential of the system with its inputs."""
    names = ("cl", "v", "q", "w", "apart")
    cl, v, q, w, apart = (values[name] for name in names)
    cl, v, q = cl * math.exp(eta[0]), v * math.exp(eta[1]), q * math.exp(eta[2])
    matrix = textbook_matrix("three", [cl, v, q, w, 2 * q, 2 * w * (1 + apart)])
    rows = history_data(1).frame.sort_values("TIME", kind="stable")
    x, now, rates, total = np.zeros(3), 0.0, [], 0.0
    for row in rows.itertuples():
        while now < row.TIME:
            ends = [end for end, _ in rates if now < end < row.TIME]
            until = min([row.TIME, *ends])
            inputs = np.array([sum(rate for end, rate in rates if end > now), 0.0, 0.0])
            block = np.block([[matrix, inputs[:, None]], [np.zeros((1, 4))]])
            x = (expm(block * (until - now)) @ np.append(x, 1.0))[:3]
            now = until
        if row.EVID in (3, 4):
            x, rates = np.zeros(3), []
        if row.EVID in (1, 4):
            if row.DUR > 0:
                rates.append((row.TIME + row.DUR, row.AMT / row.DUR))
            else:
                x = x + np.array([row.AMT, 0.0, 0.0])
        if row.EVID == 0:
            total += -0.5 * (row.DV - x[0] / v) ** 2 - 0.5 * math.log(2 * math.pi)
    return total


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-4, 0.05])
def test_nearly_equal_eigenvalues_against_the_matrix_exponential(apart):
    model = Three()
    model.apart.unconstrained.data.fill_(apart)
    density = density_of(model, history_data(1))
    conditional = density.at()
    eta = draws(conditional, 3)
    found, _ = both(conditional, eta)
    values = {name: getattr(model, name).value.item() for name in ("cl", "v", "q", "w", "apart")}
    expected = [by_expm(model, eta[:, chain, 0, 0].tolist(), values) for chain in range(3)]
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-11)


def test_two_compartments_whose_eigenvalues_meet():
    """With hardly any exchange at equal rates."""

    class Meeting(Linear):
        def compartments(self, p):
            return nlme.compartments.TwoCompartment(p.cl, p.v, 1e-12 * p.q, 1e-12 * p.q * p.v / p.cl)

    conditional = moved(density_of(Meeting(), history_data(3)))
    eta = draws(conditional)
    found, expected = both(conditional, eta)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    # one compartment is what is left
    density = density_of(Meeting(), history_data(1))
    alone = both(density.at(), torch.zeros(3, 1, 1, 1, dtype=DOUBLE))[0].item()
    decay, x, now, total, rates = 0.15, 0.0, 0.0, 0.0, []
    for row in history_data(1).frame.itertuples():
        for end, rate in [*rates, (math.inf, 0.0)]:
            length = max(min(end, row.TIME) - now, 0.0)
            x = x * math.exp(-decay * length) + rate * -math.expm1(-decay * length) / decay
            now = max(now, min(end, row.TIME))
        rates = [] if row.EVID >= 3 else [(end, rate) for end, rate in rates if end > row.TIME]
        x = 0.0 if row.EVID >= 3 else x
        if row.EVID in (1, 4):
            rates += [(row.TIME + row.DUR, row.AMT / row.DUR)] if row.DUR else []
            x += 0.0 if row.DUR else row.AMT
        if row.EVID == 0:
            total += -0.5 * (row.DV - x / 10) ** 2 - 0.5 * math.log(2 * math.pi)
    assert alone == pytest.approx(total, rel=1e-9)


class Outcomes(nlme.Model):
    """Many kinds of outcomes, occasions, a covariate that changes in time and one that is text."""

    def __init__(self):
        super().__init__()
        self.a = nlme.Normal(1.0, nlme.Shift("x"), omega=0.2, occasions=nlme.Occasions(3, omega=0.1))
        self.b = nlme.LogNormal(0.3, omega=0.2)
        self.sigma, self.c = nlme.Positive(0.5), nlme.Real(0.4)

    def predict(self, t, p, cov):
        return p.a + p.b * t / (1 + t) + 0.01 * cov.wt + torch.where(cov.sex == "male", 0.3, 0.0) * p.c

    def observe(self, t, y, p):
        return {
            "normal": dist.Normal(y, p.sigma),
            "skewed": dist.LogNormal(y, 2 * p.sigma),
            "count": observation.Poisson(torch.exp(y / 4)),
            "spread": observation.NegativeBinomial(torch.exp(y / 4), p.sigma),
            "binary": observation.Bernoulli(y - 1.0),
            "score": observation.OrderedCategorical(y, [p.c, p.c + 1.0]),
        }


def outcomes_frame():
    rng = np.random.default_rng(2)
    rows = []
    for subject in range(5):
        for record in range(4 + subject % 3):
            row = {"ID": subject, "TIME": 0.7 * record, "wt": 60.0 + rng.normal(), "x": 0.2 * subject}
            row |= {"sex": ("male", "female")[subject % 2], "OCC": 1 + record // 2}
            row |= {"normal": rng.normal(), "skewed": rng.lognormal(), "count": rng.poisson(2.0)}
            row |= {"spread": rng.poisson(2.0), "binary": rng.integers(2), "score": rng.integers(3)}
            for place, name in enumerate(("skewed", "count", "binary", "score")):
                if (record + place + subject) % 3 == 0:
                    row[name] = np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def outcomes_data():
    names = ["normal", "skewed", "count", "spread", "binary", "score"]
    return nlme.Dataset.from_frame(
        outcomes_frame(), outputs=names, covariates=["x", "sex"], time_varying={"wt": "locf"}, occasion="OCC"
    )


@pytest.mark.parametrize("starts", [1, 2])
def test_outcomes_of_every_kind_with_occasions_and_covariates(starts):
    conditional = moved(density_of(Outcomes(), outcomes_data()), starts)
    assert_same(conditional, draws(conditional, 3))


def test_censored_outcomes():
    frame = lines(5, 4).frame
    frame["CENS"] = [(0, 1, -1, 0, 1, -1)[index % 6] for index in range(len(frame))]
    frame["LIMIT"] = np.where(frame["CENS"] == 1, frame["DV"] - 1.0, frame["DV"] + 2.0)
    frame.loc[frame.index % 4 == 0, "LIMIT"] = np.nan
    data = nlme.Dataset.from_frame(frame, covariates=["x"], cens="CENS", limit="LIMIT")
    conditional = moved(density_of(Line(), data), 2)
    for scale in (1.0, 6.0):
        assert_same(conditional, draws(conditional, 3, scale))


def test_a_column_that_cannot_be_evaluated_leaves_the_others_their_bits():
    for model in (Matrix(), Saturable()):
        conditional = density_of(model, history_data()).at()
        eta = draws(conditional, 3)
        found, _ = both(conditional, eta)
        for spoiled in (800.0, math.nan, 90.0):
            changed = eta.clone()
            changed[0, 1, 0, 2] = spoiled
            beside, expected = both(conditional, changed)
            others = torch.ones_like(found, dtype=torch.bool)
            others[1, 0, 2] = False
            assert torch.equal(beside[others], found[others])
            # with a rate of 1e39 the exponential of the tensor operations overflows, and the compiled one is 0
            assert spoiled == 90.0 or beside[1, 0, 2] == expected[1, 0, 2] == -math.inf


def test_doses_that_cannot_be_given_leave_the_others_their_bits():
    """Lags of 1e300 and infinite ones; walked, as compartments are in the examples."""
    conditional = moved(density_of(Delayed(), history_data(5)))
    eta = draws(conditional, 3)
    assert_same(conditional, eta)
    found, _ = both(conditional, eta)
    others = torch.ones_like(found, dtype=torch.bool)
    others[1, 0, 2] = False
    for lag in (690.0, 800.0, math.nan):
        changed = eta.clone()
        changed[2, 1, 0, 2] = lag
        beside, expected = both(conditional, changed)
        assert torch.equal(beside[others], found[others])
        torch.testing.assert_close(beside[1, 0, 2], expected[1, 0, 2], rtol=1e-11, atol=0.0)


def test_who_else_is_in_the_batch_does_not_matter():
    for model in (Matrix, Saturable):
        many, few = density_of(model(), history_data(5)).at(), density_of(model(), history_data(3)).at()
        eta = draws(many, 3)
        assert torch.equal(both(many, eta)[0][..., :3], both(few, eta[..., :3].contiguous())[0])


def after_the_first(self, t, p, cov):
    return p.a + p.b * (t - t[:1])


def added_up(self, t, p, cov):
    return (p.a + p.b * t).cumsum(0)


def at_random(self, t, p, cov):
    return p.a + p.b * t + 1e-3 * torch.rand(())


def python_random(self, t, p, cov):
    return p.a + p.b * t + 1e-3 * float(np.random.default_rng().random())


def by_shape(self, t, p, cov):
    return p.a + p.b * t * (2.0 if t.shape[0] > 1 else 1.0)


@pytest.mark.parametrize("predict", [after_the_first, added_up, at_random, python_random, by_shape])
def test_what_cannot_be_written_for_one_record_is_not_compiled(predict, caplog):
    model = type("Feeling", (Line,), {"predict": predict})()
    density = density_of(model, lines())
    conditional = moved(density)
    with caplog.at_level(logging.INFO, logger="nlme_torch"):
        assert compiled_likelihood(conditional) is None
    assert "is not compiled as a whole" in caplog.text
    if predict in (after_the_first, added_up, by_shape):
        eta = draws(conditional)
        assert torch.equal(log_likelihood(conditional, eta), conditional.log_likelihood(eta).detach())


class AddedLogarithms(Line):
    """Records feel each other, and nothing can be evaluated where a is negative."""

    def predict(self, t, p, cov):
        return torch.log(p.a) + (p.b * t).cumsum(0)


def test_what_nothing_was_compared_with_is_not_given_out():
    """From where no subject can be evaluated, wrong and right look the same."""
    density = density_of(AddedLogarithms(a=nlme.Normal(9.0, omega=1.0)), lines())
    conditional = moved(density)
    nowhere = density.at(conditional.values | {"a.typical": torch.tensor([-300.0], dtype=DOUBLE)})
    eta = draws(nowhere)
    assert bool(torch.isinf(nowhere.log_likelihood(eta)).all())
    assert torch.equal(log_likelihood(nowhere, eta), nowhere.log_likelihood(eta).detach())
    torch.testing.assert_close(log_likelihood(conditional, eta), conditional.log_likelihood(eta).detach())


def test_a_start_from_where_nothing_can_be_evaluated_is_compiled_later():
    density = density_of(Domain(a=nlme.Normal(9.0, omega=1.0)), lines())
    nowhere = density.at(moved(density).values | {"a.typical": torch.tensor([-300.0], dtype=DOUBLE)})
    assert compiled_likelihood(nowhere) is None and compiled_likelihood(moved(density)) is not None


SLOPE = 1.0


class Changed(Line):
    """A line with a number of Python in it, and one of the module."""

    factor = 1.0

    def predict(self, t, p, cov):
        return p.a + SLOPE * self.factor * p.b * t


@pytest.mark.parametrize("kind", ["attribute", "global"])
def test_what_python_code_reads_is_never_stale(kind, monkeypatch):
    data, model = lines(), Changed()

    def change():
        if kind == "attribute":
            model.factor = 3.0
        else:
            monkeypatch.setitem(globals(), "SLOPE", 3.0)

    density = density_of(model, data)
    conditional = moved(density)
    eta = draws(conditional)
    before = log_likelihood(conditional, eta)
    objective = nlme.ofv(model, data)
    change()
    refreshed = density.refreshed().at(conditional.values)
    with torch.no_grad():
        expected = refreshed.log_likelihood(eta)
    assert bool((expected != before).any())
    torch.testing.assert_close(log_likelihood(refreshed, eta), expected, rtol=1e-12, atol=1e-12)
    changed = nlme.ofv(model, data)
    monkeypatch.setattr(compilation, "compiler", lambda: None)
    assert changed.ofv == pytest.approx(nlme.ofv(model, data).ofv, rel=1e-8) != pytest.approx(objective.ofv, rel=1e-3)


def test_neither_single_precision_nor_a_machine_without_compiler(monkeypatch):
    single = Density(Line(), lines().batch(torch.float32), nlme.Auto())
    assert compiled_likelihood(single.at()) is None
    density = line_density()
    monkeypatch.setattr(compilation, "compiler", lambda: None)
    assert compiled_likelihood(density.at()) is None
    eta = draws(density.at())
    assert torch.equal(log_likelihood(density.at(), eta), density.at().log_likelihood(eta).detach())


def test_a_solver_that_is_not_to_be_compiled_speaks_for_closed_forms_too():
    for compiled in (True, False):
        density = Density(Line(), lines().batch(), nlme.Auto(compile=compiled))
        assert (compiled_likelihood(density.at()) is not None) == compiled

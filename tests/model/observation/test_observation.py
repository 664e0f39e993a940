"""Outcome distributions against SciPy, closed forms and brute force, and what censoring does to a likelihood."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from scipy.special import expit
from support.small_models import DOUBLE, number

import nlme_torch as nlme
from nlme_torch import observation
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.model.density.density import Density
from nlme_torch.model.observation.student import StandardStudent
from nlme_torch.model.observation.tails import log_cdf, log_interval, log_sf

PREDICTION = torch.tensor([0.4, 1.0, 3.0, -2.0], dtype=DOUBLE)
VALUE = torch.tensor([0.1, 1.7, 2.0, -3.0], dtype=DOUBLE)
F, Y = PREDICTION.numpy(), VALUE.numpy()


def test_normal_error_models_are_their_standard_deviations():
    a, b, c = number(0.7), number(0.3), number(0.6)
    expected = {
        observation.Additive(PREDICTION, a): 0.7 + 0 * F,
        observation.Proportional(PREDICTION, b): 0.3 * abs(F),
        observation.Combined1(PREDICTION, a, b): 0.7 + 0.3 * abs(F),
        observation.Combined2(PREDICTION, a, b): np.sqrt(0.49 + 0.09 * F**2),
        observation.PowerError(PREDICTION, b, c): 0.3 * abs(F) ** 0.6,
    }
    for error, deviation in expected.items():
        np.testing.assert_allclose(error.log_prob(VALUE), stats.norm.logpdf(Y, F, deviation), rtol=1e-12)
        np.testing.assert_allclose(error.expand((2, 4)).log_prob(VALUE)[1], stats.norm.logpdf(Y, F, deviation))


def test_log_normal_and_student_outcomes():
    positive, value = PREDICTION.abs(), VALUE.abs()
    np.testing.assert_allclose(
        observation.LogNormal(positive, number(0.3)).log_prob(value),
        stats.lognorm.logpdf(value, 0.3, scale=positive),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        observation.StudentT(PREDICTION, number(0.5), number(3.5)).log_prob(VALUE),
        stats.t.logpdf(Y, 3.5, F, 0.5),
        rtol=1e-12,
    )


def test_counts_and_choices():
    mean, count = torch.tensor([0.2, 3.0, 40.0], dtype=DOUBLE), torch.tensor([0.0, 5.0, 31.0], dtype=DOUBLE)
    np.testing.assert_allclose(observation.Poisson(mean).log_prob(count), stats.poisson.logpmf(count, mean), rtol=1e-10)
    size = 1 / 0.7
    negative = observation.NegativeBinomial(mean, number(0.7))
    np.testing.assert_allclose(
        negative.log_prob(count), stats.nbinom.logpmf(count, size, size / (size + mean)), rtol=1e-10
    )
    torch.testing.assert_close(negative.mean, mean)
    torch.testing.assert_close(negative.variance, mean + 0.7 * mean**2)
    logit, happened = torch.tensor([-2.0, 0.3, 8.0], dtype=DOUBLE), torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
    np.testing.assert_allclose(
        observation.Bernoulli(logit).log_prob(happened), stats.bernoulli.logpmf(happened, expit(logit)), rtol=1e-10
    )
    success = torch.tensor([1.0, 4.0, 12.0], dtype=DOUBLE)
    np.testing.assert_allclose(
        observation.Binomial(12, logit).log_prob(success), stats.binom.logpmf(success, 12, expit(logit)), rtol=1e-9
    )


def test_ordered_categories_are_differences_of_logistic_functions():
    location, points = torch.tensor([0.4, -1.0], dtype=DOUBLE), [number(c) for c in (-1.0, 0.2, 0.21)]
    score = observation.OrderedCategorical(location, points)
    below = np.array([expit(float(c) - location.numpy()) for c in points])
    expected = np.diff(np.vstack([np.zeros(2), below, np.ones(2)]), axis=0)
    for k in range(4):
        np.testing.assert_allclose(score.log_prob(torch.full((2,), float(k))).exp(), expected[k], rtol=1e-12)
    np.testing.assert_allclose(score.mean, np.arange(4) @ expected, rtol=1e-12)
    np.testing.assert_allclose(score.variance, np.arange(4) ** 2 @ expected - (np.arange(4) @ expected) ** 2, rtol=1e-9)
    far = observation.OrderedCategorical(number(-800.0).expand(2), points).log_prob(torch.tensor([1.0, 3.0]))
    np.testing.assert_allclose(far, [math.log(math.expm1(1.2)) - 800.2, -800.21], rtol=1e-12)
    swapped = observation.OrderedCategorical(location, points[::-1]).log_prob(torch.ones(2))
    assert (swapped == -torch.inf).all()
    drawn = pyro.distributions.Categorical(score.log_probabilities().exp().mT)
    assert drawn.batch_shape == score.sample().shape and score.sample((5,)).shape == (5, 2)
    with pytest.raises(nlme.ModelError, match="at least one cutpoint"):
        observation.OrderedCategorical(location, [])


def test_ordered_categories_are_drawn_as_often_as_they_are_likely():
    torch.manual_seed(1)
    score = observation.OrderedCategorical(torch.tensor([0.4, -1.0], dtype=DOUBLE), [number(c) for c in (-1.0, 0.2)])
    drawn, probability = score.sample((20_000,)), score.log_probabilities().exp()
    assert score.support.check(torch.arange(-1.0, 4.0)).tolist() == [False, True, True, True, False]
    for k in range(3):
        np.testing.assert_allclose((drawn == k).double().mean(0), probability[k], atol=5 * 0.5 / math.sqrt(20_000))


# ------------------------------------------------------------------ tails and censoring


@pytest.mark.parametrize("df", [1.0, 2.5, 8.0, 150.0])
def test_the_distribution_function_of_students_t(df):
    z = torch.tensor([-300.0, -9.0, -1.3, -0.01, 0.0, 0.4, 6.0], dtype=DOUBLE)
    ours = StandardStudent(number(df)).log_sf(-z)
    np.testing.assert_allclose(ours, stats.t.logcdf(z, df), rtol=1e-9, atol=1e-12)


BASES = {
    "normal": (observation.Combined2(PREDICTION, number(0.7), number(0.3)), stats.norm(F, np.sqrt(0.49 + 0.09 * F**2))),
    "log-normal": (observation.LogNormal(PREDICTION.abs(), number(0.5)), stats.lognorm(0.5, scale=abs(F))),
    "Student": (observation.StudentT(PREDICTION, number(0.5), number(4.0)), stats.t(4.0, F, 0.5)),
    "truncated": (
        observation.Truncated(observation.Additive(PREDICTION, number(0.7))),
        stats.truncnorm(-F / 0.7, np.inf, F, 0.7),
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_censored_values_have_the_probability_of_their_side_or_interval(name):
    ours, theirs = BASES[name]
    value = torch.tensor([0.3, 0.5, 1.1, 2.0], dtype=DOUBLE)
    high = torch.tensor([1.1, 0.9, 4.0, 2.1], dtype=DOUBLE)
    np.testing.assert_allclose(log_cdf(ours, value), theirs.logcdf(value), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(log_sf(ours, value), theirs.logsf(value), rtol=1e-8, atol=1e-12)
    interval = np.log(theirs.cdf(high) - theirs.cdf(value))
    np.testing.assert_allclose(log_interval(ours, value, high), interval, rtol=1e-6)
    # observed, left, right, an interval below the limit
    code = torch.tensor([0, 1, -1, 1])
    limit = torch.tensor([-torch.inf, -torch.inf, torch.inf, 0.7], dtype=DOUBLE)
    found = observation.Censored(ours, code, limit).log_prob(value)
    expected = [
        theirs.logpdf(value)[0],
        theirs.logcdf(value)[1],
        theirs.logsf(value)[2],
        np.log(theirs.cdf(2.0) - theirs.cdf(0.7))[3],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_censoring_far_out_keeps_value_and_gradients():
    def value(prediction, deviation):
        base = observation.Additive(prediction, deviation)
        code = torch.tensor([1, -1, 1, 0])
        limit = torch.tensor([-torch.inf, torch.inf, -3.0, -torch.inf], dtype=DOUBLE)
        return observation.Censored(base, code, limit).log_prob(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE))

    far = torch.tensor([40.0, -40.0, 9.0, 40.0], dtype=DOUBLE, requires_grad=True)
    deviation = number(0.8).requires_grad_()
    reference = stats.norm.logcdf([-39.9 / 0.8, -40.2 / 0.8, -8.7 / 0.8])
    np.testing.assert_allclose(value(far, deviation)[:3].detach(), reference, rtol=1e-9)
    assert torch.autograd.gradcheck(value, (far, deviation), rtol=1e-5)
    near = torch.tensor([0.4, -0.2, 0.1, 0.9], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradgradcheck(value, (near, deviation), rtol=1e-5)


@pytest.mark.parametrize("kind", [observation.Additive, observation.LogNormal])
@pytest.mark.parametrize("prediction", [0.2, 3.0])
def test_below_its_bound_a_truncated_outcome_cannot_be(kind, prediction):
    """Nor do derivatives, which are zero, suffer from the values at which nothing can be evaluated."""
    f, value = number(prediction).requires_grad_(), torch.tensor([-4.0, 0.3, 0.5], dtype=DOUBLE)
    for lower in (0.5, 1e-3):
        law = observation.Truncated(kind(f, number(0.7)), lower)
        density, above, below = law.log_prob(value), law.log_sf(value), law.log_cdf(value)
        outside, under = value < lower, value <= lower
        assert (density[outside] == -torch.inf).all() and torch.isfinite(density[~outside]).all()
        assert (above[under] == 0).all() and (above[~under] < 0).all()
        assert (below[under] == -torch.inf).all() and torch.isfinite(below[~under]).all()
        for found in (density, above, below):
            (slopes,) = torch.autograd.grad(torch.where(found.isfinite(), found, 0.0).sum(), f, retain_graph=True)
            assert torch.isfinite(slopes)


def test_an_interval_reaches_no_further_down_than_the_bound():
    law = observation.Truncated(observation.Additive(number(1.0), number(0.7)), 0.5)
    exact = stats.truncnorm(-0.5 / 0.7, np.inf, 1.0, 0.7)
    lower, upper = torch.tensor([-3.0, 0.5, 0.6, -3.0], dtype=DOUBLE), torch.tensor([0.9, 0.9, 0.9, 0.4], dtype=DOUBLE)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(
            law.log_interval(lower, upper), np.log(exact.cdf(upper) - exact.cdf(lower)), rtol=1e-9
        )
    assert law.support.check(torch.tensor([0.4, 0.5])).tolist() == [False, True]


class Decay(nlme.Model):
    """One exponential with an additive error, optionally truncated at zero."""

    def __init__(self, positive=False):
        super().__init__()
        self.start = nlme.LogNormal(10.0, omega=0.1)
        self.rate = nlme.LogNormal(0.5, omega=0.2)
        self.sigma = nlme.Positive(0.6)
        self.__dict__["positive"] = positive

    def predict(self, t, p, cov):
        return p.start * torch.exp(-p.rate * t)

    def observe(self, t, y, p):
        error = observation.Additive(y, p.sigma)
        return {"DV": observation.Truncated(error) if self.positive else error}


TABLE = pd.DataFrame(
    {
        "ID": [1, 1, 1, 1, 2, 2],
        "TIME": [0.5, 2.0, 5.0, 8.0, 1.0, 7.0],
        "DV": [8.3, 4.1, 1.0, 1.0, 11.0, 1.0],
        "CENS": [0, 0, 1, 1, -1, 1],
        "LIMIT": [np.nan, np.nan, 0.0, np.nan, np.nan, np.nan],
    }
)


@pytest.mark.parametrize("positive", [False, True])
def test_a_table_with_cens_and_limit_by_hand(positive):
    data = nlme.Dataset.from_frame(TABLE, cens="CENS", limit="LIMIT")
    model = Decay(positive)
    density = Density(model, data.batch(), nlme.Tsit5())
    eta = torch.tensor([[0.2, -0.3], [0.1, 0.4]], dtype=DOUBLE)
    found = density.at().log_likelihood(eta[:, None, None])[0, 0]
    expected = np.zeros(2)
    for row in TABLE.itertuples():
        effects = eta[:, row.ID - 1].numpy()
        f = 10 * math.exp(effects[0]) * math.exp(-0.5 * math.exp(effects[1]) * row.TIME)
        law = stats.truncnorm(-f / 0.6, np.inf, f, 0.6) if positive else stats.norm(f, 0.6)
        if row.CENS == 0:
            term = law.logpdf(row.DV)
        elif row.CENS == -1:
            term = law.logsf(row.DV)
        else:
            term = np.log(law.cdf(row.DV) - (law.cdf(row.LIMIT) if np.isfinite(row.LIMIT) else 0.0))
        expected[row.ID - 1] += term
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    with pyro.get_param_store().scope():
        trace = poutine.trace(model.program(data)).get_trace()
        drawn = trace.nodes["eta_individual"]["value"].mT[:, None, None]
        ours = density.at().log_joint(drawn).sum()
        torch.testing.assert_close(trace.log_prob_sum(), ours, rtol=1e-12, atol=1e-10)


def test_a_count_cannot_be_censored_and_says_so():
    class Counts(Decay):
        def observe(self, t, y, p):
            return {"DV": observation.Poisson(y)}

    frame = TABLE.assign(DV=TABLE.DV.round())
    with pytest.raises(nlme.ModelError, match="Poisson has no tail probabilities"):
        Density(Counts(), nlme.Dataset.from_frame(frame, cens="CENS", limit="LIMIT").batch(), nlme.Tsit5())


def test_residuals_of_censored_values_are_left_out():
    data = nlme.Dataset.from_frame(TABLE, cens="CENS", limit="LIMIT")
    fit = nlme.fit(Decay(), data, nlme.Pooled(3), progress=False)
    table = fit.predictions
    assert table.IWRES.notna().tolist() == (TABLE.CENS == 0).tolist()
    assert table.DV.notna().all() and table.IPRED.notna().all()


# ------------------------------------------------------------------ events


class Weibull(nlme.Model):
    """A hazard integrated along the equation: h = k t^(k-1) / scale^k, so that H = (t / scale)^k."""

    states = ("hazard",)

    def __init__(self, interval):
        super().__init__()
        self.scale = nlme.LogNormal(4.0, omega=0.1)
        self.shape = nlme.Positive(1.6)
        self.__dict__["interval"] = interval

    def rate(self, t, p):
        return p.shape * (t / p.scale) ** (p.shape - 1) / p.scale

    def initial(self, p):
        return (0.0,)

    def dynamics(self, t, y, p):
        return (self.rate(t, p),)

    def observe(self, t, y, p):
        if self.interval:
            return {"EVENT": observation.IntervalCensoredEvent(y.hazard)}
        return {"EVENT": observation.TimeToEvent(self.rate(t, p), y.hazard)}


def test_time_to_event_is_the_density_of_its_time():
    frame = pd.DataFrame(
        {"ID": [1, 1, 2, 2, 3, 3], "TIME": [0, 3.3, 0, 9.0, 0, 0.4], "EVENT": [np.nan, 1, np.nan, 0, np.nan, 1]}
    )
    data = nlme.Dataset.from_frame(frame.assign(MDV=frame.EVENT.isna().astype(int)), outputs=["EVENT"])
    density = Density(Weibull(False), data.batch(), nlme.Tsit5(rtol=1e-10, atol=1e-12))
    eta = torch.tensor([0.1, -0.2, 0.3], dtype=DOUBLE)
    law = [stats.weibull_min(1.6, scale=4.0 * math.exp(e)) for e in eta]
    expected = [law[0].logpdf(3.3), law[1].logsf(9.0), law[2].logpdf(0.4)]
    np.testing.assert_allclose(density.at().log_likelihood(eta[None, None, None])[0, 0], expected, rtol=1e-8)


def test_an_event_between_two_visits_has_the_probability_of_the_interval():
    rows = {
        1: ([0.0, 2.0, 5.0], [np.nan, 0, 1]),
        2: ([0.0, 1.0, 2.5, 9.0], [np.nan, 0, 0, 0]),
        3: ([0.0, 4.0], [np.nan, 1]),
    }
    frame = pd.concat(pd.DataFrame({"ID": i, "TIME": t, "EVENT": e}) for i, (t, e) in rows.items())
    data = nlme.Dataset.from_frame(frame.assign(MDV=frame.EVENT.isna().astype(int)), outputs=["EVENT"])
    density = Density(Weibull(True), data.batch(), nlme.Tsit5(rtol=1e-10, atol=1e-12))
    eta = torch.tensor([0.1, -0.2, 0.3], dtype=DOUBLE)
    law = [stats.weibull_min(1.6, scale=4.0 * math.exp(e)) for e in eta]
    expected = [math.log(law[0].cdf(5.0) - law[0].cdf(2.0)), law[1].logsf(9.0), law[2].logcdf(4.0)]
    np.testing.assert_allclose(density.at().log_likelihood(eta[None, None, None])[0, 0], expected, rtol=1e-8)


# ------------------------------------------------------------------ zero, and the sign of a spread


class Elimination(nlme.Model):
    """A bolus whose predictions a test may shift: a spread in proportion to them is written by hand."""

    states = ("central",)

    def __init__(self, law, shift=0.0):
        super().__init__()
        self.k = nlme.LogNormal(0.3, omega=0.1)
        self.sigma = nlme.Positive(0.2)
        self.__dict__.update(law=law, shift=shift)

    def dynamics(self, t, y, p):
        return (-p.k * y.central,)

    def observe(self, t, y, p):
        return {"DV": self.law(y.central / 10 + self.shift, p.sigma)}


BOLUS = pd.DataFrame(
    {
        "ID": [1] * 4 + [2] * 4,
        "TIME": [0.0, 0.0, 1.0, 4.0] * 2,
        "AMT": [0.0, 100.0, 0.0, 0.0] * 2,
        "EVID": [0, 1, 0, 0] * 2,
        "DV": [0.4, np.nan, 7.0, 3.0, 0.4, np.nan, 8.0, 2.0],
    }
)
PLAIN = nlme.RK4(4, compile=False)
SPREADS = {
    "Normal": lambda f, s: pyro.distributions.Normal(f, s * f),
    "torch's": lambda f, s: torch.distributions.Normal(f, s * f),
    "Student": lambda f, s: pyro.distributions.StudentT(5.0, f, s * f),
    "truncated": lambda f, s: observation.Truncated(pyro.distributions.Normal(f, s * f), -30.0),
    "log-normal": lambda f, s: pyro.distributions.LogNormal(f / 100, s * f),
}


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("shift", [-8e-18, -20.0])
def test_the_sign_of_a_spread_means_nothing(name, shift):
    law = SPREADS[name]
    data = nlme.Dataset.from_frame(BOLUS)
    eta = torch.tensor([0.1, -0.2], dtype=DOUBLE)[None, None, None]
    found, expected = (
        Density(Elimination(chosen, shift), data.batch(), PLAIN).at().log_likelihood(eta)
        for chosen in (law, lambda f, s: observation.with_positive_scale(law(f, s)))
    )
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected)
    if name in ("log-normal", "truncated"):
        return
    model = Elimination(law, shift)
    drawn = nlme.simulate(model, data, seed=1, solver=PLAIN)
    assert drawn.batch().outcomes["DV"].mask.sum() == 6
    table = prediction_table(Density(model, data.batch(), PLAIN), data, eta[:, 0, 0])
    assert (np.sign(table.IWRES) == np.sign(table.DV - table.IPRED)).all()


@pytest.mark.parametrize("name", ["Normal", "Student", "truncated"])
def test_a_prediction_of_zero_under_a_proportional_error_names_row_and_remedy(name):
    with pytest.raises(
        nlme.ModelError,
        match=r"scale of \w+ is 0 for subject 1 at time 0: the prediction is 0, 0.4 was observed.*Combined2.*MDV=1.*"
        "row 0 \\(rows are",
    ):
        Density(Elimination(SPREADS[name]), nlme.Dataset.from_frame(BOLUS).batch(), PLAIN)
    with pytest.raises(nlme.ModelError, match="loc of LogNormal.*is -inf for subject 1 at time 0.*zero.*row 0 .rows"):
        Density(Elimination(observation.LogNormal), nlme.Dataset.from_frame(BOLUS).batch(), PLAIN)


def test_a_negative_spread_beside_a_positive_prediction_is_a_mistake():
    with pytest.raises(nlme.ModelError, match=r"is -0.2 for subject 1 at time 0.*Proportional.*row 0 .rows are"):
        Density(
            Elimination(lambda f, s: pyro.distributions.Normal(f, -s), 1.0),
            nlme.Dataset.from_frame(BOLUS).batch(),
            PLAIN,
        )


# ------------------------------------------------------------------ repeated events


def events(rows, interval=False):
    frame = pd.concat(
        pd.DataFrame({"ID": subject, "TIME": time, "EVENT": event, "EVID": kind})
        for subject, (time, event, kind) in enumerate(rows, 1)
    )
    frame["MDV"] = frame.EVENT.isna().astype(int)
    data = nlme.Dataset.from_frame(frame, outputs=["EVENT"])
    return Density(Weibull(interval), data.batch(), nlme.Tsit5(rtol=1e-10, atol=1e-12))


def cumulative(time, eta, scale=4.0, shape=1.6):
    return (time / (scale * math.exp(eta))) ** shape


def log_hazard(time, eta, scale=4.0, shape=1.6):
    scale = scale * math.exp(eta)
    return math.log(shape / scale) + (shape - 1) * math.log(time / scale)


def test_rows_of_one_subject_count_the_hazard_once():
    """Three events until 9; the same with rows in between at which nothing happened; none until 5; one and no more."""
    nan = np.nan
    density = events(
        [
            ([0, 2, 3, 7, 9], [0, 1, 1, 1, 0], [0] * 5),
            ([0, 1, 2, 2.5, 3, 7, 8, 9], [nan, 0, 1, 0, 1, 1, 0, 0], [2, *[0] * 7]),
            ([0, 1, 5], [nan, 0, 0], [2, 0, 0]),
            ([0, 6], [nan, 1], [2, 0]),
        ]
    )
    eta = [0.1, 0.1, -0.2, 0.3]
    three = sum(log_hazard(t, 0.1) for t in (2, 3, 7)) - cumulative(9, 0.1)
    expected = [three, three, -cumulative(5, -0.2), log_hazard(6, 0.3) - cumulative(6, 0.3)]
    draws = torch.tensor(eta, dtype=DOUBLE)[None, None, None]
    np.testing.assert_allclose(density.at().log_likelihood(draws)[0, 0], expected, rtol=1e-8)


@pytest.mark.parametrize("interval", [False, True])
def test_after_a_reset_the_hazard_begins_anew(interval):
    """The clock of the hazard is set back at 4 and at 6; a row that looks back across it looks back to it."""
    rows = ([0, 3, 4, 4, 5, 6, 9], [np.nan, 0, 1, np.nan, 1, np.nan, 0], [2, 0, 0, 3, 0, 3, 0])
    draws = torch.zeros(1, 1, 1, 1, dtype=DOUBLE)

    class Constant(Weibull):
        def rate(self, t, p):
            return 0.3 + 0 * p.shape

    frame = pd.DataFrame(dict(zip(("TIME", "EVENT", "EVID"), rows, strict=True))).assign(ID=1)
    frame["MDV"] = frame.EVENT.isna().astype(int)
    data = nlme.Dataset.from_frame(frame, outputs=["EVENT"])
    found = Density(Constant(interval), data.batch(), nlme.RK4(4, compile=False)).at().log_likelihood(draws).item()
    exact = 2 * math.log(0.3) - 0.3 * (4 + 1 + 3)
    between = -0.9 + 2 * math.log(-math.expm1(-0.3)) - 0.9
    assert found == pytest.approx(between if interval else exact, rel=1e-9)


def test_repeated_events_in_the_program_of_pyro():
    model = Weibull(False)
    frame = pd.DataFrame({"ID": 1, "TIME": [0, 2, 3, 9.0], "EVENT": [0, 1, 1, 0]})
    data = nlme.Dataset.from_frame(frame, outputs=["EVENT"])
    with pyro.get_param_store().scope():
        trace = poutine.trace(model.program(data, nlme.RK4(4, compile=False))).get_trace()
        drawn = trace.nodes["eta_individual"]["value"].mT[:, None, None]
        ours = Density(model, data.batch(), nlme.RK4(4, compile=False)).at().log_joint(drawn).sum()
        torch.testing.assert_close(trace.log_prob_sum(), ours, rtol=1e-12, atol=1e-10)


def test_events_look_back_to_the_record_that_they_are_told_of():
    hazard = torch.tensor([[0.5, 0.1], [0.9, 0.4], [1.6, 1.0]]).double()
    index = torch.tensor([[-1, -1], [0, 0], [0, -1]])
    rise = torch.tensor([[0.5, 0.1], [0.4, 0.3], [1.1, 1.0]]).double()
    for event in (observation.TimeToEvent(torch.ones_like(hazard), hazard), observation.IntervalCensoredEvent(hazard)):
        found = event.since(index)
        torch.testing.assert_close(found.rise, rise)
        torch.testing.assert_close(found.mean, 1 - torch.exp(-rise))
        torch.testing.assert_close(found.variance, torch.exp(-rise) * (1 - torch.exp(-rise)))
        torch.testing.assert_close(found.log_prob(torch.zeros_like(rise)), -rise)


def test_cutpoints_out_of_order_make_every_score_impossible():
    """A score that is never seen must not hide that its probability would be negative."""
    cutpoints = [torch.tensor(c, dtype=torch.float64) for c in (1.0, -1.0, 2.0)]
    found = nlme.observation.OrderedCategorical(torch.tensor(0.0, dtype=torch.float64), cutpoints)
    assert found.log_probabilities().tolist() == [-math.inf] * 4
    in_order = nlme.observation.OrderedCategorical(torch.tensor(0.0, dtype=torch.float64), sorted(cutpoints))
    assert in_order.log_probabilities().exp().sum().item() == pytest.approx(1.0, rel=1e-14)
    two = nlme.observation.OrderedCategorical(torch.tensor(0.3, dtype=torch.float64), cutpoints[:1])
    assert two.log_probabilities().exp().sum().item() == pytest.approx(1.0, rel=1e-14)

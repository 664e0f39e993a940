"""Two outcomes with correlated errors: densities by SciPy and mpmath, censored and missing parts, draws, fits."""

import mpmath
import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.observation import MultivariateNormal
from nlme_torch.model.observation.rectangle import log_rectangle

S1, S2, RHO = 0.3, 0.8, 0.6


class Pair(nlme.Model):
    """y1 = a + e1, y2 = b exp(-t / 5) + e2, corr(e1, e2) = rho."""

    def __init__(self, logarithmic=False, proportional=False, linear=False):
        super().__init__()
        self.a = nlme.Normal(2.0, omega=0.2)
        self.b = nlme.Normal(3.0, omega=0.3) if linear else nlme.LogNormal(3.0, omega=0.1)
        self.s1, self.s2 = nlme.Positive(S1), nlme.Positive(S2)
        self.rho = nlme.Bounded(RHO, -1, 1)
        self.logarithmic, self.proportional = logarithmic, proportional

    def predict(self, t, p, cov):
        return p.a, p.b * torch.exp(-t / 5)

    def observe(self, t, y, p):
        s1 = p.s1 * y[0] if self.proportional else p.s1
        second = dist.LogNormal(y[1].log(), p.s2) if self.logarithmic else dist.Normal(y[1], p.s2)
        return MultivariateNormal({"one": dist.Normal(y[0], s1), "two": second}, correlation=p.rho)


def wide():
    frame = pd.DataFrame({"ID": [1, 1, 1, 2, 2], "TIME": [0.0, 1.0, 4.0, 0.0, 2.0]})
    return frame.assign(one=[2.1, 1.7, 2.6, 1.2, 2.2], two=[3.9, 2.0, 1.1, 2.5, 2.4])


def log_likelihood(model, data, eta=None):
    density = Density(model, data.batch(), nlme.Tsit5())
    eta = torch.zeros(2, 1, 1, data.n_subjects, dtype=torch.float64) if eta is None else eta
    return density.at().log_likelihood(eta)[0, 0].numpy(force=True)


def moments(time, effects=(0.0, 0.0)):
    mean = np.array([2.0 + effects[0], 3.0 * np.exp(effects[1] - time / 5)])
    return mean, np.array([[S1**2, RHO * S1 * S2], [RHO * S1 * S2, S2**2]])


def pair_density(row):
    mean, covariance = moments(row.TIME)
    return stats.multivariate_normal(mean, covariance).logpdf([row.one, row.two])


def test_the_likelihood_is_the_bivariate_density():
    frame = wide()
    expected = [sum(map(pair_density, part.itertuples())) for _, part in frame.groupby("ID")]
    data = nlme.Dataset.from_frame(frame, outputs=["one", "two"])
    np.testing.assert_allclose(log_likelihood(Pair(), data), expected, rtol=1e-10)


def test_a_log_normal_outcome_is_correlated_on_the_log_scale():
    frame, expected = wide(), []
    for row in frame.itertuples():
        mean, covariance = moments(row.TIME)
        value = stats.multivariate_normal([mean[0], np.log(mean[1])], covariance).logpdf([row.one, np.log(row.two)])
        expected.append(value - np.log(row.two))
    data = nlme.Dataset.from_frame(frame, outputs=["one", "two"])
    found = log_likelihood(Pair(logarithmic=True), data)
    np.testing.assert_allclose(found, [sum(expected[:3]), sum(expected[3:])], rtol=1e-10)


def test_rows_of_one_time_belong_together_and_what_is_missing_leaves_the_marginal():
    long = wide().melt(["ID", "TIME"], var_name="DVID", value_name="DV").sort_values(["ID", "TIME"], kind="stable")
    gone = (long.ID == 1) & (long.TIME == 1.0) & (long.DVID == "one")
    data = nlme.Dataset.from_frame(long[~gone], outputs={"one": "one", "two": "two"}, dvid="DVID")
    mean, covariance = moments(1.0)
    alone = stats.norm(mean[1], np.sqrt(covariance[1, 1])).logpdf(2.0)
    rows = list(wide().itertuples())
    expected = [pair_density(rows[0]) + alone + pair_density(rows[2]), pair_density(rows[3]) + pair_density(rows[4])]
    np.testing.assert_allclose(log_likelihood(Pair(), data), expected, rtol=1e-10)


def rectangle(mean, covariance, upper):
    """P(Y1 < upper1, Y2 < upper2) by mpmath's quadrature of a conditional probability."""
    with mpmath.workdps(25):
        d1, d2 = mpmath.sqrt(covariance[0, 0]), mpmath.sqrt(covariance[1, 1])
        rho = mpmath.mpf(covariance[0, 1]) / (d1 * d2)
        b1, b2 = (upper[0] - mpmath.mpf(mean[0])) / d1, (upper[1] - mpmath.mpf(mean[1])) / d2
        inner = lambda x: mpmath.npdf(x) * mpmath.ncdf((b2 - rho * x) / mpmath.sqrt(1 - rho**2))  # noqa: E731
        return float(mpmath.log(mpmath.quad(inner, [b1 - 40, *(b1 - k for k in (8, 4, 2, 1, 0.5)), b1])))


def test_censored_parts_are_conditional_probabilities_and_the_rectangle():
    frame = wide().melt(["ID", "TIME"], var_name="DVID", value_name="DV").sort_values(["ID", "TIME"], kind="stable")
    frame["CENS"] = 0
    for subject, time, name in ((1, 0.0, "one"), (1, 1.0, "two"), (1, 4.0, "one"), (1, 4.0, "two")):
        frame.loc[(subject == frame.ID) & (time == frame.TIME) & (name == frame.DVID), "CENS"] = 1
    data = nlme.Dataset.from_frame(frame, outputs={"one": "one", "two": "two"}, dvid="DVID", cens="CENS")
    rows, expected = list(wide().itertuples()), 0.0
    (m, c), slope = moments(0.0), RHO * S1 / S2
    expected += stats.norm(m[1], S2).logpdf(rows[0].two)
    expected += stats.norm(m[0] + slope * (rows[0].two - m[1]), S1 * np.sqrt(1 - RHO**2)).logcdf(rows[0].one)
    (m, c), slope = moments(1.0), RHO * S2 / S1
    expected += stats.norm(m[0], S1).logpdf(rows[1].one)
    expected += stats.norm(m[1] + slope * (rows[1].one - m[0]), S2 * np.sqrt(1 - RHO**2)).logcdf(rows[1].two)
    m, c = moments(4.0)
    expected += rectangle(m, c, (rows[2].one, rows[2].two))
    np.testing.assert_allclose(log_likelihood(Pair(), data)[0], expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("upper", "rho"), [((0.3, -0.5), 0.5), ((-3.0, -4.0), -0.6), ((-8.0, -7.0), 0.3), ((-1.0, 2.0), 0.999)]
)
def test_the_probability_of_a_rectangle_and_its_slopes(upper, rho):
    covariance = np.array([[1.0, rho], [rho, 1.0]])
    values = torch.tensor([*upper, rho], dtype=torch.float64, requires_grad=True)
    far = torch.tensor(-torch.inf, dtype=torch.float64)
    function = lambda v: log_rectangle(far, v[0], far, v[1], v[2])  # noqa: E731
    np.testing.assert_allclose(function(values).item(), rectangle((0.0, 0.0), covariance, upper), rtol=1e-10)
    if rho == 0.5:
        assert torch.autograd.gradcheck(function, values) and torch.autograd.gradgradcheck(function, values)


def test_draws_have_the_correlation_in_one_row_and_in_two():
    frame = pd.DataFrame({"ID": np.arange(3000), "TIME": 1.0, "one": 1.0, "two": 1.0})
    data = nlme.simulate(Pair(), nlme.Dataset.from_frame(frame, outputs=["one", "two"]), seed=1)
    effects = np.diag([0.2, 0.1])
    mean, covariance = moments(1.0)
    slope = np.diag([1.0, mean[1]])
    expected = covariance + slope @ effects @ slope
    np.testing.assert_allclose(np.cov(data.frame.one, data.frame.two)[0, 1], expected[0, 1], atol=0.04)
    long = frame.melt(["ID", "TIME"], var_name="DVID", value_name="DV").sort_values(["ID"], kind="stable")
    two = nlme.Dataset.from_frame(long, outputs={"one": "one", "two": "two"}, dvid="DVID")
    drawn = nlme.simulate(Pair(), two, seed=1, replicates=1).observations
    one, other = (value[0][~np.isnan(value[0])] for value in (drawn["one"], drawn["two"]))
    np.testing.assert_allclose(np.cov(one, other)[0, 1], expected[0, 1], atol=0.04)


def exact(data):
    """-2 log-likelihood of a model that is linear in its effects, by SciPy."""
    total = 0.0
    for _, part in data.frame.groupby("ID"):
        n, decay = len(part), np.exp(-part.TIME.to_numpy() / 5)
        design = np.block([[np.ones((n, 1)), np.zeros((n, 1))], [np.zeros((n, 1)), decay[:, None]]])
        error = moments(0.0)[1]
        covariance = design @ Linear.omega @ design.T + np.kron(error, np.eye(n))
        mean = design @ Linear.mean
        total += stats.multivariate_normal(mean, covariance).logpdf(np.r_[part.one, part.two])
    return -2 * total


class Linear(Pair):
    def __init__(self):
        super().__init__(linear=True)

    mean, omega = np.array([2.0, 3.0]), np.diag([0.2, 0.3])


@pytest.fixture(scope="module")
def data():
    frame = pd.DataFrame({"ID": np.repeat(np.arange(30), 4), "TIME": np.tile([0.0, 1.0, 2.0, 6.0], 30)})
    design = nlme.Dataset.from_frame(frame.assign(one=1.0, two=1.0), outputs=["one", "two"])
    return nlme.simulate(Linear(), design, seed=3)


@pytest.mark.parametrize("method", [nlme.FOCEI(), nlme.FO(), nlme.FOCE(), nlme.Laplace(), nlme.Quadrature()])
def test_every_method_is_exact_where_the_model_is_linear(data, method):
    found = nlme.ofv(Linear(), data, method).minus2ll
    np.testing.assert_allclose(found, exact(data), rtol=1e-8)


def test_linearised_methods_refuse_correlated_errors_that_grow_with_the_prediction(data):
    with pytest.raises(nlme.FitError, match=r"'one' and 'two'.*nlme\.Laplace\(\)"):
        nlme.ofv(Pair(proportional=True), data, nlme.FOCEI())
    few = data.subset(data.subjects[:4])
    assert np.isfinite(nlme.ofv(Pair(proportional=True), few, nlme.Laplace()).minus2ll)


def test_saem_finds_the_maximum_and_the_fit_predicts(data):
    best = nlme.fit(Linear(), data, nlme.FOCEI(), progress=False)
    short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=60, smoothing=40))
    found = nlme.fit(Linear(), data, short, seed=1, likelihood=nlme.Quadrature(), progress=False)
    assert best.minus2ll - 1e-6 < found.minus2ll < best.minus2ll + 0.1
    np.testing.assert_allclose(
        found.parameters.loc["rho", "estimate"], best.parameters.loc["rho", "estimate"], atol=0.05
    )
    table = best.predictions
    assert len(table) == 240 and np.isfinite(table["IWRES"]).all() and 0.8 < table["IWRES"].std() < 1.1


def test_what_is_no_pair_is_told():
    one = dist.Normal(torch.zeros(1), 1.0)
    with pytest.raises(nlme.ModelError, match="joins two outcomes"):
        MultivariateNormal({"one": one}, 0.5)
    with pytest.raises(nlme.ModelError, match="must be normal or log-normal, not a Poisson"):
        MultivariateNormal({"one": one, "two": dist.Poisson(torch.ones(1))}, 0.5)
    with pytest.raises(nlme.ModelError, match="between -1 and 1"):
        MultivariateNormal({"one": one, "two": one}, 1.5)

"""Variation between occasions, against the multivariate normal that it is for a linear model."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import nlme_torch as nlme
from nlme_torch.inference.columns import column_density
from nlme_torch.inference.laplace import laplace_log_marginal
from nlme_torch.inference.modes import best_mode, conditional_modes
from nlme_torch.model import Density

COUNTS = ((3, 2, 2), (4,), (2, 3))


class Level(nlme.Model):
    """y = a + eta_i + kappa_ij + e."""

    def __init__(self, count=3, **arguments):
        super().__init__()
        self.a = nlme.Normal(2.0, omega=0.5, occasions=nlme.Occasions(count, omega=0.3, **arguments))
        self.sigma = nlme.Positive(0.4)

    def predict(self, t, p, cov):
        return p.a

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def table(counts, seed=0, a=2.0, omega=0.5, gamma=0.3, sigma=0.4):
    rng, rows = np.random.default_rng(seed), []
    for subject, occasions in enumerate(counts):
        level = a + np.sqrt(omega) * rng.normal()
        for occasion, records in enumerate(occasions):
            here = level + np.sqrt(gamma) * rng.normal()
            for _ in range(records):
                value = here + sigma * rng.normal()
                rows.append({"ID": subject, "TIME": float(len(rows)), "OCC": occasion + 1, "DV": value})
    return pd.DataFrame(rows)


def marginal(frame, a, omega, gamma, sigma):
    """log p(y) of every subject."""
    values = []
    for _, rows in frame.groupby("ID"):
        same = rows["OCC"].to_numpy()[:, None] == rows["OCC"].to_numpy()
        covariance = omega + gamma * same + sigma**2 * np.eye(len(rows))
        values.append(multivariate_normal(np.full(len(rows), a), covariance).logpdf(rows["DV"]))
    return np.array(values)


def read(frame):
    return nlme.Dataset.from_frame(frame, occasion="OCC")


def test_the_marginal_is_that_of_a_multivariate_normal():
    frame = table(COUNTS)
    density = Density(Level(), read(frame).batch(), nlme.Tsit5())
    labels = density.model.effect_labels
    assert labels == ("eta_a", "eta_a_occasion1", "eta_a_occasion2", "eta_a_occasion3")
    modes = best_mode(conditional_modes(column_density(density.at()), torch.zeros(4, 1, 3, dtype=torch.float64)))
    found = laplace_log_marginal(modes)  # exact for a normal
    np.testing.assert_allclose(found.numpy(), marginal(frame, 2.0, 0.5, 0.3, 0.4), rtol=1e-9)


def test_dynamics_see_the_occasion_that_holds():
    class Decay(nlme.Model):
        states = ("x",)

        def __init__(self):
            super().__init__()
            self.k = nlme.LogNormal(0.3, occasions=nlme.Occasions(2))

        def initial(self, p):
            return (5.0,)

        def dynamics(self, t, y, p):
            return (-p.k * y.x,)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y.x, 1.0)}

    frame = pd.DataFrame({"ID": 1, "TIME": [0.0, 2.0, 3.0, 5.0], "OCC": [7, 7, 9, 9], "DV": 1.0})
    conditional = Density(Decay(), read(frame).batch(), nlme.Tsit5(1e-9, 1e-11)).at()
    eta = torch.tensor([0.2, -0.4, 0.6], dtype=torch.float64).reshape(3, 1, 1, 1)
    found = conditional.solution(conditional.individual(eta), eta).states.flatten()
    first, second = 0.3 * np.exp(0.2 - 0.4), 0.3 * np.exp(0.2 + 0.6)
    exponent = np.array([0.0, 2 * first, 3 * first, 3 * first + 2 * second])
    np.testing.assert_allclose(found.numpy(), 5.0 * np.exp(-exponent), rtol=1e-7)


def test_mistakes_are_named():
    frame = table(COUNTS)
    with pytest.raises(nlme.ModelError, match="'a' varies between occasions, but the data have none; name their"):
        Density(Level(), nlme.Dataset.from_frame(frame.drop(columns="OCC")).batch(), nlme.Tsit5())
    with pytest.raises(
        nlme.ModelError, match=r"'a' declares 2 occasions, but subject 0 has 3; write nlme.Occasions\(3\)"
    ):
        Density(Level(2), read(frame).batch(), nlme.Tsit5())
    with pytest.raises(nlme.ModelError, match="the number of occasions must be 1 or more"):
        nlme.Occasions(0)


@pytest.mark.slow
def test_saem_finds_the_maximum():
    rng = np.random.default_rng(4)
    frame = table([tuple(rng.integers(1, 4, rng.integers(1, 4))) for _ in range(60)], seed=1)

    def objective(x):
        return -2 * marginal(frame, x[0], *np.exp(x[1:3]), np.exp(x[3])).sum()

    best = minimize(objective, [2.0, -0.7, -1.2, -0.9], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-6})
    fit = nlme.fit(Level(), read(frame), nlme.SAEM(), seed=1, progress=False)
    estimate, variances = fit.parameters.estimate, np.diag(fit.omega)
    assert np.ptp(variances[1:]) == 0.0
    point = [estimate["a"], *np.log(variances[:2]), np.log(estimate["sigma"])]
    assert objective(point) - best.fun < 0.1
    assert fit.individual_parameters.shape == (60, 1)
    assert fit.n_parameters == 4


def test_the_pyro_program_has_the_same_joint():
    data, model = read(table(COUNTS)), Level()
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(0)
        trace = poutine.trace(model.program(data, nlme.Tsit5())).get_trace()
        blocks = [trace.nodes[f"eta_{block.name}"]["value"] for block in model.blocks]
        eta = torch.cat(blocks, -1).mT[:, None, None]
        expected = Density(model, data.batch(), nlme.Tsit5()).at().log_joint(eta).sum()
        torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-12, atol=1e-10)

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
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.likelihood.laplace_mixture import laplace_log_marginal
from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.model import Density
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.scalars import omega_scalars
from nlme_torch.model.declare.values import parameter_values

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
    assert fit.individual_parameters.shape == (len(frame.groupby(["ID", "OCC"])), 1)
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


# ------------------------------------------------------------------ one matrix for every occasion


class Slope(nlme.Model):
    """y = (a + kappa_a) + (b + kappa_b) t + e; the variations between occasions of a and b covary."""

    def __init__(self, structure=None, counts=(2, 2)):
        super().__init__()
        self.a = nlme.Normal(2.0, omega=0.5, occasions=nlme.Occasions(counts[0], omega=0.3))
        self.b = nlme.Normal(0.4, omega=0.2, occasions=nlme.Occasions(counts[1], omega=0.1))
        self.sigma = nlme.Positive(0.4)
        self.between = nlme.Omega("b", "a", structure=structure or nlme.Full(GAMMA), occasions=True)

    def predict(self, t, p, cov):
        return p.a + p.b * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


GAMMA = [[0.1, 0.06], [0.06, 0.3]]


def slopes(subjects=3, seed=0, gamma=GAMMA):
    rng, rows = np.random.default_rng(seed), []
    for subject in range(subjects):
        a, b = 2 + np.sqrt(0.5) * rng.normal(), 0.4 + np.sqrt(0.2) * rng.normal()
        for occasion in (1, 2):
            kappa = np.linalg.cholesky(gamma) @ rng.normal(size=2)
            for time in np.array([0.0, 1.0, 2.5]) + 3 * (occasion - 1):
                value = a + kappa[1] + (b + kappa[0]) * time + 0.4 * rng.normal()
                rows.append({"ID": subject, "TIME": time, "OCC": occasion, "DV": value})
    return pd.DataFrame(rows)


def slope_marginal(frame, gamma, a=2.0, b=0.4, omega=(0.5, 0.2), sigma=0.4):
    total = []
    for _, rows in frame.groupby("ID"):
        design = np.stack([rows["TIME"].to_numpy(), np.ones(len(rows))], 1)
        same = rows["OCC"].to_numpy()[:, None] == rows["OCC"].to_numpy()
        covariance = design @ np.diag(omega[::-1]) @ design.T + same * (design @ gamma @ design.T)
        law = multivariate_normal(design @ [b, a], covariance + sigma**2 * np.eye(len(rows)))
        total.append(law.logpdf(rows["DV"]))
    return np.array(total)


@pytest.mark.parametrize(
    "structure, gamma",
    [
        (None, GAMMA),
        ("full", [[0.1, 0.0], [0.0, 0.3]]),
        (nlme.Full([[0.1], [nlme.Fixed(0.02), 0.3]]), [[0.1, 0.02], [0.02, 0.3]]),
        (nlme.Fixed(GAMMA), GAMMA),
    ],
)
def test_effects_of_several_parameters_covary_within_an_occasion(structure, gamma):
    frame = slopes()
    model = Slope(structure)
    assert model.effect_labels == (
        "eta_a", "eta_b", "eta_b_occasion1", "eta_a_occasion1", "eta_b_occasion2", "eta_a_occasion2"
    )  # fmt: skip
    density = Density(model, read(frame).batch(), nlme.Tsit5())
    modes = best_mode(conditional_modes(column_density(density.at()), torch.zeros(6, 1, 3, dtype=torch.float64)))
    np.testing.assert_allclose(laplace_log_marginal(modes).numpy(), slope_marginal(frame, np.array(gamma)), rtol=1e-9)


def test_the_m_step_averages_over_occasions():
    covariance = Slope().blocks[1].covariance
    moment = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = moment @ moment.mT
    found = covariance.matrix(covariance.maximise(moment))[0]
    mean = 0.5 * (moment[0, :2, :2] + moment[0, 2:, 2:])
    torch.testing.assert_close(found, torch.block_diag(mean, mean))


def test_names_and_given_values_of_a_block_of_occasions():
    model = Slope()
    scalars = {name: float(value) for name, value in omega_scalars(model, parameter_values(model)).items()}
    assert scalars == pytest.approx(
        {"omega_a": 0.5, "omega_b": 0.2, "omega_b_occasion": 0.1, "omega_a_occasion": 0.3,
         "omega_b_occasion,a_occasion": 0.06}
    )  # fmt: skip
    assert FreeScalars(model, parameter_values(model)).labels[:5] == [
        "omega_a", "omega_b", "omega_b_occasion", "omega_b_occasion,a_occasion", "omega_a_occasion"
    ]  # fmt: skip
    frame = slopes()
    for given in (
        {"omega_b_occasion,a_occasion": 0.01, "omega_a_occasion": 0.4},
        {"between": [[0.1, 0.01], [0.01, 0.4]]},
    ):
        values = values_from_natural(model, given)
        density = Density(model, read(frame).batch(), nlme.Tsit5())
        modes = best_mode(
            conditional_modes(column_density(density.at(values)), torch.zeros(6, 1, 3, dtype=torch.float64))
        )
        expected = slope_marginal(frame, np.array([[0.1, 0.01], [0.01, 0.4]]))
        np.testing.assert_allclose(laplace_log_marginal(modes).numpy(), expected, rtol=1e-9)


def test_wrong_blocks_of_occasions_are_named():
    with pytest.raises(nlme.ModelError, match="'between' joins parameters of different numbers of occasions"):
        Slope(counts=(2, 3))

    class Missing(Level):
        def __init__(self):
            super().__init__()
            self.c = nlme.Normal(0.0)
            self.between = nlme.Omega("a", "c", occasions=True)

    with pytest.raises(nlme.ModelError, match=r"'c', which is not an individual parameter with occasions=Occ.*'a'"):
        Missing()


NO_COVARIANCE = nlme.Full([[0.1], [nlme.Fixed(0.0), 0.3]])


def slope_objective(frame, fit):
    """-2 log-likelihood by brute force, as a function of a change of each estimate."""
    names = ["eta_b_occasion1", "eta_a_occasion1"]
    gamma, estimate = fit.omega.loc[names, names].to_numpy(), fit.parameters.estimate
    between = np.diag(fit.omega)[:2]

    def objective(change):
        moved = gamma * np.exp([[change[3], 0.0], [0.0, change[4]]])
        moved[0, 1] = moved[1, 0] = gamma[0, 1] + change[5]
        omega, sigma = between * np.exp(change[6:8]), estimate["sigma"] * np.exp(change[2])
        found = slope_marginal(frame, moved, estimate["a"] + change[0], estimate["b"] + change[1], omega, sigma)
        return -2 * found.sum()

    return objective


@pytest.mark.parametrize("structure", [nlme.Full(GAMMA), NO_COVARIANCE], ids=["full", "no covariance"])
def test_a_fit_finds_the_maximum_with_blocks_and_given_entries(structure, tmp_path):
    """A linear model, whose marginal likelihood is a multivariate normal."""
    frame = slopes(40, 0)
    fit = nlme.fit(Slope(structure), read(frame), nlme.FOCEI(), seed=1, progress=False)
    given = structure is NO_COVARIANCE
    assert fit.n_parameters == (7 if given else 8)
    objective = slope_objective(frame, fit)
    here = objective(np.zeros(8))
    assert here == pytest.approx(fit.minus2ll, abs=1e-5)
    for direction in np.eye(8)[[0, 1, 2, 3, 4, 6, 7] if given else slice(None)]:
        assert min(objective(0.01 * direction), objective(-0.01 * direction)) > here - 1e-5
    assert bool(fit.omega.loc["eta_a_occasion2", "eta_b_occasion2"] == 0) is given
    assert "correlations of b_occasion, a_occasion" in str(fit)
    assert ("given, not estimated: omega_b_occasion,a_occasion = 0" in str(fit)) is given
    fit.save(tmp_path / "run")
    loaded = nlme.load(tmp_path / "run", Slope(structure), read(frame))
    pd.testing.assert_frame_equal(loaded.omega, fit.omega)


@pytest.mark.slow
@pytest.mark.parametrize("structure", [nlme.Full(GAMMA), NO_COVARIANCE], ids=["full", "no covariance"])
def test_saem_and_focei_agree_on_blocks_and_given_entries(structure):
    frame = slopes(40, 0)
    both = [
        slope_objective(frame, nlme.fit(Slope(structure), read(frame), method, seed=1, progress=False))(np.zeros(8))
        for method in (nlme.SAEM(), nlme.FOCEI())
    ]
    assert both[0] == pytest.approx(both[1], abs=0.1)

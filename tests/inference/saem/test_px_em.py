"""Parameter expansion of low-rank weights: what must not change, and what must be standardised."""

import pyro.distributions as dist
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE

import nlme_torch as nlme
from nlme_torch.inference.saem.px_em import expand_low_rank
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


class Curves(nlme.Model):
    def __init__(self, prior=None):
        super().__init__()
        self.base = nlme.Normal(1.0)
        self.net = nlme.RandomWeights(nlme.MLP(1, 2, 1, prior=prior), nlme.LowRank(3))
        self.sigma = nlme.Positive(1.0)

    def predict(self, t, p, cov):
        return p.base + p.net(t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.fixture(scope="module")
def case():
    density = Density(Curves(), lines_data(simulate_lines(subjects=8)[0]).batch(), nlme.Tsit5())
    values = {
        name: value + 0.3 * draw(*value.shape, seed=1) for name, value in parameter_values(density.model, 2).items()
    }
    phi = 0.7 * draw(4, 5, 2, 8) + 0.4
    return density, values, phi


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_every_subject_keeps_its_weights_and_its_likelihood(case, gain):
    density, values, phi = case
    changed, moved = expand_low_rank(density, values, phi, gain, 0.0)
    assert set(changed) == {"net.network.weights", "net.loading"}

    def weights(at, draws):
        conditional = density.at(at)
        return conditional.individual(draws - conditional.mean[:, None]).net.weights

    torch.testing.assert_close(weights({**values, **changed}, moved), weights(values, phi), rtol=1e-10, atol=1e-12)
    assert torch.equal(moved[0], phi[0]), "the effect of an individual parameter is not concerned"


def test_a_whole_step_standardises_the_effects(case):
    density, values, phi = case
    changed, moved = expand_low_rank(density, values, phi, 1.0, 0.0)
    for start in range(2):
        flat = moved[1:, :, start].reshape(3, -1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(3, dtype=DOUBLE), rtol=0, atol=1e-12)
        torch.testing.assert_close(flat @ flat.mT / flat.shape[1], torch.eye(3, dtype=DOUBLE), rtol=1e-10, atol=1e-10)
    again, _ = expand_low_rank(density, {**values, **changed}, moved, 1.0, 0.0)
    for name in changed:
        torch.testing.assert_close(again[name], changed[name], rtol=1e-9, atol=1e-10)


def test_the_loading_stays_lower_triangular_and_variances_respect_the_floor(case):
    density, values, phi = case
    component = density.model.components["net"]
    changed, _ = expand_low_rank(density, values, 0.01 * phi, 1.0, 0.97)
    before, after = (component.loading_matrix(at["net.loading"]) for at in (values, changed))
    assert torch.equal(after, after.tril())
    torch.testing.assert_close(after, before * 0.97**0.5, rtol=1e-10, atol=1e-12)


def test_with_a_prior_the_shift_maximises_both():
    density = Density(Curves(nlme.L2(5.0)), lines_data(simulate_lines(subjects=8)[0]).batch(), nlme.Tsit5())
    values = parameter_values(density.model)
    phi = 0.7 * draw(4, 5, 1, 8) + 0.4
    changed, _ = expand_low_rank(density, values, phi, 1.0, 0.0)
    loading = density.model.net.loading_matrix(values["net.loading"])[0]
    weights, mean = values["net.network.weights"][0], phi[1:].mean((1, 2, 3))
    # 8 subjects: -8 |m - mean|^2 / 2 - 5 |w + B m|^2
    shift = torch.linalg.solve(
        8 * torch.eye(3, dtype=DOUBLE) + 10 * loading.mT @ loading, 8 * mean - 10 * loading.mT @ weights
    )
    torch.testing.assert_close(changed["net.network.weights"][0], weights + loading @ shift, rtol=1e-10, atol=1e-12)


def test_models_without_low_rank_weights_are_left_alone():
    model = nlme.examples.TheophyllineClosedForm()
    density = Density(model, nlme.examples.theophylline().batch(), nlme.Tsit5())
    phi = draw(3, 2, 1, 12)
    changed, moved = expand_low_rank(density, parameter_values(model), phi, 1.0, 0.97)
    assert changed == {} and torch.equal(moved, phi)

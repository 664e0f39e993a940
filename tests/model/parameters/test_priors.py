"""Priors are densities: constants included, in double precision, whatever library they come from."""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support.small_models import DOUBLE, number

import nlme_torch as nlme
from nlme_torch.model.parameters.priors import check_prior, describe_prior, log_prior


def test_l2_adds_lambda_times_the_sum_of_squares_and_its_constant():
    weights = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    value = log_prior(nlme.L2(0.7), weights)
    expected = -0.7 * weights.square().sum(-1) + 9 / 2 * math.log(0.7 / math.pi)
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    reference = stats.norm(0, 1 / math.sqrt(2 * 0.7)).logpdf(weights.numpy()).sum(-1)
    torch.testing.assert_close(value, torch.from_numpy(reference), rtol=1e-12, atol=0)


def test_l1_adds_lambda_times_the_sum_of_absolute_values_and_its_constant():
    weights = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    expected = -1.3 * weights.abs().sum(-1) + 9 * math.log(1.3 / 2)
    torch.testing.assert_close(log_prior(nlme.L1(1.3), weights), expected, rtol=1e-13, atol=0)


def test_both_are_proper_densities():
    grid = torch.linspace(-30, 30, 60001, dtype=DOUBLE)
    for prior in (nlme.L1(0.9), nlme.L2(0.2)):
        assert torch.trapezoid(prior.log_prob(grid).exp(), grid).item() == pytest.approx(1.0, abs=1e-6)


def test_no_prior_is_zero_for_every_start():
    assert log_prior(None, torch.ones(3, 4, dtype=DOUBLE)).tolist() == [0.0, 0.0, 0.0]


def test_weights_and_biases_of_a_network_are_both_penalised():
    network = nlme.MLP(1, 2, 1, prior=nlme.L2(1.0))
    weights = torch.zeros(7, 7, dtype=DOUBLE).fill_diagonal_(0.5)
    constant = 7 / 2 * math.log(1 / math.pi)
    torch.testing.assert_close(network.log_prior(weights), torch.full((7,), constant - 0.25, dtype=DOUBLE))


@pytest.mark.parametrize(
    "prior, reference",
    [
        (dist.LogNormal(0.1, 0.3), stats.lognorm(0.3, scale=math.exp(0.1))),
        (torch.distributions.LogNormal(0.1, 0.3), stats.lognorm(0.3, scale=math.exp(0.1))),
        (torch.distributions.HalfNormal(0.3), stats.halfnorm(scale=0.3)),
        (torch.distributions.Uniform(0.1, 2.3), stats.uniform(0.1, 2.2)),
        (dist.InverseGamma(2.1, 0.3), stats.invgamma(2.1, scale=0.3)),
    ],
    ids=lambda value: type(value).__module__ + "." + type(value).__name__ if hasattr(value, "log_prob") else "",
)
def test_arguments_are_kept_in_double_precision(prior, reference):
    checked = check_prior(prior, "sigma")
    value = checked.log_prob(number(0.7))
    assert value.dtype == DOUBLE
    # the user's single-precision numbers are all that is lost: 0.3 in single precision is 3e-8 off
    assert value.item() == pytest.approx(reference.logpdf(0.7), rel=1e-5)
    assert checked.sample().dtype == DOUBLE and hasattr(checked, "to_event"), "Pyro must be able to use it"


def test_numbers_given_in_double_precision_lose_nothing():
    checked = check_prior(torch.distributions.Normal(number(0.1), number(0.3)), "x")
    assert checked.log_prob(number(0.7)).item() == pytest.approx(stats.norm(0.1, 0.3).logpdf(0.7), rel=1e-14)


@pytest.mark.parametrize("strength", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("kind", [nlme.L1, nlme.L2])
def test_a_penalty_needs_a_positive_strength(kind, strength):
    with pytest.raises(nlme.ModelError, match=f"{kind.__name__} strength must be a positive number"):
        kind(strength)


def test_a_prior_over_vectors_is_refused():
    with pytest.raises(nlme.ModelError, match=r"Positive: prior must be univariate, it has shape \(3,\)"):
        nlme.Positive(1.0, prior=dist.Normal(torch.zeros(3), 1.0))
    with pytest.raises(nlme.ModelError, match="univariate"):
        nlme.LogNormal(1.0, prior=dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))


def test_priors_in_words():
    assert describe_prior(None) == ""
    assert describe_prior(nlme.L2(2.0)) == "L2(2)"
    assert describe_prior(dist.LogNormal(0.0, 0.5)) == "LogNormal(0, 0.5)"
    assert describe_prior(dist.Gamma(2.0, 3.0)) == "Gamma(2, 3)"

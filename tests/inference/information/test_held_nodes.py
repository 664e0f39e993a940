"""Information by quadrature with held nodes: a linear model, and two published runs beside Markov chains."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import support.tutorial_models as tutorial
import torch
from support.fitted_models import made_fit
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import estimate_effects
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.information.held_nodes import information_at_held_nodes
from nlme_torch.inference.information.observed import invert, marginal_information
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign, parameter_values

needs_runs = pytest.mark.skipif(not tutorial.AVAILABLE, reason="the data of the tutorial may not be bundled")


def test_of_a_linear_model_it_is_exact():
    """The integrals are of polynomials of the fourth degree times a normal density, which three nodes do exactly."""
    fit = nlme.fit(Line(), lines_data(simulate_lines(subjects=8, seed=3)[0]), nlme.FOCEI(), progress=False)
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    exact = marginal_information(nlme.FOCEI().approximation(fit.density), scalars, 1, 1e-3)
    found = information_at_held_nodes(nlme.Quadrature(nodes=3).approximation(fit.density), scalars, 1, 1e-3)
    torch.testing.assert_close(found.hessian, exact.hessian, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.scores, exact.scores, rtol=1e-6, atol=1e-6)


def ratios(model, data, params, nodes, **chains):
    """Standard errors by held nodes over those by Louis's formula with Markov chains, at given parameters."""
    model = copy.deepcopy(model)
    assign(model, values_from_natural(model, params))
    fit = made_fit(model, data)
    fit = replace(fit, effects=estimate_effects(fit.density, None, torch.Generator().manual_seed(0)))
    scalars = FreeScalars(model, parameter_values(model))
    held = information_at_held_nodes(nlme.Quadrature(nodes=nodes).approximation(fit.density), scalars, 1, 1e-3)
    drawn = nlme.StochasticInformation(progress=False, **chains).information(fit.density, scalars)
    deviations = [invert(one, "R", scalars.labels).covariance.diagonal().sqrt() for one in (held, drawn)]
    return (deviations[0] / deviations[1]).numpy()


@needs_runs
def test_a_published_run_with_covariates():
    params = tutorial.covariates_params(tutorial.reference("covariates_501")["FOCEI"]["estimates"])
    found = ratios(tutorial.Covariates(), tutorial.covariates_data(), params, 5)
    assert found == pytest.approx(np.ones(12), abs=0.05)  # the chains' error is 2 %


@pytest.mark.slow
@needs_runs
def test_a_published_run_with_four_effects_below_the_limit():
    """Nodes that follow mode and curvature give an R that is not positive definite, by 5 and by 7 nodes."""
    params = tutorial.below_limit_params(tutorial.reference("blq")["IMP"]["estimates"])
    found = ratios(tutorial.BelowLimit(), tutorial.below_limit_data(), params, 5)
    assert found == pytest.approx(np.ones(15), abs=0.12)  # the chains' error is 4 %

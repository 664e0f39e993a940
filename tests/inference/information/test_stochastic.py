"""Louis's formula by Markov chains against the information matrix of likelihoods that are known exactly."""

from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from support.foce_models import Theoph, TheophEquation
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line, number

import nlme_torch as nlme
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.information.observed import Information, invert
from nlme_torch.inference.saem.louis import derivatives as _derivatives
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import residual_scales

NAMES = ["a", "b", "b_x", "sigma", "omega_a", "omega_b"]


def exact_information(design, point, step=1e-3):
    """R and S of a linear model on the natural scale, by differences of the exact log-likelihood of every subject."""

    def each(x):
        return np.array(design.log_marginal(x[:3], np.diag(x[4:]), x[3]))

    size, unit = len(point), step * np.eye(len(point))
    scores = np.stack([(each(point + unit[k]) - each(point - unit[k])) / (2 * step) for k in range(size)], 1)
    hessian = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            corners = [(s * t, each(point + s * unit[i] + t * unit[j]).sum()) for s in (1, -1) for t in (1, -1)]
            hessian[i, j] = -sum(sign * value for sign, value in corners) / (4 * step**2)
    return hessian, scores.T @ scores


@pytest.fixture(scope="module")
def lines():
    frame, design = simulate_lines(subjects=30)
    return nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False), design


def test_standard_errors_of_a_linear_model(lines):
    fit, design = lines
    errors = nlme.standard_errors(fit, nlme.StochasticInformation(burn_in=10, progress=False))
    hessian, scores = exact_information(design, errors.table.loc[NAMES, "estimate"].to_numpy())
    inverse = np.linalg.inv(hessian)
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    information = Information(errors.hessian, errors.scores, 30)
    expected = {"R": inverse, "S": np.linalg.inv(scores), "sandwich": inverse @ scores @ inverse}
    for kind, covariance in expected.items():
        own = scalars.jacobian() @ invert(information, kind, scalars.labels).covariance @ scalars.jacobian().mT
        ratio = own.diagonal().sqrt().numpy() / np.sqrt(np.diag(covariance))
        assert ratio == pytest.approx(np.ones(6), rel=0.05)
    assert errors.warnings == () and errors.kind == "sandwich"
    assert errors.table.loc[NAMES, "se"].to_numpy() == pytest.approx(np.sqrt(np.diag(expected["sandwich"])), rel=0.05)


def test_standard_errors_of_theophylline_are_those_of_the_exact_likelihood(theophylline):
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, nlme.Quadrature(nodes=5), progress=False)
    exact = nlme.standard_errors(fit, kind="R").table["se"]
    found = nlme.standard_errors(fit, nlme.StochasticInformation(burn_in=10, progress=False), kind="R").table["se"]
    assert (found / exact).to_numpy() == pytest.approx(np.ones(7), rel=0.05)


def test_a_prior_adds_its_curvature_and_few_iterations_are_said(lines):
    fit, _ = lines
    method = nlme.StochasticInformation(iterations=3, burn_in=2, chains=4, progress=False)
    values = dict(a=nlme.Normal(2.0, omega=0.3), b=nlme.Normal(-0.5, nlme.Shift("x"), omega=0.2))
    several = []
    for prior in (None, dist.LogNormal(number(-1.0), number(0.05))):
        model = Line(**{**values, "sigma": nlme.Positive(0.4, prior=prior)})
        several.append(nlme.standard_errors(replace(fit, model=model), method, kind="R"))
    difference = several[1].hessian - several[0].hessian
    place = FreeScalars(fit.model, parameter_values(fit.model)).labels.index("sigma")
    assert float(difference[place, place]) == pytest.approx(1 / 0.05**2)
    assert float(difference.abs().sum()) == pytest.approx(1 / 0.05**2)
    assert any("Monte-Carlo error" in message for message in several[0].warnings)
    with pytest.raises(nlme.FitError, match="at least 2 chains"):
        nlme.StochasticInformation(chains=1)


def test_complete_data_derivatives_of_an_equation_are_those_of_its_solution(theophylline):
    """And both those of central differences with phi held."""
    closed, equation = (
        Density(model(), theophylline.batch(), nlme.Tsit5(rtol=1e-10, atol=1e-10)) for model in (Theoph, TheophEquation)
    )
    scalars = FreeScalars(closed.model, parameter_values(closed.model))
    generator = torch.Generator().manual_seed(2)
    draws = closed.at().mean[:, None] + closed.at().sample(6, generator)
    draws = draws.detach().reshape(3, 3, 2, 12)
    found = _derivatives(closed, scalars, draws, residual_scales(closed))
    solved = _derivatives(equation, FreeScalars(equation.model, parameter_values(equation.model)), draws, {})
    torch.testing.assert_close(solved.scores, found.scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(solved.curvature, found.curvature, rtol=1e-4, atol=1e-3)

    def log_joint(vector):
        conditional = closed.at(scalars.at(vector.expand(2, -1)))
        return conditional.log_joint(draws - conditional.mean[:, None]).detach()

    step, size = 1e-4, len(scalars.vector)
    for entry in range(size):
        shift = torch.zeros(size, dtype=torch.float64)
        shift[entry] = step
        ahead, behind = log_joint(scalars.vector + shift), log_joint(scalars.vector - shift)
        score = (ahead - behind) / (2 * step)
        torch.testing.assert_close(found.scores[..., entry], score.sum(0), rtol=1e-5, atol=1e-5)
        second = (ahead - 2 * log_joint(scalars.vector) + behind) / step**2
        torch.testing.assert_close(found.curvature[:, entry, entry], second.sum((0, 2)), rtol=1e-4, atol=1e-3)

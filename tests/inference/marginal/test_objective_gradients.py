"""Exact gradients of every objective against central differences, and what a wrong one would miss."""

import pytest
import torch
from support.foce_models import REFERENCE, Theoph, TheophEquation, Wang, gradient_error, theoph_params, wang_data
from support.small_models import Everything, everything_data
from test_objective_functions import Counts, counts_data

import nlme_torch as nlme
from nlme_torch.inference.marginal.expansion_points import expand
from nlme_torch.inference.marginal.objective import subject_gradients
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density

METHODS = [nlme.FO(), nlme.FOCE(), nlme.FOCEI(), nlme.Laplace(), nlme.Quadrature(nodes=3)]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("model", [Theoph, TheophEquation])
def test_closed_form_and_equation(method, model, theophylline):
    params = theoph_params(REFERENCE["theoph_nmw"]["points"][0])
    instance = model()
    entries = None if model is Theoph else (0, 3, 4, 6)
    values = values_from_natural(instance, params)
    assert gradient_error(instance, theophylline, method, values, entries=entries) < 1e-6


@pytest.mark.parametrize("error", ["propMod", "lognormal", "pow"])
def test_error_models_with_interaction(error):
    for method in METHODS:
        assert gradient_error(Wang(error), wang_data(), method) < 1e-6, method


def test_an_outcome_that_is_not_normal(theophylline):
    for method in METHODS[3:]:
        assert gradient_error(Counts(), counts_data(theophylline), method) < 1e-6


@pytest.mark.parametrize("method", METHODS[2:4], ids=str)
def test_networks_latents_and_random_weights_inside_an_equation(method):
    """Fifteen effects, four networks' weights, Omega blocks, a covariate effect: every twelfth parameter."""
    entries = range(0, 60, 12)
    assert gradient_error(Everything().initialise(3), everything_data(), method, entries=entries) < 1e-6


def test_the_mode_must_move_with_the_parameters(theophylline):
    """Holding the modes still, the commonest mistake, is far off the mark."""
    density = Density(Theoph(), theophylline.batch(), nlme.Tsit5())
    values = values_from_natural(density.model, theoph_params(REFERENCE["theoph_nmw"]["points"][0]))
    approximation = nlme.FOCEI().approximation(density)
    found = expand(approximation, values, approximation.origin(1), gradient=True).evaluation
    step = 1e-4
    still = []
    for sign in (1, -1):
        moved = {**values, "ka.typical": values["ka.typical"] + sign * step}
        still.append(approximation.evaluate(moved, found.centre, gradient=False).value.sum())
    held = float(still[0] - still[1]) / (2 * step)
    exact = float(found.gradient[0, approximation.names.index("ka.typical")])
    assert abs(held - exact) > 0.01 * abs(exact)


def test_gradients_of_single_subjects_add_up(theophylline):
    density = Density(Theoph(), theophylline.batch(), nlme.Tsit5())
    values = parameter_values(density.model)
    for method in METHODS:
        approximation = method.approximation(density)
        found = expand(approximation, values, approximation.origin(1), gradient=True).evaluation
        centre = found.centre if approximation.has_modes else approximation.origin(1)
        each = subject_gradients(approximation, values, centre)
        torch.testing.assert_close(each.sum(0), found.gradient[0], rtol=1e-8, atol=1e-8)

"""The likelihood of held draws to second order: value, gradient and Hessian are those of the likelihood itself."""

import pytest
import torch
from support.compiled_models import Domain, Oral, density_of, draws, history_data, line_density, lines, moved

from nlme_torch.inference.saem.expanded_likelihood import expand_likelihood
from nlme_torch.model.declare.values import flatten_values, unflatten_values
from nlme_torch.solve.kernel.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

LINE = ("a.typical", "sigma.unconstrained", "b.covariates.x.beta", "b.typical")


def exact(density, held, effects_held):
    """Q of every start through the tensor operations; draws that cannot be evaluated count as 0."""

    def objective(values):
        conditional = density.at(values)
        eta = held if effects_held else held - conditional.mean[:, None]
        usable = torch.isfinite(conditional.log_likelihood(eta).detach())
        each = conditional.log_likelihood(torch.where(usable, eta, 1.0 - conditional.mean[:, None].detach()))
        return torch.where(usable, each, 0.0).sum(-1).mean(0)

    return objective


def second_order(objective, values, names):
    """Value, gradient and Hessian of every start in the raw parameters."""
    vector = flatten_values(values, names).detach().requires_grad_()
    value = objective(unflatten_values(vector, values, names))
    (gradient,) = torch.autograd.grad(value.sum(), vector, create_graph=True, materialize_grads=True)
    rows = []
    for column in gradient.unbind(1):
        row = torch.zeros_like(vector)
        if column.requires_grad:
            (row,) = torch.autograd.grad(column.sum(), vector, retain_graph=True, materialize_grads=True)
        rows.append(row)
    return value.detach(), gradient.detach(), torch.stack(rows, 1)


def assert_second_order(density, conditional, eta, names, effects_held):
    held = eta if effects_held else eta + conditional.mean[:, None]
    expanded = expand_likelihood(density, conditional.values, names, held, effects_held)
    assert expanded is not None
    found = second_order(expanded, conditional.values, names)
    expected = second_order(exact(density, held, effects_held), conditional.values, names)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())
    return expanded, found


@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("effects_held", [True, False])
def test_typical_values_covariate_effects_and_residual_error(starts, effects_held):
    density = line_density()
    conditional = moved(density, starts, 0.3)
    _, (_, gradient, hessian) = assert_second_order(density, conditional, draws(conditional, 4), LINE, effects_held)
    typical = [0, 2, 3]
    if effects_held:
        assert (gradient.abs() > 1e-3).all() and (hessian.diagonal(dim1=1, dim2=2).abs() > 1e-3).all()
    else:  # phi does not move with its mean
        assert (gradient[:, typical] == 0).all() and (hessian[:, typical] == 0).all()


@pytest.mark.parametrize("starts", [1, 2])
def test_compartments_with_infusions(starts):
    density = density_of(Oral(), history_data(3))
    conditional = moved(density, starts)
    names = ("v.unconstrained", "cl.typical", "cl.covariates.x.beta")
    assert_second_order(density, conditional, draws(conditional), names, True)


def test_draws_that_cannot_be_evaluated_count_as_nothing():
    density = density_of(Domain(), lines())
    conditional = moved(density, 2)
    eta = 0.1 * draws(conditional, 4)
    eta[0, 0, 1, 2] = eta[0, 2, 0, 4] = -5.0
    expanded, _ = assert_second_order(density, conditional, eta, LINE, True)
    assert (~expanded.finite).nonzero().tolist() == [[0, 1, 2], [2, 0, 4]]


def test_nothing_is_said_of_parameters_whose_reach_is_unknown():
    density = line_density()
    conditional = density.at()
    eta = draws(conditional)
    assert expand_likelihood(density, conditional.values, (), eta, True) is None
    assert expand_likelihood(density, conditional.values, ("_covariances.a.log_variance",), eta, True) is None

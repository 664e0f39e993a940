"""Derivatives of joint densities by compiled code equal those by replication."""

import functools

import pytest
import torch
from support.compiled_models import (
    Correlated,
    Domain,
    Oral,
    Saturable,
    density_of,
    draws,
    history_data,
    lines,
    moved,
)

from nlme_torch.inference.modes.derivatives import derivatives
from nlme_torch.inference.modes.effect_density import ColumnDensity, StandardisedDensity
from nlme_torch.solve.kernel.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@functools.cache
def near(model, starts):
    data = history_data(3) if model is Oral else lines(3)
    return moved(density_of(model(), data), starts, 0.05 if model is Oral else 0.2)


@pytest.mark.parametrize("kind", [ColumnDensity, StandardisedDensity])
@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("model", [Correlated, Oral])
def test_derivatives_are_the_replicated_ones(kind, starts, model):
    conditional = near(model, starts)
    density = kind(conditional)
    points = draws(conditional, 2).flatten(-2)
    if kind is StandardisedDensity:
        points = torch.randn(points.shape, generator=torch.Generator().manual_seed(0), dtype=points.dtype)
    found, expected = density.derivatives(points), derivatives(lambda effects: density(effects), points)
    assert found is not None
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(density(points), expected.value, rtol=1e-10, atol=1e-10)
    assert torch.equal(derivatives(density, points).hessian, found[2])


@pytest.mark.parametrize("kind", [ColumnDensity, StandardisedDensity])
def test_columns_that_cannot_be_evaluated(kind):
    conditional = density_of(Domain(), lines(3)).at()
    density = kind(conditional)
    points = 0.1 * draws(conditional, 2).flatten(-2)
    clean = derivatives(density, points)
    points[0, 1, 2] = -5.0
    found = derivatives(density, points)
    assert found.value[1, 2] == -torch.inf
    assert not bool(torch.isfinite(found.gradient[:, 1, 2]).all())
    assert not bool(torch.isfinite(found.hessian[..., 1, 2]).all())
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 2] = False
    for one, other in zip(found, clean, strict=True):
        assert torch.equal(one[..., others], other[..., others])


def test_equations_that_are_walked_have_none():
    conditional = density_of(Saturable(), history_data(2)).at()
    points = draws(conditional).flatten(-2)
    assert ColumnDensity(conditional).derivatives(points) is None
    assert derivatives(ColumnDensity(conditional), points).value.shape == points.shape[1:]


def test_effects_without_variance():
    """A variance may fall to 0: values are -inf or NaN there in eta, and finite in z."""
    conditional = density_of(Correlated(), lines(3)).at()
    conditional._factors["ab"] = torch.tensor([[[0.7, 0.0], [0.2, 0.0]]], dtype=torch.float64)
    points = 0.1 * torch.ones(2, 1, 3, dtype=torch.float64)
    standardised = StandardisedDensity(conditional)
    found, expected = standardised.derivatives(points), derivatives(lambda z: standardised(z), points)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    columns = derivatives(ColumnDensity(conditional), points)
    assert not bool(torch.isfinite(columns.gradient).all())

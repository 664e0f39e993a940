"""The trust region: smooth valleys, objectives that jump where a mode ends, and the metric it measures steps by."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize, rosen, rosen_der
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.marginal.lagrangian import Slopes
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.modes.newton import inner_modes
from nlme_torch.inference.optimise import trust_region
from nlme_torch.inference.optimise.trust_region import Branched, Simultaneous, best_step
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


def rosenbrock(vector):
    point = vector.numpy()
    return rosen(point), torch.as_tensor(rosen_der(point))


def no_report(_):
    return None


def test_a_curved_valley_without_any_metric():
    start, identity = torch.full((12,), -1.2, dtype=torch.float64), torch.eye(12, dtype=torch.float64)
    found = nlme.TrustRegion().minimise(rosenbrock, start, identity, no_report)
    assert found.converged and found.reason == "the gradient vanished"
    reference = minimize(rosen, start.numpy(), jac=rosen_der, method="BFGS")
    assert found.iterate.value == pytest.approx(reference.fun, abs=1e-6)
    assert found.evaluations < 4 * reference.nfev


@pytest.mark.parametrize("eigenvalues", [(1.0, 4.0, 9.0), (-2.0, 1.0, 5.0)])
@pytest.mark.parametrize("radius", [0.3, 50.0])
def test_the_step_is_the_minimum_in_the_ball(eigenvalues, radius):
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    hessian = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.mT
    slope = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    step, promised = best_step(hessian, slope, radius)
    directions = torch.randn(3, 200_000, generator=generator, dtype=torch.float64)
    lengths = radius * torch.rand(200_000, generator=generator, dtype=torch.float64) ** (1 / 3)
    others = directions / directions.norm(dim=0) * lengths
    values = slope @ others + 0.5 * (others * (hessian @ others)).sum(0)
    assert float(step.norm()) <= radius * (1 + 1e-9)
    assert promised >= -float(values.min()) * (1 - 1e-9)
    assert promised == pytest.approx(-float(slope @ step + 0.5 * step @ hessian @ step))


class Fold:
    """(theta - 1)^2 + 0.8 z^2, z a minimum of z^4/4 - z^2/2 + theta z: that with z > 0 ends at theta = 2/sqrt(27)."""

    def __init__(self, way="exchange"):
        self.way = way
        self.mode = self.kept = torch.tensor(0.8, dtype=torch.float64)

    def _modes(self, vector, start):
        def inner(effects):
            return effects[0] ** 4 / 4 - effects[0] ** 2 / 2 + vector[0] * effects[0]

        return inner_modes(inner, start.reshape(1, 1, 1)).effects[0, 0, 0]

    def trial(self, vector):
        self.mode = self.kept
        value, slope = self(vector)
        if self.way != "exchange" and self.mode * self.kept < 0:
            self.mode = self.kept
            return float("inf"), torch.zeros_like(slope)
        return value, slope

    def __call__(self, vector):
        self.mode = self._modes(vector, self.mode)
        moved = -1 / (3 * self.mode**2 - 1)
        return float((vector[0] - 1) ** 2 + 0.8 * self.mode**2), 2 * (vector - 1) + 1.6 * self.mode * moved

    def keep(self):
        self.kept = self.mode

    def exchange(self, vector):
        return self._improve(vector, self.mode)

    def search(self, vector):
        return self.way == "search" and self._improve(vector, torch.tensor(-1.0, dtype=torch.float64))

    def _improve(self, vector, start):
        other, self.mode = self._modes(vector, start), self.kept
        if self._height(vector, other) < self._height(vector, self.kept) - 1e-6:
            self.mode = other
        return bool(self.mode != self.kept)

    def metric(self, vector):
        return torch.full((1, 1), 2.0, dtype=torch.float64)

    def curvature(self, vector, scale):
        ahead = vector + 1e-5
        step = (Fold.__call__(self, ahead)[1] - Fold.__call__(self, vector)[1]) / 1e-5
        return (scale * step * scale).reshape(1, 1)

    def _height(self, vector, mode):
        return float(mode**4 / 4 - mode**2 / 2 + vector[0] * mode)


@pytest.mark.parametrize("way", ["exchange", "search", "leap"])
def test_beyond_a_mode_that_ends_the_search_goes_on(way):
    """The objective falls to 0.65 at the edge, jumps to 1.45 there, and has its only stationary point beyond."""
    start, identity = torch.tensor([0.2], dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    assert isinstance(Fold(), Branched)
    line_search = nlme.BFGS(tolerance=1e-3).minimise(Fold(), start, identity, no_report)
    assert not line_search.converged, "otherwise this test shows nothing"
    objective = Fold(way)
    found = nlme.TrustRegion(gradient=1e-6).minimise(objective, start, identity, no_report)

    def slope(theta):
        mode = brentq(lambda z: z**3 - z + theta, -3, -1)
        return 2 * (theta - 1) - 1.6 * mode / (3 * mode**2 - 1)

    assert found.converged
    assert float(found.iterate.vector) == pytest.approx(brentq(slope, 0.4, 1.5), abs=1e-6)
    assert float(objective.kept) < -1, "the modes that are left are those of the estimates"


class FoldWithModes(Fold):
    """The same with z for an unknown of its own: c = z^3 - z + theta."""

    def _modes(self, vector, start):
        return super()._modes(vector, start).reshape(1, 1, 1)

    def __call__(self, vector):
        value, slope = super().__call__(vector)
        return value, slope.reshape(1)

    def full_space(self):
        return self

    def slopes(self, vectors, effects, multipliers=None):
        theta, z = vectors[:, 0], effects[0, :, 0]
        free = torch.zeros_like(z) if multipliers is None else multipliers[0, :, 0]
        by_effects = (1.6 * z - free * (3 * z**2 - 1))[None, :, None]
        return Slopes((theta - 1) ** 2 + 0.8 * z**2, (2 * (theta - 1) - free)[:, None], by_effects)

    def equations(self, vectors, effects):
        return effects**3 - effects + vectors[None]

    def bends(self, vector, effects):
        return self.equations(vector[None], effects)[:, 0], 3 * effects**2 - 1

    def minima(self, vector, starts):
        return None


@pytest.mark.parametrize("way", ["search", "leap"])
def test_beyond_a_mode_that_ends_the_search_with_modes_goes_on(way, monkeypatch):
    monkeypatch.setattr(trust_region, "REFRESH", 2)
    monkeypatch.setattr(trust_region, "SLOW", float("inf"))
    objective = FoldWithModes(way)
    assert isinstance(objective, Simultaneous)
    start, identity = torch.tensor([0.2], dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    found = nlme.TrustRegion(gradient=1e-6, iterations=300).minimise(objective, start, identity, no_report)
    assert found.converged
    assert float(objective.kept) < -1, "beyond the edge"


def test_the_metric_is_the_expected_information_of_a_linear_model():
    frame, design = simulate_lines(subjects=12)
    density = Density(Line(), lines_data(frame).batch(), nlme.Auto())
    values = parameter_values(density.model)
    objective = MarginalObjective(nlme.FOCE().approximation(density), values)
    names = objective.approximation.names
    assert names == (
        "_covariances.individual.log_sd", "a.typical", "b.typical", "b.covariates.x.beta", "sigma.unconstrained",
    )  # fmt: skip
    expected = np.zeros((6, 6))
    for x, z in zip(design.fixed, design.random, strict=True):
        identity = np.eye(len(x))
        precision = np.linalg.inv(z @ z.T + identity)  # every standard deviation is one
        expected[2:5, 2:5] += 2 * x.T @ precision @ x
        turns = [2 * np.outer(z[:, 0], z[:, 0]), 2 * np.outer(z[:, 1], z[:, 1]), 2 * identity]
        for i, row in zip((0, 1, 5), turns, strict=True):
            for j, column in zip((0, 1, 5), turns, strict=True):
                expected[i, j] += np.trace(precision @ row @ precision @ column)
    assert objective.metric(objective.initial).numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_classical_fit_ends_where_bfgs_ends(theophylline):
    model = nlme.examples.TheophyllineClosedForm()
    method = nlme.FOCEI(optimiser=nlme.TrustRegion())
    fit = nlme.fit(model, theophylline, method, progress=False)
    assert fit.ofv == pytest.approx(116.803, abs=1e-3)
    assert fit.termination.startswith("TrustRegion converged")

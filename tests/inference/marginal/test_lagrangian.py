"""Parameters and modes at once: derivatives against differences, and valleys in which parameters alone go astray."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from support.foce_models import REFERENCE, Theoph, Wang, theoph_params, wang_data
from support.small_models import Everything, everything_data

import nlme_torch as nlme
from nlme_torch.inference.marginal.lagrangian import Slopes
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.modes.newton import inner_modes
from nlme_torch.inference.optimise import null_space_sqp, trust_region
from nlme_torch.inference.optimise.null_space_sqp import FullSpaceWalk
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign, parameter_values
from nlme_torch.model.density.density import Density

METHODS = [nlme.FOCE(), nlme.FOCEI()]


def objective(model, data, method, values=None):
    density = Density(model, data.batch(), nlme.Tsit5(rtol=1e-10, atol=1e-12))
    return MarginalObjective(method.approximation(density), values or parameter_values(model))


def case(name, method, theophylline):
    if name == "theophylline":
        model = Theoph()
        return objective(
            model, theophylline, method, values_from_natural(model, theoph_params(REFERENCE["theoph_nmw"]["points"][0]))
        )
    if name == "wang":
        return objective(Wang("propMod"), wang_data(), method)
    return objective(Everything().initialise(3), everything_data(), method)


def difference(function, point, step=1e-5):
    """Gradient by central differences."""
    entries = []
    for index in range(point.numel()):
        moved = torch.zeros_like(point).flatten()
        moved[index] = step
        moved = moved.reshape(point.shape)
        entries.append((function(point + moved) - function(point - moved)) / (2 * step))
    return torch.stack(entries).reshape(point.shape)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", ["theophylline", "wang", "networks"])
def test_gradient_of_the_lagrangian_off_the_surface(name, method, theophylline):
    found = case(name, method, theophylline)
    space, generator = found.full_space(), torch.Generator().manual_seed(1)
    vector = found.initial
    effects = found.centre + 0.1 * torch.randn(found.centre.shape, generator=generator, dtype=torch.float64)
    multipliers = torch.randn(effects.shape, generator=generator, dtype=torch.float64)
    assert float(space.equations(vector[None], effects).norm()) > 0.1, "otherwise its multipliers do not count"

    def lagrangian(vector, effects):
        equations = space.equations(vector[None], effects)
        return space.slopes(vector[None], effects).value[0] - (multipliers * equations).sum()

    exact = space.slopes(vector[None], effects, multipliers)
    some = torch.arange(0, len(vector), 12 if name == "networks" else 1)

    def along(part):
        return lagrangian(vector.index_add(0, some, part), effects)

    expected = difference(along, torch.zeros(len(some), dtype=torch.float64))
    got = exact.by_parameters[0, some]
    assert float((got - expected).abs().max()) < 1e-6 * float(expected.abs().max())
    few = 2 if name == "networks" else len(effects)

    def lifted(part):
        return lagrangian(vector, torch.cat([part, effects[few:]]))

    expected = difference(lifted, effects[:few])
    assert float((exact.by_effects[:few] - expected).abs().max()) < 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_on_the_surface_it_is_the_objective(method, theophylline):
    found = case("theophylline", method, theophylline)
    space, vector = found.full_space(), found.initial
    value, gradient = found(vector)
    equations, bends = space.bends(vector, found.centre)
    assert float(equations.abs().max()) < 1e-8
    at = space.slopes(vector[None], found.centre)
    assert float(at.value) == pytest.approx(value, abs=1e-9)
    scale = 0.01 * torch.diag(torch.linspace(0.5, 2.0, len(vector), dtype=torch.float64))  # a small step of differences
    walk = FullSpaceWalk(space, vector, found.centre, scale)
    torch.testing.assert_close(walk.iterate().gradient, gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
    assert bends.shape == (3, 3, 12)


def test_what_it_cannot_hold_it_does_not_offer(theophylline, monkeypatch):
    assert objective(Theoph(), theophylline, nlme.Laplace()).full_space() is None
    assert objective(Theoph(), theophylline, nlme.FO()).full_space() is None
    found = objective(Theoph(), theophylline, nlme.FOCE())
    monkeypatch.setattr("nlme_torch.inference.marginal.objective.FULL_SPACE_LIMIT", 40)
    assert found.full_space() is None


class Cusp:
    """g = z^4 / 4 + a z^2 / 2 + b z of one subject, F = 100 (a - 0.001)^2 + 4 (b - 0.2)^2 + z.

    For a near zero the mode turns over within b of the order of a^1.5: as a function of (a, b) F has a cliff there.
    """

    depth = 0.001

    def slopes(self, vectors, effects, multipliers=None):
        (a, b), z = vectors.mT, effects[0, :, 0]
        value = 100 * (a - self.depth) ** 2 + 4 * (b - 0.2) ** 2 + z
        by_parameters = torch.stack([200 * (a - self.depth), 8 * (b - 0.2)], 1)
        by_effects = torch.ones_like(effects)
        if multipliers is not None:
            free = multipliers[0, :, 0]
            by_parameters = by_parameters - torch.stack([free * z, free], 1)
            by_effects = by_effects - (free * (3 * z**2 + a))[None, :, None]
        return Slopes(value, by_parameters, by_effects)

    def equations(self, vectors, effects):
        return effects**3 + vectors[:, 0][None, :, None] * effects + vectors[:, 1][None, :, None]

    def bends(self, vector, effects):
        return self.equations(vector[None], effects)[:, 0], (3 * effects**2 + vector[0]).reshape(1, 1, 1)

    def minima(self, vector, starts):
        found = inner_modes(lambda z: (z**4 / 4 + vector[0] * z**2 / 2 + vector[1] * z)[0], starts)
        heights = (found.effects**4 / 4 + vector[0] * found.effects**2 / 2 + vector[1] * found.effects)[0, :, 0]
        return found.effects[:, heights.argmin()][:, None]

    def of_parameters(self, vector):
        a, b = vector
        z = brentq(lambda z: z**3 + a * z + b, -3, 3, xtol=1e-15)
        return 100 * (a - self.depth) ** 2 + 4 * (b - 0.2) ** 2 + z


def test_a_cusp_of_the_modes():
    """With the mode for a coordinate the minimum is near; brute force confirms it."""
    space, start = Cusp(), torch.tensor([0.3, -0.3], dtype=torch.float64)
    mode = brentq(lambda z: z**3 + 0.3 * z - 0.3, -3, 3)
    walk = FullSpaceWalk(
        space, start, torch.full((1, 1, 1), mode, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    for _ in range(60):
        walk.attempt()
        if float(walk.iterate().gradient.norm()) < 1e-8:
            break
    found = walk.iterate()
    assert float(found.gradient.norm()) < 1e-8
    assert found.value == pytest.approx(space.of_parameters(found.vector.numpy()), abs=1e-8)

    def profile(a):
        return minimize_scalar(lambda b: space.of_parameters((a, b)), bounds=(-1, 1.5), method="bounded").fun

    grid = np.linspace(-0.05, 0.1, 301)
    lowest = min(profile(a) for a in grid)
    assert found.value <= lowest + 1e-6


class Fold(Cusp):
    """The upper mode ends at b = 2 / sqrt(27) and F draws b beyond it, but rises by ``wall`` z^2 where z < 0."""

    depth = -1.0

    def __init__(self, wall):
        self.wall = wall

    def slopes(self, vectors, effects, multipliers=None):
        found, below = super().slopes(vectors, effects, multipliers), effects.clamp_max(0.0)
        return found._replace(
            value=found.value - 50 * vectors[:, 1] + self.wall * below[0, :, 0] ** 2,
            by_parameters=found.by_parameters - torch.tensor([0.0, 50.0], dtype=torch.float64),
            by_effects=found.by_effects + 2 * self.wall * below,
        )


def walk_from_the_upper_mode(space):
    mode = torch.full((1, 1, 1), 1.0, dtype=torch.float64)
    return FullSpaceWalk(space, torch.tensor([-1.0, 0.0], dtype=torch.float64), mode, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("wall", [0.0, 60.0])
def test_at_the_edge_of_a_mode_the_better_one_is_taken(wall):
    """It is at -1.15 there; with the wall F jumps up by 80."""
    space = Fold(wall)
    walk, highest = walk_from_the_upper_mode(space), -torch.inf
    for _ in range(80):
        walk.attempt()
        a, z = float(walk.here.vector[0]), float(walk.here.effects)
        assert 3 * z**2 + a > 0, "never with the saddle"
        highest = max(highest, walk.here.value)
        if float(walk.iterate().gradient.norm()) < 1e-8:
            break
    assert float(walk.iterate().gradient.norm()) < 1e-8 and z < -1
    assert walk.best.value == pytest.approx(walk.here.value, abs=1e-6), "not a lower one with the worse mode"
    assert (highest > 50) == (walk.exchanged > 0) == (wall > 0)
    lower = brentq(lambda z: z**3 + a * z + float(walk.here.vector[1]), -5, -0.6)
    assert z == pytest.approx(lower, abs=1e-8)


def test_where_there_is_no_value_the_search_stays_out():
    """Beyond b = 0.1 nothing can be solved: differences and steps across that line must not spoil the rest."""

    class Walled(Cusp):
        def slopes(self, vectors, effects, multipliers=None):
            found, beyond = super().slopes(vectors, effects, multipliers), vectors[:, 1] > 0.1
            return found._replace(
                value=torch.where(beyond, torch.inf, found.value),
                by_parameters=torch.where(beyond[:, None], torch.nan, found.by_parameters),
            )

        def equations(self, vectors, effects):
            beyond = vectors[:, 1][None, :, None] > 0.1
            return torch.where(beyond, torch.nan, super().equations(vectors, effects))

    mode = torch.full((1, 1, 1), brentq(lambda z: z**3 + 0.3 * z + 0.09999, -3, 3), dtype=torch.float64)
    start = torch.tensor([0.3, 0.09999], dtype=torch.float64)
    walk = FullSpaceWalk(Walled(), start, mode, torch.eye(2, dtype=torch.float64))
    first = walk.here.value
    for _ in range(40):
        walk.attempt()
    assert torch.isfinite(walk.here.vector).all() and float(walk.here.vector[1]) <= 0.1
    assert walk.best.value < first - 1


def test_a_saddle_is_not_taken_for_a_minimum():
    class Saddle(Cusp):
        """(a^2 - 1)^2 / 4 + b^2, whatever the mode."""

        def slopes(self, vectors, effects, multipliers=None):
            (a, b), z = vectors.mT, effects[0, :, 0]
            free = torch.zeros_like(z) if multipliers is None else multipliers[0, :, 0]
            by_parameters = torch.stack([a**3 - a + free, 2 * b], 1)
            return Slopes((a**2 - 1) ** 2 / 4 + b**2, by_parameters, -free[None, :, None])

        def equations(self, vectors, effects):
            return effects - vectors[:, 0][None, :, None]

        def bends(self, vector, effects):
            return self.equations(vector[None], effects)[:, 0], torch.ones(1, 1, 1, dtype=torch.float64)

    start = torch.tensor([1e-5, 0.0], dtype=torch.float64)
    walk = FullSpaceWalk(
        Saddle(), start, torch.full((1, 1, 1), 1e-5, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    assert float(walk.iterate().gradient.norm()) < 1e-4
    assert walk.bends_down()
    for _ in range(40):
        walk.attempt()
    assert abs(float(walk.here.vector[0])) == pytest.approx(1, abs=1e-6)
    assert not walk.bends_down()


def test_a_slow_search_goes_on_with_the_modes(theophylline, monkeypatch):
    """Made to change over early, it ends at the published optimum of FOCE with interaction."""
    begun = []
    original = null_space_sqp.FullSpaceWalk.__init__

    def counted(self, *arguments):
        begun.append(1)
        original(self, *arguments)

    monkeypatch.setattr(null_space_sqp.FullSpaceWalk, "__init__", counted)
    monkeypatch.setattr(trust_region, "REFRESH", 4)
    monkeypatch.setattr(trust_region, "SLOW", float("inf"))
    correlated = [[0.2, 0.1, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.2]]
    model = nlme.examples.TheophyllineFullOmega()
    assign(model, values_from_natural(model, {"all": correlated}))
    method = nlme.FOCEI(optimiser=nlme.TrustRegion(), rescue=None)
    fit = nlme.fit(model, theophylline, method, progress=False)
    assert begun == [1]
    assert fit.termination.startswith("TrustRegion converged")
    assert fit.ofv == pytest.approx(92.830869, abs=2e-5)


def test_interrupted_it_keeps_the_lowest_point(theophylline, monkeypatch):
    count = 0
    original = null_space_sqp.FullSpaceWalk.attempt

    def interrupting(self):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(null_space_sqp.FullSpaceWalk, "attempt", interrupting)
    monkeypatch.setattr(trust_region, "REFRESH", 4)
    monkeypatch.setattr(trust_region, "SLOW", float("inf"))
    method = nlme.FOCEI(optimiser=nlme.TrustRegion())
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, method, progress=False)
    assert "interrupted" in fit.termination
    assert fit.ofv <= float(fit.trace["ofv"].min()) + 1e-6

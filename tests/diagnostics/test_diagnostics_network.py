"""Networks in function space against a numpy network and scipy's solver."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import solve_ivp
from support.fitted_models import forward, hybrid_fit, low_rank_fit, made_fit, quick_fit, shared_fit
from support.small_models import Everything, everything_data

import nlme_torch as nlme
from nlme_torch.diagnostics import network_function, network_surface, network_trajectories


def hybrid_weights(fit):
    """Population weights (9,), and those of every subject (9, subject) and draw (9, draw, subject)."""
    typical = fit.model.absorption.network.weights.detach().numpy()
    block = next(block for block in fit.model.blocks if block.name == "absorption")
    modes, draws = fit.effects.modes[block.slice].numpy(), fit.effects.draws[block.slice].numpy()
    return typical, typical[:, None] + modes, typical[:, None, None] + draws


def test_random_weights_equal_direct_evaluation():
    fit = hybrid_fit()
    function = network_function(fit, "absorption", {"time": "vary", "left": 0.4}, points=11)
    typical, modes, draws = hybrid_weights(fit)
    x = function.population["input"].to_numpy()

    def direct(weights):
        return forward(weights, (2, 2, 1), x, 0.4, output="exp")[0]

    np.testing.assert_allclose(function.population["output"], direct(typical), rtol=1e-12)
    for position, subject in enumerate(fit.data.subjects):
        own = function.subjects[function.subjects["id"] == subject]
        np.testing.assert_allclose(own["input"], x)
        np.testing.assert_allclose(own["output"], direct(modes[:, position]), rtol=1e-12)
    spread = np.stack([direct(weights) for weights in draws.reshape(9, -1).T])
    quantiles = np.quantile(spread, [0.05, 0.5, 0.95], axis=0)
    np.testing.assert_allclose(function.band[["lower", "median", "upper"]].to_numpy().T, quantiles, rtol=1e-10)
    assert function.held["left"].tolist() == [0.4]


def test_the_visited_inputs_are_those_of_the_solution():
    fit = hybrid_fit()
    function = network_function(fit, "absorption")
    assert function.labels == ("time / 24", "depot") and function.varied == "time / 24"
    _, modes, _ = hybrid_weights(fit)

    def rate(t, depot):
        return -depot * forward(modes[:, 4], (2, 2, 1), np.array(t / 24), depot[0], output="exp")[0]

    own = function.visited[function.visited["id"] == fit.data.subjects[4]].sort_values("time")
    solution = solve_ivp(rate, (0, 24.35), [1.0], t_eval=own["time"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(own["depot"], solution.y[0], atol=2e-6)
    np.testing.assert_allclose(own["time / 24"], own["time"] / 24, rtol=1e-14)
    expected = forward(modes[:, 4], (2, 2, 1), own["time / 24"].to_numpy(), own["depot"].to_numpy(), output="exp")[0]
    np.testing.assert_allclose(own["output"], expected, rtol=1e-10)
    frame = fit.data.frame
    times = frame.loc[frame["Subject"] == fit.data.subjects[4], "Time"]
    assert own.loc[own["observed"], "time"].tolist() == times.tolist()
    assert function.population["input"].iloc[[0, -1]].tolist() == pytest.approx([0.0, frame["Time"].max() / 24])
    # what is not named is held at the mean over the observations
    seen = function.visited.loc[function.visited["observed"], "depot"]
    assert function.held["depot"].iloc[0] == pytest.approx(seen.mean(), rel=1e-12)


def test_low_rank_weights_equal_direct_evaluation():
    fit = low_rank_fit()
    part = fit.model.absorption_time
    loading = np.zeros((7, 2))
    for (row, column), entry in zip(part.loading_entries(), part.loading.detach().numpy(), strict=True):
        loading[row, column] = entry
    block = next(block for block in fit.model.blocks if block.name == "absorption_time")
    function = network_function(fit, "absorption_time", points=5)
    x = function.population["input"].to_numpy()
    typical = part.network.weights.detach().numpy()
    np.testing.assert_allclose(function.population["output"], forward(typical, (1, 2, 1), x)[0], rtol=1e-12)
    for position, subject in enumerate(fit.data.subjects):
        weights = typical + loading @ fit.effects.modes[block.slice, position].numpy()
        own = function.subjects[function.subjects["id"] == subject]
        np.testing.assert_allclose(own["output"], forward(weights, (1, 2, 1), x)[0], rtol=1e-12)


def test_a_latent_input_is_each_subjects_own_value():
    fit = shared_fit()
    function = network_function(fit, "effect", points=7)
    assert function.labels == ("concentration", "2 * z[0]", "z[1]") and function.varied == "concentration"
    assert function.held.isna().all(axis=None)
    weights = fit.model.effect.weights.detach().numpy()
    x = function.population["input"].to_numpy()
    np.testing.assert_allclose(function.population["output"], forward(weights, (3, 4, 1), x, 0.0, 0.0)[0], rtol=1e-12)
    start = next(block.start for block in fit.model.blocks if block.name == "z")
    for position, subject in enumerate(fit.data.subjects):
        z = fit.effects.modes[start : start + 2, position].numpy()
        own = function.subjects[function.subjects["id"] == subject]
        np.testing.assert_allclose(own["output"], forward(weights, (3, 4, 1), x, 2 * z[0], z[1])[0], rtol=1e-12)
    z = fit.effects.draws[start : start + 2].numpy().reshape(2, -1)
    spread = forward(weights, (3, 4, 1), x[:, None], 2 * z[0], z[1])[0]
    np.testing.assert_allclose(function.band["upper"], np.quantile(spread, 0.95, axis=1), rtol=1e-10)


def test_slices_limits_transform_and_labels():
    fit = shared_fit()
    inputs = {"concentration": "vary", "first": [-1.0, 0.0, 1.0], "second": 0.5}
    function = network_function(fit, "effect", inputs, limits=(-1.0, 4.0), points=3, transform=torch.exp)
    assert function.held["first"].tolist() == [-1.0, 0.0, 1.0] and function.held["second"].tolist() == [0.5] * 3
    weights = fit.model.effect.weights.detach().numpy()
    for position, first in enumerate([-1.0, 0.0, 1.0]):
        part = function.population[function.population["slice"] == position]
        assert part["input"].tolist() == [-1.0, 1.5, 4.0]
        expected = np.exp(forward(weights, (3, 4, 1), np.array([-1.0, 1.5, 4.0]), first, 0.5)[0])
        np.testing.assert_allclose(part["output"], expected, rtol=1e-12)
    # with every input held, subjects of a shared network do not differ
    assert np.ptp(function.subjects.groupby(["slice", "input"])["output"].agg(np.ptp)) < 1e-12


def test_a_network_of_a_covariate_varies_over_the_subjects():
    fit = shared_fit()
    function = network_function(fit, "size", points=4, output=1)
    weight = fit.data.covariates["Wt"] / 70
    assert function.population["input"].iloc[[0, -1]].tolist() == pytest.approx([weight.min(), weight.max()])
    x = function.population["input"].to_numpy()
    expected = forward(fit.model.size.weights.detach().numpy(), (1, 3, 2), x)[1]
    np.testing.assert_allclose(function.population["output"], expected, rtol=1e-12)


def test_a_surface_equals_direct_evaluation():
    fit = hybrid_fit()
    table, visited = network_surface(fit, "absorption", ["t", "left"], limits=(None, (0.0, 1.0)), points=5)
    typical, modes, _ = hybrid_weights(fit)
    assert len(table) == 25 and list(table) == ["t", "left", "population", "mean", "sd"]
    x, y = table["t"].to_numpy(), table["left"].to_numpy()
    np.testing.assert_allclose(table["population"], forward(typical, (2, 2, 1), x, y, output="exp")[0], rtol=1e-12)
    each = np.stack([forward(weights, (2, 2, 1), x, y, output="exp")[0] for weights in modes.T])
    np.testing.assert_allclose(table["mean"], each.mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["sd"], each.std(0, ddof=1), rtol=1e-10)
    assert {"t", "left", "id", "output"} <= set(visited)


def test_trajectories_follow_both_solutions():
    fit = hybrid_fit()
    table = network_trajectories(fit, "absorption")
    typical, _, _ = hybrid_weights(fit)
    start = table[table["time"] == 0]
    np.testing.assert_allclose(
        start["typical"], forward(typical, (2, 2, 1), np.zeros(12), 1.0, output="exp")[0], rtol=1e-12
    )
    assert (table.groupby("id")["time"].diff().dropna() > 0).all()


@pytest.mark.parametrize(("name", "count"), [("drive", 3), ("uptake", 1), ("loss", 1)])
def test_every_kind_of_network_in_one_model(name, count):
    fit = made_fit(Everything().initialise(1), everything_data(), draws=7)
    function = network_function(fit, name, points=5)
    assert len(function.labels) == count
    assert len(function.subjects) == 5 * fit.data.n_subjects
    assert np.isfinite(function.band[["lower", "upper"]].to_numpy()).all()
    assert function.labels[-1] == {"drive": "z[1]", "uptake": "time / 5", "loss": "central"}[name]


class Twice(nlme.Model):
    """Asks one network, of one input, about two states; another network is any module with two outputs."""

    states = ("a", "b")

    def __init__(self):
        super().__init__()
        self.k = nlme.LogNormal(0.1)
        self.net = nlme.MLP(1, 2, 1)
        self.module = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))

    def initial(self, p):
        return 1.0, 3.0

    def dynamics(self, t, y, p):
        first, _ = p.module(t)
        return -p.k * y.a * p.net(y.a) ** 2, -p.k * y.b * p.net(y.b) ** 2 + 0.01 * first

    def observe(self, t, y, p):
        return {"conc": dist.Normal(y.a + y.b, 1.0)}


def test_a_network_that_is_called_twice_and_a_foreign_module():
    fit = made_fit(Twice(), nlme.examples.theophylline(), draws=3)
    function = network_function(fit, "net", points=3)
    assert sorted(function.visited["call"].unique()) == [0, 1]
    assert function.population["input"].max() == pytest.approx(3.0)
    module = network_function(fit, "module", points=3, output=1)
    assert module.labels == ("time",)
    with torch.no_grad():
        expected = fit.model.module._module[0](torch.tensor(module.population["input"].to_numpy())[:, None])[:, 1]
    np.testing.assert_allclose(module.population["output"], expected, rtol=1e-12)


def test_what_does_not_fit_is_refused():
    fit = shared_fit()
    with pytest.raises(nlme.ModelError, match="no network 'v'; its networks: effect, size, idle"):
        network_function(fit, "v")
    with pytest.raises(nlme.ModelError, match="its networks: none"):
        network_function(quick_fit(), "net")
    with pytest.raises(nlme.ModelError, match="never calls its network 'idle'"):
        network_function(fit, "idle")
    with pytest.raises(nlme.ModelError, match=r"has 3 inputs, concentration, 2 \* z"):
        network_function(fit, "effect", ["concentration"])
    with pytest.raises(nlme.ModelError, match="1 of the inputs .* must vary here, not 2"):
        network_function(fit, "effect", {"a": "vary", "b": "vary", "c": 0.0})
    with pytest.raises(nlme.ModelError, match="input 'b': give 'vary', a number"):
        network_function(fit, "effect", {"a": "vary", "b": "varied", "c": 0.0})
    with pytest.raises(nlme.ModelError, match="a surface has no slices"):
        network_surface(fit, "effect", {"a": "vary", "b": "vary", "c": [0.0, 1.0]})

"""Scaled network inputs: what the scale is, what it does, and that nothing compiled keeps an old one."""

import logging

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.errors import FitError, ModelError
from nlme_torch.model.density.density import Density

DOUBLE = torch.float64
TIMES = np.array([0.0, 1.0, 2.0, 5.0])


class Decay(nlme.Model):
    """A state that falls from 300, with a network of it, of a latent effect and of a number; three times over."""

    states = ("central",)

    def __init__(self, scale="auto", weights=None, **settings):
        super().__init__()
        self.k = nlme.Positive(0.4)
        self.z = nlme.Latent(1)
        self.rate = nlme.MLP(3, 3, 1, scale=scale, **settings)
        self.sigma = nlme.Positive(5.0)

    def initial(self, p):
        return (300.0,)

    def dynamics(self, t, y, p):
        return (-p.k * y.central + 0.0 * t + self.strength * p.rate(y.central, p.z, 7.0) * y.central,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.sigma)}

    strength = 0.1


class Undisturbed(Decay):
    strength = 0.0


class ClosedForm(nlme.Model):
    """The same numbers without an equation to solve."""

    def __init__(self, scale="auto"):
        super().__init__()
        self.rate = nlme.MLP(2, 3, 1, scale=scale)
        self.sigma = nlme.Positive(5.0)

    def predict(self, t, p, cov):
        central = 300 * torch.exp(-0.4 * t)
        return central * torch.exp(0.1 * p.rate(central, 7.0))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def decay_data(subjects=2):
    """The second subject has no record at 5."""
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), 4), "TIME": np.tile(TIMES, subjects)})
    frame["DV"] = 300 * np.exp(-0.35 * frame.TIME) + np.resize([3.0, -4.0, 2.0], len(frame))
    return nlme.Dataset.from_frame(frame[~((frame.ID == 1) & (frame.TIME == 5))])


def predictions(model, data, eta=None):
    density = Density(model, data.batch(), nlme.Tsit5(rtol=1e-8, atol=1e-8))
    conditional = density.at()
    eta = torch.full((1, 1, 1, data.n_subjects), 0.7, dtype=DOUBLE) if eta is None else eta
    states, _ = conditional.predict(conditional.individual(eta), eta)
    return states.central.detach()


@pytest.mark.parametrize("settings", [{}, {"increasing": [0], "decreasing": [2]}, {"zero_at_zero": True}])
@pytest.mark.parametrize("per_subject", [False, True])
def test_a_scaled_network_is_the_plain_one_of_divided_inputs(settings, per_subject):
    plain, scaled = nlme.MLP(3, 4, 2, **settings), nlme.MLP(3, 4, 2, scale=(300.0, 0.5, 7.0), **settings)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(len(plain.weights), 5 if per_subject else 1, dtype=DOUBLE, generator=generator)
    x = torch.tensor([[300.0], [0.5], [7.0]], dtype=DOUBLE) * torch.randn(3, 5, dtype=DOUBLE, generator=generator)
    divided = plain.bind(weights)(x[0] / 300, x[1] / 0.5, x[2] / 7)
    torch.testing.assert_close(scaled.bind(weights)(*x), divided, rtol=1e-12, atol=1e-13)


def test_the_automatic_scale_is_the_root_mean_square_along_the_first_solution():
    model = nlme.scale_networks(Undisturbed(), decay_data())
    seen = 300 * np.exp(-0.4 * np.concatenate([TIMES, TIMES[:3]]))
    expected = [np.sqrt(np.mean(seen**2)), 1.0, 7.0]  # a latent effect is standard normal already
    np.testing.assert_allclose(model.rate.scale, expected, rtol=1e-5)
    assert "inputs divided by 207, 1, 7" in str(model.summary())
    assert "to be scaled by the first fit" in str(Decay().summary())


def test_a_compiled_solver_sees_a_new_scale(caplog):
    data, model = decay_data(), Decay(scale=(300.0, 1.0, 7.0)).initialise(3)
    with caplog.at_level(logging.WARNING):
        before = predictions(model, data)
        model.rate.set_scale((30.0, 2.0, 9.0))
        after = predictions(model, data)
    assert not caplog.records, "the dynamics must be compiled"
    fresh = predictions(Decay(scale=(30.0, 2.0, 9.0)).initialise(3), data)
    torch.testing.assert_close(after, fresh, rtol=1e-12, atol=1e-12)
    assert float((before - after).abs().max()) > 1.0


def test_random_weights_are_scaled_too():
    class Own(Decay):
        def __init__(self, scale):
            super().__init__()
            self.own = nlme.RandomWeights(nlme.MLP(1, 2, 1, scale=scale), nlme.Scalar(0.1))

        def dynamics(self, t, y, p):
            return (-p.k * y.central + 0.1 * p.own(y.central / self.divided),)

        divided = 1.0

    class Divided(Own):
        divided = 300.0

    eta = torch.randn(8, 3, 1, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        predictions(Own((300.0,)), decay_data(), eta), predictions(Divided(None), decay_data(), eta)
    )


def test_a_fit_sets_the_scale_once_and_keeps_it(tmp_path):
    data, model = decay_data(), ClosedForm()
    fit = nlme.fit(model, data, nlme.Pooled(steps=3), progress=False)
    assert model.rate.scale.tolist() == [1.0, 1.0] and model.rate.awaits_scale, "the caller's model is not changed"
    scale = fit.model.rate.scale
    assert scale[0] > 50 and scale[1] == 7 and "inputs divided by" in str(fit)
    again = nlme.fit(fit.model, data.subset([0]), nlme.Pooled(steps=3), progress=False)
    assert torch.equal(again.model.rate.scale, scale), "with another scale the weights would mean another function"
    loaded = nlme.load(fit.save(tmp_path / "run"), ClosedForm(), data)
    assert torch.equal(loaded.model.rate.scale, scale) and not loaded.model.rate.awaits_scale
    assert loaded.predictions.equals(fit.predictions)
    with pytest.raises(FitError, match="settings"):
        nlme.load(tmp_path / "run", ClosedForm(scale=(3.0, 7.0)), data)


def test_wrong_scales_are_refused():
    for scale in ((1.0, 2.0), (1.0, 0.0, 1.0), (1.0, 1.0, float("nan"))):
        with pytest.raises(ModelError, match="one for each input"):
            nlme.MLP(3, 2, 1, scale=scale)
    with pytest.raises(ModelError, match="without a scale"):
        nlme.MLP(1, 2, 1).set_scale([1.0])


def test_a_standardised_network_is_the_plain_one_of_standardised_inputs(tmp_path):
    class Standard(ClosedForm):
        def __init__(self):
            super().__init__("standard")

    data, model = decay_data(), Standard()
    nlme.scale_networks(model, data)
    seen = 300 * np.exp(-0.4 * np.concatenate([TIMES, TIMES[:3]]))
    np.testing.assert_allclose(model.rate.centre, [seen.mean(), 7.0], rtol=1e-9)
    # the second input never varies: it is centred, and left in its unit
    np.testing.assert_allclose(model.rate.scale, [seen.std(), 1.0], rtol=1e-9)
    x = torch.tensor(seen)
    plain = nlme.MLP(2, 3, 1)
    weights = torch.randn(len(plain.weights), 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    expected = plain.bind(weights)((x - seen.mean()) / seen.std(), torch.zeros_like(x))
    torch.testing.assert_close(model.rate.bind(weights)(x, 7.0), expected, rtol=1e-10, atol=1e-10)
    fit = nlme.fit(Standard(), data, nlme.Pooled(steps=3), progress=False)
    loaded = nlme.load(fit.save(tmp_path / "run"), Standard(), data)
    assert loaded.predictions.equals(fit.predictions)
    with pytest.raises(ModelError, match="moves zero"):
        nlme.MLP(1, 2, 1, zero_at_zero=True, scale="standard")
    with pytest.raises(ModelError, match="no centre"):
        nlme.MLP(1, 2, 1, scale="auto").set_scale([1.0], [0.0])


class Turnover(nlme.Model):
    """A response with a constant production by a network, R' = 50 + 0 NN(t) - R / 2; or its closed form at rest."""

    def __init__(self, **settings):
        super().__init__()
        self.rate = nlme.MLP(1, 3, 2, output_scale="auto", **settings)
        self.sigma = nlme.Positive(5.0)

    def predict(self, t, p, cov):
        first, second = p.rate(t / 5)
        return 200 + 20.0 * first + (40.0 * t) * second

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def test_the_automatic_output_scale_moves_predictions_by_what_the_data_vary(tmp_path):
    data = decay_data()
    values, times = data.frame.DV.to_numpy(), data.frame.TIME.to_numpy()
    model = nlme.scale_networks(Turnover(), data)
    spread = values.std(ddof=1)
    np.testing.assert_allclose(
        model.rate.output_scale, [spread / 20, spread / (40 * np.sqrt(np.mean(times**2)))], rtol=1e-6
    )
    x = torch.tensor(times)
    plain = nlme.MLP(1, 3, 2).bind(model.rate.weights.detach()[:, None])(x)
    scaled = model.rate.bind(model.rate.weights.detach()[:, None])(x)
    for output, factor, expected in zip(scaled, model.rate.output_scale, plain, strict=True):
        torch.testing.assert_close(output, factor * expected, rtol=1e-12, atol=1e-12)
    fit = nlme.fit(Turnover(), data, nlme.Pooled(steps=3), progress=False)
    loaded = nlme.load(fit.save(tmp_path / "run"), Turnover(), data)
    assert loaded.predictions.equals(fit.predictions) and "outputs times" in str(loaded.model.summary())
    zero = nlme.scale_networks(Turnover(zero_at_zero=True), data).rate
    outputs = zero.bind(zero.weights.detach()[:, None])(x / 5)
    moved = torch.stack([20 * outputs[0], 40 * x * outputs[1]]) / spread
    torch.testing.assert_close(moved.square().mean(1), torch.ones(2, dtype=DOUBLE), rtol=1e-5, atol=0)
    for settings, words in (
        ({"output": "exp", "output_scale": "auto"}, "identity"),
        ({"output_scale": (0.0,)}, "output"),
    ):
        with pytest.raises(ModelError, match=words):
            nlme.MLP(1, 2, 1, **settings)
    with pytest.raises(ModelError, match="without an output scale"):
        nlme.MLP(1, 2, 1).set_output_scale([1.0])

"""What a finished fit is asked: each fault is a warning that names it, and a sound fit has none."""

import math

import pytest
import scipy.stats
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.fitting.fit_checks import effect_mean_test, fit_checks
from nlme_torch.model.density.density import Density


class Every(nlme.Model):
    """A model with everything that can go wrong."""

    def __init__(self, sigma=0.5):
        super().__init__()
        self.cl = nlme.LogNormal(0.05, omega=0.2)
        self.v = nlme.LogNormal(0.5, omega=0.1)
        self.share = nlme.LogitNormal(0.6, omega=0.1)
        self.top = nlme.Bounded(2.0, lower=0.0, upper=5.0)
        self.held = nlme.Bounded(5.0 - 1e-9, lower=0.0, upper=5.0, fixed=True)
        self.block = nlme.Omega("cl", "v", structure="full")
        self.z = nlme.Latent(1)
        self.sigma = nlme.Positive(sigma)

    def predict(self, t, p, cov):
        return p.top * p.share + torch.exp(-p.cl / p.v * t) + 0.1 * p.z

    def observe(self, t, f, p):
        return {"conc": torch.distributions.Normal(f, p.sigma)}


def checked(model, shift=0.0, label=None, spread=0.3):
    """The checks at made-up effects of mean zero, or of another mean for one effect."""
    data = nlme.examples.theophylline()
    modes = torch.randn(model.n_effects, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    modes = spread * (modes - modes.mean(1, keepdim=True))
    if label is not None:
        modes[list(model.effect_labels).index(label)] += shift
    nothing = torch.zeros(model.n_effects, model.n_effects, 12, dtype=torch.float64)
    effects = EffectEstimates(modes, nothing, modes[0], modes, nothing, modes[:, None])
    return fit_checks(Density(model, data.batch(), nlme.Tsit5()), effects)


def set_raw(model, name, value):
    with torch.no_grad():
        model.get_parameter(name).fill_(value)
    return model


def test_a_sound_fit_has_no_warning():
    assert checked(Every()) == ()


def test_the_mean_of_the_effects_against_a_t_like_test():
    modes = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.4
    mean, p = effect_mean_test(modes)
    z = modes.mean(1) / (modes.std(1) / math.sqrt(40))
    assert mean.tolist() == pytest.approx(modes.mean(1).tolist())
    assert p.tolist() == pytest.approx((2 * scipy.stats.norm.sf(z.abs().numpy())).tolist(), rel=1e-12)
    modes[:, 7] = math.nan
    kept = torch.cat([modes[:, :7], modes[:, 8:]], 1)
    assert torch.equal(effect_mean_test(modes)[1], effect_mean_test(kept)[1])


@pytest.mark.parametrize("label, shift", [("eta_cl", 0.5), ("z", -0.8)])
def test_effects_that_are_away_from_zero_are_named(label, shift):
    model = Every()
    label = next(name for name in model.effect_labels if name.startswith(label))
    (message,) = checked(model, shift, label)
    assert f"the mean of {label} over the subjects is {shift:.3g}" in message and "p = " in message
    assert checked(model, 0.05 * shift, label) == ()


def test_a_correlation_of_one_is_named():
    model = Every()
    factor = torch.linalg.cholesky(torch.tensor([[0.2, 0.14141], [0.14141, 0.1]], dtype=torch.float64))
    covariance = next(block.covariance for block in model.blocks if block.size == 2)
    with torch.no_grad():
        covariance.factor.copy_(covariance._pack(factor[None])[0])
    (message,) = checked(model)
    assert "eta_cl" in message and "eta_v" in message and "singular" in message and "0.99" in message


@pytest.mark.parametrize(
    "raw, value, words",
    [
        ("share.typical", 25.0, "share stands at its upper bound 1"),
        ("top.unconstrained", -20.0, "top stands at its lower bound 0"),
        ("cl.typical", -61.0, "cl has run to 3.2e-27"),
    ],
)
def test_a_value_at_the_end_of_its_range_is_named(raw, value, words):
    messages = checked(set_raw(Every(), raw, value))
    assert any(words in message for message in messages)
    assert not any("held" in message for message in messages), "what is fixed there is meant"


def test_a_collapsed_residual_error_is_named():
    (message,) = checked(Every(sigma=1e-6))
    assert "residual standard deviation of conc is 1e-06" in message


def test_a_fit_hears_of_it():
    data = lines_data(simulate_lines(subjects=8, seed=9)[0])
    start = Line(a=nlme.Normal(-20.0, omega=4.0), sigma=nlme.Positive(0.5, fixed=True))
    fit = nlme.fit(start, data, nlme.FOCEI(optimiser=nlme.BFGS(iterations=1)), progress=False)
    assert any("the mean of eta_a" in message for message in fit.warnings), "the effects carry what a should"
    assert nlme.fit(Line(), data, nlme.FOCEI(), progress=False).warnings == ()

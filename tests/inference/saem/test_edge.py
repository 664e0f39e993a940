"""Models that have no value beyond an edge, with a maximum on the other side of it: SAEM ends there and says so."""

import math

import pandas as pd
import pyro.distributions as dist
import torch

import nlme_torch as nlme
from nlme_torch.inference.saem import edge as module
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density

SHORT = nlme.SAEM(schedule=nlme.StepSchedule(exploration=40, smoothing=20))


class Edged(nlme.Model):
    """y = a + b t + e, with no value where b < 1."""

    def __init__(self, slope=2.0):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=1.0)
        self.b = nlme.Real(slope)
        self.sigma = nlme.Positive(0.5)

    def predict(self, t, p, cov):
        return p.a + torch.where(p.b < 1, math.nan, p.b) * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def lines(slope, subjects=12):
    generator = torch.Generator().manual_seed(2)

    def noise():
        return float(torch.randn((), generator=generator))

    rows = []
    for subject in range(subjects):
        own = 1 + noise()
        rows += [{"ID": subject, "TIME": t, "DV": own + slope * t + 0.5 * noise()} for t in (0.0, 1.0, 2.0, 3.0)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


def test_an_edge_before_the_maximum_is_named():
    fit = nlme.fit(Edged(), lines(0.5), SHORT, seed=1, progress=False)
    assert not fit.converged and math.isfinite(fit.minus2ll) and bool(fit.eta.notna().all(axis=None))
    assert 1.0 <= float(fit.parameters["estimate"]["b"]) < 1.02
    assert any("just beyond this value of b the model has no value" in warning for warning in fit.warnings)


def test_a_maximum_beside_an_edge_is_one():
    fit = nlme.fit(Edged(), lines(1.2), SHORT, seed=1, progress=False)
    assert fit.converged and fit.warnings == ()


def test_a_share_of_lost_draws_needs_no_more_than_some(monkeypatch):
    seen, evaluate = [], module.log_likelihood

    def counted(conditional, eta):
        seen.append(eta.shape[1] * eta.shape[-1])
        return evaluate(conditional, eta)

    monkeypatch.setattr(module, "log_likelihood", counted)
    model = Edged(1.001)
    density = Density(model, lines(0.5).batch(), nlme.Auto())
    draws = density.at().mean[:, None] + torch.zeros(1, 33_000, 1, 12, dtype=torch.float64)
    assert "value of b " in module.edge(density, parameter_values(model), draws, ("b.unconstrained",))
    assert seen and max(seen) <= module.MOST_COLUMNS and min(seen) > 0.9 * module.MOST_COLUMNS

"""Scores and information from compiled derivatives are those of the tensor operations."""

import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.saem import louis
from nlme_torch.inference.saem.louis import louis_sums
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import residual_scales


class Saturating(nlme.Model):
    """A response with parameters without effects, one between bounds, two errors and a covariate."""

    def __init__(self) -> None:
        super().__init__()
        self.emax = nlme.LogNormal(3.0, nlme.Power("WT", 70.0, exponent=0.5), omega=0.1)
        self.ec50, self.hill = nlme.Positive(2.0), nlme.Bounded(1.3, 0.5, 4.0)
        self.sigma_a, self.sigma_b = nlme.Positive(0.3), nlme.Positive(0.1)

    def predict(self, t, p, cov):
        return p.emax * t**p.hill / (p.ec50**p.hill + t**p.hill)

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Combined2(y, p.sigma_a, p.sigma_b)}


def problems():
    frame = nlme.examples.theophylline().frame
    rows = frame[frame["Time"] > 0].rename(columns={"Subject": "ID", "Time": "TIME", "conc": "DV", "Wt": "WT"})
    curves = nlme.Dataset.from_frame(rows[["ID", "TIME", "DV", "WT"]], covariates=["WT"])
    return {
        "saturating": (Saturating(), curves),
        "phenobarbital": (nlme.examples.Phenobarbital(), nlme.examples.phenobarbital()),
    }


@pytest.mark.parametrize("name", ["saturating", "phenobarbital"])
def test_compiled_scores_are_those_of_the_tensor_operations(name, monkeypatch):
    model, data = problems()[name]
    generator = torch.Generator().manual_seed(1)
    density = Density(model, data.batch(), nlme.Auto())
    scalars = FreeScalars(model, {key: value.detach() for key, value in parameter_values(model).items()})
    mean = density.at().mean.detach()
    draws = (
        torch.stack([0.5 * density.at().sample(5, generator)[:, :, 0] for _ in range(3)], 1).detach() + mean[:, None]
    )
    weights = torch.rand(3, 5, data.n_subjects, generator=generator, dtype=torch.float64)
    calls = []
    compiled = louis._compiled_outcomes
    monkeypatch.setattr(louis, "_compiled_outcomes", lambda *given: calls.append(compiled(*given)) or calls[-1])
    found = louis_sums(density, scalars, draws, residual_scales(density), weights)
    assert calls and all(each is not None for each in calls)
    monkeypatch.setattr(louis, "_compiled_outcomes", lambda *given: None)
    expected = louis_sums(density, scalars, draws, residual_scales(density), weights)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)

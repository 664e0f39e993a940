"""Sufficient statistics against their definitions, and the published way to get them wrong."""

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Everything, Line, everything_data, number

import nlme_torch as nlme
from nlme_torch.inference.saem.m_step import ClosedForm
from nlme_torch.inference.saem.sufficient_statistics import blend, statistics
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import residual_scales


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_every_statistic_is_its_definition():
    model, data = Everything(), everything_data()
    density = Density(model, data.batch(), nlme.RK4(4, compile=False))
    scales = residual_scales(density)
    assert scales == {"sigma_pk": ("yPK",), "sigma_pd": ("yPD",)}
    conditional = density.at(parameter_values(model, starts=2))
    eta = 0.3 * draw(model.n_effects, 3, 2, 5)
    phi = eta + conditional.mean[:, None]
    found = statistics(model, conditional, phi, scales)
    torch.testing.assert_close(found.first, sum(phi[:, chain] for chain in range(3)) / 3)
    assert set(found.second) == {"disposition", "individual", "uptake"}  # neither fixed nor standard normal ones
    for block in model.blocks:
        if block.name in found.second:
            for start in range(2):
                products = [
                    np.outer(phi[block.slice, c, start, n], phi[block.slice, c, start, n])
                    for c in range(3)
                    for n in range(5)
                ]
                np.testing.assert_allclose(found.second[block.name][start].numpy(), sum(products) / 3, rtol=1e-12)
    observed, _ = conditional.observe(eta)
    batch = data.batch()
    pk, pd = batch.outcomes["yPK"], batch.outcomes["yPD"]
    for start in range(2):
        total_pk = total_pd = 0.0
        for c in range(3):
            for n in range(5):
                for r in range(batch.n_records):
                    if pk.mask[r, n]:
                        total_pk += (pk.value[r, n].log() - observed["yPK"].loc[r, c, start, n]).square().item() / 3
                    if pd.mask[r, n]:
                        total_pd += (pd.value[r, n] - observed["yPD"].loc[r, c, start, n]).square().item() / 3
        assert found.residual["sigma_pk"][start].item() == pytest.approx(total_pk, rel=1e-10)
        assert found.residual["sigma_pd"][start].item() == pytest.approx(total_pd, rel=1e-10)


def test_blending_moves_by_the_step():
    model = Line(full=True)
    frame, _ = simulate_lines(subjects=3)
    conditional = Density(model, lines_data(frame).batch(), nlme.Tsit5()).at()
    old, new = (statistics(model, conditional, draw(2, 4, 1, 3, seed=s), {"sigma": ("DV",)}) for s in (1, 2))
    mixed = blend(old, new, 0.25)
    torch.testing.assert_close(mixed.first, 0.75 * old.first + 0.25 * new.first)
    torch.testing.assert_close(mixed.second["ab"], 0.75 * old.second["ab"] + 0.25 * new.second["ab"])
    torch.testing.assert_close(mixed.residual["sigma"], 0.75 * old.residual["sigma"] + 0.25 * new.residual["sigma"])
    assert blend(old, new, 1.0) is new


def test_a_subject_that_was_not_solved_adds_no_residuals(monkeypatch):
    model = Line(full=True)
    frame, _ = simulate_lines(subjects=3)
    conditional = Density(model, lines_data(frame).batch(), nlme.Tsit5()).at()
    phi, scales = draw(2, 4, 1, 3), {"sigma": ("DV",)}
    observed, _ = conditional.observe(phi - conditional.mean[:, None])
    found = []
    for failed in (None, 0, 1, 2):
        solved = torch.ones(4, 1, 3, dtype=torch.bool)
        if failed is not None:
            solved[1, 0, failed] = False
        monkeypatch.setattr(conditional, "observe", lambda eta, solved=solved: (observed, solved))
        found.append(statistics(model, conditional, phi, scales).residual["sigma"].item())
    values, mask = (getattr(conditional.density.batch.outcomes["DV"], name) for name in ("value", "mask"))
    residuals = torch.where(mask, (values - observed["DV"].loc[:, 1, 0]).square(), 0.0).sum(0)
    for subject in range(3):
        assert found[0] - found[subject + 1] == pytest.approx(residuals[subject].item() / 4, rel=1e-10)


def test_averaging_chains_before_the_products_collapses_omega():
    """A published bug: with C chains the spread within subjects enters divided by C.

    Draws from the exact conditional distributions at the maximum likelihood estimate must reproduce Omega there (it is
    a fixed point of EM); statistics of the chains' averages give Omega less nearly all of the conditional covariance.
    """
    frame, design = simulate_lines(subjects=30, seed=3, sigma=0.6)
    b, omega, sigma, _ = design.maximum(full=True)
    model = Line(full=True)
    density = Density(model, lines_data(frame).batch(), nlme.Tsit5())
    values = parameter_values(model)
    values |= {"a.typical": number([b[0]]), "b.typical": number([b[1]]), "b.covariates.x.beta": number([b[2]])}
    values |= {"sigma.unconstrained": number([np.log(sigma)])}
    values["_covariances.ab.factor"] = model.blocks[0].covariance.maximise(torch.from_numpy(omega)[None])["factor"]
    means, covariances = design.posterior(b, omega, sigma)
    roots = torch.linalg.cholesky(torch.from_numpy(covariances).permute(2, 0, 1))
    chains = 2000
    eta = torch.from_numpy(means)[:, None] + torch.einsum("nij,jcn->icn", roots, draw(2, chains, 30))
    conditional = density.at(values)
    phi = eta[:, :, None] + conditional.mean[:, None]
    m_step = ClosedForm(density, {"sigma": ("DV",)})

    def omega_of(draws):
        found = m_step.step(conditional, statistics(model, conditional, draws, {"sigma": ("DV",)}), 0.0)
        return model.blocks[0].covariance.matrix({"factor": found["_covariances.ab.factor"]})[0].numpy()

    np.testing.assert_allclose(omega_of(phi), omega, atol=0.02 * np.trace(omega))
    wrong = omega_of(phi.mean(1, keepdim=True))
    lost = covariances.mean(-1)
    np.testing.assert_allclose(wrong, omega - lost, atol=0.02 * np.trace(omega))
    assert np.linalg.det(wrong) < 0.5 * np.linalg.det(omega), "the wrong version must be told apart"

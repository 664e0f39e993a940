"""Laplace's approximation of a subject whose two modes merge: it falls without bound where the likelihood does not."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.rank import rank
from nlme_torch.inference.marginal.singular_hessian import SINGULAR, smallest_eigenvalues
from nlme_torch.inference.optimise.minimisers import Iterate, Minimum

ERROR = 0.5


class Square(nlme.Model):
    """What is seen is the square of an effect: at zero the Hessian of a subject is ``1 - 2 (y - level) / error^2``."""

    def __init__(self, level):
        super().__init__()
        self.z = nlme.Latent(1)
        self.level = nlme.Real(level)

    def predict(self, t, p, cov):
        return p.level + p.z**2

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Additive(y, ERROR)}


def observed():
    random = np.random.default_rng(4)
    values = random.standard_normal(12) ** 2 + ERROR * random.standard_normal(12)
    return pd.DataFrame({"ID": range(12), "TIME": 0.0, "DV": np.sort(values)})


def exact(level, values):
    """-2 log-likelihood by a fine grid over the effect."""
    grid = np.linspace(-8, 8, 4001)
    miss = (values[:, None] - level - grid**2) / ERROR
    joint = np.exp(-0.5 * (miss**2 + grid**2)) / (2 * math.pi * ERROR)
    return -2 * np.log(joint.sum(1) * (grid[1] - grid[0])).sum()


@pytest.mark.parametrize("optimiser", [None, nlme.TrustRegion()], ids=["default", "trust region"])
def test_a_fit_ends_where_the_approximation_ends_and_says_so(optimiser):
    frame = observed()
    method = nlme.Laplace(optimiser=optimiser)
    fit = nlme.fit(Square(0.5), nlme.Dataset.from_frame(frame), method, progress=False)
    level, values = fit.parameters.loc["level", "estimate"], frame["DV"].to_numpy()
    at_zero = 1 - 2 * (values - level) / ERROR**2
    at_mode = np.where(at_zero > 0, at_zero, -2 * at_zero)  # zero is the only mode, or the minimum between two
    merging = int(at_mode.argmin())
    # the trust region stops by the modes that it follows, of which a better one may lie nearer to where two merge
    least = SINGULAR if optimiser is None else 0.0
    assert least <= at_mode[merging] < 1.1 * SINGULAR
    assert fit.status is Status.SINGULAR and not fit.converged
    assert f"subject {merging} " in fit.termination and any("nlme.Quadrature" in line for line in fit.warnings)
    assert fit.minus2ll == pytest.approx(exact(level, values), abs=2)  # 32 units below, where nothing stopped it


def test_a_poor_maximum_is_no_better_than_the_edge_far_above_it():
    def ended(value, status):
        return Minimum(Iterate(torch.zeros(1), value, torch.zeros(1), 0.0), 1, 1, status, "")

    edge = ended(751.5, Status.SINGULAR)
    ends = [ended(917.8, Status.CONVERGED), ended(700.0, Status.UNBOUNDED), edge]
    assert min(ends, key=rank) is edge
    near = ended(753.3, Status.CONVERGED)  # the edge overrates by 3.0 = -log(0.05)
    assert min([edge, near], key=rank) is near


def test_the_eigenvalues_of_what_is_not_finite_are_infinite():
    hessian = torch.eye(2, dtype=torch.float64)[..., None].repeat(1, 1, 3)
    hessian[1, 1, 1], hessian[0, 1, 2] = 0.2, torch.nan
    assert smallest_eigenvalues(hessian).tolist() == [1.0, 0.2, math.inf]

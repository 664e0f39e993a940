"""What is said of subjects whose distribution one mode does not describe."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.likelihood.doubtful_modes import doubtful_modes, next_modes

DOUBLE = torch.float64


class Square(nlme.Model):
    """y = z^2: the sign of z is known from its prior alone."""

    def __init__(self):
        super().__init__()
        self.z = nlme.Normal(0.5, omega=1.0)
        self.sigma = nlme.Positive(0.3)

    def predict(self, t, p, cov):
        return p.z**2 + 0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    own = 0.5 + rng.normal(size=12)
    own[:2] = 4.0, 5.0  # for whom the other sign is out of the question
    rows = [{"ID": i, "TIME": float(t), "DV": z**2 + 0.3 * rng.normal()} for i, z in enumerate(own) for t in range(3)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


def test_next_modes_against_a_grid(data):
    """The minima of -2 log joint on a fine grid, subject by subject."""
    found = nlme.ofv(Square(), data, nlme.Laplace()).subjects
    z = np.linspace(-7, 7, 140_001)
    for row in found.itertuples():
        y = data.frame.loc[data.frame["ID"] == row.id, "DV"].to_numpy()
        joint = (((y[:, None] - z**2) / 0.3) ** 2).sum(0) + (z - 0.5) ** 2
        inside = joint[1:-1]
        minima = np.sort(inside[(inside < joint[:-2]) & (inside < joint[2:])])
        if len(minima) == 1:
            assert math.isnan(row.next_mode)
        else:
            assert row.next_mode == pytest.approx(minima[1] - minima[0], abs=1e-4)


def test_a_fit_counts_them_in_table_and_warning(data, tmp_path):
    fit = nlme.fit(Square(), data, nlme.Laplace(), progress=False)
    table = fit.log_likelihood.subjects
    near = int((table["next_mode"] < 5).sum())
    assert near > 0
    assert any(message.startswith(f"{near} of 12 subjects") and "Laplace" in message for message in fit.warnings)
    again = nlme.ofv(fit.model, data, nlme.Laplace())
    assert again.ofv == pytest.approx(fit.ofv, abs=1e-6)
    np.testing.assert_allclose(again.subjects["next_mode"], table["next_mode"], atol=1e-4)
    loaded = nlme.load(fit.save(tmp_path / "fit"), model=Square(), data=data)
    pd.testing.assert_frame_equal(loaded.log_likelihood.subjects, table, check_dtype=False)


def test_a_nearly_singular_curvature_is_told():
    hessian = torch.diag_embed(torch.tensor([[1.0, 4.0], [0.01, 3.0]], dtype=DOUBLE)).permute(1, 2, 0)
    assert doubtful_modes("Laplace", ["a", "b"], None, hessian[..., :1]) == ()
    (message,) = doubtful_modes("Laplace", ["a", "b"], None, hessian)
    assert "1 of 2 subjects (b)" in message and "0.01" in message


def test_no_search_no_number():
    assert next_modes(None, 3).isnan().all()
    gaps = torch.tensor([1.0, torch.inf], dtype=DOUBLE)
    assert next_modes(gaps, 2).tolist()[0] == 2.0 and next_modes(gaps, 2)[1].isnan()

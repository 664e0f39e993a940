"""A matrix without a factorisation is marked, and the others of its batch are not touched."""

import pytest
import torch

from nlme_torch.inference.numerics import linear_algebra

DOUBLE = torch.float64
GOOD = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=DOUBLE)
BAD = {
    "singular": torch.zeros(2, 2, dtype=DOUBLE),
    "indefinite": torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=DOUBLE),
    "nan": torch.full((2, 2), torch.nan, dtype=DOUBLE),
    "infinite": torch.full((2, 2), torch.inf, dtype=DOUBLE),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_matrix_harms_nobody(kind):
    both = torch.stack([GOOD, BAD[kind]])
    right = torch.tensor([[1.0], [2.0]], dtype=DOUBLE).expand(2, -1, -1)
    found = {
        "cholesky": linear_algebra.cholesky(both),
        "inverse": linear_algebra.inverse(both),
        "solve": linear_algebra.solve(both, right),
        "eigen": linear_algebra.symmetric_eigen(both)[0],
        "inverse of the factor": torch.cholesky_inverse(linear_algebra.cholesky(both)),
    }
    expected = {
        "cholesky": torch.linalg.cholesky(GOOD),
        "inverse": torch.linalg.inv(GOOD),
        "solve": torch.linalg.solve(GOOD, right[0]),
        "eigen": torch.linalg.eigvalsh(GOOD),
        "inverse of the factor": torch.linalg.inv(GOOD),
    }
    has_inverse, has_eigenvalues = kind == "indefinite", kind in ("singular", "indefinite")
    for name, value in found.items():
        torch.testing.assert_close(value[0], expected[name])
        known = {"eigen": has_eigenvalues, "inverse": has_inverse, "solve": has_inverse}.get(name, False)
        assert bool(torch.isfinite(value[1]).all()) == known, name


def test_eigenvalues_of_large_matrices_that_are_not_finite():
    matrices = torch.eye(40, dtype=DOUBLE).repeat(3, 1, 1)
    matrices[1] = torch.nan
    values, vectors = linear_algebra.symmetric_eigen(matrices)
    assert values[1].isnan().all() and vectors[1].isnan().all()
    assert (values[[0, 2]] == 1).all()

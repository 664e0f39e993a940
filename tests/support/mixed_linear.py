"""The linear Gaussian mixed model, solved exactly in numpy: the answers that estimation is held against.

y_i = X_i b + Z_i eta_i + e_i, eta_i ~ N(0, Omega), e_i ~ N(0, sigma^2 I), so y_i ~ N(X_i b, Z_i Omega Z_i' +
sigma^2 I).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from nlme_torch import Dataset


@dataclass(frozen=True)
class MixedLinear:
    """One design: per subject the responses and the matrices of fixed and random effects."""

    responses: tuple[np.ndarray, ...]
    fixed: tuple[np.ndarray, ...]
    random: tuple[np.ndarray, ...]

    def log_marginal(self, b, omega, sigma):
        """Exact log-likelihood of every subject, written as in a textbook."""
        values = []
        for y, x, z in zip(self.responses, self.fixed, self.random, strict=True):
            covariance = z @ omega @ z.T + sigma**2 * np.eye(len(y))
            residual = y - x @ b
            quadratic = residual @ np.linalg.solve(covariance, residual)
            values.append(-0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + len(y) * np.log(2 * np.pi)))
        return values

    @cached_property
    def _products(self):
        """Cross-products of every subject: yy, X'y, Z'y, X'X, Z'X, Z'Z; all that a likelihood needs."""
        pairs = zip(self.responses, self.fixed, self.random, strict=True)
        lists = [(y @ y, x.T @ y, z.T @ y, x.T @ x, z.T @ x, z.T @ z) for y, x, z in pairs]
        return tuple(np.stack(entries) for entries in zip(*lists, strict=True))

    def minus2ll(self, b, omega, sigma):
        """Exact -2 log-likelihood, all constants included; the sum of log_marginal by Woodbury's identity."""
        yy, xy, zy, xx, zx, zz = self._products
        n = sum(len(y) for y in self.responses)
        inner = np.linalg.inv(omega) + zz / sigma**2
        squares = yy - 2 * xy @ b + np.einsum("npq,p,q->n", xx, b, b)
        projected = zy - zx @ b
        quadratic = (
            squares / sigma**2 - np.einsum("ni,nij,nj->n", projected, np.linalg.inv(inner), projected) / sigma**4
        )
        determinant = np.linalg.slogdet(omega)[1] * len(yy) + np.linalg.slogdet(inner)[1].sum() + 2 * n * np.log(sigma)
        return float(quadratic.sum() + determinant + n * np.log(2 * np.pi))

    def gls(self, omega, sigma):
        """The fixed effects that maximise the likelihood given the variances."""
        _, xy, zy, xx, zx, zz = self._products
        inner = np.linalg.inv(np.linalg.inv(omega) + zz / sigma**2) / sigma**2
        information = xx - np.einsum("nip,nij,njq->npq", zx, inner, zx)
        score = xy - np.einsum("nip,nij,nj->np", zx, inner, zy)
        return np.linalg.solve(information.sum(0), score.sum(0))

    def posterior(self, b, omega, sigma):
        """Conditional means (effect, subject) and covariances (effect, effect, subject) of eta."""
        means, covariances = [], []
        for y, x, z in zip(self.responses, self.fixed, self.random, strict=True):
            covariance = np.linalg.inv(z.T @ z / sigma**2 + np.linalg.inv(omega))
            means.append(covariance @ z.T @ (y - x @ b) / sigma**2)
            covariances.append(covariance)
        return np.stack(means, -1), np.stack(covariances, -1)

    def maximum(self, full=False):
        """Maximum likelihood by direct search over the variances, b by generalised least squares.

        Returns:
            b, Omega, sigma and the -2 log-likelihood there.
        """
        size = self.random[0].shape[1]
        rows, columns = np.tril_indices(size)
        entries = [k for k in range(len(rows)) if full or rows[k] == columns[k]]

        def unpack(vector):
            factor = np.zeros((size, size))
            for k, value in zip(entries, vector, strict=False):
                factor[rows[k], columns[k]] = np.exp(value) if rows[k] == columns[k] else value
            return factor @ factor.T, np.exp(vector[-1])

        def objective(vector):
            omega, sigma = unpack(vector)
            return self.minus2ll(self.gls(omega, sigma), omega, sigma)

        start = np.array([-0.5 if rows[k] == columns[k] else 0.0 for k in entries] + [-0.5])
        found = minimize(
            objective,
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 20000, "maxfev": 20000},
        )
        found = minimize(objective, found.x, method="BFGS")
        omega, sigma = unpack(found.x)
        return self.gls(omega, sigma), omega, sigma, float(found.fun)


def simulate_lines(subjects=40, seed=0, b=(2.0, -0.6), omega=((0.5, 0.12), (0.12, 0.15)), sigma=0.4, slope_on=0.3):
    """Straight lines with subject-specific intercept and slope; the slope shifts with the covariate x.

    Returns:
        The table, and the design whose fixed effects are (intercept, slope, coefficient of x on the slope).
    """
    rng = np.random.default_rng(seed)
    rows, responses, fixed, random = [], [], [], []
    for subject in range(subjects):
        count = int(rng.integers(3, 7))
        t = np.sort(rng.uniform(0, 4, count))
        x = rng.normal()
        eta = rng.multivariate_normal(np.zeros(2), np.asarray(omega))
        y = b[0] + eta[0] + (b[1] + slope_on * x + eta[1]) * t + sigma * rng.normal(size=count)
        rows += [{"ID": subject + 1, "TIME": t[k], "DV": y[k], "x": x} for k in range(count)]
        responses.append(y)
        fixed.append(np.column_stack([np.ones(count), t, x * t]))
        random.append(np.column_stack([np.ones(count), t]))
    return pd.DataFrame(rows), MixedLinear(tuple(responses), tuple(fixed), tuple(random))


def lines_data(frame):
    return Dataset.from_frame(frame, covariates=["x"])

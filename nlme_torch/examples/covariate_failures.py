r"""Two cases in which covariate effects cannot be read off random effects that were estimated without them.

A subject's mean depends on a covariate c, and nothing changes with time:

.. math:: y_{ij} = f(c_i) + \eta_i + \epsilon_{ij}, \qquad \eta_i \sim N(0, \omega^2), \; \epsilon \sim N(0, \sigma^2)

Fitted without c, omega has to cover f as well. Where f takes two values the random effects are not normal, and where
subjects have one sample each, their conditional modes are drawn to the common mean, and what is regressed on c is drawn
with them.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
from torch import Tensor

from nlme_torch.data import Dataset
from nlme_torch.model import L2, MLP, Model, Normal, Positive
from nlme_torch.model.individual.individual import Covariates, Individual


class SubjectMean(Model):
    """A mean for every subject; what a covariate does to it is left to the random effect."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = Normal(0.0, omega=0.5)
        self.sigma = Positive(0.5)

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """The same at all times."""
        return p.mean + 0.0 * t

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """An additive error."""
        return {"DV": dist.Normal(y, p.sigma)}


class SubjectMeanNetwork(SubjectMean):
    r"""The mean moved by a network of the covariate, :math:`\mu + NN(c_i) + \eta_i`.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.shift = MLP(1, 4, 1, prior=L2(strength))

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """The moved mean."""
        return {"mean": p.mean + p.shift(cov.c)}


def bimodal_effect(c: np.ndarray) -> np.ndarray:
    """The covariate itself, which is -1 or 1."""
    return c


def smooth_effect(c: np.ndarray) -> np.ndarray:
    """A wave, sin(1.5 c)."""
    return np.sin(1.5 * c)


def bimodal_data(subjects: int = 400, seed: int = 0) -> Dataset:
    """Two kinds of subjects, with means -1 and 1, omega 0.2, sigma 0.1; four samples each.

    Args:
        subjects: Number of subjects.
        seed: Seed of everything random.

    Returns:
        The data with the covariate c.
    """
    rng = np.random.default_rng(seed)
    c = rng.choice([-1.0, 1.0], subjects)
    means = bimodal_effect(c) + 0.2 * rng.normal(size=subjects)
    return Dataset.from_frame(_table(rng, 0, c, means, np.full(subjects, 4), 0.1), covariates=["c"])


def rich_and_sparse_data(rich: int = 200, sparse: int = 200, seed: int = 0) -> Dataset:
    """Subjects with ten samples and subjects with one; omega 0.15, sigma 1, c uniform between -2 and 2.

    Args:
        rich: Subjects with ten samples.
        sparse: Subjects with one; the rich ones are the same with and without them.
        seed: Seed of everything random.

    Returns:
        The data with the covariate c.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.rich_and_sparse_data(rich=20, sparse=30).n_observations
        230
    """
    rng = np.random.default_rng(seed)
    parts = []
    for first, count, samples in ((0, rich, 10), (rich, sparse, 1)):
        c = rng.uniform(-2.0, 2.0, count)
        means = smooth_effect(c) + 0.15 * rng.normal(size=count)
        parts.append(_table(rng, first, c, means, np.full(count, samples), 1.0))
    return Dataset.from_frame(pd.concat(parts, ignore_index=True), covariates=["c"])


def _table(
    rng: np.random.Generator, first: int, c: np.ndarray, means: np.ndarray, counts: np.ndarray, sigma: float
) -> pd.DataFrame:
    """Samples at times 0, 1, ... of every subject."""
    subject = np.repeat(np.arange(len(c)), counts)
    return pd.DataFrame(
        {
            "ID": first + subject + 1,
            "TIME": np.concatenate([np.arange(count, dtype=float) for count in counts]) if len(counts) else [],
            "DV": means[subject] + sigma * rng.normal(size=len(subject)),
            "c": c[subject],
        }
    )

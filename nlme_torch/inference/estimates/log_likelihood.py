"""A marginal log-likelihood as a record: its value, its method, and how far it can be trusted."""

import math
from dataclasses import dataclass

import pandas as pd

TOLERATED = 0.05
"""Difference in -2LL between two quadrature rules that is no warning."""


@dataclass(frozen=True)
class LogLikelihood:
    """A marginal log-likelihood, the method that gave it, and how far it can be trusted.

    Attributes:
        value: log p(y) summed over subjects, all constants included.
        standard_error: Monte-Carlo standard error of the value, 0 for a deterministic method.
        method: Name of the approximation.
        subjects: One row per subject: id, log_likelihood, standard_error, effective_size, k_hat.
        n_observations: Number of observations.
        n_normal: How many of them are normal or log-normal and not censored, for the convention without constants;
            None for all.
        problem: Why there is no value; empty where there is one.
        next_rule: Of quadrature: -2LL by the rule with two more nodes per effect; NaN for others, and where that rule
            would be too large.
        settings: The method with its settings; None where its name alone is known.
    """

    value: float
    standard_error: float
    method: str
    subjects: pd.DataFrame
    n_observations: int
    n_normal: int | None = None
    problem: str = ""
    next_rule: float = math.nan
    settings: object | None = None

    @property
    def rule_difference(self) -> float:
        """How far -2LL moves with the next quadrature rule; NaN where that is not known."""
        return self.next_rule - self.minus2ll

    @property
    def minus2ll(self) -> float:
        """-2 log-likelihood with all constants."""
        return -2 * self.value

    @property
    def ofv(self) -> float:
        """-2 log-likelihood without ``n log 2 pi``, NONMEM's objective function value; n counts :attr:`n_normal`."""
        counted = self.n_observations if self.n_normal is None else self.n_normal
        return -2 * self.value - counted * math.log(2 * math.pi)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the value may be wrong, one sentence each."""
        messages = [f"the likelihood is not known: {self.problem}"] if self.problem else []
        if abs(self.rule_difference) > TOLERATED:
            messages.append(
                f"{self.method}: the next rule moves -2LL by {self.rule_difference:+.2g}, so that the likelihood and "
                'its maximum are not exact; use more nodes, or nodes="auto"'
            )
        bad = self.subjects[self.subjects["k_hat"] > 0.7]
        if len(bad):
            messages.append(
                f"{self.method}: Pareto k-hat exceeds 0.7 for {len(bad)} of {len(self.subjects)} subjects (worst "
                f"{bad['k_hat'].max():.2f}); the likelihood and its standard error are unreliable there, use "
                "nlme.AnnealedImportanceSampling()"
            )
        return tuple(messages)

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"-2LL unknown, by {self.method}{': ' if self.problem else ''}{self.problem}"
        error = f" (Monte-Carlo SE {2 * self.standard_error:.2f})" if self.standard_error else ""
        if not math.isnan(self.next_rule):
            error += f" (next rule {self.rule_difference:+.2g})"
        return f"-2LL {self.minus2ll:.3f}{error}, OFV {self.ofv:.3f}, by {self.method}"

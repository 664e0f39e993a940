"""How far the estimates of SAEM are from the maximum, where that was measured."""

from typing import NamedTuple


class Certificate(NamedTuple):
    """What was measured at the estimates.

    Attributes:
        gain: Log-likelihood still to be had, without what noise alone shows; not below zero.
        standard_error: Its Monte-Carlo error.
        converged: Whether it is below the tolerance.
        rounds: Rounds of draws.
        iterations: Iterations of the chains in all of them.
        chains: Chains per subject in the last.
        flat: The parameter that moves most along a direction in which the likelihood is flat; empty if there is none.
        draws: Weighted draws per subject, which count among the iterations by what they cost.
    """

    gain: float
    standard_error: float
    converged: bool
    rounds: int
    iterations: int
    chains: int
    flat: str = ""
    draws: int = 0

    def __str__(self) -> str:
        means = f"{self.draws} weighted draws of every subject" if self.draws else f"{self.chains} chains"
        return (
            f"{self.gain:.3f} +- {self.standard_error:.3f} of log-likelihood still to be had by Louis's information "
            f"({self.iterations} further iterations, {means})"
        )

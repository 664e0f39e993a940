"""Numbers, population parameters and priors as Python writes them."""

import math

from nlme_torch.nonmem.values import Theta


def number_text(value: float) -> str:
    """Return a number as Python writes it."""
    return repr(float(value))


def root_text(variance: float) -> str:
    """Return the root of a variance, as a number where that is short."""
    root = number_text(variance**0.5)
    return root if len(root) <= 6 else f"{number_text(variance)}**0.5"


def theta_text(theta: Theta, prior: tuple[float, float] | None) -> tuple[str, str]:
    """Return how a THETA is declared, and what a reader should know of it."""
    value = number_text(theta.value)
    given = "" if prior is None else f", prior={prior_text(*prior)}"
    if theta.fixed:
        return (f"nlme.Real({value}, fixed=True{given})", "")
    low, high = theta.lower, theta.upper
    if math.isinf(low) and math.isinf(high):
        return f"nlme.Real({value}{given})", ""
    if low >= 0 and math.isinf(high) and theta.value > 0:
        return f"nlme.Positive({value}{given})", f"NONMEM's lower bound is {low:g}, here it is 0." if low else ""
    if low < theta.value < high and math.isfinite(low) and math.isfinite(high):
        return f"nlme.Bounded({value}, {number_text(low)}, {number_text(high)}{given})", ""
    return f"nlme.Real({value}{given})", f"NONMEM's bounds ({low:g}, {high:g}) are not kept."


def prior_text(mean: float, deviation: float) -> str:
    """Return a normal prior."""
    kind = "dtype=torch.float64"
    return f"dist.Normal(torch.tensor({number_text(mean)}, {kind}), {number_text(deviation)})"

"""What the solver's tolerance does to the likelihood of a fit."""

import torch

from nlme_torch._typing import Float
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.time_switches import switch_warnings
from nlme_torch.solve import Solver
from nlme_torch.solve.methods.refine import refine

TOLERATED = 0.1
"""Of -2 log-likelihood: a fortieth of what one parameter more must gain to be significant (3.84)."""


def solver_warnings(
    density: Density, modes: Float[torch.Tensor, "effect subject"], then: str = "fit again"
) -> tuple[str, ...]:
    """Solve once more with a hundredth of the local error, at the conditional modes, and compare -2 log-likelihoods.

    Args:
        density: The model at its estimates, joined to data and solver.
        modes: Conditional modes of the random effects, ``(effect, subject)``.
        then: What to do with tighter tolerances, for the message.

    Returns:
        A warning if -2LL moves by more than 0.1, not for closed forms and solvers that cannot be refined; and one if
        the equations jump between records, which no tolerance helps against.
    """
    switches = switch_warnings(density)
    stricter = refine(density.solver) if density.model.has_dynamics else None
    if stricter is None:
        return switches
    moved = _change(density, stricter, modes)
    if not abs(moved) > TOLERATED:
        return switches
    return (
        *switches,
        f"the solver's error moves -2 log-likelihood by {moved:+.2g} (at the conditional modes, against {stricter}); "
        f"tighten its tolerances and {then}",
    )


def _change(density: Density, stricter: Solver, modes: torch.Tensor) -> float:
    other = Density(density.model, density.batch, stricter)
    modes = modes.nan_to_num(0.0)  # not known
    with torch.no_grad():
        each = [one.at().log_likelihood(modes[:, None, None])[0, 0] for one in (density, other)]
    both = torch.isfinite(each[0]) & torch.isfinite(each[1])
    return -2 * float((each[0] - each[1])[both].sum())

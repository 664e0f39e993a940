"""Initial values at which the model cannot be evaluated are refused before a fit begins."""

import torch

from nlme_torch.errors import FitError
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.probe import why_not_finite


def check_start(density: Density, values: ParameterValues) -> None:
    """Evaluate every typical subject once.

    Args:
        density: The model, joined to data and solver.
        values: Raw name to ``(1, *shape)``.

    Raises:
        FitError: The log joint of a subject is not finite at zero effects; it says whose, and why.
    """
    zero = density.batch.times.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
    with torch.no_grad():
        conditional = density.at(values)
        bad = (~torch.isfinite(conditional.log_joint(zero))[0, 0]).nonzero()[:, 0].tolist()
    if bad:
        raise FitError(
            f"the log joint density of subject {density.batch.subjects[bad[0]]!r} is not finite at zero effects "
            f"({len(bad)} subjects in all): {why_not_finite(conditional, zero, 0, bad[0])}"
        )

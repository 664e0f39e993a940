"""The joint density as the kernels and mode searches see it: starts are further subjects."""

from torch import Tensor

from nlme_torch._typing import LogDensity
from nlme_torch.model.density import Conditional


def column_density(conditional: Conditional) -> LogDensity:
    """Return log p(y_i, eta_i) as a function of ``(effect, *batch, start * subject)``.

    Args:
        conditional: Densities at fixed parameters of one or several starts.

    Returns:
        A function whose values are ``(*batch, start * subject)``.
    """
    starts, subjects = conditional.starts, conditional.density.batch.n_subjects

    def log_joint(effects: Tensor) -> Tensor:
        columns = effects.reshape(effects.shape[0], -1, starts, subjects)
        return conditional.log_joint(columns).reshape(effects.shape[1:])

    return log_joint

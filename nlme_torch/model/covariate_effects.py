"""Covariate effects that are linear on the transformed scale of an individual parameter."""

import torch
from torch import Tensor, nn

from nlme_torch.errors import ModelError


class CovariateEffect(nn.Module):
    """One regression coefficient times a function of one covariate; subclasses give the function.

    The transformed individual parameter has the mean ``mu_i = h(typical value) + sum_k beta_k x_k(covariate_i)``,
    so that SAEM updates every beta in closed form.

    Args:
        covariate: Name of the covariate in the data.
        coefficient: Initial value of beta.
        fixed: Keep the coefficient (fixed allometry, say).
    """

    def __init__(self, covariate: str, coefficient: float, fixed: bool) -> None:
        super().__init__()
        self.covariate = covariate
        self.beta = nn.Parameter(torch.tensor(float(coefficient), dtype=torch.float64), requires_grad=not fixed)

    def regressor(self, covariate: Tensor) -> Tensor:
        """Return ``x(covariate)``, elementwise."""
        raise NotImplementedError


class Power(CovariateEffect):
    r"""A power law of a positive covariate, for log-normal parameters: x = log(covariate / ref).

    .. math:: \phi_i = \phi_{pop} (c_i / ref)^{\beta} e^{\eta_i}

    Args:
        covariate: Name of the covariate in the data, positive.
        ref: Reference value of the covariate, where the typical value holds.
        exponent: Initial value of beta.
        fixed: Keep the exponent.

    Example:
        >>> import nlme_torch as nlme
        >>> cl = nlme.LogNormal(0.13, nlme.Power("WT", ref=70, exponent=0.75, fixed=True))
    """

    def __init__(self, covariate: str, ref: float, *, exponent: float = 0.0, fixed: bool = False) -> None:
        super().__init__(covariate, exponent, fixed)
        if ref <= 0:
            raise ModelError(f"Power({covariate!r}): ref must be positive, got {ref}.")
        self.ref = float(ref)

    def regressor(self, covariate: Tensor) -> Tensor:
        """Return ``log(covariate / ref)``."""
        return (covariate / self.ref).log()


class Shift(CovariateEffect):
    r"""A linear effect on the transformed scale: x = covariate - ref.

    .. math:: h(\phi_i) = h(\phi_{pop}) + \beta (c_i - ref) + \eta_i

    Args:
        covariate: Name of the covariate in the data (a 0/1 indicator or a centred number).
        ref: Reference value, where the typical value holds.
        coefficient: Initial value of beta.
        fixed: Keep the coefficient.
    """

    def __init__(self, covariate: str, ref: float = 0.0, *, coefficient: float = 0.0, fixed: bool = False) -> None:
        super().__init__(covariate, coefficient, fixed)
        self.ref = float(ref)

    def regressor(self, covariate: Tensor) -> Tensor:
        """Return ``covariate - ref``."""
        return covariate - self.ref

"""Individual parameters: a typical value, a transform, covariate effects and one random effect per subject."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nlme_torch.errors import ModelError
from nlme_torch.model.parameters.covariate_effects import CovariateEffect
from nlme_torch.model.parameters.named_modules import NamedModules
from nlme_torch.model.parameters.priors import check_prior, log_prior
from nlme_torch.model.parameters.transforms import Identity, Log, Logit, Transform
from nlme_torch.model.random_effects.covariance import Fixed, check_variance


@dataclass(frozen=True)
class Occasions:
    """Variation of an individual parameter between the occasions of a subject.

    Args:
        count: Number of occasions of the subject with most of them.
        omega: Initial variance between occasions (transformed scale), the same for all of them, or ``Fixed(variance)``.

    Raises:
        ModelError: The count is below 1 or the variance not positive.

    Example:
        >>> import nlme_torch as nlme
        >>> cl = nlme.LogNormal(2.7, omega=0.09, occasions=nlme.Occasions(3, omega=0.02))

    References:
        Karlsson and Sheiner (1993), The importance of modeling interoccasion variability in population pharmacokinetic
        analyses, doi:10.1007/BF01113502.
    """

    count: int
    omega: float | Fixed = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise ModelError(f"Occasions({self.count!r}): the number of occasions must be 1 or more.")
        check_variance(self.omega.value if isinstance(self.omega, Fixed) else self.omega, "Occasions")


class IndividualParameter(nn.Module):
    r"""A parameter that differs between subjects; subclasses fix its transform h.

    .. math:: h(\phi_{ij}) = h(\phi_{pop}) + \sum_k \beta_k x_k(c_i) + \eta_i + \kappa_{i,occ(j)}, \qquad
              \eta \sim N(0, \Omega), \quad \kappa \sim N(0, \gamma)

    Args:
        typical: Initial typical value on the natural scale, in the parameter's own unit.
        *covariates: ``Power`` or ``Shift`` effects, linear on the transformed scale.
        omega: Initial variance of eta, or ``Fixed(variance)``.
        prior: Univariate distribution of the typical value (natural scale), or None.
        fixed: Keep the typical value.
        occasions: Variation kappa between occasions of a subject, or None.

    Attributes:
        transform: h, from natural to transformed scale.

    Raises:
        ModelError: The typical value lies outside the range, or a variance is not positive.
    """

    transform: Transform

    def __init__(
        self,
        typical: float,
        *covariates: CovariateEffect,
        omega: float | Fixed = 0.2,
        prior: Distribution | None = None,
        fixed: bool = False,
        occasions: Occasions | None = None,
    ) -> None:
        super().__init__()
        name, transform = type(self).__name__, self.transform
        if not transform.contains(typical):
            raise ModelError(f"{name}({typical}): the typical value must be {transform}.")
        for effect in covariates:
            if not isinstance(effect, CovariateEffect):
                raise ModelError(f"{name}: covariate effects are nlme.Power or nlme.Shift, got {effect!r}.")
        names = [effect.covariate for effect in covariates]
        if len(set(names)) < len(names):
            raise ModelError(f"{name}: a covariate appears twice among {names}; give one effect per covariate.")
        check_variance(omega.value if isinstance(omega, Fixed) else omega, f"{name}({typical})")
        self.omega = omega
        self.occasions = occasions
        self.prior = check_prior(prior, name)
        initial = transform.inverse(torch.tensor(float(typical), dtype=torch.float64))
        self.typical = nn.Parameter(initial, requires_grad=not fixed)
        self.covariates = NamedModules({effect.covariate: effect for effect in covariates})

    @property
    def effects(self) -> dict[str, CovariateEffect]:
        """Covariate to the effect that it has."""
        return {name: effect for name, effect in self.covariates.items() if isinstance(effect, CovariateEffect)}

    @property
    def fixed(self) -> bool:
        """Whether the typical value is kept."""
        return not self.typical.requires_grad

    @property
    def value(self) -> Tensor:
        """Current typical value on the natural scale, a 0-d tensor."""
        return self.transform.forward(self.typical.detach())

    def natural(self, typical: Tensor) -> Tensor:
        """Map typical values ``(start,)`` to the natural scale."""
        return self.transform.forward(typical)

    def log_prior(self, typical: Tensor) -> Tensor:
        """Return the log prior density of the natural typical value, ``(start,)``."""
        return log_prior(self.prior, self.natural(typical))

    def extra_repr(self) -> str:
        """Show the current typical value in the module's printed form."""
        return f"{self.value.item():g}, range={self.transform}" + (", fixed" if self.fixed else "")


class Normal(IndividualParameter):
    """An individual parameter that is normal across subjects: phi_i = typical + eta_i.

    Args:
        typical: Initial typical value, natural unit.
        *covariates: ``Power`` or ``Shift`` effects.
        omega: Initial variance of eta (squared unit of the parameter), or ``Fixed(variance)``.
        prior: Univariate distribution of the typical value, or None.
        fixed: Keep the typical value.
        occasions: Variation between occasions of a subject, or None.
    """

    transform = Identity()


class LogNormal(IndividualParameter):
    """A positive individual parameter: phi_i = typical x exp(eta_i).

    Args:
        typical: Initial typical value > 0, natural unit.
        *covariates: ``Power`` or ``Shift`` effects.
        omega: Initial variance of eta (log scale; 0.09 is about 30 % CV), or ``Fixed(variance)``.
        prior: Univariate distribution of the typical value, or None.
        fixed: Keep the typical value.
        occasions: Variation between occasions of a subject, or None.

    Example:
        >>> import nlme_torch as nlme
        >>> cl = nlme.LogNormal(2.7, nlme.Power("WT", ref=70, exponent=0.75), omega=0.09)
        >>> round(cl.value.item(), 6)
        2.7
    """

    transform = Log()


class LogitNormal(IndividualParameter):
    """An individual parameter between two bounds: logit of the relative position is normal.

    Args:
        typical: Initial typical value, strictly inside the bounds.
        *covariates: ``Power`` or ``Shift`` effects.
        lower: Lower bound.
        upper: Upper bound.
        omega: Initial variance of eta (logit scale), or ``Fixed(variance)``.
        prior: Univariate distribution of the typical value, or None.
        fixed: Keep the typical value.
        occasions: Variation between occasions of a subject, or None.
    """

    def __init__(
        self,
        typical: float,
        *covariates: CovariateEffect,
        lower: float = 0.0,
        upper: float = 1.0,
        omega: float | Fixed = 0.2,
        prior: Distribution | None = None,
        fixed: bool = False,
        occasions: Occasions | None = None,
    ) -> None:
        self.transform = Logit(lower, upper)
        super().__init__(typical, *covariates, omega=omega, prior=prior, fixed=fixed, occasions=occasions)


class Latent(nn.Module):
    """Standard normal random effects without a parameter of their own: inputs of a shared network.

    ``p.name`` is one number per subject for ``Latent(1)`` and a tuple of numbers otherwise.

    Args:
        size: Number of random effects, each N(0, 1).
    """

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        if size < 1:
            raise ModelError(f"Latent needs at least one effect, got {size}.")
        self.size = size

    def extra_repr(self) -> str:
        """Show the size in the module's printed form."""
        return str(self.size)

"""What a declared covariate effect multiplies, from the data."""

from torch import Tensor

from nlme_torch.data.batch import Batch
from nlme_torch.errors import ModelError
from nlme_torch.model.covariate_effects import CovariateEffect, Power


def regressor(parameter: str, effect: CovariateEffect, batch: Batch) -> Tensor:
    """Evaluate a covariate effect's function of its covariate for all subjects.

    Args:
        parameter: Name of the individual parameter, for the message.
        effect: The declared effect.
        batch: The data.

    Returns:
        ``(subject,)``.

    Raises:
        ModelError: The covariate is missing, changes within subjects, or is not positive where it has to be.
    """
    kind = f"{type(effect).__name__}({effect.covariate!r}) of {parameter!r}"
    if effect.covariate not in batch.covariates:
        known = ", ".join(map(repr, sorted(batch.covariates))) or "none"
        raise ModelError(f"{kind}: the data have no covariate {effect.covariate!r}; they have {known}.")
    covariate = batch.covariates[effect.covariate]
    if covariate.dim() > 1:
        raise ModelError(
            f"{kind}: the covariate changes within subjects, and a declared effect needs a constant one; compute the "
            f"parameter from cov.{effect.covariate} in individual(p, cov) instead."
        )
    if isinstance(effect, Power) and bool((covariate <= 0).any()):
        subject = int((covariate <= 0).nonzero()[0])
        raise ModelError(
            f"{kind}: a power needs positive values, but subject {batch.subjects[subject]!r} has "
            f"{covariate[subject].item():g}; correct it, or use nlme.Shift."
        )
    return effect.regressor(covariate)

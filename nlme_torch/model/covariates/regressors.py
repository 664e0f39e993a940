"""What a declared covariate effect multiplies, from the data."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.individual.category import Category, quoted
from nlme_torch.model.parameters.covariate_effects import CovariateEffect, Power
from nlme_torch.model.parameters.individual_parameters import IndividualParameter


def regressors(
    model: Model, batch: Batch, values: Mapping[str, Any], refused: Mapping[str, str]
) -> dict[tuple[str, str], Tensor]:
    """Evaluate all declared covariate effects: parameter and covariate to what :func:`regressor` returns."""
    return {
        (name, covariate): regressor(name, effect, batch, values, refused)
        for name, component in model.components.items()
        if isinstance(component, IndividualParameter)
        for covariate, effect in component.effects.items()
    }


def regressor(
    parameter: str, effect: CovariateEffect, batch: Batch, values: Mapping[str, Any], refused: Mapping[str, str]
) -> Tensor:
    """Evaluate a covariate effect's function of its covariate for all subjects.

    Args:
        parameter: Name of the individual parameter, for the message.
        effect: The declared effect.
        batch: The data.
        values: The covariates as the model knows them.
        refused: Covariates that cannot be read, to the reason.

    Returns:
        ``(subject,)``, or ``(level, subject)`` for a covariate that holds text.

    Raises:
        ModelError: The covariate is missing, changes within subjects, has a level that the model does not know, or is
            not positive where it has to be.
    """
    kind = f"{type(effect).__name__}({effect.covariate!r}) of {parameter!r}"
    if effect.covariate in refused:
        raise ModelError(f"{kind}: {refused[effect.covariate]}.")
    if effect.covariate not in batch.covariates:
        known = ", ".join(map(repr, sorted(batch.covariates))) or "none"
        raise ModelError(f"{kind}: the data have no covariate {effect.covariate!r}; they have {known}.")
    if batch.covariates[effect.covariate].dim() > 1:
        raise ModelError(
            f"{kind}: the covariate changes within subjects, and a declared effect needs a constant one; compute the "
            f"parameter from cov.{effect.covariate} in individual(p, cov) instead."
        )
    covariate = values[effect.covariate]
    if isinstance(covariate, Category):
        return _indicators(kind, effect, covariate, batch)
    if effect.levels is not None:
        raise ModelError(f"{kind}: the covariate holds numbers; in the data that the model was fitted to it held text.")
    if isinstance(effect, Power) and bool((covariate <= 0).any()):
        subject = int((covariate <= 0).nonzero()[0])
        raise ModelError(
            f"{kind}: a power needs positive values, but subject {batch.subjects[subject]!r} has "
            f"{covariate[subject].item():g}; correct it, or use nlme.Shift."
        )
    return effect.regressor(covariate)


def _indicators(kind: str, effect: CovariateEffect, category: Category, batch: Batch) -> Tensor:
    """One row for each coefficient; a level without one is an error."""
    levels, reference = effect.levels or (), str(effect.reference)
    coded = category.indicators((reference, *levels))
    without = (coded.sum(0) == 0).nonzero()
    if len(without):
        subject = int(without[0])
        level = category.levels[int(category.codes[subject])]
        raise ModelError(
            f"{kind}: subject {batch.subjects[subject]!r} has the level {level!r}, which no subject of the data that "
            f"the model was fitted to has; there is a coefficient for {quoted(levels)} and the reference {reference!r}."
        )
    return coded[1:]

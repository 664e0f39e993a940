"""What ``individual`` derives from parameters and covariates, joined with the parameters."""

from collections.abc import Mapping
from typing import Any

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.individual.individual import ChangingIndividual, Covariates, Individual, is_changing


def derived(
    model: Model, values: Mapping[str, Any], covariates: Covariates, between: tuple[Covariates, Covariates] | None
) -> Individual:
    """Join the parameters with what ``individual`` derives from them and from covariates.

    Args:
        model: The model.
        values: Attribute name to value of the parameters.
        covariates: The covariates at records.
        between: The covariates just after each record and just before the next, where any changes.

    Raises:
        ModelError: ``individual`` returns something other than a dict.
    """

    def join(at: Covariates) -> dict[str, Any]:
        found = model.individual(Individual(values), at)
        if not isinstance(found, dict):
            raise ModelError(
                f"individual must return a dict of name to value, got {type(found).__name__}; write "
                'return {"name": value}, or return {}.',
                method="individual",
            )
        return {**values, **found}

    joined = join(covariates)
    if between is None or not any(map(is_changing, joined.values())):
        return Individual(joined)
    after, until = between
    held = joined if after is covariates else join(after)
    return ChangingIndividual(joined, held, held if until is after else join(until))

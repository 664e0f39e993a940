"""Levels of text covariates: they belong to the model that was fitted, and every table is matched to them by name."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlme_torch.data.records.batch import Batch
from nlme_torch.data.table.cells import as_label
from nlme_torch.model.individual.category import Category, quoted
from nlme_torch.model.parameters.covariate_effects import CovariateEffect
from nlme_torch.model.parameters.individual_parameters import IndividualParameter

if TYPE_CHECKING:
    from nlme_torch.model.declare.model import Model


def learn_levels(model: "Model", batch: Batch) -> None:
    """Fix a model's levels of text covariates to those of a data set, in place; a model that has levels keeps them.

    A declared effect gets one coefficient for each level that a subject has, apart from its reference.

    Args:
        model: The model.
        batch: The data.

    Raises:
        ModelError: The reference or a coefficient of a declared effect does not suit the covariate.
    """
    if model.covariate_levels is not None:
        return
    for _, name, effect in _effects(model):
        if name in batch.covariates:
            effect.learn(batch.categories.get(name, ()), level_counts(batch, name))
    model.covariate_levels = dict(batch.categories)


def with_levels(model: "Model", batch: Batch) -> "Model":
    """Return the model, or a copy with the levels of the data where a declared effect waits for them."""
    waiting = any(name in batch.categories and effect.levels is None for _, name, effect in _effects(model))
    if model.covariate_levels is not None or not waiting:
        return model
    model = copy.deepcopy(model)
    learn_levels(model, batch)
    return model


def packed_levels(model: "Model") -> dict[str, Any] | None:
    """Return a model's levels for JSON; None where it has none."""
    if model.covariate_levels is None:
        return None
    effects = {
        f"{parameter}/{name}": {"reference": effect.reference, "levels": list(effect.levels)}
        for parameter, name, effect in _effects(model)
        if effect.levels is not None
    }
    return {"covariates": {name: list(order) for name, order in model.covariate_levels.items()}, "effects": effects}


def restore_levels(model: "Model", packed: Mapping[str, Any] | None) -> None:
    """Give a model the levels that :func:`packed_levels` wrote, in place."""
    if packed is None:
        return
    for parameter, name, effect in _effects(model):
        found = packed["effects"].get(f"{parameter}/{name}")
        if found is not None:
            effect.set_levels(found["reference"], found["levels"])
    model.covariate_levels = {name: tuple(order) for name, order in packed["covariates"].items()}


def _effects(model: "Model") -> list[tuple[str, str, CovariateEffect]]:
    """Every declared effect with its parameter and covariate."""
    return [
        (parameter, name, effect)
        for parameter, component in model.components.items()
        if isinstance(component, IndividualParameter)
        for name, effect in component.effects.items()
    ]


def level_counts(batch: Batch, name: str) -> dict[str, int]:
    """Return how many subjects have each level of a text covariate at their first record."""
    levels = batch.categories.get(name, ())
    if not levels:
        return {}
    codes = batch.covariates[name]
    first = codes if codes.dim() == 1 else codes[0]
    return {level: int((first == code).sum()) for code, level in enumerate(levels)}


def coded_covariates(batch: Batch, model: "Model") -> tuple[dict[str, Tensor | Category], dict[str, str]]:
    """Return the covariates of a batch with text coded as the model knows it.

    Args:
        batch: The data.
        model: The model; without levels of its own it takes those of the data.

    Returns:
        Covariate name to ``(subject,)`` or ``(record, subject)``; and covariates that cannot be read, to the reason,
        which is an error only where the model reads them.
    """
    values: dict[str, Tensor | Category] = {}
    refused = {name: f"the table's column {name!r} is no covariate: it {why}" for name, why in batch.unused.items()}
    for name, codes in batch.covariates.items():
        found = batch.categories.get(name)
        known = found if model.covariate_levels is None else model.covariate_levels.get(name)
        if known is None and found is not None:
            refused[name] = f"covariate {name!r} holds text, and held none in the data that the model was fitted to"
        elif known is None or found == known:
            values[name] = codes if known is None else Category(name, known, codes)
        else:
            recoded = _recoded(codes, found, known)
            if isinstance(recoded, str):
                subject = _subject_with(batch, codes, found, recoded)
                refused[name] = (
                    f"covariate {name!r} of subject {subject!r} is {recoded!r}, which the data that the model was "
                    f"fitted to have not; its levels are {quoted(known)}"
                )
            else:
                values[name] = Category(name, known, recoded)
    return values, refused


def _recoded(codes: Tensor, found: tuple[str, ...] | None, known: tuple[str, ...]) -> Tensor | str:
    """Codes in another order of levels, or the first level that is unknown."""
    recoded = torch.zeros_like(codes)
    for code in torch.unique(codes).tolist():
        level = _name(code, found)
        if level not in known:
            return level
        recoded[codes == code] = float(known.index(level))
    return recoded


def _subject_with(batch: Batch, codes: Tensor, found: tuple[str, ...] | None, level: str) -> Any:
    code = next(code for code in torch.unique(codes).tolist() if _name(code, found) == level)
    return batch.subjects[int((codes == code).nonzero()[0, -1])]


def _name(code: float, found: tuple[str, ...] | None) -> str:
    """The name of a level: of a table that holds numbers, the number as it would be written."""
    return str(as_label(code)) if found is None else found[int(code)]

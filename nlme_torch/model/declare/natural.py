"""Parameters as a reader names them, on the natural scale, turned into the values that a density takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlme_torch.data.table.closest import closest
from nlme_torch.errors import FitError
from nlme_torch.model.declare.raw_parameters import coefficient_name, omega_name, raw_name
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock


def values_from_natural(model: Any, params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a model's values with some of them replaced.

    Args:
        model: The model; parameters not named keep its values.
        params: Name to value on the natural scale, as fits print them: ``ka``, ``cl_WT`` (a covariate coefficient),
            ``sigma``, ``omega_ka`` (a variance), ``omega_ka,cl`` (a covariance); or the name of an Omega block to a
            whole matrix, or of a network to the vector of its weights.

    Returns:
        Raw name to ``(1, *shape)``.

    Raises:
        FitError: A name is unknown, a value lies outside its parameter's bounds, or Omega is not positive definite.

    Example:
        >>> import nlme_torch as nlme
        >>> values = values_from_natural(nlme.examples.TheophyllineClosedForm(), {"ka": 2.0, "omega_ka": 0.25})
        >>> round(values["ka.typical"].item(), 4)
        0.6931
    """
    values = parameter_values(model)
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise FitError(f"params must be a dictionary of names and values, such as {{'cl': 2.0}}, got {params!r:.60}.")
    left = dict(params)
    for name, component in model.components.items():
        raw = raw_name(name, component)
        if raw is not None and isinstance(component, PopulationParameter | IndividualParameter) and name in left:
            number = _number(name, left.pop(name))
            if not component.transform.contains(number):
                raise FitError(f"params[{name!r}] = {number:g} is out of bounds: it must be {component.transform}.")
            values[raw] = component.transform.inverse(torch.full_like(values[raw], number))
        if isinstance(component, IndividualParameter):
            for covariate, effect in component.effects.items():
                raw = coefficient_name(name, covariate)
                for position, suffix in enumerate(effect.suffixes):
                    label = f"{name}_{covariate}{suffix}"
                    if label in left:
                        values[raw] = values[raw].clone()
                        values[raw].view(1, -1)[:, position] = _number(label, left.pop(label))
        if raw is not None and isinstance(component, Network | RandomWeights) and name in left:
            values[raw] = _weights(name, left.pop(name), values[raw])
    for block in model.blocks:
        values.update(_covariance(block, left))
    if left:
        near = closest(next(iter(left)), known_names(model))
        guess = f" Did you mean {near!r}?" if near else ""
        raise FitError(
            f"params names {', '.join(map(repr, left))}, which the model has not; it has "
            f"{', '.join(map(repr, known_names(model)))}.{guess}"
        )
    return values


def known_names(model: Any) -> list[str]:
    """Return every name that ``params`` may hold."""
    names: list[str] = []
    for name, component in model.components.items():
        if isinstance(component, PopulationParameter | IndividualParameter | Network | RandomWeights):
            names.append(name)
        if isinstance(component, IndividualParameter):
            names += [
                f"{name}_{covariate}{suffix}"
                for covariate, effect in component.effects.items()
                for suffix in effect.suffixes
            ]
    for block in model.blocks:
        if block.covariance is not None:
            names += list(_entries(block))
            names.append(block.name)
    return names


def _covariance(block: RandomEffectBlock, left: dict[str, Any]) -> dict[str, Tensor]:
    """Raw values of a block's covariance, if anything of it is named; what is named leaves ``left``."""
    entries = _entries(block)
    named = [name for name in entries if name in left]
    covariance = block.distinct
    whole = covariance is not None and block.name in left
    if covariance is None or not (named or whole):
        return {}
    before = covariance.current()
    matrix = torch.as_tensor(np.asarray(left.pop(block.name)), dtype=before.dtype) if whole else before.clone()
    if matrix.shape != before.shape:
        raise FitError(f"params[{block.name!r}] has shape {tuple(matrix.shape)}; Omega has {tuple(before.shape)}.")
    for name in named:
        row, column = entries[name]
        number = _number(name, left.pop(name))
        matrix[row, column] = matrix[column, row] = number
        if len(entries) == 1:
            matrix = number * torch.eye(covariance.size, dtype=before.dtype)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    if not torch.equal(matrix, matrix.mT) or not bool(torch.isfinite(matrix).all()) or eigenvalues[0] <= 0:
        raise FitError(
            f"Omega of {', '.join(block.labels)} is not positive definite (smallest eigenvalue "
            f"{eigenvalues[0].item():.3g}); a variance must exceed 0 and a correlation lie between -1 and 1."
        )
    raw = covariance.maximise(matrix[None])
    parameters = {name: value[None] for name, value in covariance.named_parameters()}
    again = covariance.matrix(raw or parameters)[0]
    if not torch.allclose(again, matrix, rtol=1e-9, atol=1e-12):
        raise FitError(
            f"Omega of {', '.join(block.labels)} cannot take the values given: its structure is "
            f"{type(covariance).__name__}. Declare another one with nlme.Omega or omega=."
        )
    return {omega_name(block, name): value for name, value in raw.items()}


def _entries(block: RandomEffectBlock) -> dict[str, tuple[int, int]]:
    """The names of a block's variances and covariances, and where they stand."""
    if block.kind == "occasion" and not block.repeats:
        return {f"omega_{block.name}": (0, 0)}
    labels = block.distinct_names
    entries = {f"omega_{label}": (index, index) for index, label in enumerate(labels)}
    if block.covariance is not None and not block.covariance.diagonal:
        for row in range(len(labels)):
            entries.update({f"omega_{labels[column]},{labels[row]}": (row, column) for column in range(row)})
    if block.kind == "weights" and block.covariance is not None:
        entries = {f"omega_{block.name}": (0, 0)} if next(block.covariance.parameters(), None) is None else entries
    return entries


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise FitError(f"params[{name!r}] must be a number, got {value!r:.60}.") from None


def _weights(name: str, given: Any, like: Tensor) -> Tensor:
    weights = torch.as_tensor(np.asarray(given), dtype=like.dtype).reshape(1, -1)
    if weights.shape != like.shape:
        raise FitError(f"params[{name!r}] has {weights.shape[1]} weights; the network has {like.shape[1]}.")
    return weights.to(like.device)

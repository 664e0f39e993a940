"""Every scalar parameter of a model by the name and on the scale that a reader expects."""

import torch
from torch import Tensor

from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.raw_parameters import coefficient_name, omega_matrix, raw_name
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.random_effects.covariance import ScalarCovariance


def structural_scalars(model: Model, values: ParameterValues) -> dict[str, Tensor]:
    """Return typical values, covariate coefficients and population parameters on the natural scale.

    Args:
        model: The model.
        values: Raw name to ``(start, *shape)``.

    Returns:
        Name (``ka``, ``cl_WT``, ``cl_RACE[black]``, ``sigma``) to ``(start,)``, in order of declaration.
    """
    scalars: dict[str, Tensor] = {}
    for name, component in model.components.items():
        raw = raw_name(name, component)
        if raw is not None and isinstance(component, PopulationParameter | IndividualParameter):
            scalars[name] = component.natural(values[raw])
        if isinstance(component, IndividualParameter):
            for covariate, effect in component.effects.items():
                beta = values[coefficient_name(name, covariate)].reshape(len(scalars[name]), -1)
                for position, suffix in enumerate(effect.suffixes):
                    scalars[f"{name}_{covariate}{suffix}"] = beta[:, position]
    return scalars


def weight_scalars(model: Model, values: ParameterValues) -> dict[str, Tensor]:
    """Return network weights and low-rank loadings, name (``effect.W1[0,0]``) to ``(start,)``."""
    scalars: dict[str, Tensor] = {}
    for name, component in model.components.items():
        raw = raw_name(name, component)
        if raw is not None and isinstance(component, Network | RandomWeights):
            network = component if isinstance(component, Network) else component.network
            scalars.update(_entries(name, network.weight_names(), values[raw]))
            if isinstance(component, RandomWeights) and component.low_rank:
                loading = values[f"{name}.loading"]
                labels = [f"B[{row},{column}]" for row, column in component.loading_entries()]
                scalars.update(_entries(name, labels, loading))
    return scalars


def omega_scalars(model: Model, values: ParameterValues) -> dict[str, Tensor]:
    """Return variances and covariances of the random effects, name (``omega_ka``, ``omega_ka,cl``) to ``(start,)``."""
    scalars: dict[str, Tensor] = {}
    starts = next(iter(values.values())).shape[0]
    for block in model.blocks:
        if block.covariance is None:
            continue
        matrix = omega_matrix(block, values).expand(starts, -1, -1)
        common = isinstance(block.covariance, ScalarCovariance) or not block.covariance.free()
        if block.kind in ("weights", "occasion") and common and not block.repeats:
            scalars[f"omega_{block.name}"] = matrix[:, 0, 0]
            continue
        diagonal = block.covariance.diagonal or (block.kind != "individual" and not block.repeats)
        size = len(block.distinct_names)
        scalars.update(_matrix_scalars(matrix[:, :size, :size], block.distinct_names, diagonal))
    return scalars


def _matrix_scalars(matrix: Tensor, labels: tuple[str, ...], diagonal: bool) -> dict[str, Tensor]:
    """Variances and, unless the matrix is diagonal, covariances by name."""
    scalars = {}
    for row, label in enumerate(labels):
        scalars[f"omega_{label}"] = matrix[:, row, row]
        if not diagonal:
            scalars.update({f"omega_{labels[column]},{label}": matrix[:, row, column] for column in range(row)})
    return scalars


def all_scalars(model: Model, values: ParameterValues) -> dict[str, Tensor]:
    """Return every scalar parameter: structural, Omega, weights."""
    return {**structural_scalars(model, values), **omega_scalars(model, values), **weight_scalars(model, values)}


def _entries(name: str, labels: list[str], raw: Tensor) -> dict[str, Tensor]:
    return {f"{name}.{label}": raw[:, index] for index, label in enumerate(labels)}


def scalar_matrix(scalars: dict[str, Tensor]) -> Tensor:
    """Stack scalars into ``(start, scalar)``."""
    return torch.stack(list(scalars.values()), dim=-1)

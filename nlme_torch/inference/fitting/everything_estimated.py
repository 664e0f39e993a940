"""One table of everything that a fit has estimated: parameters, coefficients, variances, covariances, networks."""

import math
from typing import Any

import pandas as pd

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.fitting.tables import coefficient_of_variation, parameter_table
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.scalars import omega_scalars
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.transforms import Log

STRUCTURAL = ("typical value", "coefficient", "parameter")
"""Kinds of rows that stand in the first table of a printed fit."""


def everything_estimated(model: Model, shrinkage: pd.Series) -> pd.DataFrame:
    """Return one row for everything in a model that has a value, on its natural scale.

    Args:
        model: The model at its estimates.
        shrinkage: Eta-shrinkage by effect label.

    Returns:
        Indexed by the names that ``with_values`` takes. Columns: estimate, fixed, bsv_cv_percent and bsv_sd (of a
        typical value and of its variance: CV and standard deviation between subjects, or occasions), correlation (of a
        covariance), shrinkage_percent, size (number of weights of a network, whose estimate is NaN), kind.
    """
    table = parameter_table(model, shrinkage)
    table["kind"] = [_kind(model, name) for name in table.index]
    rows = {**_variances(model, shrinkage), **_networks(model)}
    if not rows:
        return table.assign(correlation=math.nan, size=pd.array([pd.NA] * len(table), dtype="Int64"))[_COLUMNS]
    whole = pd.concat([table, pd.DataFrame.from_dict(rows, orient="index")]).reindex(columns=_COLUMNS)
    return whole.astype({"fixed": bool, "size": "Int64"})


_COLUMNS = ["estimate", "fixed", "bsv_cv_percent", "bsv_sd", "correlation", "shrinkage_percent", "size", "kind"]


def _kind(model: Model, name: str) -> str:
    component = model.components.get(name)
    if component is None:
        return "coefficient"
    return "typical value" if isinstance(component, IndividualParameter) else "parameter"


def _variances(model: Model, shrinkage: pd.Series) -> dict[str, dict[str, Any]]:
    """Variances and covariances of random effects by name; those of single weights have no row."""
    raw = parameter_values(model)
    weights = tuple(f"omega_{name}." for name, c in model.components.items() if isinstance(c, RandomWeights))
    scalars = {name: value for name, value in omega_scalars(model, raw).items() if not name.startswith(weights)}
    found = {name: float(value[0]) for name, value in scalars.items()}
    try:
        free = set(FreeScalars(model, raw).names)
    except FitError:
        free = set()
    rows: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        row: dict[str, Any] = {"estimate": value, "fixed": name not in free}
        if "," in name:
            first, second = name.removeprefix("omega_").split(",")
            product = found[f"omega_{first}"] * found[f"omega_{second}"]
            row |= {"kind": "covariance", "correlation": value / math.sqrt(product) if product > 0 else math.nan}
        else:
            owner = name.removeprefix("omega_")
            occasion = owner.endswith("_occasion")
            component = model.components.get(owner.removesuffix("_occasion"))
            row |= {"kind": "variance between occasions" if occasion else "variance", "bsv_sd": math.sqrt(value)}
            if isinstance(getattr(component, "transform", None), Log):
                row["bsv_cv_percent"] = coefficient_of_variation(value)
            if f"eta_{owner}" in shrinkage:
                row["shrinkage_percent"] = 100 * float(shrinkage[f"eta_{owner}"])
        rows[name] = row
    return rows


def _networks(model: Model) -> dict[str, dict[str, Any]]:
    """Networks and the number of their weights."""
    rows: dict[str, dict[str, Any]] = {}
    for name, component in model.components.items():
        if isinstance(component, Network | RandomWeights):
            network = component.network if isinstance(component, RandomWeights) else component
            weights = [parameter for parameter in component.parameters() if parameter.requires_grad]
            size = network.weights.numel()
            rows[name] = {"estimate": math.nan, "fixed": not weights, "size": size, "kind": "network"}
    return rows

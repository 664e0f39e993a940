"""What a model consists of, as one printable table."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.model.declare.values import free_scalar_count
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter, Latent
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.priors import describe_prior
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

SHOWN = 6
"""Variances of a block that are written out."""


@dataclass(frozen=True)
class ModelSummary:
    """A model in words and tables; prints well in a terminal and in a notebook.

    Attributes:
        title: Class name and kind of model.
        lines: One line each on states, outcomes, effects and counts.
        parameters: One row per declared component.
        effects: One row per block of random effects.
    """

    title: str
    lines: tuple[str, ...]
    parameters: pd.DataFrame
    effects: pd.DataFrame

    def __str__(self) -> str:
        tables = [self.parameters.to_string(index=False)]
        if len(self.effects):
            tables.append(self.effects.to_string(index=False))
        return "\n".join([self.title, *self.lines, "", "\n\n".join(tables)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = "<br>".join(map(escape, self.lines))
        tables = [self.parameters] + ([self.effects] if len(self.effects) else [])
        return f"<b>{escape(self.title)}</b><br>{body}" + "".join(table.to_html(index=False) for table in tables)


def summary(model: Any, written: Sequence[str], data: "Dataset | None" = None) -> ModelSummary:
    """Describe a model: states, parameters, effects, shapes, priors.

    Args:
        model: The model.
        written: The methods that its class wrote.
        data: A data set, for the number of subjects and observations.

    Returns:
        A printable summary.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.TheophyllineClosedForm().summary().lines[0]
        'closed form (predict)'
    """
    kind = " (compartments in closed form)" if model.has_compartments else ""
    lines = [f"states: {', '.join(model.states)}{kind}" if model.has_dynamics else "closed form (predict)"]
    if data is not None:
        lines.append(
            f"data: {data.n_subjects} subjects, {data.n_observations} observations of {', '.join(data.outputs)}; "
            f"covariates: {', '.join(_covariates(data)) or 'none'}"
        )
        if data.start is not None:
            lines.append(f"subjects begin at {data.start:g}, or at their first row if that is earlier")
        lines += _doses(data)
    lines.append(f"written in {', '.join(written)}")
    lines.append(f"{model.n_effects} random effects per subject, {free_scalar_count(model)} estimated parameters")
    parameters = pd.DataFrame([_row(name, component) for name, component in model.components.items()])
    effects = pd.DataFrame(
        [
            {
                "block": block.name,
                "effects": block.size,
                "of": ", ".join(block.owners),
                "Omega": "I"
                if block.covariance is None
                else type(block.covariance).__name__.removesuffix("Covariance"),
                "variances": "1" if block.covariance is None else _variances(block),
                "estimated": block.covariance is not None and block.covariance.free(),
            }
            for block in model.blocks
        ]
    )
    return ModelSummary(type(model).__name__, tuple(lines), parameters.fillna(""), effects)


def _variances(block: RandomEffectBlock) -> str:
    """The variances of a block, one number where they are equal, and how many there are where they are many."""
    assert block.covariance is not None
    values = [f"{value:.3g}" for value in block.covariance.current().diagonal().tolist()]
    if len(set(values)) == 1:
        return values[0]
    return ", ".join(values) if len(values) <= SHOWN else f"{', '.join(values[:SHOWN])}, ..."


def _covariates(data: "Dataset") -> list[str]:
    """Names of the covariates, with the rule between records where they change."""
    rules = data.batch().interpolation
    return [f"{name} (changes, {rules[name]})" if name in rules else name for name in data.covariate_names]


def _doses(data: "Dataset") -> list[str]:
    """One line on the doses, if there are any."""
    doses = data.batch().doses
    if doses is None:
        return []
    names = {kind: kind.name.lower().replace("_", " ") for kind in DoseKind if kind != DoseKind.NONE}
    counts = {text: int((doses.kind == kind).sum()) for kind, text in names.items()}
    parts = [f"{count} {text}" for text, count in counts.items() if count]
    parts += [f"{int((doses.steady_state > 0).sum())} at steady state"] if bool((doses.steady_state > 0).any()) else []
    return [f"doses: {', '.join(parts)}; {int(doses.reset.sum())} resets"]


def _row(name: str, component: object) -> dict[str, object]:
    row: dict[str, object] = {"parameter": name, "kind": type(component).__name__}
    if isinstance(component, PopulationParameter | IndividualParameter):
        row |= {
            "initial": f"{component.value.item():.4g}",
            "range": str(component.transform),
            "prior": describe_prior(component.prior),
            "fixed": "yes" if component.fixed else "",
        }
        if isinstance(component, IndividualParameter):
            row["covariates"] = ", ".join(effect.extra_repr() for effect in component.effects.values())
            if component.occasions is not None:
                row["occasions"] = component.occasions.count
    elif isinstance(component, Latent):
        row |= {"initial": f"{component.size} x N(0, 1)"}
    elif isinstance(component, Network):
        row |= {
            "initial": component.extra_repr() or f"{len(component.weights)} weights",
            "prior": describe_prior(component.prior),
        }
    elif isinstance(component, RandomWeights):
        row |= {
            "initial": f"{component.network.extra_repr()}, {component.omega}",
            "prior": describe_prior(component.network.prior),
        }
    return row

"""A fit as the text that a terminal shows."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nlme_torch.inference.fitting.record import FitRecord
from nlme_torch.inference.fitting.tables import variances_of
from nlme_torch.inference.uncertainty.standard_errors import Uncertainty
from nlme_torch.model.declare.model import Model
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter, Latent
from nlme_torch.model.random_effects.covariance import PartlyFixedCovariance
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock


def render(fit: FitRecord) -> str:
    """Return a fit as the text that a terminal shows."""
    lines = [
        f"{type(fit.model).__name__} fitted to {fit.data.n_subjects} subjects, {fit.data.n_observations} "
        f"observations, in {fit.seconds:.1f} s",
        f"{fit.log_likelihood}",
        f"AIC {fit.aic:.2f}  BIC {fit.bic:.2f}  ({fit.n_parameters} parameters)",
        f"solved by {_solved_by(fit)}",
    ]
    if fit.log_prior:
        penalised = fit.minus2ll - 2 * fit.log_prior
        lines.append(f"with priors: penalised objective {penalised:.3f} (not a likelihood)")
    table = fit.parameters
    shown = table[table["kind"].isin(("typical value", "coefficient", "parameter"))]
    lines += ["", _parameter_text(shown, _between_occasions(table)), *_reference_lines(fit.model), *_latent_lines(fit)]
    if fit.uncertainty is not None:
        lines += uncertainty_lines(fit.uncertainty, list(shown.index))
    networks = _network_lines(fit)
    if networks:
        lines += ["", *networks]
    if fit.left_out is not None:
        lines.append(str(fit.left_out))
    elif fit.hold_out is not None:
        lines.append(f"hold-out not judged: {fit.hold_out}")
    correlated = [block for block in fit.model.blocks if block.covariance is not None and not block.covariance.diagonal]
    for block in correlated:
        if block.kind != "weights":
            names = list(block.labels)[: len(block.distinct_names)]
            what = ", ".join(block.distinct_names)
            lines += ["", f"correlations of {what}:", fit.correlation.loc[names, names].round(3).to_string()]
            lines += _given_lines(block)
    lines += ["", fit.termination]
    unasked = () if fit.left_out is None else fit.left_out.warnings
    lines += [f"warning: {message}" for message in (*fit.warnings, *unasked)]
    return "\n".join(lines)


def _given_lines(block: RandomEffectBlock) -> list[str]:
    """Which entries of a partly fixed Omega are given."""
    covariance, names = block.distinct, block.distinct_names
    if not isinstance(covariance, PartlyFixedCovariance):
        return []
    matrix, free = covariance.current(), set(covariance.positions())
    given = [
        f"omega_{names[i] if i == j else f'{names[j]},{names[i]}'} = {matrix[i, j]:g}"
        for i in range(covariance.size)
        for j in range(i + 1)
        if (i, j) not in free
    ]
    return [f"given, not estimated: {'; '.join(given)}"]


def _reference_lines(model: Model) -> list[str]:
    """The levels of text covariates at which the typical values hold."""
    return [
        f"reference of {name}_{covariate}: {effect.reference}"
        for name, component in model.components.items()
        if isinstance(component, IndividualParameter)
        for covariate, effect in component.effects.items()
        if effect.reference is not None
    ]


def _solved_by(fit: FitRecord) -> str:
    closed_form = fit.model.has_compartments or not fit.model.has_dynamics
    return "closed form" if closed_form else str(fit.solver)


def _between_occasions(table: pd.DataFrame) -> dict[str, str]:
    """Variation between occasions by parameter, as it is printed."""
    rows = table[table["kind"] == "variance between occasions"]
    names = [name.removeprefix("omega_").removesuffix("_occasion") for name in rows.index]
    spreads = zip(names, rows["bsv_cv_percent"].tolist(), rows["bsv_sd"].tolist(), strict=True)
    return {name: _spread(cv, sd) for name, cv, sd in spreads}


def _latent_lines(fit: FitRecord) -> list[str]:
    """The effects of latents, whose variance is 1, with their shrinkage."""
    lines = []
    for name, component in fit.model.components.items():
        if isinstance(component, Latent):
            labels = [label for block in fit.model.blocks if block.owners == (name,) for label in block.labels]
            lost = ", ".join(f"{100 * fit.shrinkage[label]:.1f}" for label in labels)
            lines.append(f"latent {name}: {component.size} x N(0, 1), shrinkage {lost} %")
    return lines


def _spread(cv: float, sd: float) -> str:
    """A CV in per cent where there is one, else a standard deviation."""
    if math.isfinite(cv):
        return f"{cv:.1f}" if cv < 1e5 else f"{cv:.3g}"
    return f"sd {sd:.3g}" if math.isfinite(sd) else ""


def _parameter_text(table: pd.DataFrame, between_occasions: dict[str, str]) -> str:
    shown = pd.DataFrame(
        {
            "Est.": [
                f"{value:.5g}" + (" (fixed)" if fixed else "")
                for value, fixed in zip(table.estimate, table.fixed, strict=True)
            ],
            **_error_text(table),
            "BSV(CV%)": [_spread(cv, sd) for cv, sd in zip(table.bsv_cv_percent, table.bsv_sd, strict=True)],
            **({"BOV(CV%)": [between_occasions.get(name, "") for name in table.index]} if between_occasions else {}),
            "Shrink(SD)%": [f"{value:.1f}" if math.isfinite(value) else "" for value in table.shrinkage_percent],
        },
        index=table.index,
    )
    return shown.to_string()


def _error_text(table: pd.DataFrame) -> dict[str, list[str]]:
    """SE, %RSE and confidence limits as text, empty where there is none."""
    if "se" not in table:
        return {}
    known = zip(table.se, table.rse_percent, table.lower, table.upper, strict=True)
    rows = [
        (f"{se:.3g}", f"{rse:.3g}", f"{lower:.4g} to {upper:.4g}") if math.isfinite(se) else ("", "", "")
        for se, rse, lower, upper in known
    ]
    return {name: [row[place] for row in rows] for place, name in enumerate(("SE", "%RSE", "CI"))}


def uncertainty_lines(uncertainty: Uncertainty, shown: Sequence[str], most: int = 12) -> list[str]:
    """Return the lines of a fit's text that standard errors add below the parameters.

    Args:
        uncertainty: The standard errors.
        shown: Parameters whose standard errors stand in the table above.
        most: Scalars up to which the correlation matrix is shown.
    """
    others = uncertainty.table.drop(index=[name for name in shown if name in uncertainty.table.index])
    lines = []
    if len(others):
        text = pd.DataFrame({"Est.": [f"{x:.5g}" for x in others.estimate], **_error_text(others)}, index=others.index)
        lines += ["", text.to_string()]
    lines += ["", f"{uncertainty.headline}; {100 * uncertainty.level:g} % confidence limits"]
    correlation = uncertainty.correlation
    if len(correlation) <= most and bool(correlation.notna().to_numpy().all()):
        below = correlation.map("{:.2f}".format).where(np.tri(len(correlation), dtype=bool), "")
        lines += ["correlations of the estimates:", below.to_string()]
    return lines + [f"warning: {message}" for message in uncertainty.warnings]


def _network_lines(fit: FitRecord) -> list[str]:
    lines = []
    variances = variances_of(fit.model)
    for name, component in fit.model.components.items():
        if isinstance(component, Network):
            lines.append(
                f"network {name}: {component.extra_repr()}, |w| max {component.weights.abs().max().item():.2f}"
            )
        elif isinstance(component, RandomWeights):
            labels = [label for label in fit.model.effect_labels if label.startswith(f"{name}.")]
            deviations = [math.sqrt(variances[label]) for label in labels]
            spread = f"{min(deviations):.3g}" + (
                f" to {max(deviations):.3g}" if max(deviations) > 1.001 * min(deviations) else ""
            )
            lines.append(
                f"network {name}: {component.network.extra_repr()}, subject-specific; sd of its {len(labels)} effects "
                f"{spread}, "
                f"mean shrinkage {100 * fit.shrinkage[labels].mean():.0f} %"
            )
    return lines

"""The distribution of one observation."""

import numpy as np
from matplotlib.axes import Axes

from nlme_torch.diagnostics.predictive_density import PredictiveDensity, predictive_density
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, label, single, with_units
from nlme_torch.plots.style import INDIVIDUAL, OBSERVED, TYPICAL, styled


@styled
def observation(
    fit: Fit | PredictiveDensity,
    row: int | None = None,
    outcome: str | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the population and individual predictive densities at one observation, with the datum.

    Args:
        fit: A fit, or a density that :func:`nlme_torch.diagnostics.predictive_density` made.
        row: 0-based position of the observation in the user's table (with a fit).
        outcome: Name of the outcome; needed only where a row has several.
        draws: Draws in either mixture.
        seed: Seed of the draws from N(0, Omega).
        labels: What to write for the outcome and ``"time"``.
        ax: Axes to draw in.

    Returns:
        The axes.

    Raises:
        DataError: Nothing is observed at the row, or the outcome must be named.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> nlme.plots.observation(fit, 3).get_xlabel()
        'conc'
    """
    if not isinstance(fit, PredictiveDensity):
        check_fit("observation", fit)
    labels = with_units(fit, labels)
    if isinstance(fit, PredictiveDensity):
        at = fit
    elif row is None:
        raise DataError("say which observation: row=, its 0-based position in the table (fit.predictions['row']).")
    else:
        at = predictive_density(fit, row, outcome, draws=draws, seed=seed)
    axes = single(ax)
    for column, color, who, pit in (
        ("population", TYPICAL, "new subject", at.pit_population),
        ("individual", INDIVIDUAL, f"subject {at.id}", at.pit_individual),
    ):
        text = f"{who}: PIT {pit:.3f}"
        if at.discrete:
            shift = -0.2 if column == "population" else 0.2
            axes.bar(at.table["value"] + shift, at.table[column], width=0.4, color=color, alpha=0.6, label=text)
        else:
            axes.plot(at.table["value"], at.table[column], color=color, label=text)
            axes.fill_between(at.table["value"], at.table[column], color=color, alpha=0.15, linewidth=0)
    axes.axvline(at.observed, color=OBSERVED, linewidth=1.2, label=f"observed {at.observed:.4g}")
    axes.plot([at.observed], [0.0], "^", color=OBSERVED, markersize=7, clip_on=False, zorder=5)
    axes.set_ylim(bottom=0)
    axes.set_xlim(*_limits(at))
    axes.set_xlabel(label(at.outcome, labels))
    axes.set_ylabel("probability" if at.discrete else "predictive density")
    axes.set_title(f"subject {at.id}, {label('time', labels)} = {at.time:g}")
    axes.legend()
    return axes


def _limits(at: PredictiveDensity) -> tuple[float, float]:
    """Where either density is worth seeing, and the datum."""
    value = at.table["value"].to_numpy()
    heights = at.table[["population", "individual"]].to_numpy()
    seen = value[(heights > 2e-3 * heights.max(0)).any(1)]
    low, high = min(seen.min(), at.observed), max(seen.max(), at.observed)
    margin = 0.5 if at.discrete else 0.03 * (high - low)
    inside = float(np.clip(low - margin, min(value.min(), low), None)) if not at.discrete else low - margin
    return inside, high + margin

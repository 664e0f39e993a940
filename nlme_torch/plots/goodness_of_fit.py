"""The field's standard look at residuals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from nlme_torch.diagnostics.residuals import observed_rows, residual_quantiles
from nlme_torch.diagnostics.trend import trend
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, label, panels, with_units
from nlme_torch.plots.scatter import agreement, scatter
from nlme_torch.plots.style import BLACK, GREY, INDIVIDUAL, TYPICAL, styled


@styled
def goodness_of_fit(fit: Fit, outcome: str | None = None, *, log: bool = False, labels: Labels = None) -> Figure:
    """Plot observations against predictions, and weighted residuals against what they should be.

    Six panels for every outcome: DV against PRED and against IPRED with the line of identity; IWRES against
    time and against IPRED with the lines 0 and +-1.96; normal quantiles of IWRES with a 95 % envelope;
    histogram of IWRES beside N(0, 1). The smooth line is a local linear trend, which should follow the line
    of identity or zero.

    Args:
        fit: A fit.
        outcome: Name of an outcome; all, one below the other, if None.
        log: Whether observations and predictions have logarithmic axes; what is not positive is left out.
        labels: What to write for ``"time"`` and for outcomes.

    Returns:
        The figure.

    Raises:
        DataError: The outcome is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.plots.goodness_of_fit(fit).axes)
        6
    """
    check_fit("goodness_of_fit", fit)
    labels = with_units(fit, labels)
    names = list(fit.data.outputs) if outcome is None else [outcome]
    tables = {name: observed_rows(fit, name) for name in names}
    figure, axes = panels(6 * len(names), 3, width=2.9, height=2.5)
    for position, name in enumerate(names):
        own, table = axes[6 * position : 6 * position + 6], tables[name]
        shown = label(name, labels)
        agreement(own[0], table["PRED"], table["DV"], "population prediction, PRED", f"observed {shown}", log)
        agreement(own[1], table["IPRED"], table["DV"], "individual prediction, IPRED", f"observed {shown}", log)
        _residuals(own[2], table, "time", label("time", labels))
        _residuals(own[3], table, "IPRED", "individual prediction, IPRED", log)
        _quantiles(own[4], residual_quantiles(fit, name))
        _histogram(own[5], table["IWRES"].to_numpy())
    return figure


def _residuals(ax: Axes, table: pd.DataFrame, column: str, x_text: str, log: bool = False) -> None:
    ax.axhline(0.0, color=BLACK, linewidth=0.9)
    for bound in (-1.96, 1.96):
        ax.axhline(bound, color=GREY, linewidth=0.8, linestyle="--")
    if log:
        table = table[table[column] > 0]
        ax.set_xscale("log")
    scatter(ax, table[column], table["IWRES"])
    line = trend(np.log10(table[column]) if log else table[column], table["IWRES"])
    ax.plot(10 ** line["x"] if log else line["x"], line["y"], color=TYPICAL, linewidth=1.5)
    reach = max(2.5, 1.08 * float(table["IWRES"].abs().max()))
    ax.set_ylim(-reach, reach)
    ax.set_xlabel(x_text)
    ax.set_ylabel("IWRES")


def _quantiles(ax: Axes, table: pd.DataFrame) -> None:
    ax.fill_between(table["theoretical"], table["lower"], table["upper"], color=GREY, alpha=0.18, linewidth=0)
    ax.plot(table["theoretical"], table["theoretical"], color=BLACK, linewidth=0.9)
    scatter(ax, table["theoretical"], table["IWRES"])
    ax.set_xlabel("standard normal quantile")
    ax.set_ylabel("IWRES")


def _histogram(ax: Axes, residuals: np.ndarray) -> None:
    residuals = residuals[np.isfinite(residuals)]
    bins = min(max(int(np.sqrt(len(residuals)) * 1.5), 5), 40)
    ax.hist(residuals, bins=bins, density=True, color=INDIVIDUAL, alpha=0.45, edgecolor="white", linewidth=0.5)
    reach = max(3.5, float(np.abs(residuals).max()))
    grid = np.linspace(-reach, reach, 200)
    ax.plot(grid, stats.norm.pdf(grid), color=BLACK, linewidth=1.2, label="N(0, 1)")
    ax.set_xlabel("IWRES")
    ax.set_ylabel("density")
    ax.legend()

"""The panel of conditional residuals that reports of population analyses hold."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from nlme_torch.diagnostics.residuals import known_outcomes
from nlme_torch.diagnostics.trend import trend
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, label, panels, with_units
from nlme_torch.plots.scatter import agreement, scatter
from nlme_torch.plots.style import BLACK, GREY, TYPICAL, styled


@styled
def residual_panel(
    fit: Fit,
    outcome: str | None = None,
    *,
    log: bool = False,
    simulations: int = 1000,
    seed: int = 0,
    labels: Labels = None,
) -> Figure:
    """Plot observations against predictions, and conditional and simulated residuals against what they should be.

    Six panels for every continuous outcome: DV against PRED and against IPRED with the line of identity; CWRES against
    time and against PRED with the lines 0 and +-1.96; the absolute value of IWRES against IPRED, whose smooth line is
    flat at 0.8 where the error model is right; normal quantiles of NPDE with a 95 % envelope. The smooth line is a
    local linear trend.

    Args:
        fit: A fit.
        outcome: Name of an outcome; all continuous ones, one below the other, if None.
        log: Whether observations and predictions have logarithmic axes; what is not positive is left out.
        simulations: For NPDE.
        seed: Of the simulations.
        labels: What to write for ``"time"`` and for outcomes.

    Returns:
        The figure.

    Raises:
        DataError: The outcome is unknown, or has no such residuals.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.plots.residual_panel(fit, simulations=100).axes)
        6
    """
    check_fit("residual_panel", fit)
    labels = with_units(fit, labels)
    table = fit.table(simulations=simulations, seed=seed)
    names = known_outcomes(fit, table, outcome)
    figure, axes = panels(6 * len(names), 3, width=2.9, height=2.5)
    for position, name in enumerate(names):
        own = table[(table["OUTCOME"] == name) & table["DV"].notna()]
        shown, time = label(name, labels), label("time", labels)
        pred, ipred = "population prediction, PRED", "individual prediction, IPRED"
        first = axes[6 * position : 6 * position + 6]
        for ax, column, text in ((first[0], "PRED", pred), (first[1], "IPRED", ipred)):
            known = own[(own.get("CENS", 0) == 0) & own[column].notna()]
            agreement(ax, known[column], known["DV"], text, f"observed {shown}", log)
        _against(first[2], own["TIME"], own["CWRES"], time, "CWRES")
        _against(first[3], own["PRED"], own["CWRES"], pred, "CWRES", log)
        _against(first[4], own["IPRED"], own["IWRES"].abs(), ipred, "|IWRES|", log)
        _quantiles(first[5], own["NPDE"] if "NPDE" in own else own["CWRES"], "NPDE" if "NPDE" in own else "CWRES")
    return figure


def _against(ax: Axes, x: pd.Series, y: pd.Series, x_text: str, y_text: str, log: bool = False) -> None:
    known = x.notna() & y.notna() & ((x > 0) | (not log))
    x, y = x[known], y[known]
    if log:
        ax.set_xscale("log")
    scatter(ax, x, y)
    line = trend(np.log10(x) if log else x, y)
    ax.plot(10 ** line["x"] if log else line["x"], line["y"], color=TYPICAL, linewidth=1.5)
    reach = max(2.5, 1.08 * float(y.abs().max())) if len(y) else 2.5
    if y_text.startswith("|"):
        # the mean of the absolute value of a standard normal variable
        ax.axhline(np.sqrt(2 / np.pi), color=BLACK, linewidth=0.9)
        ax.set_ylim(0, reach)
    else:
        ax.axhline(0.0, color=BLACK, linewidth=0.9)
        for bound in (-1.96, 1.96):
            ax.axhline(bound, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_ylim(-reach, reach)
    ax.set_xlabel(x_text)
    ax.set_ylabel(y_text)


def _quantiles(ax: Axes, residuals: pd.Series, text: str) -> None:
    values = np.sort(residuals.dropna().to_numpy())
    count = len(values)
    rank = np.arange(1, count + 1)
    theoretical = stats.norm.ppf((rank - 0.5) / max(count, 1))
    low, high = (stats.norm.ppf(stats.beta.ppf(tail, rank, count + 1 - rank)) for tail in (0.025, 0.975))
    ax.fill_between(theoretical, low, high, color=GREY, alpha=0.18, linewidth=0)
    ax.plot(theoretical, theoretical, color=BLACK, linewidth=0.9)
    scatter(ax, theoretical, values)
    ax.set_xlabel("standard normal quantile")
    ax.set_ylabel(text)

"""The path of an iterative fit."""

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nlme_torch.diagnostics.convergence import convergence_table
from nlme_torch.errors import FitError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, fitting, label, legend_below, panels
from nlme_torch.plots.style import BLACK, CYCLE, GREY, INDIVIDUAL, styled

SHADES = ("#D4D4D4", "#ECECEC", "#FFFFFF", "#E3ECF4")
TITLES = {"complete_loglik": "log p(y, phi)"}


@styled
def convergence(fit: Fit, columns: int = 4, *, labels: Labels = None) -> Figure:
    """Plot every parameter over the iterations, the phases of the method shaded where there are several.

    Structural parameters and variances have a panel each; the weights of a network, and their variances, are
    faint lines in one panel; acceptance rates and the complete-data log-likelihood follow.

    Args:
        fit: A fit by an iterative method.
        columns: Panels in a row.
        labels: What to write above a panel, by parameter, e.g. ``{"cl": "CL (L/h)"}``.

    Returns:
        The figure.

    Raises:
        FitError: The fit kept no trace.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.plots.convergence(fit).axes)
        9
    """
    check_fit("convergence", fit)
    if not len(fit.trace):
        raise FitError("the fit kept no trace of its iterations.")
    table = convergence_table(fit)
    groups = list(table.groupby(["kind", "group"], sort=False))
    order = ["structural", "omega", "weights", "criterion", "acceptance"]
    groups.sort(key=lambda entry: order.index(str(entry[0][0])))
    figure, axes = panels(len(groups), columns, height=1.75, sharex=True)
    phases = _phases(fit.trace)
    for ax, ((kind, group), part) in zip(axes, groups, strict=True):
        for shade, (_, first, last) in zip(_shades(phases), phases, strict=True) if len(phases) > 1 else ():
            ax.axvspan(first - 0.5, last + 0.5, color=shade, linewidth=0, zorder=0)
        ax.grid(False)
        _lines(ax, str(kind), part, labels)
        title = _title(str(kind), str(group), part["parameter"].nunique(), labels)
        ax.set_title(title, fontsize=fitting(title, 2.2, 9.5))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.margins(x=0)
        ax.set_xlim(0.5, fit.trace["iteration"].max() + 0.5)
    for ax in axes[-min(columns, len(axes)) :]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("iteration")
    entries: dict[str, Artist] = {}
    if len(phases) > 1:
        handles = [Patch(facecolor=shade, edgecolor=GREY, linewidth=0.5) for shade in _shades(phases)]
        entries |= dict(zip((phase for phase, _, _ in phases), handles, strict=True))
    for ax, ((kind, _), _) in zip(axes, groups, strict=True):
        if kind == "acceptance":
            entries |= {f"acceptance: {line.get_label()}": line for line in ax.lines}
    legend_below(figure, entries)
    return figure


def _lines(ax: Axes, kind: str, part: pd.DataFrame, labels: Labels) -> None:
    several = part["parameter"].nunique() > 1
    for index, (name, line) in enumerate(part.groupby("parameter", sort=False)):
        if kind == "acceptance":
            text = str(name).removeprefix("acceptance_")
            color = CYCLE[index % len(CYCLE)]
            ax.plot(line["iteration"], line["value"], color=color, linewidth=0.9, label=text)
        elif several:
            ax.plot(line["iteration"], line["value"], color=INDIVIDUAL, linewidth=0.7, alpha=0.45)
        else:
            ax.plot(
                line["iteration"],
                line["value"],
                color=GREY if kind == "criterion" else INDIVIDUAL,
                linewidth=1.2,
            )
            if kind != "criterion":
                ax.axhline(line["value"].iloc[-1], color=BLACK, linewidth=0.6, linestyle=":", zorder=1)
    if kind == "acceptance":
        ax.set_ylim(0, 1)


def _title(kind: str, group: str, count: int, labels: Labels) -> str:
    if labels and group in labels:
        return label(group, labels)
    if kind == "omega":
        what = group.removeprefix("omega_")
        covariance = "," in what
        if count > 1:
            return f"{what}: {count} variances"
        return f"covariance of {what.replace(',', ' and ')}" if covariance else f"variance of {what}"
    if kind == "weights":
        return f"{group}: {count} weights"
    return TITLES.get(group, group)


def _phases(trace: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Return the phases in order with their first and last iteration."""
    if "phase" not in trace:
        return []
    runs = (trace["phase"] != trace["phase"].shift()).cumsum()
    return [
        (str(part["phase"].iloc[0]), int(part["iteration"].iloc[0]), int(part["iteration"].iloc[-1]))
        for _, part in trace.groupby(runs, sort=False)
    ]


def _shades(phases: list[tuple[str, int, int]]) -> list[str]:
    return [SHADES[index % len(SHADES)] for index in range(len(phases))]

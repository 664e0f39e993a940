"""The path of an iterative fit."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nlme_torch.diagnostics.convergence import convergence_table
from nlme_torch.errors import FitError
from nlme_torch.inference import Fit
from nlme_torch.plots.figures import Labels, label, panels, shared_legend
from nlme_torch.plots.style import BLACK, CYCLE, GREY, INDIVIDUAL, styled

SHADES = ("#D9D9D9", "#F0F0F0", "#FFFFFF", "#E8EEF4")
TITLES = {"complete_loglik": "log p(y, phi)"}


@styled
def convergence(fit: Fit, columns: int = 4, *, labels: Labels = None) -> Figure:
    """Plot every parameter over the iterations, the phases of the method shaded.

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
    if not len(fit.trace):
        raise FitError("the fit kept no trace of its iterations.")
    table = convergence_table(fit)
    groups = list(table.groupby(["kind", "group"], sort=False))
    order = ["structural", "omega", "weights", "criterion", "acceptance"]
    groups.sort(key=lambda entry: order.index(str(entry[0][0])))
    figure, axes = panels(len(groups), columns, height=1.75, sharex=True)
    phases = _phases(fit.trace)
    for ax, ((kind, group), part) in zip(axes, groups, strict=True):
        for shade, (phase, first, last) in zip(_shades(phases), phases, strict=True):
            ax.axvspan(first - 0.5, last + 0.5, color=shade, linewidth=0, zorder=0, label=phase)
        ax.grid(False)
        _lines(ax, str(kind), part, labels)
        ax.set_title(_title(str(kind), str(group), part["parameter"].nunique(), labels))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.margins(x=0)
        ax.set_xlim(0.5, fit.trace["iteration"].max() + 0.5)
    for ax in axes[-min(columns, len(axes)) :]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("iteration")
    shared_legend(figure, axes)
    return figure


def _lines(ax: Axes, kind: str, part: pd.DataFrame, labels: Labels) -> None:
    several = part["parameter"].nunique() > 1
    for index, (name, line) in enumerate(part.groupby("parameter", sort=False)):
        if kind == "acceptance":
            color = CYCLE[index % len(CYCLE)]
            ax.plot(line["iteration"], line["value"], color=color, linewidth=0.9)
            text = str(name).removeprefix("acceptance_")
            ax.annotate(
                text, (1.0, line["value"].iloc[-1]), xycoords=("axes fraction", "data"), xytext=(2, 0),
                textcoords="offset points", fontsize=6.5, color=color, va="center", annotation_clip=False,
            )  # fmt: skip
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
        text = f"cov({what.replace(',', ', ')})" if covariance else f"variance of {what}"
        return f"{text}: {count} effects" if count > 1 else text
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

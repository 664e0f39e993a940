"""Learned networks in function space."""

import numpy as np
from matplotlib.axes import Axes

from nlme_torch.diagnostics.network_context import Transform
from nlme_torch.diagnostics.network_function import NetworkFunction, network_function, network_trajectories
from nlme_torch.diagnostics.network_inputs import Inputs
from nlme_torch.errors import ModelError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, label, legend, single, with_units
from nlme_torch.plots.style import CYCLE, INDIVIDUAL, TYPICAL, styled


@styled
def network(
    fit: Fit | NetworkFunction,
    name: str | None = None,
    inputs: Inputs | None = None,
    *,
    limits: tuple[float, float] | None = None,
    output: int = 0,
    transform: Transform | None = None,
    subjects: bool | None = None,
    band: bool | None = None,
    level: float = 0.9,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot what a network learned as a function of one input, with its spread between subjects.

    The bold line is the typical subject (eta = 0), thin lines are the subjects at their conditional modes,
    drawn stronger where the subject's own solution went; the band holds ``level`` of the subjects, over draws
    from their conditional distributions; ticks along the bottom mark the inputs that the solutions visited.

    Args:
        fit: A fit, or what :func:`nlme_torch.diagnostics.network_function` returned.
        name: The network's attribute name.
        inputs: Labels of the inputs in the order of the network's arguments; or label to what the input does:
            ``"vary"``, a number (held there), several numbers (one line each) or None (held at each subject's
            own value, or at the mean over the observations), e.g. ``{"time (day)": "vary", "left": 0.5}``.
        limits: Range of the varied input; by default what the data visited.
        output: Which output of the network.
        transform: Applied to the output, e.g. ``torch.nn.functional.softplus`` where the model wraps the
            network in it.
        subjects: Whether to draw the subjects' lines; only with a single slice if None.
        band: Whether to draw the band; only with a single slice if None.
        level: Share of the subjects inside the band.
        labels: What to write for inputs and for the network's name (the ordinate).
        ax: Axes to draw in.

    Returns:
        The axes.

    Raises:
        ModelError: There is no such network, the model never calls it, or the inputs do not fit it.

    Example:
        >>> import nlme_torch as nlme
        >>> fit = nlme.fit(nlme.examples.TheophyllineHybrid(), nlme.examples.theophylline())  # doctest: +SKIP
        >>> nlme.plots.network(fit, "absorption", {"time (day)": "vary", "left": 0.5})  # doctest: +SKIP
    """
    if not isinstance(fit, NetworkFunction):
        check_fit("network", fit)
    labels = with_units(fit, labels)
    function = fit if isinstance(fit, NetworkFunction) else network_function(
        fit, _named(name), inputs, limits=limits, output=output, transform=transform, level=level
    )  # fmt: skip
    axes = single(ax)
    slices = list(function.held.index)
    single_slice = len(slices) == 1
    subjects, band = (single_slice if wish is None else wish for wish in (subjects, band))
    spread = function.subjects.groupby(["slice", "input"])["output"].agg(np.ptp).max()
    differs = spread > 1e-12 * (1 + function.population["output"].abs().max())
    for position in slices:
        color = TYPICAL if single_slice else CYCLE[position % len(CYCLE)]
        typical, around = (table[table["slice"] == position] for table in (function.population, function.band))
        if band and differs:
            text = f"{100 * function.level:g} % of subjects" if single_slice else None
            shade = INDIVIDUAL if single_slice else color
            axes.fill_between(
                around["input"],
                around["lower"],
                around["upper"],
                color=shade,
                alpha=0.13,
                linewidth=0,
                label=text,
            )
        if subjects and differs:
            _subject_lines(axes, function, position, INDIVIDUAL if single_slice else color)
        text = "typical subject" if single_slice else _held_text(function, position, labels)
        axes.plot(typical["input"], typical["output"], color=color, linewidth=2.2, label=text, zorder=4)
    _mark_visited(axes, function)
    axes.margins(x=0.01)
    axes.set_xlabel(label(function.varied, labels))
    axes.set_ylabel(label(function.network, labels))
    if single_slice and len(function.labels) > 1:
        axes.set_title(_held_text(function, slices[0], labels))
    legend(axes, own=ax is None)
    return axes


@styled
def network_over_time(
    fit: Fit,
    name: str,
    *,
    output: int = 0,
    transform: Transform | None = None,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot what a network computed over time, along the solution of every subject and of typical subjects.

    Args:
        fit: A fit.
        name: The network's attribute name.
        output: Which output of the network.
        transform: Applied to the output.
        labels: What to write for ``"time"`` and for the network's name.
        ax: Axes to draw in.

    Returns:
        The axes.

    Raises:
        ModelError: There is no such network, or the model never calls it.
    """
    check_fit("network_over_time", fit)
    labels = with_units(fit, labels)
    table = network_trajectories(fit, name, output=output, transform=transform)
    axes = single(ax)
    for index, (_, line) in enumerate(table.groupby(["call", "id"], sort=False)):
        text = "subjects" if index == 0 else None
        axes.plot(line["time"], line["output"], color=INDIVIDUAL, linewidth=0.9, alpha=0.55, label=text)
    # subjects differ in doses, covariates and times, so there is one typical line for each of them
    for index, (_, line) in enumerate(table.groupby(["call", "id"], sort=False)):
        text = "typical subject" if index == 0 else None
        axes.plot(line["time"], line["typical"], color=TYPICAL, linewidth=1.3, alpha=0.6, label=text, zorder=4)
    axes.set_xlabel(label("time", labels))
    axes.set_ylabel(label(name, labels))
    legend(axes, own=ax is None)
    return axes


def _named(name: str | None) -> str:
    if name is None:
        raise ModelError("say which network: name=, its attribute name.")
    return name


def _subject_lines(axes: Axes, function: NetworkFunction, position: int, color: str) -> None:
    """Draw every subject's function, stronger over the inputs that its own solution visited."""
    reached = function.visited.groupby("id", sort=False)[function.varied].agg(["min", "max"])
    table = function.subjects[function.subjects["slice"] == position]
    for index, (subject, line) in enumerate(table.groupby("id", sort=False)):
        axes.plot(line["input"], line["output"], color=color, linewidth=0.7, alpha=0.3)
        own = line
        if subject in reached.index:
            low, high = reached.loc[subject]
            own = line[(line["input"] >= low) & (line["input"] <= high)]
        text = "subjects (modes)" if index == 0 and position == 0 else None
        axes.plot(own["input"], own["output"], color=color, linewidth=0.9, alpha=0.6, label=text)


def _mark_visited(axes: Axes, function: NetworkFunction) -> None:
    """Tick the inputs at the records of the data, and shade what no solution visited."""
    visited, drawn = function.visited, function.population["input"]
    ticks = visited[function.varied][visited["observed"] & visited[function.varied].between(drawn.min(), drawn.max())]
    base = axes.get_xaxis_transform()
    axes.plot(
        ticks, np.full(len(ticks), 0.015), "|", color="#333333", markersize=6, markeredgewidth=0.7, alpha=0.5,
        transform=base, label="at observations", zorder=3,
    )  # fmt: skip
    low, high = visited[function.varied].min(), visited[function.varied].max()
    for start, stop in ((drawn.min(), low), (high, drawn.max())):
        if stop > start:
            axes.axvspan(start, stop, color="#EEEEEE", linewidth=0, zorder=0)


def _held_text(function: NetworkFunction, position: int, labels: Labels) -> str:
    row = function.held.to_dict("index")[position]
    return ", ".join(
        f"{label(str(name), labels)}: {'own value' if np.isnan(value) else format(value, '.3g')}"
        for name, value in row.items()
    )

"""Visual predictive checks."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nlme_torch.diagnostics.simulated_observations import Strata
from nlme_torch.diagnostics.visual_predictive_check import VisualPredictiveCheck
from nlme_torch.diagnostics.visual_predictive_check import vpc as check_of
from nlme_torch.inference import Fit
from nlme_torch.plots.figures import Labels, PanelFigure, fitting, label, legend_below, note, with_units
from nlme_torch.plots.style import CYCLE, GREY, INDIVIDUAL, OBSERVED, TYPICAL, styled

LIMIT = "#B58900"


@styled
def vpc(
    check: VisualPredictiveCheck | Fit,
    *,
    outcome: str | None = None,
    simulations: int = 500,
    seed: int = 0,
    stratify: Strata = None,
    log: bool = False,
    columns: int = 3,
    labels: Labels = None,
) -> Figure:
    """Plot a visual predictive check, one column of panels per stratum.

    Of a measurement: observations (dots), their percentiles per bin (dark lines) and the interval of the simulated ones
    (bands: blue for those outside, red for the middle one), with the fraction below (and above) the limit of
    quantification in a panel underneath where there is one. Of scores and counts a panel for each value: its observed
    proportion and the simulated interval. Of events the Kaplan-Meier curve with its simulated interval, ticks where
    subjects are censored.

    Args:
        check: From :func:`nlme_torch.diagnostics.vpc` or :func:`nlme_torch.diagnostics.prediction_corrected_vpc`; or a
            fit, which is checked with what follows.
        outcome: Of a fit: name of the outcome; the only one if None.
        simulations: Of a fit: number of simulated data sets.
        seed: Of a fit: of the simulations.
        stratify: Of a fit: columns of the user's table, or ``"dose"``.
        log: Whether the ordinate is logarithmic; what is not positive is left out.
        columns: Strata in a row.
        labels: What to write for ``"time"`` and for the outcome.

    Returns:
        The figure.

    Raises:
        DataError: The outcome or a column is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.plots.vpc(fit, simulations=50).axes)
        1
    """
    if isinstance(check, Fit):
        check = check_of(check, outcome, simulations=simulations, seed=seed, stratify=stratify)
    labels = with_units(check, labels)
    strata = sorted(check.table["stratum"].unique())
    if check.kind == "categories":
        figure = _categories(check, strata, labels)
    else:
        figure = _columns(check, strata, columns, log, labels)
    remarks = [f"bands: {100 * check.level:g} % of {check.simulations} simulations"]
    if check.left_out:
        remarks.append(f"{check.left_out} observations left out")
    note(figure, ", ".join(remarks))
    return figure


def _columns(check: VisualPredictiveCheck, strata: list[str], columns: int, log: bool, labels: Labels) -> Figure:
    """Panels of measurements or survival, what is beyond the limits below each."""
    across = min(columns, len(strata))
    sides = [] if check.beyond is None else list(check.beyond["side"].unique())
    heights = [3.0, *(1.0 for _ in sides)]
    down = -(-len(strata) // across)
    figure, grid = _grid(down, across, heights, width=5.6 if across == 1 else 3.2 if across == 2 else 2.7)
    entries: dict[str, Artist] = {}
    for position, stratum in enumerate(strata):
        block, column = divmod(position, across)
        panels = [grid[block * len(heights) + row][column] for row in range(len(heights))]
        main = panels[0]
        table = check.table[check.table["stratum"] == stratum]
        points = check.points[check.points["stratum"] == stratum]
        if check.kind == "survival":
            entries |= _survival(main, table, points, check)
        else:
            entries |= _percentiles(main, table, points, check, log)
        if stratum:
            main.set_title(stratum, fontsize=fitting(stratum, 2.4, 9.5))
        if column == 0:
            main.set_ylabel(_ordinate(check, labels))
        for panel, side in zip(panels[1:], sides, strict=True):
            assert check.beyond is not None
            part = check.beyond[(check.beyond["stratum"] == stratum) & (check.beyond["side"] == side)]
            entries |= _beyond(panel, part)
            if column == 0:
                panel.set_ylabel(f"{side} limit", fontsize=8)
        panels[-1].set_xlabel(label(check.against, labels))
        for panel in panels[:-1]:
            panel.tick_params(labelbottom=False)
    _remove(grid, len(strata), across, len(heights))
    _same_ordinate([grid[(k // across) * len(heights)][k % across] for k in range(len(strata))])
    legend_below(figure, entries)
    return figure


def _grid(down: int, across: int, heights: list[float], width: float) -> tuple[Figure, list[list[Axes]]]:
    import matplotlib.pyplot as plt

    ratios = heights * down
    figure, grid = plt.subplots(
        len(ratios), across, figsize=(max(width * across, 4.6), 0.93 * sum(ratios) + 1.0), squeeze=False,
        layout="constrained", FigureClass=PanelFigure, sharex="col" if down == 1 else False,
        gridspec_kw={"height_ratios": ratios},
    )  # fmt: skip
    return figure, [list(row) for row in np.asarray(grid)]


def _remove(grid: list[list[Axes]], count: int, across: int, rows: int) -> None:
    for block in range(len(grid) // rows):
        for column in range(across):
            if block * across + column >= count:
                for row in range(rows):
                    grid[block * rows + row][column].remove()


def _same_ordinate(panels: list[Axes]) -> None:
    low = min(panel.get_ylim()[0] for panel in panels)
    high = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(low, high)


def _ordinate(check: VisualPredictiveCheck, labels: Labels) -> str:
    name = label(check.outcome, labels)
    if check.kind == "survival":
        return f"without {name}" if name == check.outcome else name
    return f"{name}, prediction-corrected" if check.corrected else name


def _percentiles(
    ax: Axes, table: pd.DataFrame, points: pd.DataFrame, check: VisualPredictiveCheck, log: bool
) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    known = points[points["CENS"] == 0]
    if log:
        ax.set_yscale("log")
        known = known[known["DV"] > 0]
    alpha = float(np.clip(12 / np.sqrt(len(known) + 1), 0.12, 0.6))
    (dots,) = ax.plot(
        known["x"], known["DV"], "o", color=GREY, markersize=3, alpha=alpha, markeredgewidth=0, zorder=1
    )  # fmt: skip
    entries["observations"] = dots
    levels = sorted(table["percentile"].unique())
    middle = min(levels, key=lambda value: abs(value - 0.5))
    for percentile in levels:
        part = table[table["percentile"] == percentile].sort_values("x")
        color = TYPICAL if percentile == middle else INDIVIDUAL
        low, high, observed = (part[name].to_numpy(dtype=float) for name in ("lower", "upper", "observed"))
        if log:
            low, high, observed = (np.where(value > 0, value, np.nan) for value in (low, high, observed))
        # where the lower end is beyond the limit of quantification the band has no end to be drawn to
        x = part["x"].to_numpy()
        if len(part) == 1:
            band: Artist = ax.vlines(x, low, high, color=color, alpha=0.3, linewidth=8)
        else:
            band = ax.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0, zorder=2)
        style = "-" if percentile == middle else (0, (4, 2))
        (line,) = ax.plot(
            x, observed, color=OBSERVED, linewidth=1.5, linestyle=style, marker="o", markersize=2.6, zorder=4
        )
        name = "median" if percentile == 0.5 else "outer percentiles" if percentile != middle else "middle percentile"
        entries[f"{name}, observed"] = line
        entries[f"{name}, simulated"] = band
    if len(table["bin"].unique()) > 1:
        edges = np.unique(np.concatenate([table["left"], table["right"]]))
        ax.plot(
            edges, np.full(len(edges), 0.0), "|", color="#444444", markersize=5, transform=ax.get_xaxis_transform(),
            clip_on=False, zorder=5,
        )  # fmt: skip
    shown = [value for name in ("lower", "upper", "observed") for value in table[name] if np.isfinite(value)]
    high_end = max([*shown, *known["DV"]], default=1.0)
    if not log:
        low_end = min([*shown, *known["DV"]], default=0.0)
        margin = 0.04 * (high_end - low_end)
        ax.set_ylim(low_end - margin if low_end < 0 else 0.0, high_end + margin)
    return entries


def _beyond(ax: Axes, part: pd.DataFrame) -> dict[str, Artist]:
    part = part.sort_values("x")
    band = ax.fill_between(part["x"], part["lower"], part["upper"], color=LIMIT, alpha=0.3, linewidth=0)
    (line,) = ax.plot(part["x"], part["observed"], color=OBSERVED, marker="o", markersize=2.6, linewidth=1.3)
    ax.set_ylim(0, min(1.0, 1.15 * max(0.05, float(part[["upper", "observed"]].to_numpy().max()))))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return {"beyond the limit, simulated": band, "beyond the limit, observed": line}


def _survival(ax: Axes, table: pd.DataFrame, points: pd.DataFrame, check: VisualPredictiveCheck) -> dict[str, Artist]:
    band = ax.fill_between(
        table["x"], table["lower"], table["upper"], color=INDIVIDUAL, alpha=0.25, linewidth=0, step="post"
    )  # fmt: skip
    (median,) = ax.step(table["x"], table["median"], where="post", color=INDIVIDUAL, linewidth=1.0)
    (line,) = ax.step(table["x"], table["observed"], where="post", color=OBSERVED, linewidth=1.6)
    censored = points[points["DV"] == 0]
    entries: dict[str, Artist] = {
        "observed (Kaplan-Meier)": line,
        "simulated median": median,
        "simulated": band,
    }
    if len(censored):
        place = np.searchsorted(table["x"], censored["x"], side="right") - 1
        height = table["observed"].to_numpy()[place.clip(0)]
        (ticks,) = ax.plot(censored["x"], height, "|", color=OBSERVED, markersize=6)
        entries["censored"] = ticks
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return entries


def _categories(check: VisualPredictiveCheck, strata: list[str], labels: Labels) -> Figure:
    """A panel for every value and stratum."""
    values = sorted(check.table["category"].unique())
    figure, grid = _grid(len(values), len(strata), [1.5], width=4.6 if len(strata) == 1 else 2.7)
    entries: dict[str, Artist] = {}
    for row, value in enumerate(values):
        for column, stratum in enumerate(strata):
            ax = grid[row][column]
            here = (check.table["category"] == value) & (check.table["stratum"] == stratum)
            part = check.table[here].sort_values("x")
            color = CYCLE[row % len(CYCLE)]
            band = ax.fill_between(part["x"], part["lower"], part["upper"], color=color, alpha=0.25, linewidth=0)
            (line,) = ax.plot(part["x"], part["observed"], color=OBSERVED, marker="o", markersize=2.8, linewidth=1.4)
            entries |= {"observed proportion": line, "simulated": band}
            ax.set_ylim(-0.02, 1.02)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            if column == 0:
                ax.set_ylabel(f"{label(check.outcome, labels)} = {value:g}")
            if row == 0 and stratum:
                ax.set_title(stratum, fontsize=fitting(stratum, 2.4, 9.5))
            ax.tick_params(labelbottom=row == len(values) - 1)
            if row == len(values) - 1:
                ax.set_xlabel(label(check.against, labels))
    legend_below(figure, entries)
    return figure

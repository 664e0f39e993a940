"""Effects of covariates on parameters, as a forest."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from nlme_torch.diagnostics.covariate_forest import covariate_forest
from nlme_torch.inference import Fit
from nlme_torch.plots.figures import Labels, label, single, with_units
from nlme_torch.plots.style import BLACK, CYCLE, GREY, styled


@styled
def forest(
    fit: Fit | pd.DataFrame,
    parameters: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    *,
    within: tuple[float, float] | None = (0.8, 1.25),
    labels: Labels = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot how much covariates change typical parameters, relative to a reference subject.

    Args:
        fit: A fit, with standard errors if limits are to be seen; or the table of
            :func:`nlme_torch.diagnostics.covariate_forest`.
        parameters: Names; all that any covariate changes if None.
        covariates: Names; all if None.
        within: Ratios between which a change is shaded as small; None shades nothing.
        labels: What to write for parameters and covariates.
        ax: Axes to draw in.

    Returns:
        The axes.

    Raises:
        ModelError: As :func:`nlme_torch.diagnostics.covariate_forest`.
    """
    labels = with_units(fit, labels)
    table = fit if isinstance(fit, pd.DataFrame) else covariate_forest(fit, parameters, covariates)
    groups = list(table.groupby("parameter", sort=False))
    lines = len(table) + len(groups)
    axes = single(ax, width=6.4, height=0.8 + 0.27 * lines)
    if within is not None:
        axes.axvspan(*within, color="#EDEDED", linewidth=0, zorder=0)
    axes.axvline(1.0, color=BLACK, linewidth=0.9, zorder=1)
    place, ticks, texts = 0, [], []
    for index, (parameter, part) in enumerate(groups):
        color = CYCLE[index % len(CYCLE)]
        axes.text(0.0, place, label(str(parameter), labels), transform=axes.get_yaxis_transform(), ha="left",
                  va="center", fontsize=9, weight="bold", color=color)  # fmt: skip
        place += 1
        for row in part.to_dict("records"):
            ratio, low, high = (float(row[name]) for name in ("ratio", "lower", "upper"))
            if np.isfinite(low):
                axes.plot([low, high], [place, place], color=color, linewidth=1.6, solid_capstyle="butt")
            axes.plot([ratio], [place], "s", color=color, markersize=5)
            interval = f" ({low:.2f}, {high:.2f})" if np.isfinite(low) else ""
            axes.text(1.01, place, f"{ratio:.2f}{interval}", transform=axes.get_yaxis_transform(), ha="left",
                      va="center", fontsize=7.5, color="#333333")  # fmt: skip
            ticks.append(place)
            covariate = str(row["covariate"])
            name = str(row["text"]).replace(covariate, label(covariate, labels), 1)
            texts.append(f"{name}  (ref. {row['reference']})")
            place += 1
    axes.set_yticks(ticks, texts, fontsize=7.5)
    axes.set_ylim(place - 0.4, -0.7)
    ends = table[["ratio", "lower", "upper"]].to_numpy(dtype=float)
    ends = ends[np.isfinite(ends) & (ends > 0)]
    reach = max(1.3, 1.1 * float(np.exp(np.abs(np.log(ends)).max()))) if len(ends) else 2.0
    if (table["ratio"] > 0).all():
        axes.set_xscale("log")
        axes.set_xlim(1 / reach, reach)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("ratio to the reference subject")
    axes.xaxis.label.set_color(GREY)
    return axes

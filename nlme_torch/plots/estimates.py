"""What is known of estimates: their correlations, the profile of the likelihood, several fits beside each other."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nlme_torch.errors import FitError
from nlme_torch.inference import Bootstrap, Comparison, Fit, Profile, Uncertainty
from nlme_torch.plots.figures import Labels, figure_of, fitting, label, legend, panels, shared_legend, single
from nlme_torch.plots.style import BLACK, CYCLE, GREY, INDIVIDUAL, TYPICAL, styled

WRITTEN = 14
"""Parameters up to which every correlation is written into its square."""


@styled
def correlation(
    estimates: Fit | Uncertainty | Bootstrap | pd.DataFrame, *, labels: Labels = None, ax: Axes | None = None
) -> Axes:
    """Plot the correlation matrix of estimates.

    Args:
        estimates: A fit with standard errors, standard errors, a bootstrap, or a labelled correlation matrix.
        labels: What to write for parameters.
        ax: Axes to draw in.

    Returns:
        The axes; above 0.95 either way the correlation is written in bold.

    Raises:
        FitError: The fit has no standard errors.
    """
    if isinstance(estimates, Fit):
        if estimates.uncertainty is None:
            raise FitError("the fit has no standard errors; compute them with fit.with_standard_errors().")
        estimates = estimates.uncertainty
    matrix = estimates if isinstance(estimates, pd.DataFrame) else estimates.correlation
    names, values = [label(str(name), labels) for name in matrix.index], matrix.to_numpy(dtype=float)
    size = float(np.clip(1.6 + 0.42 * len(names), 3.2, 9.0))
    axes = single(ax, width=size + 0.9, height=size)
    mesh = axes.imshow(np.where(np.eye(len(names)) > 0, np.nan, values), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.grid(False)
    axes.tick_params(length=0)
    for row, column in np.ndindex(values.shape) if len(names) <= WRITTEN else ():
        value = values[row, column]
        if row != column and np.isfinite(value):
            weight = "bold" if abs(value) > 0.95 else "normal"
            color = "white" if abs(value) > 0.6 else BLACK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.8, color=color, weight=weight)
    bar = figure_of(axes).colorbar(mesh, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("correlation of estimates")
    return axes


@styled
def profile(found: Profile, *, labels: Labels = None, ax: Axes | None = None) -> Axes:
    """Plot the likelihood profile of a parameter with its confidence interval.

    Args:
        found: From :func:`nlme_torch.profile`.
        labels: What to write for the parameter.
        ax: Axes to draw in.

    Returns:
        The axes: the rise of -2 log-likelihood over the parameter, the quantile of chi-squared that makes the limits,
        and the parabola of a symmetric interval of the same length.
    """
    axes = single(ax)
    table = found.table.sort_values(found.name)
    x, y = table[found.name].to_numpy(dtype=float), table["difference"].to_numpy(dtype=float)
    inner = np.isfinite(x) & np.isfinite(y)
    axes.plot(x[inner], y[inner], "o-", color=INDIVIDUAL, markersize=4, label=f"profile by {found.method}")
    from scipy.stats import chi2

    cut = float(chi2.ppf(found.level, 1))
    limits = [value for value in (found.lower, found.upper) if np.isfinite(value)]
    axes.axhline(cut, color=GREY, linestyle="--", linewidth=0.9, label=f"{100 * found.level:g} % of chi-squared, 1 df")
    if len(limits) == 2:
        half = 0.5 * (found.upper - found.lower)
        grid = np.linspace(found.estimate - half, found.estimate + half, 100)
        axes.plot(grid, cut * ((grid - found.estimate) / half) ** 2, ":", color=GREY, label="parabola", zorder=1)
    for value in limits:
        axes.axvline(value, color=TYPICAL, linewidth=0.9)
    axes.axvline(found.estimate, color=BLACK, linewidth=0.9)
    axes.set_ylim(0, max(1.25 * cut, 1.05 * float(y[inner].max()) if inner.any() else 0))
    name = label(found.name, labels)
    axes.set_xlabel(name)
    axes.set_ylabel("rise of -2 log-likelihood")
    axes.set_title(f"{found.estimate:.4g} ({found.lower:.4g} to {found.upper:.4g})")
    legend(axes, own=ax is None)
    return axes


@styled
def comparison(found: Comparison, *, labels: Labels = None) -> Figure:
    """Plot several fits beside each other: their criteria, and their parameters relative to the first one's.

    Args:
        found: From :func:`nlme_torch.compare`.
        labels: What to write for parameters.

    Returns:
        The figure: AIC, BIC and corrected BIC above the best one's, and the ratio of every parameter that two fits
        share to its value in the first fit that has it, on a logarithmic axis.
    """
    table = found.table
    criteria = [name for name in ("AIC", "BIC", "BICc", "corrected BIC") if name in table]
    common = found.parameters.dropna(thresh=2)
    figure, axes = panels(2, 2, width=3.7, height=max(2.4, 0.24 * len(common) + 1.2))
    names = [str(name) for name in table.index]
    width = 0.8 / max(len(criteria), 1)
    place = np.arange(len(names))
    for index, criterion in enumerate(criteria):
        value = table[criterion].to_numpy(dtype=float)
        shift = (index - (len(criteria) - 1) / 2) * width
        axes[0].barh(place + shift, value - np.nanmin(value), height=0.9 * width, color=CYCLE[index], label=criterion)
    axes[0].set_yticks(place, names, fontsize=fitting(max(names, key=len), 1.4, 8.0))
    axes[0].invert_yaxis()
    axes[0].set_xlabel("above the best")
    first = common.bfill(axis=1).iloc[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = common.div(first, axis=0).where(lambda value: value > 0)
    rows = np.arange(len(common))
    for index, name in enumerate(common.columns):
        marker = "osD^vP*"[index % 7]
        color = CYCLE[index % len(CYCLE)]
        axes[1].plot(ratio[name], rows, marker, color=color, markersize=4.5, label=str(name), alpha=0.85)
    axes[1].axvline(1.0, color=BLACK, linewidth=0.8)
    axes[1].set_xscale("log")
    spread = np.nanmax(np.abs(np.log(ratio.to_numpy(dtype=float)))) if len(common) else 0.0
    reach = float(np.exp(max(1.15 * spread, 0.1)))
    axes[1].set_xlim(1 / reach, reach)
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes[1].xaxis.set_minor_locator(NullLocator())
    axes[1].xaxis.set_major_locator(MaxNLocator(5))
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[1].set_yticks(rows, [label(str(name), labels) for name in common.index])
    axes[1].invert_yaxis()
    axes[1].set_xlabel("relative to the first fit that has it")
    shared_legend(figure, axes)
    return figure

"""Random effects: their distributions, each other, and the covariates."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from nlme_torch.diagnostics.effects import effect_covariates, effect_draws, effect_summary, known_effects
from nlme_torch.errors import ModelError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, fitting, label, note, panels, shared_legend, with_units
from nlme_torch.plots.style import BLACK, GREY, INDIVIDUAL, OBSERVED, TYPICAL, styled

MOST_PAIRS = 8
"""Effects that one page of pairs can show."""


@styled
def effects(
    fit: Fit,
    effects: Sequence[str] | None = None,
    *,
    versus: Literal["effects", "covariates"] | None = None,
    covariates: Sequence[str] | None = None,
    columns: int = 4,
    labels: Labels = None,
) -> Figure:
    """Plot the random effects.

    Without ``versus``, one panel per effect: draws from all conditional distributions (histogram) beside N(0,
    omega) (line), which agree if the model is right, and the conditional modes (ticks), which shrink. With
    ``versus="effects"`` conditional modes against each other; with ``"covariates"`` against every constant
    covariate, with a straight line and Pearson's correlation.

    Args:
        fit: A fit.
        effects: Labels such as ``eta_ka``; all if None (at most 8 against each other).
        versus: What the effects are plotted against.
        covariates: Names; all constant ones if None.
        columns: Panels in a row, for the distributions.
        labels: What to write for effects and covariates.

    Returns:
        The figure.

    Raises:
        ModelError: An effect or a covariate is unknown, or there is nothing to plot.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.plots.effects(fit, versus="covariates").axes)
        6
    """
    check_fit("effects", fit)
    chosen, labels = known_effects(fit, effects), with_units(fit, labels)
    if not chosen:
        raise ModelError("the model has no random effects to plot.")
    if versus is None:
        return _distributions(fit, chosen, columns, labels)
    if versus == "effects":
        return _pairs(fit, chosen if effects is not None else chosen[:MOST_PAIRS], labels)
    if versus == "covariates":
        return _covariates(fit, chosen, covariates, labels)
    raise ModelError(f"versus must be None, 'effects' or 'covariates', not {versus!r}.")


def _distributions(fit: Fit, chosen: list[str], columns: int, labels: Labels) -> Figure:
    summary, draws = effect_summary(fit, chosen), effect_draws(fit, chosen)
    omega_sd, shrinkage = summary["omega_sd"].to_dict(), summary["shrinkage"].to_dict()
    figure, axes = panels(len(chosen), columns, height=1.9)
    for ax, name in zip(axes, chosen, strict=True):
        _distribution(ax, draws[name].to_numpy(), fit.eta[name].to_numpy(), omega_sd[name])
        title = label(name, labels)
        ax.set_title(title, fontsize=fitting(title, 2.2, 9.5))
        text = f"shrinkage\n{100 * shrinkage[name]:.0f} %"
        ax.text(0.99, 0.97, text, transform=ax.transAxes, fontsize=7.0, color="#555555", ha="right", va="top")
    shared_legend(figure, axes)
    return figure


def _distribution(ax: Axes, draws: np.ndarray, modes: np.ndarray, omega_sd: float) -> None:
    ax.hist(draws, bins=30, density=True, color=INDIVIDUAL, alpha=0.4, linewidth=0, label="conditional draws")
    reach = max(3.5 * omega_sd, float(np.abs(draws).max()))
    grid = np.linspace(-reach, reach, 200)
    ax.plot(grid, stats.norm.pdf(grid, scale=omega_sd), color=TYPICAL, linewidth=1.5, label="N(0, omega)")
    base = ax.get_xaxis_transform()
    ax.plot(
        modes,
        np.full(len(modes), 0.04),
        "|",
        color=OBSERVED,
        markersize=8,
        transform=base,
        label="conditional modes",
    )
    ax.set_ylim(top=1.06 * ax.get_ylim()[1])
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.grid(False)


def _pairs(fit: Fit, chosen: list[str], labels: Labels) -> Figure:
    count = len(chosen)
    if count < 2:
        raise ModelError("a single random effect has no other to be plotted against.")
    figure, axes = panels(count * count, count, width=1.75, height=1.6)
    draws, omega_sd = effect_draws(fit, chosen), effect_summary(fit, chosen)["omega_sd"].to_dict()
    correlation = fit.correlation.to_dict()
    for index, ax in enumerate(axes):
        row, column = divmod(index, count)
        first, second = chosen[column], chosen[row]
        if row < column:
            _correlation(ax, fit.eta[first], fit.eta[second], correlation[first][second])
        elif row == column:
            _distribution(ax, draws[first].to_numpy(), fit.eta[first].to_numpy(), omega_sd[first])
        else:
            ax.plot(fit.eta[first], fit.eta[second], "o", color=INDIVIDUAL, markersize=3.5, alpha=0.8)
            ax.axhline(0, color=GREY, linewidth=0.7)
            ax.axvline(0, color=GREY, linewidth=0.7)
        if row == count - 1:
            text = label(first, labels)
            ax.set_xlabel(text, fontsize=fitting(text, 1.5, 9.0))
        if column == 0:
            text = label(second, labels)
            ax.set_ylabel(text, fontsize=fitting(text, 1.3, 9.0))
    shared_legend(figure, axes)
    if count < fit.model.n_effects:
        note(figure, f"{count} of {fit.model.n_effects} random effects")
    return figure


def _correlation(ax: Axes, first: pd.Series, second: pd.Series, model: float) -> None:
    """Write the correlation of the modes and the model's in an otherwise empty panel."""
    ax.axis("off")
    own = float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) > 0 and np.ptp(second) > 0 else np.nan
    ax.text(
        0.5,
        0.58,
        f"r = {own:.2f}",
        ha="center",
        va="center",
        transform=ax.transAxes,
        fontsize=11,
        color=INDIVIDUAL,
    )
    ax.text(
        0.5,
        0.36,
        f"model {model:.2f}",
        ha="center",
        va="center",
        transform=ax.transAxes,
        fontsize=8,
        color=TYPICAL,
    )


def _covariates(fit: Fit, chosen: list[str], covariates: Sequence[str] | None, labels: Labels) -> Figure:
    table = effect_covariates(fit, chosen, covariates)
    if not len(table):
        raise ModelError("the data have no covariates to plot the random effects against.")
    names = list(table["covariate"].unique())
    figure, axes = panels(len(chosen) * len(names), len(names), width=2.5, height=1.9, sharex="col", sharey="row")
    for index, ax in enumerate(axes):
        row, column = divmod(index, len(names))
        part = table[(table["effect"] == chosen[row]) & (table["covariate"] == names[column])]
        _against(ax, part, fit.data.categories.get(names[column]))
        if row == len(chosen) - 1:
            ax.set_xlabel(label(names[column], labels))
        if column == 0:
            ax.set_ylabel(label(chosen[row], labels))
    return figure


def _against(ax: Axes, part: pd.DataFrame, levels: tuple[str, ...] | None) -> None:
    x, y = part["covariate_value"].to_numpy(), part["eta"].to_numpy()
    ax.axhline(0, color=BLACK, linewidth=0.8)
    if levels is not None:
        groups = [y[x == position] for position in range(len(levels))]
        ax.boxplot(groups, positions=range(len(levels)), widths=0.5, showfliers=False, medianprops={"color": TYPICAL})
        ax.set_xticks(range(len(levels)), levels)
    elif np.ptp(x) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, intercept + slope * ends, color=TYPICAL, linewidth=1.4)
        ax.set_title(f"r = {part['correlation'].iloc[0]:.2f}", fontsize=8)
    ax.plot(x, y, "o", color=INDIVIDUAL, markersize=3.5, alpha=0.8)

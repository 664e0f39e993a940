"""The data before any model."""

from collections.abc import Iterable

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from nlme_torch.data import Dataset
from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.plots.figures import Labels, label, legend_below, panels, with_units
from nlme_torch.plots.style import CYCLE, GREY, OBSERVED, TYPICAL, styled


@styled
def data(
    dataset: Dataset | Fit,
    outcomes: Iterable[str] | None = None,
    *,
    color: str | None = None,
    log: bool = False,
    columns: int = 2,
    labels: Labels = None,
) -> Figure:
    """Plot what was observed over time, one panel per outcome, a line per subject.

    Censored values are triangles at their limit, pointing to where the truth lies; ticks at the bottom are doses.

    Args:
        dataset: A data set, or a fit, whose data are shown.
        outcomes: Names; all if None.
        color: Covariate that colours the subjects: a category, or a number cut at its median.
        log: Whether the ordinate is logarithmic; what is not positive is left out.
        columns: Panels in a row.
        labels: What to write for ``"time"``, outcomes and the covariate.

    Returns:
        The figure.

    Raises:
        DataError: An outcome or the covariate is unknown.
    """
    shown = dataset.data if isinstance(dataset, Fit) else dataset
    labels = with_units(shown, labels)
    names = list(shown.outputs if outcomes is None else outcomes)
    for name in names:
        if name not in shown.outputs:
            raise DataError(f"there is no outcome {name!r}; the data have {', '.join(shown.outputs)}.")
    colors, entries = _colors(shown, color, labels)
    batch = shown.batch()
    times = batch.times if batch.time_shift is None else batch.times - batch.time_shift
    figure, axes = panels(len(names), columns, width=5.2 if len(names) == 1 else 3.6, height=3.2)
    for ax, name in zip(axes, names, strict=True):
        outcome = batch.outcomes[name]
        code = torch.zeros_like(batch.rows) if outcome.censoring is None else outcome.censoring
        if log:
            ax.set_yscale("log")
        alpha = float(np.clip(6 / np.sqrt(batch.n_subjects), 0.15, 0.8))
        for column in range(batch.n_subjects):
            seen = outcome.mask[:, column] & ((outcome.value[:, column] > 0) | (not log))
            x, y = times[seen, column].numpy(), outcome.value[seen, column].numpy()
            ax.plot(x, y, "-", color=colors[column], linewidth=0.7, alpha=alpha, zorder=2)
            known = code[seen, column].numpy() == 0
            ax.plot(x[known], y[known], "o", color=colors[column], markersize=2.8, alpha=alpha, zorder=3)
            for side, marker in ((1, "v"), (-1, "^")):
                there = code[seen, column].numpy() == side
                if there.any():
                    (marks,) = ax.plot(
                        x[there], y[there], marker, markerfacecolor="white", markeredgecolor=colors[column],
                        markersize=4.5, linestyle="none", zorder=4,
                    )  # fmt: skip
                    entries["below the limit" if side == 1 else "above the limit"] = marks
        if batch.doses is not None:
            given = times[(batch.doses.kind != int(DoseKind.NONE)) & batch.record_mask].numpy()
            (ticks,) = ax.plot(
                given, np.full(len(given), 0.015), "|", color=GREY, markersize=6, alpha=0.5,
                transform=ax.get_xaxis_transform(),
            )  # fmt: skip
            entries["doses"] = ticks
        ax.set_xlabel(label("time", labels))
        ax.set_ylabel(label(name, labels))
    legend_below(figure, entries)
    return figure


def _colors(shown: Dataset, color: str | None, labels: Labels) -> tuple[list[str], dict[str, Artist]]:
    """The colour of every subject, and what each means."""
    from matplotlib.lines import Line2D

    if color is None:
        return [OBSERVED] * shown.n_subjects, {}
    frame = shown.covariates
    if color not in frame:
        raise DataError(f"there is no covariate {color!r}; the data have {', '.join(frame.columns) or 'none'}.")
    values = frame[color].to_numpy(dtype=float)
    name = label(color, labels)
    if color in shown.categories:
        levels = shown.categories[color]
        groups, texts = values.astype(int), [f"{name} {level}" for level in levels]
    elif len(np.unique(values)) <= 5:
        distinct, groups = np.unique(values, return_inverse=True)
        texts = [f"{name} {value:g}" for value in distinct]
    else:
        middle = float(np.median(values))
        groups, texts = (values > middle).astype(int), [f"{name} <= {middle:.4g}", f"{name} > {middle:.4g}"]
    palette = [CYCLE[index % len(CYCLE)] if len(texts) > 1 else TYPICAL for index in range(len(texts))]
    handles = {text: Line2D([], [], color=shade, marker="o", markersize=3) for text, shade in zip(texts, palette)}  # noqa: B905
    return [palette[group] for group in groups], dict(handles)

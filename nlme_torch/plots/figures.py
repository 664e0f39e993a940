"""Figures and their panels: made through pyplot, so that ``plt.show()`` and notebooks find them."""

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nlme_torch.data import Dataset

Labels = Mapping[str, str] | None

_WIDTH = 0.58  # of an average letter, in units of the font size; a point is 1/72 inch


class PanelFigure(Figure):
    """A figure that a notebook shows once, though it is both the value of a cell and open in pyplot."""

    _shown = False

    def savefig(self, fname: Any, *, transparent: bool | None = None, **options: Any) -> None:
        """Save with the figure's own background, whatever style the session has chosen for others."""
        options.setdefault("facecolor", self.get_facecolor())
        options.setdefault("edgecolor", self.get_edgecolor())
        super().savefig(fname, transparent=transparent, **options)

    def _ipython_display_(self) -> None:
        backend_shows_it = plt.isinteractive() and "inline" not in plt.get_backend()
        if plt.fignum_exists(getattr(self, "number", -1)) and (self._shown or backend_shows_it):
            return
        self._shown = True
        from IPython.display import Image, display

        buffer = BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        display(Image(data=buffer.getvalue()))


def panels(
    count: int,
    columns: int,
    *,
    width: float = 2.4,
    height: float = 2.0,
    rows: int | None = None,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a grid of panels, filled row by row.

    Args:
        count: Number of panels used; the rest of the last row is left empty.
        columns: Most panels in a row.
        width: Of one panel [inch].
        height: Of one panel [inch].
        rows: Number of rows; as many as needed if None.
        **options: For ``plt.subplots``, such as ``sharex=True``.

    Returns:
        The figure and its panels in order.
    """
    across = max(1, min(columns, count))
    down = rows or math.ceil(count / across)
    # a narrow figure must still hold its legend and titles
    size = (max(width * across, 3.6), max(height * down, 2.6))
    figure, grid = plt.subplots(
        down, across, figsize=size, squeeze=False, layout="constrained", FigureClass=PanelFigure, **options
    )
    flat = list(np.asarray(grid).flat)
    for spare in flat[count:]:
        spare.remove()
    return figure, flat[:count]


def single(ax: Axes | None, *, width: float = 4.8, height: float = 3.4) -> Axes:
    """Return the axes given, or those of a new figure [inch]."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained", FigureClass=PanelFigure)[1]


def figure_of(ax: Axes) -> Figure:
    """Return the figure an axes stands in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def with_units(source: object, labels: Labels) -> dict[str, str]:
    """Return what to write for names: the caller's labels, and for others that have one their name and unit.

    Args:
        source: A fit, whose data know units, the data, or what keeps ``units`` of its own; numbers alone know none.
        labels: The caller's.
    """
    data = source if isinstance(source, Dataset) else getattr(source, "data", None)
    units = data.units if isinstance(data, Dataset) else getattr(source, "units", {})
    shown = {name: f"{name} [{unit}]" for name, unit in units.items()}
    # inputs of networks are named as the call writes them
    shown |= {f"cov.{name}": text for name, text in shown.items()}
    return {**shown, **(labels or {})}


def label(name: str, labels: Labels) -> str:
    """Return what to write for a name: the caller's label, which may carry a unit, or the name itself."""
    return (labels or {}).get(name, name)


def fitting(text: str, width: float, size: float) -> float:
    """Return the font size [point] at which a text is no wider than a panel [inch], at most ``size``."""
    return min(size, 72 * width / (_WIDTH * max(len(text), 1)))


def shared_legend(figure: Figure, axes: list[Axes]) -> None:
    """Put one legend for all panels below the figure, each entry once."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    legend_below(figure, entries)


def legend_below(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Put a legend below all panels, in as many columns as the figure is wide."""
    if entries:
        # a handle and its gaps take about 0.65 inch
        widest = 0.65 + max(_WIDTH * 8.5 / 72 * len(text) for text in entries)
        columns = min(len(entries), max(1, int(figure.get_figwidth() / widest)))
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)


def legend(ax: Axes, own: bool) -> None:
    """Put a legend below an axes in its own figure, where it hides nothing, or inside one that was given."""
    if own:
        shared_legend(figure_of(ax), [ax])
    else:
        ax.legend()


def note(figure: Figure, text: str) -> None:
    """Write a remark above the panels, right-aligned."""
    figure.suptitle(text, fontsize=8.0, color="#555555", x=0.99, ha="right")

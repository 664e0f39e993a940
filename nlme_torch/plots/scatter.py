"""Points of many records, and observations against predictions with the line on which they agree."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nlme_torch.diagnostics.trend import trend
from nlme_torch.plots.style import BLACK, INDIVIDUAL, TYPICAL


def scatter(ax: Axes, x: pd.Series | np.ndarray, y: pd.Series | np.ndarray) -> None:
    """Draw points, fainter where there are many, so that thousands still show their density.

    Args:
        ax: Where.
        x: Of every point.
        y: Of every point.
    """
    alpha = float(np.clip(8 / np.sqrt(len(x) + 1), 0.15, 0.7))
    ax.plot(x, y, "o", color=INDIVIDUAL, markersize=3.5, alpha=alpha, markeredgewidth=0)


def agreement(ax: Axes, x: pd.Series, y: pd.Series, x_text: str, y_text: str, log: bool) -> None:
    """Draw observations against predictions, the line of identity and their trend.

    Args:
        ax: Where.
        x: Predictions.
        y: Observations.
        x_text: What the predictions are called.
        y_text: What the observations are called.
        log: Whether both axes are logarithmic; what is not positive is left out then.
    """
    if log:
        positive = (x > 0) & (y > 0)
        x, y = x[positive], y[positive]
        ax.set_xscale("log")
        ax.set_yscale("log")
    scatter(ax, x, y)
    if len(x):
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        ax.plot([low, high], [low, high], color=BLACK, linewidth=0.9)
        line = 10 ** trend(np.log10(x), np.log10(y)) if log else trend(x, y)
        ax.plot(line["x"], line["y"], color=TYPICAL, linewidth=1.5)
    ax.set_xlabel(x_text)
    ax.set_ylabel(y_text)

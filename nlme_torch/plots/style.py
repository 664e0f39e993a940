"""The house style: colour-blind safe, quiet, and only inside a plotting function.

Colours are those of Okabe and Ito (2008), https://jfly.uni-koeln.de/color/.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from cycler import cycler

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

OBSERVED, INDIVIDUAL, TYPICAL = "#333333", BLUE, VERMILLION
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": "#222222",
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titlepad": 5.0,
    "figure.dpi": 110,
    "figure.edgecolor": "white",
    "figure.facecolor": "white",
    "figure.titlesize": 11.0,
    "font.size": 9.0,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "image.cmap": "viridis",
    "legend.fontsize": 8.5,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "legend.framealpha": 0.8,
    "legend.fancybox": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.dpi": 200,
    "text.color": "#222222",
    "xtick.color": "#555555",
    "xtick.labelsize": 8.0,
    "ytick.color": "#555555",
    "ytick.labelsize": 8.0,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Draw in the house style; the caller's settings are back when the function returns.

    Only the style's own settings are restored: ``rc_context`` would also take back what a notebook's
    backend sets when the first figure loads it, and no figure would be shown from then on.
    """

    @wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> R:
        before = {name: mpl.rcParams[name] for name in STYLE}
        mpl.rcParams.update(STYLE)
        try:
            return function(*args, **kwargs)
        finally:
            mpl.rcParams.update(before)

    return draw

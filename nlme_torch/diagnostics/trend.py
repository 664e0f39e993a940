"""A smooth line through a cloud of points."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def trend(x: ArrayLike, y: ArrayLike, *, span: float = 0.75, points: int = 60) -> pd.DataFrame:
    r"""Return a local linear regression with tricube weights.

    .. math:: \min_{a, b} \sum_j w\!\left(\frac{|x_j - x|}{h(x)}\right) (y_j - a - b (x_j - x))^2, \quad
              w(u) = (1 - u^3)^3

    with h(x) the distance to the nearest neighbour that makes up the span.

    Args:
        x: Abscissae, ``(point,)``, any unit.
        y: Ordinates, ``(point,)``, any unit.
        span: Share of the points that each local line sees.
        points: Abscissae at which the line is computed.

    Returns:
        Columns x and y; empty where fewer than three points, or only one abscissa, are given.

    References:
        Cleveland (1979), Robust locally weighted regression and smoothing scatterplots. doi:10.2307/2286407

    Example:
        >>> from nlme_torch.diagnostics import trend
        >>> line = trend([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0], span=1.0, points=3)
        >>> line["y"].round(6).tolist()
        [1.0, 4.0, 7.0]
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    finite = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[finite], ys[finite]
    if len(xs) < 3 or np.ptp(xs) == 0:
        return pd.DataFrame({"x": [], "y": []}, dtype=float)
    grid = np.linspace(xs.min(), xs.max(), points)
    distance = np.abs(grid[:, None] - xs)
    neighbours = min(max(int(np.ceil(span * len(xs))), 3), len(xs))
    width = np.sort(distance, axis=1)[:, neighbours - 1 : neighbours]
    # a little wider, so that the farthest neighbour counts and ties in x cannot leave a single abscissa
    width = np.maximum(1.001 * width, 1e-3 * np.ptp(xs))
    weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
    centre = (weight * xs).sum(1) / weight.sum(1)
    level = (weight * ys).sum(1) / weight.sum(1)
    shifted = xs - centre[:, None]
    moment = (weight * shifted**2).sum(1)
    slope = (weight * shifted * (ys - level[:, None])).sum(1) / np.where(
        moment > 1e-12 * np.ptp(xs) ** 2, moment, np.inf
    )
    return pd.DataFrame({"x": grid, "y": level + slope * (grid - centre)})

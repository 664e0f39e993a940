"""Bins for what is shown against time: few where records lie together, none in the gaps between them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nlme_torch.errors import DataError

OWN = 12
"""Distinct values up to which every one is a bin of its own, as in a protocol with nominal times."""

GAIN = 0.3
"""How much another bin must lower the logarithm of the sum of squares within bins: by a quarter."""

FEWEST = 5
"""Points of a bin that is not joined to a neighbour: fewer have no percentiles."""

MOST = 20
"""Bins that are tried; a picture shows no more."""

FINEST = 500
"""Distinct values that the partition works on; more are first joined to so many groups of equal size."""


def time_bins(values: ArrayLike, bins: int | Sequence[float] | None = None) -> NDArray[np.float64]:
    r"""Return the edges of bins.

    The edges lie half-way between neighbours, and the bins are those of least squares,

    .. math:: J(B) = \min \sum_{b=1}^{B} \sum_{i \in b} (t_i - \bar t_b)^2

    found exactly by dynamic programming. Where their number is not given, every value has a bin of its own if there are
    12 distinct ones at most, and else it minimises :math:`\log J(B) + 0.3 B` up to 20 bins; one of fewer than 5 points
    is then joined to the neighbour whose mean is nearer.

    Args:
        values: What is binned, ``(point,)``, any unit.
        bins: How many, or their edges; None: automatic.

    Returns:
        Increasing edges, one more than there are bins; the first and the last are the least and largest value.

    Raises:
        DataError: No value is finite, or the edges given do not increase.

    References:
        Fisher (1958), On grouping for maximum homogeneity. doi:10.2307/2281952
        Lavielle and Bleakley (2011), Automatic data binning for improved visual diagnosis of pharmacometric models.
        doi:10.1007/s10928-011-9223-3

    Example:
        >>> from nlme_torch.diagnostics import time_bins
        >>> time_bins([0.0, 0.1, 0.2, 5.0, 5.1, 9.0], bins=3).round(2).tolist()
        [0.0, 2.6, 7.05, 9.0]
    """
    points = np.asarray(values, dtype=float)
    points = points[np.isfinite(points)]
    if not len(points):
        raise DataError("there is nothing to put into bins: no value is finite.")
    if bins is not None and not isinstance(bins, int):
        edges = np.asarray(bins, dtype=float)
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise DataError(f"the edges of bins must increase, and be two at least: {list(bins)}.")
        return edges
    if isinstance(bins, int) and bins < 1:
        raise DataError(f"bins must be 1 or more, got {bins}.")
    distinct, count = np.unique(points, return_counts=True)
    if bins is None and len(distinct) <= OWN:
        bins = len(distinct)
    if bins is not None and bins >= len(distinct):
        first = np.arange(1, len(distinct))
    else:
        begins = _partition(*_joined(distinct, count), bins)
        first = np.searchsorted(distinct, begins)
        first = _no_small_ones(first, distinct, count) if bins is None else first
    between = 0.5 * (distinct[first - 1] + distinct[first])
    return np.concatenate([distinct[:1], between, distinct[-1:] if len(distinct) > 1 else distinct[:1] + 1.0])


def in_bins(values: ArrayLike, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of every value, the last one closed on both sides; -1 outside.

    Args:
        values: ``(point,)``.
        edges: From :func:`time_bins`.
    """
    points = np.asarray(values, dtype=float)
    place = np.searchsorted(edges, points, side="right") - 1
    place = np.where(points == edges[-1], len(edges) - 2, place)
    return np.where((points >= edges[0]) & (points <= edges[-1]), place, -1)


def _joined(distinct: NDArray[np.float64], count: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The values that the partition may begin a bin at, with how many there are from each to the next."""
    if len(distinct) <= FINEST:
        return distinct, count
    share = (np.cumsum(count) - count) * FINEST // count.sum()
    start = np.flatnonzero(np.diff(share, prepend=-1))
    return distinct[start], np.add.reduceat(count, start)


def _no_small_ones(
    first: NDArray[np.int64], distinct: NDArray[np.float64], count: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where bins begin, after those with few points have been joined to a neighbour."""
    begins = [0, *map(int, first)]
    while len(begins) > 1:
        sizes = np.add.reduceat(count, begins)
        if sizes.min() >= FEWEST:
            break
        means = np.add.reduceat(count * distinct, begins) / sizes
        small = int(sizes.argmin())
        left = means[small] - means[small - 1] if small > 0 else np.inf
        right = means[small + 1] - means[small] if small + 1 < len(begins) else np.inf
        del begins[small if left <= right else small + 1]
    return np.array(begins[1:], dtype=np.int64)


def _partition(value: NDArray[np.float64], count: NDArray[np.int64], bins: int | None) -> NDArray[np.float64]:
    """The values at which the second and every further bin begins."""
    most = min(MOST, len(value)) if bins is None else bins
    weight, first, second = (
        np.concatenate([[0.0], np.cumsum(count * power)]) for power in (1.0, value - value[0], (value - value[0]) ** 2)
    )
    number = np.arange(len(value))

    def squares(start: NDArray[np.int64], stop: int) -> NDArray[np.float64]:
        """Within bins of the values from each start to stop."""
        n, s, q = weight[stop + 1] - weight[start], first[stop + 1] - first[start], second[stop + 1] - second[start]
        return np.maximum(q - s**2 / n, 0.0)

    best = np.array([squares(np.array([0]), stop)[0] for stop in range(len(value))])
    starts, sums = [], [best[-1]]
    for layer in range(1, most):
        found, chosen = np.full(len(value), np.inf), np.zeros(len(value), dtype=int)
        for stop in range(layer, len(value)):
            start = number[layer : stop + 1]
            total = best[start - 1] + squares(start, stop)
            least = int(total.argmin())
            found[stop], chosen[stop] = total[least], start[least]
        best = found
        starts.append(chosen)
        sums.append(best[-1])
    floor = 1e-12 * max(sums[0], np.finfo(float).tiny)
    criterion = np.log(np.maximum(sums, floor)) + GAIN * np.arange(1, most + 1)
    chosen_bins = most if bins is not None else int(criterion.argmin()) + 1
    edges, last = [], len(value) - 1
    for layer in range(chosen_bins - 2, -1, -1):
        begin = int(starts[layer][last])
        edges.append(value[begin])
        last = begin - 1
    return np.array(edges[::-1], dtype=float)

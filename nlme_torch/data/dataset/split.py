"""Choosing subjects: by id, or at random to train on and to test on."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlme_torch.errors import DataError


def rows_of_subjects(ids: Sequence[Any], subject: NDArray[np.int64], wanted: Iterable[Any]) -> NDArray[np.int64]:
    """The rows of some subjects, in the table's order.

    Args:
        ids: all subjects.
        subject: ``(row,)``, 0-based subject of every row.
        wanted: ids, in any order.

    Raises:
        DataError: if an id is unknown, named twice, or none is given.
    """
    if not isinstance(wanted, Iterable) or (isinstance(wanted, Tensor) and not wanted.dim()):
        raise DataError(f"subset: write a list of subjects, such as [{wanted!r:.60}].")
    named = list(wanted)
    chosen = dict.fromkeys(named)
    if len(chosen) < len(named):
        twice = next(label for label in chosen if named.count(label) > 1)
        raise DataError(
            f"subset: subject {twice!r} is named twice, and a data set holds a subject once. Batch.select and "
            "nlme.case_bootstrap draw subjects with replacement."
        )
    known = set(ids)
    unknown = [label for label in chosen if label not in known]
    if unknown or not chosen:
        say = f"there is no subject {unknown[0]!r}" if unknown else "no subject was given"
        few = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
        raise DataError(f"subset: {say}; the data set has {few}.")
    kept = np.asarray([label in chosen for label in ids])
    return np.flatnonzero(kept[subject])


def split_subjects(
    count: int, train: float | int | None, test: float | int | None, seed: int
) -> tuple[list[int], list[int]]:
    """Positions of the subjects to train on and to test on, each in increasing order.

    Args:
        count: number of subjects.
        train: share (float) or number (int) to train on; None: the rest.
        test: share or number to test on; None: the rest.
        seed: of the draw.

    Raises:
        DataError: if a part is empty or both together exceed the subjects.
    """
    if train is None and test is None:
        raise DataError("split: say how many subjects to train on (train=0.8) or to test on (test=0.2).")
    sizes = [None if part is None else _size(part, count, name) for part, name in ((train, "train"), (test, "test"))]
    first = sizes[0] if sizes[0] is not None else count - (sizes[1] or 0)
    second = sizes[1] if sizes[1] is not None else count - first
    if first < 1 or second < 1 or first + second > count:
        raise DataError(
            f"split: {first} subjects to train on and {second} to test on cannot be drawn from {count}; each "
            "part needs one subject at least."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[:first]), sorted(order[first : first + second])


def _size(part: float | int, count: int, name: str) -> int:
    if isinstance(part, int):
        return part
    if not 0 < part < 1:
        raise DataError(f"split: {name}={part!r} is neither a share between 0 and 1 nor a whole number of subjects.")
    return round(part * count)

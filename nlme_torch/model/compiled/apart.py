"""Whether records and subjects are apart: what is written out for one of each must be what is written out for more."""

from collections.abc import Iterator

import numpy as np

from nlme_torch.model.compiled.written import Written, write_out
from nlme_torch.model.density.density import Conditional
from nlme_torch.solve.kernel.program import Ref
from nlme_torch.solve.kernel.reading import NotScalarError

_LOG_DENSITIES, _MODIFIERS = 0, 7
"""Which groups of results may have an axis of records."""


def refuse_coupled(conditional: Conditional, infusions: bool, moved: bool) -> None:
    """Write a model out for two subjects with two records, and compare each of the four with one subject's one record.

    A sum over records, the first time of a subject, or a mean over subjects mean nothing where there is one of each. A
    comparison of numbers sees them where they are evaluated, not in the branch of a ``torch.where`` that is taken
    only when parameters have moved; what is written out holds both branches.

    Args:
        conditional: Densities at some parameters, for the shapes of what is read.
        infusions: Whether anything is infused into linear compartments.
        moved: Whether parameters move or change doses.

    Raises:
        NotScalarError: A record feels another one, or a subject feels another one.
    """
    one = write_out(conditional, infusions, moved=moved)
    several = write_out(conditional, infusions, moved=moved, size=2)
    expected = list(_described(one, 0, 0))
    for record, subject in np.ndindex(2, 2):
        if list(_described(several, record, subject)) != expected:
            raise NotScalarError("records or subjects seem to depend on each other")


def _described(written: Written, record: int, subject: int) -> Iterator[object]:
    """What is done for one subject at one record, result by result: the same where it is the same."""
    meanings = _meanings(written, record, subject)
    for number, group in enumerate(written.groups):
        for array in group:
            there = array
            if number == _LOG_DENSITIES or (number == _MODIFIERS and array.ndim == 4):
                there = np.broadcast_to(array, (written.size, *array.shape[1:]))[min(record, written.size - 1)]
            if there.ndim and there.shape[-1] == written.size:
                there = there[..., min(subject, written.size - 1)]
            yield tuple(meanings[x.index] if isinstance(x, Ref) else repr(x) for x in there.reshape(-1))


def _meanings(written: Written, record: int, subject: int) -> list[int]:
    """A number for what each instruction does, in which the inputs of this subject and record are like any other's."""
    size, found = written.size, []
    shared = range(2 * written.counts[0], 2 * written.counts[0] + written.counts[1])
    for name, operands in written.program.instructions:
        if name == "input":
            kind, number = str(operands[0]), int(operands[1])  # type: ignore[call-overload]
            position, place = divmod(number, size * size)
            of_record, of_subject = divmod(place, size)
            one_record = kind == "own" or position == written.counts[3]  # the time that has passed is of one record
            mine = of_subject == subject and (one_record or of_record == record)
            if kind == "own" and position in shared:
                mine = True
            found.append(hash((kind, position) if mine else (kind, position, of_record, of_subject)))
        else:
            found.append(hash((name, *(found[x.index] if isinstance(x, Ref) else repr(x) for x in operands))))
    return found

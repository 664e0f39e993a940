"""The moments at which a straight line is zero or a whole number, apart from all other stops."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MOST_SWITCHES = 10_000
"""Of one subject between two records: more is a mistake, and would not end."""
# a switch that meets another stop acts this much later, as a fraction of the subject's time: ties hide gradients
APART = 1e-8
SAME = 1e-12
"""Relative distance of two moments that rounding may set between them."""


@dataclass(frozen=True)
class Moments:
    """Moments at which something switches, in no order.

    Attributes:
        times: ``(moment, *batch)`` [time].
        acts: ``(moment, *batch)`` [time], the same so far from stops and each other that no two are at one time.
        owner: ``(moment, *batch)``, number of the line.
        interval: ``(moment, *batch)``, the stop that each follows.
        there: ``(moment, *batch)``, False for one that is none.
        moves: ``(moment, *batch)``, True where the time may depend on parameters.
        endless: ``(*batch)``, True for subjects that switch too often.
    """

    times: Tensor
    acts: Tensor
    owner: Tensor
    interval: Tensor
    there: Tensor
    moves: Tensor
    endless: Tensor


def zero_moments(begin: Tensor, end: Tensor, times: Tensor, moves: bool, owner: int = 0) -> Moments:
    """Where a line is 0.

    Args:
        begin: ``(interval, *batch)``, its value at the beginning of every interval.
        end: The same at the ends.
        times: ``(stop, *batch)`` [time], the ends of the intervals.
        moves: Whether the moments may depend on parameters.
        owner: Number of the line.
    """
    there = ((begin <= 0) & (end > 0)) | ((begin >= 0) & (end < 0))
    begin, end = torch.where(there, begin, 0.0), torch.where(there, end, 1.0)
    length = times[1:] - times[:-1]
    interval = torch.arange(len(length), device=times.device).reshape(-1, *(1,) * (times.ndim - 1))
    when = times[:-1] + length * (begin / (begin - end))
    return Moments(
        times=when,
        acts=when,
        owner=torch.full(there.shape, owner, device=there.device),
        interval=interval.expand_as(there),
        there=there,
        moves=torch.full_like(there, moves),
        endless=torch.zeros_like(there[0].reshape(-1, *times.shape[1:])[0]),
    )


def whole_moments(begin: Tensor, end: Tensor, times: Tensor, moves: bool, owner: int = 0) -> Moments:
    """Where a line is a whole number; arguments as of :func:`zero_moments`."""
    with torch.no_grad():
        rises = end > begin
        first = torch.where(rises, begin.ceil(), begin.floor())
        count = torch.where(rises, end.ceil() - first, first - end.floor()).nan_to_num(0.0, torch.inf, 0.0)
        endless = count.sum(0) > MOST_SWITCHES
        most = max(int(torch.where(endless, 0.0, count).max()), 1)
        number = torch.arange(most, dtype=times.dtype, device=times.device).reshape(-1, *(1,) * times.ndim)
        level = torch.where(endless, torch.inf, torch.where(rises, first + number, first - number))
    found = zero_moments(begin - level, end - level, times, moves, owner)
    return replace(_each(found, lambda value: value.flatten(0, 1)), endless=endless)


def _each(moments: Moments, function: Callable[[Tensor], Tensor]) -> Moments:
    """Apply a function to what each moment has."""
    return Moments(
        times=function(moments.times),
        acts=function(moments.acts),
        owner=function(moments.owner),
        interval=function(moments.interval),
        there=function(moments.there),
        moves=function(moments.moves),
        endless=moments.endless,
    )


def together(moments: Collection[Moments], times: Tensor) -> Moments:
    """Join moments and order them.

    Args:
        moments: Those of several lines.
        times: ``(stop, *batch)`` [time], the stops there are.

    Returns:
        Those that need a stop, in order, as many as the subject with most of them has.
    """
    return _apart(times, _fewest(times, _joined(moments)))


def _joined(moments: Collection[Moments]) -> Moments:
    return Moments(
        times=torch.cat([one.times for one in moments]),
        acts=torch.cat([one.acts for one in moments]),
        owner=torch.cat([one.owner for one in moments]),
        interval=torch.cat([one.interval for one in moments]),
        there=torch.cat([one.there for one in moments]),
        moves=torch.cat([one.moves for one in moments]),
        endless=torch.stack([one.endless for one in moments]).any(0),
    )


def _fewest(times: Tensor, moments: Moments) -> Moments:
    """The moments in order, without places where there is none; at a stop a time that cannot move needs no other."""
    begin, end = times.gather(0, moments.interval), times.gather(0, moments.interval + 1)
    when = moments.times.detach()
    nearest = torch.minimum(when - begin, end - when)
    there = moments.there & (moments.moves | (nearest > SAME * torch.maximum(begin.abs(), end.abs())))
    order = torch.where(there, when, torch.inf).argsort(dim=0, stable=True)[: int(there.sum(0).max())]
    return _each(replace(moments, there=there), lambda value: value.gather(0, order))


@torch.no_grad()
def _shifted(times: Tensor, moments: Moments) -> Tensor:
    """Moments so far from stops, and from each other, that no two are at one time."""
    begin, end = times.gather(0, moments.interval), times.gather(0, moments.interval + 1)
    length = times[1:] - times[:-1]
    shortest = torch.where(length > 0, length, torch.inf).amin(0)
    least = torch.minimum(APART * (times[-1] - times[0]), shortest / 4) / (len(moments.times) + 1)
    moves = moments.moves & moments.there
    between = torch.minimum(torch.maximum(moments.times, begin + least), end - (len(moments.times) + 1) * least)
    when = torch.where(moves, between, moments.times)
    steps = torch.where(moves, least, 0.0).cumsum(0)
    ordered = (torch.where(moments.there, when, torch.inf) - steps).cummax(0).values + steps
    return torch.where(moves, ordered, moments.times)


def _apart(times: Tensor, moments: Moments) -> Moments:
    if not len(moments.times):
        return moments
    return replace(moments, acts=moments.times + (_shifted(times, moments) - moments.times).detach())

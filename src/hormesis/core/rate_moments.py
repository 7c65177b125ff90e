"""Moments that were reserved under a rate limit and given back, for others to use.

Whoever reserved later relies on a moment of its own, so one that is given back in the middle can't be undone: the limit
would let two callers through at the same time. It is kept instead, and the next caller that it fits takes it over.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import OrderedDict

__all__ = ["Moment", "Moments"]

_MOST = 10_000
"""Moments that are kept, over all keys; one that is dropped is lost to those who come."""
_LOOKED_AT = 32
"""Moments of a key that are tried for a call that costs more than the first of them is good for."""


@dataclasses.dataclass(slots=True, order=True)
class Moment:
    """From when to when it is good, and for how much."""

    due: float
    until: float
    cost: int


class Moments:
    """Moments by key; a key that has none takes no room.

    Attributes:
        by_key: The moments of each key that has any, by when they are due.

    >>> moments = Moments()
    >>> moments.add("acme", Moment(2.0, 3.0, cost=5))
    >>> moments.take("acme", 1, now=1.0, by=1.5), moments.take("acme", 1, now=1.0, by=2.5)
    (None, 2.0)
    """

    __slots__ = ("_size", "by_key")

    def __init__(self) -> None:
        self.by_key: OrderedDict[str, list[Moment]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: str, moment: Moment) -> None:
        """Keep a moment; when there are too many, those of the key that has had some for the longest go."""
        bisect.insort(self.by_key.setdefault(key, []), moment)
        self._size += 1
        if self._size > _MOST:
            _, dropped = self.by_key.popitem(last=False)
            self._size -= len(dropped)

    def find(self, key: str, cost: int, now: float, by: float) -> Moment | None:
        """Return the first moment that is good for so much and comes by then."""
        if key not in self.by_key:
            return None
        moments = self.by_key[key]
        passed = next((at for at, moment in enumerate(moments) if moment.until >= now), len(moments))
        self._drop(key, slice(passed))
        fitting = (moment for moment in moments[:_LOOKED_AT] if moment.cost >= cost and moment.until >= now)
        found = next(fitting, None)
        return found if found is not None and found.due <= by else None

    def take(self, key: str, cost: int, now: float, by: float) -> float | None:
        """Use so much of the first moment that is good for it and comes by then; returns when it is due."""
        moment = self.find(key, cost, now, by)
        if moment is None:
            return None
        moment.cost -= cost
        if not moment.cost:
            at = self.by_key[key].index(moment)
            self._drop(key, slice(at, at + 1))
        return moment.due

    def last(self, key: str) -> Moment | None:
        """Return the moment of a key that is due last."""
        return self.by_key[key][-1] if key in self.by_key else None

    def drop_last(self, key: str) -> None:
        """Drop the moment of a key that is due last."""
        self._drop(key, slice(-1, None))

    def clear(self) -> None:
        """Drop all."""
        self.by_key.clear()
        self._size = 0

    def _drop(self, key: str, which: slice) -> None:
        moments = self.by_key[key]
        before = len(moments)
        del moments[which]
        self._size -= before - len(moments)
        if not moments:
            del self.by_key[key]

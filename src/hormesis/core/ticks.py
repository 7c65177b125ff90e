"""A counter that threads advance without a lock, and read under one.

Drawing the next number of an `itertools.count` is one atomic step in C; it is all that counting a success costs.
There is no way to look at such a counter without drawing from it, so readings draw too, and are taken off again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

__all__ = ["Ticks", "new_counter"]


def new_counter() -> Callable[[], int]:
    """Return what draws from a new counter: 0, 1, 2 …, from any thread."""
    return itertools.count().__next__


class Ticks:
    """Counts calls: `ticks.draw()` from any thread; `read` and `advance` only under the owner's lock.

    Args:
        draw: Draws from a counter that may have been drawn from already; a new one by default.

    >>> ticks = Ticks()
    >>> _ = ticks.draw(), ticks.draw()
    >>> ticks.read(), ticks.read()
    (2, 2)
    """

    __slots__ = ("_reads", "draw")

    def __init__(self, draw: Callable[[], int] | None = None) -> None:
        self.draw = new_counter() if draw is None else draw
        self._reads = 0

    def read(self) -> int:
        """Return how often it was advanced."""
        value = self.draw() - self._reads
        self._reads += 1
        return value

    def advance(self) -> int:
        """Advance it by one and return what it stood at before."""
        return self.draw() - self._reads

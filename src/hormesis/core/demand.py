"""Demand: how many items a receiver has asked for, so that a sender never sends what nobody asked for.

`Demand` is the sender's side: what was asked for adds up, and each item takes one off. `Replenishment` is the
receiver's: it asks for a prefetch at first, and for more in one go when so much of it is used up, so that asking costs
next to nothing and the sender still doesn't run dry. Credits over a wire are the same arithmetic.

Demand of 2^63 - 1 means without a bound: it is not used up any more.

Source: Reactive Streams 1.0.4, rules 1.1, 3.8 and 3.17 (https://github.com/reactive-streams/reactive-streams-jvm).
"""

from __future__ import annotations

from hormesis.core.admission import Lock

__all__ = ["UNBOUNDED", "Demand", "Replenishment"]

UNBOUNDED = 2**63 - 1
"""A demand that is as good as endless."""


class Demand:
    """What was asked for and has not been sent.

    Args:
        lock: Guards it; asking and sending may be the business of different threads.

    >>> from hormesis.core.admission import NullLock
    >>> demand = Demand(NullLock())
    >>> demand.add(2), demand.add(1), demand.take(), demand.left
    (2, 3, 1, 2)
    """

    __slots__ = ("_left", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._left = 0
        self._lock = lock

    @property
    def left(self) -> int:
        """How many may be sent."""
        return self._left

    def add(self, n: int) -> int:
        """Ask for `n` more, at least one; returns what is asked for now."""
        with self._lock:
            self._left = min(self._left + n, UNBOUNDED)
            return self._left

    def take(self, n: int = 1) -> int:
        """Use up demand for at most `n` items, and return for how many there was."""
        with self._lock:
            taken = min(n, self._left)
            if self._left != UNBOUNDED:
                self._left -= taken
            return taken

    def clear(self) -> None:
        """Forget all that was asked for: whoever asked has gone."""
        with self._lock:
            self._left = 0


class Replenishment:
    """When a receiver asks for more, and for how much.

    Args:
        prefetch: How many it asks for at first, and so the most that is ever on its way or waiting.
        low: It asks again when no more than so many are outstanding; by default a quarter of the prefetch.

    >>> asks = Replenishment(4, low=1)
    >>> asks.first, [asks.consumed() for _ in range(6)]
    (4, [0, 0, 3, 0, 0, 3])
    """

    __slots__ = ("_after", "_used", "first")

    def __init__(self, prefetch: int, low: int | None = None) -> None:
        self.first = prefetch
        self._after = max(1, prefetch - (prefetch // 4 if low is None else low))
        self._used = 0

    def consumed(self, n: int = 1) -> int:
        """Tell that `n` items were used up; returns how many to ask for now, often none."""
        if self.first >= UNBOUNDED:
            return 0
        self._used += n
        if self._used < self._after:
            return 0
        more, self._used = self._used, 0
        return more

"""What was handed over for a reader and was not sent yet: a reader that lets it grow too far is not worth its memory.

Three bounds: how many items, how many bytes, and for how long the oldest of them has stood there. The first two catch a
reader that is slower than what is sent, the third one that has stopped. What is on its way counts until it was sent.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Literal, NamedTuple, TypeVar

from hormesis.core.admission import Lock

__all__ = ["Behind", "Unsent", "UnsentMachine"]

T = TypeVar("T")

Behind = Literal["items", "bytes", "time"]
"""Which bound a reader has broken."""


class Unsent(NamedTuple, Generic[T]):
    """One item that was not sent yet."""

    item: T
    size: int
    since: float


class UnsentMachine(Generic[T]):
    """Keeps what is not sent yet, in order.

    Args:
        max_items: Items that it keeps at most.
        max_bytes: Bytes that they have at most; None when they don't count.
        max_wait: Seconds that the oldest may stand there.
        lock: Guards it.

    >>> from hormesis.core.admission import NullLock
    >>> unsent = UnsentMachine(max_items=1, max_bytes=None, max_wait=5.0, lock=NullLock())
    >>> unsent.add("a", 1, now=0.0), unsent.add("b", 1, now=1.0), unsent.late(5.0)
    (None, 'items', True)
    """

    __slots__ = ("_lock", "_max_bytes", "_max_items", "_max_wait", "_unsent", "size")

    def __init__(self, *, max_items: int, max_bytes: int | None, max_wait: float, lock: Lock) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_wait = max_wait
        self._lock = lock
        self._unsent: deque[Unsent[T]] = deque()
        self.size = 0
        """Bytes that are not sent."""

    def __len__(self) -> int:
        return len(self._unsent)

    @property
    def due(self) -> float:
        """The moment by which the oldest must have been sent; infinity when there is none."""
        with self._lock:
            return self._unsent[0].since + self._max_wait if self._unsent else math.inf

    def add(self, item: T, size: int, now: float) -> Behind | None:
        """Keep another item, or say which bound it would break; a reader that is late breaks that of time."""
        with self._lock:
            if self._late(now):
                return "time"
            if len(self._unsent) >= self._max_items:
                return "items"
            if self._max_bytes is not None and self.size + size > self._max_bytes:
                return "bytes"
            self._unsent.append(Unsent(item, size, now))
            self.size += size
            return None

    def first(self) -> Unsent[T] | None:
        """The one that is to be sent next, or is on its way."""
        with self._lock:
            return self._unsent[0] if self._unsent else None

    def sent(self) -> None:
        """The first was sent."""
        with self._lock:
            self.size -= self._unsent.popleft().size

    def late(self, now: float) -> bool:
        """Whether the oldest has stood there for too long."""
        with self._lock:
            return self._late(now)

    def rest(self) -> list[T]:
        """What is not sent, oldest first."""
        with self._lock:
            return [each.item for each in self._unsent]

    def _late(self, now: float) -> bool:
        return bool(self._unsent) and now >= self._unsent[0].since + self._max_wait

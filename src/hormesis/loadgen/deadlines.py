"""Deadlines of very many exchanges with one timer: nearly all of them end in time, and cost a push onto a heap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import Generic, Protocol, TypeVar

__all__ = ["Deadlines"]

_ENDED_MAX = 4096
"""Ended exchanges that are kept before it is worth looking how many there are."""


class Ends(Protocol):
    """What has a deadline, until it has ended."""

    ended: bool


T = TypeVar("T", bound=Ends)


class Deadlines(Generic[T]):
    """Calls `expired` with each item whose moment (of the monotonic clock) has come before it ended.

    An item that has ended is forgotten when its moment comes, or when most of those that are kept have ended.
    """

    __slots__ = ("_expired", "_heap", "_loop", "_number", "_prune_at", "_timer")

    def __init__(self, expired: Callable[[T], None]) -> None:
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, T]] = []
        self._number = 0  # tells apart what has the same moment, in the order in which it came
        self._prune_at = _ENDED_MAX
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[T]:
        return (item for _, _, item in list(self._heap) if not item.ended)

    def add(self, moment: float, item: T) -> None:
        """Watch an item."""
        heap = self._heap
        if len(heap) >= self._prune_at:
            heap[:] = [entry for entry in heap if not entry[2].ended]
            heapify(heap)
            self._prune_at = 2 * len(heap) + _ENDED_MAX
        self._number += 1
        heappush(heap, (moment, self._number, item))
        if self._timer is None or heap[0][2] is item:
            self._arm()

    def close(self) -> None:
        """Forget all items."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, self._heap[0][0] - monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        heap = self._heap
        # One at a time, since whoever is told may add others.
        while heap and (heap[0][2].ended or heap[0][0] <= monotonic()):
            _, _, item = heappop(heap)
            if not item.ended:
                self._expired(item)
        if heap and self._timer is None:
            self._arm()

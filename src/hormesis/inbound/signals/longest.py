"""Several queueing delays, of which the longest counts.

A request waits for the event loop, then for a thread. Were the samples of both thrown together, the hundred a second of
a loop that is never late would hide the twenty of a pool that is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from hormesis.inbound.signals.tickers import ObserveTimes

__all__ = ["Longest", "Source"]

_HOLDS = 0.25
"""Seconds for which a source's word holds; each that is awake speaks many times in that."""


class Source(Protocol):
    """Takes what a source says: seconds, and how often they count."""

    def __call__(self, seconds: float, times: int = 1, /) -> object:
        """Say it."""
        ...


class Longest:
    """Hands on the longest of what its sources say now, each time that one of them speaks.

    Args:
        observe: Takes it, in seconds, and how often it counts.
        now: The time.

    >>> heard = []
    >>> longest = Longest(lambda seconds, times: heard.append((seconds, times)), now=lambda: 0.0)
    >>> loop, pool = longest.source(), longest.source()
    >>> pool(0.2), loop(0.0, 3), heard
    (None, None, [(0.2, 1), (0.2, 3)])
    """

    __slots__ = ("_now", "_observe", "_said")

    def __init__(self, observe: ObserveTimes, *, now: Callable[[], float] = time.monotonic) -> None:
        self._observe = observe
        self._now = now
        self._said: list[tuple[float, float]] = []
        """Of each source, the seconds that it spoke of last, and until when they hold."""

    def source(self) -> Source:
        """Return what another source reports to; from any thread."""
        index = len(self._said)
        self._said.append((0.0, 0.0))

        def observe(seconds: float, times: int = 1) -> None:
            now = self._now()
            self._said[index] = seconds, now + _HOLDS
            self._observe(max([said for said, until in self._said if now < until]), times)

        return observe

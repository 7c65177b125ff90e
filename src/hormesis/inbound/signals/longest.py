"""Several queueing delays, of which the longest counts.

A request waits for the event loop, then for a thread. Were the samples of both thrown together, the hundred a second of
a loop that is never late would hide the twenty of a pool that is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hormesis.inbound.signals.tickers import Observe

__all__ = ["Longest"]

_HOLDS = 0.25
"""Seconds for which a source's word holds; each that is awake speaks many times in that."""


class Longest:
    """Hands on the longest of what its sources say now, each time that one of them speaks.

    Args:
        observe: Takes it, in seconds.
        now: The time.

    >>> heard = []
    >>> longest = Longest(heard.append, now=lambda: 0.0)
    >>> loop, pool = longest.source(), longest.source()
    >>> pool(0.2), loop(0.0), heard
    (None, None, [0.2, 0.2])
    """

    __slots__ = ("_now", "_observe", "_said")

    def __init__(self, observe: Observe, *, now: Callable[[], float] = time.monotonic) -> None:
        self._observe = observe
        self._now = now
        self._said: list[tuple[float, float]] = []
        """Of each source, the seconds that it spoke of last, and until when they hold."""

    def source(self) -> Observe:
        """Return what another source reports to; from any thread."""
        index = len(self._said)
        self._said.append((0.0, 0.0))

        def observe(seconds: float) -> None:
            now = self._now()
            self._said[index] = seconds, now + _HOLDS
            self._observe(max([said for said, until in self._said if now < until]))

        return observe

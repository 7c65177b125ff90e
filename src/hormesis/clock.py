"""Time and randomness as things that are handed in.

Nothing below the shells reads a clock or draws a number by itself, so the same code serves threads, asyncio, the
simulator and tests on virtual time. The clock is monotonic: wall clocks jump, and a resilience library that believes
them opens breakers at the end of summer time.
"""

from __future__ import annotations

import random
import time
from typing import Protocol

__all__ = ["MONOTONIC", "Clock", "MonotonicClock", "Random", "system_random"]


class Clock(Protocol):
    """A monotonic clock and the two ways to wait on it."""

    def now(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block the calling thread."""
        ...

    async def sleep_async(self, seconds: float, /) -> None:
        """Suspend the calling task."""
        ...


class Random(Protocol):
    """A source of uniform random numbers; `random.Random` is one."""

    def random(self) -> float:
        """The next number in [0, 1)."""
        ...


class MonotonicClock:
    """The machine's own clock.

    >>> clock = MonotonicClock()
    >>> clock.now() <= clock.now()
    True
    """

    __slots__ = ()

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    async def sleep_async(self, seconds: float) -> None:
        """Suspend the calling task on the running loop's clock, which is monotonic too."""
        import asyncio  # noqa: PLC0415  half of the library's import time, for those who are in a loop already

        await asyncio.sleep(seconds)


MONOTONIC = MonotonicClock()
"""The clock that policies use unless they are given another."""


def system_random() -> Random:
    """Return a generator of its own, seeded by the operating system, so that no two clients jitter alike."""
    return random.Random()

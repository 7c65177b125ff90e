"""Lag: how late comes what is due.

A timer of an event loop that comes late has stood behind callbacks that took long; so does everything else there. A
thread that sleeps too long has waited for the interpreter or for a processor; so do all the others.

Nothing comes exactly when it is due. Clocks and timers are rounded, by up to a millisecond, and waking takes a while.
So much is no lag, and each probe finds out how much it is: the least lateness of the last few hundred samples. That is
bounded, since in a service that is overloaded for minutes even the least of them is lag. What other threads take by
computing is lag: the work waits for the interpreter, whoever has it.

A probe that is late asks less often, and so the samples of a bad time are few: their mean is less than half of what
work really waits. One that came as late as ten intervals therefore counts as eleven, the ten that it missed and itself.
The mean is then one over time, which is what requests meet that come when they come. In simulation it is 1.0 to 1.2
times the time that tasks wait for a loop, from half of its load to twice as much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hormesis.clock import MONOTONIC, Clock
from hormesis.inbound.signals.tickers import Busy, LoopTicker, ObserveTimes, ThreadTicker
from hormesis.units import Duration, seconds

__all__ = ["EVERY", "Lateness", "LoopLag", "ThreadLag"]

EVERY = 0.01
"""Seconds between samples: ten in the shortest window that anybody looks at, and a hundred wake-ups a second, half a
per mille of one processor."""

_SPAN = 100
"""A second of samples, so that what is natural on another host is learned as soon as that."""

_NATURAL_MAX = 0.002
"""Seconds of lateness that may be natural: twice the millisecond to which timers are rounded."""


_COUNTS_MAX = 100
"""What one sample counts at most: a second of lateness, which is an outage, whatever the mean is."""


class Lateness:
    """Tells lag from the lateness that clocks and timers have by nature.

    Args:
        span: Samples of which the least is natural; those of two spans count, this one and the one before.
        natural_max: Seconds of lateness that may be natural.

    >>> lateness = Lateness()
    >>> [round(lateness.lag(late), 4) for late in (0.001, 0.0012, 0.101)]
    [0.0, 0.0002, 0.1]
    """

    __slots__ = ("_before", "_least", "_natural_max", "_samples", "_span")

    def __init__(self, *, span: int = _SPAN, natural_max: float = _NATURAL_MAX) -> None:
        self._span = span
        self._natural_max = natural_max
        self._samples = 0
        self._before = math.inf
        self._least = math.inf

    def lag(self, late: float) -> float:
        """Return the part of a lateness, in seconds, that is lag."""
        if self._samples >= self._span:
            self._before, self._least, self._samples = self._least, math.inf, 0
        self._samples += 1
        self._least = min(self._least, max(0.0, late))
        return max(0.0, late - min(self._least, self._before, self._natural_max))


def _times(late: float, every: float) -> int:
    """For how many samples one stands that was so late."""
    return min(_COUNTS_MAX, 1 + round(max(0.0, late) / every))


class LoopLag:
    """Measures how late the running event loop is.

    Its verbs are for the thread of the loop, of asyncio or uvloop.

    Args:
        observe: Takes each sample, in seconds, and for how many it stands: one that was very late made the probe miss
            others.
        busy: Whether anything is in flight; while nothing is, the probe sleeps.
        every: Time between samples.
        clock: The time; for tests.

    >>> import asyncio
    >>> async def main() -> bool:
    ...     samples, requests = [], [1]
    ...     lag = LoopLag(lambda lag, times: samples.append(lag), busy=lambda: requests)
    ...     lag.start()
    ...     lag.wake()                      # a request has come in
    ...     await asyncio.sleep(0.001)
    ...     time.sleep(0.05)                # and computes, where it should not
    ...     await asyncio.sleep(0.001)
    ...     lag.stop()
    ...     return max(samples) > 0.03
    >>> asyncio.run(main())
    True
    """

    __slots__ = ("_every", "_lateness", "_observe", "_ticker", "start", "stop", "wake")

    def __init__(self, observe: ObserveTimes, *, busy: Busy, every: Duration = EVERY, clock: Clock = MONOTONIC) -> None:
        self._observe = observe
        self._every = seconds(every, "every")
        self._lateness = Lateness()
        self._ticker = LoopTicker(
            self._tick, every=self._every, busy=busy, clock=clock, name="the lag of the event loop"
        )
        self.start = self._ticker.start
        self.stop = self._ticker.stop
        self.wake = self._ticker.wake

    def _tick(self, late: float) -> None:
        self._observe(self._lateness.lag(late), _times(late, self._every))


class ThreadLag:
    """Measures how long a thread that could go on waits for the interpreter or for a processor.

    It has a daemon thread, which begins with the first `wake`, and which sleeps and looks how much longer that took.
    Its verbs may be called by any thread. After a fork it begins anew with the next `wake`.

    Args:
        observe: Takes each sample, in seconds, and for how many it stands, in the probe's thread.
        busy: Whether anything is in flight; while nothing is, the probe sleeps.
        every: Time between samples.
        sleep, now: How to wait, and the time; for tests.

    >>> samples, requests = [], [1]
    >>> lag = ThreadLag(lambda lag, times: samples.append(lag), busy=lambda: requests)
    >>> lag.start(); lag.wake()
    >>> while not samples:
    ...     time.sleep(0.001)
    >>> lag.stop()
    """

    __slots__ = ("_every", "_lateness", "_observe", "_ticker", "start", "stop", "wake")

    def __init__(
        self,
        observe: ObserveTimes,
        *,
        busy: Busy,
        every: Duration = EVERY,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe = observe
        self._every = seconds(every, "every")
        self._lateness = Lateness()
        self._ticker = ThreadTicker(
            self._tick, every=self._every, busy=busy, sleep=sleep, now=now, name="the lag of threads"
        )
        self.start = self._ticker.start
        self.stop = self._ticker.stop
        self.wake = self._ticker.wake

    def _tick(self, late: float) -> None:
        self._observe(self._lateness.lag(late), _times(late, self._every))

"""How much may be in flight at a time, found out while it runs.

Three objects with one job each. An *algorithm* keeps a limit, and moves it when a window of observations is complete.
`Windowing` collects the observations of many calls into windows. Whoever *admits* compares what is in flight with the
limit, and is not here.

The algorithm of choice watches the *queueing delay*, the time that work which could go on stands waiting: for an event
loop, a thread, a processor. It is the one signal that means overload and nothing else. A latency means that as well,
but also a slow dependency, a cold cache, a larger request: rules that compare latencies with a baseline learn the
overload as their baseline, or starve a service whose dependency got slower.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from hormesis.core.admission import Lock

__all__ = ["Algorithm", "Fixed", "Move", "QueueDelay", "Window", "Windowing"]

_GROWTH = 0.1
_GROWTH_LEAST = 2.0
"""What a limit grows by at most in a window, as a share of it, or calls if that is more. A service that answers in a
millisecond has a hundred round trips in a window, and one that nobody took for an hour is no hour of observations."""

_TRIPS_DOWN = 2.0
"""Round trips of a window that count at most for falling, so that a stall of a quick service is no overload."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was observed in a stretch of time.

    Args:
        seconds: How long it was.
        ended: Calls that ended well in it; their latencies are what the next four are of.
        latency_min, latency_mean: Seconds; infinity and 0 when none ended.
        in_flight_max: The most that were in flight at once.
        limited: Whether a call was refused or had to wait because of the limit.
        dropped: Calls that took too long, or were refused further in.
        delay: The mean queueing delay in seconds; None when nothing measured it.
    """

    seconds: float
    ended: int = 0
    latency_min: float = math.inf
    latency_mean: float = 0.0
    in_flight_max: int = 0
    limited: bool = False
    dropped: int = 0
    delay: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """A limit was so much, and is so much now."""

    before: float
    after: float
    reason: str


class Algorithm(Protocol):
    """Keeps a limit."""

    limit: float
    """How many may be in flight at a time."""

    def update(self, window: Window) -> None:
        """Take a window of observations, and move the limit."""
        ...


class Windowing:
    """Collects observations into windows.

    A window is complete when it is long enough and holds enough: a short one says little, and one with three calls
    in it less. Without calls it is complete after ten times its length, so that delays alone are heard as well.

    Args:
        seconds: How long a window is at least.
        calls: How many calls end in it at least.
        now: When the first one begins.
        lock: Guards it.

    >>> from hormesis.core.admission import NullLock
    >>> windowing = Windowing(seconds=0.1, calls=2, now=0.0, lock=NullLock())
    >>> windowing.ended(0.020, in_flight=1), windowing.ended(0.040, in_flight=2)
    (None, None)
    >>> windowing.take(0.05) is None, windowing.take(0.1).latency_mean
    (True, 0.03)
    """

    __slots__ = (
        "_began",
        "_calls",
        "_delay_sum",
        "_delays",
        "_dropped",
        "_ended",
        "_in_flight",
        "_latency_min",
        "_latency_sum",
        "_limited",
        "_lock",
        "_seconds",
        "due",
    )

    def __init__(self, *, seconds: float, calls: int, now: float, lock: Lock) -> None:
        self._seconds = seconds
        self._calls = calls
        self._lock = lock
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began = now
        self.due = now + self._seconds
        """When `take` may have something; before, asking is in vain."""
        self._ended = 0
        self._latency_sum = 0.0
        self._latency_min = math.inf
        self._in_flight = 0
        self._limited = False
        self._dropped = 0
        self._delay_sum = 0.0
        self._delays = 0

    def ended(self, latency: float, in_flight: int) -> None:
        """A call ended well after `latency` seconds, when so many were in flight, itself among them."""
        with self._lock:
            self._ended += 1
            self._latency_sum += latency
            self._latency_min = min(self._latency_min, latency)
            self._in_flight = max(self._in_flight, in_flight)

    def dropped(self, in_flight: int) -> None:
        """A call took too long, or was refused further in."""
        with self._lock:
            self._dropped += 1
            self._in_flight = max(self._in_flight, in_flight)

    def limited(self, in_flight: int) -> None:
        """A call was refused or had to wait because of the limit."""
        with self._lock:
            self._limited = True
            self._in_flight = max(self._in_flight, in_flight)

    def delayed(self, seconds: float, times: int = 1) -> None:
        """Something that could have gone on stood waiting for so long; it counts so often."""
        with self._lock:
            self._delay_sum += seconds * times
            self._delays += times

    def take(self, now: float) -> Window | None:
        """Return the window, if it is complete, and begin the next."""
        if now < self.due:
            return None
        with self._lock:
            seconds = now - self._began
            if seconds < self._seconds:
                return None  # another thread has just taken it
            if self._ended + self._dropped < self._calls and seconds < 10 * self._seconds:
                return None
            window = Window(
                seconds=seconds,
                ended=self._ended,
                latency_min=self._latency_min,
                latency_mean=self._latency_sum / self._ended if self._ended else 0.0,
                in_flight_max=self._in_flight,
                limited=self._limited,
                dropped=self._dropped,
                delay=self._delay_sum / self._delays if self._delays else None,
            )
            self._begin(now)
            return window


class Fixed:
    """A limit that stays as it is."""

    __slots__ = ("limit",)

    def __init__(self, limit: float) -> None:
        self.limit = float(limit)

    def update(self, window: Window) -> None:
        """Move nothing."""


class QueueDelay:
    """Additive increase while work waits less than it may, multiplicative decrease in proportion while it waits more.

        d < target:   limit += max(0.001 * limit, 1) * (1 - d / target) a round trip
        d >= target:  limit *= max(0.5, 1 - 0.02 * (d - target) / target) a round trip

    The last factor is ours: without it the limit climbs at full speed into the target and swings about it, and a limit
    that swings lets in crowds.

    It grows only while it is what holds calls back, so a quiet night does not leave a limit behind that means nothing
    in the morning. For services whose round trips are much shorter than a window, both are bounded.

    Args:
        start: The limit to begin with.
        least, most: Its bounds.
        target: The queueing delay, in seconds, to stay below; may be set anew at any time.

    Source: Cho et al., "Overload Control for µs-scale RPCs with Breakwater" (OSDI 2020).

    >>> found = QueueDelay(start=20, least=1, most=1000, target=0.040)
    >>> found.update(Window(seconds=0.1, ended=10, latency_mean=0.1, in_flight_max=20, limited=True, delay=0.080))
    >>> found.limit < 20
    True
    """

    __slots__ = ("least", "limit", "most", "target")

    def __init__(self, *, start: float, least: float, most: float, target: float) -> None:
        self.limit = float(start)
        self.least = least
        self.most = most
        self.target = target

    def update(self, window: Window) -> None:
        """Move the limit by the window's queueing delay; a window without one moves nothing."""
        delay = window.delay
        if delay is None:
            return
        trips = window.seconds / window.latency_mean if window.latency_mean else 1.0
        if delay < self.target:
            if window.limited or window.in_flight_max >= self.limit / 2:
                more = min(trips * max(0.001 * self.limit, 1.0), max(_GROWTH_LEAST, _GROWTH * self.limit))
                self.limit = min(self.most, self.limit + more * (1 - delay / self.target))
        else:
            excess = (delay - self.target) / self.target
            less = (1 - 0.02 * min(excess, 25.0)) ** min(trips, _TRIPS_DOWN)
            self.limit = max(self.least, self.limit * max(0.5, less))

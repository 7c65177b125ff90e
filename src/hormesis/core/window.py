"""Sliding windows over the outcomes of calls, O(1) per call, and without a lock for a success.

The idea: only failures are stored. Every call that ends draws a number from one counter (a *tick*; drawing it is
atomic), and that is all a success does. A failure stores its number. In a count window of the last N calls the
failures are those whose number is above `latest - N`; in a time window the counter's value at the turn of each bucket
tells how many calls the bucket saw.

The counter may be older than the window: a breaker gives calls a bare counter to draw from, and makes the window when
there is a failure to store in it. So a healthy breaker has none, and the window that comes with its first failure
knows all the same how many calls there were.

The count window slides by one call; the time window slides by one bucket (a tenth of its length).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hormesis.core.ticks import Ticks

__all__ = ["CountWindow", "Tally", "TimeWindow", "Window", "reshaped"]

_BUCKETS = 10


class Tally(NamedTuple):
    """What a window holds: calls that ended, how many of them failed, and how many were slow."""

    calls: int
    failures: int
    slow: int


_NOTHING = Tally(0, 0, 0)


class Window(Protocol):
    """What a breaker needs of a window. All verbs but `tick` want the breaker's lock held."""

    @property
    def ticks(self) -> Ticks:
        """The counter that calls draw from."""
        ...

    @property
    def tick(self) -> Callable[[], object]:
        """Counts an unremarkable success, without a lock, ..."""
        ...

    @property
    def ticks_until(self) -> float:
        """... up to this time; from then on a success is to be `record`ed like any call."""
        ...

    @property
    def in_a_row(self) -> int:
        """Failures without a success between them, up to the last failure."""
        ...

    def record(self, now: float, *, failed: bool, slow: bool) -> Tally:
        """Count any call that ended, and return what the window holds now."""
        ...

    def tally(self, now: float) -> Tally:
        """Return what the window holds."""
        ...


class _Row:
    """Failures in a row: those whose numbers follow each other without a gap."""

    __slots__ = ("_last", "length")

    def __init__(self) -> None:
        self._last = -1
        self.length = 0

    def lengthen(self, number: int) -> None:
        """Add a failure by its number; a gap begins a new row."""
        self.length = self.length + 1 if number == self._last + 1 else 1
        self._last = number


class CountWindow:
    """The last `size` calls.

    Args:
        size: How many.
        ticks: The counter, when calls have drawn from it already.
        first: The number from which its calls are looked at.

    >>> window = CountWindow(3)
    >>> for failed in (True, True, False, True): tally = window.record(0.0, failed=failed, slow=False)
    >>> tally
    Tally(calls=3, failures=2, slow=0)
    """

    __slots__ = ("_failed", "_first", "_row", "_slow", "size", "ticks")

    ticks_until = math.inf

    def __init__(self, size: int, ticks: Ticks | None = None, first: int = 0) -> None:
        self.size = size
        self.ticks = Ticks() if ticks is None else ticks
        self._first = first
        self._failed: deque[int] | None = None
        self._slow: deque[int] | None = None
        self._row = _Row()

    @property
    def tick(self) -> Callable[[], object]:
        """Counts an unremarkable success."""
        return self.ticks.draw

    @property
    def in_a_row(self) -> int:
        """Failures without a success between them, up to the last failure."""
        return self._row.length

    def record(self, now: float, *, failed: bool, slow: bool) -> Tally:
        """Count any call."""
        number = self.ticks.advance()
        if failed:
            self._row.lengthen(number)
            self._failed = self._failed or deque()
            self._failed.append(number)
        if slow:
            self._slow = self._slow or deque()
            self._slow.append(number)
        return self._tally(number + 1)

    def tally(self, now: float) -> Tally:
        """Return what the window holds."""
        return self._tally(self.ticks.read())

    def resize(self, size: int) -> None:
        """Look at more or fewer calls from now on; of those that it holds, the latest stay."""
        # Failures before this have been forgotten, so a larger window must not take those calls for successes.
        self._first = max(self._first, self.ticks.read() - self.size)
        self.size = size

    def _tally(self, ended: int) -> Tally:
        oldest = max(self._first, ended - self.size)
        return Tally(ended - oldest, _count_from(self._failed, oldest), _count_from(self._slow, oldest))


def _count_from(numbers: deque[int] | None, oldest: int) -> int:
    if numbers is None:
        return 0
    while numbers and numbers[0] < oldest:
        numbers.popleft()
    return len(numbers)


class TimeWindow:
    """The calls that ended in the last `seconds`, to a tenth of that.

    Args:
        seconds: How long.
        ticks: The counter, when calls have drawn from it already.
        first: The number from which its calls are looked at.

    >>> window = TimeWindow(10.0)
    >>> window.record(0.0, failed=True, slow=False)
    Tally(calls=1, failures=1, slow=0)
    >>> window.record(5.0, failed=False, slow=False)
    Tally(calls=2, failures=1, slow=0)
    >>> window.tally(10.5)
    Tally(calls=1, failures=0, slow=0)
    """

    __slots__ = (
        "_buckets",
        "_ends",
        "_failures",
        "_row",
        "_slow",
        "_ticks_before",
        "_total",
        "seconds",
        "ticks",
        "ticks_until",
    )

    def __init__(self, seconds: float, ticks: Ticks | None = None, first: int = 0) -> None:
        self.seconds = seconds
        self.ticks = Ticks() if ticks is None else ticks
        self._ticks_before = first
        self._failures = self._slow = 0
        # What a window holds only once something fails is made then: there may be one for each of many hosts.
        self._row: _Row | None = None
        self._total = _NOTHING
        self.ticks_until = self._ends = -math.inf
        self._buckets: deque[tuple[float, Tally]] | None = None

    @property
    def tick(self) -> Callable[[], object]:
        """Counts an unremarkable success, until the bucket is to be turned."""
        return self.ticks.draw

    @property
    def in_a_row(self) -> int:
        """Failures without a success between them, up to the last failure."""
        return 0 if self._row is None else self._row.length

    def record(self, now: float, *, failed: bool, slow: bool) -> Tally:
        """Count any call."""
        self._turn(now)
        number = self.ticks.advance()
        if failed:
            self._row = self._row or _Row()
            self._row.lengthen(number)
        self._failures += failed
        self._slow += slow
        return self._sum()

    def tally(self, now: float) -> Tally:
        """Return what the window holds."""
        self._turn(now)
        return self._sum()

    def resize(self, seconds: float) -> None:
        """Look at a longer or shorter time from now on; what it holds of that stays."""
        self.seconds = seconds
        self.ticks_until = -math.inf  # the next call begins a bucket of the new width

    def _sum(self) -> Tally:
        calls = self.ticks.read() - self._ticks_before
        return Tally(self._total.calls + calls, self._total.failures + self._failures, self._total.slow + self._slow)

    def _turn(self, now: float) -> None:
        """Close the current bucket when its time is over, and drop those that have left the window."""
        if now < self.ticks_until:
            return
        ticks = self.ticks.read()
        closed = Tally(ticks - self._ticks_before, self._failures, self._slow)
        width = self.seconds / _BUCKETS
        self.ticks_until = (now // width + 1) * width
        if closed.calls:
            self._buckets = self._buckets or deque()
            self._buckets.append((min(self._ends, self.ticks_until), closed))
            self._total = Tally(*(a + b for a, b in zip(self._total, closed, strict=True)))
        self._ticks_before, self._failures, self._slow = ticks, 0, 0
        self._ends = self.ticks_until
        # The window is the bucket that now begins and the nine before it.
        oldest_end = self.ticks_until - self.seconds + width / 2
        while self._buckets and self._buckets[0][0] < oldest_end:
            _, gone = self._buckets.popleft()
            self._total = Tally(*(a - b for a, b in zip(self._total, gone, strict=True)))


def reshaped(window: Window, *, calls: int | None, seconds: float | None) -> Window:
    """Return a window of the last `calls` or `seconds`, with what another holds if that is of the same kind.

    Calls go on drawing from the same counter.
    """
    if calls is not None:
        if isinstance(window, CountWindow):
            window.resize(calls)
            return window
        return CountWindow(calls, window.ticks, window.ticks.read())
    assert seconds is not None  # noqa: S101  a window is of calls or of seconds
    if isinstance(window, TimeWindow):
        window.resize(seconds)
        return window
    return TimeWindow(seconds, window.ticks, window.ticks.read())

"""A quantile of recent latencies, in constant memory and time.

A histogram whose buckets grow by a constant factor: bucket i holds what lies in (least * g**(i-1), least * g**i], and
stands for one value in between that is off by at most 2.5 % from any other in it. The quantile is the value of the
bucket in which the observation of rank ceil(q * n) lies.

It forgets in generations: observations go into the young one; when that has seen its share of them it becomes the old
one, and the old one is dropped. So the estimate speaks of the last `window / 2` to `window` observations, however fast
they come.

Recording is an append to a bounded deque, which takes no lock. Every few observations whoever comes by counts them
into the buckets, under the lock, and the estimate is read as an attribute.

Source: Masson, Rim, Lee, "DDSketch" (VLDB 2019), for the buckets.
"""

from __future__ import annotations

import math
from collections import deque

from hormesis.core.admission import Lock

__all__ = ["MovingQuantile"]

RELATIVE_ERROR = 0.025
"""How far an estimate is off at most, as a share of the true value."""

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GROWTH)
_LEAST = 1e-6
"""Seconds; what is faster counts as this."""
_MOST = 86_400.0
"""Seconds; what is slower counts as this."""
_BUCKETS = math.ceil(math.log(_MOST / _LEAST) * _PER_LOG) + 1

_BATCH = 32
"""Observations that are counted at a time: few enough to be recent, many enough that the lock costs next to nothing."""
_UNCOUNTED_MAX = 1024
"""What may wait to be counted; if threads are faster than that, the oldest are lost, and nobody waits."""

_WINDOW_LEAST = 2000
_BEYOND = 100
"""The window is wide enough to hold so many observations beyond the quantile; fewer would make it jump about."""


class MovingQuantile:
    """The q-quantile of the latest observations.

    Args:
        quantile: Which one, such as 0.95.
        minimum: Observations that must have come before it means anything.
        lock: Guards the counting.

    >>> from hormesis.core.admission import NullLock
    >>> latencies = MovingQuantile(quantile=0.5, minimum=3, lock=NullLock())
    >>> latencies.record(0.010), latencies.record(0.020), latencies.value
    (None, None, None)
    >>> latencies.record(0.900)
    >>> round(latencies.value, 3)
    0.02
    """

    __slots__ = (
        "_both",
        "_due",
        "_highest",
        "_lock",
        "_minimum",
        "_old",
        "_quantile",
        "_seen",
        "_uncounted",
        "_young",
        "value",
    )

    def __init__(self, *, quantile: float, minimum: int, lock: Lock) -> None:
        self._quantile = quantile
        self._minimum = minimum
        self._lock = lock
        self._uncounted: deque[float] = deque(maxlen=_UNCOUNTED_MAX)
        self._young: list[int] = []
        self._old: list[int] = []
        self._both: list[int] = []
        self._highest = 0
        """No bucket beyond this one was ever in use."""
        self._seen = [0, 0]  # in the young generation, and in the old one
        self._due = min(_BATCH, minimum)
        self.value: float | None = None
        """The estimate in seconds; None until there have been enough observations."""

    @property
    def window(self) -> int:
        """Observations that are remembered at most; at least half as many are."""
        return max(_WINDOW_LEAST, math.ceil(_BEYOND / (1 - self._quantile)))

    def record(self, seconds: float) -> None:
        """Take an observation; any thread, and hardly ever a lock."""
        self._uncounted.append(seconds)
        if len(self._uncounted) >= self._due:
            self.count()

    def count(self) -> None:
        """Count what was recorded, and estimate anew."""
        with self._lock:
            self._count()

    def reconfigure(self, *, quantile: float, minimum: int) -> None:
        """Estimate another quantile of the same observations."""
        with self._lock:
            self._quantile = quantile
            self._minimum = minimum
            self._count()

    def _count(self) -> None:
        if not self._both:  # a quantile that nobody feeds costs no memory
            self._young, self._old, self._both = ([0] * _BUCKETS for _ in range(3))
        half = self.window // 2
        for _ in range(_UNCOUNTED_MAX):  # others may go on recording meanwhile
            try:
                bucket = _bucket(self._uncounted.popleft())
            except IndexError:
                break
            if self._seen[0] >= half:
                self._forget()
            self._young[bucket] += 1
            self._both[bucket] += 1
            self._seen[0] += 1
            self._highest = max(self._highest, bucket)
        total = sum(self._seen)
        self.value = self._estimate(total) if total >= self._minimum else None
        self._due = min(_BATCH, max(1, self._minimum - total)) if total < self._minimum else _BATCH

    def _forget(self) -> None:
        """Drop the old generation and begin a new one."""
        self._old, self._young = self._young, [0] * _BUCKETS
        self._both = self._old.copy()
        self._seen = [0, self._seen[0]]

    def _estimate(self, total: int) -> float:
        # Counted from above, since what lies beyond a high quantile is little.
        beyond = total - math.ceil(self._quantile * total)
        bucket = self._highest
        while beyond >= self._both[bucket]:
            beyond -= self._both[bucket]
            bucket -= 1
        return _LEAST * _GROWTH**bucket * 2 / (_GROWTH + 1)


def _bucket(seconds: float) -> int:
    return math.ceil(math.log(min(max(seconds, _LEAST), _MOST) / _LEAST) * _PER_LOG)

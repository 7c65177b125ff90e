"""Limits that find themselves by latencies and drops: `Vegas`, `Gradient2` and `AIMD`.

They are for calls to others, whose queues nobody here can see: all that is known of a dependency is how long it took,
and whether it answered at all. Inside a service `hormesis.core.limits.QueueDelay` knows more, and does better.

Each takes windows of observations. They were published as rules for single calls, and fare worse so: of calls whose
work varies, the fastest ever seen is a baseline that the others can't keep.

None grows while less than half of the limit is in use: what is not used was not tried. And to all but `Gradient2`,
which does not look at them, drops are a sign of overload only when they are more than one in twenty of a window's
calls: a dependency that fails once in a thousand times is not overloaded, and at a thousand calls a second it fails in
every window.

Source: Netflix, concurrency-limits; each class says what was changed, and why.
"""

from __future__ import annotations

import math

from hormesis.core.limits import Window

__all__ = ["AIMD", "Gradient2", "Vegas"]


_DROPS_TOLERATED = 0.05


def _in_use(window: Window, limit: float) -> bool:
    return window.limited or window.in_flight_max >= limit / 2


def _drops(window: Window) -> bool:
    return window.dropped > _DROPS_TOLERATED * (window.ended + window.dropped)


class Vegas:
    """Estimates the queue at the dependency, and keeps it at a few calls.

        lg = max(1, ⌊log10 L⌋),  q = ⌈L (1 - base / latency)⌉

        drops:           L - lg
        q <= lg:         L + 6 lg     nobody waits there: find out quickly how much more it takes
        lg < q < 3 lg:   L + lg
        3 lg … 6 lg:     L            the queue is as long as it should be, and no longer
        q > 6 lg:        L - lg

    `latency` is the mean of a window, and `base` the least such mean. A baseline that is never learned anew starves a
    dependency that has become slower for good; one that is learned anew under load takes the queue for its nature, and
    lets it grow. So every `probe_every` windows in which the limit held calls back, it is *halved* for two windows,
    which empties the queue, and the mean of the second is the new baseline (as BBR does with its round trips).

    Where it fails: clients that come late find the queue of those who were there before, and take it for the baseline;
    they get more than their share. What has no queue but becomes slower with every call (a contended lock, a saturated
    link) looks like a queue, and gets less than it could do.

    Args:
        start: The limit to begin with.
        least, most: Its bounds.
        probe_every: Windows under a limit that is reached after which the baseline is learned anew.

    Source: Brakmo et al., "TCP Vegas" (SIGCOMM 1994), as in Netflix's concurrency-limits; Cardwell et al., "BBR"
    (2016).

    >>> found = Vegas(start=20, least=1, most=1000)
    >>> found.update(Window(seconds=1, ended=200, latency_mean=0.100, in_flight_max=20, limited=True)); found.limit
    26.0
    >>> found.update(Window(seconds=1, ended=200, latency_mean=0.150, in_flight_max=26, limited=True)); found.limit
    25.0
    """

    __slots__ = ("_base", "_drains", "_held", "_kept", "least", "limit", "most", "probe_every")

    def __init__(self, *, start: float, least: float, most: float, probe_every: int = 60) -> None:
        self.limit = float(start)
        self.least = least
        self.most = most
        self.probe_every = probe_every
        self._base = math.inf
        self._held = 0
        """Windows under a limit that was reached, since the baseline was learned."""
        self._drains = 0
        """Windows that are left of a probe."""
        self._kept = self.limit
        """The limit before the probe."""

    @property
    def probing(self) -> bool:
        """Whether the limit is halved for a while, to learn the baseline."""
        return self._drains > 0

    def update(self, window: Window) -> None:
        """Move the limit by the window's mean latency; a window in which nothing ended moves nothing."""
        if self._drains:
            self._drain(window)
            return
        lg = max(1.0, math.floor(math.log10(self.limit)))
        if _drops(window):
            self._move(-lg)
            return
        if not window.ended:
            return
        self._base = min(self._base, window.latency_mean)
        if not _in_use(window, self.limit):
            return
        queue = math.ceil(self.limit * (1 - self._base / window.latency_mean)) if window.latency_mean else 0
        if queue <= lg:
            self._move(6 * lg)
        elif queue < 3 * lg:
            self._move(lg)
        elif queue > 6 * lg:
            self._move(-lg)
        self._held += window.limited
        if self._held >= self.probe_every:
            self._held, self._drains, self._kept = 0, 2, self.limit
            self.limit = max(self.least, self.limit / 2)

    def _drain(self, window: Window) -> None:
        """Wait for the queue to empty, learn how long a call takes without one, and go on where it was."""
        self._drains -= 1
        if not self._drains:
            self.limit = self._kept
            if window.ended:
                self._base = window.latency_mean

    def _move(self, by: float) -> None:
        self.limit = min(self.most, max(self.least, self.limit + by))


class Gradient2:
    """Compares a short average of latencies with a long one, and follows their ratio.

        g = clamp(1.5 long / short, 0.5, 1)
        L = 0.8 L + 0.2 (g L + 4)

    `short` is the mean of a window, `long` an exponential average over 600 of them, which is brought down by a
    twentieth a window while it is more than twice the short one. While latencies stay within half above their long
    average, the limit creeps up by 0.8 a window, and 4 is the queue that it allows for; a latency that doubles takes a
    twentieth of it away.

    Where it fails: *an overload that lasts becomes the long average*, and then nothing holds the limit any more. It is
    for bursts over a base load, with `most` not far above what the dependency takes.

    Args:
        start: The limit to begin with.
        least, most: Its bounds; 20 and 200 where it was published.

    Source: Netflix, concurrency-limits, `Gradient2Limit`.

    >>> found = Gradient2(start=20, least=20, most=200)
    >>> for latency in (0.100, 0.400):
    ...     found.update(Window(seconds=1, ended=200, latency_mean=latency, in_flight_max=20, limited=True))
    >>> round(found.limit, 2)
    21.34
    """

    __slots__ = ("_long", "_windows", "least", "limit", "most")

    probing = False

    _LONG = 600
    _WARM = 10

    def __init__(self, *, start: float, least: float, most: float) -> None:
        self.limit = float(start)
        self.least = least
        self.most = most
        self._long = 0.0
        self._windows = 0

    def update(self, window: Window) -> None:
        """Move the limit by the window's mean latency; a window in which nothing ended moves nothing."""
        short = window.latency_mean
        if not window.ended or not short:
            return
        self._windows += 1
        # The first few windows are averaged as they are: one alone would be remembered for minutes.
        weight = 1 / self._windows if self._windows <= self._WARM else 2 / (self._LONG + 1)
        self._long += weight * (short - self._long)
        if self._long > 2 * short:
            self._long *= 0.95
        if not _in_use(window, self.limit):
            return
        gradient = min(1.0, max(0.5, 1.5 * self._long / short))
        moved = 0.8 * self.limit + 0.2 * (gradient * self.limit + 4)
        self.limit = min(self.most, max(self.least, moved))


class AIMD:
    """One more while all is well, a tenth less when calls are dropped.

        drops:       L = 0.9 L
        otherwise:   L + 1

    What is dropped is what failed because it was too much (a timeout, a 503, a 429), or took longer than the bound that
    whoever counts has set. It learns nothing of latencies below that bound, so nothing can mislead it.

    Where it fails: it is as good as the bound. With one far above what a call takes it fills the dependency's queue
    until every call is as slow as that; with one below, the limit falls to `least`.

    Args:
        start: The limit to begin with.
        least, most: Its bounds.

    Source: Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance" (1989); Netflix's
    `AIMDLimit`, which takes a tenth away for every single call that is dropped, and adds one for every other.

    >>> found = AIMD(start=20, least=1, most=1000)
    >>> found.update(Window(seconds=1, ended=190, dropped=10, in_flight_max=20)); found.limit
    21.0
    >>> found.update(Window(seconds=1, ended=189, dropped=11, in_flight_max=20)); round(found.limit, 2)
    18.9
    """

    __slots__ = ("least", "limit", "most")

    probing = False

    def __init__(self, *, start: float, least: float, most: float) -> None:
        self.limit = float(start)
        self.least = least
        self.most = most

    def update(self, window: Window) -> None:
        """Move the limit by what was dropped; a window in which nothing ended moves nothing."""
        if _drops(window):
            self.limit = max(self.least, 0.9 * self.limit)
        elif window.ended and _in_use(window, self.limit):
            self.limit = min(self.most, self.limit + 1)

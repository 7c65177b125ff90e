"""How long a request stood in front of this process, by what the proxy before it says.

Load balancers can note when a request came to them, as `X-Request-Start` or `X-Queue-Start`. Until this process reads
it, it stood in queues that nobody here sees: of the proxy, of the socket that workers accept from. The header is the
sender's word, and so it counts only where the sender is trusted; whoever hands it in has seen to that.

The moment comes as seconds, milliseconds or microseconds since 1970, after `t=` or as it is:

    nginx    proxy_set_header X-Request-Start "t=${msec}";        t=1700000000.123
    Apache   RequestHeader set X-Request-Start "%t"               t=1700000000123456
    Heroku                                                        1700000000123

It is of another machine's wall clock. A moment in the future, or long ago, tells of clocks and not of queues, and is
not reported. And what every request shows, up to fifty milliseconds, is how far apart the clocks and the machines are:
only what is beyond the least of the last ten thousand is reported as a delay.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from hormesis.inbound.signals.lag import Lateness
from hormesis.inbound.signals.tickers import Observe, log_once_off
from hormesis.units import Duration, seconds

__all__ = ["HEADERS", "RequestStart"]

HEADERS = ("x-request-start", "x-queue-start")
"""The headers that carry it, in the order in which they are looked at."""

_SPAN = 10_000
_APART_MAX = 0.05
"""Seconds by which the clocks of machines that are kept in time may differ, and the way between them; generously."""

_LONGEST = 40
"""Characters of a header that are read; what is longer is no moment."""

_MOMENT = re.compile(r"\s*(?:t\s*=\s*)?(\d{9,17}(?:\.\d{1,9})?)\s*", re.ASCII)
_MILLISECONDS_FROM, _MICROSECONDS_FROM = 1e11, 1e14
"""As seconds these are of the year 5138 and later; as milliseconds, and microseconds, of 1973."""


class RequestStart:
    """Reads when a request came to the proxy, and reports how long ago that was.

    Args:
        observe: Takes each delay, in seconds, beyond what every request shows; None when the answer of `heard` is
            enough.
        longest: What is longer than that is taken for a mistake.
        wall: The wall clock, in seconds since 1970; for tests.

    >>> start = RequestStart(None, wall=lambda: 1700000000.5)
    >>> start.heard("t=1700000000.123"), start.heard(b"1700000000400"), start.heard("t=yesterday")
    (0.377, 0.1, None)
    """

    __slots__ = ("_apart", "_longest", "_observe", "_wall")

    def __init__(
        self, observe: Observe | None, *, longest: Duration = 60.0, wall: Callable[[], float] = time.time
    ) -> None:
        self._observe = observe
        self._longest = seconds(longest, "longest")
        self._wall = wall
        self._apart = Lateness(span=_SPAN, natural_max=_APART_MAX)

    def heard(self, value: str | bytes) -> float | None:
        """Take the header of a request from a trusted proxy.

        Returns:
            Seconds that the request stood in front of this process; None when the header does not tell.
        """
        moment = _moment(value)
        if moment is None:
            return None
        waited = round(self._wall() - moment, 6)
        if not 0 <= waited <= self._longest:
            return None
        if self._observe is not None:
            try:
                self._observe(self._apart.lag(waited))
            except Exception:
                self._observe = None
                log_once_off("the wait before this process")
        return waited


def _moment(value: str | bytes) -> float | None:
    """Return seconds since 1970."""
    if len(value) > _LONGEST:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    number = float(match[1])
    if number >= _MICROSECONDS_FROM:
        return number / 1e6
    return number / 1e3 if number >= _MILLISECONDS_FROM else number

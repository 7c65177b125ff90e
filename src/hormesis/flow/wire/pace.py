"""The pace of whoever feeds something: held while what comes next has no room, or for as long as it has asked for.

It is the producer's side of all back pressure that comes as a word and not as a full queue: a `Retry-After`, a broker
that is blocked, a queue that has told its `on_flow`.
"""

from __future__ import annotations

import asyncio
import contextlib

from hormesis.headers import Headers, retry_after_of
from hormesis.units import Duration, seconds

__all__ = ["Pace"]

_RETRY_AFTER_MAX = 3600.0
"""Seconds of a Retry-After that are heeded at most: a server that asks for more is not to decide for how long."""


class Pace:
    """Is ready, or held for one or more reasons; a producer asks it before it makes the next item.

    >>> pace = Pace()
    >>> pace.hold("disk")
    >>> pace.held
    True
    >>> pace.release("disk")
    >>> asyncio.run(pace.ready())
    """

    __slots__ = ("_changed", "_reasons", "_until")

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._until = 0.0
        self._changed: asyncio.Event | None = None

    @property
    def held(self) -> bool:
        """Whether a reason holds it; a time that somebody has asked for does not show here."""
        return bool(self._reasons)

    def hold(self, reason: str) -> None:
        """Hold it until `release` of the same reason; twice is once."""
        self._reasons.add(reason)

    def release(self, reason: str) -> None:
        """Let it go on, unless another reason holds it."""
        self._reasons.discard(reason)
        if self._changed is not None:
            self._changed.set()

    def flow(self, paused: bool) -> None:
        """Hold it or let it go, as a queue says that calls this: `Queue(…, on_flow=pace.flow)`."""
        if paused:
            self.hold("flow")
        else:
            self.release("flow")

    def wait_for(self, delay: Duration) -> None:
        """Hold it for so long; of several times the last to end counts."""
        self._until = max(self._until, asyncio.get_running_loop().time() + seconds(delay, "delay", zero=True))

    def heed(self, status: int, headers: Headers) -> bool:
        """Hold it for as long as an answer asks for; returns whether that answer turned a request away.

        Args:
            status: The status of the answer.
            headers: Its headers.
        """
        if status not in (429, 503):
            return False
        self.wait_for(min(_RETRY_AFTER_MAX, retry_after_of(headers) or 1.0))
        return True

    async def ready(self) -> None:
        """Wait until nothing holds it."""
        loop = asyncio.get_running_loop()
        while self._reasons or loop.time() < self._until:
            # One event for all who wait now; the next who wait find it set, and make another.
            if self._changed is None or self._changed.is_set():
                self._changed = asyncio.Event()
            changed = self._changed
            left = None if self._reasons else self._until - loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()

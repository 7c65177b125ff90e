"""How a caller waits for its turn: a thread blocks, a task is suspended; and anybody wakes either.

Nothing here is made before somebody waits, so what callers wait for binds to no loop.
"""

from __future__ import annotations

import asyncio
import math
import threading

from hormesis.clock import Clock
from hormesis.errors import ConfigurationError, DeadlineExceeded, TimedOut
from hormesis.policy.scope import time_left
from hormesis.units import Duration, seconds

__all__ = ["InTask", "InThread", "Patience", "refuse_to_block_a_loop"]


class InTask:
    """One wait of a task."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        """Let the task go on, from any thread; False when its loop is gone."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._set()
            return True
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            return False
        return True

    async def wait(self, limit: float = math.inf) -> bool:
        """Wait until somebody wakes it, or so many seconds are over; returns whether somebody did."""
        if limit == math.inf:
            await self._future
        elif not self._future.done():
            await asyncio.wait([self._future], timeout=max(0.0, limit))
        return self._future.done()

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class InThread:
    """One wait of a thread."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        self._woken = threading.Event()

    def wake(self) -> None:
        """Let the thread go on."""
        self._woken.set()

    def wait(self, limit: float = math.inf) -> bool:
        """Wait until somebody wakes it, or so many seconds are over; returns whether somebody did."""
        return self._woken.wait(None if limit == math.inf else min(max(0.0, limit), threading.TIMEOUT_MAX))


class Patience:
    """How long a caller waits: as long as it said, and no longer than its deadline allows.

    Args:
        whose: The name of what it waits for, for the error.
        timeout: What it said; None for as long as it takes.
        clock: What the waiting is measured by.
    """

    __slots__ = ("_began", "_clock", "_deadline", "_limit", "_whose")

    def __init__(self, whose: str, timeout: Duration | None, clock: Clock) -> None:
        self._whose = whose
        self._clock = clock
        self._limit = math.inf if timeout is None else seconds(timeout, "timeout", zero=True)
        self._deadline = time_left()
        self._began = clock.now()

    def left(self) -> float:
        """The seconds that are left.

        Raises:
            TimedOut: None are; `DeadlineExceeded` if it was the deadline that was nearer.
        """
        most = min(self._limit, self._deadline)
        if most == math.inf:
            return most
        left = most - (self._clock.now() - self._began)
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> TimedOut:
        """The error of who has waited in vain."""
        if self._deadline < self._limit:
            return DeadlineExceeded(self._whose, max(0.0, self._deadline))
        return TimedOut(self._whose, self._limit)


def refuse_to_block_a_loop(verb: str) -> None:
    """Refuse to block a thread in which an event loop runs: all of its tasks would stand still.

    Args:
        verb: The method that would; its asynchronous twin begins with an `a`.

    Raises:
        ConfigurationError: A loop runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError(
        f"{verb}() would have to wait, and block the event loop: use await a{verb}(), or {verb}_nowait()"
    )

"""One loop timer for all attempts with the same timeout, armed only for attempts that wait.

An attempt that never suspends can't be interrupted, and needs no timer. So the timeout is armed at the first
suspension: `watched` runs the coroutine up to there by itself, and an attempt that ends before costs nothing.

Attempts of one timeout value run out in the order in which they began. So they stand in a queue, and one timer of the
event loop watches the first of them: arming and cancelling a timer for each attempt, which is most of what
`asyncio.timeout` costs, is left out. An attempt that has ended is marked, and leaves the queue when it comes to its
head; the queue holds at most what began within one timeout.

What an attempt that ran out gets is what `asyncio.timeout` gives: its task is cancelled, the cancellation is taken
back when it arrives, and a cancellation by somebody else in the same moment is not swallowed.
"""

from __future__ import annotations

import asyncio
import math
import types
from collections import deque
from collections.abc import Callable, Generator
from types import CoroutineType
from typing import Any

from hormesis.clock import Clock
from hormesis.errors import TimedOut

__all__ = ["Watchdog", "resumed", "steps_of"]


class _Attempt:
    """A suspended attempt under a watchdog."""

    __slots__ = ("_cancelling", "_task", "ended", "expired", "runs_out")

    def __init__(self, runs_out: float) -> None:
        self.runs_out = runs_out
        self.ended = False
        self.expired = False
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a timeout needs a task to cancel; call the policy from one")
        self._task = task
        self._cancelling = task.cancelling()

    def expire(self) -> None:
        """Cancel the attempt: its time is over."""
        self.expired = True
        self._task.cancel()

    def took_back(self) -> bool:
        """Take the cancellation back; whether it was the only one, and so the attempt just ran out of time."""
        return self._task.uncancel() <= self._cancelling


class Watchdog:
    """Watches the attempts of one timeout value on one event loop.

    Args:
        clock: The policy's clock, by which attempts begin; the timer itself is the loop's.
        limit: Seconds.
        cut: Makes the error of an attempt that ran out.
        loop: The running loop.
    """

    __slots__ = ("_attempts", "_clock", "_cut", "_limit", "_looks_at", "_loop", "_timer")

    def __init__(
        self, clock: Clock, limit: float, cut: Callable[[], TimedOut], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._cut = cut
        self._loop = loop
        self._attempts: deque[_Attempt] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf

    async def watched(self, steps: Any, waits_for: Any, started: float) -> Any:
        """Go on with an attempt that has suspended for the first time.

        Args:
            steps: The coroutine.
            waits_for: What it suspended on.
            started: When the attempt began, on the policy's clock.

        Raises:
            TimedOut: Its time was over.
            BaseException: Whatever the coroutine raised.
        """
        attempt = self._begin(started)
        ours = False
        try:
            return await resumed(steps, waits_for)
        except asyncio.CancelledError:
            ours = attempt.expired
            if ours and attempt.took_back():
                raise self._cut() from None
            raise
        finally:
            self._end(attempt)
            if attempt.expired and not ours:
                attempt.took_back()  # it ended by itself in the moment in which its time was over

    def _begin(self, started: float) -> _Attempt:
        attempt = _Attempt(self._loop.time() + self._limit - (self._clock.now() - started))
        attempts = self._attempts
        if attempts and attempts[-1].runs_out > attempt.runs_out:
            # It made a call under the same timeout before it suspended itself, and that one is watched already.
            place = len(attempts)
            while place and attempts[place - 1].runs_out > attempt.runs_out:
                place -= 1
            attempts.insert(place, attempt)
        else:
            attempts.append(attempt)
        if attempt.runs_out < self._looks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._look_at(attempt.runs_out)
        return attempt

    def _look_at(self, moment: float) -> None:
        self._looks_at = moment
        self._timer = self._loop.call_at(moment, self._look)

    def _end(self, attempt: _Attempt) -> None:
        attempt.ended = True
        attempts = self._attempts
        while attempts and attempts[0].ended:
            attempts.popleft()

    def _look(self) -> None:
        """Cancel what has run out, and come back for the next."""
        now = self._loop.time()
        attempts = self._attempts
        while attempts and (attempts[0].ended or attempts[0].runs_out <= now):
            attempt = attempts.popleft()
            if not attempt.ended:
                attempt.expire()
        if attempts:
            self._look_at(attempts[0].runs_out)
        else:
            self._timer, self._looks_at = None, math.inf


@types.coroutine
def resumed(steps: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    """Wait for what a coroutine has suspended on already, and then run the rest of it."""
    while True:
        try:
            yield waits_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            # It is thrown to where it belongs; if the coroutine catches it and goes on to wait, so do we.
            try:
                waits_for = steps.throw(error)
            except StopIteration as done:
                return done.value
        else:
            return (yield from steps)


def steps_of(awaitable: Any) -> Any:
    """Return what runs an awaitable step by step: a coroutine does so itself."""
    return awaitable if awaitable.__class__ is CoroutineType else _steps_of_any(awaitable)


@types.coroutine
def _steps_of_any(awaitable: Any) -> Generator[Any, Any, Any]:
    steps: Generator[Any, Any, Any] = awaitable if isinstance(awaitable, Generator) else awaitable.__await__()
    return (yield from steps)

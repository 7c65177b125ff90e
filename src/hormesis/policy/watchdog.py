"""One loop timer for all attempts with the same timeout.

Attempts of one timeout value run out in the order in which they began. So they stand in a queue, and one timer of the
event loop watches the first of them: arming and cancelling a timer for each attempt, which is most of what
`asyncio.timeout` costs, is left out. An attempt that has ended is marked, and leaves the queue when it comes to its
head; the queue holds at most what began within one timeout.

What an attempt that ran out gets is what `asyncio.timeout` gives: its task is cancelled, the cancellation is taken
back when it arrives, and a cancellation by somebody else in the same moment is not swallowed.

An attempt's entry is also the deadline that travels with it, which saves an object.
"""

from __future__ import annotations

import asyncio
from collections import deque

from hormesis.clock import Clock
from hormesis.context import TravellingDeadline
from hormesis.errors import TimedOut

__all__ = ["TimedAttempt", "Watchdog"]


class TimedAttempt(TravellingDeadline):
    """An attempt under a watchdog, and the deadline that it sees."""

    __slots__ = ("_cancelling", "_task", "ended", "expired", "runs_out")

    def __init__(self, at: float, clock: Clock, limit: float, policy: str, runs_out: float) -> None:
        self.at = at
        self.clock = clock
        self.limit = limit
        self.policy = policy
        self.error = TimedOut
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
        policy: The policy's name.
        clock: The policy's clock, by which the deadline travels; the timer itself is the loop's.
        limit: Seconds.
        loop: The running loop.
    """

    __slots__ = ("_attempts", "_clock", "_limit", "_loop", "_policy", "_timer")

    def __init__(self, policy: str, clock: Clock, limit: float, loop: asyncio.AbstractEventLoop) -> None:
        self._policy = policy
        self._clock = clock
        self._limit = limit
        self._loop = loop
        self._attempts: deque[TimedAttempt] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> TimedAttempt:
        """Begin to watch the current task's attempt."""
        limit = self._limit
        runs_out = self._loop.time() + limit
        attempt = TimedAttempt(self._clock.now() + limit, self._clock, limit, self._policy, runs_out)
        self._attempts.append(attempt)
        if self._timer is None:
            self._timer = self._loop.call_at(runs_out, self._look)
        return attempt

    def end(self, attempt: TimedAttempt) -> None:
        """Watch it no more."""
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
        self._timer = self._loop.call_at(attempts[0].runs_out, self._look) if attempts else None

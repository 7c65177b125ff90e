"""The deadline that travels while a policy's call or attempt runs."""

from __future__ import annotations

import math

from hormesis.clock import Clock
from hormesis.context import current_deadline, remaining
from hormesis.errors import DeadlineExceeded, TimedOut

__all__ = ["DeadlineScope", "time_left"]


def time_left() -> float:
    """The seconds that the current call has left; infinite when it has no deadline."""
    left = remaining()
    return math.inf if left is None else left


class DeadlineScope:
    """Sets the deadline that everything sees which is called until `close`.

    Args:
        policy: Whose deadline it is.
        clock: What it is measured by.
        ends: The moment on that clock.
        limit: The seconds that it was set to, for messages.
        reserve: How much of them is kept for the answer.
        error: What passing it raises: a timeout is the deadline of one attempt.
    """

    __slots__ = ("_clock", "_ends", "_limit", "_policy", "_token")

    def __init__(
        self,
        policy: str,
        clock: Clock,
        ends: float,
        limit: float,
        *,
        reserve: float = 0.0,
        error: type[TimedOut] = DeadlineExceeded,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._ends = ends
        self._limit = limit
        self._token = current_deadline.set((ends - reserve, clock, limit, policy, error))

    def use_reserve(self) -> None:
        """From here on the answer is made, in the time that was kept for it."""
        current_deadline.set((self._ends, self._clock, self._limit, self._policy, DeadlineExceeded))

    def close(self) -> None:
        """Go back to the deadline that was set before."""
        current_deadline.reset(self._token)

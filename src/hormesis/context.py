"""What travels with a call: its deadline.

The deadline is kept in a context variable, so it crosses function calls, tasks and (where we carry the context)
threads without being passed. Nested deadlines take the minimum: nobody further in can give a call more time than its
caller has.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar

from hormesis.clock import MONOTONIC, Clock
from hormesis.errors import DeadlineExceeded, TimedOut
from hormesis.units import Duration, seconds

__all__ = ["TravellingDeadline", "check_deadline", "current_deadline", "deadline", "remaining"]


@dataclasses.dataclass(slots=True)  # not frozen: one is made for every timed attempt, and that would cost twice as much
class TravellingDeadline:
    """A moment on a clock by which the answer is due; the clock goes along, since two clocks can't be compared."""

    at: float
    clock: Clock
    limit: float
    """The seconds that were left when it was set, for messages."""
    policy: str
    error: type[TimedOut] = DeadlineExceeded
    """What is raised when it has passed: a timeout is the deadline of one attempt."""

    def remaining(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - self.clock.now()


current_deadline: ContextVar[TravellingDeadline | None] = ContextVar("hormesis_deadline", default=None)


def remaining() -> float | None:
    """Return the seconds that the current call has left, or None when it has no deadline.

    Synchronous functions under a cooperative timeout pass it to whatever they wait for.

    >>> remaining() is None
    True
    """
    current = current_deadline.get()
    return None if current is None else current.remaining()


def check_deadline() -> None:
    """Raise when the time of the current call or attempt is over; for long synchronous work.

    Raises:
        DeadlineExceeded: The call's deadline has passed.
        TimedOut: The attempt's cooperative timeout has.
    """
    current = current_deadline.get()
    if current is not None and current.remaining() <= 0:
        raise current.error(current.policy, current.limit)


@contextlib.contextmanager
def deadline(limit: Duration, *, clock: Clock = MONOTONIC, policy: str = "deadline") -> Iterator[TravellingDeadline]:
    """Give everything inside the block a deadline, `limit` from now or the one that is already set, if that is nearer.

    It interrupts nothing by itself: policies inside the block heed it, and `remaining()` tells it.

    >>> with deadline("2s"):
    ...     1.9 < remaining() <= 2.0
    True
    """
    limit = seconds(limit, "deadline", zero=True)
    outer = current_deadline.get()
    if outer is not None and outer.remaining() <= limit:
        yield outer
        return
    mine = TravellingDeadline(clock.now() + limit, clock, limit, policy)
    token = current_deadline.set(mine)
    try:
        yield mine
    finally:
        current_deadline.reset(token)

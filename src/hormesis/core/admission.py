"""May this attempt go in now? The interface that every admission machine shares.

`acquire(now)` returns a permit, or a refusal that says why and when to come back. A permit ends exactly once, as one
of the five endings, and belongs to the *era* in which it was issued: what a call admitted while closed says when it
ends while half-open is about a time that is over, and only feeds metrics.

A permit that was taken but not used, because another part refused, is *put back*: that leaves no trace.

Changes of state go into the machine's *outbox*, and the shell publishes them once no lock is held.

Locks are handed in. The verbs of a machine may be called by any thread; the common ones take no lock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, final

from hormesis.outcome import Ending

__all__ = ["Admission", "Lock", "NullLock", "Permit", "Queueing", "Refusal", "Transition", "Waiter"]


class Lock(Protocol):
    """What `threading.Lock` is; single-threaded worlds pass a `NullLock`."""

    def __enter__(self) -> bool: ...

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> None: ...


class NullLock:
    """A lock for worlds with one thread, such as the simulator."""

    __slots__ = ()

    def __enter__(self) -> bool:
        return True

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> None:
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Transition:
    """A machine went from one state to another."""

    before: str
    after: str
    reason: str


@final
@dataclasses.dataclass(slots=True)  # not frozen: that would double the cost of being refused
class Refusal:
    """Why an attempt may not go in now.

    Args:
        reason: A stable word or two, fit for a metric's label.
        retry_after: Seconds until asking again makes sense; None when nobody knows.
        waitable: Whether standing in this machine's queue can turn it into a permit.
    """

    reason: str
    retry_after: float | None = None
    waitable: bool = False


class Permit:
    """Leave to make one attempt.

    Machines may issue one permit object to many calls at once, where nothing has to be told apart.
    """

    __slots__ = ("era",)

    def __init__(self, era: int) -> None:
        self.era = era


class Waiter:
    """One call in a machine's queue. The machine sets `permit`, then calls `wake` with no lock held."""

    __slots__ = ("permit", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.permit: Permit | None = None
        self.wake = wake

    def taken(self) -> Permit | None:
        """Take the permit, if it has come; one that comes a moment later is left for `leave` to pass on."""
        permit = self.permit
        if permit is not None:
            self.permit = None
        return permit


class Admission(Protocol):
    """A machine that admits attempts."""

    @property
    def outbox(self) -> list[Transition] | None:
        """Changes of state that nobody has published yet, oldest first, bounded; None for a machine without states."""
        ...

    @property
    def timed(self) -> bool:
        """Whether ending a success needs the time."""
        ...

    @property
    def holds_place(self) -> bool:
        """Whether a permit stands for a place that the work itself occupies, even after its caller has given up."""
        ...

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or say why not."""
        ...

    def refusal(self, now: float) -> Refusal | None:
        """Say what `acquire` would, without taking anything; None means that it would admit."""
        ...

    def put_back(self, permit: Permit) -> None:
        """Return a permit that was never used."""
        ...

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success; `started` is when its attempt went in."""
        ...

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit in any way; `retry_after` is when a failing dependency wants to be asked again, in seconds."""
        ...


class Queueing(Protocol):
    """An admission machine that callers may wait for."""

    @property
    def max_wait(self) -> float:
        """Seconds that a caller waits at most."""
        ...

    def enqueue(self, waiter: Waiter) -> Refusal | None:
        """Stand in the queue; None means that the waiter is in it, or has its permit already."""
        ...

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; a permit that was handed over meanwhile is passed on."""
        ...

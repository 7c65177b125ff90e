"""What happened, as facts for whoever listens.

The machines return facts, the journey publishes them once every lock is released, and builds an event only while
somebody listens. A plain success publishes nothing: it is the common case, and metrics can count calls without it.

A listener that raises is taken off and logged once. An instrument never breaks a call.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import ClassVar, TypeAlias

__all__ = [
    "AttemptFailed",
    "CallRejected",
    "Event",
    "EventBus",
    "FallbackAnswered",
    "FallbackFailed",
    "Listener",
    "RetryScheduled",
    "RetryStopped",
    "RetrySucceeded",
    "StateChanged",
    "TimeoutHit",
    "Waited",
    "bus",
    "listen",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact: when (seconds on the policy's clock), in which policy, by which of its parts."""

    name: ClassVar[str]
    at: float
    policy: str
    part: str

    def as_dict(self) -> dict[str, object]:
        """Return the event as plain data, its name under `"event"`."""
        return {"event": self.name, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """A circuit breaker went from one state to another."""

    name: ClassVar[str] = "state_changed"
    before: str
    after: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A part refused the call before the function was touched."""

    name: ClassVar[str] = "call_rejected"
    reason: str
    retry_after: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waited(Event):
    """A call stood in a queue for so many seconds before its attempt went in."""

    name: ClassVar[str] = "waited"
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutHit(Event):
    """An attempt was cut off: by its timeout, or by the call's deadline (see `part`)."""

    name: ClassVar[str] = "timeout_hit"
    limit: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """The function raised; `kind` is the failure kind, `error` the exception's class name."""

    name: ClassVar[str] = "attempt_failed"
    attempt: int
    kind: str
    error: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """The attempt of this number failed, and another will follow after `delay` seconds."""

    name: ClassVar[str] = "retry_scheduled"
    attempt: int
    delay: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryStopped(Event):
    """A failure that is worth a retry gets none: no attempts, budget or time are left."""

    name: ClassVar[str] = "retry_stopped"
    attempt: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetrySucceeded(Event):
    """A later attempt than the first brought the answer."""

    name: ClassVar[str] = "retry_succeeded"
    attempt: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FallbackAnswered(Event):
    """The fallback answered for a failure of this kind."""

    name: ClassVar[str] = "fallback_answered"
    kind: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FallbackFailed(Event):
    """The fallback had no answer either; the caller gets the original failure."""

    name: ClassVar[str] = "fallback_failed"
    kind: str
    error: str


Listener: TypeAlias = Callable[[Event], None]


class EventBus:
    """Hands events to listeners.

    `listeners` is a tuple that is replaced as a whole: the hot path reads it without a lock, and asks `if
    bus.listeners` before it builds an event.
    """

    __slots__ = ("_lock", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; the function that is returned takes it off again, and may be called twice.

        The listener is called in the thread or task of the call that made the event, so it must be quick.

        >>> seen = []
        >>> stop = EventBus().listen(seen.append)
        >>> stop()
        """
        with self._lock:
            self.listeners = (*self.listeners, listener)
        return lambda: self._remove(listener)

    def publish(self, event: Event) -> None:
        """Hand an event to every listener; one that raises is taken off and logged."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                self._remove(listener)
                _log_removal(listener)

    def _remove(self, listener: Listener) -> None:
        with self._lock:
            self.listeners = tuple(other for other in self.listeners if other is not listener)


def _log_removal(listener: Listener) -> None:
    import logging  # noqa: PLC0415  only a broken listener needs it

    logging.getLogger("hormesis.events").exception("listener %r raised and was taken off", listener)


bus = EventBus()
"""The bus that policies publish to unless they are given another."""


def listen(listener: Listener) -> Callable[[], None]:
    """Listen to the events of every policy of this process; returns a function that stops it.

    >>> stop = listen(print)
    >>> stop()
    """
    return bus.listen(listener)

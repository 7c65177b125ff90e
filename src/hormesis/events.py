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
    "CacheAnswered",
    "CallEnded",
    "CallRejected",
    "ChaosInjected",
    "ChaosSwitched",
    "Event",
    "EventBus",
    "FallbackAnswered",
    "FallbackFailed",
    "FlowPaused",
    "FlowResumed",
    "HedgeEnded",
    "HedgeStarted",
    "ItemDropped",
    "LeftWorkEnded",
    "LevelChanged",
    "LimitChanged",
    "Listener",
    "ReaderDisconnected",
    "Reconfigured",
    "RefreshFailed",
    "RetryScheduled",
    "RetryStopped",
    "RetrySucceeded",
    "StateChanged",
    "TimeoutHit",
    "Waited",
    "WorkLeftBehind",
    "WorkerReplaced",
    "bus",
    "listen",
]


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Event:
    """One fact: when (seconds on the policy's clock), in which policy, by which of its parts.

    `key` names the instance of a part that has one for each key (per host, per tenant). With `shadow` the policy only
    watches: this is what it would have done.
    """

    # Neither frozen nor with an __eq__ and __repr__ of each class's own: that would be half of what importing costs.

    name: ClassVar[str]
    at: float
    policy: str
    part: str
    key: str = ""
    shadow: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and type(other) is type(self) and other.as_dict() == self.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value!r}" for key, value in self.as_dict().items() if key != "event")
        return f"{type(self).__name__}({facts})"

    def as_dict(self) -> dict[str, object]:
        """Return the event as plain data, its name under `"event"`; an empty key and a false `shadow` stay out."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("key", "shadow"):
            if not facts[name]:
                del facts[name]
        return {"event": self.name, **facts}


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class StateChanged(Event):
    """A circuit breaker went from one state to another."""

    name: ClassVar[str] = "state_changed"
    before: str
    after: str
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class CallRejected(Event):
    """A part refused the call before the function was touched."""

    name: ClassVar[str] = "call_rejected"
    reason: str
    retry_after: float | None


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Waited(Event):
    """A call stood in a queue for so many seconds before its attempt went in."""

    name: ClassVar[str] = "waited"
    seconds: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class TimeoutHit(Event):
    """An attempt was cut off: by its timeout, or by the call's deadline (see `part`)."""

    name: ClassVar[str] = "timeout_hit"
    limit: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class AttemptFailed(Event):
    """The function raised; `kind` is the failure kind, `error` the exception's class name."""

    name: ClassVar[str] = "attempt_failed"
    attempt: int
    kind: str
    error: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RetryScheduled(Event):
    """The attempt of this number failed, and another will follow after `delay` seconds."""

    name: ClassVar[str] = "retry_scheduled"
    attempt: int
    delay: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RetryStopped(Event):
    """A failure that is worth a retry gets none: no attempts, budget or time are left."""

    name: ClassVar[str] = "retry_stopped"
    attempt: int
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RetrySucceeded(Event):
    """A later attempt than the first brought the answer."""

    name: ClassVar[str] = "retry_succeeded"
    attempt: int


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class FallbackAnswered(Event):
    """The fallback answered for a failure of this kind."""

    name: ClassVar[str] = "fallback_answered"
    kind: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class FallbackFailed(Event):
    """The fallback had no answer either; the caller gets the original failure."""

    name: ClassVar[str] = "fallback_failed"
    kind: str
    error: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class CallEnded(Event):
    """A call has ended, in `seconds` and after so many attempts.

    `ending` is `"success"`, `"failure"`, `"rejected"` or `"cancelled"`; `source` says what the caller got:
    `"function"`, `"cache"`, `"stale"`, `"fallback"`, or nothing. Only built for listeners that ask for `calls`.
    """

    name: ClassVar[str] = "call_ended"
    seconds: float
    attempts: int
    ending: str
    source: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class HedgeStarted(Event):
    """An attempt was slow, and another was begun beside it; `attempt` numbers them within the race, from 2."""

    name: ClassVar[str] = "hedge_started"
    attempt: int
    delay: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class HedgeEnded(Event):
    """A race was won by the attempt of this number, and so many losers were cancelled or left behind."""

    name: ClassVar[str] = "hedge_ended"
    attempt: int
    losers: int


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class CacheAnswered(Event):
    """The cache answered; `source` is `"cache"` for a fresh answer, `"stale"` for an old one, `age` its seconds."""

    name: ClassVar[str] = "cache_answered"
    source: str
    age: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class RefreshFailed(Event):
    """An answer could not be refreshed in the background, and goes on standing in while it may."""

    name: ClassVar[str] = "refresh_failed"
    kind: str
    error: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class WorkLeftBehind(Event):
    """A caller stopped waiting for a thread that goes on; `zombies` counts those of the policy."""

    name: ClassVar[str] = "work_left_behind"
    zombies: int


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class LeftWorkEnded(Event):
    """A thread that was left behind has ended; so many still go on."""

    name: ClassVar[str] = "left_work_ended"
    zombies: int


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class WorkerReplaced(Event):
    """A worker process ended and another takes its place."""

    name: ClassVar[str] = "worker_replaced"
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class LevelChanged(Event):
    """A service went from one degradation level to another."""

    name: ClassVar[str] = "level_changed"
    before: str
    after: str
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ChaosInjected(Event):
    """A fault was injected into an attempt or a request; `fault` says it in words, `delay` its seconds of latency.

    `kind` is `"latency"`, `"error"`, `"status"`, `"result"` or `"behaviour"`; `source` says who wanted it:
    `"settings"`, `"dose"`, `"context"` or `"header"`.
    """

    name: ClassVar[str] = "chaos_injected"
    fault: str
    kind: str
    source: str
    delay: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ChaosSwitched(Event):
    """Faults in this process can be injected from now on, or can't any more; `before` and `after` are on and off."""

    name: ClassVar[str] = "chaos_switched"
    before: str
    after: str
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Reconfigured(Event):
    """A part got other settings while the policy was in use."""

    name: ClassVar[str] = "reconfigured"
    settings: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class LimitChanged(Event):
    """A limit that finds itself was so much for a while, and is so much now; told when it has moved by a tenth."""

    name: ClassVar[str] = "limit_changed"
    before: float
    after: float
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ItemDropped(Event):
    """A queue or a stream has dropped so many items; the reason is that they expired, or its overflow policy."""

    name: ClassVar[str] = "item_dropped"
    items: int
    reason: str


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class FlowPaused(Event):
    """So much stands waiting that whoever sends was told to pause."""

    name: ClassVar[str] = "flow_paused"
    items: int
    size: int


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class FlowResumed(Event):
    """So little is left waiting that whoever sends was told to go on, after a pause of so many seconds."""

    name: ClassVar[str] = "flow_resumed"
    items: int
    size: int
    seconds: float


@dataclasses.dataclass(slots=True, kw_only=True, eq=False, repr=False)
class ReaderDisconnected(Event):
    """A reader that did not keep up was disconnected, with so many items and bytes that it had not taken."""

    name: ClassVar[str] = "reader_disconnected"
    items: int
    size: int
    reason: str


Listener: TypeAlias = Callable[[Event], None]


class EventBus:
    """Hands events to listeners.

    `listeners` is a tuple that is replaced as a whole: the hot path reads it without a lock, and asks `if
    bus.listeners` before it builds an event. `callers` are those among them that want to hear of every call.
    """

    __slots__ = ("_lock", "callers", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.callers: tuple[Listener, ...] = ()
        self._lock = threading.Lock()

    def listen(self, listener: Listener, *, calls: bool = False) -> Callable[[], None]:
        """Add a listener; the function that is returned takes it off again, and may be called twice.

        The listener is called in the thread or task of the call that made the event, so it must be quick.

        Args:
            listener: What takes the events.
            calls: Whether it wants `CallEnded` for every call as well; that makes each call a little dearer.

        >>> seen = []
        >>> stop = EventBus().listen(seen.append)
        >>> stop()
        """
        with self._lock:
            self.listeners = (*self.listeners, listener)
            if calls:
                self.callers = (*self.callers, listener)
        return lambda: self._remove(listener)

    def publish(self, event: Event) -> None:
        """Hand an event to every listener; one that raises is taken off and logged."""
        for listener in self.callers if isinstance(event, CallEnded) else self.listeners:
            try:
                listener(event)
            except Exception:
                self._remove(listener)
                _log_removal(listener)

    def _remove(self, listener: Listener) -> None:
        with self._lock:
            self.listeners = tuple(other for other in self.listeners if other is not listener)
            self.callers = tuple(other for other in self.callers if other is not listener)


def _log_removal(listener: Listener) -> None:
    import logging  # noqa: PLC0415  only a broken listener needs it

    logging.getLogger("hormesis.events").exception("listener %r raised and was taken off", listener)


bus = EventBus()
"""The bus that policies publish to unless they are given another."""


def listen(listener: Listener, *, calls: bool = False) -> Callable[[], None]:
    """Listen to the events of every policy of this process; returns a function that stops it.

    Args:
        listener: What takes the events, in the thread or task of the call that made them.
        calls: Whether it wants `CallEnded` for every call as well; that makes each call a little dearer.

    >>> stop = listen(print)
    >>> stop()
    """
    return bus.listen(listener, calls=calls)

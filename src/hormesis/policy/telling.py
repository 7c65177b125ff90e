"""Telling of what a layer does: events are built only while somebody listens, and published with no lock held."""

from __future__ import annotations

from collections.abc import Callable

from hormesis.clock import Clock
from hormesis.core.admission import Refusal
from hormesis.core.slots import Slot
from hormesis.events import CallRejected, Event, EventBus, LimitChanged, StateChanged
from hormesis.policy.gate import Gate

__all__ = ["Teller"]


class Teller:
    """Publishes a policy's events.

    Args:
        policy: The policy's name.
        clock: What events are dated by.
        bus: Where they go.
        shadow: Whether the policy only watches, and its events say what it would have done.
    """

    __slots__ = ("_bus", "_now", "_policy", "_shadow")

    def __init__(self, policy: str, clock: Clock, bus: EventBus, *, shadow: bool = False) -> None:
        self._policy = policy
        self._now = clock.now
        self._bus = bus
        self._shadow = shadow

    @property
    def listening(self) -> bool:
        """Whether anybody listens; asked before an event's facts are gathered."""
        return bool(self._bus.listeners)

    def tell(self, event: Callable[..., Event], part: str, /, **facts: object) -> None:
        """Publish one event of a part."""
        if self._bus.listeners:
            self._bus.publish(event(at=self._now(), policy=self._policy, part=part, shadow=self._shadow, **facts))

    def tell_news(self, gate: Gate) -> None:
        """Publish the changes of state that wait in a gate's outboxes; without listeners they are dropped."""
        for part, key, change in gate.news():
            if part == Slot.CONCURRENCY_LIMIT.key:
                limits: dict[str, object] = {"before": float(change.before), "after": float(change.after)}
                self.tell(LimitChanged, part, key=key, reason=change.reason, **limits)
            else:
                self.tell(StateChanged, part, key=key, before=change.before, after=change.after, reason=change.reason)

    def tell_rejection(self, part: str, key: str, refusal: Refusal) -> None:
        """Publish that a part refused."""
        self.tell(CallRejected, part, key=key, reason=refusal.reason, retry_after=refusal.retry_after)

"""What a policy did, in the words of its events, and assertions on it.

    with hear(policy) as heard:
        ...
    heard.assert_happened("call_rejected", part="bulkhead", times=1)

The assertions are plain `AssertionError`s that show all that was heard, so they serve any test runner.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterator

from hormesis.errors import ConfigurationError
from hormesis.events import Event, EventBus, RetryScheduled, StateChanged
from hormesis.patterns.degradation import Degradation
from hormesis.policy.policy import Policy

__all__ = ["Heard", "hear"]

_EVENTS_MAX = 100_000
"""Events that are kept; a test that makes more wants a counter."""

_SHOWN_MAX = 50
"""Events that a failure's message shows."""


class Heard:
    """Events in the order in which they were heard; `hear` makes one.

    >>> from hormesis.events import EventBus, RetryScheduled
    >>> bus = EventBus()
    >>> with hear(bus) as heard:
    ...     bus.publish(RetryScheduled(at=0, policy="stock", part="retry", attempt=1, delay=0.2))
    >>> heard.names, heard.delays
    (['retry_scheduled'], [0.2])
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_EVENTS_MAX)

    @property
    def events(self) -> list[Event]:
        """All of them."""
        return list(self._events)

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [event.name for event in self.events]

    @property
    def delays(self) -> list[float]:
        """The back-offs of retries, in seconds."""
        return [event.delay for event in self.events if isinstance(event, RetryScheduled)]

    @property
    def states(self) -> list[str]:
        """The states that circuit breakers came to."""
        return [event.after for event in self.events if isinstance(event, StateChanged)]

    def of(self, name: str, **facts: object) -> list[Event]:
        """Return the events of one name, of which these facts are true, such as `part="bulkhead"`.

        Raises:
            ConfigurationError: There is no event of that name, or it has no such fact.
        """
        kinds = {kind.name: kind for kind in _kinds(Event)}
        if name not in kinds:
            raise ConfigurationError.unknown("event", name, sorted(kinds))
        known = [field.name for field in dataclasses.fields(kinds[name])]
        for fact in facts:
            if fact not in known:
                raise ConfigurationError.unknown(f"fact of {name}", fact, known)
        return [
            event
            for event in self.events
            if event.name == name and all(getattr(event, fact) == value for fact, value in facts.items())
        ]

    def assert_happened(self, name: str, *, times: int | None = None, **facts: object) -> None:
        """Check that an event happened: at least once, or as often as `times` says.

        Raises:
            AssertionError: It did not; the message shows what did.
            ConfigurationError: There is no such event or fact.
        """
        found = len(self.of(name, **facts))
        if found != times if times is not None else not found:
            wanted = "never" if times == 0 else "at least once" if times is None else _times(times)
            happened = "did not happen" if not found else f"happened {_times(found)}"
            raise AssertionError(f"{_what(name, facts)} {happened}, and should have {wanted}; {self._shown()}")

    def assert_nothing_happened(self) -> None:
        """Check that no event was heard: plain successes make none.

        Raises:
            AssertionError: Something was.
        """
        if self._events:
            raise AssertionError(f"something happened; {self._shown()}")

    def clear(self) -> None:
        """Forget what was heard so far."""
        self._events.clear()

    def take(self, event: Event) -> None:
        """Note one event."""
        self._events.append(event)

    def _shown(self) -> str:
        events = self.events
        if not events:
            return "nothing was heard"
        lines = [f"  {event.at:10.3f}  {event.policy}: {_what(event.name, _facts(event))}" for event in events]
        more = [f"  and {len(lines) - _SHOWN_MAX} more"] if len(lines) > _SHOWN_MAX else []
        return "heard was:\n" + "\n".join(lines[:_SHOWN_MAX] + more)


@contextlib.contextmanager
def hear(source: Policy | Degradation | EventBus, *, calls: bool = False) -> Iterator[Heard]:
    """Hear what a policy or a `Degradation` does inside the block, or everything that is published on a bus.

    Args:
        source: Whom to hear.
        calls: Whether to hear of each call's end as well (`call_ended`), also of plain successes.

    >>> from hormesis import Bulkhead, Policy
    >>> stock = Policy(Bulkhead(1), name="stock")
    >>> with hear(stock) as heard:
    ...     stock.call(lambda: stock.call(int))
    Traceback (most recent call last):
    hormesis.errors.BulkheadFull: policy 'stock' refused the call: full
    >>> heard.assert_happened("call_rejected", part="bulkhead", times=1)
    """
    heard = Heard()
    events = source if isinstance(source, EventBus) else source.events

    def listen(event: Event) -> None:
        if isinstance(source, EventBus) or event.policy == source.name:
            heard.take(event)

    stop = events.listen(listen, calls=calls)
    try:
        yield heard
    finally:
        stop()


def _kinds(kind: type[Event]) -> Iterator[type[Event]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


def _facts(event: Event) -> dict[str, object]:
    return {name: value for name, value in event.as_dict().items() if name not in ("event", "at", "policy")}


def _what(name: str, facts: dict[str, object]) -> str:
    return f"{name}({', '.join(f'{fact}={value!r}' for fact, value in facts.items())})"


def _times(times: int) -> str:
    return "once" if times == 1 else f"{times} times"

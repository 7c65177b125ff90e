"""The event bus: facts for whoever listens, and never a broken call."""

from __future__ import annotations

import inspect
import logging

import pytest

from hormesis import events
from hormesis.events import Event, EventBus, RetrySucceeded, StateChanged, bus, listen

FACT = RetrySucceeded(at=1.0, policy="stock", part="retry", attempt=2)


def test_listeners_hear_events_in_the_order_they_came() -> None:
    """Every listener gets every event, the first listener first."""
    heard: list[tuple[str, Event]] = []
    here = EventBus()
    here.listen(lambda event: heard.append(("a", event)))
    here.listen(lambda event: heard.append(("b", event)))
    here.publish(FACT)
    assert heard == [("a", FACT), ("b", FACT)]


def test_stopping_twice() -> None:
    """The function that stops a listener may be called twice, and takes off only that one."""
    heard: list[Event] = []
    here = EventBus()
    stop = here.listen(lambda event: None)
    here.listen(heard.append)
    stop()
    stop()
    here.publish(FACT)
    assert heard == [FACT]


def test_a_listener_that_raises_is_taken_off_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """An instrument never breaks a call, nor fills the log."""
    heard: list[Event] = []
    here = EventBus()

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    here.listen(broken)
    here.listen(heard.append)
    with caplog.at_level(logging.ERROR, "hormesis.events"):
        here.publish(FACT)
        here.publish(FACT)
    assert heard == [FACT, FACT]
    assert [record.getMessage() for record in caplog.records] == [f"listener {broken!r} raised and was taken off"]


def test_a_listener_may_listen_and_stop_while_it_is_called() -> None:
    """Listeners come and go during an event without disturbing it: no lock is held while they are called."""
    here = EventBus()
    heard: list[Event] = []
    here.listen(lambda event: (stop(), here.listen(heard.append)))  # type: ignore[arg-type]
    stop = here.listen(heard.append)
    here.publish(FACT)
    here.publish(FACT)
    assert heard == [FACT, FACT]


def test_the_processes_own_bus() -> None:
    """`listen` hears what policies publish that were given no bus."""
    heard: list[Event] = []
    stop = listen(heard.append)
    bus.publish(FACT)
    stop()
    bus.publish(FACT)
    assert heard == [FACT]


def test_events_as_plain_data() -> None:
    """An event is plain data under its name."""
    change = StateChanged(at=2.0, policy="p", part="circuit_breaker", before="closed", after="open", reason="r")
    assert change.as_dict() == {
        "event": "state_changed",
        "at": 2.0,
        "policy": "p",
        "part": "circuit_breaker",
        "before": "closed",
        "after": "open",
        "reason": "r",
    }


def test_every_event_has_a_name_of_its_own() -> None:
    """No two events share a name, and each is exported."""
    kinds = [
        cls for _, cls in inspect.getmembers(events, inspect.isclass) if issubclass(cls, Event) and cls is not Event
    ]
    assert len({cls.name for cls in kinds}) == len(kinds)
    assert {cls.__name__ for cls in kinds} <= set(events.__all__)

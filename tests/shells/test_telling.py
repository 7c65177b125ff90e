"""What a policy tells of itself: which events, in what order, and without getting in the way."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

import hormesis as hm
from hormesis import events
from hormesis.testing import ManualClock


def test_the_life_of_a_breaker_in_events(colour: Any, dependency: Any, heard: Any) -> None:
    """Changes of state are told in the order in which they happened, by whom, and why."""
    clock, called = ManualClock(), dependency(ZeroDivisionError, 3)
    breaker = hm.CircuitBreaker(minimum_calls=1, open_for=5, probes=1)
    policy = hm.Policy(breaker, hm.Fallback(value=0), name="stock", clock=clock, events=heard.bus)
    assert [colour.call(policy, called) for _ in range(2)] == [0, 0]
    clock.advance(5)
    assert colour.call(policy, called) == 3
    changes = [event for event in heard.events if isinstance(event, events.StateChanged)]
    assert [(event.before, event.after) for event in changes] == [
        ("closed", "open"), ("open", "half-open"), ("half-open", "closed"),
    ]  # fmt: skip
    assert {(event.policy, event.part) for event in changes} == {("stock", "circuit_breaker")}
    assert [event.at for event in heard.events] == sorted(event.at for event in heard.events)
    assert changes[0].reason == "1 of 1 calls failed"
    (rejected,) = (event for event in heard.events if isinstance(event, events.CallRejected))
    assert (rejected.part, rejected.reason, rejected.retry_after) == ("circuit_breaker", "open", 5.0)


def test_what_the_events_of_a_retry_say(colour: Any, dependency: Any, heard: Any) -> None:
    """Attempts are numbered from one, failures have a kind and a name, and delays are in seconds."""
    retry = hm.Retry(on="transient", attempts=2, delay="100ms", jitter="none")
    policy = hm.Policy(retry, name="p", clock=ManualClock(start=50.0), events=heard.bus)
    with pytest.raises(ConnectionResetError):
        colour.call(policy, dependency(TimeoutError, ConnectionResetError))
    first, second = {"policy": "p", "at": 50.0, "attempt": 1}, {"policy": "p", "at": 50.1, "attempt": 2}
    assert [event.as_dict() for event in heard.events] == [
        first | {"event": "attempt_failed", "part": "function", "kind": "timeout", "error": "TimeoutError"},
        first | {"event": "retry_scheduled", "part": "retry", "delay": 0.1},
        second
        | {"event": "attempt_failed", "part": "function", "kind": "unavailable", "error": "ConnectionResetError"},
        second | {"event": "retry_stopped", "part": "retry", "reason": "no attempts left"},
    ]


def test_no_lock_is_held_while_listeners_are_called(colour: Any, dependency: Any, machine_of: Any, heard: Any) -> None:
    """A listener may look into the machines and even call the same policy."""
    breaker = hm.CircuitBreaker(minimum_calls=2, open_for=5)
    policy = hm.Policy(breaker, hm.Bulkhead(2, max_queued=1), events=heard.bus, clock=ManualClock())
    machine, seen = machine_of(policy, hm.CircuitBreaker), []

    def nosy(event: events.Event) -> None:
        seen.append((event.name, machine.tally(0.0), machine.refusal(0.0) is None, machine._lock.locked()))
        if event.name == "attempt_failed" and machine.refusal(0.0) is None:
            policy.call(int)

    heard.bus.listen(nosy)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            colour.call(policy, dependency(ZeroDivisionError))
    with pytest.raises(hm.CircuitOpen):
        colour.call(policy, dependency(3))
    assert [name for name, *_ in seen] == heard.names
    assert {"attempt_failed", "state_changed", "call_rejected"} == set(heard.names)
    assert not any(locked for *_, locked in seen)


def test_a_broken_listener_breaks_no_call(colour: Any, dependency: Any, heard: Any, caplog: Any) -> None:
    """A listener that raises is taken off; calls and other listeners go on as if it had never been."""

    def broken(event: events.Event) -> None:
        raise RuntimeError("broken")

    heard.bus.listen(broken)
    policy = hm.Policy(hm.Retry(on="any", delay=0), events=heard.bus, clock=ManualClock())
    assert colour.call(policy, dependency(ZeroDivisionError, 3)) == 3
    assert heard.names == ["attempt_failed", "retry_scheduled", "retry_succeeded"]
    assert len(heard.bus.listeners) == 1
    assert len(caplog.records) == 1


def test_waits_are_told_in_seconds(colour: Any, dependency: Any, machine_of: Any, heard: Any, until: Any) -> None:
    """Who stood in a queue is told with the time that it took."""
    clock, held = ManualClock(), Future[int]()
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait=20), clock=clock, events=heard.bus)
    called = dependency(held, 3)
    first = colour.start(policy, called)
    called.wait_until_inside()
    second = colour.start(policy, called)
    until(lambda: machine_of(policy, hm.Bulkhead).queued == 1)
    clock.advance(2.5)
    held.set_result(2)
    assert (first.result(20), second.result(20)) == (2, 3)
    (waited,) = heard.events
    assert (waited.name, waited.part, waited.seconds) == ("waited", "bulkhead", 2.5)

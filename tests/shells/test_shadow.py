"""A shadow decides and reports; the call goes through as it is."""

from __future__ import annotations

from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.testing import ManualClock


def test_a_shadow_refuses_nothing(colour: Any, dependency: Any, heard: Any, machine_of: Any) -> None:
    """A breaker in the shadow opens and says what it would refuse, and every call reaches the dependency."""
    policy = hm.Policy(
        hm.CircuitBreaker(minimum_calls=2, open_for="1h"), shadow=True, events=heard.bus, clock=ManualClock()
    )
    script = dependency(ConnectionResetError, ConnectionResetError, 3)
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            colour.call(policy, script)
    assert machine_of(policy, hm.CircuitBreaker).state is BreakerState.OPEN
    assert colour.call(policy, script) == 3
    assert heard.names == ["attempt_failed", "attempt_failed", "state_changed", "call_rejected"]
    assert all(event.shadow for event in heard.events)
    assert machine_of(policy, hm.CircuitBreaker).state is BreakerState.OPEN  # it never heard of that one


def test_a_shadow_of_a_bulkhead(colour: Any, dependency: Any, heard: Any, held: Any, machine_of: Any) -> None:
    """A full bulkhead in the shadow lets in, and holds permits for those only that it would have let in."""
    policy = hm.Policy(hm.Bulkhead(1), shadow=True, events=heard.bus)
    first, second = dependency(held), dependency(held)
    answers = [colour.start(policy, first)]
    first.wait_until_inside()
    answers.append(colour.start(policy, second))
    second.wait_until_inside()
    assert machine_of(policy, hm.Bulkhead).in_flight == 1
    assert heard.names == ["call_rejected"]
    held.set_result(3)
    assert [answer.result(20) for answer in answers] == [3, 3]
    assert machine_of(policy, hm.Bulkhead).in_flight == 0


def test_a_shadow_repeats_and_answers_nothing(colour: Any, dependency: Any, heard: Any) -> None:
    """It says that it would retry, and that it would answer; the caller gets the failure as it is."""
    policy = hm.Policy(
        hm.Fallback(value=0),
        hm.Retry(on="transient", attempts=2),
        shadow=True,
        events=heard.bus,
    )
    script = dependency(ConnectionResetError, KeyError)
    with pytest.raises(ConnectionResetError):
        colour.call(policy, script)
    assert script.calls == 1
    with pytest.raises(KeyError):
        colour.call(policy, script)
    assert heard.names == ["attempt_failed", "retry_scheduled", "attempt_failed", "fallback_answered"]


def test_a_shadow_cuts_nothing_off(colour: Any, dependency: Any, heard: Any, machine_of: Any) -> None:
    """A call that takes longer than its timeout gives its answer, and counts as timed out for the breaker."""
    clock = ManualClock()
    policy = hm.Policy(
        hm.Timeout(1, cooperative=True),
        hm.CircuitBreaker(minimum_calls=1),
        shadow=True,
        events=heard.bus,
        clock=clock,
    )
    left: list[float | None] = []

    def slow() -> int:
        left.append(hm.remaining())
        clock.advance(2)
        return 3

    assert colour.call(policy, dependency(slow)) == 3
    assert left == [None]
    assert heard.names == ["timeout_hit", "attempt_failed", "state_changed"]


def test_a_shadow_in_layers(colour: Any, dependency: Any) -> None:
    """In an order as given, every layer only watches."""
    policy = hm.Policy(
        hm.CircuitBreaker(minimum_calls=1), hm.Retry(on="any"), hm.Bulkhead(1), order="as given", shadow=True
    )
    script = dependency(ZeroDivisionError)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            colour.call(policy, script)
    assert script.calls == 3


def test_a_shadow_steps_out(colour: Any, dependency: Any) -> None:
    """A policy can be put into the shadow and out of it while it is in use; what it has learnt stays."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1, open_for="1h"), shadow=True)
    script = dependency(ZeroDivisionError)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            colour.call(policy, script)
    policy.reconfigure(shadow=False)
    with pytest.raises(hm.CircuitOpen):
        colour.call(policy, script)
    policy.reconfigure(shadow=True)
    with pytest.raises(ZeroDivisionError):
        colour.call(policy, script)
    assert policy.snapshot()["shadow"] is True


def test_a_shadow_of_an_unwanted_result(colour: Any, dependency: Any, heard: Any) -> None:
    """A result that is raised as a failure is handed out as the result that it is."""

    def unavailable() -> None:
        raise hm.UnwantedResult("503", hm.FailureKind.UNAVAILABLE)

    policy = hm.Policy(hm.Retry(on="transient"), shadow=True, events=heard.bus)
    script = dependency(unavailable)
    assert colour.call(policy, script) == "503"
    assert script.calls == 1
    assert heard.names == ["attempt_failed", "retry_scheduled"]


def test_what_a_shadow_would_refuse_it_would_answer_too(colour: Any, dependency: Any, heard: Any) -> None:
    """Where the call would have been refused, its outcome counts for nobody, and the fallback is all that is told."""
    policy = hm.Policy(
        hm.Fallback(value=0),
        hm.Retry(on="any"),
        hm.CircuitBreaker(minimum_calls=1, open_for="1h"),
        shadow=True,
        events=heard.bus,
    )
    script = dependency(ZeroDivisionError)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            colour.call(policy, script)
    assert heard.names[-2:] == ["call_rejected", "fallback_answered"]

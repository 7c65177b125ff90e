"""Results that are failures, calls that must not be repeated, and what is told of every call."""

from __future__ import annotations

from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.events import CallEnded, EventBus
from hormesis.outcome import FailureKind
from hormesis.testing import ManualClock


def bad(result: Any) -> bool:
    return bool(result == "bad")


def test_a_result_that_is_a_failure_is_retried(colour: Any, dependency: Any, heard: Any) -> None:
    """A retry that is told which results are failures repeats those, and hands out the good one."""
    policy = hm.Policy(hm.Retry(on="transient", on_result=bad, delay=0), events=heard.bus)
    script = dependency("bad", "bad", "good")
    assert colour.call(policy, script) == "good"
    assert script.calls == 3
    assert heard.names == ["attempt_failed", "retry_scheduled"] * 2 + ["retry_succeeded"]


def test_the_last_bad_result_is_what_there_is(colour: Any, dependency: Any) -> None:
    """When no attempt brings a better one, the caller gets the result itself, and no exception."""
    policy = hm.Policy(hm.Retry(on="transient", on_result=bad, delay=0, attempts=2))
    script = dependency("bad")
    assert colour.call(policy, script) == "bad"
    assert script.calls == 2


def test_a_result_counts_for_the_part_that_asked(colour: Any, dependency: Any, machine_of: Any) -> None:
    """What one part calls a failure is none to a part that did not ask."""
    policy = hm.Policy(hm.Retry(on="transient", on_result=bad, delay=0, attempts=2), hm.CircuitBreaker(minimum_calls=1))
    assert colour.call(policy, dependency("bad")) == "bad"
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0)[:2] == (2, 0)
    judging = hm.Policy(hm.CircuitBreaker(minimum_calls=1, on_result=bad))
    assert colour.call(judging, dependency("bad")) == "bad"
    assert machine_of(judging, hm.CircuitBreaker).state is BreakerState.OPEN


def test_a_fallback_for_a_result(colour: Any, dependency: Any) -> None:
    """A fallback that is told which results are failures answers in their place."""
    policy = hm.Policy(hm.Fallback(value="better", on_result=bad))
    assert colour.call(policy, dependency("bad")) == "better"
    assert colour.call(policy, dependency("good")) == "good"


def test_an_unwanted_result_has_a_kind(colour: Any, dependency: Any) -> None:
    """A function may raise a result as the failure that it is: policies treat it by kind, callers get the result."""
    disposed: list[str] = []

    def unavailable() -> None:
        raise hm.UnwantedResult("503", FailureKind.UNAVAILABLE, dispose=lambda: disposed.append("503"))

    policy = hm.Policy(hm.Retry(on="transient", delay=0, attempts=3))
    script = dependency(unavailable)
    assert colour.call(policy, script) == "503"
    assert script.calls == 3
    assert disposed == ["503", "503"]  # each that another attempt took the place of, and not the last


def test_an_unwanted_result_passes_inner_layers(colour: Any, dependency: Any) -> None:
    """In an order as given, only the outermost layer turns it back into a result."""
    policy = hm.Policy(
        hm.Retry(on="transient", on_result=bad, delay=0, attempts=2),
        hm.Timeout(20, cooperative=True),
        hm.Retry(on="transient", on_result=bad, delay=0, attempts=3),
        order="as given",
    )
    script = dependency("bad")
    assert colour.call(policy, script) == "bad"
    assert script.calls == 6


def test_a_call_that_must_not_be_repeated(colour: Any, dependency: Any, heard: Any) -> None:
    """Who makes a call may say that making it twice does harm: then it is not retried."""
    policy = hm.Policy(hm.Retry(on="any", delay=0), events=heard.bus)
    script = dependency(ConnectionResetError)
    with hm.calling(repeatable=False), pytest.raises(ConnectionResetError) as raised:
        colour.call(policy, script)
    assert script.calls == 1
    assert heard.events[-1].reason == "not safe to repeat"
    assert "not safe to repeat" in raised.value.__notes__[0]


def test_every_call_is_told_to_those_who_ask(colour: Any, dependency: Any) -> None:
    """A listener that asks for calls hears of each: how long, how many attempts, how it ended, and from where."""
    bus, clock = EventBus(), ManualClock()
    ends: list[CallEnded] = []
    plain: list[str] = []
    bus.listen(lambda event: ends.append(event) if isinstance(event, CallEnded) else None, calls=True)
    bus.listen(lambda event: plain.append(event.name))
    policy = hm.Policy(
        hm.Fallback(value=0, on=KeyError),
        hm.Retry(on="transient", delay=0),
        hm.Bulkhead(1),
        events=bus,
        clock=clock,
    )
    colour.call(policy, dependency(3))
    colour.call(policy, dependency(ConnectionResetError, 3))
    colour.call(policy, dependency(KeyError))
    with pytest.raises(ValueError):  # noqa: PT011
        colour.call(policy, dependency(ValueError))
    assert [(end.ending, end.attempts, end.source) for end in ends] == [
        ("success", 1, "function"),
        ("success", 2, "function"),
        ("success", 1, "fallback"),
        ("failure", 1, ""),
    ]
    assert all(end.seconds >= 0 for end in ends)
    assert "call_ended" not in plain


def test_answers_say_where_they_came_from(colour: Any, dependency: Any) -> None:
    """A block that asks is told of the answers that did not come from the function."""
    policy = hm.Policy(hm.Fallback(value=0), name="stock")
    with hm.answers() as seen:
        colour.call(policy, dependency(3))
        assert not seen.degraded
        colour.call(policy, dependency(ConnectionResetError))
    assert seen.degraded
    assert [(answer.policy, answer.source) for answer in seen.noted] == [("stock", "fallback")]


def test_fallbacks_are_bounded(colour: Any, dependency: Any, held: Any, heard: Any) -> None:
    """When as many fallback functions run as may, the next caller gets the failure itself."""
    inside = dependency(held)
    answer = inside.async_ if hasattr(colour, "_loop") else inside.sync
    policy = hm.Policy(hm.Fallback(answer, max_concurrent=1), events=heard.bus)
    first = colour.start(policy, dependency(ConnectionResetError))
    inside.wait_until_inside()
    with pytest.raises(ConnectionResetError) as raised:
        colour.call(policy, dependency(ConnectionResetError))
    assert "busy" in raised.value.__notes__[0]
    held.set_result("late")
    assert first.result(20) == "late"

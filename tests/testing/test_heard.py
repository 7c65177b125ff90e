"""`hear`: what a policy did, and assertions on it."""

from __future__ import annotations

from typing import Any

import pytest

import hormesis as hm
from hormesis.events import CallEnded, CallRejected, EventBus, RetryScheduled, StateChanged, bus
from hormesis.patterns.degradation import Degradation
from hormesis.testing import Heard, ManualClock, Scripted, hear


def rejected(at: float = 0, policy: str = "stock", **facts: Any) -> CallRejected:
    known: dict[str, Any] = {"at": at, "policy": policy, "part": "bulkhead", "reason": "full", "retry_after": None}
    return CallRejected(**(known | facts))


@pytest.fixture
def events() -> EventBus:
    """A bus of the test's own."""
    return EventBus()


@pytest.fixture
def heard(events: EventBus) -> Heard:
    """Two refusals."""
    with hear(events) as heard:
        events.publish(rejected(1))
        events.publish(rejected(2, part="circuit_breaker", reason="open", retry_after=2.5))
    return heard


def test_a_policy_is_heard_on_its_own_bus(events: EventBus) -> None:
    """Its own events and no other's, inside the block and not after it."""
    clock = ManualClock()
    policy = hm.Policy(
        hm.Retry(on="transient", delay="1s", jitter="none"),
        hm.CircuitBreaker(minimum_calls=1, failure_rate=1),
        name="stock",
        clock=clock,
        events=events,
    )
    with hear(policy) as heard:
        events.publish(rejected(policy="other"))
        with pytest.raises(ConnectionRefusedError):
            policy.call(Scripted(ConnectionRefusedError).call)
    with pytest.raises(hm.CircuitOpen):
        policy.call(int)
    assert not events.listeners
    assert heard.delays == [1.0]
    assert heard.states == ["open"]
    assert heard.names.count("call_rejected") == 1
    heard.assert_happened("call_rejected", part="circuit_breaker")


def test_a_policy_without_a_bus_is_heard_too() -> None:
    """On the one that it has by default."""
    policy = hm.Policy(hm.Bulkhead(1), name="stock")
    before = bus.listeners
    with hear(policy) as heard, pytest.raises(hm.BulkheadFull):
        policy.call(lambda: policy.call(int))
    assert heard.names == ["call_rejected"]
    assert bus.listeners == before


def test_a_degradation_is_heard() -> None:
    """It has events of its own."""
    shop = Degradation(features={}, events=EventBus())
    with hear(shop) as heard:
        shop.set("reduced")
    heard.assert_happened("level_changed", before="full", after="reduced", times=1)


def test_plain_successes_are_silent_unless_asked_for(events: EventBus) -> None:
    """`calls` hears of each end."""
    policy = hm.Policy(hm.Bulkhead(1), name="stock", events=events)
    with hear(policy) as silent:
        policy.call(int)
    silent.assert_nothing_happened()
    with hear(policy, calls=True) as heard:
        policy.call(int)
    heard.assert_happened("call_ended", ending="success", times=1)
    assert isinstance(heard.events[0], CallEnded)


def test_events_by_name_and_facts(heard: Heard) -> None:
    """All facts must be true."""
    assert [event.at for event in heard.of("call_rejected")] == [1, 2]
    assert [event.at for event in heard.of("call_rejected", part="bulkhead", reason="full")] == [1]
    assert heard.of("call_rejected", part="bulkhead", reason="open") == []
    assert heard.of("call_rejected", retry_after=pytest.approx(2.5)) == [heard.events[1]]
    assert heard.of("waited") == []


def test_unknown_names_and_facts_are_refused(heard: Heard) -> None:
    """A misspelt assertion must not pass."""
    with pytest.raises(hm.ConfigurationError, match=r"unknown event 'call_rejcted' \(did you mean 'call_rejected'"):
        heard.assert_happened("call_rejcted", times=0)
    with pytest.raises(hm.ConfigurationError, match="unknown fact of call_rejected 'prt'"):
        heard.assert_happened("call_rejected", prt="bulkhead", times=0)


def test_what_happened_passes(heard: Heard) -> None:
    """At least once, so often, or never."""
    heard.assert_happened("call_rejected")
    heard.assert_happened("call_rejected", times=2)
    heard.assert_happened("call_rejected", part="bulkhead", times=1)
    heard.assert_happened("call_rejected", part="retry", times=0)


@pytest.mark.parametrize(
    ("name", "facts", "says"),
    [
        ("waited", {}, r"waited\(\) did not happen, and should have at least once"),
        ("call_rejected", {"times": 1}, r"call_rejected\(\) happened 2 times, and should have once"),
        ("call_rejected", {"times": 0}, "happened 2 times, and should have never"),
        (
            "call_rejected",
            {"part": "bulkhead", "times": 3},
            r"call_rejected\(part='bulkhead'\) happened once, and should have 3 times",
        ),
    ],
)
def test_what_did_not_happen_fails_and_shows_what_did(heard: Heard, name: str, facts: Any, says: str) -> None:
    """One line for each event, with its time and its facts."""
    with pytest.raises(AssertionError, match=says) as caught:
        heard.assert_happened(name, **facts)
    assert str(caught.value).splitlines()[1:] == [
        "       1.000  stock: call_rejected(part='bulkhead', reason='full', retry_after=None)",
        "       2.000  stock: call_rejected(part='circuit_breaker', reason='open', retry_after=2.5)",
    ]


def test_nothing_happened(heard: Heard) -> None:
    """Fails when something did, and passes once that is forgotten; then there is nothing to show."""
    with pytest.raises(AssertionError, match="something happened; heard was:"):
        heard.assert_nothing_happened()
    heard.clear()
    heard.assert_nothing_happened()
    with pytest.raises(AssertionError, match="nothing was heard"):
        heard.assert_happened("waited")


def test_a_flood_is_shown_in_few_lines(events: EventBus) -> None:
    """A failure's message is bounded."""
    with hear(events) as heard:
        for at in range(1000):
            events.publish(rejected(at))
    with pytest.raises(AssertionError, match="and 950 more") as caught:
        heard.assert_nothing_happened()
    assert str(caught.value).count("\n") < 60


def test_delays_and_states_are_of_their_events_only(events: EventBus) -> None:
    """Other events have none."""
    with hear(events) as heard:
        events.publish(rejected())
        events.publish(RetryScheduled(at=0, policy="stock", part="retry", attempt=1, delay=0.5))
        events.publish(
            StateChanged(at=0, policy="stock", part="circuit_breaker", before="open", after="half-open", reason="")
        )
    assert (heard.delays, heard.states) == ([0.5], ["half-open"])

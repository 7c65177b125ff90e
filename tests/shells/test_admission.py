"""May this call go in: breaker and bulkhead around calls that run side by side, in every colour."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.outcome import Ending
from hormesis.testing import ManualClock

LONG = "20s"


def trip(breaker: Any, now: float = 0.0) -> None:
    """Open a breaker from outside, as failures of other callers would."""
    while breaker.state is BreakerState.CLOSED:
        breaker.end(breaker.acquire(now), Ending.FAILURE, now, now)


def test_an_open_circuit_refuses_and_closes_when_a_probe_answers(
    colour: Any, dependency: Any, machine_of: Any, heard: Any
) -> None:
    """Failures open it, calls are then refused untouched, and after its time a probe closes it again."""
    clock, called = ManualClock(), dependency(ZeroDivisionError, ZeroDivisionError, 3)
    breaker = hm.CircuitBreaker(minimum_calls=2, open_for="10s", probes=1)
    policy = hm.Policy(breaker, name="stock", clock=clock, events=heard.bus)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            colour.call(policy, called)
    clock.advance(4)
    with pytest.raises(hm.CircuitOpen) as caught:
        colour.call(policy, called)
    assert (caught.value.policy, caught.value.reason, caught.value.retry_after) == ("stock", "open", 6.0)
    assert called.calls == 2
    clock.advance(6)
    assert colour.call(policy, called) == 3
    assert machine_of(policy, hm.CircuitBreaker).state is BreakerState.CLOSED


def test_an_open_circuit_ends_the_retries(colour: Any, dependency: Any) -> None:
    """When the breaker opens between two attempts, the last real exception comes out, and says what stopped it."""
    called = dependency(ZeroDivisionError)
    retry = hm.Retry(on="any", attempts=10, delay=0)
    policy = hm.Policy(retry, hm.CircuitBreaker(minimum_calls=3), clock=ManualClock())
    with pytest.raises(ZeroDivisionError) as caught:
        colour.call(policy, called)
    assert called.calls == 3
    assert isinstance(caught.value.__cause__, hm.CircuitOpen)


def test_a_budget_is_asked_before_sleeping(colour: Any, dependency: Any) -> None:
    """When the retry budget is used up, the failure comes out at once: nothing is slept first."""
    clock, called = ManualClock(), dependency(TimeoutError)
    retry = hm.Retry(on="timeout", attempts=2, delay="1s", jitter="none", budget=0.001)
    policy = hm.Policy(retry, clock=clock)
    for _ in range(10):  # the stock
        with pytest.raises(TimeoutError):
            colour.call(policy, called)
    assert clock.now() == 10.0
    with pytest.raises(TimeoutError) as caught:
        colour.call(policy, called)
    assert clock.now() == 10.0
    assert "no budget left" in caught.value.__notes__[-1]


def test_no_lock_is_held_while_calls_run(colour: Any, dependency: Any) -> None:
    """Ten calls are inside at the same time, through a breaker, a bulkhead and a retry."""
    held: Future[int] = Future()
    called = dependency(held)
    policy = hm.Policy(hm.CircuitBreaker(), hm.Bulkhead(10), hm.Retry(on="any"))
    running = [colour.start(policy, called) for _ in range(10)]
    called.wait_until_inside(10)
    held.set_result(3)
    assert [call.result(20) for call in running] == [3] * 10


def test_half_open_is_not_stampeded(colour: Any, dependency: Any, machine_of: Any, until: Any) -> None:
    """Of ten callers that come at once when the open time is over, the probes go in and all others are refused."""
    clock, held = ManualClock(), Future[int]()
    called = dependency(held)
    policy = hm.Policy(hm.CircuitBreaker(open_for=1, probes=3), clock=clock)
    breaker = machine_of(policy, hm.CircuitBreaker)
    trip(breaker)
    clock.advance(1)
    running = [colour.start(policy, called) for _ in range(10)]
    until(lambda: sum(call.done() for call in running) == 7)
    called.wait_until_inside(3)
    held.set_result(3)
    answers = [call.exception(20) for call in running]
    assert sum(isinstance(error, hm.CircuitOpen) for error in answers) == 7
    assert called.calls == 3
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("nested", [False, True], ids=["its own", "a nested policy's"])
def test_rejections_do_not_feed_the_breaker(colour: Any, dependency: Any, machine_of: Any, nested: bool) -> None:
    """A full bulkhead says nothing of the dependency: the breaker counts it neither way."""
    held: Future[int] = Future()
    called = dependency(held)
    breaker, bulkhead = hm.CircuitBreaker(minimum_calls=1), hm.Bulkhead(1)
    inner = hm.Policy(bulkhead, name="inner")
    policy = hm.Policy(breaker) if nested else hm.Policy(breaker, bulkhead)
    target = colour.nest(inner, called) if nested else called
    first = colour.start(policy, target)
    called.wait_until_inside()
    for _ in range(5):
        with pytest.raises(hm.BulkheadFull, match="full"):
            colour.call(policy, target)
    held.set_result(3)
    assert first.result(20) == 3
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (1, 0, 0)


def test_waiting_in_the_queue(colour: Any, dependency: Any, machine_of: Any, until: Any, heard: Any) -> None:
    """Who waits goes in when a place is free, first come, first served; who comes when the queue is full is refused."""
    held = [Future[int]() for _ in range(3)]
    called = dependency(*held)
    policy = hm.Policy(hm.Bulkhead(1, max_queued=2, max_wait=LONG), events=heard.bus)
    bulkhead = machine_of(policy, hm.Bulkhead)
    running = []
    for waiting in (0, 1, 2):
        running.append(colour.start(policy, called))
        until(lambda waiting=waiting: bulkhead.in_flight == 1 and bulkhead.queued == waiting)
    with pytest.raises(hm.BulkheadFull, match="queue full"):
        colour.call(policy, called)
    for number, call in enumerate(running):
        called.wait_until_inside()
        assert called.calls == number + 1
        held[number].set_result(number)
        assert call.result(20) == number
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
    assert heard.names == ["call_rejected", "waited", "waited"]


@pytest.mark.parametrize(
    "parts",
    [
        [hm.Bulkhead(1, max_queued=1, max_wait="20ms")],
        [hm.Deadline("20ms"), hm.Bulkhead(1, max_queued=1, max_wait=LONG)],
    ],
    ids=["its own patience", "the deadline"],
)
def test_waiting_too_long(colour: Any, dependency: Any, machine_of: Any, parts: Any) -> None:
    """Nobody waits longer than `max_wait`, nor for a permit that could only come after the deadline."""
    policy = hm.Policy(*parts)
    bulkhead = machine_of(policy, hm.Bulkhead)
    permit = bulkhead.acquire(0.0)
    called = dependency(3)
    with pytest.raises(hm.BulkheadFull, match="waited too long"):
        colour.call(policy, called)
    assert called.calls == 0
    assert bulkhead.queued == 0
    bulkhead.put_back(permit)
    assert colour.call(policy, called) == 3


def test_no_time_left_to_wait(colour: Any, dependency: Any, machine_of: Any) -> None:
    """A caller whose deadline has passed does not even enter the queue."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait=LONG))
    machine_of(policy, hm.Bulkhead).acquire(0.0)
    with hm.deadline(0), pytest.raises(hm.BulkheadFull, match="no time left to wait"):
        colour.call(policy, dependency(3))


def test_an_open_circuit_refuses_before_the_queue(colour: Any, dependency: Any, machine_of: Any) -> None:
    """Nobody stands in a queue whose end is a refusal."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Bulkhead(1, max_queued=5, max_wait=LONG), clock=ManualClock())
    machine_of(policy, hm.Bulkhead).acquire(0.0)
    trip(machine_of(policy, hm.CircuitBreaker))
    with pytest.raises(hm.CircuitOpen):
        colour.call(policy, dependency(3))


def test_a_circuit_that_opens_while_callers_wait(colour: Any, dependency: Any, machine_of: Any, until: Any) -> None:
    """After the wait all parts are asked anew: an open breaker refuses, and the place that was waited for is free."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Bulkhead(1, max_queued=1, max_wait=LONG), clock=ManualClock())
    bulkhead, called = machine_of(policy, hm.Bulkhead), dependency(3)
    permit = bulkhead.acquire(0.0)
    waiting = colour.start(policy, called)
    until(lambda: bulkhead.queued == 1)
    trip(machine_of(policy, hm.CircuitBreaker))
    bulkhead.put_back(permit)
    assert isinstance(waiting.exception(20), hm.CircuitOpen)
    assert (bulkhead.in_flight, bulkhead.queued, called.calls) == (0, 0, 0)


def test_no_probe_is_lost_to_a_full_bulkhead(colour: Any, dependency: Any, machine_of: Any) -> None:
    """A half-open breaker whose calls the bulkhead refuses still has its probe to give."""
    clock, called = ManualClock(), dependency(3)
    policy = hm.Policy(hm.CircuitBreaker(open_for=1, probes=1), hm.Bulkhead(1), clock=clock)
    breaker, bulkhead = machine_of(policy, hm.CircuitBreaker), machine_of(policy, hm.Bulkhead)
    permit = bulkhead.acquire(0.0)
    trip(breaker)
    clock.advance(1)
    for _ in range(3):
        with pytest.raises(hm.BulkheadFull):
            colour.call(policy, called)
    bulkhead.put_back(permit)
    assert colour.call(policy, called) == 3
    assert breaker.state is BreakerState.CLOSED


def test_no_probe_stands_in_a_queue(colour: Any, dependency: Any, machine_of: Any, until: Any) -> None:
    """A caller in the bulkhead's queue holds no probe that could expire there."""
    clock, called = ManualClock(), dependency(3)
    parts = hm.CircuitBreaker(open_for=1, probes=1), hm.Bulkhead(1, max_queued=1, max_wait=LONG)
    policy = hm.Policy(*parts, clock=clock)
    breaker, bulkhead = machine_of(policy, hm.CircuitBreaker), machine_of(policy, hm.Bulkhead)
    permit = bulkhead.acquire(0.0)
    trip(breaker)
    clock.advance(1)
    waiting = colour.start(policy, called)
    until(lambda: bulkhead.queued == 1)
    assert breaker.refusal(clock.now()) is None
    bulkhead.put_back(permit)
    assert waiting.result(20) == 3


def test_a_retry_that_is_refused(colour: Any, dependency: Any, heard: Any) -> None:
    """A breaker that opens between two attempts ends the retries: the caller gets the real failure, with why."""
    policy = hm.Policy(
        hm.Retry(on="any", attempts=5, delay=0, budget=None),
        hm.CircuitBreaker(minimum_calls=2),
        clock=ManualClock(),
        events=heard.bus,
    )
    failing = dependency(ZeroDivisionError)
    with pytest.raises(ZeroDivisionError) as caught:
        colour.call(policy, failing)
    assert isinstance(caught.value.__cause__, hm.CircuitOpen)
    assert "gave up after attempt 2: the next was refused (open)" in caught.value.__notes__[-1]
    assert heard.names[-2:] == ["call_rejected", "retry_stopped"]


def test_failures_that_are_no_verdict(colour: Any, dependency: Any, machine_of: Any) -> None:
    """What a breaker ignores counts neither as failure nor as success, and comes out all the same."""
    policy = hm.Policy(hm.CircuitBreaker(ignore=KeyError, consecutive=2), clock=ManualClock())
    breaker = machine_of(policy, hm.CircuitBreaker)
    for error in (ZeroDivisionError, KeyError):
        with pytest.raises(error):
            colour.call(policy, dependency(error))
    assert breaker.tally(0.0) == (1, 1, 0)
    with pytest.raises(ZeroDivisionError):
        colour.call(policy, dependency(ZeroDivisionError))
    assert breaker.state is BreakerState.OPEN

"""Calls that stay open: their permits live until somebody says that they have ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import hormesis as hm
from hormesis.outcome import FailureKind


def opened(policy: hm.Policy, function: Any, *args: Any, asynchronous: bool) -> hm.Opened[Any]:
    """Open a call in either colour."""
    if not asynchronous:
        return policy.open(function, *args)

    async def painted(*args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    return asyncio.run(policy.aopen(painted, *args))


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    """In which colour calls are opened."""
    return bool(request.param)


def test_a_permit_is_held_until_the_end(asynchronous: bool, machine_of: Any) -> None:
    """A stream takes its place in the bulkhead for as long as it flows, and counts as success when it ends."""
    policy = hm.Policy(hm.Bulkhead(1), hm.CircuitBreaker())
    bulkhead, breaker = machine_of(policy, hm.Bulkhead), machine_of(policy, hm.CircuitBreaker)
    stream = opened(policy, iter, [1, 2], asynchronous=asynchronous)
    assert (bulkhead.in_flight, breaker.tally(0.0).calls) == (1, 0)
    with pytest.raises(hm.BulkheadFull):
        opened(policy, iter, [], asynchronous=asynchronous)
    assert list(stream.value) == [1, 2]
    stream.end()
    stream.end()
    assert (bulkhead.in_flight, breaker.tally(0.0)[:2]) == (0, (1, 0))


def test_a_stream_that_breaks_off(asynchronous: bool, machine_of: Any) -> None:
    """How a stream ends is how its call ended: a failure counts, a cancellation does not."""
    policy = hm.Policy(hm.Bulkhead(1), hm.CircuitBreaker())
    breaker = machine_of(policy, hm.CircuitBreaker)
    with pytest.raises(ConnectionResetError), opened(policy, iter, [1], asynchronous=asynchronous):
        raise ConnectionResetError
    assert breaker.tally(0.0)[:2] == (1, 1)
    with pytest.raises(KeyboardInterrupt), opened(policy, iter, [1], asynchronous=asynchronous):
        raise KeyboardInterrupt
    assert breaker.tally(0.0)[:2] == (1, 1)
    assert machine_of(policy, hm.Bulkhead).in_flight == 0


def test_opening_is_retried_and_answered_like_any_call(asynchronous: bool, machine_of: Any) -> None:
    """Before it is open a call is a call; an answer that stands in holds no permit."""
    answers: list[Any] = [ConnectionRefusedError(), ConnectionRefusedError(), "open"]

    def connect() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    policy = hm.Policy(hm.Fallback(value="closed"), hm.Retry(on="transient", delay=0, attempts=2), hm.Bulkhead(1))
    bulkhead = machine_of(policy, hm.Bulkhead)
    with opened(policy, connect, asynchronous=asynchronous) as first:
        assert (first.value, bulkhead.in_flight) == ("closed", 0)
    with opened(policy, connect, asynchronous=asynchronous) as second:
        assert (second.value, bulkhead.in_flight) == ("open", 1)
    assert bulkhead.in_flight == 0


def test_an_unwanted_result_is_open_without_permits(asynchronous: bool, machine_of: Any) -> None:
    """A bad answer is handed out when there is no better one, and its permits have ended with it."""

    def unavailable() -> Any:
        raise hm.UnwantedResult("503", FailureKind.UNAVAILABLE)

    policy = hm.Policy(hm.Bulkhead(1), hm.CircuitBreaker())
    with opened(policy, unavailable, asynchronous=asynchronous) as answer:
        assert answer.value == "503"
        assert machine_of(policy, hm.Bulkhead).in_flight == 0
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0)[:2] == (1, 1)


def test_every_layer_stays_open(asynchronous: bool) -> None:
    """In an order as given, the permits of all layers are held, and all end."""
    policy = hm.Policy(hm.Bulkhead(1), hm.CircuitBreaker(), hm.Bulkhead(1), order="as given")

    def in_flight() -> list[int]:
        return [state["in_flight"] for key, state in policy.snapshot()["parts"].items() if "bulkhead" in key]

    with opened(policy, iter, [], asynchronous=asynchronous):
        assert in_flight() == [1, 1]
    assert in_flight() == [0, 0]


def test_a_synchronous_call_needs_what_call_needs() -> None:
    """What can't protect a synchronous function can't open one."""
    with pytest.raises(hm.ConfigurationError, match="a thread can't be interrupted"):
        hm.Policy(hm.Timeout(1)).open(iter, [])

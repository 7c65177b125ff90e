"""Attempts for a block of code, in a `for` and in an `async for`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import ManualClock, VirtualClock, run_virtual


def sync_block(policy: hm.Policy, body: Callable[[int], Any]) -> Any:
    for attempt in policy.attempts():
        with attempt:
            result = body(attempt.number)
    return result


def async_block(policy: hm.Policy, body: Callable[[int], Any]) -> Any:
    async def main() -> Any:
        async for attempt in policy.attempts():
            async with attempt:
                await asyncio.sleep(0)
                result = body(attempt.number)
        return result

    return run_virtual(main())


@pytest.fixture(params=["sync", "async"])
def block(request: pytest.FixtureRequest) -> Any:
    """A way of running a block, and the clock that goes with it."""
    return (sync_block, ManualClock()) if request.param == "sync" else (async_block, VirtualClock())


def test_a_block_is_repeated_until_it_succeeds(block: Any, heard: Any, machine_of: Any) -> None:
    """The block runs again after each failure that is worth it, under the same breaker and bulkhead."""
    run, clock = block

    def body(number: int) -> int:
        if number < 3:
            raise ConnectionResetError
        return number

    policy = hm.Policy(
        hm.Retry(on="transient", delay=1, jitter="none"), hm.CircuitBreaker(), hm.Bulkhead(1), clock=clock,
        events=heard.bus,
    )  # fmt: skip
    assert run(policy, body) == 3
    assert heard.names == ["attempt_failed", "retry_scheduled"] * 2 + ["retry_succeeded"]
    assert machine_of(policy, hm.CircuitBreaker).tally(clock.now() if run is sync_block else 3.0)[:2] == (3, 2)
    assert machine_of(policy, hm.Bulkhead).in_flight == 0
    assert hm.remaining() is None


def test_the_last_failure_comes_out(block: Any) -> None:
    """When no attempt is left, and when a failure is not worth one, the block's own exception comes out."""
    run, clock = block
    policy = hm.Policy(hm.Retry(on="transient", delay=0, attempts=2), clock=clock)
    numbers: list[int] = []

    def body(number: int) -> None:
        numbers.append(number)
        raise KeyError if len(numbers) == 3 else ConnectionResetError

    with pytest.raises(ConnectionResetError) as raised:
        run(policy, body)
    assert "gave up after attempt 2" in raised.value.__notes__[0]
    with pytest.raises(KeyError):
        run(policy, body)
    assert numbers == [1, 2, 1]


def test_a_refused_attempt_ends_the_block(block: Any, machine_of: Any) -> None:
    """A first attempt that is refused raises the rejection; a later one raises what had failed before."""
    run, clock = block
    policy = hm.Policy(hm.Retry(on="any", delay=0), hm.CircuitBreaker(minimum_calls=1, open_for="1h"), clock=clock)

    def body(number: int) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError) as raised:
        run(policy, body)
    assert isinstance(raised.value.__cause__, hm.CircuitOpen)
    with pytest.raises(hm.CircuitOpen):
        run(policy, body)
    assert hm.remaining() is None


def test_the_deadline_travels_into_the_block(block: Any) -> None:
    """Inside of the block the time left is that of the whole call, or of the attempt where that is less."""
    run, clock = block
    policy = hm.Policy(
        hm.Deadline(10), hm.Retry(on="transient", delay=4, jitter="none"), hm.Timeout(8, cooperative=True), clock=clock
    )
    left: list[float | None] = []

    def body(number: int) -> None:
        left.append(hm.remaining())
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        run(policy, body)
    assert left == [pytest.approx(8), pytest.approx(6), pytest.approx(1)]
    assert hm.remaining() is None


def test_an_asynchronous_block_is_cut_off() -> None:
    """When the time of an attempt is over, an `async for` block is cancelled where it waits, and tried again."""
    policy = hm.Policy(hm.Retry(on="transient", delay=0, attempts=2), hm.Timeout(1), clock=VirtualClock())
    numbers: list[int] = []

    async def hang() -> None:
        async for attempt in policy.attempts():
            async with attempt:
                numbers.append(attempt.number)
                await asyncio.sleep(3600)

    async def main() -> float:
        with pytest.raises(hm.TimedOut):
            await hang()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(2, abs=0.1)
    assert numbers == [1, 2]


def test_leaving_the_loop_leaves_nothing(machine_of: Any) -> None:
    """A `break` or `return` out of the block is a success, and an interrupt is none; nothing stays behind."""
    policy = hm.Policy(hm.Deadline(10), hm.Retry(on="any", delay=0), hm.Bulkhead(1), hm.CircuitBreaker())
    for attempt in policy.attempts():
        with attempt:
            break
    with pytest.raises(KeyboardInterrupt):
        sync_block(policy, lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0)[:2] == (1, 0)
    assert machine_of(policy, hm.Bulkhead).in_flight == 0
    assert hm.remaining() is None


def test_a_queue_before_the_block(machine_of: Any) -> None:
    """An attempt waits for its place like any other."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait=5), clock=VirtualClock())
    bulkhead = machine_of(policy, hm.Bulkhead)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(2, bulkhead.put_back, bulkhead.acquire(0.0))
        async for attempt in policy.attempts():
            async with attempt:
                return loop.time()
        return 0.0

    assert run_virtual(main()) == pytest.approx(2)
    assert bulkhead.in_flight == 0


@pytest.mark.parametrize(
    ("parts", "order", "why"),
    [
        ([hm.Fallback(value=0)], "standard", "a block has no place for the answer of a fallback"),
        ([hm.Hedge(1, threads=2)], "standard", "a block can't run twice"),
        ([hm.Timeout(1, threads=1)], "standard", "workers"),
        ([hm.Bulkhead(1), hm.Retry(on="any")], "as given", "in several layers"),
    ],
)
def test_what_a_block_can_not_have(parts: list[Any], order: Any, why: str) -> None:
    """Parts that need a function are refused at once, with the reason."""
    with pytest.raises(hm.ConfigurationError, match=why):
        hm.Policy(*parts, order=order).attempts()


def test_a_plain_loop_needs_what_call_needs() -> None:
    """A timeout that could not cut a plain block off is refused there, and not in an `async for`."""
    attempts = hm.Policy(hm.Timeout(1)).attempts()
    with pytest.raises(hm.ConfigurationError, match="a thread can't be interrupted"):
        iter(attempts)

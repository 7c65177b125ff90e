"""Defects that shipped timeouts, hedges and decorators have, each with a test that shows its absence here."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import Scripted, VirtualClock, hear, run_virtual

ZOMBIE_PARTS: dict[str, tuple[Any, ...]] = {
    "timeout": (hm.Bulkhead(3), hm.Timeout("20ms", threads=3)),
    "workers": (hm.Bulkhead(3, workers="threads"), hm.Timeout("20ms")),
}


def zombies_of(policy: hm.Policy) -> tuple[int, int]:
    """Places that are taken, and threads that were left behind."""
    snapshot = policy.snapshot()
    return snapshot["parts"]["bulkhead"]["in_flight"], snapshot["zombies"]


def run(policy: hm.Policy, script: Scripted, *, asynchronous: bool) -> Any:
    """Run a synchronous function in a worker, asked for from a thread or from a task."""
    return asyncio.run(policy.acall(script.call)) if asynchronous else policy.call(script.call)


@pytest.mark.parametrize("kind", ZOMBIE_PARTS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_defect_8_zombies(kind: str, until: Any, *, asynchronous: bool) -> None:
    """Of many expired calls no more than the bounded number go on; they keep their places, and are counted and told."""
    name = f"zombies-{kind}-{asynchronous}"
    policy = hm.Policy(*ZOMBIE_PARTS[kind], name=name)
    script = Scripted(Scripted.forever)
    with hear(policy) as heard:
        for _ in range(3):
            with pytest.raises(hm.TimedOut):
                run(policy, script, asynchronous=asynchronous)
        for _ in range(5):
            with pytest.raises(hm.BulkheadFull):
                run(policy, script, asynchronous=asynchronous)
        assert zombies_of(policy) == (3, 3)
        assert script.calls == script.inside == 3
        assert sum(thread.name.startswith(f"hormesis-{name}-") for thread in threading.enumerate()) <= 3
        script.release(3)
        until(lambda: zombies_of(policy) == (0, 0))
        until(lambda: len(heard.of("left_work_ended")) == 3)
    heard.assert_happened("work_left_behind", times=3)
    assert policy.with_parts(hm.Timeout("20s", threads=3)).call(int) == 0


def test_defect_8_losers_in_threads(until: Any) -> None:
    """A hedge's loser that can't be interrupted keeps its place too, and is counted until it ends."""
    policy = hm.Policy(hm.Hedge("1ms", budget=None, threads=2), hm.Bulkhead(2))
    script = Scripted(Scripted.forever, 3)
    assert policy.call(script.call) == 3
    parts = policy.snapshot()["parts"]
    assert (parts["bulkhead"]["in_flight"], parts["hedge"]["zombies"]) == (1, 1)
    script.release(3)
    until(lambda: policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0)
    until(lambda: policy.snapshot()["parts"]["hedge"]["zombies"] == 0)


def test_defect_10_one_policy_for_many_tasks() -> None:
    """Tasks that share one timeout, begun at different times, are each cut off at their own."""
    policy = hm.Policy(hm.Timeout(1), clock=VirtualClock())

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def one(begins: float) -> float:
            await asyncio.sleep(begins)
            with pytest.raises(hm.TimedOut):
                await policy.acall(asyncio.sleep, 60)
            return loop.time() - begins

        took = await asyncio.gather(*(one(begins / 10) for begins in range(30)))
        assert took == pytest.approx([1.0] * 30)

    run_virtual(main())


def test_defect_10_one_policy_for_many_threads() -> None:
    """So are threads."""
    policy, script = hm.Policy(hm.Timeout("50ms", threads=3)), Scripted(Scripted.forever)
    ended: list[str] = []

    def one() -> None:
        try:
            policy.call(script.call)
        except hm.TimedOut:
            ended.append("timed out")

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    script.release()
    assert ended == ["timed out"] * 3


def test_defect_10_blocks() -> None:
    """Blocks that share one policy are each cut off at their own time, also one within the other."""
    policy = hm.Policy(hm.Timeout(1), clock=VirtualClock())
    other = hm.Policy(hm.Timeout(2), clock=VirtualClock())

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def nested() -> None:
            async for outer in other.attempts():
                async with outer:
                    await asyncio.sleep(0.5)
                    async for attempt in policy.attempts():
                        async with attempt:
                            await asyncio.sleep(60)

        async def one(begins: float) -> None:
            await asyncio.sleep(begins)
            with pytest.raises(hm.TimedOut) as late:
                await nested()
            assert late.value.limit == 1
            assert loop.time() - begins == pytest.approx(1.5)

        await asyncio.gather(*(one(begins / 10) for begins in range(3)))
        assert hm.remaining() is None

    run_virtual(main())


async def fetch() -> int:
    return 3


def load() -> int:
    return 3


class Store:
    """Objects and methods that are called."""

    async def fetch(self) -> int:
        return 3

    async def __call__(self) -> int:
        return 3


ASYNC_FUNCTIONS = [fetch, functools.partial(fetch), Store().fetch, Store(), functools.partial(Store())]


@pytest.mark.parametrize("function", ASYNC_FUNCTIONS, ids=["def", "partial", "method", "object", "partial object"])
def test_defect_11_an_async_def_is_protected_or_refused(function: Any) -> None:
    """A coroutine function that is decorated stays one; called as if it were synchronous, it is refused, and closed."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), hm.Bulkhead(1))
    decorated = policy(function)
    assert inspect.iscoroutinefunction(decorated)
    assert asyncio.run(decorated()) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(hm.ConfigurationError, match="asynchronous"):
            policy.call(function)
    assert policy.breaker().state == "closed"
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


def test_defect_11_a_failing_async_def_opens_the_circuit() -> None:
    """What the decorator protects is what the coroutine does, and not that it was made."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1))

    @policy
    async def fails() -> int:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(fails())
    assert policy.breaker().state == "open"


@pytest.mark.parametrize("part", [hm.Timeout(1), hm.Hedge(1), hm.Fallback(fetch)], ids=lambda part: part.slot.key)
def test_defect_11_a_policy_that_can_not_protect_a_function(part: Any) -> None:
    """A part that could not act on a synchronous function is refused when that is decorated, with what would do."""
    policy = hm.Policy(part)
    with pytest.raises(hm.ConfigurationError) as refused:
        policy(load)
    assert "load is synchronous" in str(refused.value)
    with pytest.raises(hm.ConfigurationError):
        policy.call(load)
    with pytest.raises(hm.ConfigurationError):
        policy.open(load)
    assert asyncio.run(policy(fetch)()) == 3


def test_defect_11_streams() -> None:
    """A generator, of either colour, is no call with one answer, and is refused when it is decorated."""

    def lines() -> Iterator[int]:
        yield 3

    async def messages() -> Any:
        yield 3

    for function in (lines, messages, functools.partial(lines)):
        with pytest.raises(hm.ConfigurationError, match="generator"):
            hm.Policy(hm.Retry(on="any"))(function)


def test_defect_11_a_synchronous_function_that_is_awaited() -> None:
    """It is refused, and its failure is nobody's."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), hm.Retry(on="any"))
    with pytest.raises(hm.ConfigurationError, match="load is synchronous"):
        asyncio.run(policy.acall(load))  # type: ignore[arg-type]
    assert policy.breaker().state == "closed"

"""Timeouts of asynchronous attempts, many of which share one timer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import hormesis as hm
from hormesis.policy.watchdog import Watchdog
from hormesis.testing import VirtualClock, run_virtual


def policy(limit: Any = "1s", name: str = "api") -> hm.Policy:
    return hm.Policy(hm.Timeout(limit), name=name, clock=VirtualClock())


def test_each_attempt_runs_out_after_its_own_time() -> None:
    """Attempts that began at different times, on one timer, run out one after the other, each after its limit."""
    ran_out: list[tuple[int, float]] = []

    async def attempt(number: int, shared: hm.Policy) -> None:
        await asyncio.sleep(number / 10)
        with pytest.raises(hm.TimedOut):
            await shared.acall(asyncio.sleep, 60)
        ran_out.append((number, asyncio.get_running_loop().time()))

    async def main() -> None:
        shared = policy()
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(attempt(number, shared))

    run_virtual(main())
    assert ran_out == [(number, pytest.approx(1 + number / 10)) for number in range(20)]


def test_quick_attempts_leave_nothing_behind() -> None:
    """Attempts that end in time leave the queue, also behind a slow one, and the one timer stops by itself."""

    async def main() -> None:
        shared = policy()
        layer = shared.top
        slow = asyncio.create_task(shared.acall(asyncio.sleep, 0.9))
        await asyncio.sleep(0)
        for _ in range(100):
            await shared.acall(asyncio.sleep, 0.001)
        (watchdog,) = layer._watchdogs.values()
        assert isinstance(watchdog, Watchdog)
        assert len(watchdog._attempts) == 101
        await slow
        assert len(watchdog._attempts) == 0
        await asyncio.sleep(5)
        assert watchdog._timer is None

    run_virtual(main())


def test_an_attempt_that_ends_as_its_time_is_over() -> None:
    """An answer in the very moment in which the time is over counts, and leaves no cancellation behind."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "an answer all the same"
        raise AssertionError

    async def main() -> None:
        assert await policy().acall(stubborn) == "an answer all the same"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(1)

    run_virtual(main())


def test_a_cancellation_by_somebody_else_is_not_swallowed() -> None:
    """A caller that is cancelled in the moment in which its attempt runs out is cancelled."""

    async def main() -> None:
        call = asyncio.create_task(policy().acall(asyncio.sleep, 60))
        loop = asyncio.get_running_loop()
        loop.call_at(1.0, call.cancel)
        with pytest.raises(asyncio.CancelledError):
            await call

    run_virtual(main())


def test_nested_timeouts() -> None:
    """Of nested timeouts the one that is over first is told, by the policy whose it is."""

    async def main() -> None:
        near, far = policy("1s", "near"), policy("5s", "far")
        with pytest.raises(hm.TimedOut, match="'near'"):
            await far.acall(near.acall, asyncio.sleep, 60)
        with pytest.raises(hm.TimedOut, match="'near'"):
            await near.acall(far.acall, asyncio.sleep, 60)

    run_virtual(main())


def test_one_policy_on_one_loop_after_the_other() -> None:
    """A policy is bound to no loop: its timeouts work on every one, and it keeps none that is closed."""
    shared = hm.Policy(hm.Timeout("1ms"))

    async def main() -> None:
        with pytest.raises(hm.TimedOut):
            await shared.acall(asyncio.sleep, 60)

    for _ in range(3):
        asyncio.run(main())
    assert len(shared.top._watchdogs) == 1

"""A call that waits for a token is cancelled at each of its suspensions: no moment is lost, and nothing is left."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.cancel.test_sweep import cancelled_at, closed_at, while_suspended, while_waking

import hormesis as hm
from hormesis.patterns.rate_limit import RateLimit
from hormesis.testing import VirtualClock, run_virtual


def by_policy() -> Any:
    policy = hm.Policy(
        hm.CircuitBreaker(),
        RateLimit("1/s", max_wait="1h", by=lambda: "acme"),
        hm.Bulkhead(1, max_queued=10, max_wait="1h"),
        clock=VirtualClock(),
    )

    async def work() -> None:
        await asyncio.sleep(0)

    return lambda: policy.acall(work)


def by_hand() -> Any:
    limit = RateLimit("1/s").limiter(clock=VirtualClock())
    return lambda: limit.aacquire("acme")


@pytest.mark.parametrize("how", [cancelled_at, closed_at])
@pytest.mark.parametrize("when", [while_suspended, while_waking])
@pytest.mark.parametrize("make", [by_policy, by_hand])
def test_a_cancelled_wait_gives_its_moment_back(how: Any, when: Any, make: Any) -> None:
    """Three wait, the second goes away at its n-th suspension: a newcomer then gets the first moment that is free."""

    async def scenario(place: int) -> bool:
        call = make()
        went: list[float] = []

        async def go(coroutine: Coroutine[Any, Any, Any]) -> None:
            await coroutine
            went.append(asyncio.get_running_loop().time())

        async def leave() -> float:
            try:
                await how(place, when, call())
            except asyncio.CancelledError:
                return asyncio.get_running_loop().time()
            return math.inf

        await call()
        first = asyncio.ensure_future(go(call()))
        await asyncio.sleep(0)
        leaver = asyncio.ensure_future(leave())
        await asyncio.sleep(0)
        last = asyncio.ensure_future(go(call()))
        await asyncio.gather(first, leaver, last)
        await asyncio.gather(*(go(call()) for _ in range(2)))
        # Whoever went away before its moment came has spent nothing; its moment is gone when that has passed.
        left = leaver.result()
        spent = [0.0, 1.0, 2.0, 3.0] if left < 2.0 else [0.0, 2.0, 3.0, 4.0]
        assert went == [1.0 + at for at in spent]
        return left < math.inf

    place = 1
    while run_virtual(scenario(place)):
        place += 1
        assert place < 20
    assert place > 1

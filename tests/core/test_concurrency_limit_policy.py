"""A policy with a concurrency limit, tasks and all, in front of a dependency that can do so much: on virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple

import pytest

import hormesis as hm
from hormesis.errors import Overloaded
from hormesis.events import Event, EventBus
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.testing import VirtualClock, run_virtual

OFFERED = 100
OBJECTIVE = 0.5


class Dependency:
    """Waits a while, and then for one of two servers, who take 40 ms: 50 calls a second. It fails at once when down."""

    def __init__(self) -> None:
        self._servers = asyncio.Semaphore(2)
        self._chance = random.Random(1)
        self.down = False

    async def answer(self) -> str:
        if self.down:
            raise ConnectionResetError("down")
        await asyncio.sleep(self._chance.uniform(0.05, 0.15))
        async with self._servers:
            await asyncio.sleep(self._chance.expovariate(1 / 0.04))
        return "tea"


class Heard(NamedTuple):
    """What came of the calls, and what was told."""

    good: int
    refused: int
    limit: int
    events: list[Event]


async def offered(part: ConcurrencyLimit | None, seconds: float, counts_from: float, down: float = 0.0) -> Heard:
    """Offer twice of what it can do; count what is answered within the objective from some time on."""
    events: list[Event] = []
    bus = EventBus()
    bus.listen(events.append)
    parts = [] if part is None else [part]
    policy = hm.Policy(*parts, name="tea", clock=VirtualClock(), events=bus)
    dependency = Dependency()
    loop = asyncio.get_running_loop()
    good = refused = 0

    async def call() -> None:
        nonlocal good, refused
        began = loop.time()
        try:
            await policy.acall(dependency.answer)
        except Overloaded:
            refused += 1
        except ConnectionResetError:
            return
        else:
            good += began >= counts_from and loop.time() - began <= OBJECTIVE

    calls = []
    while loop.time() < seconds:
        dependency.down = loop.time() < down
        calls.append(asyncio.create_task(call()))
        await asyncio.sleep(1 / OFFERED)
    await asyncio.wait(calls)
    state = policy.snapshot()["parts"].get("concurrency_limit", {"limit": 0, "in_flight": 0})
    assert state["in_flight"] == 0
    return Heard(good, refused, state["limit"], events)


def goodput(heard: Heard, seconds: float) -> float:
    return heard.good / (50 * seconds)


def test_without_a_limit_no_answer_is_in_time() -> None:
    """All are served, one after the other, and each later than the one before."""
    heard = run_virtual(offered(None, seconds=12, counts_from=6))
    assert heard.good == 0
    assert heard.refused == 0


@pytest.mark.parametrize("part", [ConcurrencyLimit(), ConcurrencyLimit(adapt="aimd", timeout=OBJECTIVE)])
def test_a_limit_that_finds_itself(part: ConcurrencyLimit) -> None:
    """What the dependency can do is answered in time, and the rest is refused at once."""
    heard = run_virtual(offered(part, seconds=20, counts_from=8))
    assert goodput(heard, 12) > 0.85
    assert heard.refused > 300
    assert 5 <= heard.limit <= 25
    assert {event.name for event in heard.events} >= {"call_rejected"}


def test_a_dependency_that_is_down_does_not_raise_the_limit() -> None:
    """Its failures come at once and look quick; when it is back, the limit is no higher than it was."""
    heard = run_virtual(offered(ConcurrencyLimit(), seconds=25, counts_from=15, down=8))
    assert goodput(heard, 10) > 0.85


def test_callers_who_wait_get_in_when_the_limit_grows() -> None:
    """A waiter is let in as soon as there is a place, and nobody is forgotten."""

    async def main() -> list[str]:
        part = ConcurrencyLimit(1, max_queued=10, max_wait="1m")
        policy = hm.Policy(part, name="tea", clock=VirtualClock())

        async def answer() -> str:
            await asyncio.sleep(1)
            return "tea"

        calls = [asyncio.create_task(policy.acall(answer)) for _ in range(5)]
        await asyncio.sleep(0.5)
        policy.reconfigure(ConcurrencyLimit(5, max_queued=10))
        done = await asyncio.gather(*calls)
        assert asyncio.get_running_loop().time() == 1.5
        return done

    assert run_virtual(main()) == ["tea"] * 5

"""A call with rivals is cancelled at every moment of its race, and in the middle of what ends it.

Time stands still while a loop is busy, so a moment is a time and a number of turns of the loop after it. Whenever the
cancellation comes, every attempt has ended when the call has, and nothing that it held is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

import hormesis as hm
from hormesis.clock import MONOTONIC
from hormesis.events import Event, EventBus
from hormesis.patterns.hedge import Hedge
from hormesis.policy import hedging as shell
from hormesis.policy.hedging import Hedging
from hormesis.policy.telling import Teller
from hormesis.testing import VirtualClock, run_virtual


def _uvloop() -> asyncio.AbstractEventLoop:
    """Make a loop of uvloop's, where that is installed."""
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


PATIENCE = 20.0
TURNS = 7
"""Turns of the loop within which whatever happens at one time has happened."""


class World:
    """A policy that hedges, a dependency that is slow at first, and how many calls are inside of it."""

    hedge = Hedge("50ms", budget=1.0)
    bulkhead = hm.Bulkhead(2)
    takes: tuple[float, ...] = (10.0, 0.02)
    outcomes: tuple[Any, ...] = (1, 2)
    tidies = 0.0
    ends = 0.07
    """When the call would end, if nobody cancelled it."""

    def __init__(self) -> None:
        self.inside = 0
        self.calls = itertools.count()
        self.policy = hm.Policy(
            hm.Retry(on=ConnectionResetError, attempts=2, delay="10ms", jitter="none"),
            self.hedge,
            hm.CircuitBreaker(minimum_calls=1000, window=1000),
            self.bulkhead,
            hm.Timeout("200ms"),
            clock=VirtualClock(),
            events=EventBus(),
        )

    def save_up(self, hedges: int) -> None:
        """Give the budget what so many calls would have earned."""
        hedging = self.policy.top.hedging
        assert hedging is not None
        for _ in range(hedges):
            hedging._machine.deposit()

    async def depend(self) -> int:
        number = next(self.calls) % len(self.takes)
        self.inside += 1
        try:
            await asyncio.sleep(self.takes[number])
        finally:
            try:
                if self.tidies:
                    await asyncio.sleep(self.tidies)
            finally:
                self.inside -= 1
        outcome = self.outcomes[number]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]


class FirstWins(World):
    """Both run to the first's answer."""

    takes = (0.07, 10.0)


class Together(World):
    """Both answer in the same turn of the loop."""

    takes = (0.07, 0.02)


class Fast(World):
    """There is no rival."""

    takes = (0.03, 0.03)
    ends = 0.03


class AllFail(World):
    """Both attempts fail, and are repeated."""

    takes = (0.07, 0.03, 0.07, 0.02)
    outcomes = (ConnectionResetError(), ConnectionResetError(), 3, 4)
    ends = 0.16


class TimingOut(World):
    """Both hang until their timeouts."""

    takes = (10.0, 10.0)
    ends = 0.26


class Queued(World):
    """The rival stands in the bulkhead's queue, behind the first."""

    bulkhead = hm.Bulkhead(1, max_queued=1, max_wait="40ms")
    takes = (0.12, 10.0)
    ends = 0.12


class Refused(World):
    """The rival is not let in."""

    bulkhead = hm.Bulkhead(1)
    takes = (0.12, 10.0)
    ends = 0.12


class Tidying(World):
    """Attempts take a while to end, even when they are cancelled."""

    tidies = 0.02
    ends = 0.09


class Three(World):
    """Two rivals."""

    hedge = Hedge("20ms", max_hedges=2, budget=None)
    bulkhead = hm.Bulkhead(3)
    takes = (10.0, 10.0, 0.03)
    outcomes = (1, 2, 3)


WORLDS = [World, FirstWins, Together, Fast, AllFail, TimingOut, Queued, Refused, Tidying, Three]


def moments(ends: float) -> list[tuple[float, int]]:
    """All that can be told apart, up to a little after the end."""
    return [(step / 100, turn) for step in range(round(ends * 100) + 3) for turn in range(TURNS)]


async def cancelled_at(world: World, time: float, turns: int, machine_of: Any, *, again: bool = False) -> bool:
    """Make a call, cancel it, see what is left, and say whether it was cancelled."""
    world.save_up(3)
    inside_at_end = None
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def call() -> int:
        nonlocal inside_at_end
        try:
            return await world.policy.acall(world.depend)
        except BaseException:
            inside_at_end = world.inside
            raise

    task = asyncio.create_task(call())
    await asyncio.sleep(time)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    if again:
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        assert inside_at_end == 0
    await asyncio.sleep(1)  # until losers that tidy up have gone
    assert world.inside == 0
    assert len(asyncio.all_tasks()) == 1
    assert not complaints
    bulkhead = machine_of(world.policy, hm.Bulkhead)
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
    if not task.cancelled():
        with contextlib.suppress(hm.TimedOut):
            assert task.result() in world.outcomes
    return task.cancelled()


@pytest.mark.parametrize("kind", WORLDS, ids=lambda kind: kind.__name__)
def test_nothing_is_left_of_a_cancelled_race(kind: type[World], machine_of: Any) -> None:
    """Wherever it is cancelled, all attempts have ended when the call has, and their permits are free again."""
    ended = [run_virtual(cancelled_at(kind(), time, turns, machine_of)) for time, turns in moments(kind.ends)]
    assert ended[0]
    assert not ended[-1]


def test_a_second_cancellation_leaves_nothing_either(machine_of: Any) -> None:
    """One that comes while the first is being carried out: the call still waits for its attempts."""
    for time, turns in moments(Tidying.ends):
        run_virtual(cancelled_at(Tidying(), time, turns, machine_of, again=True))


def test_no_rival_begins_for_a_call_that_is_cancelled_in_the_same_moment() -> None:
    """The timer of the rival may come between the cancellation and the call that hears of it."""
    settings, bus = Hedge("50ms", budget=None), EventBus()
    told: list[Event] = []
    bus.listen(told.append)
    teller = Teller("inventory", VirtualClock(), bus)
    hedging = Hedging("inventory", settings, settings.machine(threading.Lock()), None, VirtualClock(), teller)

    async def main() -> None:
        race = asyncio.create_task(hedging.race_async(lambda: asyncio.sleep(10)))
        asyncio.get_running_loop().call_at(0.05 - 1e-10, race.cancel)
        await asyncio.wait([race])
        assert race.cancelled()

    run_virtual(main())
    assert told == []


def test_a_cancelled_call_is_no_failure(machine_of: Any) -> None:
    """Neither of the caller's cancelled attempts counts against the dependency, nor does a loser."""
    world = World()

    async def main() -> None:
        assert await cancelled_at(world, 0.06, 0, machine_of)
        for _ in range(10):
            await world.policy.acall(world.depend)
        await asyncio.sleep(1)
        assert machine_of(world.policy, hm.CircuitBreaker).tally(0.0).failures == 0

    run_virtual(main())


def test_a_timeout_around_the_call_is_a_timeout(machine_of: Any) -> None:
    """A cancellation that its sender takes back is left to the sender."""
    world = TimingOut()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.06):
                await world.policy.acall(world.depend)
        assert world.inside == 0
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_virtual(main())


@pytest.mark.parametrize("factory", [None, _uvloop], ids=["asyncio", "uvloop"])
def test_real_loops(factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """In real time and on either loop, a hundred cancelled races leave no task."""
    machine = Hedge("2ms", budget=None).machine(threading.Lock())
    teller = Teller("inventory", MONOTONIC, EventBus())
    hedging = Hedging("inventory", Hedge("2ms", budget=None), machine, None, MONOTONIC, teller)

    async def main() -> None:
        begun, both_run = itertools.count(1), asyncio.Event()

        async def attempt() -> None:
            if next(begun) == 200:
                both_run.set()
            await asyncio.sleep(PATIENCE)

        calls = [asyncio.create_task(hedging.race_async(attempt)) for _ in range(100)]
        async with asyncio.timeout(PATIENCE):
            await both_run.wait()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        assert len(asyncio.all_tasks()) == 1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_a_loop_may_end_in_the_middle_of_a_race() -> None:
    """The end of a program cancels all tasks at once, in any order; nothing complains."""
    world = World()
    world.save_up(1)

    async def main() -> None:
        race = asyncio.create_task(world.policy.acall(world.depend))
        await asyncio.sleep(0.06)
        assert not race.done()

    run_virtual(main())
    assert world.inside == 0


def test_ctrl_c_leaves_the_threads_behind(until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller stops waiting at once; the attempts in threads go on, are counted, and end by themselves."""
    settings = Hedge("5ms", threads=2, budget=None)
    machine = settings.machine(threading.Lock())
    held: Future[int] = Future()
    begun: list[int] = []
    caller = threading.current_thread()

    class Interrupted(queue.SimpleQueue):  # type: ignore[type-arg]
        """A real signal that comes just before the wait begins is seen only when it ends, so none is sent."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if machine.begun and threading.current_thread() is caller:
                until(lambda: len(begun) == 2)
                raise KeyboardInterrupt
            return super().get(block, timeout)

    monkeypatch.setattr(shell, "queue", SimpleNamespace(SimpleQueue=Interrupted, Empty=queue.Empty))
    teller = Teller("inventory", MONOTONIC, EventBus())
    hedging = Hedging("inventory", settings, machine, None, MONOTONIC, teller)

    def attempt() -> int:
        begun.append(1)
        return held.result(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        hedging.race(attempt)
    assert hedging.snapshot()["zombies"] == 2
    held.set_result(3)
    until(lambda: hedging.snapshot()["zombies"] == 0)

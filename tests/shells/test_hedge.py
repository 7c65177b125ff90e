"""Races of attempts, as tasks on virtual time and in threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

import hormesis as hm
from hormesis.clock import MONOTONIC
from hormesis.context import calling
from hormesis.core.admission import NullLock
from hormesis.core.retry import RetryBudget
from hormesis.errors import BulkheadFull
from hormesis.events import Event, EventBus
from hormesis.outcome import UnwantedResult
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
"""Seconds after which something that should happen won't."""


class Ring:
    """A hedge with its budget filled, and what it told."""

    def __init__(self, settings: Hedge, *, retries: RetryBudget | None = None, clock: Any = None, races: int = 10_000):
        self.machine = settings.machine(threading.Lock())
        for _ in range(races):
            self.machine.deposit()
        self.told: list[Event] = []
        bus = self.bus = EventBus()
        bus.listen(self.told.append)
        clock = clock or VirtualClock()
        self.hedging = Hedging("inventory", settings, self.machine, retries, clock, Teller("inventory", clock, bus))

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.told]

    def facts(self, name: str) -> list[dict[str, object]]:
        return [event.as_dict() for event in self.told if event.name == name]


class Runners:
    """Attempts that follow a plan: each is the seconds that it takes, and what it returns or raises then."""

    def __init__(self, *plan: tuple[float, Any]) -> None:
        self.plan = plan
        self.begun: list[float] = []
        self.cancelled: list[int] = []
        self.ended = 0

    async def __call__(self) -> Any:
        number = len(self.begun)
        self.begun.append(asyncio.get_running_loop().time())
        takes, outcome = self.plan[number]
        try:
            await asyncio.sleep(takes)
        except asyncio.CancelledError:
            self.cancelled.append(number + 1)
            raise
        finally:
            self.ended += 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def run(ring: Ring, attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Run one race; returns the answer or the failure, and how long it took."""

    async def main() -> tuple[Any, float]:
        try:
            outcome: Any = await ring.hedging.race_async(attempt)
        except Exception as error:
            outcome = error
        took = asyncio.get_running_loop().time()
        await asyncio.sleep(100)  # until whoever is left has ended
        assert len(asyncio.all_tasks()) == 1
        return outcome, took

    return run_virtual(main())


def test_a_fast_attempt_has_no_rival() -> None:
    """An answer that comes before the delay ends it, and nothing is told."""
    ring, runners = Ring(Hedge("50ms")), Runners((0.04, "tea"))
    assert run(ring, runners) == ("tea", 0.04)
    assert (runners.begun, ring.told) == ([0.0], [])


def test_a_slow_attempt_gets_a_rival_that_wins() -> None:
    """The rival begins after the delay, its answer is the call's, and the loser is cancelled and counted."""
    ring, runners = Ring(Hedge("50ms")), Runners((10, "late"), (0.01, "tea"))
    assert run(ring, runners) == ("tea", pytest.approx(0.06))
    assert (runners.begun, runners.cancelled) == ([0.0, 0.05], [1])
    common = {"policy": "inventory", "part": "hedge"}
    assert [event.as_dict() for event in ring.told] == [
        {"event": "hedge_started", "at": 0.05, **common, "attempt": 2, "delay": 0.05},
        {"event": "hedge_ended", "at": pytest.approx(0.06), **common, "attempt": 2, "losers": 1},
    ]
    assert (ring.machine.begun, ring.machine.won) == (1, 1)
    assert ring.hedging.snapshot()["zombies"] == 0


def test_the_first_may_still_win() -> None:
    """A rival that is slower than what is left of the first is cancelled itself."""
    ring, runners = Ring(Hedge("50ms")), Runners((0.06, "tea"), (10, "late"))
    assert run(ring, runners) == ("tea", pytest.approx(0.06))
    assert runners.cancelled == [2]
    assert ring.facts("hedge_ended")[0] | {"attempt": 1, "losers": 1} == ring.facts("hedge_ended")[0]
    assert ring.machine.won == 0


def test_losers_have_ended_when_the_caller_goes_on() -> None:
    """A loser that just waits has given back what it held before the winner's answer is there."""
    ring, runners = Ring(Hedge("50ms", max_hedges=3)), Runners((10, 1), (10, 2), (10, 3), (0.01, 4))

    async def main() -> None:
        assert await ring.hedging.race_async(runners) == 4
        assert runners.ended == 4

    run_virtual(main())


def test_a_failure_before_the_delay_is_raised_at_once() -> None:
    """Repeating what failed is the retry's business: no rival begins for it."""
    failure = ConnectionResetError()
    ring, runners = Ring(Hedge("50ms")), Runners((0.04, failure))
    assert run(ring, runners) == (failure, 0.04)
    assert ring.told == []


def test_a_failure_waits_for_the_rival() -> None:
    """With a rival on its way the first attempt's failure is not the call's."""
    ring, runners = Ring(Hedge("50ms")), Runners((0.06, ConnectionResetError()), (0.1, "tea"))
    assert run(ring, runners) == ("tea", pytest.approx(0.15))
    assert ring.facts("hedge_ended")[0]["losers"] == 0


def test_a_rivals_failure_waits_for_the_first() -> None:
    """A rival that fails changes nothing for the attempt that it was to overtake."""
    ring, runners = Ring(Hedge("50ms")), Runners((0.2, "tea"), (0.01, ConnectionResetError()))
    assert run(ring, runners) == ("tea", 0.2)


def test_when_all_fail_the_caller_gets_the_firsts_failure() -> None:
    """The others are in its notes, and it is no win."""
    first, second = ConnectionResetError("first"), KeyError("second")
    ring, runners = Ring(Hedge("50ms")), Runners((0.2, first), (0.01, second))
    assert run(ring, runners) == (first, 0.2)
    assert first.__notes__ == ["hormesis: attempt 2 of the race failed as well: KeyError('second')"]
    assert ring.names == ["hedge_started"]


def test_notes_are_bounded() -> None:
    """An exception object that is raised again and again does not collect notes for ever."""
    same = ConnectionResetError("always this one")
    for _ in range(20):
        run(Ring(Hedge("50ms")), Runners((0.2, same), (0.01, KeyError())))
    assert len(same.__notes__) == 8
    run(Ring(Hedge("50ms")), Runners((0.2, second := KeyError()), (0.01, second)))
    assert not hasattr(second, "__notes__")


def test_a_rival_that_is_refused_just_does_not_run() -> None:
    """The first goes on alone, and the refused rival's share of the budget is put back."""
    ring = Ring(Hedge("50ms", budget=0.5), races=0)
    for _ in range(2):
        ring.machine.deposit()
    runners = Runners((0.2, "tea"), (0.0, BulkheadFull("inventory", "full")))
    assert run(ring, runners) == ("tea", 0.2)
    assert (ring.machine.rejected, ring.machine.snapshot()["budget"]) == (1, 1.5)


def test_what_the_dependency_said_is_worth_more_than_a_refusal() -> None:
    """When the first was refused after a wait, and its rival failed, the rival's failure is the call's."""
    failure = ConnectionResetError()
    ring, runners = Ring(Hedge("50ms")), Runners((0.1, BulkheadFull("inventory", "waited too long")), (0.2, failure))
    assert run(ring, runners) == (failure, 0.25)
    assert not hasattr(failure, "__notes__")


def test_more_than_one_rival() -> None:
    """Each begins a delay after the one before."""
    runners = Runners((10, 1), (10, 2), (0.01, 3))
    assert run(Ring(Hedge("50ms", max_hedges=2)), runners) == (3, pytest.approx(0.11))
    assert runners.begun == pytest.approx([0.0, 0.05, 0.1])
    assert sorted(runners.cancelled) == [1, 2]


def test_no_more_rivals_after_a_failure() -> None:
    """A dependency that fails is not asked yet again at the same time."""
    runners = Runners((0.2, 1), (0.01, KeyError()), (0.01, 3))
    assert run(Ring(Hedge("50ms", max_hedges=2)), runners) == (1, 0.2)
    assert len(runners.begun) == 2


def test_a_refusal_of_one_rival_does_not_prevent_the_next() -> None:
    """The bulkhead may have room a delay later."""
    runners = Runners((10, 1), (0.0, BulkheadFull("inventory", "full")), (0.01, 3))
    assert run(Ring(Hedge("50ms", max_hedges=2)), runners) == (3, pytest.approx(0.11))


def test_without_budget_no_rival() -> None:
    """An empty budget is asked when the rival is due, and the call waits for its first attempt."""
    ring, runners = Ring(Hedge("50ms"), races=0), Runners((0.2, "tea"))
    assert run(ring, runners) == ("tea", 0.2)
    assert (ring.told, ring.machine.unaffordable) == ([], 1)


def test_the_retry_budget_is_asked_as_well() -> None:
    """Retries and hedges together stay within it."""
    retries = RetryBudget(share=0.1, stock=1, lock=NullLock())
    ring = Ring(Hedge("50ms"), retries=retries)
    assert run(ring, Runners((0.2, 1), (0.01, 2))) == (2, pytest.approx(0.06))
    assert run(ring, Runners((0.2, 1), (0.01, 2))) == (1, 0.2)


def test_calls_that_are_not_repeatable_are_left_alone() -> None:
    """What may be made once is made once, in the caller's own task."""
    runners = Runners((0.2, "tea"))
    with calling(repeatable=False):
        assert run(Ring(Hedge("50ms")), runners) == ("tea", 0.2)


@pytest.mark.parametrize(("deadline", "begun"), [("50ms", 1), ("60ms", 2), ("100ms", 2), ("120ms", 3)])
def test_no_rival_that_the_deadline_leaves_no_time_for(deadline: str, begun: int) -> None:
    """A rival begins only where the call still has time when its turn comes."""
    runners = Runners((0.2, "tea"), (0.2, "tea"), (0.2, "tea"))
    ring = Ring(Hedge("50ms", max_hedges=2))

    async def main() -> None:
        with hm.deadline(deadline, clock=VirtualClock()):
            await ring.hedging.race_async(runners)

    run_virtual(main())
    assert len(runners.begun) == begun


def test_nothing_is_hedged_before_the_latencies_are_known() -> None:
    """Twenty calls teach the quantile, and the next slow one is hedged at it."""
    ring = Ring(Hedge())

    async def main() -> None:
        for takes in [0.010] * 19 + [0.100]:
            assert await ring.hedging.race_async(Runners((takes, "tea"))) == "tea"
        assert ring.told == []
        assert await ring.hedging.race_async(Runners((10, "late"), (0.005, "tea"))) == "tea"

    run_virtual(main())
    assert ring.facts("hedge_started")[0]["delay"] == pytest.approx(0.010, rel=0.026)


def test_refusals_say_nothing_of_latency() -> None:
    """What was refused after a wait in our own queue is no slow answer; what failed after a long time is."""
    ring = Ring(Hedge())

    async def main() -> None:
        for _ in range(100):
            await ring.hedging.race_async(Runners((0.010, "tea")))
        for failure in [BulkheadFull("inventory", "waited too long"), TimeoutError()]:
            before = ring.machine.delay
            for _ in range(64):
                with pytest.raises(type(failure)), calling(repeatable=False):
                    await ring.hedging.race_async(Runners((2.0, failure)))
            assert (ring.machine.delay == before) is isinstance(failure, BulkheadFull)

    run_virtual(main())
    assert ring.machine.delay == pytest.approx(2.0, rel=0.026)


def test_attempts_see_the_callers_context() -> None:
    """First and rival alike; and what they set stays theirs."""
    who = contextvars.ContextVar("who", default="nobody")
    seen = []

    async def attempt() -> int:
        seen.append((who.get(), hm.remaining()))
        who.set("an attempt")
        await asyncio.sleep(0.2 if len(seen) == 1 else 0)
        return len(seen)

    async def main() -> None:
        who.set("the caller")
        with hm.deadline("1s", clock=VirtualClock()):
            assert await Ring(Hedge("50ms")).hedging.race_async(attempt) == 2
        assert who.get() == "the caller"

    run_virtual(main())
    assert seen == [("the caller", 1.0), ("the caller", pytest.approx(0.95))]


def test_a_loser_that_ignores_its_cancellation_is_not_waited_for() -> None:
    """The answer is there at once, and the loser is kept until it has ended, though nobody else refers to it."""
    ended: list[str] = []

    async def stubborn() -> str:
        if ended:
            return "tea"
        ended.append("")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        await asyncio.sleep(5)
        ended.append("at last")
        raise KeyError("nobody wants to know")

    ring = Ring(Hedge("50ms"))

    async def main() -> None:
        assert await ring.hedging.race_async(stubborn) == "tea"
        assert asyncio.get_running_loop().time() == pytest.approx(0.05)
        gc.collect()
        assert len(shell._late) == 1
        await asyncio.sleep(10)
        assert not shell._late

    run_virtual(main())
    assert ended == ["", "at last"]


class Stop(BaseException):
    """Neither an answer nor a failure."""


@pytest.mark.parametrize("stop", [Stop(), asyncio.CancelledError()])
def test_what_is_no_failure_ends_the_race(stop: BaseException) -> None:
    """An attempt that ends in a cancellation or an exit ends the call in the same, and the others are cancelled."""
    ring, runners = Ring(Hedge("50ms")), Runners((10, "late"), (0.01, stop))

    async def main() -> None:
        with pytest.raises(type(stop)):
            await ring.hedging.race_async(runners)
        await asyncio.sleep(0)
        assert runners.ended == 2

    run_virtual(main())
    assert ring.names == ["hedge_started"]


def test_a_race_that_is_closed_in_the_middle_leaves_nothing() -> None:
    """A coroutine that is thrown away, as at the end of a loop, takes its attempts with it."""
    ring, runners = Ring(Hedge("50ms")), Runners((10, "late"), (10, "late"))

    async def main() -> None:
        race = ring.hedging.race_async(runners)
        race.send(None)
        await asyncio.sleep(0.07)
        race.close()
        await asyncio.sleep(0.01)
        assert runners.ended == 2
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


class Response:
    """An answer that holds something until it is freed."""

    def __init__(self, *, asynchronous: bool = False, fails: bool = False) -> None:
        self.freed = 0
        self.asynchronous = asynchronous
        self.fails = fails

    def unwanted(self) -> UnwantedResult:
        return UnwantedResult(self, dispose=self.dispose)

    def dispose(self) -> object:
        if self.asynchronous:
            return self.dispose_async()
        self.free()
        return None

    async def dispose_async(self) -> None:
        await asyncio.sleep(0)
        self.free()

    def free(self) -> None:
        self.freed += 1
        if self.fails:
            raise OSError


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_unwanted_results_are_freed_unless_the_caller_gets_them(asynchronous: bool, fails: bool) -> None:
    """A response that lost is freed once, and freeing it may fail; one that is all there is goes to the caller."""
    lost = Response(asynchronous=asynchronous, fails=fails)
    assert run(Ring(Hedge("50ms")), Runners((0.06, lost.unwanted()), (0.1, "tea")))[0] == "tea"
    assert lost.freed == 1
    got, other = (Response(asynchronous=asynchronous, fails=fails) for _ in range(2))
    failure = got.unwanted()
    assert run(Ring(Hedge("50ms")), Runners((0.2, failure), (0.01, other.unwanted())))[0] is failure
    assert (got.freed, other.freed) == (0, 1)


def test_an_unwanted_result_that_comes_after_the_end_is_freed() -> None:
    """A loser that answers in spite of its cancellation holds on to nothing."""
    late = Response(asynchronous=True)

    async def attempt() -> str:
        if asyncio.get_running_loop().time() > 0:
            return "tea"
        try:
            await asyncio.sleep(10)
        finally:
            raise late.unwanted()

    assert run(Ring(Hedge("50ms")), attempt)[0] == "tea"
    assert late.freed == 1


def lognormal(numbers: random.Random) -> float:
    """A dependency as in the facts: a median of 10 ms, and one answer in a hundred around 400 ms."""
    median = 0.400 if numbers.random() < 0.01 else 0.010
    return median * math.exp(0.645 * numbers.gauss(0, 1))


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def latencies(settings: Hedge | None, calls: int = 8000) -> tuple[list[float], float]:
    """Make calls one after the other; returns how long each took, and the attempts per call."""
    numbers, attempts, took = random.Random(7), 0, []
    ring = Ring(settings or Hedge(3600), races=0)

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(lognormal(numbers))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(calls):
            began = loop.time()
            await ring.hedging.race_async(attempt)
            took.append(loop.time() - began)

    run_virtual(main())
    return took, attempts / calls


def test_hedging_cuts_the_tail_for_a_few_percent_of_load() -> None:
    """One answer in a hundred takes 400 ms: p99.9 falls to a tenth, for at most the budget of 5 % more attempts."""
    bare, load = latencies(None)
    assert load == 1.0
    assert percentile(bare, 0.999) > 0.5
    hedged, load = latencies(Hedge())
    assert percentile(hedged, 0.999) < percentile(bare, 0.999) / 10
    assert 1.03 < load <= 1.05
    frugal, load = latencies(Hedge(quantile=0.99, budget=0.02))
    assert percentile(frugal, 0.999) < percentile(bare, 0.999) / 7
    assert load <= 1.02


def test_an_overload_is_not_doubled() -> None:
    """When every answer becomes a hundred times slower, hedges stay within their share of the calls all the same."""
    ring, begun = Ring(Hedge(), races=0), 0

    async def main() -> None:
        nonlocal begun
        for takes, calls in [(0.010, 500), (1.0, 500)]:
            for _ in range(calls):
                runners = Runners(*[(takes * random.uniform(0.9, 1.1), "tea")] * 2)
                await ring.hedging.race_async(runners)
                begun += len(runners.begun)

    run_virtual(main())
    assert begun <= 1000 * 1.05


@pytest.mark.parametrize("factory", [None, _uvloop], ids=["asyncio", "uvloop"])
def test_real_loops(factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """A race in real time, many at once, on either loop."""
    ring = Ring(Hedge("5ms", budget=None), clock=MONOTONIC)

    async def main() -> None:
        many = [Runners((PATIENCE, "late"), (0.001, number)) for number in range(50)]
        async with asyncio.timeout(PATIENCE / 2):
            assert await asyncio.gather(*map(ring.hedging.race_async, many)) == list(range(50))
        assert all(runners.cancelled == [1] for runners in many)
        assert len(asyncio.all_tasks()) == 1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


# Threads.


@pytest.fixture
def held() -> Iterator[Future[Any]]:
    """What a hanging attempt waits for; it comes at the end at the latest."""
    future: Future[Any] = Future()
    yield future
    if not future.done():
        future.set_result("late")


def threaded(delay: str = "10ms", threads: int = 2, **settings: Any) -> Ring:
    return Ring(Hedge(delay, threads=threads, **settings), clock=MONOTONIC)


class Slower(NamedTuple):
    """The outcome of an attempt that ends a little after its rival has begun."""

    outcome: Any


class Steps:
    """Attempts in threads: each returns or raises the next of what is given, a future's outcome, or a function's."""

    def __init__(self, *plan: Any) -> None:
        self.plan = plan
        self.threads: list[threading.Thread] = []
        self.rival_runs = threading.Event()

    def __call__(self) -> Any:
        self.threads.append(threading.current_thread())
        step = self.plan[len(self.threads) - 1]
        if len(self.threads) > 1:
            self.rival_runs.set()
        if isinstance(step, Future):
            step = step.result(PATIENCE)
        if isinstance(step, Slower):
            assert self.rival_runs.wait(PATIENCE)
            step = after(0.03, step.outcome)
        outcome = step() if callable(step) else step
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def after(seconds: float, outcome: Any) -> Callable[[], Any]:
    """A step that takes its time."""

    def step() -> Any:
        time.sleep(seconds)
        return outcome

    return step


def test_an_attempt_runs_in_a_thread() -> None:
    """A daemon of the policy's own, so that its caller could stop waiting; None is an answer too."""
    ring, attempts = threaded("10s"), Steps(None, 2)
    assert ring.hedging.race(attempts) is None
    assert ring.hedging.race(attempts) == 2
    first, second = attempts.threads
    assert first.daemon
    assert first.name == "hormesis-inventory-hedge-1"
    assert second is first
    assert ring.told == []


def test_a_rival_in_another_thread_wins(held: Future[Any], until: Any) -> None:
    """The caller gets its answer; the loser goes on, is counted, and is told of when it ends."""
    ring = threaded()
    assert ring.hedging.race(Steps(held, "tea")) == "tea"
    assert ring.names == ["hedge_started", "hedge_ended", "work_left_behind"]
    assert ring.facts("hedge_ended")[0]["losers"] == 1
    assert ring.hedging.snapshot()["zombies"] == 1
    held.set_result("late")
    until(lambda: "left_work_ended" in ring.names)
    assert ring.hedging.snapshot()["zombies"] == 0
    assert [fact["zombies"] for name in ("work_left_behind", "left_work_ended") for fact in ring.facts(name)] == [1, 0]


def test_the_first_in_a_thread_may_still_win(held: Future[Any]) -> None:
    """Then it is the rival that is left behind."""
    ring = threaded()
    assert ring.hedging.race(Steps(Slower("tea"), held)) == "tea"
    assert ring.facts("hedge_ended")[0]["attempt"] == 1
    assert ring.machine.won == 0


def test_a_failure_in_a_thread_before_the_delay_is_raised_at_once() -> None:
    """No rival begins for it."""
    failure, ring = ConnectionResetError(), threaded("10s")
    with pytest.raises(ConnectionResetError) as caught:
        ring.hedging.race(Steps(failure))
    assert caught.value is failure
    assert ring.told == []


def test_a_failure_in_a_thread_waits_for_the_rival(held: Future[Any]) -> None:
    """Its failure is not the call's, and no third attempt begins after it."""
    ring = threaded(threads=3, max_hedges=2)

    def rival() -> str:
        held.set_result(ConnectionResetError())
        time.sleep(0.05)
        return "tea"

    attempts = Steps(held, rival)
    assert ring.hedging.race(attempts) == "tea"
    assert len(attempts.threads) == 2


def test_when_all_fail_in_threads_the_caller_gets_the_firsts_failure() -> None:
    """The others are in its notes."""
    first, ring = ConnectionResetError("first"), threaded()
    with pytest.raises(ConnectionResetError) as caught:
        ring.hedging.race(Steps(Slower(first), KeyError("second")))
    assert caught.value is first
    assert first.__notes__ == ["hormesis: attempt 2 of the race failed as well: KeyError('second')"]
    assert ring.names == ["hedge_started"]


def test_a_refused_rival_in_a_thread_just_does_not_run() -> None:
    """The first goes on alone."""
    ring = threaded()
    assert ring.hedging.race(Steps(Slower("tea"), BulkheadFull("inventory", "full"))) == "tea"
    assert ring.machine.rejected == 1


def test_an_exit_in_a_thread_ends_the_race(held: Future[Any]) -> None:
    """What is no failure is raised in the caller's thread at once."""
    ring = threaded()
    with pytest.raises(SystemExit):
        ring.hedging.race(Steps(held, SystemExit()))
    assert ring.names == ["hedge_started", "work_left_behind"]


def test_a_call_that_finds_no_thread_is_made_without_a_rival(held: Future[Any], until: Any) -> None:
    """Losers hold the threads: calls go on in their own, and race again once a loser has ended."""
    ring = threaded()
    assert ring.hedging.race(Steps(held, "tea")) == "tea"
    other: Future[Any] = Future()
    asked = ring.machine.begun + ring.machine.unaffordable
    assert ring.hedging.race(Steps(after(0.03, "one thread is free"))) == "one thread is free"
    with ThreadPoolExecutor(1) as pool:
        attempts = Steps(other)
        call = pool.submit(ring.hedging.race, attempts)
        until(lambda: attempts.threads)
        alone = Steps("tea")
        assert ring.hedging.race(alone) == "tea"
        assert alone.threads == [threading.current_thread()]
        other.set_result("coffee")
        assert call.result(PATIENCE) == "coffee"
    assert ring.machine.begun + ring.machine.unaffordable == asked  # no budget is spent where no thread is free
    held.set_result("late")
    until(lambda: "left_work_ended" in ring.names)
    again = Future[Any]()
    assert ring.hedging.race(Steps(again, "tea")) == "tea"
    again.set_result("late")


def test_a_denied_rival_costs_no_thread(until: Any) -> None:
    """What was reserved for it is free again."""
    ring = Ring(Hedge("5ms", threads=2), clock=MONOTONIC, races=0)

    def answer_once_denied(times: int) -> str:
        until(lambda: ring.machine.unaffordable == times)
        return "tea"

    for times in (1, 2, 3):
        assert ring.hedging.race(functools.partial(answer_once_denied, times)) == "tea"
    assert ring.machine.unaffordable == 3
    assert ring.told == []


@pytest.mark.parametrize("repeatable", [True, False])
def test_calls_that_get_no_rival_run_in_the_callers_thread(repeatable: bool) -> None:
    """Before the latencies are known, or where a call may be made once only, there is no race to run."""
    ring = Ring(Hedge(threads=2), clock=MONOTONIC) if repeatable else threaded()
    attempts = Steps("tea", ConnectionResetError())
    with calling(repeatable=repeatable):
        assert ring.hedging.race(attempts) == "tea"
        with pytest.raises(ConnectionResetError):
            ring.hedging.race(attempts)
    assert attempts.threads == [threading.current_thread()] * 2


def test_without_threads_a_synchronous_call_gets_no_rival() -> None:
    """There would be nowhere to run it."""
    attempts = Steps("tea")
    assert Ring(Hedge("10ms"), clock=MONOTONIC).hedging.race(attempts) == "tea"
    assert attempts.threads == [threading.current_thread()]


def test_attempts_in_threads_see_the_callers_context() -> None:
    """The deadline above all."""
    with hm.deadline("10s"):
        left = threaded().hedging.race(hm.remaining)
    assert left is not None
    assert 9 < left <= 10


def test_when_the_system_has_no_more_threads_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that can't be started is an attempt in the caller's own."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ring = threaded(threads=2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            attempts = Steps("tea")
            assert ring.hedging.race(attempts) == "tea"
            assert attempts.threads == [threading.current_thread()]
    attempts = Steps("tea")
    assert ring.hedging.race(attempts) == "tea"
    assert attempts.threads != [threading.current_thread()]


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    """A pool that has nothing to do holds no threads, and starts others when it has."""
    monkeypatch.setattr(shell, "_IDLE_SECONDS", 0.01)
    ring, attempts = threaded("10s"), Steps("tea", after(0.05, "slow"), "tea")
    assert ring.hedging.race(attempts) == "tea"
    until(lambda: not attempts.threads[0].is_alive())
    assert ring.hedging.race(attempts) == "slow"
    assert ring.hedging.race(attempts) == "tea"


def test_unwanted_results_of_threads_are_freed(held: Future[Any], until: Any) -> None:
    """Whether they come before the winner or after the end."""
    early, late = Response(), Response()
    ring = threaded(threads=3, max_hedges=2)
    failing = UnwantedResult(None)
    with pytest.raises(UnwantedResult) as caught:
        ring.hedging.race(Steps(Slower(failing), early.unwanted()))
    assert caught.value is failing
    assert early.freed == 1
    assert ring.hedging.race(Steps(held, "tea")) == "tea"
    held.set_result(late.unwanted())
    until(lambda: late.freed)


def test_a_loser_that_ends_together_with_the_race_is_no_zombie(until: Any) -> None:
    """It has reported before the race is closed: what it holds is freed, and nobody is left behind."""
    ring, held, late = threaded(), Future[Any](), Response()

    def end_the_loser(event: Event) -> None:
        if event.name == "hedge_ended":
            held.set_result(late.unwanted())
            until(lambda: ring.hedging._pool is not None and ring.hedging._pool._busy == 0)
            time.sleep(0.02)  # between being free and reporting there is nothing to see

    ring.bus.listen(end_the_loser)
    assert ring.hedging.race(Steps(held, "tea")) == "tea"
    until(lambda: late.freed)
    assert ring.hedging.snapshot()["zombies"] == 0


def test_a_reserved_thread_waits_for_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to come, that thread has been counted on."""
    monkeypatch.setattr(shell, "_IDLE_SECONDS", 0.005)
    pool, done = shell._Pool("pool", 1), Future[Any]()
    assert pool.reserve()
    assert not pool.reserve()
    time.sleep(0.05)
    pool.run(lambda: "tea", done.set_result)
    assert done.result(PATIENCE) == "tea"


def test_many_threads_race_at_once() -> None:
    """Every call gets its own answer, and the pool never has more threads than it may."""
    ring = threaded("2ms", threads=6, budget=None)

    def call(number: int) -> int:
        answer: int = ring.hedging.race(Steps(*[after(0.005, number)] * 2))
        return answer

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(100))) == list(range(100))
    assert ring.hedging._pool is not None
    assert ring.hedging._pool._started <= 6

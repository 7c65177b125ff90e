"""One policy, used by threads and by tasks of several loops at once, while people switch and change it.

The calls answer, fail, hang and take their time as a seed says. What must hold in the end does not depend on who meets
whom, so the scheduler may do what it likes.
"""

from __future__ import annotations

import asyncio
import collections
import random
import threading
import time
from typing import Any

import pytest

import hormesis as hm
from hormesis.events import CallEnded, Event, EventBus

THREADS = 8
TASKS = 50
LOOPS = 2
CALLS_OF_A_THREAD = 200
CALLS_OF_A_TASK = 30
STOCK = 10.0

KNOWN = (hm.Rejected, hm.TimedOut, ConnectionResetError, KeyError)
"""What a call may raise: the policy's own errors, and the dependency's."""


class World:
    """A policy with every part that threads and tasks can share, and what was asked of it and heard of it."""

    def __init__(self, seed: int, *, watched: bool, **breaker: Any) -> None:
        self.seed = seed
        self.events: collections.deque[Event] = collections.deque()
        bus = EventBus()
        bus.listen(self.events.append, calls=watched)
        self.asked = 0
        self.attempts = 0
        self.inside = 0
        self.most_inside = 0
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()
        self.strange: list[BaseException] = []
        self.policy = hm.Policy(
            hm.Fallback(value="instead", on="unavailable"),
            hm.Deadline("2s"),
            hm.Retry(on="transient", attempts=3, delay="1ms", delay_max="3ms", budget=0.2),
            hm.CircuitBreaker(minimum_calls=20, window=50, open_for="2ms", probes=3, recover_over="3ms", **breaker),
            hm.Bulkhead(12, max_queued=30, max_wait="30ms"),
            hm.Timeout("5ms", cooperative=True),
            name="mixed",
            events=bus,
        )

    def depend(self, dice: random.Random) -> tuple[Any, float]:
        """Decide what an attempt does: how long it takes, and what comes of it."""
        with self.lock:
            self.attempts += 1
        draw = dice.random()
        if draw < 0.75:
            return "answer", 0.0
        if draw < 0.85:
            return ConnectionResetError(), 0.0
        if draw < 0.88:
            return KeyError("bad request"), 0.0
        return ("late", 0.02) if draw < 0.89 else ("answer", 0.001)

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1

    def sync(self, dice: random.Random) -> str:
        self.enter()
        try:
            outcome, takes = self.depend(dice)
            left = hm.remaining()
            assert left is not None
            time.sleep(min(takes, max(0.0, left)))
            hm.check_deadline()
        finally:
            self.leave()
        return self.play(outcome)

    async def async_(self, dice: random.Random) -> str:
        self.enter()
        try:
            outcome, takes = self.depend(dice)
            await asyncio.sleep(takes)
        finally:
            self.leave()
        return self.play(outcome)

    def play(self, outcome: Any) -> str:
        if isinstance(outcome, BaseException):
            raise outcome
        return str(outcome)

    def note(self, outcome: str) -> None:
        with self.lock:
            self.asked += 1
            self.outcomes[outcome] += 1

    # Who calls, ...

    def thread(self, number: int) -> None:
        dice = random.Random(f"{self.seed} thread {number}")
        for _ in range(CALLS_OF_A_THREAD):
            try:
                self.note(self.policy.call(self.sync, dice))
            except KNOWN as error:
                self.note(type(error).__name__)
                time.sleep(0.0005)  # or whoever is refused would be done before anything has happened
            except BaseException as error:
                self.strange.append(error)
            if hm.remaining() is not None:
                self.strange.append(AssertionError("a deadline was left behind"))

    async def task(self, number: int) -> None:
        dice = random.Random(f"{self.seed} task {number}")
        for _ in range(CALLS_OF_A_TASK):
            try:
                # Some callers lose patience before their time.
                async with asyncio.timeout(0.003 if dice.random() < 0.1 else None):
                    self.note(await self.policy.acall(self.async_, dice))
            except KNOWN as error:
                self.note(type(error).__name__)
                await asyncio.sleep(0.0005)
            except TimeoutError:
                self.note("cancelled")
            except BaseException as error:
                self.strange.append(error)
            if hm.remaining() is not None:
                self.strange.append(AssertionError("a deadline was left behind"))

    async def tasks(self, loop: int) -> None:
        await asyncio.gather(*(self.task(number) for number in range(loop, TASKS, LOOPS)))

    # ... and who else is about.

    def meddle(self, ended: threading.Event) -> None:
        dice = random.Random(f"{self.seed} meddler")
        era = -1
        switch = self.policy.breaker()
        while not ended.wait(0.002):
            dice.choice([switch.isolate, switch.disable, switch.close, self.widen, self.narrow, self.quicken])()
            dice.choice([switch.close, self.policy.explain])()
            parts = self.policy.snapshot()["parts"]
            if parts["circuit_breaker"]["era"] < era:
                self.strange.append(AssertionError("the era went back"))
            era = parts["circuit_breaker"]["era"]
            if not 0 <= parts["retry"]["budget"]["tokens"] <= STOCK:
                self.strange.append(AssertionError(f"the budget holds {parts['retry']}"))
        switch.close()

    def widen(self) -> None:
        self.policy.reconfigure(hm.Bulkhead(20, max_queued=30, max_wait="30ms"))

    def narrow(self) -> None:
        self.policy.reconfigure(hm.Bulkhead(5, max_queued=10, max_wait="10ms"))

    def quicken(self) -> None:
        self.policy.reconfigure(
            hm.CircuitBreaker(minimum_calls=5, quiet=3, window=20, open_for="1ms", probes=1),
            hm.Retry(on="transient", attempts=2, delay=0, budget=0.1),
        )

    def run(self, *, meddled: bool) -> None:
        """Let all of them loose, and wait until they have ended."""
        ended = threading.Event()
        meddler = threading.Thread(target=self.meddle, args=(ended,))
        threads = [threading.Thread(target=self.thread, args=(number,)) for number in range(THREADS)]
        threads += [threading.Thread(target=lambda loop=loop: asyncio.run(self.tasks(loop))) for loop in range(LOOPS)]
        if meddled:
            meddler.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "a call hangs"
        ended.set()
        if meddled:
            meddler.join(20)


@pytest.mark.parametrize("meddled", [False, True], ids=["left alone", "meddled with"])
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("seed", [1])
def test_threads_and_tasks_on_one_policy(seed: int, *, watched: bool, meddled: bool) -> None:
    """Every call ends once and in a known way, nothing is left of any, and no bound was ever exceeded."""
    world = World(seed, watched=watched)
    began = time.monotonic()
    world.run(meddled=meddled)
    assert time.monotonic() - began < 15

    assert world.strange == []
    calls = THREADS * CALLS_OF_A_THREAD + TASKS * CALLS_OF_A_TASK
    assert world.asked == world.outcomes.total() == calls
    assert world.outcomes["answer"] > calls / 50
    assert world.outcomes["late"] == 0
    parts = world.policy.snapshot()["parts"]
    assert (parts["bulkhead"]["in_flight"], parts["bulkhead"]["queued"]) == (0, 0)
    assert 0 <= parts["retry"]["budget"]["tokens"] <= STOCK
    assert world.inside == 0
    assert world.most_inside <= (20 if meddled else 12)
    # A retry costs a token, of which there were ten, and every call earned a fifth of one.
    retries = sum(event.name == "retry_scheduled" for event in world.events)
    assert retries <= STOCK + 0.2 * calls
    assert world.attempts <= calls + retries
    if watched:
        ended = collections.Counter(event.ending for event in world.events if isinstance(event, CallEnded))
        assert ended.total() == calls
        # A fallback's answer is a success.
        assert ended["success"] == world.outcomes["answer"] + world.outcomes["instead"]
        assert ended["cancelled"] == world.outcomes["cancelled"]
        assert ended["rejected"] == world.outcomes["CircuitOpen"] + world.outcomes["BulkheadFull"]
    assert world.policy.call(world.sync, _Always()) == "answer"


@pytest.mark.parametrize("seed", [1, 2])
def test_instances_by_key_under_threads_and_tasks(seed: int) -> None:
    """The same with a breaker for each key, of which there are more than are kept."""
    world = World(seed, watched=True, by=lambda dice: int(dice.random() * 6), max_keys=4)
    world.run(meddled=False)
    assert world.strange == []
    assert world.asked == THREADS * CALLS_OF_A_THREAD + TASKS * CALLS_OF_A_TASK
    parts = world.policy.snapshot()["parts"]
    assert (parts["bulkhead"]["in_flight"], parts["bulkhead"]["queued"]) == (0, 0)
    assert 1 <= len(parts["circuit_breaker"]["keys"]) <= 4
    assert sum(isinstance(event, CallEnded) for event in world.events) == world.asked


class Shared:
    """A policy that caches, races and has threads, and a dependency that answers each key with itself."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.strange: list[BaseException] = []
        self.events: collections.deque[Event] = collections.deque()
        bus = EventBus()
        bus.listen(self.events.append, calls=True)
        self.policy = hm.Policy(
            hm.Fallback(cache=hm.StaleCache(fresh="2ms", stale="4ms", max_entries=5)),
            hm.Deadline("2s"),
            hm.Retry(on="transient", delay="1ms", budget=None),
            hm.Hedge("1ms", threads=20, budget=0.5),
            hm.CircuitBreaker(by=lambda key, dice: key % 3, minimum_calls=1000, window=1000, max_keys=3),
            hm.Bulkhead(10, max_queued=100, max_wait="2s"),
            hm.Timeout("200ms", cooperative=True),
            events=bus,
        )

    def step(self, dice: random.Random) -> float:
        if dice.random() < 0.1:
            raise ConnectionResetError
        return 0.004 if dice.random() < 0.2 else 0.0002

    def sync(self, key: int, dice: random.Random) -> int:
        time.sleep(self.step(dice))
        return key

    async def async_(self, key: int, dice: random.Random) -> int:
        await asyncio.sleep(self.step(dice))
        return key

    def check(self, key: int, answer: int) -> None:
        if answer != key:
            self.strange.append(AssertionError(f"{answer} is no answer to {key}"))

    def thread(self, number: int) -> None:
        dice = _Anonymous(f"{self.seed} thread {number}")
        for _ in range(40):
            key = dice.randrange(8)
            try:
                self.check(key, self.policy.call(self.sync, key, dice))
            except KNOWN:
                pass
            except BaseException as error:
                self.strange.append(error)

    async def task(self, number: int) -> None:
        dice = _Anonymous(f"{self.seed} task {number}")
        for _ in range(10):
            key = dice.randrange(8)
            try:
                async with asyncio.timeout(0.002 if dice.random() < 0.1 else None):
                    self.check(key, await self.policy.acall(self.async_, key, dice))
            except (*KNOWN, TimeoutError):
                pass
            except BaseException as error:
                self.strange.append(error)

    async def tasks(self, loop: int) -> None:
        await asyncio.gather(*(self.task(number) for number in range(loop, TASKS, LOOPS)))


@pytest.mark.parametrize("seed", [1, 2])
def test_shared_calls_and_races_of_threads_and_tasks(seed: int, until: Any) -> None:
    """Everybody gets an answer to their own question, and no flight, place or thread is left in the end."""
    world = Shared(seed)
    threads = [threading.Thread(target=world.thread, args=(number,)) for number in range(THREADS)]
    threads += [threading.Thread(target=lambda loop=loop: asyncio.run(world.tasks(loop))) for loop in range(LOOPS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a call hangs"
    assert world.strange == []

    def held() -> int:
        parts = world.policy.snapshot()["parts"]
        return int(
            parts["bulkhead"]["in_flight"]
            + parts["bulkhead"]["queued"]
            + parts["cache"]["in_flight"]
            + parts["hedge"]["zombies"]
        )

    until(lambda: held() == 0)
    told = collections.Counter(event.name for event in world.events)
    assert told["call_ended"] == THREADS * 40 + TASKS * 10
    assert told["hedge_started"] >= told["hedge_ended"] > 0
    assert told["cache_answered"] > 0


class _Anonymous(random.Random):
    """Dice that are equal to all others, so that they tell no two calls apart."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Anonymous)

    def __hash__(self) -> int:
        return 0


class _Always(random.Random):
    """Dice that always say the same."""

    def random(self) -> float:
        return 0.0

"""A call is cancelled at its first suspension, then at its second, and so on, until it is not cancelled any more.

However far it came, nothing of it may be left: no permit, no place in a queue, no probe, no deadline, and no failure in
the breaker that was none. Everything runs on virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.events import Event, EventBus
from hormesis.outcome import Ending
from hormesis.testing import VirtualClock, hear, run_virtual

Cancel = Callable[["asyncio.Task[Any]", "asyncio.Future[Any] | None"], None]


def while_suspended(task: asyncio.Task[Any], awaited: asyncio.Future[Any] | None) -> None:
    """Cancel a task while it waits."""
    task.cancel()


def while_waking(task: asyncio.Task[Any], awaited: asyncio.Future[Any] | None) -> None:
    """Cancel a task when what it waits for has come, and before it could know: the permit is in its hands already."""
    if awaited is None:
        task.cancel()
    else:
        awaited.add_done_callback(lambda _: task.cancel())


@types.coroutine
def cancelled_at(place: int, cancel: Cancel, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and cancel its task at the n-th suspension."""
    task, passed = asyncio.current_task(), 0
    assert task is not None
    resume: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731  replaced after each suspension
    while True:
        try:
            awaited = resume()
        except StopIteration as stop:
            return stop.value
        passed += 1
        if passed == place:
            cancel(task, awaited)
        try:
            yield awaited
        except BaseException as error:
            resume = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            resume = lambda: coroutine.send(None)  # noqa: E731


@types.coroutine
def closed_at(place: int, cancel: Cancel, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and close it at the n-th suspension, as happens to one whose loop is gone."""
    passed = 0
    awaited = None
    while passed < place:
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        passed += 1
        if passed < place:
            yield awaited
    coroutine.close()
    raise asyncio.CancelledError


class World:
    """A policy with every part, a dependency, and whoever else is about."""

    parts: tuple[Any, ...] = (
        hm.Deadline("10s"),
        hm.Retry(on="any", attempts=3, delay="100ms", jitter="none"),
        hm.CircuitBreaker(minimum_calls=1000, window=1000, open_for=1, probes=1),
        hm.Bulkhead(1, max_queued=1, max_wait="5s"),
        hm.Timeout("1s"),
    )
    order: Any = "standard"

    def __init__(self, machine_of: Any) -> None:
        self.failed: list[Event] = []
        bus = EventBus()
        bus.listen(lambda event: self.failed.append(event) if event.name == "attempt_failed" else None)
        self.policy = hm.Policy(
            hm.Fallback(self.answer_instead), *self.parts, order=self.order, clock=VirtualClock(), events=bus
        )
        self.breaker = machine_of(self.policy, hm.CircuitBreaker)
        self.bulkhead = machine_of(self.policy, hm.Bulkhead)

    def prepare(self) -> None:
        """What happens before the call comes."""

    async def depend(self) -> int:
        """What is called."""
        await asyncio.sleep(0.1)
        await asyncio.sleep(0)
        return 3

    async def answer_instead(self) -> int:
        await asyncio.sleep(0.1)
        return 0


class Queued(World):
    """The bulkhead is full at first, so the call waits."""

    def prepare(self) -> None:
        permit = self.bulkhead.acquire(0.0)
        asyncio.get_running_loop().call_later(0.5, self.bulkhead.put_back, permit)


class Retried(World):
    """Two attempts fail before the third answers."""

    async def depend(self) -> int:
        await asyncio.sleep(0.1)
        if len(self.failed) < 2:
            raise ConnectionResetError
        return 3


class TimedOut(World):
    """Every attempt hangs, and the fallback answers."""

    async def depend(self) -> int:
        await asyncio.sleep(3600)
        return 3


class Probing(Queued):
    """The breaker's open time is over: the call is its one probe, and waits for the bulkhead first."""

    parts = (*World.parts[:2], hm.CircuitBreaker(minimum_calls=1, open_for=1, probes=1), *World.parts[3:])

    def prepare(self) -> None:
        super().prepare()
        self.breaker.end(self.breaker.acquire(-1.0), Ending.FAILURE, -1.0, -1.0)
        assert self.breaker.state is BreakerState.OPEN


class Layered(Queued):
    """The same parts in two layers, with a retry around each."""

    parts = (*World.parts, hm.Retry(on="any", attempts=2, delay="50ms"))
    order = "as given"

    async def depend(self) -> int:
        await asyncio.sleep(0.1)
        if len(self.failed) < 3:
            raise ConnectionResetError
        return 3


async def journey(world: World, place: int, cancel: Cancel) -> bool:
    """Run one call that is cancelled at one place, look at what is left, and say whether it came as far as that."""
    world.prepare()

    async def call() -> Any:
        try:
            return await cancelled_at(place, cancel, world.policy.acall(world.depend))
        finally:
            assert hm.remaining() is None

    task = asyncio.create_task(call())
    await asyncio.wait([task])
    cancelled = task.cancelled()
    if not cancelled:
        assert task.result() in (0, 3)
    await asyncio.sleep(100)  # until whoever else is about has gone

    assert (world.bulkhead.in_flight, world.bulkhead.queued) == (0, 0)
    assert world.breaker.refusal(asyncio.get_running_loop().time()) is None
    if isinstance(world, Probing):
        assert cancelled or world.breaker.state is BreakerState.CLOSED
    elif world.order == "standard":  # in layers, one breaker judges what is two failures to those who listen
        assert world.breaker.tally(0.0).failures == len(world.failed)
    return cancelled


@pytest.mark.parametrize("cancel", [while_suspended, while_waking], ids=lambda cancel: cancel.__name__)
@pytest.mark.parametrize("kind", [World, Queued, Retried, TimedOut, Probing, Layered], ids=lambda kind: kind.__name__)
def test_nothing_is_left_of_a_cancelled_call(kind: type[World], cancel: Cancel, machine_of: Any) -> None:
    """Wherever a call is cancelled, all that it held is free again and nothing is blamed on the dependency."""
    place = 1
    while run_virtual(journey(kind(machine_of), place, cancel)):
        place += 1
    assert place > 2


def test_a_probe_that_is_cancelled_gives_its_place_to_the_next(machine_of: Any) -> None:
    """After a probe was cancelled, the next call probes, and its answer closes the circuit."""
    world = Probing(machine_of)

    async def main() -> None:
        assert await journey(world, 2, while_suspended)
        assert await world.policy.acall(world.depend) == 3
        assert world.breaker.state is BreakerState.CLOSED

    run_virtual(main())


def test_cancelled_tasks_do_not_open_a_circuit(machine_of: Any) -> None:
    """A hundred callers that lose patience are no failure of the dependency."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), clock=VirtualClock())

    async def main() -> None:
        for _ in range(100):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await policy.acall(asyncio.sleep, 60)
        assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (0, 0, 0)

    run_virtual(main())


# The other parts: races, shared calls, calls that stay open, blocks, keys, shadows and workers.


class Whole:
    """A policy with every part that can be beside the others, and what must hold when a call under it has ended."""

    parts: tuple[Any, ...] = (
        hm.Deadline("10s"),
        hm.Retry(on="any", attempts=3, delay="100ms", jitter="none"),
        hm.Hedge("50ms", budget=None),
        hm.CircuitBreaker(minimum_calls=1000, window=1000),
        hm.Bulkhead(2, max_queued=2, max_wait="5s"),
        hm.Timeout("1s"),
    )
    fallback: dict[str, Any] = {"value": 0}  # noqa: RUF012
    settings: dict[str, Any] = {}  # noqa: RUF012
    answers: tuple[int, ...] = (0, 3)
    ends = True
    """Whether the end of each call is an event."""

    def __init__(self, *, watched: bool) -> None:
        self.events: list[Event] = []
        self.calls = 0
        bus = EventBus()
        bus.listen(self.events.append, calls=watched)
        self.watched = watched
        parts = (hm.Fallback(**self.fallback), *self.parts) if self.fallback else self.parts
        self.policy = hm.Policy(*parts, clock=VirtualClock(), events=bus, **self.settings)

    async def prepare(self) -> None:
        """What happens before the call comes."""

    async def call(self) -> int:
        """Make the call that is cancelled."""
        return await self.policy.acall(self.depend)

    async def depend(self, *_: object) -> int:
        """What is called: slow, then failing, then quick."""
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0.02 if number % 4 == 0 else 0.07)
        if number % 4 in (1, 2):
            raise ConnectionResetError
        return 3

    def told(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]

    async def check(self, *, cancelled: bool) -> None:
        """Look at what is left."""
        parts = self.policy.snapshot()["parts"]
        failures = 0
        for state in (each for part in parts.values() for each in part.get("keys", {"": part}).values()):
            assert state.get("in_flight", 0) == state.get("queued", 0) == 0
            assert state.get("zombies", 0) == 0
            failures += state.get("failures", 0)
        if self.policy.order == "standard":
            assert failures == len(self.told("attempt_failed"))
        if self.watched and self.ends:
            ended = [event.ending for event in self.told("call_ended")]
            assert ended == ["cancelled" if cancelled else "success"]
        assert not asyncio.all_tasks() - {asyncio.current_task()}


class Refused(Whole):
    """The rival has no place, and further calls stand in the queue."""

    parts = (*Whole.parts[:4], hm.Bulkhead(1, max_queued=1, max_wait="30ms"), hm.Timeout("1s"))


class Leading(Whole):
    """The call leads, and another follows it."""

    fallback: dict[str, Any] = {"cache": hm.StaleCache(fresh=1, stale=1), "value": 0}  # noqa: RUF012
    ends = False

    async def prepare(self) -> None:
        asyncio.get_running_loop().call_later(0.001, self.start_other)

    def start_other(self) -> None:
        self.other = asyncio.create_task(self.policy.acall(self.depend, 1))

    async def call(self) -> int:
        return await self.policy.acall(self.depend, 1)

    async def check(self, *, cancelled: bool) -> None:
        assert await self.other == 3
        await super().check(cancelled=cancelled)


class Following(Leading):
    """The call follows another, which is none the worse when it is cancelled."""

    async def prepare(self) -> None:
        self.start_other()
        await asyncio.sleep(0)


class Stale(Leading):
    """An old answer stands in when all attempts have failed."""

    fallback: dict[str, Any] = {"cache": hm.StaleCache(fresh=1, stale="1h", revalidate=False)}  # noqa: RUF012

    async def prepare(self) -> None:
        self.calls = 3
        self.start_other()
        await self.other
        await asyncio.sleep(2)
        self.events.clear()

    async def depend(self, *_: object) -> int:
        self.calls += 1
        await asyncio.sleep(0.02)
        if self.calls > 4:
            raise ConnectionResetError
        return 3

    async def check(self, *, cancelled: bool) -> None:
        await Whole.check(self, cancelled=cancelled)
        assert len(self.told("cache_answered")) == (not cancelled)


class StayingOpen(Whole):
    """What was opened goes on for a while."""

    ends = False

    async def call(self) -> int:
        async with await self.policy.aopen(self.depend) as opened:
            await asyncio.sleep(0.1)
            return opened.value


class StayingOpenInLayers(StayingOpen):
    """The same, through several layers."""

    parts = (
        hm.Retry(on="any", attempts=3, delay="50ms"),
        hm.Bulkhead(2),
        hm.Timeout("5s"),
        hm.CircuitBreaker(minimum_calls=1000, window=1000),
        hm.Bulkhead(1, max_queued=1),
        hm.Timeout("1s"),
    )
    settings: dict[str, Any] = {"order": "as given"}  # noqa: RUF012


class Block(Whole):
    """A block of code is repeated."""

    parts = tuple(part for part in Whole.parts if not isinstance(part, hm.Hedge))
    fallback: dict[str, Any] = {}  # noqa: RUF012
    ends = False

    async def call(self) -> int:
        answer = 0
        async for attempt in self.policy.attempts():
            async with attempt:
                answer = await self.depend()
        return answer


class QueuedBlock(Block):
    """A block stands in the queue first."""

    async def prepare(self) -> None:
        opened = [await self.policy.aopen(asyncio.sleep, 0) for _ in range(2)]
        for each in opened:
            asyncio.get_running_loop().call_later(0.5, each.end)


class Keyed(Whole):
    """There is a breaker and a bulkhead for each host, and others call as well."""

    parts = (
        *Whole.parts[:3],
        hm.CircuitBreaker(minimum_calls=1000, window=1000, by="host"),
        hm.Bulkhead(2, max_queued=2, by="host", max_keys=2),
        hm.Timeout("1s"),
    )

    async def call(self) -> int:
        with hm.calling(host="eu"):
            return await self.policy.acall(self.depend)

    async def check(self, *, cancelled: bool) -> None:
        await super().check(cancelled=cancelled)
        with hm.calling(host="us"):
            assert await self.policy.acall(asyncio.sleep, 0, 7) == 7
        assert set(self.policy.snapshot()["parts"]["bulkhead"]["keys"]) == {"eu", "us"}


class Shadow(Whole):
    """The policy only watches."""

    settings: dict[str, Any] = {"shadow": True}  # noqa: RUF012

    async def call(self) -> int:
        self.calls = 2
        return await super().call()


KINDS = [
    Whole,
    Refused,
    Leading,
    Following,
    Stale,
    StayingOpen,
    StayingOpenInLayers,
    Block,
    QueuedBlock,
    Keyed,
    Shadow,
]


async def whole_journey(world: Whole, place: int, cancel: Cancel, end: Callable[..., Any] = cancelled_at) -> bool:
    """Make one call that is cancelled at one place, look at what is left, and say whether it came as far as that."""
    await world.prepare()

    async def call() -> Any:
        with hm.deadline(1000, clock=VirtualClock()):
            try:
                return await end(place, cancel, world.call())
            finally:
                left = hm.remaining()
                assert left is not None
                assert left > 900  # the outer deadline is back, and not an attempt's

    task = asyncio.create_task(call())
    await asyncio.wait([task])
    cancelled = task.cancelled()
    if not cancelled:
        assert task.result() in world.answers
    await asyncio.sleep(100)
    await world.check(cancelled=cancelled)
    assert await world.policy.acall(asyncio.sleep, 0, 7) == 7
    return cancelled


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("cancel", [while_suspended, while_waking], ids=lambda cancel: cancel.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_is_left_of_a_cancelled_call_with_every_part(
    kind: type[Whole], cancel: Cancel, *, watched: bool
) -> None:
    """Wherever it is cancelled: no permit, no flight, no task, no failure that was none, and the deadline of before."""
    place = 1
    while run_virtual(whole_journey(kind(watched=watched), place, cancel)):
        place += 1
    assert place > 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_is_left_of_a_call_that_is_closed(kind: type[Whole]) -> None:
    """A coroutine that is thrown away in the middle of a call leaves no more than one that is cancelled."""
    place = 1
    while run_virtual(whole_journey(kind(watched=True), place, while_suspended, closed_at)):
        place += 1
    assert place > 1


# Workers are real threads and processes, so what follows takes place in real time.


@contextlib.contextmanager
def sweeping(policy: hm.Policy, until: Any) -> Iterator[Callable[[Callable[[], Coroutine[Any, Any, Any]]], int]]:
    """Make calls that are cancelled one suspension further each time, and look at what is left of each."""

    def sweep(make: Callable[[], Coroutine[Any, Any, Any]]) -> int:
        place = 1
        while asyncio.run(_cancelled(make(), place)):
            until(lambda: policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0)
            until(lambda: policy.snapshot()["zombies"] == 0)
            place += 1
        return place - 1

    with hear(policy) as heard:
        yield sweep
    failures = policy.snapshot()["parts"]["circuit_breaker"]["failures"]
    assert failures == len(heard.of("attempt_failed")) == 0
    assert len(heard.of("work_left_behind")) == len(heard.of("left_work_ended"))


async def _cancelled(coroutine: Coroutine[Any, Any, Any], place: int) -> bool:
    async def call() -> Any:
        return await cancelled_at(place, while_suspended, coroutine)

    task = asyncio.create_task(call())
    await asyncio.wait([task])
    assert hm.remaining() is None
    return task.cancelled()


WORKERS_PARTS = (hm.Deadline("20s"), hm.Retry(on="any"), hm.CircuitBreaker(minimum_calls=1), hm.Timeout("10s"))


def test_nothing_is_left_of_a_cancelled_call_in_a_thread(until: Any) -> None:
    """The thread goes on, holds its place and is counted, until it ends by itself."""
    policy = hm.Policy(*WORKERS_PARTS, hm.Bulkhead(1, workers="threads"))
    ended: list[int] = []

    def work() -> int:
        threading.Event().wait(0.02)
        ended.append(1)
        return 3

    with sweeping(policy, until) as sweep:
        places = sweep(lambda: policy.acall(work))  # type: ignore[arg-type]
    assert places >= 1
    assert len(ended) == places + 1


def test_nothing_is_left_of_a_cancelled_call_for_a_busy_thread(until: Any) -> None:
    """A call that is cancelled while it waits for a place never begins."""
    policy = hm.Policy(*WORKERS_PARTS, hm.Bulkhead(1, max_queued=1, workers="threads"))
    acall: Any = policy.acall
    begun: list[str] = []

    def work(who: str) -> int:
        begun.append(who)
        threading.Event().wait(0.01)
        return 3

    async def queued() -> None:
        first = asyncio.create_task(acall(work, "first"))
        await asyncio.sleep(0.002)
        task = asyncio.create_task(acall(work, "queued"))
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait([task, first])
        assert task.cancelled()
        assert first.result() == 3

    asyncio.run(queued())
    assert begun == ["first"]
    assert policy.snapshot()["parts"]["bulkhead"] == {"max_concurrent": 1, "in_flight": 0, "queued": 0}
    assert policy.snapshot()["zombies"] == 0


def test_nothing_is_left_of_a_cancelled_call_in_a_process(until: Any) -> None:
    """The worker is ended with its work, another takes its place, and neither is blamed on the dependency."""
    policy = hm.Policy(*WORKERS_PARTS, hm.Bulkhead(1, workers="processes"))
    asyncio.run(policy.acall(time.sleep, 0))  # type: ignore[arg-type]
    with sweeping(policy, until) as sweep:
        assert sweep(lambda: policy.acall(time.sleep, 0.05)) >= 1  # type: ignore[arg-type]
    assert policy.call(int) == 0

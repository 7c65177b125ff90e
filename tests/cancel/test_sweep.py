"""A call is cancelled at its first suspension, then at its second, and so on, until it is not cancelled any more.

However far it came, nothing of it may be left: no permit, no place in a queue, no probe, no deadline, and no failure in
the breaker that was none. Everything runs on virtual time.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.events import Event, EventBus
from hormesis.outcome import Ending
from hormesis.testing import VirtualClock, run_virtual

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

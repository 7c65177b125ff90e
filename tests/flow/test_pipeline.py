"""Pipelines: nothing runs ahead, nothing is lost, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

import hormesis as hm
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.events import EventBus
from hormesis.flow import Pipeline, Queue, QueueFull, Undelivered, iterate, publisher_of
from hormesis.flow.tasks import end
from hormesis.testing import VirtualClock, hear, run_virtual

Nothing = Callable[[], None]


class Counted:
    """A source that knows what was taken from it, and whether it was closed."""

    def __init__(self, items: int, seconds: float = 0.0, breaks: Exception | None = None) -> None:
        self.items, self.seconds, self.breaks = items, seconds, breaks
        self.taken = 0
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for item in range(self.items):
                if self.seconds:
                    await asyncio.sleep(self.seconds)
                self.taken = item + 1
                yield item
            if self.breaks is not None:
                raise self.breaks
        finally:
            self.closed += 1


class Work:
    """A function that takes its time and knows how many of its calls run at once."""

    def __init__(self, seconds: Callable[[Any], float] | float = 1.0) -> None:
        self.seconds = seconds
        self.running = self.most = self.begun = self.cancelled = 0

    async def __call__(self, item: Any) -> Any:
        self.running += 1
        self.begun += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds(item) if callable(self.seconds) else self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return item * 10


async def all_of(pipeline: Pipeline[Any]) -> list[Any]:
    return [item async for item in pipeline]


def test_stages_one_after_the_other(nothing_left: Nothing) -> None:
    """Functions of either colour make results of items, let them through, and put them together."""

    async def even(number: int) -> bool:
        await asyncio.sleep(0)
        return number % 2 == 0

    async def main() -> None:
        source = Counted(10)
        pipeline = Pipeline(source).filter(even).map(lambda n: n + 1).map(Work()).batch(2)
        assert await all_of(pipeline) == [[10, 30], [50, 70], [90]]
        assert await all_of(pipeline.flatten().filter(lambda n: n > 50)) == [70, 90]
        assert source.closed == 2
        assert await pipeline.run() == 3
        nothing_left()

    run_virtual(main())


@pytest.mark.parametrize("source", [[0, 1], (n for n in range(2)), Counted(2), Counted(2).__aiter__()])
def test_any_iterable_is_a_source(source: Any) -> None:
    """Collections, iterators and generators of both colours."""
    assert run_virtual(all_of(Pipeline(source))) == [0, 1]


def test_a_queue_is_a_source() -> None:
    """A pipeline takes from a queue until it is closed, and leaves closing it to its owner."""

    async def main() -> None:
        queue = Queue[int](10, overflow="block")
        for item in range(4):
            queue.put_nowait(item)
        stream = Pipeline(queue).map(Work(), concurrency=2).open()
        assert await anext(stream) == 0
        await stream.aclose()
        assert not queue.closed
        queue.close()
        assert sorted([item async for item in queue] + [item.item for item in stream.undelivered]) in (
            [1, 2, 3],
            [2, 3, 10],
        )

    run_virtual(main())


# Nothing runs ahead.


@pytest.mark.parametrize(
    ("build", "ahead"),
    [
        (lambda p: p, 0),
        (lambda p: p.map(Work()), 0),
        (lambda p: p.filter(lambda n: True), 0),
        (lambda p: p.map(Work(), concurrency=4), 4),
        (lambda p: p.map(Work(), concurrency=4, ordered=False), 4),
        (lambda p: p.map(Work(), concurrency=2, prefetch=3), 5),
        (lambda p: p.prefetch(3), 3),
        (lambda p: p.buffer(3, overflow="block"), 3),
        (lambda p: p.prefetch(3).map(Work(), concurrency=2), 5),
        (lambda p: p.batch(5).flatten(), 4),
        (lambda p: p.batch(5, within="1s").flatten(), 4 + 5),
    ],
)
def test_nothing_runs_ahead_of_demand(build: Callable[[Any], Any], ahead: int) -> None:
    """Nothing is taken before something is wanted, and then exactly as much ahead of it as was asked for."""

    async def main() -> None:
        source = Counted(1000)
        furthest = 0
        async with build(Pipeline(source)).open() as stream:
            await asyncio.sleep(100)
            assert source.taken == 0
            for wanted in range(1, 12):
                await anext(stream)
                await asyncio.sleep(100)
                furthest = max(furthest, source.taken - wanted)
        assert (furthest, source.closed) == (ahead, 1)

    run_virtual(main())


def test_prefetch_by_bytes() -> None:
    """Nothing more is pulled while what waits has that many bytes; an item as large as all of it still goes through."""

    async def main() -> None:
        taken = 0

        async def source() -> AsyncIterator[bytes]:
            nonlocal taken
            for _ in range(20):
                taken += 1
                yield b"x" * 400

        async with Pipeline(source()).prefetch(100, max_bytes="1KB").open() as stream:
            for wanted in range(1, 5):
                assert len(await anext(stream)) == 400
                await asyncio.sleep(1)
                assert taken == wanted + 3
        assert [item.stage for item in stream.undelivered] == ["prefetch"] * 3

    run_virtual(main())
    big = Pipeline([b"x" * 5000]).prefetch(5, max_bytes=10)
    assert [len(item) for item in run_virtual(all_of(big))] == [5000]
    sized = Pipeline([3, 4, 5]).prefetch(5, max_bytes=10, size=lambda item: item)
    assert run_virtual(all_of(sized)) == [3, 4, 5]


# Several at a time.


@pytest.mark.parametrize("ordered", [True, False])
def test_concurrency_is_bounded_and_used(ordered: bool, nothing_left: Nothing) -> None:
    """So many calls run at once, no more, and results come in the order that was asked for."""

    async def main() -> None:
        work = Work(lambda n: 5.0 if n == 0 else 1.0)
        pipeline = Pipeline(range(12)).map(work, concurrency=4, ordered=ordered)
        results = await all_of(pipeline)
        assert work.most == 4
        assert sorted(results) == [n * 10 for n in range(12)]
        assert (results == sorted(results)) is ordered
        nothing_left()

    run_virtual(main())


def test_results_do_not_wait_for_slow_ones() -> None:
    """Unordered, a result comes out as soon as it is there."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        times = {}
        async for item in Pipeline([5, 1, 2]).map(Work(float), concurrency=3, ordered=False):
            times[item] = loop.time()
        assert times == {10: 1, 20: 2, 50: 5}

    run_virtual(main())


def test_a_synchronous_function_with_concurrency() -> None:
    """It works as well, though nothing is gained by it."""
    assert run_virtual(all_of(Pipeline(range(5)).map(lambda n: n + 1, concurrency=3))) == [1, 2, 3, 4, 5]


def test_batches_that_do_not_wait_for_ever() -> None:
    """A batch is given out when it is complete, when its first item is old enough, or at the end."""

    async def source() -> AsyncIterator[int]:
        for item, pause in enumerate([0, 0, 0, 5, 0.4, 0.4, 0.4, 5]):
            await asyncio.sleep(pause)
            yield item

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batches = [(batch, loop.time()) async for batch in Pipeline(source()).batch(3, within="1s")]
        assert [batch for batch, _ in batches] == [[0, 1, 2], [3, 4, 5], [6], [7]]
        assert [time for _, time in batches] == pytest.approx([0, 5.8, 7.2, 11.2])

    run_virtual(main())


def test_a_batch_that_nobody_wants_yet_is_not_split() -> None:
    """When its time is over and nobody has asked, it goes on growing until it is complete or wanted."""

    async def main() -> None:
        async with Pipeline(Counted(10, 1.0)).batch(4, within="1.5s").open() as stream:
            assert await anext(stream) == [0, 1]
            await asyncio.sleep(100)
            assert [await anext(stream), await anext(stream)] == [[2, 3, 4, 5], [6, 7]]

    run_virtual(main())


def test_a_policy_protects_each_call() -> None:
    """The function of a stage is called under a policy: here with retries, and at most two at a time."""
    policy = hm.Policy(
        hm.Retry(on="any", attempts=3, delay="1s", jitter="none"),
        hm.Bulkhead(2, max_queued=10, max_wait="1m"),
        clock=VirtualClock(),
    )
    calls: Counter[int] = Counter()
    work = Work()

    async def flaky(item: int) -> int:
        calls[item] += 1
        await work(item)
        if calls[item] < 2:
            raise ConnectionResetError
        return item

    assert run_virtual(all_of(Pipeline(range(5)).map(flaky, concurrency=5, policy=policy))) == [0, 1, 2, 3, 4]
    assert set(calls.values()) == {2}
    assert work.most == 2


# Errors.


class Boom(Exception):
    pass


def broken_at(place: int, seconds: float = 1.0) -> Callable[[int], Awaitable[int]]:
    async def function(item: int) -> int:
        await asyncio.sleep(seconds)
        if item == place:
            raise Boom
        return item

    return function


async def until_it_breaks(stream: Any) -> tuple[list[Any], BaseException | None]:
    """What comes, and what is raised in the end."""
    had = []
    try:
        async for item in stream:
            had.append(item)
    except Exception as error:
        return had, error
    return had, None


@pytest.mark.parametrize(
    "build",
    [
        lambda p: p.map(broken_at(3)),
        lambda p: p.map(broken_at(3), concurrency=3),
        lambda p: p.map(broken_at(3), concurrency=3).prefetch(2).map(Work(0)),
        lambda p: p.filter(broken_at(3)),
        lambda p: p.map(broken_at(3)).map(Work(), concurrency=2),
        lambda p: p.map(broken_at(3)).batch(2, within=10).flatten(),
    ],
)
def test_an_error_comes_in_its_place_and_ends_all(build: Callable[[Any], Any], nothing_left: Nothing) -> None:
    """What comes before the failed item comes out; then the error, once; the source is closed, and no task is left."""

    async def main() -> None:
        source = Counted(100)
        stream = build(Pipeline(source)).open()
        had, error = await until_it_breaks(stream)
        assert isinstance(error, Boom)
        assert had in ([0, 1, 2], [0, 10, 20], [1, 2])
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert (source.closed, source.taken < 20) == (1, True)
        nothing_left()

    run_virtual(main())


def test_an_error_is_not_held_up_by_what_comes_after_it(nothing_left: Nothing) -> None:
    """What is behind a failed item is cancelled at once; what is before it is finished."""

    async def main() -> None:
        work = Work(lambda n: 1.0 if n == 1 else 5.0 if n == 0 else 1000.0)

        async def function(item: int) -> int:
            await work(item)
            if item == 1:
                raise Boom
            return item

        source = Counted(100)
        stream = Pipeline(source).map(function, concurrency=4).open()
        had, error = await until_it_breaks(stream)
        assert (had, type(error), asyncio.get_running_loop().time()) == ([0], Boom, 5)
        assert stream.undelivered == [Undelivered("map", 2), Undelivered("map", 3)]
        assert (work.cancelled, source.taken) == (2, 4)
        nothing_left()

    run_virtual(main())


def test_unordered_an_error_comes_at_once() -> None:
    """Nothing else is waited for."""

    async def main() -> None:
        work = Work(lambda n: 1.0 if n == 1 else 1000.0)

        async def function(item: int) -> int:
            await work(item)
            raise Boom

        stream = Pipeline(range(100)).map(function, concurrency=3, ordered=False).open()
        had, error = await until_it_breaks(stream)
        assert (had, type(error), asyncio.get_running_loop().time()) == ([], Boom, 1)
        assert [item.item for item in stream.undelivered] == [0, 2]

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_source_that_breaks(concurrency: int) -> None:
    """What was taken before comes out, and then the source's own error."""

    async def main() -> None:
        source = Counted(5, breaks=Boom())
        had, error = await until_it_breaks(Pipeline(source).map(Work(), concurrency=concurrency).open())
        assert (had, error) == ([0, 10, 20, 30, 40], source.breaks)

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_failed_items_may_be_handed_over_to_a_task(concurrency: int) -> None:
    """What takes failed items may wait, as a queue's `aput` does; until it has one, that is undelivered."""

    async def main() -> None:
        failed: list[int] = []

        async def keep(item: int, _: Exception) -> None:
            await asyncio.sleep(1)
            failed.append(item)

        pipeline = Pipeline(range(6)).map(broken_at(3), concurrency=concurrency, failed=keep)
        assert await all_of(pipeline) == [0, 1, 2, 4, 5]
        assert failed == [3]

        stream = pipeline.open()
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await anext(stream)
        await stream.aclose()
        assert 3 in [each.item for each in stream.undelivered]

        async def cancelled(item: int, _: Exception) -> None:
            raise asyncio.CancelledError

        with pytest.raises(HormesisError, match="cancelled from within"):
            await all_of(Pipeline(range(6)).map(broken_at(3), concurrency=concurrency, failed=cancelled))

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_item_does_not_end_the_pipeline_unheard(concurrency: int) -> None:
    """A function that raises what ends an iteration has failed: what comes behind it is not left out."""

    async def main() -> None:
        nothing: list[int] = []
        empty = aiter(Pipeline(nothing))

        async def exhausted(item: int) -> int:
            return item if item < 2 else await anext(empty)

        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await all_of(Pipeline(range(6)).map(exhausted, concurrency=concurrency))

    run_virtual(main())


def test_an_item_is_in_one_place() -> None:
    """What a filter has failed with is raised, and is not undelivered too; what a stream holds that is flattened is."""

    async def main() -> None:
        def wanted(item: int) -> bool:
            if item == 3:
                raise Boom
            return True

        stream = Pipeline(range(6)).filter(wanted).open()
        with pytest.raises(Boom):
            async for _ in stream:
                pass
        assert stream.undelivered == []

        inner = Pipeline(range(6)).prefetch(2)
        outer: Any = Pipeline([inner]).flatten().open()
        assert await anext(outer) == 0
        await asyncio.sleep(1)
        await outer.aclose()
        assert [each.item for each in outer.undelivered] == [1, 2]

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_failed_items_may_be_handed_over(concurrency: int) -> None:
    """With a function for what has failed, the pipeline goes on without it."""

    async def main() -> None:
        failed: list[Any] = []
        pipeline = Pipeline(range(6)).map(
            broken_at(3), concurrency=concurrency, failed=lambda item, error: failed.append((item, type(error)))
        )
        assert await all_of(pipeline) == [0, 1, 2, 4, 5]
        assert failed == [(3, Boom)]

        def broken(item: int, error: Exception) -> None:
            raise KeyError(item)

        worse = Pipeline(range(6)).map(broken_at(3), concurrency=concurrency, failed=broken)
        had, error = await until_it_breaks(worse.open())
        assert (had, type(error)) == ([0, 1, 2], KeyError)

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_function_that_is_cancelled_from_within(concurrency: int) -> None:
    """It is an error of the pipeline, and not taken for a cancellation of whoever waits for its result."""

    async def cancels_itself(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)
        return item

    async def main() -> None:
        had, error = await until_it_breaks(Pipeline(range(3)).map(cancels_itself, concurrency=concurrency).open())
        assert (had, type(error)) == ([], HormesisError)
        assert "cancelled from within" in str(error)

    run_virtual(main())


def test_closing_a_source_that_does_not_like_it(nothing_left: Nothing) -> None:
    """What a source raises while it is closed comes out, and everything is closed all the same."""

    async def grumpy() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise Boom

    async def main() -> None:
        stream = Pipeline(grumpy()).map(Work(), concurrency=3).open()
        assert await anext(stream) == 10
        with pytest.raises(Boom):
            await stream.aclose()
        assert len(stream.undelivered) > 0
        nothing_left()

    run_virtual(main())


# Overflow.


def test_a_buffer_that_drops() -> None:
    """A source that can't be slowed down goes on; what is dropped is told, and memory is bounded."""

    async def main() -> None:
        bus, dropped = EventBus(), []
        source = Counted(10, 1.0)
        pipeline = Pipeline(source, name="ticks", events=bus).buffer(
            2, overflow="drop oldest", on_drop=lambda *each: dropped.append(each)
        )
        with hear(bus) as heard:
            async with pipeline.open() as stream:
                assert await anext(stream) == 0
                await asyncio.sleep(5.5)
                assert [await anext(stream), await anext(stream)] == [4, 5]
        assert dropped == [(1, "oldest"), (2, "oldest"), (3, "oldest")]
        heard.assert_happened("item_dropped", times=3, reason="oldest")

    run_virtual(main())


def test_a_buffer_at_its_end() -> None:
    """What is in it comes out before the end does."""
    assert run_virtual(all_of(Pipeline(range(3)).buffer(9, overflow="drop oldest"))) == [0, 1, 2]


def test_closing_what_has_not_begun(nothing_left: Nothing) -> None:
    """Nothing was taken, and nothing is left."""

    async def main() -> None:
        source = Counted(3)
        stream = Pipeline(source).map(Work(), concurrency=2).batch(2, within=1).open()
        await stream.aclose()
        assert (source.taken, stream.undelivered) == (0, [])
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        nothing_left()

    run_virtual(main())


def test_a_buffer_that_fails() -> None:
    """What was in it comes out, then the error; the item that found no room is undelivered."""

    async def main() -> None:
        stream = Pipeline(Counted(10, 1.0)).buffer(2, overflow="fail").open()
        assert await anext(stream) == 0
        await asyncio.sleep(10)
        had, error = await until_it_breaks(stream)
        assert (had, type(error)) == ([1, 2], QueueFull)
        assert stream.undelivered == [Undelivered("buffer", 3)]

    run_virtual(main())


def test_a_buffer_that_conflates() -> None:
    """The newest of a key is what a slow consumer gets."""

    async def main() -> None:
        pipeline = Pipeline(Counted(9, 1.0)).buffer(
            2, overflow="conflate", key=lambda item: item % 2, otherwise="drop oldest"
        )
        async with pipeline.open() as stream:
            assert await anext(stream) == 0
            await asyncio.sleep(6.5)
            assert [await anext(stream), await anext(stream)] == [5, 6]

    run_virtual(main())


def test_a_source_that_never_waits_lets_others_run() -> None:
    """Behind a buffer that drops, or a long prefetch, a source without any wait does not take the loop for itself."""

    def endless() -> Iterator[int]:
        item = 0
        while True:
            yield item
            item += 1

    async def main() -> None:
        async with Pipeline(endless()).buffer(2, overflow="drop newest").open() as stream:
            for _ in range(5):
                assert await anext(stream) >= 0
        async with Pipeline(endless()).prefetch(10_000_000).open() as stream:
            for _ in range(5):
                assert await anext(stream) >= 0

    run_virtual(main())


# Cancellation.


PIPELINES: list[Callable[[Any], Any]] = [
    lambda p: p,
    lambda p: p.map(Work(0.3)),
    lambda p: p.map(Work(0.3), concurrency=3),
    lambda p: p.map(Work(0.3), concurrency=3, ordered=False, prefetch=2),
    lambda p: p.prefetch(2).map(Work(0.3)).batch(2).flatten().map(lambda n: n, concurrency=2),
    lambda p: p.batch(3, within=0.2).map(Work(0.1)).filter(lambda batch: True).map(lambda batch: batch),
]


def numbers(items: list[Any]) -> list[int]:
    """The numbers of the source behind items at any stage."""
    found: list[int] = []
    for item in items:
        if isinstance(item, list):
            found += [n if n < 10 or n % 10 else n // 10 for n in dict.fromkeys(item)]
        else:
            found.append(item if item < 10 or item % 10 else item // 10)
    return found


@pytest.mark.parametrize("build", PIPELINES)
def test_whoever_is_cancelled_while_waiting_loses_nothing(
    build: Callable[[Any], Any], sweep: Callable[..., int], nothing_left: Nothing
) -> None:
    """Wherever a task that takes is cancelled, the next one gets what it was waiting for, and all that follows."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        source, had = Counted(7, 0.1), []
        stream = build(Pipeline(source)).open()

        async def take() -> None:
            async for item in stream:
                had.append(item)

        taker = start(take())
        await asyncio.wait([taker])
        closed = stream._closing is not None
        await take()
        await stream.aclose()
        assert sorted(numbers(had)) == list(range(7))
        assert stream.undelivered == []
        assert source.closed == 1
        assert closed or taker.cancelled()
        nothing_left()

    assert sweep(journey) >= 4


@pytest.mark.parametrize("build", PIPELINES)
def test_what_is_cancelled_knows_what_it_has_not_delivered(
    build: Callable[[Any], Any], sweep: Callable[..., int], nothing_left: Nothing
) -> None:
    """Wherever the block around a stream is cancelled, what was taken is delivered, or listed as undelivered."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        source, had = Counted(7, 0.1), []
        stream = build(Pipeline(source)).open()

        async def take() -> None:
            async with stream:
                async for item in stream:
                    had.append(item)
                    await asyncio.sleep(0.25)

        taker = start(take())
        await asyncio.wait([taker])
        rest = [item for _, item in stream.undelivered]
        assert sorted(numbers(had) + numbers(rest)) == list(range(source.taken))
        assert source.closed == (source.taken > 0) or source.closed
        assert taker.cancelled() or len(numbers(had)) == 7
        nothing_left()

    assert sweep(journey) >= 4


def test_a_timeout_around_each_item() -> None:
    """Impatience costs time, and no item."""

    async def main() -> None:
        had: list[int] = []
        impatient = 0
        async with Pipeline(Counted(5, 1.0)).map(Work(0.7)).open() as stream:
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        had.append(await anext(stream))
                except TimeoutError:
                    impatient += 1
                except StopAsyncIteration:
                    break
        assert had == [0, 10, 20, 30, 40]
        assert impatient > 5

    run_virtual(main())


def test_a_loop_that_is_left_closes_the_stream(nothing_left: Nothing) -> None:
    """Breaking out of a loop over a pipeline ends its tasks and closes its source, as with a generator."""

    async def main() -> None:
        source = Counted(100)
        async for item in Pipeline(source).map(Work(), concurrency=5):
            if item == 20:
                break
        gc.collect()
        await asyncio.sleep(1)
        assert source.closed == 1
        nothing_left()

    run_virtual(main())


def test_a_stream_that_was_left_when_its_loop_has_gone() -> None:
    """Nothing is wrong with that."""
    stream = Pipeline(range(3)).map(Work(0), concurrency=2).open()
    assert asyncio.run(anext_of(stream)) == 0
    del stream
    gc.collect()


async def anext_of(stream: Any) -> Any:
    return await anext(stream)


def test_several_take_from_one_stream(nothing_left: Nothing) -> None:
    """Each result goes to one of them, and all end when it ends, or when one of them closes it."""

    async def main() -> None:
        stream = Pipeline(Counted(20, 0.1)).map(Work(0.1), concurrency=3).open()

        async def take() -> list[int]:
            return [item async for item in stream]

        had = await asyncio.gather(*(take() for _ in range(4)))
        assert sorted(itertools.chain(*had)) == [n * 10 for n in range(20)]
        assert all(had)
        closing = Pipeline(Counted(20, 10.0)).map(Work(5), concurrency=3).open()
        takers = [asyncio.create_task(anext_of(closing)) for _ in range(3)]
        await asyncio.sleep(12)
        await closing.aclose()
        await closing.aclose()
        for done in await asyncio.gather(*takers, return_exceptions=True):
            assert isinstance(done, StopAsyncIteration | RuntimeError)
        assert closing.undelivered == [Undelivered("map", 0)]
        nothing_left()

    run_virtual(main())


def test_closing_waits_for_its_tasks_though_it_is_cancelled(nothing_left: Nothing) -> None:
    """A function that takes its time to clean up is waited for, and the cancellation comes after that."""

    async def slow_to_go(item: int) -> int:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3)
            await asyncio.sleep(2)
            raise
        return item

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream = Pipeline(range(9)).map(slow_to_go, concurrency=2).open()
        taker = asyncio.create_task(anext_of(stream))
        await asyncio.sleep(1)
        closer = asyncio.create_task(stream.aclose())
        await asyncio.sleep(1)
        closer.cancel()
        await asyncio.wait([closer, taker])
        assert closer.cancelled()
        assert loop.time() == pytest.approx(6)
        assert [item.item for item in stream.undelivered] == [0, 1]
        nothing_left()

        tasks = [asyncio.create_task(slow_to_go(n)) for n in range(2)]
        await asyncio.sleep(1)
        ending = asyncio.create_task(end(tasks))
        await asyncio.sleep(1)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert all(task.done() for task in tasks)

    run_virtual(main())


def test_the_rest_of_what_is_being_flattened() -> None:
    """Of a collection it is undelivered; a generator is closed, and has not made it."""

    async def main() -> None:
        closed = []

        def generated() -> Iterator[int]:
            try:
                yield from range(3)
            finally:
                closed.append(True)

        async with Pipeline([[1, 2, 3]]).flatten().open() as stream:
            assert await anext(stream) == 1
        assert stream.undelivered == [Undelivered("flatten", 2), Undelivered("flatten", 3)]
        async with Pipeline([generated()]).flatten().open() as stream:
            assert await anext(stream) == 0
        assert (stream.undelivered, closed) == ([], [True])
        assert await all_of(Pipeline([Counted(2), Counted(1)]).flatten()) == [0, 1, 0]
        assert await all_of(Pipeline([]).flatten()) == []

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_stage_that_closes_its_own_stream(concurrency: int, nothing_left: Nothing) -> None:
    """It would wait for itself, and is told so."""

    async def main() -> None:
        async def closes(item: int) -> int:
            await stream.aclose()
            return item

        stream = Pipeline(range(9)).map(closes, concurrency=concurrency).open()
        had, error = await until_it_breaks(stream)
        assert (had, type(error)) == ([], ConfigurationError)
        nothing_left()

    run_virtual(main())


def test_what_a_source_has_not_delivered(nothing_left: Nothing) -> None:
    """A pipeline of a pipeline, or of what a publisher gives, knows what was further up."""

    async def main() -> None:
        source = Counted(100)
        inner = Pipeline(source).map(Work(), concurrency=3)
        async with Pipeline(inner).prefetch(2).open() as stream:
            assert await anext(stream) == 0
            await asyncio.sleep(100)
        assert stream.undelivered == [
            *(Undelivered("prefetch", item) for item in (10, 20)),
            *(Undelivered("source", item) for item in (30, 40, 50)),
        ]
        queue = Queue[int](9, overflow="block")
        for item in range(9):
            queue.put_nowait(item)
        async with Pipeline(iterate(publisher_of(queue), prefetch=2)).open() as stream:
            assert await anext(stream) == 0
            await asyncio.sleep(100)
        assert stream.undelivered == [Undelivered("source", 1)]
        await asyncio.sleep(1)
        assert queue.get_nowait() == 2
        nothing_left()

    run_virtual(main())


def test_a_size_that_cannot_be_told() -> None:
    """The item comes out all the same, and then the error."""

    async def main() -> None:
        had, error = await until_it_breaks(Pipeline([b"one", 2, b"three"]).prefetch(5, max_bytes=10).open())
        assert (had, type(error)) == ([b"one", 2], ConfigurationError)

    run_virtual(main())


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="loops begin tasks at once from Python 3.12 on")
@pytest.mark.parametrize("concurrency", [1, 3])
def test_tasks_that_begin_at_once(concurrency: int) -> None:
    """A loop with eager tasks changes nothing."""

    def boom(item: int) -> int:
        if item == 3:
            raise Boom
        return item

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        had, error = await until_it_breaks(Pipeline(range(9)).map(boom, concurrency=concurrency).open())
        assert (had, type(error)) == ([0, 1, 2], Boom)
        assert [item async for item in iterate(publisher_of(range(5)), prefetch=2)] == list(range(5))

    run_virtual(main())


def test_an_interrupt_in_a_function_ends_the_program() -> None:
    """Ctrl-C is nobody's result."""

    def interrupted(item: int) -> int:
        raise KeyboardInterrupt

    for concurrency in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(Pipeline([1]).map(interrupted, concurrency=concurrency).run())
    gc.collect()


# What can't be meant.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: Pipeline(3), "source is 3; it takes something to iterate over"),
        (lambda p: p.map(str, concurrency=0), "concurrency is 0; it takes a whole number from 1"),
        (lambda p: p.map(str, prefetch=-1), "prefetch is -1"),
        (lambda p: p.map(str, ordered="yes"), "ordered is 'yes'"),
        (lambda p: p.batch(0), "size is 0"),
        (lambda p: p.batch(2, within=0), "within is 0"),
        (lambda p: p.prefetch(0), "items is 0"),
        (lambda p: p.prefetch(1, max_bytes="x"), "max_bytes is 'x'"),
        (lambda p: p.prefetch(1, size=len), "size is set and max_bytes is not"),
        (lambda p: p.buffer(1, overflow="spill"), "overflow is 'spill'"),
        (lambda p: p.buffer(1, overflow="conflate", key=str, otherwise="block"), "otherwise is 'block'"),
    ],
)
def test_settings_that_cannot_be_meant(build: Callable[[Any], Any], message: str) -> None:
    """They are told where the pipeline is described, not when it runs."""
    with pytest.raises(ConfigurationError) as caught:
        build(Pipeline([1]))
    assert message in str(caught.value)


def test_nothing_is_logged_by_a_pipeline_that_ends_well(caplog: pytest.LogCaptureFixture) -> None:
    """No exception is left that nobody has seen."""
    with caplog.at_level(logging.WARNING, "asyncio"):
        run_virtual(all_of(Pipeline(range(10)).map(Work(), concurrency=3).batch(2, within=5)))
        gc.collect()
    assert caplog.records == []

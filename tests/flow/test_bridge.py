"""Between iterators, queues and publishers: demand as it is needed, and nothing lost on the way."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hormesis.errors import ConfigurationError, HormesisError
from hormesis.flow import Pipeline, Queue, RuleBroken, Subscriber, Through, feed, iterate, publisher_of
from hormesis.testing import run_virtual
from hormesis.testing.reactive import Probe, Tap

Nothing = Callable[[], None]


class ByHand:
    """A publisher whose signals the test gives."""

    def __init__(self) -> None:
        self.tap = Tap()

    def subscribe(self, subscriber: Subscriber[Any]) -> None:
        self.subscriber = subscriber
        subscriber.on_subscribe(self.tap)


async def ticking(items: int, seconds: float = 1.0) -> AsyncIterator[int]:
    for item in range(items):
        await asyncio.sleep(seconds)
        yield item


# Publisher → iterator.


def test_demand_is_asked_for_several_at_a_time() -> None:
    """The prefetch first, then three quarters of it whenever those were taken."""

    async def main() -> None:
        publisher = ByHand()
        received = iterate(publisher, prefetch=8)
        first = asyncio.create_task(anext_of(received))
        await asyncio.sleep(0)
        assert publisher.tap.requested == [8]
        for item in range(8):
            publisher.subscriber.on_next(item)
        assert await first == 0
        for item in range(1, 6):
            assert await anext(received) == item
            assert publisher.tap.requested == ([8] if item < 5 else [8, 6])
        await received.aclose()
        assert received.undelivered == [6, 7]
        assert publisher.tap.cancelled == 1

    run_virtual(main())


async def anext_of(stream: Any) -> Any:
    return await anext(stream)


def test_a_mark_of_ones_own() -> None:
    """More is asked for when no more than `low` are to come."""

    async def main() -> None:
        publisher = ByHand()
        received = iterate(publisher, prefetch=4, low=3)
        first = asyncio.create_task(anext_of(received))
        await asyncio.sleep(0)
        publisher.subscriber.on_next(1)
        await first
        assert publisher.tap.requested == [4, 1]
        await received.aclose()

    run_virtual(main())


def test_nothing_is_subscribed_to_before_it_is_wanted() -> None:
    """Making an iterator asks for nothing, and one that is closed before it began never subscribes."""

    async def main() -> None:
        publisher = ByHand()
        received = iterate(publisher)
        await received.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(received)
        assert publisher.tap.calls == 0

    run_virtual(main())


def test_the_publishers_error_comes_after_its_items() -> None:
    """What has arrived is had first; the error is raised once."""

    async def main() -> None:
        publisher = ByHand()
        received = iterate(publisher)
        first = asyncio.create_task(anext_of(received))
        await asyncio.sleep(0)
        for item in (1, 2):
            publisher.subscriber.on_next(item)
        publisher.subscriber.on_error(KeyError("gone"))
        publisher.subscriber.on_error(KeyError("again"))
        publisher.subscriber.on_next(3)
        assert (await first, await anext(received)) == (1, 2)
        with pytest.raises(KeyError, match="gone"):
            await anext(received)
        with pytest.raises(StopAsyncIteration):
            await anext(received)

    run_virtual(main())


def test_an_error_that_looks_like_the_end() -> None:
    """A publisher that fails with what ends an iteration has failed all the same."""

    async def main() -> None:
        publisher = ByHand()
        iterator = iterate(publisher)
        waiting = asyncio.ensure_future(anext(iterator))
        await asyncio.sleep(0)
        publisher.subscriber.on_error(StopAsyncIteration())
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await waiting

    run_virtual(main())


def test_a_publisher_that_gives_more_than_was_asked_for() -> None:
    """It is cancelled, and the iterator raises what rule it has broken; memory stays bounded."""

    async def main() -> None:
        publisher = ByHand()
        received = iterate(publisher, prefetch=2)
        first = asyncio.create_task(anext_of(received))
        await asyncio.sleep(0)
        for item in range(100):
            publisher.subscriber.on_next(item)
        assert (await first, await anext(received)) == (0, 1)
        with pytest.raises(RuleBroken, match=r"rule 1\.1 of Reactive Streams"):
            await anext(received)
        assert publisher.tap.cancelled == 1

    run_virtual(main())


def test_an_iterator_that_is_forgotten_cancels() -> None:
    """Leaving a loop over it is enough."""

    async def main() -> None:
        closed = asyncio.Event()

        async def source() -> AsyncIterator[int]:
            try:
                for item in range(1000):
                    yield item
            finally:
                closed.set()

        async for item in iterate(publisher_of(source())):
            if item == 3:
                break
        gc.collect()
        await closed.wait()

    run_virtual(main())


def test_an_iterator_that_is_forgotten_late() -> None:
    """Also when its loop has gone, or never was."""
    publisher = ByHand()

    async def main() -> None:
        received = iterate(publisher)
        taking = asyncio.create_task(anext_of(received))
        await asyncio.sleep(0)
        publisher.subscriber.on_next(1)
        await taking
        left.append(received)

    left: list[Any] = []
    asyncio.run(main())
    left.clear()
    gc.collect()
    assert publisher.tap.cancelled == 1
    before = Through[int, int](lambda items: items)
    tap = Tap()
    before.on_subscribe(tap)
    del before
    gc.collect()
    assert tap.cancelled == 1


def test_whoever_is_cancelled_while_waiting_loses_nothing(sweep: Callable[..., int], nothing_left: Nothing) -> None:
    """Wherever a task that iterates is cancelled, the next one gets all that is to come."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        had: list[int] = []
        received = iterate(publisher_of(ticking(6)), prefetch=2)

        async def take() -> None:
            async for item in received:
                had.append(item)

        taker = start(take())
        await asyncio.wait([taker])
        await take()
        assert had == list(range(6))
        await asyncio.sleep(1)
        nothing_left()

    assert sweep(journey) >= 5


def test_nothing_is_lost_between_a_queue_and_who_stops(sweep: Callable[..., int], nothing_left: Nothing) -> None:
    """Wherever a block over the publisher of a queue is cancelled, each item was had, is undelivered, or put back."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        queue, had = Queue[int](10, overflow="block"), []
        received = iterate(publisher_of(queue), prefetch=2)

        async def take() -> None:
            async with received:
                async for item in received:
                    had.append(item)
                    await asyncio.sleep(0.7)

        taker = start(take())
        for item in range(8):
            await asyncio.sleep(0.5)
            queue.put_nowait(item)
        queue.close()
        await asyncio.wait([taker])
        await asyncio.sleep(1)
        assert had + received.undelivered + list(queue) == list(range(8))
        nothing_left()

    assert sweep(journey) >= 8


# Iterator → publisher.


def test_an_iterator_can_be_had_once() -> None:
    """A second subscriber of an iterator is refused by signals; one of a collection has its own iteration."""

    async def main() -> None:
        publisher = publisher_of(iter("abc"))
        first, second = Probe(at_first=9), Probe(at_first=9)
        publisher.subscribe(first)
        publisher.subscribe(second)
        assert second.signals == ["on_subscribe", "on_error"]
        assert isinstance(second.error, HormesisError)
        assert second.subscription is not None
        second.subscription.request(1)
        second.subscription.cancel()
        await asyncio.sleep(1)
        assert first.items == ["a", "b", "c"]

    run_virtual(main())


def test_subscribing_without_a_loop() -> None:
    """It is refused by signals, as everything is."""
    probe = Probe(at_first=1)
    publisher_of("abc").subscribe(probe)
    assert probe.signals == ["on_subscribe", "on_error"]
    assert isinstance(probe.error, ConfigurationError)


@pytest.mark.parametrize(
    "source", [lambda: 3, lambda: [1, None], lambda: [1, None][::-1], lambda: (1 // n for n in (1, 0))]
)
def test_a_source_that_fails(source: Callable[[], Any]) -> None:
    """What can't be iterated over, has None for an item, or raises, is an error of the stream."""

    async def main() -> None:
        probe = Probe(at_first=9)
        publisher_of(source).subscribe(probe)
        await asyncio.sleep(1)
        assert probe.signals[-1] == "on_error"

    run_virtual(main())


def test_what_was_taken_ahead_goes_back() -> None:
    """One item is taken ahead of demand; a subscriber that cancels leaves it to `undelivered`."""

    async def main() -> None:
        left: list[int] = []
        probe = Probe(at_first=2)
        publisher_of(range(9), undelivered=left.append).subscribe(probe)
        await asyncio.sleep(1)
        probe.cancel()
        await asyncio.sleep(1)
        assert (probe.items, left) == ([0, 1], [2])

    run_virtual(main())


def test_giving_back_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is nobody's error."""

    def broken(item: int) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        probe = Probe(at_first=2)
        publisher_of(range(9), undelivered=broken).subscribe(probe)
        await asyncio.sleep(1)
        probe.cancel()
        await asyncio.sleep(1)

    with caplog.at_level(logging.ERROR, "hormesis.flow"):
        run_virtual(main())
    assert "raised" in caplog.text


def test_a_subscriber_that_raises_has_cancelled() -> None:
    """Its error goes where the loop tells errors (rule 2.13), and the source is closed."""

    class Raising(Probe):
        def on_next(self, item: Any) -> None:
            super().on_next(item)
            raise ZeroDivisionError

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        probe = Raising(at_first=9)
        publisher_of(range(9)).subscribe(probe)
        await asyncio.sleep(1)
        assert (probe.items, probe.has_ended()) == ([0], False)
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        assert "rule 2.13" in told[0]["message"]

    run_virtual(main())


def test_a_source_that_does_not_like_being_closed() -> None:
    """What it raises then goes where the loop tells errors."""

    async def grumpy() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise ZeroDivisionError

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        probe = Probe(at_first=3, cancel_at=2)
        publisher_of(grumpy()).subscribe(probe)
        await asyncio.sleep(1)
        assert [type(each["exception"]) for each in told] == [ZeroDivisionError]

    run_virtual(main())


def test_requests_and_cancel_from_threads() -> None:
    """Both may come from any thread, also a bad request, and once the loop has gone."""

    async def main() -> Probe:
        probe, bad = Probe(), Probe(at_first=1)
        publisher_of(ticking(100, 0.001)).subscribe(probe)
        publisher_of(ticking(100, 3600)).subscribe(bad)
        await asyncio.to_thread(bad.request, 0)
        await asyncio.gather(*(asyncio.to_thread(probe.request, 1) for _ in range(10)))
        async with asyncio.timeout(20):
            while len(probe.items) < 10 or not bad.has_ended():  # noqa: ASYNC110  nobody else could tell
                await asyncio.sleep(0.001)
        assert isinstance(bad.error, RuleBroken)
        await asyncio.to_thread(probe.cancel)
        await asyncio.sleep(0.01)
        assert probe.items == list(range(10))
        left = Probe(at_first=1)
        publisher_of(ticking(100, 3600)).subscribe(left)
        return left

    left = asyncio.run(main())
    assert left.signals == ["on_subscribe", "on_error"]
    left.request(1)
    left.cancel()


def test_cancelling_after_the_loop_was_closed() -> None:
    """A loop that was closed under its streams lets subscribers go."""
    loop = asyncio.new_event_loop()
    probe = Probe(at_first=1)

    async def main() -> None:
        publisher_of(ticking(100, 3600)).subscribe(probe)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    pump: Any = probe.subscription
    loop.close()
    probe.request(1)
    probe.cancel()
    assert (probe.signals, pump._subscriber) == (["on_subscribe"], None)
    pump._pump._log_destroy_pending = False
    pump._pump.get_coro().close()


def test_the_end_of_a_loop_ends_its_streams() -> None:
    """Subscribers are told when the loop of their publisher ends."""

    async def main() -> Probe:
        probe = Probe(at_first=1)
        publisher_of(ticking(100, 3600)).subscribe(probe)
        await asyncio.sleep(0.01)
        return probe

    probe = asyncio.run(main())
    assert probe.signals == ["on_subscribe", "on_error"]
    assert "cancelled by its loop" in str(probe.error)


def test_a_source_without_waits_lets_others_run() -> None:
    """An endless source and a boundless demand do not take the loop for themselves."""

    def endless() -> Any:
        while True:
            yield 1

    async def main() -> None:
        probe = Probe(at_first=2**63 - 1)
        publisher_of(endless()).subscribe(probe)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        probe.cancel()
        assert 0 < len(probe.items) < 100

    asyncio.run(main())


# Publisher → queue.


def test_feeding_a_queue() -> None:
    """A queue that blocks slows the publisher down; at the end it is closed."""

    async def main() -> None:
        taken = 0

        def source() -> Any:
            nonlocal taken
            for item in range(50):
                taken = item + 1
                yield item

        queue = Queue[int](3, overflow="block")
        feeding = asyncio.create_task(feed(publisher_of(source()), queue, prefetch=2))
        await asyncio.sleep(10)
        assert taken <= 3 + 1 + 2 + 1
        assert [item async for item in queue] == list(range(50))
        await feeding

    run_virtual(main())


def test_feeding_from_a_publisher_that_fails() -> None:
    """Its error comes out; the queue is closed, unless others feed it as well."""

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise KeyError

    async def main() -> None:
        queue = Queue[int](3, overflow="block")
        with pytest.raises(KeyError):
            await feed(publisher_of(failing()), queue, close=False)
        assert not queue.closed
        with pytest.raises(KeyError):
            await feed(publisher_of(failing()), queue)
        assert [item async for item in queue] == [1, 1]

    run_virtual(main())


def test_feeding_that_is_cancelled_loses_nothing(sweep: Callable[..., int], nothing_left: Nothing) -> None:
    """Wherever it is cancelled, each item is in the queue, is told as undelivered, or was not taken."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        source, queue = Queue[int](20, overflow="block"), Queue[int](2, overflow="block")
        for item in range(9):
            source.put_nowait(item)
        source.close()
        had: list[int] = []
        undelivered: list[int] = []

        async def take() -> None:
            async for item in queue:
                had.append(item)
                await asyncio.sleep(1)

        feeding = start(feed(publisher_of(source), queue, prefetch=2, undelivered=undelivered.append))
        taking = asyncio.create_task(take())
        await asyncio.wait([feeding, taking])
        assert had + undelivered + list(source) == list(range(9))
        await asyncio.sleep(1)
        nothing_left()

    assert sweep(journey) >= 5


# Processors.


def test_demand_goes_through_a_processor(nothing_left: Nothing) -> None:
    """Nothing is taken before the subscriber asks, and no more than it asks for and the prefetches."""

    async def main() -> None:
        taken = 0

        async def source() -> AsyncIterator[int]:
            nonlocal taken
            for item in range(1000):
                taken = item + 1
                yield item

        async def double(number: int) -> int:
            return 2 * number

        processor = Through[int, int](lambda items: Pipeline(items).map(double, concurrency=2), prefetch=4)
        publisher_of(source()).subscribe(processor)
        probe = Probe()
        processor.subscribe(probe)
        await asyncio.sleep(1)
        assert taken == 0
        probe.request(3)
        await asyncio.sleep(1)
        assert probe.items == [0, 2, 4]
        assert taken <= 3 + 1 + 2 + 4 + 1
        probe.cancel()
        await asyncio.sleep(1)
        nothing_left()

    run_virtual(main())


def test_cancelling_goes_through_a_processor() -> None:
    """A subscriber that cancels cancels what is before the processor, also before it has asked for anything."""

    async def main() -> None:
        for requested in (0, 1):
            publisher = ByHand()
            processor = Through[int, int](lambda items: items)
            publisher.subscribe(processor)
            probe = Probe(at_first=requested)
            processor.subscribe(probe)
            await asyncio.sleep(1)
            probe.cancel()
            await asyncio.sleep(1)
            assert publisher.tap.cancelled == 1

    run_virtual(main())


def test_a_processor_before_its_publisher() -> None:
    """Which side is subscribed first does not matter."""

    async def main() -> None:
        processor = Through[int, int](lambda items: items)
        probe = Probe(at_first=9)
        processor.subscribe(probe)
        await asyncio.sleep(1)
        publisher_of(range(3)).subscribe(processor)
        await asyncio.sleep(1)
        assert (probe.items, probe.signals[-1]) == ([0, 1, 2], "on_complete")

    run_virtual(main())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: publisher_of(3), "source is 3; it takes something to iterate over"),  # type: ignore[arg-type]
        (lambda: iterate([1]), r"publisher is \[1\]; it takes something to subscribe to"),  # type: ignore[arg-type]
        (lambda: iterate(publisher_of([1]), prefetch=0), "prefetch is 0"),
        (lambda: iterate(publisher_of([1]), prefetch=4, low=4), "low is 4; it takes a whole number from 0 to 3"),
        (lambda: Through(lambda items: items, prefetch=-1), "prefetch is -1"),
    ],
)
def test_settings_that_cannot_be_meant(make: Callable[[], Any], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=message):
        make()

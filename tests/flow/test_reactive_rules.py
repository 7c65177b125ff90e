"""The rules of Reactive Streams, one test for each, held against every publisher, subscriber and processor of ours.

Most are verified by the kit, which sees an object from outside alone. Of six rules nothing can be seen so, since they
are about what goes on inside (2.2, 2.11), about who calls (3.1), or give leave for something (3.10, 3.11, 3.14). Their
tests show with our own what can be shown: how it keeps the first three, and that it makes use of the others' leave, or
gets along with who does.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hormesis.flow import Broadcast, Pipeline, Publisher, Queue, Subscriber, Through, feed, iterate, publisher_of
from hormesis.testing import run_virtual
from hormesis.testing.reactive import (
    RULES,
    Probe,
    SubscriberUnderTest,
    Tap,
    verify_processor,
    verify_publisher,
    verify_subscriber,
)


async def numbers(items: int) -> AsyncIterator[int]:
    for number in range(items):
        if number % 7 == 0:
            await asyncio.sleep(0)
        yield number


async def broken(items: int = 2) -> AsyncIterator[int]:
    async for number in numbers(items):
        yield number
    raise ConnectionResetError


async def same(number: int) -> int:
    await asyncio.sleep(0)
    return number


class Fed:
    """A broadcast that has something to say to whoever subscribes."""

    def __init__(self, items: int, error: Exception | None = None) -> None:
        self.items, self.error = items, error
        self.broadcast = Broadcast[int](1000, slow="disconnect")

    def subscribe(self, subscriber: Subscriber[int]) -> None:
        self.broadcast.subscribe(subscriber)
        for number in range(self.items):
            self.broadcast.publish(number)
        # The others who subscribe to the same one find it ended.
        self.items = 0
        if self.error is None:
            self.broadcast.complete()
        else:
            self.broadcast.fail(self.error)


def of_queue(items: int) -> Publisher[int]:
    queue = Queue[int](1000, overflow="fail")
    for number in range(items):
        queue.put_nowait(number)
    queue.close()
    return publisher_of(queue)


def of_processor(source: Publisher[int]) -> Publisher[int]:
    processor = Through[int, int](lambda items: Pipeline(items).map(same, concurrency=2))
    source.subscribe(processor)
    return processor


PUBLISHERS: dict[str, tuple[Callable[[int], Publisher[int]], Callable[[], Publisher[int]]]] = {
    "a collection": (
        lambda items: publisher_of(range(items)),
        lambda: publisher_of(map(int, ["1", "x"])),
    ),
    "generators": (lambda items: publisher_of(lambda: numbers(items)), lambda: publisher_of(broken)),
    "a generator": (lambda items: publisher_of(numbers(items)), lambda: publisher_of(broken())),
    "a queue": (of_queue, lambda: publisher_of(lambda: broken(0))),
    "a pipeline": (
        lambda items: publisher_of(Pipeline(range(items)).map(same, concurrency=3)),
        lambda: publisher_of(Pipeline(broken()).map(same, concurrency=3)),
    ),
    "a broadcast": (Fed, lambda: Fed(2, ConnectionResetError())),
    "a processor": (
        lambda items: of_processor(publisher_of(numbers(items))),
        lambda: of_processor(publisher_of(broken())),
    ),
}


async def until(condition: Callable[..., object], *args: object) -> None:
    for _ in range(10_000):
        if condition(*args):
            return
        await asyncio.sleep(0.001)
    raise AssertionError(condition)


async def stopped(subject: SubscriberUnderTest[Any]) -> None:
    assert subject.stop is not None
    stop = subject.stop()
    if inspect.isawaitable(stop):
        await stop


class Publishers:
    """One kind of publisher."""

    def __init__(self, name: str) -> None:
        self.make, self.failing = PUBLISHERS[name]

    def keeps(self, rule: str) -> None:
        assert run_virtual(verify_publisher(self.make, failing=self.failing, only=[rule])) == [rule]


@pytest.fixture(params=PUBLISHERS)
def publisher(request: pytest.FixtureRequest) -> Publishers:
    """Each kind of publisher."""
    return Publishers(request.param)


class Handed:
    """Hands its subscriber over to the test."""

    def subscribe(self, subscriber: Subscriber[int]) -> None:
        self.subscriber = subscriber


async def consume(items: AsyncIterator[int]) -> None:
    with contextlib.suppress(RuntimeError):
        async for _ in items:
            await asyncio.sleep(0)


def stopping(*tasks: asyncio.Task[Any]) -> Callable[[], Any]:
    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return stop


def of_iterator() -> SubscriberUnderTest[int]:
    received = iterate(Handed(), prefetch=4)

    async def run() -> None:
        async with received:
            await consume(received)

    return SubscriberUnderTest(received._inlet, stopping(asyncio.create_task(run())))


async def of_feed() -> SubscriberUnderTest[int]:
    queue = Queue[int](3, overflow="block")
    handed = Handed()

    async def run() -> None:
        with contextlib.suppress(RuntimeError):
            await feed(handed, queue, prefetch=2)

    tasks = asyncio.create_task(run()), asyncio.create_task(consume(queue))
    await asyncio.sleep(0)
    return SubscriberUnderTest(handed.subscriber, stopping(*tasks))


def of_processors_input() -> SubscriberUnderTest[int]:
    processor = Through[int, int](numbers_of)
    probe = Probe(at_first=1000)
    processor.subscribe(probe)
    return SubscriberUnderTest(processor, probe.cancel)


async def numbers_of(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield item


SUBSCRIBERS: dict[str, Callable[[], Any]] = {
    "an iterator": of_iterator,
    "a queue": of_feed,
    "a processor": of_processors_input,
}


class Subscribers:
    """One kind of subscriber."""

    def __init__(self, name: str) -> None:
        self.make = SUBSCRIBERS[name]

    def keeps(self, rule: str) -> None:
        async def main() -> list[str]:
            return await verify_subscriber(self.make, only=[rule])

        assert run_virtual(main()) == [rule]

    async def subscribed(self, tap: Tap) -> SubscriberUnderTest[int]:
        """A new one that has this subscription, and has asked for items."""
        subject: Any = self.make()
        made: SubscriberUnderTest[int] = await subject if inspect.isawaitable(subject) else subject
        made.subscriber.on_subscribe(tap)
        await until(tap.was_asked, 1)
        return made


@pytest.fixture(params=SUBSCRIBERS)
def subscriber(request: pytest.FixtureRequest) -> Subscribers:
    """Each kind of subscriber."""
    return Subscribers(request.param)


async def by_iterating(publisher: Publisher[Any]) -> list[Any]:
    return [item async for item in iterate(publisher, prefetch=5)]


async def by_queue(publisher: Publisher[Any]) -> list[Any]:
    queue = Queue[Any](3, overflow="block")
    both = await asyncio.gather(by_iterating(publisher_of(queue)), feed(publisher, queue, prefetch=5))
    return both[0]


async def by_processor(publisher: Publisher[Any]) -> list[Any]:
    processor = Through[Any, Any](numbers_of, prefetch=5)
    publisher.subscribe(processor)
    return await by_iterating(processor)


@pytest.fixture(params=[by_iterating, by_queue, by_processor])
def received(request: pytest.FixtureRequest) -> Callable[[Publisher[Any]], Any]:
    """Each way to have all that a publisher gives."""
    return request.param  # type: ignore[no-any-return]


class AtOnce:
    """A publisher that gives its items, and its last signal, within request."""

    def __init__(self, items: int, error: Exception | None = None) -> None:
        self.left, self.error = list(range(items)), error

    def subscribe(self, subscriber: Subscriber[int]) -> None:
        self.subscriber = subscriber
        subscriber.on_subscribe(self)

    def request(self, n: int) -> None:
        for item in self.left[:n]:
            self.subscriber.on_next(item)
        asked, self.left = self.left, self.left[n:]
        if self.left or not asked:
            return
        if self.error is None:
            self.subscriber.on_complete()
        else:
            self.subscriber.on_error(self.error)

    def cancel(self) -> None:
        self.left = []


class FromAThread:
    """A publisher that gives things within a thread of its own, each as soon as it has written to it."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.asked = threading.Semaphore(0)

    def subscribe(self, subscriber: Subscriber[dict[str, int]]) -> None:
        self.thread = threading.Thread(target=self.give, args=[subscriber], daemon=True)
        subscriber.on_subscribe(self)
        self.thread.start()

    def give(self, subscriber: Subscriber[dict[str, int]]) -> None:
        for number in range(self.items):
            self.asked.acquire(timeout=10)
            item = {"number": -1}
            item["number"] = number
            subscriber.on_next(item)
        subscriber.on_complete()

    def request(self, n: int) -> None:
        self.asked.release(n)

    def cancel(self) -> None:
        self.asked.release(self.items)


class NotesCallers(Tap):
    """A subscription that notes in which thread, and within which signal, it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.signalling: int | None = None
        self.callers: list[tuple[int, bool]] = []

    def request(self, n: int, /) -> None:
        self.callers.append((threading.get_ident(), threading.get_ident() == self.signalling))
        super().request(n)

    def cancel(self) -> None:
        self.callers.append((threading.get_ident(), threading.get_ident() == self.signalling))
        super().cancel()


def test_rule_1_01_never_more_items_than_requested(publisher: Publishers) -> None:
    """What a publisher has given never exceeds what was requested."""
    publisher.keeps("1.1")


def test_rule_1_02_fewer_items_and_then_the_end(publisher: Publishers) -> None:
    """A publisher may give fewer items than were requested, and then ends."""
    publisher.keeps("1.2")


def test_rule_1_03_signals_one_at_a_time(publisher: Publishers) -> None:
    """Signals are serial, also when several threads request at once."""
    publisher.keeps("1.3")


def test_rule_1_04_a_failure_is_told(publisher: Publishers) -> None:
    """A publisher that fails ends by on_error, once."""
    publisher.keeps("1.4")


def test_rule_1_05_a_good_end_is_told(publisher: Publishers) -> None:
    """A finite stream ends by on_complete, also when exactly its items were requested."""
    publisher.keeps("1.5")


def test_rule_1_06_the_end_counts_as_cancelled(publisher: Publishers) -> None:
    """After the last signal the subscription is as good as cancelled."""
    publisher.keeps("1.6")


def test_rule_1_07_nothing_after_the_end(publisher: Publishers) -> None:
    """There is one last signal, and none after it."""
    publisher.keeps("1.7")


def test_rule_1_08_a_cancelled_stream_stops(publisher: Publishers) -> None:
    """Who cancels within a signal gets nothing more in the end."""
    publisher.keeps("1.8")


def test_rule_1_09_on_subscribe_comes_first(publisher: Publishers) -> None:
    """Subscribe gives on_subscribe before anything else, and raises for None alone."""
    publisher.keeps("1.9")


def test_rule_1_10_subscribed_to_again(publisher: Publishers) -> None:
    """Subscribe may be called as often as wanted, with another subscriber each time."""
    publisher.keeps("1.10")


def test_rule_1_11_several_subscribers(publisher: Publishers) -> None:
    """Each of several subscribers is served or refused by signals of its own."""
    publisher.keeps("1.11")


def test_rule_2_01_demand_by_request(subscriber: Subscribers) -> None:
    """A subscriber asks for items by request, for at least one at a time, and goes on asking."""
    subscriber.keeps("2.1")


def test_rule_2_02_a_busy_owner_holds_nobody_up(subscriber: Subscribers) -> None:
    """Signals return at once, while the loop that is to do something with the items stands still."""

    async def main() -> None:
        tap = Tap()
        subject = await subscriber.subscribed(tap)

        def give() -> None:
            for number in range(sum(tap.requested)):
                subject.subscriber.on_next(subject.item(number))
            subject.subscriber.on_complete()

        publisher = threading.Thread(target=give, daemon=True)
        publisher.start()
        publisher.join(10)
        assert not publisher.is_alive()
        await stopped(subject)

    run_virtual(main())


def test_rule_2_03_the_end_calls_nothing(subscriber: Subscribers) -> None:
    """on_complete and on_error call nothing of the subscription."""
    subscriber.keeps("2.3")


def test_rule_2_04_the_end_counts_as_cancelled(subscriber: Subscribers) -> None:
    """After the last signal a subscriber asks for nothing."""
    subscriber.keeps("2.4")


def test_rule_2_05_a_second_subscription(subscriber: Subscribers) -> None:
    """A second subscription is cancelled, and the first goes on."""
    subscriber.keeps("2.5")


def test_rule_2_06_cancels_what_it_does_not_need(subscriber: Subscribers) -> None:
    """A subscriber that needs no more items cancels."""
    subscriber.keeps("2.6")


def test_rule_2_07_calls_one_at_a_time(subscriber: Subscribers) -> None:
    """Request and cancel are called one at a time."""
    subscriber.keeps("2.7")


def test_rule_2_08_items_after_cancel(subscriber: Subscribers) -> None:
    """Items that come after cancel do no harm."""
    subscriber.keeps("2.8")


def test_rule_2_09_completion_at_any_time(subscriber: Subscribers) -> None:
    """on_complete is taken without any request before it."""
    subscriber.keeps("2.9")


def test_rule_2_10_failure_at_any_time(subscriber: Subscribers) -> None:
    """on_error is taken without any request before it."""
    subscriber.keeps("2.10")


def test_rule_2_11_signals_before_what_is_done_with_them(received: Callable[[Publisher[Any]], Any]) -> None:
    """What another thread gives comes in its order, with all that was written to it before."""

    async def main() -> None:
        publisher = FromAThread(200)
        assert await received(publisher) == [{"number": number} for number in range(200)]
        publisher.thread.join(10)

    asyncio.run(main())


def test_rule_2_12_on_subscribe_once(publisher: Publishers) -> None:
    """A subscriber gets on_subscribe at most once."""
    publisher.keeps("2.12")


def test_rule_2_13_signals_return(subscriber: Subscribers) -> None:
    """Signals return, and raise a TypeError for None alone."""
    subscriber.keeps("2.13")


def test_rule_3_01_who_requests_and_cancels(subscriber: Subscribers) -> None:
    """A subscriber calls its subscription within its signals, whoever gives them, or in its owner's thread."""

    async def main() -> None:
        tap = NotesCallers()
        subject = await subscriber.subscribed(tap)

        def give(number: int) -> None:
            tap.signalling = threading.get_ident()
            subject.subscriber.on_next(subject.item(number))
            tap.signalling = None

        for number in range(40):
            await until(tap.was_asked, number + 1)
            await asyncio.to_thread(give, number)
        await stopped(subject)
        await until(tap.was_cancelled)
        assert len(tap.callers) > 2
        assert all(thread == threading.get_ident() or within for thread, within in tap.callers)

    run_virtual(main())


def test_rule_3_02_requests_within_signals(publisher: Publishers) -> None:
    """Request may be called within on_subscribe and within on_next."""
    publisher.keeps("3.2")


def test_rule_3_03_bounded_recursion(publisher: Publishers) -> None:
    """Requests within on_next do not go ever deeper into the stack."""
    publisher.keeps("3.3")


def test_rule_3_04_request_returns_soon(publisher: Publishers) -> None:
    """Request does not hold its caller up."""
    publisher.keeps("3.4")


def test_rule_3_05_cancel_from_any_thread(publisher: Publishers) -> None:
    """Cancel returns soon, may be called again, and from any thread."""
    publisher.keeps("3.5")


def test_rule_3_06_request_after_cancel(publisher: Publishers) -> None:
    """After cancel, request does nothing, be it a bad one."""
    publisher.keeps("3.6")


def test_rule_3_07_cancel_after_cancel(publisher: Publishers) -> None:
    """After cancel, cancel does nothing."""
    publisher.keeps("3.7")


def test_rule_3_08_requests_add_up(publisher: Publishers) -> None:
    """Each request adds to those before it."""
    publisher.keeps("3.8")


def test_rule_3_09_bad_requests(publisher: Publishers) -> None:
    """A request of none or fewer brings on_error with a ValueError that names the rule."""
    publisher.keeps("3.9")


def test_rule_3_10_items_within_request(received: Callable[[Publisher[Any]], Any]) -> None:
    """Our subscribers take items that come before their request returns, and a broadcast of ours gives them so."""
    assert run_virtual(received(AtOnce(50))) == list(range(50))
    assert run_virtual(received(Fed(50))) == list(range(50))
    probe = Probe()
    Fed(3).subscribe(probe)
    probe.request(2)
    assert probe.items == [0, 1]


def test_rule_3_11_the_end_within_request(received: Callable[[Publisher[Any]], Any]) -> None:
    """Our subscribers take an end that comes before their request returns, and a broadcast of ours gives it so."""
    assert run_virtual(received(AtOnce(3))) == [0, 1, 2]
    with pytest.raises(ConnectionResetError):
        run_virtual(received(AtOnce(3, ConnectionResetError())))
    for error, last in ((None, "on_complete"), (ConnectionResetError(), "on_error")):
        probe = Probe()
        Fed(1, error).subscribe(probe)
        probe.request(1)
        assert probe.signals == ["on_subscribe", "on_next", last]


def test_rule_3_12_cancel_stops_the_stream(publisher: Publishers) -> None:
    """Who cancels outside of a signal gets nothing more in the end."""
    publisher.keeps("3.12")


def test_rule_3_13_cancel_lets_go(publisher: Publishers) -> None:
    """A subscriber that has cancelled is not referred to any more."""
    publisher.keeps("3.13")


@pytest.mark.parametrize(
    "made",
    [
        publisher_of,
        lambda items: publisher_of(Pipeline(items).map(same, concurrency=3)),
        lambda items: of_processor(publisher_of(items)),
    ],
    ids=["a generator", "a pipeline", "a processor"],
)
def test_rule_3_14_cancel_shuts_the_publisher_down(made: Callable[[AsyncIterator[int]], Publisher[int]]) -> None:
    """When the only subscriber cancels, what the publisher takes its items from is closed."""

    async def main() -> None:
        closed = asyncio.Event()

        async def endless() -> AsyncIterator[int]:
            try:
                while True:
                    async for number in numbers(100):
                        yield number
            finally:
                closed.set()

        probe = Probe(at_first=5)
        made(endless()).subscribe(probe)
        await until(probe.has, 5)
        assert not closed.is_set()
        probe.cancel()
        await asyncio.wait_for(closed.wait(), 10)

    run_virtual(main())


def test_rule_3_15_cancel_returns(publisher: Publishers) -> None:
    """Cancel raises nothing."""
    publisher.keeps("3.15")


def test_rule_3_16_request_returns(publisher: Publishers) -> None:
    """Request raises nothing, whatever it is given."""
    publisher.keeps("3.16")


def test_rule_3_17_boundless_demand(publisher: Publishers) -> None:
    """Demand of 2^63 - 1 is without a bound, and more of it changes nothing."""
    publisher.keeps("3.17")


def test_rule_4_01_a_processor_keeps_the_rules_of_both_sides() -> None:
    """A processor is held to all the rules above at once."""

    async def main() -> list[str]:
        return await verify_processor(
            lambda: Through(numbers_of),
            lambda items: publisher_of(range(items)),
            failing=lambda: publisher_of(broken()),
        )

    verified = run_virtual(main())
    assert set(verified) == {rule for rule, about in RULES.items() if not about.unseen}


def test_rule_4_02_an_error_goes_on_or_is_recovered_from() -> None:
    """What fails before a processor fails its subscriber, unless its function makes something else of it."""

    async def recovering(items: AsyncIterator[int]) -> AsyncIterator[int]:
        with contextlib.suppress(ConnectionResetError):
            async for item in items:
                yield item

    async def main(function: Any, *, recovers: bool) -> None:
        await verify_processor(
            lambda: Through(function),
            lambda items: publisher_of(range(items)),
            failing=lambda: publisher_of(broken()),
            recovers=recovers,
        )

    run_virtual(main(recovering, recovers=True))
    with pytest.raises(AssertionError, match=r"rule 4.2"):
        run_virtual(main(numbers_of, recovers=True))


def test_every_rule_has_its_test() -> None:
    """Each rule of the specification has a test that bears its number."""
    text = Path(__file__).read_text()
    tested = {f"{int(section)}.{int(rule)}" for section, rule in re.findall(r"def test_rule_(\d)_(\d\d)_", text)}
    assert tested == set(RULES)
    unseen = {rule for rule, about in RULES.items() if about.unseen}
    assert unseen == set(re.findall(r"\d\.\d+", __doc__ or ""))
    counts = {section: sum(rule.startswith(f"{section}.") for rule in RULES) for section in range(1, 5)}
    assert counts == {1: 11, 2: 13, 3: 17, 4: 2}

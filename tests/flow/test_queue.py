"""Queues: bounded, with an overflow that somebody has chosen, for threads and tasks, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hormesis.context import deadline
from hormesis.errors import ConfigurationError, DeadlineExceeded, HormesisError, Rejected, TimedOut
from hormesis.events import EventBus
from hormesis.flow import ItemTooLarge, Queue, QueueClosed, QueueEmpty, QueueFull, ReaderTooSlow, RuleBroken
from hormesis.testing import ManualClock, VirtualClock, hear, run_virtual

PATIENCE = 20.0


def blocking(max_items: int = 1, **settings: Any) -> Queue[Any]:
    return Queue(max_items, overflow="block", **settings)


def contents(queue: Queue[Any]) -> list[Any]:
    """Close a queue and take what is left."""
    queue.close()
    return list(queue)


# Both colours, one at a time.


def test_first_in_first_out() -> None:
    """Items come out as they went in, whoever puts and takes."""

    async def main() -> None:
        queue = blocking(10)
        await queue.aput(1)
        assert queue.put(2)
        assert queue.put_nowait(3)
        assert (queue.get_nowait(), queue.get(), await queue.aget()) == (1, 2, 3)

    run_virtual(main())


def test_a_queue_is_made_outside_of_any_loop_and_used_in_several() -> None:
    """Nothing binds it to a loop: not its making, nor its use, nor waiting in it."""
    queue = blocking()

    async def waits(put: int) -> int:
        taking = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        await queue.aput(put)
        return int(await taking)

    assert [asyncio.run(waits(1)), asyncio.run(waits(2))] == [1, 2]


def test_a_loop_that_is_gone_holds_nothing_up() -> None:
    """A waiter whose loop was closed under it is passed over."""
    queue = blocking()
    loop = asyncio.new_event_loop()
    task = loop.create_task(queue.aget())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    queue.put_nowait(1)
    assert queue.get_nowait() == 1
    task.get_coro().close()  # type: ignore[union-attr]
    task._log_destroy_pending = False  # type: ignore[attr-defined]  it is meant to be


def test_putters_wait_for_room_in_their_order() -> None:
    """Those who wait for room get it first come, first served, and a newcomer does not overtake them."""

    async def main() -> None:
        queue = blocking()
        await queue.aput(0)
        putters = [asyncio.create_task(queue.aput(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            queue.put_nowait(9)
        assert await queue.aget() == 0
        with pytest.raises(QueueFull):
            queue.put_nowait(9)
        assert [await queue.aget() for _ in range(3)] == [1, 2, 3]
        assert await asyncio.gather(*putters) == [True, True, True]

    run_virtual(main())


def test_takers_wait_for_items_in_their_order() -> None:
    """Those who wait for an item get one first come, first served."""

    async def main() -> None:
        queue = blocking(9)
        order: list[tuple[str, int]] = []

        async def take(name: str) -> None:
            order.append((name, await queue.aget()))

        takers = [asyncio.create_task(take(name)) for name in "abc"]
        await asyncio.sleep(0)
        for item in (1, 2, 3):
            queue.put_nowait(item)
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
        await asyncio.gather(*takers)
        assert order == [("a", 1), ("b", 2), ("c", 3)]

    run_virtual(main())


def test_bytes_bound_it_too() -> None:
    """An item waits for as many bytes as it has."""

    async def main() -> None:
        queue: Queue[bytes] = Queue(100, overflow="block", max_bytes="1KB")
        await queue.aput(b"x" * 600)
        second = asyncio.create_task(queue.aput(b"y" * 600))
        await asyncio.sleep(1)
        assert (queue.size, second.done()) == (600, False)
        await queue.aget()
        await second
        assert queue.size == 600

    run_virtual(main())


@pytest.mark.parametrize("overflow", ["block", "drop oldest", "drop newest", "fail"])
def test_an_item_that_can_never_get_in(overflow: Any) -> None:
    """It is refused at once, with what would help, and what is inside stays."""
    queue: Queue[bytes] = Queue(9, overflow=overflow, max_bytes=10, name="frames")
    queue.put_nowait(b"small")
    with pytest.raises(ItemTooLarge, match=r"an item of 11 bytes can never get into 'frames', which holds 10 bytes"):
        queue.put(b"x" * 11)
    assert isinstance(ItemTooLarge("q", 2, 1), ValueError)
    assert contents(queue) == [b"small"]


def test_a_size_of_ones_own() -> None:
    """A size function tells the bytes; what it can't mean is said to the author."""
    queue = Queue[Any](9, overflow="fail", max_bytes=10, size=lambda item: item["bytes"])
    queue.put_nowait({"bytes": 10})
    for wrong in (-1, 1.5, True, None):
        with pytest.raises(ConfigurationError, match="size says"):
            queue.put_nowait({"bytes": wrong})
    with pytest.raises(ConfigurationError, match="size says nothing of a int"):
        Queue[Any](9, overflow="fail", max_bytes=10).put_nowait(3)


def test_dropping() -> None:
    """What is dropped is counted, told with its reason, and handed over."""
    bus, dropped = EventBus(), []
    prices = Queue[int](
        2, overflow="drop oldest", on_drop=lambda *each: dropped.append(each), name="prices", events=bus
    )
    with hear(bus) as heard:
        assert [prices.put_nowait(price) for price in (1, 2, 3)] == [True, True, True]
    assert dropped == [(1, "oldest")]
    heard.assert_happened("item_dropped", times=1, part="queue", reason="oldest", items=1)
    assert prices.snapshot()["dropped"] == {"oldest": 1}
    newest = Queue[int](1, overflow="drop newest", on_drop=lambda *each: dropped.append(each))
    assert [newest.put_nowait(1), newest.put(2)] == [True, False]
    assert dropped[1:] == [(2, "newest")]
    failing = Queue[int](1, overflow="fail", name="orders")
    failing.put(1)
    with pytest.raises(QueueFull, match="queue 'orders' is full") as caught:
        failing.put(2)
    assert (caught.value.policy, caught.value.reason) == ("orders", "queue full")
    assert isinstance(caught.value, Rejected)


def test_conflating() -> None:
    """The newest of a key takes the place of the one that waits, and the order of the keys stays."""
    dropped: list[Any] = []
    prices = Queue[tuple[str, int]](
        2,
        overflow="conflate",
        key=lambda price: price[0],
        otherwise="fail",
        on_drop=lambda *each: dropped.append(each),
    )
    for price in (("tea", 1), ("rum", 2), ("tea", 3)):
        assert prices.put_nowait(price)
    with pytest.raises(QueueFull):
        prices.put_nowait(("gin", 4))
    assert dropped == [(("tea", 1), "conflated")]
    assert contents(prices) == [("tea", 3), ("rum", 2)]


def test_conflating_and_waiting() -> None:
    """A new key may wait for room, and one that is there needs none."""

    async def main() -> None:
        queue = Queue[str](1, overflow="conflate", key=lambda item: item[0], otherwise="block")
        await queue.aput("a1")
        await queue.aput("a2")
        waiting = asyncio.create_task(queue.aput("b1"))
        await asyncio.sleep(0)
        assert [await queue.aget(), await queue.aget()] == ["a2", "b1"]
        await waiting

    run_virtual(main())


# Time.


def test_expired_items_are_dropped_when_they_would_be_taken() -> None:
    """Whoever takes gets the first that is worth having; the others are counted and told."""
    clock, bus = ManualClock(), EventBus()
    queue = Queue[str](9, overflow="fail", clock=clock, events=bus, max_age="10s")
    queue.put_nowait("brief", expires_in="1s")
    queue.put_nowait("too late", expires_in=-0.1)
    queue.put_nowait("long", expires_in="1h")
    queue.put_nowait("as usual")
    clock.advance(5)
    with hear(bus) as heard:
        assert queue.get_nowait() == "long"
        heard.assert_happened("item_dropped", times=2, reason="expired")
        clock.advance(5)
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
    assert queue.snapshot()["dropped"] == {"expired": 3}


def test_a_taker_whose_item_has_expired_waits_on() -> None:
    """It does not get what has expired between its being called and its coming, and keeps its place in line."""
    clock = ManualClock()

    async def main() -> None:
        queue = Queue[int](9, overflow="fail", clock=clock)
        first = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        queue.put_nowait(1, expires_in=1)
        clock.advance(1)
        second = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        queue.put_nowait(2)
        queue.put_nowait(3)
        assert (await first, await second) == (2, 3)

    run_virtual(main())


def test_the_time_of_waiting_for_room_counts() -> None:
    """What expires while its putter waits is dropped like any other."""

    async def main() -> None:
        queue = blocking(clock=VirtualClock())
        await queue.aput("first")
        late = asyncio.create_task(queue.aput("late", expires_in=1))
        await asyncio.sleep(2)
        assert await queue.aget() == "first"
        assert await late
        with pytest.raises(QueueEmpty):
            queue.get_nowait()

    run_virtual(main())


def test_patience_of_tasks() -> None:
    """A timeout ends a wait and leaves nothing behind; the deadline of the call does the same."""

    async def main() -> None:
        queue = blocking(clock=VirtualClock(), name="orders")
        with pytest.raises(TimedOut, match="orders"):
            await queue.aget(timeout="5s")
        assert asyncio.get_running_loop().time() == 5
        await queue.aput(1)
        with pytest.raises(TimedOut):
            await queue.aput(2, timeout=1)
        with pytest.raises(TimedOut):
            await queue.adrain(timeout=1)
        with deadline("1s", clock=VirtualClock()), pytest.raises(DeadlineExceeded):
            await queue.aput(2, timeout=60)
        with pytest.raises(TimedOut):
            await queue.aput(2, timeout=0)
        snapshot = queue.snapshot()
        assert (snapshot["waiting_to_put"], snapshot["waiting_to_take"], len(queue)) == (0, 0, 1)

    run_virtual(main())


def test_patience_is_measured_where_one_waits() -> None:
    """A timeout ends a wait on any loop, also where the queue's own clock stands still."""

    async def main() -> None:
        queue = blocking(clock=ManualClock())
        with pytest.raises(TimedOut):
            await queue.aget(timeout="5s")
        await queue.aput(1)
        with pytest.raises(TimedOut):
            await queue.adrain(timeout="5s")
        assert asyncio.get_running_loop().time() == 10

    run_virtual(main())


def test_what_is_dropped_while_one_waits_is_told() -> None:
    """Also by a wait that comes to nothing, or is not a wait at all."""

    async def main() -> None:
        dropped: list[Any] = []
        queue = blocking(2, clock=VirtualClock(), on_drop=lambda *each: dropped.append(each))
        queue.put_nowait("old", expires_in=1)
        queue.put_nowait("new")
        await asyncio.sleep(1)
        assert await queue.aget() == "new"
        assert dropped == [("old", "expired")]
        taker = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        queue.put_nowait("brief", expires_in=0)
        await asyncio.sleep(1)
        assert dropped[1:] == [("brief", "expired")]
        queue.put_nowait("at last")
        assert await taker == "at last"
        queue.put_nowait("first", expires_in=5)
        queue.put_nowait("second")
        with pytest.raises(TimedOut):
            await queue.aput("third", timeout=2)
        queue.put_back("before it")
        putter = asyncio.create_task(queue.aput("third", timeout=4))
        await asyncio.sleep(10)
        assert isinstance(putter.exception(), TimedOut)
        assert [queue.get_nowait(), queue.get_nowait()] == ["before it", "second"]

    run_virtual(main())


def test_patience_of_threads() -> None:
    """The same for threads."""
    queue = blocking()
    with pytest.raises(TimedOut):
        queue.get(timeout="10ms")
    queue.put(1)
    with pytest.raises(TimedOut):
        queue.put(2, timeout="10ms")
    with pytest.raises(TimedOut):
        queue.drain(timeout="10ms")
    with deadline("10ms"), pytest.raises(DeadlineExceeded):
        queue.put(2)
    assert contents(queue) == [1]


def test_a_thread_with_a_loop_is_not_blocked() -> None:
    """Where a synchronous verb would block a loop, it says so; where it need not wait, it works."""

    async def main() -> None:
        queue = blocking()
        with pytest.raises(ConfigurationError, match="use await aget"):
            queue.get()
        queue.put(1)
        with pytest.raises(ConfigurationError, match="use await aput"):
            queue.put(2)
        with pytest.raises(ConfigurationError, match="use await adrain"):
            queue.drain()
        assert queue.get() == 1
        queue.drain()

    run_virtual(main())


# Closing.


def test_closing_ends_iterations_once_all_is_taken() -> None:
    """Iterating ends when nothing is left and nothing can come, in both colours."""

    async def main() -> None:
        queue = blocking(9)
        for item in (1, 2):
            queue.put_nowait(item)
        queue.close()
        assert queue.closed
        assert [item async for item in queue] == [1, 2]
        with pytest.raises(QueueClosed):
            await queue.aget()
        with pytest.raises(QueueClosed):
            queue.get_nowait()

    run_virtual(main())
    queue = blocking(9)
    queue.put(1)
    assert contents(queue) == [1]
    with pytest.raises(QueueClosed, match="queue 'queue' is closed"):
        queue.put_nowait(2)
    with pytest.raises(QueueClosed):
        queue.get()


def test_closing_wakes_all_who_wait() -> None:
    """Takers of an empty queue and putters of a full one are told at once."""

    async def main() -> None:
        empty, full = blocking(), blocking()
        await full.aput(1)
        takers = [asyncio.create_task(empty.aget()) for _ in range(3)]
        putters = [asyncio.create_task(full.aput(item)) for item in range(3)]
        await asyncio.sleep(0)
        empty.close()
        full.close()
        for done in await asyncio.gather(*takers, *putters, return_exceptions=True):
            assert isinstance(done, QueueClosed)
        assert await full.aget() == 1

    run_virtual(main())


def test_draining() -> None:
    """Draining ends when all was taken; what is not taken in time can be had in one go."""

    async def main() -> None:
        queue = blocking(9)
        await queue.adrain()
        for item in range(3):
            queue.put_nowait(item)
        draining = asyncio.create_task(queue.adrain())
        for _ in range(2):
            await asyncio.sleep(1)
            assert not draining.done()
            queue.get_nowait()
        queue.put_back(1)
        assert queue.discard() == [1, 2]
        await draining

    run_virtual(main())


def test_draining_in_a_thread() -> None:
    """A thread waits for the end as well."""
    queue = blocking(9)
    queue.put(1)
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(queue.drain)
        assert queue.get() == 1
        draining.result(PATIENCE)


def test_put_back_comes_first_again() -> None:
    """What came to nothing is the next to be taken, also by who waits already."""

    async def main() -> None:
        queue = blocking()
        await queue.aput(1)
        item = await queue.aget()
        await queue.aput(2)
        queue.put_back(item)
        assert [await queue.aget(), await queue.aget()] == [1, 2]
        waiting = asyncio.create_task(queue.aget())
        await asyncio.sleep(0)
        queue.put_back(3)
        assert await waiting == 3

    run_virtual(main())
    conflating = Queue[str](
        1, overflow="conflate", key=lambda item: item[0], otherwise="fail", on_drop=lambda *each: dropped.append(each)
    )
    dropped: list[Any] = []
    conflating.put_nowait("a1")
    old = conflating.get_nowait()
    conflating.put_nowait("a2")
    conflating.put_back(old)
    assert (dropped, contents(conflating)) == ([("a1", "conflated")], ["a2"])


# Telling whoever feeds it.


def test_pausing_and_going_on() -> None:
    """Whoever feeds it is told at the marks, once for each crossing, as a call and as an event."""
    bus, told, clock = EventBus(), [], ManualClock()
    queue = blocking(10, pause_at=0.8, resume_at=0.3, on_flow=told.append, events=bus, clock=clock)
    with hear(bus) as heard:
        for item in range(9):
            queue.put_nowait(item)
        assert (told, queue.paused) == ([True], True)
        clock.advance(5)
        for _ in range(7):
            queue.get_nowait()
        assert (told, queue.paused) == ([True, False], False)
        for item in range(8):
            queue.put_nowait(item)
        queue.discard()
    assert told == [True, False, True, False]
    heard.assert_happened("flow_paused", times=2, items=8)
    heard.assert_happened("flow_resumed", times=1, items=3, seconds=5.0)


def test_pausing_without_being_told() -> None:
    """Whoever feeds it may look instead."""
    queue = blocking(2, pause_at=0.5)
    queue.put_nowait(1)
    assert queue.paused
    queue.get_nowait()
    assert not queue.paused


def test_pausing_by_bytes() -> None:
    """Bytes alone are a reason to pause."""
    told: list[bool] = []
    queue = Queue[bytes](1000, overflow="block", max_bytes=100, pause_at=0.5, on_flow=told.append)
    queue.put_nowait(b"x" * 50)
    queue.put_nowait(b"x" * 10)
    queue.get_nowait()
    assert told == [True, False]


def test_what_is_called_may_use_the_queue() -> None:
    """A function that is told may put and take; what that brings about is told after it, in order."""
    told: list[tuple[str, Any]] = []

    def dropped(item: int, reason: str) -> None:
        told.append(("begin", item))
        if item < 3:
            queue.put_nowait(item + 10)
        told.append(("end", item))

    queue = Queue[int](1, overflow="drop oldest", on_drop=dropped)
    for item in (1, 2):
        queue.put_nowait(item)
    assert told == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2), ("begin", 11), ("end", 11)]
    assert contents(queue) == [12]


def test_what_is_called_and_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the item of the call that brought it about goes its way."""

    def broken(item: int, reason: str) -> None:
        raise ZeroDivisionError

    queue = Queue[int](1, overflow="drop oldest", on_drop=broken, name="prices")
    queue.put_nowait(1)
    with caplog.at_level(logging.ERROR, "hormesis.flow"):
        assert queue.put_nowait(2)
    assert "queue 'prices'" in caplog.text
    assert contents(queue) == [2]


def test_an_interrupt_while_telling_stops_no_later_telling() -> None:
    """Ctrl-C in a function that is told comes out, and the next notice is told all the same."""
    told: list[int] = []

    def interrupted(item: int, reason: str) -> None:
        told.append(item)
        if item == 1:
            raise KeyboardInterrupt

    queue = Queue[int](1, overflow="drop oldest", on_drop=interrupted)
    queue.put_nowait(1)
    with pytest.raises(KeyboardInterrupt):
        queue.put_nowait(2)
    queue.put_nowait(3)
    assert told == [1, 2]


def test_the_state_as_plain_data() -> None:
    """A snapshot and a repr tell how it stands."""
    queue = blocking(2, name="orders")
    queue.put_nowait(1)
    snapshot = queue.snapshot()
    assert (snapshot["items"], snapshot["max_items"], snapshot["put"], snapshot["taken"]) == (1, 2, 1, 0)
    assert repr(queue) == "<Queue 'orders': 1 of 2 items>"
    assert bool(queue)


# Cancellation: whoever is cancelled has put nothing, and has taken nothing.


def test_a_cancelled_taker_loses_nothing(sweep: Callable[..., int]) -> None:
    """Wherever a taker is cancelled, every item is taken by it or by the next, once, and in order."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        queue, had = blocking(2), []

        async def take() -> None:
            for _ in range(3):
                had.append(await queue.aget())

        async def feed() -> None:
            for item in range(4):
                await asyncio.sleep(1)
                await queue.aput(item)
            queue.close()

        taker = start(take())
        feeder = asyncio.create_task(feed())
        await asyncio.wait([taker])
        had += [item async for item in queue]
        await feeder
        assert had == [0, 1, 2, 3]
        snapshot = queue.snapshot()
        assert (snapshot["waiting_to_put"], snapshot["waiting_to_take"]) == (0, 0)

    assert sweep(journey) >= 3


def test_a_cancelled_putter_has_put_nothing(sweep: Callable[..., int]) -> None:
    """Wherever a putter is cancelled, what is in the queue is exactly what its calls have said, and room is free."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        queue, said, had = blocking(1), [], []

        async def put() -> None:
            for item in range(3):
                await queue.aput(item)
                said.append(item)

        async def take() -> None:
            async for item in queue:
                had.append(item)
                await asyncio.sleep(1)

        await queue.aput("first")
        putter = start(put())
        taker = asyncio.create_task(take())
        await asyncio.wait([putter])
        await queue.aput("last")
        queue.close()
        await taker
        assert had == ["first", *said, "last"]
        snapshot = queue.snapshot()
        assert (snapshot["waiting_to_put"], snapshot["waiting_to_take"]) == (0, 0)

    assert sweep(journey) >= 3


def test_a_cancelled_putter_lets_the_next_in(sweep: Callable[..., int]) -> None:
    """The room that was kept for one who is cancelled goes to who stands behind."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        queue = blocking(1)
        await queue.aput(0)
        first = start(queue.aput(1))
        await asyncio.sleep(0)
        second = asyncio.create_task(queue.aput(2))
        await asyncio.sleep(0)
        assert await queue.aget() == 0
        await asyncio.wait([first])
        expected = [2] if first.cancelled() else [1, 2]
        assert [await queue.aget() for _ in expected] == expected
        await second

    assert sweep(journey) >= 1


def test_a_cancelled_drain_leaves_nothing(sweep: Callable[..., int]) -> None:
    """Who waits for the end and is cancelled is forgotten."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        queue = blocking(1)
        await queue.aput(0)
        draining = start(queue.adrain())
        await asyncio.sleep(1)
        assert await queue.aget() == 0
        await asyncio.wait([draining])
        assert not queue._machine._drainers

    assert sweep(journey) >= 1


def test_a_timeout_around_a_taker_loses_nothing() -> None:
    """Impatient takers, over and over, against items that come at the very moment they give up."""

    async def main() -> None:
        queue, had = blocking(5), []

        async def impatient() -> None:
            while True:
                try:
                    async with asyncio.timeout(1):
                        had.append(await queue.aget())
                except TimeoutError:
                    continue
                except QueueClosed:
                    return

        takers = [asyncio.create_task(impatient()) for _ in range(3)]
        for item in range(100):
            await asyncio.sleep(1 if item % 3 else 0.5)
            await queue.aput(item)
        queue.close()
        await asyncio.gather(*takers)
        assert sorted(had) == list(range(100))

    run_virtual(main())


# Threads, and across.


def test_threads_feed_tasks() -> None:
    """Producers in threads, consumers on a loop: each item arrives once, those of one producer in its order."""
    queue = blocking(3)

    async def main() -> list[tuple[int, int]]:
        had: list[tuple[int, int]] = []

        async def consume() -> None:
            async for item in queue:
                had.append(item)

        def produce(producer: int) -> None:
            for number in range(200):
                queue.put((producer, number), timeout=PATIENCE)

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        await asyncio.gather(*(asyncio.to_thread(produce, producer) for producer in range(3)))
        queue.close()
        await asyncio.gather(*consumers)
        return had

    had = asyncio.run(main())
    assert sorted(had) == sorted(itertools.product(range(3), range(200)))


def test_tasks_feed_threads() -> None:
    """And the other way round."""
    queue = blocking(3)
    with ThreadPoolExecutor(2) as pool:
        consumers = [pool.submit(lambda: list(queue)) for _ in range(2)]

        async def main() -> None:
            for item in range(300):
                await queue.aput(item)
            queue.close()

        asyncio.run(main())
        had = [consumer.result(PATIENCE) for consumer in consumers]
    assert sorted(itertools.chain(*had)) == list(range(300))


def test_notices_of_threads_come_in_order() -> None:
    """However threads race, pauses and resumes take turns, and the last one told is how it stands."""
    told: list[bool] = []
    queue = blocking(4, pause_at=0.75, resume_at=0.25, on_flow=told.append)

    def produce() -> None:
        for item in range(500):
            queue.put(item, timeout=PATIENCE)

    with ThreadPoolExecutor(4) as pool:
        producers = [pool.submit(produce) for _ in range(2)]
        consumer = threading.Thread(target=lambda: list(queue))
        consumer.start()
        for producer in producers:
            producer.result(PATIENCE)
        queue.close()
        consumer.join(PATIENCE)
    assert told == list(itertools.islice(itertools.cycle([True, False]), len(told)))
    assert queue.paused is False


# What can't be meant.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_items": 0}, "max_items is 0; it takes a whole number from 1"),
        ({"max_items": True}, "max_items is True"),
        (
            {"overflow": "drop"},
            "overflow is 'drop'; it takes 'block', 'drop oldest', 'drop newest', 'fail', 'conflate'",
        ),
        ({"overflow": "conflate"}, "key is None; it takes a function"),
        ({"overflow": "conflate", "key": str}, "otherwise is None; it takes 'block', 'drop oldest'"),
        ({"overflow": "conflate", "key": str, "otherwise": "conflate"}, "otherwise is 'conflate'"),
        ({"key": str}, "key is <class 'str'>; it takes overflow='conflate'"),
        ({"otherwise": "fail"}, "otherwise is 'fail'; it takes overflow='conflate'"),
        ({"max_bytes": "1XB"}, "max_bytes is '1XB'; it takes 1 byte to 1,000 GB"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"max_bytes": False}, "max_bytes is False"),
        ({"max_bytes": 10**30}, "max_bytes is 1000000000"),
        ({"max_bytes": "1" * 50 + "KB"}, "max_bytes is '1111"),
        ({"size": len}, "size is set and max_bytes is not"),
        ({"max_age": 0}, "max_age is 0"),
        ({"pause_at": 1.5}, "pause_at is 1.5"),
        ({"pause_at": 0.5, "resume_at": 0.5}, "resume_at is 0.5; it takes a share below that of pause_at, 0.5"),
        ({"resume_at": 0.5}, "pause_at is not set"),
        ({"on_flow": print}, "on_flow is set and pause_at is not"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        Queue(**{"max_items": 2, "overflow": "block", **settings})
    assert message in str(caught.value)


def test_an_overflow_has_to_be_chosen() -> None:
    """There is no default."""
    with pytest.raises(TypeError, match="overflow"):
        Queue(2)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", ["soon", float("nan"), None.__class__])
def test_an_expiry_that_cannot_be_meant(wrong: Any) -> None:
    """It is said so, and nothing is put."""
    queue = blocking()
    with pytest.raises((ConfigurationError, TypeError)):
        queue.put_nowait(1, expires_in=wrong)
    assert len(queue) == 0


@pytest.mark.parametrize(
    "error",
    [
        QueueFull("q", "queue full"),
        QueueEmpty("q"),
        QueueClosed("q"),
        ItemTooLarge("q", 5, 3),
        ReaderTooSlow("r", "bytes", 3, 500),
        RuleBroken("1.1", "more than was asked for"),
    ],
)
def test_errors_pickle(error: HormesisError) -> None:
    """An error is the same on the other side of a process boundary, and says the same."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)

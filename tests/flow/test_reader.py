"""Slow readers: bounded, then disconnected; and what they have not taken is known."""

# ruff: noqa: PT012  a reader's block is what raises

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hormesis.errors import ConfigurationError, HormesisError
from hormesis.events import EventBus
from hormesis.flow import ItemTooLarge, Reader, ReaderTooSlow
from hormesis.testing import VirtualClock, hear, run_virtual


class Connection:
    """Takes each item after a while, or never."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.had: list[Any] = []

    async def send(self, item: Any) -> None:
        await asyncio.sleep(self.seconds)
        self.had.append(item)


def reader(connection: Connection, **settings: Any) -> Reader[Any]:
    return Reader(connection.send, **{"max_items": 10, "clock": VirtualClock(), **settings})


def test_a_reader_that_keeps_up_gets_everything(nothing_left: Callable[[], None]) -> None:
    """All is sent in order, and what is unsent when the block ends is sent before it returns."""

    async def main() -> None:
        connection = Connection(0.1)
        async with reader(connection) as to:
            for item in range(20):
                to.offer(item)
                await asyncio.sleep(0.05 if item < 10 else 0.2)
            to.offer("last")
        assert connection.had == [*range(20), "last"]
        assert (to.unsent, to.snapshot()) == ([], {"items": 0, "bytes": 0, "connected": True})
        nothing_left()

    run_virtual(main())


def test_too_many_items(nothing_left: Callable[[], None]) -> None:
    """The offer that breaks the bound raises; who is behind is told, and what was not sent is there."""

    async def main() -> None:
        bus, connection = EventBus(), Connection(1)
        to = reader(connection, max_items=3, name="phone", events=bus)
        with hear(bus) as heard, pytest.raises(ReaderTooSlow, match=r"'phone' did not keep up \(items\)") as caught:
            async with to:
                for item in range(10):
                    to.offer(item)
        assert (caught.value.reason, caught.value.items) == ("items", 3)
        heard.assert_happened("reader_disconnected", times=1, reason="items", items=3, part="reader")
        assert to.unsent == [0, 1, 2]
        assert not to.snapshot()["connected"]
        with pytest.raises(ReaderTooSlow):
            to.offer(11)
        nothing_left()

    run_virtual(main())


def test_too_many_bytes() -> None:
    """Bytes are a bound of their own; an item that could never be sent is the sender's mistake, not the reader's."""

    async def main() -> None:
        async with reader(Connection(1), max_bytes="1KB") as to:
            to.offer(b"x" * 600)
            with pytest.raises(ItemTooLarge):
                to.offer(b"x" * 1001)
        with pytest.raises(ReaderTooSlow) as caught:
            async with reader(Connection(1), max_bytes="1KB") as to:
                to.offer(b"x" * 600)
                to.offer(b"x" * 600)
        assert (caught.value.reason, caught.value.size) == ("bytes", 600)

    run_virtual(main())


def test_a_reader_that_has_stopped_cuts_the_block(nothing_left: Callable[[], None]) -> None:
    """A block that waits for something else is cancelled when the reader is late, and the send with it."""

    async def main() -> None:
        loop, connection = asyncio.get_running_loop(), Connection(3600)
        cancelled = False
        with pytest.raises(ReaderTooSlow) as caught:
            async with reader(connection, max_wait="10s") as to:
                await asyncio.sleep(1)
                to.offer("item")
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    cancelled = True
                    raise
        assert (caught.value.reason, loop.time(), cancelled, to.unsent) == ("time", 11, True, ["item"])
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(1)
        nothing_left()

    run_virtual(main())


def test_a_reader_that_stops_while_the_rest_is_sent() -> None:
    """The bounds hold at the end as well: a block never waits for longer than `max_wait`."""

    async def main() -> None:
        with pytest.raises(ReaderTooSlow):
            async with reader(Connection(3600), max_wait="10s") as to:
                to.offer("item")
        assert asyncio.get_running_loop().time() == 10

    run_virtual(main())


def test_sending_at_the_pace_of_the_reader() -> None:
    """A sender that may wait is slowed down, and the reader is disconnected only when it takes nothing at all."""

    async def main() -> None:
        connection = Connection(1)
        async with reader(connection, max_items=2, max_wait="5s") as to:
            for item in range(10):
                await to.asend(item)
                assert len(to.unsent) <= 2
        assert connection.had == list(range(10))
        with pytest.raises(ReaderTooSlow):
            async with reader(Connection(3600), max_items=2, max_wait="5s") as to:
                for item in range(10):
                    await to.asend(item)
        assert to.unsent == [0, 1]

    run_virtual(main())


def test_late_is_noticed_by_who_sends(nothing_left: Callable[[], None]) -> None:
    """Where the loop was held up, so that no timer could tell, the next offer does."""

    async def main() -> None:
        for verb in ("offer", "asend"):
            with pytest.raises(ReaderTooSlow) as caught:
                async with reader(Connection(3600), max_wait=5) as to:
                    to.offer(1)
                    await asyncio.sleep(1)
                    VirtualClock().sleep(10)
                    if verb == "offer":
                        to.offer(2)
                    else:
                        await to.asend(2)
            assert (caught.value.reason, to.unsent) == ("time", [1])
            nothing_left()

    run_virtual(main())


def test_a_connection_that_breaks_ends_the_block() -> None:
    """What the send raises comes out of the block, which is cut short; later offers raise it too."""

    async def broken(item: Any) -> None:
        raise ConnectionResetError

    async def slow_to_break(item: Any) -> None:
        await asyncio.sleep(1)
        raise TimeoutError("its own")

    async def main() -> None:
        to = Reader(broken, max_items=3)
        with pytest.raises(ConnectionResetError):
            async with to:
                to.offer(1)
                await asyncio.sleep(1000)
        with pytest.raises(ConnectionResetError):
            await to.asend(2)
        with pytest.raises(TimeoutError, match="its own"):
            async with Reader(slow_to_break, max_items=3) as to:
                to.offer(1)
        assert to.unsent == [1]

    run_virtual(main())


@pytest.mark.parametrize("waits", [True, False])
def test_a_connection_that_is_cancelled_from_within(waits: bool, nothing_left: Callable[[], None]) -> None:
    """Sending that was cancelled by something of the connection ends the block: what is unsent was not sent."""

    async def main() -> None:
        async def send(item: int) -> None:
            if item == 1:
                raise asyncio.CancelledError

        to = Reader(send, max_items=10, name="phone")
        with pytest.raises(HormesisError, match="'phone' was cancelled from within"):
            async with asyncio.timeout(10), to:
                for item in range(3):
                    to.offer(item)
                await asyncio.sleep(60 * waits)
        assert to.unsent == [1, 2]
        nothing_left()

    run_virtual(main())


def test_what_the_block_raises_comes_out(nothing_left: Callable[[], None]) -> None:
    """An error of the block's own wins, and nothing more is sent."""

    async def main() -> None:
        connection = Connection(1)
        with pytest.raises(KeyError):
            async with reader(connection) as to:
                to.offer(1)
                raise KeyError
        assert (connection.had, to.unsent) == ([], [1])
        with pytest.raises(KeyError):
            async with reader(connection, max_items=1) as to:
                to.offer(1)
                with pytest.raises(ReaderTooSlow):
                    to.offer(2)
                raise KeyError
        await asyncio.sleep(5)
        nothing_left()

    run_virtual(main())


def test_a_block_that_does_not_heed_its_cancellation() -> None:
    """A block that is cut and ends as if nothing was raises all the same, and leaves no cancellation in the task."""

    async def main() -> None:
        with pytest.raises(ReaderTooSlow):
            async with reader(Connection(3600), max_wait=1) as to:
                to.offer(1)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
        with pytest.raises(KeyError):
            async with reader(Connection(3600), max_wait=1) as to:
                to.offer(1)
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    raise KeyError from None
        await asyncio.sleep(1)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_virtual(main())


def test_an_error_on_the_way_out() -> None:
    """What a send raises because it was cut is not what ended the block."""

    async def breaks_when_cut(item: Any) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ConnectionResetError from None

    async def main() -> None:
        for max_items, max_wait in ((1, 3600), (9, 1)):
            with pytest.raises((ReaderTooSlow, ConnectionResetError)):
                async with Reader(breaks_when_cut, max_items=max_items, max_wait=max_wait, clock=VirtualClock()) as to:
                    to.offer(1)
                    await asyncio.sleep(2)
                    to.offer(2)

    run_virtual(main())


def test_too_much_before_it_began() -> None:
    """Items may be offered before the block, within the same bounds."""

    async def main() -> None:
        connection = Connection()
        to = reader(connection)
        to.offer(1)
        async with to:
            pass
        assert connection.had == [1]
        to = reader(connection, max_items=1)
        to.offer(2)
        with pytest.raises(ReaderTooSlow):
            to.offer(3)
        with pytest.raises(ReaderTooSlow):
            async with to:
                pass

    run_virtual(main())


def test_offers_from_a_thread() -> None:
    """Any thread may offer, and finds out that the reader is too slow."""
    found: list[BaseException] = []

    async def main() -> None:
        connection = Connection()
        async with Reader(connection.send, max_items=1000) as to:
            await asyncio.to_thread(lambda: [to.offer(item) for item in range(500)])
        assert connection.had == list(range(500))

        def offer_too_many() -> None:
            try:
                for item in range(5):
                    to.offer(item)
            except ReaderTooSlow as error:
                found.append(error)

        with pytest.raises(ReaderTooSlow):
            async with Reader(Connection(3600).send, max_items=2) as to:
                thread = threading.Thread(target=offer_too_many)
                thread.start()
                await asyncio.sleep(3600)
        thread.join()

    asyncio.run(main())
    assert len(found) == 1


def test_cancelled_from_outside(sweep: Callable[..., int], nothing_left: Callable[[], None]) -> None:
    """Wherever its task is cancelled, what was offered is sent or known as unsent, once, and no task is left."""

    async def journey(start: Callable[..., asyncio.Task[Any]]) -> None:
        connection, offered = Connection(0.7), []
        to = reader(connection, max_items=2)

        async def serve() -> None:
            async with to:
                for item in range(4):
                    await to.asend(item)
                    offered.append(item)

        serving = start(serve())
        await asyncio.wait([serving])
        assert serving.cancelled() or serving.exception() is None
        assert connection.had + to.unsent == offered
        nothing_left()

    assert sweep(journey) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_items": 0}, "max_items is 0"),
        ({"max_bytes": "lots"}, "max_bytes is 'lots'"),
        ({"size": len}, "size is set and max_bytes is not"),
        ({"max_wait": 0}, "max_wait is 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=message):
        reader(Connection(), **settings)


def test_a_reader_is_used_once() -> None:
    """Each connection has a reader of its own."""

    async def main() -> None:
        async with reader(Connection()) as to:
            assert repr(to) == "<Reader 'reader': 0 unsent>"
        with pytest.raises(ConfigurationError, match="was used before"):
            async with to:
                pass

    run_virtual(main())

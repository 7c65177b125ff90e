"""Outlets and inlets over connections without a network, on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hormesis.core.credit_boxes import Patience, Window
from hormesis.core.credit_frames import (
    Code,
    Item,
    KeepAlive,
    Open,
    StreamError,
)
from hormesis.errors import ConfigurationError
from hormesis.events import Event, EventBus
from hormesis.flow.errors import ReaderTooSlow
from hormesis.flow.wire import (
    BYTES,
    JSON,
    Disconnected,
    Inlet,
    Outlet,
    Receiving,
    channel_of,
    receive_stream,
    send_stream,
)
from hormesis.flow.wire.frames import decode, encode
from hormesis.testing import run_virtual

Pair = Callable[..., tuple[Any, Any]]


class Source:
    """Gives numbers, and knows how many it was asked for."""

    def __init__(self, number: int, *, pause: float = 0.0, error: Exception | None = None) -> None:
        self.made = 0
        self.closed = False
        self._number = number
        self._pause = pause
        self._error = error

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            while self.made < self._number:
                await asyncio.sleep(self._pause)
                self.made += 1
                yield self.made
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


MOMENTS = [(moment, turns) for moment in range(0, 14, 2) for turns in range(20)]
"""When a task is cancelled: after so many hundredths of a second, and then so many turns of the loop."""


async def pass_time(moment: int, turns: int) -> None:
    await asyncio.sleep(moment / 100)
    for _ in range(turns):
        await asyncio.sleep(0)


async def collected(inlet: Inlet[Any]) -> list[Any]:
    return [item async for item in inlet]


def test_a_stream_from_end_to_end(pair: Pair) -> None:
    """Everything that a source gives comes out at the other end, in order, and both sides know it."""

    async def main() -> None:
        left, right = pair()
        source = Source(500)
        received = receive_stream(right, window=Window(items=10))
        sending = asyncio.ensure_future(send_stream(left, source))
        assert [item async for item in received] == list(range(1, 501))
        await sending
        assert source.closed
        assert received.inlet.over

    run_virtual(main())


def test_a_source_is_asked_for_no_more_than_the_window(pair: Pair) -> None:
    """A source whose receiver processes nothing is asked for what was granted, and for nothing more."""

    async def main() -> None:
        left, right = pair()
        source = Source(1000)
        outlet = Outlet(source, patience=Patience(stall_max=None))
        sending = asyncio.ensure_future(outlet.serve(left))
        async with receive_stream(right, window=Window(items=8, items_low=4)) as received:
            assert await anext(received) == 1
            await asyncio.sleep(3600)
            assert source.made == 8
            assert outlet.paused
            for _ in range(5):
                await anext(received)
            await asyncio.sleep(1)
            # Five are processed of eight, three and the one in work are held: at the low mark as many again.
            assert source.made <= 5 + 8
        await sending
        assert outlet.cancelled
        assert source.closed

    run_virtual(main())


def test_pauses_are_told(pair: Pair) -> None:
    """Who listens hears when a receiver holds a stream up, and when it goes on."""

    async def main() -> None:
        left, right = pair()
        events: list[Event] = []
        bus = EventBus()
        bus.listen(events.append)
        outlet = Outlet(Source(100), name="orders", events=bus)
        sending = asyncio.ensure_future(outlet.serve(left))
        async with receive_stream(right, window=Window(items=4)) as received:
            await anext(received)
            await asyncio.sleep(5)
            assert [(event.name, event.policy) for event in events] == [("flow_paused", "orders")]
            async for _ in received:
                pass
        await sending
        assert events[1].name == "flow_resumed"
        assert getattr(events[1], "seconds", 0) >= 5

    run_virtual(main())


def test_a_receiver_that_pauses_by_hand(pair: Pair) -> None:
    """While a receiver pauses, what was granted comes and nothing more; then it goes on."""

    async def main() -> None:
        left, right = pair()
        source = Source(30)
        sending = asyncio.ensure_future(send_stream(left, source))
        async with receive_stream(right, window=Window(items=4)) as received:
            await anext(received)
            received.pause()
            got = [await anext(received) for _ in range(3)]
            await asyncio.sleep(30)
            assert source.made == 4
            received.resume()
            async for item in received:
                got.append(item)
            assert got == list(range(2, 31))
        await sending

    run_virtual(main())


@pytest.mark.parametrize("lost", ["left", "right"])
def test_a_stream_goes_on_over_the_next_connection(pair: Pair, lost: str) -> None:
    """Connections that break at any moment lose nothing, and hand nothing out twice."""

    async def main() -> None:
        source = Source(200, pause=0.01)
        outlet: Outlet[int] = Outlet(source)
        inlet: Inlet[int] = Inlet(window=Window(items=7))
        got = asyncio.ensure_future(collected(inlet))
        for _ in range(500):
            left, right = pair(capacity=3)
            tasks = [asyncio.ensure_future(outlet.serve(left)), asyncio.ensure_future(inlet.run(right))]
            await asyncio.wait(tasks, timeout=0.07)
            (left if lost == "left" else right).abort()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, Disconnected)
            if outlet.finished:
                break
        assert await got == list(range(1, 201))
        assert outlet.unacknowledged() == []
        assert source.made == 200

    run_virtual(main())


def test_an_outlet_keeps_what_was_not_processed(pair: Pair) -> None:
    """When a receiver is gone for good, the owner of an outlet has all that was not processed."""

    async def main() -> None:
        left, right = pair()
        outlet: Outlet[int] = Outlet(Source(100))
        serving = asyncio.ensure_future(outlet.serve(left))
        inlet: Inlet[int] = Inlet(window=Window(items=4))
        running = asyncio.ensure_future(inlet.run(right))
        first = await inlet.get()
        first.done()
        await asyncio.sleep(1)
        right.abort()
        with pytest.raises(Disconnected):
            await serving
        with pytest.raises(Disconnected):
            await running
        await outlet.aclose()
        assert first.item == 1
        assert outlet.unacknowledged() in ([2, 3, 4], [1, 2, 3, 4])

    run_virtual(main())


def test_a_newer_connection_takes_over(pair: Pair) -> None:
    """A receiver that comes back before its old connection is known to be dead is served at once."""

    async def main() -> None:
        outlet: Outlet[int] = Outlet(Source(20))
        old_left, old_right = pair()
        old = asyncio.ensure_future(outlet.serve(old_left))
        await old_right.send(encode(Open(0, 2, 1000, 1000)))
        await asyncio.sleep(1)
        left, right = pair()
        received = receive_stream(right)
        serving = asyncio.ensure_future(outlet.serve(left))
        assert [item async for item in received] == list(range(1, 21))
        await serving
        with pytest.raises(StreamError) as replaced:
            await old
        assert replaced.value.code is Code.REPLACED

    run_virtual(main())


def test_a_reader_that_reads_nothing_is_cut_off(pair: Pair) -> None:
    """A connection that takes no message for too long is broken off, and the source is asked no more."""

    async def main() -> None:
        events: list[Event] = []
        bus = EventBus()
        bus.listen(events.append)
        left, right = pair(capacity=2)
        source = Source(1000)
        outlet = Outlet(source, write_max="2s", events=bus)
        serving = asyncio.ensure_future(outlet.serve(left))
        await right.send(encode(Open(0, 500, 1_000_000, 1000)))
        loop = asyncio.get_running_loop()
        with pytest.raises(ReaderTooSlow) as slow:
            await serving
        assert 2 <= loop.time() < 3
        assert source.made < 5
        assert slow.value.items < 5
        assert left.closed
        assert events[-1].name == "reader_disconnected"

    run_virtual(main())


def test_a_reader_that_takes_nothing_is_cut_off(pair: Pair) -> None:
    """A receiver that shows signs of life and asks for nothing any more is told that it is too slow."""

    async def main() -> None:
        left, right = pair()
        serving = asyncio.ensure_future(Outlet(Source(10), patience=Patience(stall_max=20)).serve(left))
        await right.send(encode(Open(0, 1, 1000, 1000)))
        with contextlib.suppress(Disconnected):
            for _ in range(10):
                await asyncio.sleep(3)
                await right.send(encode(KeepAlive()))
        with pytest.raises(ReaderTooSlow):
            await serving
        frames = [decode(data, 100) for data in right.messages]
        assert getattr(frames[-1], "code", None) is Code.SLOW

    run_virtual(main())


def test_a_silent_peer_is_given_up(pair: Pair) -> None:
    """A peer of which nothing is heard is given up by either side."""

    async def main() -> None:
        left, right = pair(capacity=1000)
        serving = asyncio.ensure_future(Outlet(Source(10)).serve(left))
        with pytest.raises(StreamError) as silent:
            await serving
        assert silent.value.code is Code.SILENT
        left, right = pair(capacity=1000)
        with pytest.raises(StreamError) as silent:
            await Inlet[Any]().run(right)
        assert silent.value.code is Code.SILENT

    run_virtual(main())


def test_signs_of_life_keep_an_idle_stream(pair: Pair) -> None:
    """A stream whose source has nothing for hours stays, and goes on."""

    async def main() -> None:
        left, right = pair()
        sending = asyncio.ensure_future(send_stream(left, Source(3, pause=7200)))
        assert [item async for item in receive_stream(right)] == [1, 2, 3]
        await sending

    run_virtual(main())


def test_a_source_that_fails(pair: Pair) -> None:
    """Both ends hear that a source failed, after all that it gave; the receiver is told no details."""

    async def main() -> None:
        left, right = pair()
        sending = asyncio.ensure_future(send_stream(left, Source(3, error=ValueError("the password is tea"))))
        got = []

        async def receive() -> None:
            async for item in receive_stream(right):
                got.append(item)

        with pytest.raises(StreamError, match="ValueError") as failed:
            await receive()
        assert got == [1, 2, 3]
        assert failed.value.code is Code.FAILED
        assert "tea" not in str(failed.value)
        with pytest.raises(ValueError, match="tea"):
            await sending

    run_virtual(main())


def test_an_item_that_can_not_be_sent(pair: Pair) -> None:
    """What a codec does not take, or is too large, fails the stream as its source would."""

    async def main(source: Any, **settings: Any) -> None:
        left, right = pair()
        sending = asyncio.ensure_future(send_stream(left, source, **settings))
        with pytest.raises(StreamError):
            async for _ in receive_stream(right):
                pass
        with pytest.raises((TypeError, StreamError)):
            await sending

    async def large() -> AsyncIterator[str]:
        yield "x" * 2000

    run_virtual(main(Source(1), codec=BYTES))
    run_virtual(main(large(), max_item_bytes=1000))


@pytest.mark.parametrize(
    "payload",
    [b"no json", b"\xff\xfe", b"[" * 100_000, b""],
    ids=["words", "bytes", "deep", "nothing"],
)
def test_an_item_that_can_not_be_read(pair: Pair, payload: bytes) -> None:
    """An item that is none breaks the stream, once it would be handed out, and the sender is told."""

    async def main() -> None:
        left, right = pair()

        async def source() -> AsyncIterator[bytes]:
            yield b"1"
            yield payload
            yield b"3"

        sending = asyncio.ensure_future(send_stream(left, source(), codec=BYTES))
        received: Receiving[Any] = receive_stream(right)
        assert await anext(received) == 1
        with pytest.raises(StreamError, match="item 2 can't be read"):
            await anext(received)
        with pytest.raises(StreamError, match="item 2 can't be read"):
            await sending
        await received.aclose()

    run_virtual(main())


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\x63rubbish", b"\x03short", encode(Item(1, b"x" * 100)), b"\x0a" * 5000],
    ids=["nothing", "zero", "unknown", "short", "not its turn", "giant"],
)
def test_rubbish_breaks_the_stream(pair: Pair, data: bytes) -> None:
    """Whatever comes that is no frame, or not now, is answered with one clear error and the end."""

    async def main() -> None:
        for serve in (Outlet(Source(5)).serve, Inlet[Any]().run):
            left, right = pair()
            serving = asyncio.ensure_future(serve(left))
            await right.send(data)
            with pytest.raises(StreamError) as broken:
                await serving
            assert broken.value.code is Code.PROTOCOL
            said = [decode(each, 1000) for each in right.messages]
            assert getattr(said[-1], "code", None) is Code.PROTOCOL
            assert left.closed

    run_virtual(main())


def test_deliveries_are_done_in_any_order(pair: Pair) -> None:
    """Items may be processed side by side; what is acknowledged is what all before are done with."""

    async def main() -> None:
        left, right = pair()
        outlet: Outlet[int] = Outlet(Source(50))
        serving = asyncio.ensure_future(outlet.serve(left))
        got = []

        async with receive_stream(right, window=Window(items=6)) as received:

            async def work(delivery: Any) -> None:
                await asyncio.sleep(1 if delivery.item % 3 else 5)
                got.append(delivery.item)
                delivery.done()
                delivery.done()

            async with asyncio.TaskGroup() as group:
                async for delivery in received.deliveries():
                    group.create_task(work(delivery))
                    assert delivery.item - outlet.acknowledged <= 6 + 6
            assert sorted(got) == list(range(1, 51))
        await serving
        assert outlet.finished

    run_virtual(main())


def test_a_forgotten_iterator_cancels_the_stream(pair: Pair) -> None:
    """A loop that is left early, without a block, tells the sender all the same."""

    async def main() -> None:
        left, right = pair()
        source = Source(100)
        outlet = Outlet(source)
        serving = asyncio.ensure_future(outlet.serve(left))
        async for item in receive_stream(right):
            if item == 3:
                break
        await serving
        assert outlet.cancelled
        assert source.closed
        assert outlet.acknowledged == 2  # the third was in work

    run_virtual(main())


def test_a_place_in_a_log(pair: Pair) -> None:
    """A source that goes on from a place gives a stream that outlives its process."""

    async def main() -> None:
        async def log(after: int) -> AsyncIterator[int]:
            for number in range(after + 1, 11):
                yield number

        left, right = pair()
        first: Inlet[int] = Inlet(window=Window(items=4))
        serving = asyncio.ensure_future(Outlet(log(0), stream="log").serve(left))
        running = asyncio.ensure_future(first.run(right))
        for _ in range(3):
            (await first.get()).done()
        position = first.position
        assert position == ("log", 3)
        left.abort()
        await asyncio.gather(serving, running, return_exceptions=True)
        left, right = pair()
        stream, after = position
        received = receive_stream(right, stream=stream, after=after)
        sending = asyncio.ensure_future(send_stream(left, log(after), stream="log", after=after))
        assert [item async for item in received] == list(range(4, 11))
        await sending

    run_virtual(main())


def test_a_cancelled_sender_loses_nothing(pair: Pair) -> None:
    """An outlet whose task is cancelled at any moment goes on with another one, without loss."""

    async def main(moment: int, turns: int) -> None:
        outlet: Outlet[int] = Outlet(Source(12, pause=0.01))
        inlet: Inlet[int] = Inlet(window=Window(items=3))
        got = asyncio.ensure_future(collected(inlet))
        for attempt in range(20):
            left, right = pair(capacity=2)
            running = asyncio.ensure_future(inlet.run(right))
            serving = asyncio.ensure_future(outlet.serve(left))
            if attempt == 0:
                await pass_time(moment, turns)
                serving.cancel()
            await asyncio.gather(serving, running, return_exceptions=True)
            if outlet.finished:
                break
        assert await asyncio.wait_for(got, 10) == list(range(1, 13))

    for moment, turns in MOMENTS:
        run_virtual(main(moment, turns))


def test_a_cancelled_receiver_loses_nothing(pair: Pair) -> None:
    """A loop over a stream that is cancelled at any moment has processed what is acknowledged, and nothing else is."""

    async def main(moment: int, turns: int) -> None:
        outlet: Outlet[int] = Outlet(Source(12, pause=0.01))
        processed: list[int] = []
        inlet: Inlet[int] = Inlet(window=Window(items=3))

        async def process() -> None:
            async for item in inlet:
                await asyncio.sleep(0.001)
                processed.append(item)

        left, right = pair(capacity=2)
        serving = asyncio.ensure_future(outlet.serve(left))
        running = asyncio.ensure_future(inlet.run(right))
        processing = asyncio.ensure_future(process())
        await pass_time(moment, turns)
        if processing.cancel():
            await asyncio.wait([processing])
            await asyncio.sleep(1)
            assert outlet.acknowledged <= len(processed)
            right.abort()
            await asyncio.gather(serving, running, return_exceptions=True)
            left, right = pair()
            other: Inlet[int] = Inlet()
            again = asyncio.ensure_future(collected(other))
            await asyncio.gather(outlet.serve(left), other.run(right))
            processed += await again
        else:
            await asyncio.gather(serving, running)
        assert sorted(set(processed)) == list(range(1, 13))
        assert len(processed) <= 13

    for moment, turns in MOMENTS:
        run_virtual(main(moment, turns))


@pytest.mark.parametrize("connection", [object(), None, 3])
def test_a_connection_is_one(connection: object) -> None:
    """What can't send and receive is refused at once."""
    with pytest.raises(ConfigurationError, match="connection is"):
        channel_of(connection)


def test_a_source_is_one() -> None:
    """A list is no source that could be asked to wait."""
    with pytest.raises(ConfigurationError, match="source is"):
        Outlet([1, 2, 3])  # type: ignore[arg-type]


def test_codecs() -> None:
    """JSON is compact, in UTF-8 and without NaN; bytes are bytes."""
    assert JSON.encode({"tea": "ä"}) == '{"tea":"ä"}'.encode()
    assert JSON.decode(b'{"tea": 1}') == {"tea": 1}
    with pytest.raises(ValueError, match="JSON"):
        JSON.encode(float("nan"))
    assert BYTES.encode(bytearray(b"x")) == b"x"
    with pytest.raises(TypeError, match="codec"):
        BYTES.encode("x")  # type: ignore[arg-type]


def test_many_take_over_at_once(pair: Pair) -> None:
    """Of many connections that come at the same time one serves, and the stream goes on whole."""

    async def main() -> None:
        outlet: Outlet[int] = Outlet(Source(30))
        inlet: Inlet[int] = Inlet(window=Window(items=4))
        got = asyncio.ensure_future(collected(inlet))
        crowd = [asyncio.ensure_future(outlet.serve(pair()[0])) for _ in range(5)]
        left, right = pair()
        serving = asyncio.ensure_future(outlet.serve(left))
        await inlet.run(right)
        await serving
        assert await got == list(range(1, 31))
        for result in await asyncio.gather(*crowd, return_exceptions=True):
            assert isinstance(result, StreamError)
            assert result.code is Code.REPLACED

    run_virtual(main())

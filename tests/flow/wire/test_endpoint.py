"""The endpoints as ASGI applications: within frameworks, and with whatever a client may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket

from hormesis.core.credit_frames import (
    Accept,
    Code,
    Error,
    Item,
    Open,
)
from hormesis.errors import ConfigurationError
from hormesis.flow import Queue
from hormesis.flow.wire import (
    BYTES,
    IngestEndpoint,
    Pace,
    Reconnect,
    StreamEndpoint,
    StreamError,
    Window,
    receive,
    receive_stream,
    send,
    send_stream,
)
from hormesis.flow.wire.frames import Splitter, decode, encode
from hormesis.testing import run_virtual


async def numbers(scope: Any) -> AsyncIterator[int]:
    for number in range(1, 11):
        yield number


async def never(scope: Any) -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 1


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def frames_of(response: httpx.Response) -> list[Any]:
    splitter = Splitter(10_000)
    found = list(splitter.feed(response.content))
    assert splitter.empty
    return found


def test_a_request_gets_what_it_asks_for() -> None:
    """A request is answered with so many items; the next one acknowledges them and goes on."""

    async def main() -> None:
        endpoint = StreamEndpoint(numbers)
        async with client_of(endpoint) as client:
            first = frames_of(await client.get("/", params={"items": 2, "bytes": 100, "wait": 1}))
            assert isinstance(first[0], Accept)
            assert first[1:] == [Item(1, b"1"), Item(2, b"2")]
            name = first[0].stream
            again = await client.get("/", params={"items": 1, "bytes": 100, "stream": name, "after": 1})
            assert frames_of(again) == [Accept(2, name), Item(2, b"2")]
            (outlet,) = endpoint.outlets
            assert outlet.acknowledged == 1
            gone = await client.delete("/", params={"stream": name})
            assert gone.status_code == 204
            assert endpoint.outlets == []
            lost = frames_of(await client.get("/", params={"stream": name, "after": 1, "items": 1, "bytes": 1}))
            assert [(type(frame), frame.code) for frame in lost] == [(Error, Code.LOST)]

    run_virtual(main())


def test_a_request_waits_for_items_and_no_longer_than_it_said() -> None:
    """Without items, an answer comes after the time that was asked for, or that the server allows."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with client_of(StreamEndpoint(never, wait_max="5s")) as client:
            for asked, waits in ((2, 2), (1000, 5)):
                began = loop.time()
                answer = await client.get("/", params={"items": 1, "bytes": 9, "wait": asked})
                assert [type(frame) for frame in frames_of(answer)] == [Accept]
                assert loop.time() - began == pytest.approx(waits)

    run_virtual(main())


@pytest.mark.parametrize(
    "query",
    [
        "items=-1",
        "items=1.5",
        "items=99999999999999999999",
        "items=9223372036854775808",
        "bytes=%C2%B2",
        "after=x",
        "wait=-1",
        "wait=nan",
        "wait=inf",
        "wait=soon",
        "stream=" + "x" * 65,
        "stream=%C3%A4",
        "x" * 2000,
    ],
)
def test_a_query_that_means_nothing(query: str) -> None:
    """What can't be meant is answered with 400 and what would do; nothing is made for it."""

    async def main() -> None:
        endpoint = StreamEndpoint(numbers)
        async with client_of(endpoint) as client:
            answer = await client.get(f"/?{query}")
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"
        assert endpoint.outlets == []

    run_virtual(main())


def test_other_methods() -> None:
    """A stream is asked for and given up, and nothing else."""

    async def main() -> None:
        async with client_of(StreamEndpoint(numbers)) as client:
            answer = await client.post("/")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, DELETE")

    run_virtual(main())


def test_streams_are_bounded_and_kept_for_a_while() -> None:
    """Of a million clients that come and go, so many streams are kept, and none for longer than was said."""

    async def main() -> None:
        endpoint = StreamEndpoint(numbers, streams_max=3, resume_for="60s")
        async with client_of(endpoint) as client:
            for _ in range(10):
                await client.get("/", params={"items": 1, "bytes": 9})
            assert len(endpoint.outlets) == 3
            await asyncio.sleep(61)
            assert endpoint.outlets == []
        await endpoint.aclose()

    run_virtual(main())


def test_when_all_streams_are_in_use() -> None:
    """Who comes when there is no room is told when to come back."""

    async def main() -> None:
        endpoint = StreamEndpoint(never, streams_max=1, retry_after="7s")
        async with client_of(endpoint) as client:
            using = asyncio.ensure_future(client.get("/", params={"items": 1, "bytes": 9, "wait": 20}))
            await asyncio.sleep(1)
            refused = await client.get("/", params={"items": 1, "bytes": 9})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
            await using

    run_virtual(main())


class Socket:
    """A WebSocket's client by the messages of ASGI."""

    def __init__(self, app: Any) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.outgoing: list[Any] = []
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.serving = asyncio.ensure_future(app({"type": "websocket"}, self.incoming.get, self._take))

    async def _take(self, message: Any) -> None:
        self.outgoing.append(message)

    def say(self, **message: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", **message})

    @property
    def said(self) -> list[Any]:
        return [decode(message["bytes"], 1000) for message in self.outgoing if "bytes" in message]


@pytest.mark.parametrize(
    "message",
    [{"bytes": b"rubbish"}, {"text": "rubbish"}, {"bytes": b""}, {"bytes": b"\x0a" * 100_000}, {"text": None}],
    ids=["bytes", "text", "nothing", "giant", "neither"],
)
def test_a_websocket_that_says_rubbish(message: Any) -> None:
    """The first message opens a stream, or is answered with one error and the end."""

    async def main() -> None:
        endpoint = StreamEndpoint(numbers)
        socket = Socket(endpoint)
        socket.say(**message)
        await socket.serving
        assert [frame.code for frame in socket.said] == [Code.PROTOCOL]
        assert socket.outgoing[-1]["type"] == "websocket.close"
        assert endpoint.outlets == []

    run_virtual(main())


def test_a_websocket_that_says_nothing() -> None:
    """Who does not say what it wants is let go."""

    async def main() -> None:
        endpoint = StreamEndpoint(numbers)
        silent = Socket(endpoint)
        await silent.serving
        assert silent.outgoing[-1]["type"] == "websocket.close"
        gone = Socket(endpoint)
        gone.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await gone.serving
        unknown = Socket(endpoint)
        unknown.say(bytes=encode(Open(5, 1, 1, 1, None, "gone")))
        await unknown.serving
        assert [frame.code for frame in unknown.said] == [Code.LOST]
        assert endpoint.outlets == []

    run_virtual(main())


def test_the_lifespan_of_a_server_ends_the_streams() -> None:
    """A server that shuts down closes the sources."""

    async def main() -> None:
        closed = []

        async def source(scope: Any) -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                closed.append(True)

        endpoint = StreamEndpoint(source)
        async with client_of(endpoint) as client:
            await client.get("/", params={"items": 1, "bytes": 9})
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        said: list[Any] = []

        async def receive_message() -> Any:
            return next(messages)

        async def send_message(message: Any) -> None:
            said.append(message["type"])

        await endpoint({"type": "lifespan"}, receive_message, send_message)
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert closed

    run_virtual(main())


def test_within_a_framework() -> None:
    """A handler of FastAPI or Starlette streams with one line, in either direction, and an endpoint can be mounted."""
    app = FastAPI()
    taken: list[Any] = []

    @app.websocket("/down")
    async def down(websocket: WebSocket) -> None:
        await websocket.accept()
        await send_stream(websocket, numbers(None))

    @app.websocket("/up")
    async def up(websocket: WebSocket) -> None:
        await websocket.accept()
        async with receive_stream(websocket, codec=BYTES, window=Window(items=5)) as received:
            async for item in received:
                taken.append(item)

    app.mount("/mounted", StreamEndpoint(numbers))

    async def main() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def uploads() -> AsyncIterator[bytes]:
            for number in range(50):
                yield str(number).encode()

        for path in ("ws", "http"):
            async with receive(f"{path}://127.0.0.1:{port}/mounted/") as received:
                assert [item async for item in received] == list(range(1, 11))
        async with receive(f"ws://127.0.0.1:{port}/down") as received:
            assert [item async for item in received] == list(range(1, 11))
        await send(f"ws://127.0.0.1:{port}/up", uploads(), codec=BYTES)
        assert taken == [str(number).encode() for number in range(50)]
        with pytest.raises(Exception, match="there is no stream"):
            await anext(receive(f"ws://127.0.0.1:{port}/nowhere"))
        with pytest.raises(Exception, match="there is no stream"):
            await anext(receive(f"http://127.0.0.1:{port}/nowhere"))
        server.should_exit = True
        await serving
        brief = Reconnect(delay="10ms", delay_max="20ms", give_up="100ms")
        for scheme in ("ws", "http"):
            with pytest.raises(ConnectionError):
                await anext(receive(f"{scheme}://127.0.0.1:{port}/down", reconnect=brief))
        with pytest.raises(ConnectionError):
            await send(f"ws://127.0.0.1:{port}/up", uploads(), codec=BYTES, reconnect=brief)

    asyncio.run(main())


def test_a_stream_that_is_lost_is_an_error_or_begins_anew() -> None:
    """A receiver whose stream the server does not have any more is told so, or goes on with another."""

    async def main() -> None:
        endpoint = StreamEndpoint(numbers)
        for restart in (False, True):
            client = client_of(endpoint)
            received = receive("http://test/", client=client, restart=restart, window=Window(items=4))
            got = [await anext(received)]
            await endpoint.aclose()
            if restart:
                got += [item async for item in received]
                assert got[-10:] == list(range(1, 11))
            else:
                with pytest.raises(StreamError) as lost:
                    got += [item async for item in received]
                assert lost.value.code is Code.LOST
            await client.aclose()

    run_virtual(main())


def queue_of(room: int) -> Queue[Any]:
    return Queue(room, overflow="fail", pause_at=0.8, resume_at=0.4)


def test_a_full_queue_turns_away_until_it_is_low() -> None:
    """From the high mark on items are turned away with the time to come back, and from the low one taken again."""

    async def main() -> None:
        queue = queue_of(10)
        async with client_of(IngestEndpoint(queue)) as client:
            statuses = [(await client.post("/", json=number)).status_code for number in range(12)]
            assert statuses == [202] * 8 + [503] * 4
            for _ in range(3):
                queue.get_nowait()
            answer = await client.post("/", json=0)
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 2
            queue.get_nowait()
            assert (await client.post("/", json=0)).status_code == 202

    run_virtual(main())


def test_the_time_to_come_back_is_what_the_queue_takes() -> None:
    """A queue that needs two seconds for an item sends clients away for longer than one that is quick."""

    async def main() -> None:
        queue = queue_of(10)
        endpoint = IngestEndpoint(queue, retry_after_max="15s")
        async with client_of(endpoint) as client:
            for number in range(8):
                await client.post("/", json=number)
            for _ in range(2):
                await asyncio.sleep(2)
                queue.get_nowait()
                answer = await client.post("/", json=0)
            assert answer.status_code == 503
            assert 12 <= int(answer.headers["retry-after"]) <= 23

    run_virtual(main())


def test_bodies_that_can_not_be_taken() -> None:
    """Rubbish, giants, other methods, bodies that don't come and clients that go: a clear answer, and no item."""

    async def main() -> None:
        queue = queue_of(10)
        endpoint = IngestEndpoint(queue, max_body=100)
        async with client_of(endpoint) as client:
            assert (await client.post("/", content=b"rubbish")).status_code == 400
            assert (await client.post("/", content=b"[" * 99)).status_code == 400
            assert (await client.post("/", content=b"1" * 101)).status_code == 413
            assert (await client.get("/")).status_code == 405
        statuses: list[int] = []

        async def send_message(message: Any) -> None:
            statuses.append(message.get("status", 0))

        async def hang() -> Any:
            await asyncio.Event().wait()

        async def leave() -> Any:
            return {"type": "http.disconnect"}

        await endpoint({"type": "http", "method": "POST"}, hang, send_message)
        assert statuses[0] == 408
        statuses.clear()
        await endpoint({"type": "http", "method": "POST"}, leave, send_message)
        assert statuses == []
        queue.close()
        async with client_of(endpoint) as client:
            assert (await client.post("/", content=b"1")).status_code == 503
        assert len(queue) == 0

    run_virtual(main())


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({"overflow": "fail", "max_bytes": 100}, b"5"),
        ({"overflow": "conflate", "key": lambda item: item["id"], "otherwise": "fail"}, b'{"name": 1}'),
        ({"overflow": "conflate", "key": lambda item: item["id"], "otherwise": "fail"}, b'{"id": [1]}'),
    ],
)
def test_bodies_that_are_no_items_of_the_queue(settings: dict[str, Any], body: bytes) -> None:
    """What the queue's own functions can make nothing of is the client's mistake, and no error of the server."""

    async def main() -> None:
        queue = Queue[Any](10, **settings)
        async with client_of(IngestEndpoint(queue)) as client:
            assert (await client.post("/", content=body)).status_code == 400
        assert len(queue) == 0

    run_virtual(main())


def test_a_producer_that_heeds_its_pace() -> None:
    """A producer that asks its pace first is never turned away twice in a row, and everything arrives."""

    async def main() -> None:
        queue = queue_of(10)
        pace = Pace()
        refused = 0

        async def consume() -> list[int]:
            got = []
            while len(got) < 40:
                await asyncio.sleep(0.5)
                got.append(await queue.aget())
            return got

        consuming = asyncio.ensure_future(consume())
        async with client_of(IngestEndpoint(queue)) as client:
            for number in range(40):
                while True:
                    await pace.ready()
                    answer = await client.post("/", json=number)
                    if not pace.heed(answer.status_code, answer.headers):
                        break
                    refused += 1
        assert await consuming == list(range(40))
        assert 0 < refused < 15

    run_virtual(main())


def test_reasons_for_waiting() -> None:
    """A pace goes on when no reason is left, and no time that was asked for."""

    async def main() -> None:
        pace = Pace()
        pace.hold("blocked")
        pace.flow(True)
        pace.wait_for(3)
        waiting = asyncio.gather(*(pace.ready() for _ in range(3)))
        await asyncio.sleep(1)
        pace.release("blocked")
        await asyncio.sleep(4)
        assert not waiting.done()
        pace.flow(False)
        await waiting
        assert asyncio.get_running_loop().time() == 5
        assert not pace.held
        pace.wait_for(2)
        await pace.ready()
        assert asyncio.get_running_loop().time() == 7
        assert pace.heed(503, {"retry-after": "999999"})
        assert not pace.heed(500, {"retry-after": "5"})
        await pace.ready()
        assert asyncio.get_running_loop().time() == 7 + 3600

    run_virtual(main())


def test_a_giant_message_is_not_kept() -> None:
    """A message far beyond the largest item breaks the stream for good, and is not read whole."""
    from websockets.asyncio.server import serve

    async def giant(connection: Any) -> None:
        await connection.recv()
        await connection.send(encode(Accept(1, "s")))
        await connection.send(b"\x03" + bytes(8) + b"x" * 5_000_000)
        await connection.wait_closed()

    async def main() -> None:
        async with serve(giant, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            window = Window(bytes=100_000, item_bytes_max=1000)
            with pytest.raises(StreamError, match="larger than the largest item"):
                await anext(receive(f"ws://127.0.0.1:{port}/", window=window))

    asyncio.run(main())


def test_long_work_keeps_a_stream_over_requests() -> None:
    """A receiver that works for longer than streams are kept shows signs of life, and asks for nothing with them."""

    async def main() -> None:
        made: list[int] = []

        async def source(scope: Any) -> AsyncIterator[int]:
            for number in range(1, 31):
                made.append(number)
                yield number

        endpoint = StreamEndpoint(source, resume_for="60s")
        client = client_of(endpoint)
        got = []
        async with receive("http://test/", client=client, window=Window(items=8)) as received:
            async for item in received:
                if item == 2:
                    await asyncio.sleep(600)
                    assert len(made) == 8
                if item == 12:
                    received.pause()
                    await asyncio.sleep(600)
                    received.resume()
                got.append(item)
        assert got == list(range(1, 31))
        await client.aclose()
        assert endpoint.outlets == []

    run_virtual(main())


def test_a_receiver_over_requests_that_has_enough() -> None:
    """Leaving early gives the stream up at the server."""

    async def main() -> None:
        closed: list[bool] = []

        async def source(scope: Any) -> AsyncIterator[int]:
            try:
                for number in range(100):
                    yield number
            finally:
                closed.append(True)

        endpoint = StreamEndpoint(source)
        client = client_of(endpoint)
        async with receive("http://test/", client=client, window=Window(items=8)) as received:
            assert await anext(received) == 0
        await client.aclose()
        assert closed
        assert endpoint.outlets == []

    run_virtual(main())


@pytest.mark.parametrize(
    "answer",
    [b"\x00\x00\x00\x05\x05", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x63", b"<html>"],
    ids=["cut off", "giant", "unknown", "a page"],
)
def test_a_server_of_something_else(answer: bytes) -> None:
    """What answers and is no stream is an error, at once or when it goes on for too long; never an endless loop."""

    async def app(scope: Any, receive_message: Any, send_message: Any) -> None:
        await send_message({"type": "http.response.start", "status": 200, "headers": []})
        await send_message({"type": "http.response.body", "body": answer})

    async def main() -> None:
        client = client_of(app)
        brief = Reconnect(give_up="20s")
        with pytest.raises((StreamError, ConnectionError)):
            await anext(receive("http://test/", client=client, reconnect=brief))
        assert asyncio.get_running_loop().time() < 40
        await client.aclose()

    run_virtual(main())


def test_a_url_is_one() -> None:
    """What is neither a WebSocket's nor HTTP's address is refused."""
    with pytest.raises(ConfigurationError, match="url is 'ftp://x'"):
        receive("ftp://x")
    with pytest.raises(ConfigurationError, match="client is"):
        receive("http://x", client=3)
    with pytest.raises(ConfigurationError, match="url is 'http://x'"):
        run_virtual(send("http://x", numbers(None)))


def test_a_lease_keeps_a_silent_receiver_from_much() -> None:
    """Credit with a lease expires, and a stream that goes on slowly goes on all the same."""

    async def main() -> None:
        async def slow(scope: Any) -> AsyncIterator[int]:
            for number in range(5):
                await asyncio.sleep(7)
                yield number

        socket = Socket(StreamEndpoint(slow))
        socket.say(bytes=encode(Open(0, 3, 100, 100, 10.0)))
        await asyncio.sleep(30)
        kinds = [type(frame).__name__ for frame in socket.said]
        assert kinds[:4] == ["Accept", "Item", "Forfeit", "KeepAlive"]
        assert "Item" not in kinds[2:]
        socket.serving.cancel()

    run_virtual(main())

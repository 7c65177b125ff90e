"""The client against a scripted server: what ends an exchange, and what becomes of connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hormesis.loadgen.http1 import UNPROVEN_MAX, Client, Exchange
from hormesis.loadgen.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Ends:
    """Exchanges as they end, with their errors."""

    def __init__(self) -> None:
        self.all: list[tuple[Exchange, str]] = []
        self._more = asyncio.Event()

    def __call__(self, exchange: Exchange, error: str) -> None:
        self.all.append((exchange, error))
        self._more.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.all) < count:
                await self._more.wait()
                self._more.clear()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "status", "body", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello", ""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end", ""),
        (b"HTTP/1.0 404 Nope\r\n\r\n", 404, b"", ""),
        (b"HTTP/1.1 204 Empty\r\n\r\n", 204, b"", ""),
        (b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\n!", 201, b"!", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", 200, b"hel", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", 200, b"he", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nConte", 0, b"", "disconnected"),
        (b"", 0, b"", "disconnected"),
        (b"SMTP ready\r\n", 0, b"", "malformed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 101, b"", "malformed"),
    ],
)
def test_an_answer_ends_where_it_says(serve: Any, answer: bytes, status: int, body: bytes, error: str) -> None:
    """By length, by chunks, or with the connection; what breaks off before is no answer."""

    async def handle(call: Any) -> None:
        call.writer.write(answer)

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=True)
            client.send(Exchange(GET, keep_body=True))
            await ends.wait(1)
            client.close()
        ((exchange, found),) = ends.all
        assert (exchange.status, exchange.body, found) == (status, body, error)

    run(main)


def test_bytes_may_come_one_by_one(serve: Any) -> None:
    """Where the network cuts an answer is of no consequence; headers that are wanted are kept, others are not."""

    async def handle(call: Any) -> bytes:
        for byte in b"HTTP/1.1 200 OK\r\nX-Degraded: stale\r\nServer: s\r\nContent-Length: 2\r\n\r\no":
            call.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        return b"k"

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=True, headers=["x-degraded"])
            client.send(Exchange(GET, keep_body=True))
            await ends.wait(1)
            client.close()
        ((exchange, error),) = ends.all
        assert (exchange.headers, exchange.body, error) == ({"x-degraded": "stale"}, b"ok", "")

    run(main)


def test_head_has_no_body_and_keeps_its_connection(serve: Any, ok: Any) -> None:
    """The length of what GET would bring is not waited for; the next request goes over the same connection."""
    seen: list[Any] = []

    async def handle(call: Any) -> bytes:
        seen.append(call.writer)
        return ok() if call.head.startswith("GET") else b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=True)
            for number, payload in enumerate([GET.replace(b"GET", b"HEAD"), GET]):
                client.send(Exchange(payload, head_only=number == 0, keep_body=True))
                await ends.wait(number + 1)
            client.close()
        assert [(exchange.status, exchange.body, error) for exchange, error in ends.all] == [
            (200, b"", ""),
            (200, b"{}", ""),
        ]
        assert len(set(map(id, seen))) == 1

    run(main)


def test_connections_have_a_limit_and_what_finds_none_waits(serve: Any, ok: Any) -> None:
    """No more than the limit are open, all are answered, and those that wait may be abandoned."""
    open_again = asyncio.Event()
    writers: set[int] = set()

    async def handle(call: Any) -> bytes:
        writers.add(id(call.writer))
        await open_again.wait()
        return bytes(ok())

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=True, connections_max=3)
            exchanges = [Exchange(GET) for _ in range(10)]
            for exchange in exchanges:
                client.send(exchange)
            await asyncio.sleep(0.05)
            assert client.connections == 3
            client.abandon(exchanges[-1])
            client.abandon(exchanges[0])
            open_again.set()
            await ends.wait(8)
            client.close()
        assert {error for _, error in ends.all} == {""}
        assert {id(exchange) for exchange, _ in ends.all} == set(map(id, exchanges[1:-1]))
        assert len(writers) <= 4

    run(main)


def test_a_service_that_stops_is_not_met_with_ever_more_connections(serve: Any, ok: Any) -> None:
    """Of kept connections, few are open that have not answered anything; before the first answer there is no limit."""
    open_again = asyncio.Event()

    async def handle(call: Any) -> bytes:
        if call.target != "/first":
            await open_again.wait()
        return bytes(ok())

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=True)
            client.send(Exchange(GET.replace(b"/", b"/first", 1)))
            await ends.wait(1)
            for _ in range(200):
                client.send(Exchange(GET))
            await asyncio.sleep(0.1)
            assert client.connections == 1 + UNPROVEN_MAX
            assert client.waited == 200 - client.connections
            open_again.set()
            await ends.wait(201)
            client.close()
            open_again.clear()
            patient = Client(Origin.of(url), ends, keep_alive=True)
            for _ in range(200):
                patient.send(Exchange(GET))
            await asyncio.sleep(0.1)
            assert (patient.connections, patient.waited) == (200, 0)
            patient.close()
        assert {error for _, error in ends.all} == {""}

    run(main)


def test_what_waits_takes_whichever_connection_comes_first() -> None:
    """One whose first packet was dropped, which is repeated after a second, keeps nobody from another that is free."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, socket.socket() as filler:
            listening.setblocking(False)
            ends = Ends()
            client = Client(Origin.of(f"http://127.0.0.1:{listening.getsockname()[1]}"), ends, keep_alive=True)
            client.send(Exchange(GET))
            connection, _ = await loop.sock_accept(listening)
            filler.setblocking(False)
            await loop.sock_connect(filler, listening.getsockname())  # nobody accepts it: the queue is full
            client.send(Exchange(GET))
            began = loop.time()
            with connection:
                for number in (1, 2):
                    assert await loop.sock_recv(connection, 1000) == GET
                    await loop.sock_sendall(connection, b"HTTP/1.1 204 Empty\r\n\r\n")
                    await ends.wait(number)
                assert loop.time() - began < 0.5
                assert client.connections == 2
                client.close()
        assert [error for _, error in ends.all] == ["", ""]

    run(main)


def test_a_limit_holds_for_connections_of_one_request_as_well(serve: Any, ok: Any) -> None:
    """Each request has a connection of its own, no more than the limit at a time, and all are answered."""
    ports: list[int] = []

    async def handle(call: Any) -> bytes:
        ports.append(call.writer.get_extra_info("peername")[1])
        await asyncio.sleep(0.01)
        return bytes(ok())

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=False, connections_max=2)
            for _ in range(7):
                client.send(Exchange(GET))
            assert (client.connections, client.waited) == (2, 5)
            await ends.wait(7)
            client.close()
        assert {error for _, error in ends.all} == {""}
        assert len(set(ports)) == 7

    run(main)


def test_what_is_abandoned_leaves_nothing(serve: Any) -> None:
    """Whether it connects, waits or is under way: its connection is closed, and its end is not told."""
    gone = asyncio.Event()

    async def handle(call: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()

    async def main() -> None:
        async with serve(handle) as url:
            ends = Ends()
            client = Client(Origin.of(url), ends, keep_alive=True)
            connecting, under_way = Exchange(GET), Exchange(GET)
            client.send(connecting)
            client.abandon(connecting)
            client.send(under_way)
            await asyncio.sleep(0.05)
            client.abandon(under_way)
            await asyncio.sleep(0.05)
            assert client.connections == 0
            client.close()
        assert ends.all == []

    run(main)


def test_a_name_that_means_nothing_is_unreachable() -> None:
    """Neither names that nobody knows nor names that are none raise; and each exchange ends."""

    async def main() -> None:
        for host in ("nobody.invalid", "a" * 70 + ".invalid"):
            ends = Ends()
            client = Client(Origin.of(f"http://{host}"), ends, keep_alive=True)
            for _ in range(3):
                client.send(Exchange(GET))
            await ends.wait(3)
            client.close()
            assert {error for _, error in ends.all} == {"unreachable"}

    run(main)

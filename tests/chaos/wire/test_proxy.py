"""The proxy on real sockets with several faults at once: whom they strike, what they do, and that bytes stay whole."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from hormesis.chaos import (
    Bandwidth,
    BlackHole,
    Corrupt,
    FaultProxy,
    Latency,
    LimitData,
    Loss,
    Refuse,
    Reset,
    ResetPeer,
    Rewrite,
    Slicer,
    SlowClose,
    Status,
    Timeout,
    Truncate,
    WireFault,
)
from hormesis.chaos.wire import TestAuthority, TlsEnds
from hormesis.errors import ConfigurationError

PATIENCE = 10.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Scenario = Callable[[], Awaitable[None]]

uvloop.new_event_loop().close()  # The first one of a process opens a pipe for signals that stays.


def run(scenario: Scenario, *, loop: str = "asyncio") -> None:
    """Run a scenario, and see that it leaves no error in the loop and no open file behind."""
    errors: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(2 * PATIENCE):
            await scenario()
            while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110  servers end when they see that their clients have
                await asyncio.sleep(0.005)

    gc.collect()  # what others left
    files = len(os.listdir("/proc/self/fd"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(main())
    assert errors == []
    assert len(os.listdir("/proc/self/fd")) <= files  # what others left may go meanwhile


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


async def serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its path."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def edge(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = echo, **settings: object
) -> AsyncIterator[tuple[FaultProxy, Callable[..., Awaitable[Streams]]]]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    opened: list[asyncio.StreamWriter] = []
    proxy = FaultProxy("edge", server.sockets[0].getsockname(), **settings)  # type: ignore[arg-type]

    async def connect(**how: object) -> Streams:
        streams = await asyncio.open_connection(proxy.host, proxy.port, **how)  # type: ignore[arg-type]
        opened.append(streams[1])
        return streams

    async with server:
        async with proxy:
            yield proxy, connect
            for writer in opened:
                writer.close()
                with suppress(ConnectionError, ssl.SSLError):
                    await writer.wait_closed()
        assert proxy.active == 0


async def exchange(streams: Streams, data: bytes = b"ping") -> None:
    streams[1].write(data)
    async with asyncio.timeout(PATIENCE):
        assert await streams[0].readexactly(len(data)) == data


async def ask(streams: Streams, path: str = "/", method: str = "GET") -> tuple[int, str]:
    """Return status and body of an answer."""
    reader, writer = streams
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), (await reader.readexactly(length)).decode()


async def is_reset(streams: Streams) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionResetError):
            await streams[0].read(1)


async def is_closed(streams: Streams) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await streams[0].read()


async def lives(connect: Callable[..., Awaitable[Streams]], count: int) -> list[bool]:
    """Say which of some new connections live."""
    found = []
    for _ in range(count):
        try:
            await exchange(await connect())
            found.append(True)
        except (ConnectionError, asyncio.IncompleteReadError):
            found.append(False)
    return found


def test_several_faults_add_up() -> None:
    """Faults under different names act together, and go one by one."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            streams = await connect()
            proxy.apply(Latency(0.1), name="down")
            proxy.apply(Latency(0.1, stream="upstream"), name="up")
            assert list(proxy.faults) == ["down", "up"]
            for name, least in (("down", 0.2), ("up", 0.1), ("", 0.0)):
                begun = time.monotonic()
                await exchange(streams)
                assert least <= time.monotonic() - begun < least + 0.09
                proxy.lift(name)
            assert proxy.faults == {}

    run(scenario)


def test_changing_one_redraws_no_other() -> None:
    """A share that grows keeps all it had struck, and what another fault does changes nothing."""

    async def scenario() -> None:
        async with edge(seed=3) as (proxy, connect):
            opened = [await connect() for _ in range(30)]
            for streams in opened:
                await exchange(streams)

            async def struck() -> set[int]:
                """Which connections are silent just now."""
                for streams in opened:
                    streams[1].write(b"x")
                await asyncio.sleep(0.1)
                silent = {number for number, (reader, _) in enumerate(opened) if not reader._buffer}  # type: ignore[attr-defined]
                proxy.lift("hole")
                for reader, _ in opened:
                    await reader.readexactly(1)
                return silent

            found = []
            for share in (0.2, 0.5, 0.5):
                proxy.apply(BlackHole(share=share, stream="downstream"), name="hole")
                proxy.apply(Latency(0.001 * len(found) + 0.001), name="other")
                found.append(await struck())
            assert 0 < len(found[0]) < len(found[1]) < 30
            assert found[0] < found[1] == found[2]

    run(scenario)


def test_first_connections() -> None:
    """The first two connections after the fault came are struck; new settings go on counting, a new fault begins."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            assert await lives(connect, 2) == [True, True]
            proxy.apply(Reset("connect", connections="1-2"))
            assert await lives(connect, 4) == [False, False, True, True]
            proxy.apply(Reset("connect", connections="6"))
            assert await lives(connect, 2) == [True, False]
            assert proxy.affected_by("fault") == 3
            proxy.lift()
            proxy.apply(Reset("connect", connections="every 2"))
            assert await lives(connect, 4) == [True, False, True, False]

    run(scenario)


def test_first_requests() -> None:
    """The first two requests of the edge fail, whatever their connections; the dependency did not see them."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            live = await connect()
            await exchange(live)
            proxy.apply(Reset("request", requests="1-2"))
            assert await lives(connect, 1) == [False]
            live[1].write(b"ping")
            await is_reset(live)
            assert await lives(connect, 2) == [True, True]
            assert proxy.affected_by("fault") == 2

    run(scenario)


def test_one_request_is_late() -> None:
    """Of the requests on one connection, the one that is meant is late."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            streams = await connect()
            proxy.apply(Latency(0.15, requests=2))
            took = []
            for _ in range(3):
                begun = time.monotonic()
                await exchange(streams)
                took.append(time.monotonic() - begun >= 0.15)
            assert took == [False, True, False]

    run(scenario)


def test_client() -> None:
    """A fault that is meant for some clients leaves others alone."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            proxy.apply(Reset("connect", client="127.0.0.2"))
            assert await lives(lambda: connect(local_addr=("127.0.0.2", 0)), 1) == [False]
            assert await lives(lambda: connect(local_addr=("127.0.0.3", 0)), 1) == [True]
            port = (await connect())[1].get_extra_info("sockname")[1]
            proxy.apply(Reset("connect", client=f"127.0.0.1:{port}"))
            assert await lives(connect, 1) == [True]

    run(scenario)


def test_window() -> None:
    """A fault acts from and up to its moments, on live connections; so does one that refuses."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            streams = await connect()
            proxy.apply(BlackHole(after=0.1, until=0.3))
            begun = time.monotonic()
            await exchange(streams)
            assert time.monotonic() - begun < 0.1
            await asyncio.sleep(0.12)
            await exchange(streams)
            assert 0.28 <= time.monotonic() - begun < 0.6
            assert proxy.affected == 1
            proxy.apply(Refuse(until=0.1), name="down")
            with pytest.raises(ConnectionRefusedError):
                await connect()
            await asyncio.sleep(0.12)
            await exchange(await connect())

    run(scenario)


@pytest.mark.parametrize("stream", ["downstream", "upstream"])
def test_timeout(stream: str) -> None:
    """A connection goes silent and closes at its moment, however busy it is."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            streams = await connect()
            await exchange(streams)
            proxy.apply(Timeout(0.3, stream=stream))  # type: ignore[arg-type]
            begun = time.monotonic()

            async def chat() -> None:
                with suppress(ConnectionError):
                    while True:
                        streams[1].write(b"anyone?")
                        await streams[1].drain()
                        await asyncio.sleep(0.05)

            chatting = asyncio.create_task(chat())
            with suppress(ConnectionResetError):
                assert await is_closed(streams) == b""
            assert 0.3 <= time.monotonic() - begun < 0.8
            chatting.cancel()

    run(scenario)


def test_reset_peer_strikes_the_idle() -> None:
    """A connection on which nothing moves breaks at its moment, one that was opened later at its own."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            idle = await connect()
            await exchange(idle)
            proxy.apply(ResetPeer(0.15))
            begun = time.monotonic()
            await is_reset(idle)
            assert 0.14 <= time.monotonic() - begun < 0.6
            new = await connect()
            await is_reset(new)
            assert 0.28 <= time.monotonic() - begun < 1.2
            proxy.apply(ResetPeer(0))
            await is_reset(await connect())

    run(scenario)


def test_limit_data() -> None:
    """So many bytes of an answer come, slow as they are, then the connection is closed."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            proxy.apply(LimitData(10), name="limit")
            proxy.apply(Latency(0.05), name="slow")
            reader, writer = await connect()
            writer.write(bytes(range(20)))
            assert await is_closed((reader, writer)) == bytes(range(10))

    run(scenario)


def test_slow_close() -> None:
    """The end comes late, the bytes don't."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            proxy.apply(SlowClose(0.15))
            streams = await connect()
            begun = time.monotonic()
            await exchange(streams)
            streams[1].write_eof()
            assert time.monotonic() - begun < 0.15
            assert await is_closed(streams) == b""
            assert time.monotonic() - begun >= 0.15

    run(scenario)


def test_corrupt() -> None:
    """Damage happens where it should, and not to what is not meant."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            proxy.apply(Corrupt(1.0, requests=2))
            streams = await connect()
            await exchange(streams)
            streams[1].write(bytes(50))
            assert all(byte.bit_count() == 1 for byte in await streams[0].readexactly(50))

    run(scenario)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_faults_come_and_go_in_a_flood(loop: str) -> None:
    """Bytes that pour through the kernel's pipe stay whole when faults come and go, and when the reader is slow."""

    async def scenario() -> None:
        total = 30_000_000
        data = os.urandom(1_000_000)

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                for _ in range(total // len(data)):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        faults: list[WireFault] = [
            Latency(0.002, jitter=0.002),
            Slicer(5000, variation=100),
            Bandwidth("500MB/s"),
            BlackHole(until=0.01),
            SlowClose(0.01),
        ]
        async with edge(pour) as (proxy, _):
            event_loop = asyncio.get_running_loop()
            with socket.create_connection((proxy.host, proxy.port)) as sock:
                sock.setblocking(False)
                got = 0
                while got < total:
                    piece = await event_loop.sock_recv(sock, 300_000)
                    assert piece
                    for begin in range(0, len(piece), 777_777):
                        place = (got + begin) % len(data)
                        part = piece[begin : begin + 1000]
                        assert (data + data)[place : place + len(part)] == part
                    got += len(piece)
                    step = got // 400_000
                    if step % 3 == 0:
                        proxy.apply(faults[step % len(faults)], name=str(step % 2))
                    else:
                        proxy.lift()
                assert await event_loop.sock_recv(sock, 1) == b""
            assert proxy.sent_down == total

    run(scenario, loop=loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_many_connections(loop: str) -> None:
    """Hundreds of connections at once are served, each with its own bytes."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            proxy.apply(Latency(0.02, jitter="5ms"))
            opened = await asyncio.gather(*(connect() for _ in range(300)))
            await asyncio.gather(*(exchange(streams, os.urandom(100)) for streams in opened))
            assert proxy.affected == 300

    run(scenario, loop=loop)


def test_ipv6_and_unix(tmp_path: Path) -> None:
    """It listens on IPv6, and the dependency may be a Unix socket."""

    async def scenario() -> None:
        path = str(tmp_path / "dependency.sock")
        server = await asyncio.start_unix_server(echo, path)
        async with server, FaultProxy("edge", path, host="::1") as proxy:
            proxy.apply(Latency(0.01, client="::1"))
            streams = await asyncio.open_connection("::1", proxy.port)
            await exchange(streams)
            assert proxy.affected == 1
            streams[1].close()
            await streams[1].wait_closed()

    run(scenario)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_name_that_does_not_exist_yet(host: str) -> None:
    """A lazy proxy starts without its dependency's name; connections break until it is there. Others don't start."""

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=f"no such host as its upstream '{host}'"):
            await FaultProxy("edge", (host, 1)).start()
        async with FaultProxy("edge", (host, 1), lazy=True) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            await is_reset((reader, writer))
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario)


def test_http_faults() -> None:
    """By route, answers are given, delayed, cut off and changed; all others are as ever, on one kept connection."""

    async def scenario() -> None:
        async with edge(serve_http) as (proxy, connect):
            streams = await connect()
            assert await ask(streams, "/a") == (200, "/a")
            proxy.apply(Status(503, body="no", route="/pay/*", requests="1-2"), name="status")
            proxy.apply(Latency(0.15, route="/slow"), name="slow")
            proxy.apply(Rewrite({"Content-Type": "text/x"}, route="/x"), name="rewrite")
            assert [await ask(streams, "/pay/1") for _ in range(3)] == [(503, "no"), (503, "no"), (200, "/pay/1")]
            begun = time.monotonic()
            assert await ask(streams, "/a") == (200, "/a")
            assert time.monotonic() - begun < 0.15
            assert await ask(streams, "/slow") == (200, "/slow")
            assert time.monotonic() - begun >= 0.15
            assert proxy.affected_by("status") == 2
            proxy.lift()
            assert await ask(streams, "/pay/1") == (200, "/pay/1")
            proxy.apply(Truncate(2, route="/cut"))
            with pytest.raises(asyncio.IncompleteReadError):
                await ask(streams, "/cut")

    run(scenario)


def test_http_fault_in_mid_answer() -> None:
    """A fault that comes while an answer is under way begins with the next request, and harms nothing."""

    async def scenario() -> None:
        go_on = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGE")
                    await go_on.wait()
                    writer.write(b"T ")
            writer.close()

        async with edge(serve) as (proxy, connect):
            streams = await connect()
            asking = asyncio.create_task(ask(streams))
            await asyncio.sleep(0.05)
            proxy.apply(Status(503, route="*"))
            go_on.set()
            assert await asking == (200, "GET ")
            assert await ask(streams) == (503, "")

    run(scenario)


def test_http_fault_on_other_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP passes unharmed, and that is said once."""

    async def scenario() -> None:
        async with edge() as (proxy, connect):
            proxy.apply(Status(503, route="*"))
            for _ in range(3):
                streams = await connect()
                await exchange(streams, b"\x00\x01\r\n\r\n binary")
                await exchange(streams, b"more")

    with caplog.at_level(logging.WARNING, "hormesis.chaos"):
        run(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        "edge 'edge': bytes that are no HTTP/1.1 pass unchanged, though a fault wants to read requests"
    ]


AUTHORITY = TestAuthority()


def trusting(authority: TestAuthority = AUTHORITY) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("upstream", ["verify", "unverified", "plain"])
def test_tls_ends(upstream: str, loop: str, tmp_path: Path) -> None:
    """With TLS ended here, faults see requests; much passes whole, and ends are polite in both directions."""
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)

    async def scenario() -> None:
        context = None if upstream == "plain" else AUTHORITY.context("localhost")
        server = await asyncio.start_server(serve_http, "127.0.0.1", 0, ssl=context)
        bulk = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
        tls = TlsEnds(authority=AUTHORITY, upstream=upstream, upstream_ca=tmp_path / "ca.pem")  # type: ignore[arg-type]
        async with server, bulk:
            async with FaultProxy("edge", server.sockets[0].getsockname(), tls=tls) as proxy:
                proxy.apply(Status(418, body="tea", route="/tea"))
                streams = await asyncio.open_connection(
                    proxy.host, proxy.port, ssl=trusting(), server_hostname="shop.example"
                )
                assert await ask(streams, "/tea") == (418, "tea")
                assert await ask(streams, "/") == (200, "/")
                streams[1].close()
                await streams[1].wait_closed()
            async with FaultProxy("edge", bulk.sockets[0].getsockname(), tls=tls) as proxy:
                streams = await asyncio.open_connection(
                    proxy.host, proxy.port, ssl=trusting(), server_hostname="localhost"
                )
                data = os.urandom(3_000_000)
                await exchange(streams, data)
                proxy.apply(Latency(0.01, stream="both"))
                await exchange(streams, data[:100_000])
                streams[1].close()
                await streams[1].wait_closed()
                while proxy.active:  # noqa: ASYNC110  any moment will do
                    await asyncio.sleep(0.005)

    run(scenario, loop=loop)


def test_tls_that_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    """A dependency whose certificate is not good is not spoken to, and why is said once."""

    async def scenario() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=AUTHORITY.context("localhost")) as server:
            address = server.sockets[0].getsockname()
            async with FaultProxy("edge", address, tls=TlsEnds(authority=AUTHORITY)) as proxy:
                for _ in range(2):
                    streams = await asyncio.open_connection(
                        proxy.host, proxy.port, ssl=trusting(), server_hostname="localhost"
                    )
                    with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                        await exchange(streams)
                    streams[1].close()
                    with suppress(ConnectionError, ssl.SSLError):
                        await streams[1].wait_closed()

    with caplog.at_level(logging.WARNING, "hormesis.chaos"):
        run(scenario)
    (message,) = {record.getMessage() for record in caplog.records}
    assert message == "edge 'edge': TLS with the dependency failed: CERTIFICATE_VERIFY_FAILED"


def test_tls_passes_through() -> None:
    """Without a CA of ours TLS is bytes like all others."""

    async def scenario() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=AUTHORITY.context("localhost"))
        async with server, FaultProxy("edge", server.sockets[0].getsockname()) as proxy:
            proxy.apply(Status(503, route="*"))
            streams = await asyncio.open_connection(proxy.host, proxy.port, ssl=trusting(), server_hostname="localhost")
            await exchange(streams, os.urandom(200_000))
            streams[1].close()
            await streams[1].wait_closed()

    run(scenario)


def test_authority_is_kept(tmp_path: Path) -> None:
    """A CA in a folder is found again; what is none is refused."""
    made = TestAuthority(tmp_path / "ca")
    assert TestAuthority(tmp_path / "ca").pem == made.pem
    assert (tmp_path / "ca" / "ca.key").stat().st_mode & 0o077 == 0
    (tmp_path / "ca" / "ca.pem").write_text("nonsense")
    with pytest.raises(ConfigurationError, match="folder"):
        TestAuthority(tmp_path / "ca")
    with pytest.raises(ConfigurationError, match="upstream_ca"):
        TlsEnds(authority=made, upstream_ca=tmp_path / "none.pem")
    with pytest.raises(ConfigurationError, match="'verify'"):
        TlsEnds(authority=made, upstream="trust")  # type: ignore[arg-type]


def test_what_a_proxy_cannot_do() -> None:
    """Packets are lost by a firewall, and faults are bounded in number."""

    async def scenario() -> None:
        async with edge() as (proxy, _):
            with pytest.raises(ConfigurationError, match="firewall"):
                proxy.apply(Loss(0.1))
            for number in range(100):
                proxy.apply(Latency(1), name=str(number))
            with pytest.raises(ConfigurationError, match="at most 100"):
                proxy.apply(Latency(1), name="one more")

    run(scenario)

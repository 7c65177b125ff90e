"""The fault proxy, on real sockets: what each fault does to a connection, and that lifting it undoes it."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from hormesis.chaos import Bandwidth, BlackHole, FaultProxy, Latency, Refuse, Reset, WireFault, free_port
from hormesis.chaos.faults import ResetAt, Stream
from hormesis.chaos.wire import proxy as proxy_module
from hormesis.errors import ConfigurationError

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENCE = 10.0
"""Seconds after which something that should happen at once is given up."""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario, and see that it leaves no error in the loop, no task and no open file behind."""
    errors: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(3 * PATIENCE):
            await scenario()
            await until(lambda: len(asyncio.all_tasks()) == 1)

    gc.collect()  # what others left
    files = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert errors == []
    assert len(os.listdir("/proc/self/fd")) <= files  # what others left may go meanwhile


class Dependency:
    """A server that echoes what it gets, and remembers what it saw."""

    def __init__(self) -> None:
        self.connections = 0
        self.got = bytearray()
        self.ended = 0
        self.going_on = asyncio.Event()
        self.going_on.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError):
            while True:
                data = await reader.read(65536)
                self.got += data
                await self.going_on.wait()
                if not data:
                    self.ended += 1
                    writer.write_eof()
                    break
                writer.write(data)
                await writer.drain()
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def edge(*, seed: int = 0) -> AsyncIterator[tuple[FaultProxy, Dependency, Callable[[], Awaitable[Streams]]]]:
    """A dependency behind a proxy, and a way to connect to it; all connections are closed at the end."""
    dependency = Dependency()
    server = await asyncio.start_server(dependency.serve, "127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        proxy = FaultProxy("payments", server.sockets[0].getsockname(), seed=seed)

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            stack.push_async_callback(close, writer)
            return reader, writer

        async with server, proxy:
            yield proxy, dependency, connect
            dependency.going_on.set()
    assert proxy.active == 0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # any condition, of any object
            await asyncio.sleep(0.005)


async def receive(streams: Streams, size: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await streams[0].readexactly(size)


async def exchange(streams: Streams, data: bytes = b"ping") -> None:
    """Send, and get the same back."""
    streams[1].write(data)
    assert await receive(streams, len(data)) == data


async def is_reset(streams: Streams) -> None:
    """See the connection end by RST, which a polite end would not be."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionResetError):
            await streams[0].read(1)


async def is_silent(streams: Streams) -> None:
    """See that nothing arrives and nothing ends, for a moment."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.06):
            await streams[0].read(1)


def test_transparent() -> None:
    """Without a fault every byte arrives, in order, both ways, and is counted."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, connect):
            data = os.urandom(3_000_000)
            await exchange(await connect(), data)
            assert dependency.got == data
            assert (proxy.bytes_up, proxy.bytes_down) == (len(data), len(data))
            assert (proxy.connections, proxy.active, proxy.affected) == (1, 1, 0)

    run(scenario)


def test_half_close_by_client() -> None:
    """A caller that has said its last still gets its answer; when both have, the connection ends."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, connect):
            streams = await connect()
            dependency.going_on.clear()
            streams[1].write(b"last words")
            streams[1].write_eof()
            await asyncio.sleep(0.05)
            dependency.going_on.set()
            assert await receive(streams, 10) == b"last words"
            assert await streams[0].read() == b""
            await until(lambda: proxy.active == 0)
            assert dependency.ended == 1

    run(scenario)


def test_half_close_by_dependency() -> None:
    """A dependency that has said its last still hears its caller."""

    async def scenario() -> None:
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write_eof()
            heard.set_result(await reader.read())
            await close(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, FaultProxy("payments", server.sockets[0].getsockname()) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            assert await reader.read() == b""
            writer.write(b"still here")
            writer.write_eof()
            assert await heard == b"still here"
            await close(writer)

    run(scenario)


@pytest.mark.parametrize("fault", [None, Latency(0.01, stream="both"), Bandwidth("1GB/s", stream="both")])
def test_back_pressure(fault: WireFault | None) -> None:
    """A reader that stops stops the writer, with a bounded number of bytes under way; then all of them arrive."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, _):
            if fault:
                proxy.apply(fault)
            dependency.going_on.clear()
            total = 80_000_000
            loop = asyncio.get_running_loop()
            with socket.create_connection((proxy.host, proxy.port)) as client:
                client.setblocking(False)
                sending = asyncio.create_task(loop.sock_sendall(client, bytes(total)))
                passed = -1
                while passed != proxy.bytes_up or not passed:
                    passed = proxy.bytes_up
                    await asyncio.sleep(0.1)
                assert not sending.done()
                assert passed < total / 2
                dependency.going_on.set()
                got = 0
                while got < total:
                    got += len(await loop.sock_recv(client, 1_000_000))
                await sending

    run(scenario)


def test_dependency_is_down() -> None:
    """When the dependency refuses, the caller's connection breaks; it does not end politely."""

    async def scenario() -> None:
        async with FaultProxy("payments", ("127.0.0.1", free_port())) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            await is_reset((reader, writer))
            await close(writer)

    run(scenario)


def test_dependency_at_second_address() -> None:
    """All addresses of the dependency's name are tried."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            ground = proxy._ground
            assert ground is not None
            ground.dialler._found = [(socket.AF_INET, ("127.0.0.1", free_port())), *ground.dialler._found]
            await exchange(await connect())

    run(scenario)


def test_dependency_breaks() -> None:
    """A connection that the dependency breaks is broken for the caller too."""

    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, FaultProxy("payments", server.sockets[0].getsockname()) as proxy:
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            writer.write(b"x")
            await is_reset((reader, writer))
            await close(writer)

    run(scenario)


@pytest.mark.parametrize(("stream", "delay"), [("downstream", 0.1), ("upstream", 0.1), ("both", 0.2)])
def test_latency(stream: Stream, delay: float) -> None:
    """An answer comes later by the latency of the directions concerned, also on a connection that was there before."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, connect):
            streams = await connect()
            await exchange(streams)
            proxy.apply(Latency(0.1, stream=stream))
            for connection in (streams, await connect()):
                dependency.got.clear()
                begun = time.monotonic()
                connection[1].write(b"ping")
                await until(lambda: dependency.got)
                assert stream == "downstream" or time.monotonic() - begun >= 0.1
                assert await receive(connection, 4) == b"ping"
                assert time.monotonic() - begun >= delay
            assert proxy.affected == 2

    run(scenario)


def test_latency_keeps_throughput() -> None:
    """Chunks are late together, not one after the other."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            proxy.apply(Latency(0.2, stream="both"))
            begun = time.monotonic()
            await exchange(await connect(), os.urandom(3_000_000))
            took = time.monotonic() - begun
            # Fifty chunks, one after the other, would take twenty seconds.
            assert 0.4 <= took < 6

    run(scenario)


def test_latency_is_bounded_in_memory() -> None:
    """What is held under latency is bounded, and what did not fit arrives nevertheless."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            streams = await connect()
            await exchange(streams)
            proxy.apply(Latency(60, stream="upstream"))
            data = os.urandom(20_000_000)
            streams[1].write(data)
            (link,) = proxy._links
            bound = 4 * 1024 * 1024
            await until(lambda: link.held >= bound)
            await asyncio.sleep(0.1)
            assert link.held < bound + 256 * 1024
            proxy.lift()
            assert await receive(streams, len(data)) == data

    run(scenario)


def test_jitter_keeps_order() -> None:
    """With jitter chunks have delays of their own, but none overtakes another."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            proxy.apply(Latency(0.01, jitter=0.05, stream="both"))
            streams = await connect()
            data = os.urandom(400)
            for number in range(0, 400, 10):
                streams[1].write(data[number : number + 10])
                await asyncio.sleep(0.003)
            assert await receive(streams, 400) == data

    run(scenario)


def test_jitter_draws() -> None:
    """Delays are drawn from around the latency, and the same seed draws the same."""

    async def draws(seed: int) -> list[float]:
        async with edge(seed=seed) as (proxy, _, connect):
            proxy.apply(Latency(60, jitter=30, stream="upstream"))
            streams = await connect()
            for count in range(1, 9):
                streams[1].write(b"x")
                await until(lambda: proxy._links and held(proxy) == count)  # noqa: B023
            (link,) = proxy._links
            return list(link.lanes[0].chain.stages[0].lucks)

    def held(proxy: FaultProxy) -> int:
        (link,) = proxy._links
        return link.held

    async def scenario() -> None:
        first, again, other = await draws(1), await draws(1), await draws(2)
        assert first == again != other
        assert len(set(first)) == 8
        assert all(-1 <= luck <= 1 for luck in first)

    run(scenario)


def test_bandwidth() -> None:
    """So many bytes take their time, and come evenly."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            proxy.apply(Bandwidth("100KB/s"))
            streams = await connect()
            begun = time.monotonic()
            streams[1].write(bytes(40_000))
            arrivals = []
            async with asyncio.timeout(PATIENCE):
                got = 0
                while got < 40_000:
                    data = await streams[0].read(40_000)
                    got += len(data)
                    arrivals.append(time.monotonic() - begun)
                    # Never ahead of the rate, by more than the clock's grain.
                    assert got <= 100_000 * arrivals[-1] + 1
            assert len(arrivals) >= 3
            assert arrivals[-1] < 5

    run(scenario)


def test_bandwidth_makes_no_credit_of_waiting() -> None:
    """A line that stood idle does not make up for it in a burst."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            proxy.apply(Bandwidth("100KB/s"))
            streams = await connect()
            await asyncio.sleep(0.2)
            begun = time.monotonic()
            await exchange(streams, bytes(20_000))
            assert time.monotonic() - begun >= 0.2

    run(scenario)


@pytest.mark.parametrize("fault", [Latency(60, stream="both"), Bandwidth(10, stream="both"), BlackHole()])
def test_lifting_flushes(fault: WireFault) -> None:
    """What a fault held back flows when it is lifted, the end of the stream included."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, connect):
            live = await connect()
            await exchange(live)
            proxy.apply(fault)
            new = await connect()
            data = os.urandom(300_000)
            for streams in (live, new):
                streams[1].write(data)
                streams[1].write_eof()
                await is_silent(streams)
            assert dependency.ended == 0
            proxy.lift()
            proxy.lift()
            for streams in (live, new):
                assert await receive(streams, len(data)) == data
                assert await streams[0].read() == b""
            await until(lambda: proxy.active == 0)

    run(scenario)


def test_black_hole() -> None:
    """In a black hole connections stay open and new ones open, and not a byte moves in either direction."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, connect):
            live = await connect()
            await exchange(live)
            dependency.going_on.clear()
            live[1].write(b"answer me")
            await until(lambda: proxy.bytes_up == 13)
            proxy.apply(BlackHole())
            dependency.going_on.set()
            new = await connect()
            new[1].write(b"anyone?")
            await is_silent(live)
            await is_silent(new)
            assert (proxy.bytes_up, proxy.bytes_down, proxy.active, dependency.connections) == (13, 4, 2, 1)
            proxy.lift()
            assert await receive(live, 9) == b"answer me"
            assert await receive(new, 7) == b"anyone?"

    run(scenario)


def test_refuse() -> None:
    """The port is closed at once: live connections break, connecting is refused; it is open again when it is lifted."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            live = await connect()
            await exchange(live)
            proxy.apply(Refuse())
            await is_reset(live)
            with pytest.raises(ConnectionRefusedError):
                await connect()
            assert (proxy.active, proxy.affected) == (0, 1)
            proxy.lift()
            await exchange(await connect())

    run(scenario)


def test_refuse_keeps_the_port() -> None:
    """While it refuses, nobody else can take the port, whatever options they use."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            await exchange(await connect())
            for _ in range(2):
                proxy.apply(Refuse())
                for host in (proxy.host, ""):
                    for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)):
                        with socket.socket() as thief:
                            for option in options:
                                thief.setsockopt(socket.SOL_SOCKET, option, 1)
                            with pytest.raises(OSError, match="in use"):
                                thief.bind((host, proxy.port))
                proxy.lift()

    run(scenario)


def test_refuse_again_and_again() -> None:
    """Applying and lifting have happened when the call returns, without a turn of the loop in between."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            for _ in range(50):
                proxy.apply(Refuse())
                proxy.apply(Refuse())
                with pytest.raises(ConnectionRefusedError), socket.create_connection((proxy.host, proxy.port)):
                    pass
                proxy.lift()
                with socket.create_connection((proxy.host, proxy.port)):
                    pass
            proxy.apply(Refuse())
            proxy.apply(Latency(0.01))
            await exchange(await connect())

    run(scenario)


@pytest.mark.parametrize("moment", ["connect", "request", "answer"])
def test_reset(moment: ResetAt) -> None:
    """Idle connections break at once, new ones at their moment; only at the answer has the dependency done the work."""

    async def scenario() -> None:
        async with edge() as (proxy, dependency, connect):
            idle = await connect()
            await exchange(idle)
            dependency.got.clear()
            proxy.apply(Reset(moment))
            await is_reset(idle)
            if moment == "connect":
                with pytest.raises(ConnectionResetError):
                    await receive(await connect(), 1)
                assert dependency.connections == 1
            else:
                new = await connect()
                await is_silent(new)
                new[1].write(b"order")
                await is_reset(new)
                assert bytes(dependency.got) == (b"order" if moment == "answer" else b"")
            assert proxy.affected == 2
            proxy.lift()
            await exchange(await connect())

    run(scenario)


def test_reset_is_lifted_before_the_request() -> None:
    """A connection that was opened under a reset lives when the reset is lifted before its moment."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            proxy.apply(Reset("answer"))
            streams = await connect()
            await until(lambda: proxy.active == 1)
            proxy.lift()
            await exchange(streams)

    run(scenario)


async def survivors(seed: int, fault: WireFault, count: int = 40) -> tuple[list[bool], list[bool]]:
    """Say which connections survive a reset: those that were there before, those that came later."""

    async def alive(connection: Awaitable[Streams]) -> bool:
        with suppress(ConnectionError):
            await exchange(await connection)
            return True
        return False

    async def there(streams: Streams) -> Streams:
        return streams

    async with edge(seed=seed) as (proxy, _, connect):
        live = []
        for _ in range(count):
            live.append(await connect())
            await exchange(live[-1])
        proxy.apply(fault)
        old = [await alive(there(streams)) for streams in live]
        new = [await alive(connect()) for _ in range(count)]
        proxy.lift()
        proxy.apply(fault)
        assert [await alive(connect()) for _ in range(count)] == new
        return old, new


def test_share() -> None:
    """A share of the connections is affected, the same for the same seed; the others don't notice."""

    async def scenario() -> None:
        first = await survivors(1, Reset("connect", share=0.5))
        assert await survivors(1, Reset("connect", share=0.5)) == first
        assert await survivors(2, Reset("connect", share=0.5)) != first
        for group in first:
            assert 5 < sum(group) < 35
        assert await survivors(1, Reset("connect"), 10) == ([False] * 10, [False] * 10)

    run(scenario)


def test_a_share_of_the_answers() -> None:
    """Of a connection that carries many requests, a reset breaks a share of the answers, the same for the same seed."""

    async def lives(seed: int) -> list[int]:
        """Say how many exchanges each of some connections lives through."""
        lived = []
        async with edge(seed=seed) as (proxy, _, connect):
            proxy.apply(Reset("answer", share=0.2))
            for _ in range(10):
                streams, exchanges = await connect(), 0
                with suppress(ConnectionError):
                    while exchanges < 50:
                        await exchange(streams)
                        exchanges += 1
                lived.append(exchanges)
        return lived

    async def scenario() -> None:
        first = await lives(1)
        assert await lives(1) == first
        assert await lives(2) != first
        assert 10 < sum(first) < 150

    run(scenario)


def test_fault_is_replaced() -> None:
    """A fault takes the place of the one in force, for what is held too."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            streams = await connect()
            proxy.apply(Latency(60))
            streams[1].write(b"ping")
            await is_silent(streams)
            proxy.apply(BlackHole())
            await is_silent(streams)
            proxy.apply(Latency(0.01))
            assert await receive(streams, 4) == b"ping"
            proxy.apply(BlackHole(share=1e-9))
            await exchange(streams)

    run(scenario)


def test_storm() -> None:
    """Faults that come and go in a storm of connections leave nothing behind, and the edge works afterwards."""
    faults: list[WireFault] = [
        Latency(0.02, jitter=0.02, stream="both"),
        Bandwidth("50KB/s", share=0.5),
        BlackHole(),
        Refuse(),
        Reset("connect", share=0.3),
        Reset("request"),
        Reset(),
    ]

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):

            async def client() -> None:
                for size in (10, 5_000, 100_000):
                    with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                        reader, writer = await connect()
                        async with asyncio.timeout(0.5):
                            await exchange((reader, writer), bytes(size))
                        writer.transport.abort()

            clients = [asyncio.create_task(client()) for _ in range(60)]
            for fault in faults:
                proxy.apply(fault)
                await asyncio.sleep(0.05)
                if isinstance(fault, BlackHole | Latency):
                    proxy.lift()
            proxy.lift()
            await asyncio.gather(*clients)
            await exchange(await connect(), bytes(100_000))
            assert proxy.connections > 60

    run(scenario)


@pytest.mark.parametrize("fault", [None, Latency(60), Bandwidth(10), BlackHole(), Refuse(), Reset()])
def test_stop(fault: WireFault | None) -> None:
    """Stopping ends all connections and frees the port, in whatever state; it can be done twice, and undone."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            if fault:
                proxy.apply(fault)
            streams: list[Streams] = []
            with suppress(ConnectionRefusedError):
                streams.append(await connect())
                streams[0][1].write(bytes(100_000))
                await until(lambda: proxy.connections)
            await proxy.stop()
            await proxy.stop()
            proxy.lift()
            assert proxy.active == 0
            for reader, _ in streams:
                with suppress(ConnectionResetError):
                    await reader.read()
            with pytest.raises(ConnectionRefusedError):
                await connect()
            await proxy.start()
            await exchange(await connect())

    run(scenario)


def test_port_in_use() -> None:
    """A port that somebody else listens on is refused by edge and number."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"port {port} of edge 'payments'.* in use"):
                await FaultProxy("payments", ("127.0.0.1", 1), port=port).start()

    run(scenario)


def test_address_that_means_nothing() -> None:
    """A dependency or a place to listen that does not exist is refused by the name of the edge."""

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=r"edge 'payments'.*'no such host'"):
            await FaultProxy("payments", ("no such host", 1)).start()
        with pytest.raises(ConfigurationError, match=r"edge 'payments' on '192.0.2.1'"):
            await FaultProxy("payments", ("127.0.0.1", 1), host="192.0.2.1", port=4000).start()

    run(scenario)


def test_wrong_order() -> None:
    """A proxy that does not run takes no fault, and one that runs is not started again."""

    async def scenario() -> None:
        proxy = FaultProxy("payments", ("127.0.0.1", 1))
        with pytest.raises(RuntimeError, match="not running"):
            proxy.apply(Refuse())
        async with proxy:
            with pytest.raises(RuntimeError, match="running already"):
                await proxy.start()

    run(scenario)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond the bound wait at the port until one ends."""
    monkeypatch.setattr(proxy_module, "_CONNECTIONS_MAX", 2)

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            first, second, third = await connect(), await connect(), await connect()
            third[1].write(b"ping")
            await exchange(first)
            await exchange(second)
            await is_silent(third)
            assert proxy.active == 2
            await close(first[1])
            assert await receive(third, 4) == b"ping"

    run(scenario)


def test_no_file_descriptor_left() -> None:
    """When files run out, connections wait or break, the loop does not spin, and all is well again afterwards."""

    async def scenario() -> None:
        async with edge() as (proxy, _, connect):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            streams = [await connect() for _ in range(2)]
            for pair in streams:
                await exchange(pair)
            waiting = [socket.create_connection((proxy.host, proxy.port)) for _ in range(10)]
            highest = max(sock.fileno() for sock in waiting)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
            try:
                used = time.process_time()
                await asyncio.sleep(0.3)
                assert time.process_time() - used < 0.2
                await exchange(streams[0])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await exchange(await connect())
            for sock in waiting:
                sock.close()

    run(scenario)

"""What the fault proxy costs, beside no proxy, HAProxy and nginx stream: `python benchmarks/proxy.py [--quick]`.

The proxy runs on a core of its own; the server and the clients share the other, as they do without a proxy. All sides
are bare protocols, so what is compared is the proxies. What matters is the ratio to no proxy: in each round every
figure is taken without a proxy and then with each, the order reversed from round to round, and of the ratios of all
rounds the median counts, with the quartiles beside it. A host whose cores are virtual may give both of them together no
more than one is worth; then no proxy can come near 1, and so the first and the last line say how it was.

    throughput      GB/s that a server streams to one client, or to 100
    round trip      µs of 64 bytes there and back on one connection, median
    requests        HTTP/1.1 requests a second over 100 kept connections
    1,000           the same over 1,000 connections
    latency fault   ms between what a fault of 100 ms should cost and what it does, median over 50 connections
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import uvloop

from hormesis.chaos import FaultProxy, Latency, free_port

PROXY_CORE, OTHER_CORE = 0, 1
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + b"x" * 64
BULK = b"BULK"
ECHO = b"ECHO"
CHUNK = bytes(1024 * 1024)
DELAY = 0.1
WARM_UP = 0.15


class Server(asyncio.Protocol):
    """Streams without end to who says BULK, gives back to who says ECHO, and answers requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self.echo = self.streaming = False

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.echo:
            self.transport.write(data)
        elif data.startswith(BULK):
            self.streaming = True
            self.stream()
        elif data.startswith(ECHO):
            self.echo = True
            self.transport.write(data[len(ECHO) :])
        else:
            self.transport.write(ANSWER * data.count(b"\r\n\r\n"))

    def stream(self) -> None:
        """Write while there is room."""
        if self.streaming and not self.transport.is_closing():
            self.transport.write(CHUNK)
            asyncio.get_running_loop().call_soon(self.stream)

    def pause_writing(self) -> None:
        """Wait."""
        self.streaming = False

    def resume_writing(self) -> None:
        """Go on."""
        self.streaming = True
        self.stream()


async def serve(port: int) -> None:
    """Be the server."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def serve_ours(port: int, upstream: int, delay: float) -> None:
    """Be the proxy."""
    async with FaultProxy("bench", ("127.0.0.1", upstream), port=port) as proxy:
        if delay:
            proxy.apply(Latency(delay))
        await asyncio.get_running_loop().create_future()


class Client(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self.got += len(data)
        if self.got >= len(ANSWER):
            self.got -= len(ANSWER)
            self.counts[0] += 1
            self.transport.write(REQUEST)


async def requests(port: int, connections: int, duration: float) -> float:
    """Return requests a second."""
    loop, counts = asyncio.get_running_loop(), [0]
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(counts), "127.0.0.1", port)
        clients.append(client)
    for client in clients:
        client.transport.write(REQUEST)
    await asyncio.sleep(WARM_UP)
    before, begun = counts[0], time.perf_counter()
    await asyncio.sleep(duration)
    rate = (counts[0] - before) / (time.perf_counter() - begun)
    for client in clients:
        client.transport.abort()
    return rate


async def late(port: int) -> float:
    """Return by how many ms answers are later than the fault's delay, the median over many connections."""

    async def one(number: int) -> list[float]:
        await asyncio.sleep(number * 0.003)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = []
        for _ in range(10):
            begun = time.perf_counter()
            writer.write(REQUEST)
            await reader.readexactly(len(ANSWER))
            found.append(time.perf_counter() - begun - DELAY)
        writer.close()
        return found

    found = await asyncio.gather(*(one(number) for number in range(50)))
    return 1e3 * statistics.median(each for some in found for each in some)


def throughput(port: int, connections: int, duration: float) -> float:
    """Return GB/s."""
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for sock in socks:
        sock.sendall(BULK)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    buffer = bytearray(1024 * 1024)
    got, begun, started = 0, time.perf_counter(), False
    while (now := time.perf_counter()) - begun < (duration if started else WARM_UP + duration):
        if not started and now - begun > WARM_UP:
            got, begun, started = 0, now, True
        for key, _ in selector.select(0.1):
            with contextlib.suppress(BlockingIOError):
                got += key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
    for sock in socks:
        sock.close()
    return got / (time.perf_counter() - begun) / 1e9


def round_trip(port: int, duration: float) -> float:
    """Return µs."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(ECHO)
        found = []
        end = time.perf_counter() + duration
        while (begun := time.perf_counter()) < end:
            sock.sendall(bytes(64))
            sock.recv(64)
            found.append(time.perf_counter() - begun)
    return 1e6 * statistics.median(found)


FIGURES: dict[str, Callable[[int, float], float]] = {
    "1 connection GB/s": lambda port, duration: throughput(port, 1, duration),
    "100 GB/s": lambda port, duration: throughput(port, 100, duration),
    "round trip µs": round_trip,
    "requests/s": lambda port, duration: uvloop.run(requests(port, 100, duration)),
    "1,000 requests/s": lambda port, duration: uvloop.run(requests(port, 1000, duration)),
}

HAPROXY = """
global
  maxconn 4000
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option splice-auto
  maxconn 4000
listen bench
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{upstream}
"""
NGINX = """
{module}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 16000;
events {{ worker_connections 8000; }}
stream {{
  access_log off;
  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{upstream}; tcp_nodelay on; }}
}}
"""


@contextlib.contextmanager
def running(command: list[str], core: int, port: int) -> Iterator[None]:
    """Run a program on a core, from when its port is open until the block ends."""
    pinned = ["taskset", "-c", str(core), *command]
    process = subprocess.Popen(pinned, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"benchmarks/proxy.py: {command[0]} did not start")
                time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def candidates(folder: Path, upstream: int, ports: dict[str, int]) -> dict[str, list[str]]:
    """Return the proxies that there are, and how each is started."""
    us = [sys.executable, __file__]
    found = {}
    if haproxy := shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"):
        path = folder / "haproxy.cfg"
        path.write_text(HAPROXY.format(port=ports["HAProxy"], upstream=upstream))
        found["HAProxy"] = [haproxy, "-db", "-q", "-f", str(path)]
    if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        path = folder / "nginx.conf"
        load = f"load_module {module};" if module.exists() else ""
        path.write_text(NGINX.format(port=ports["nginx"], upstream=upstream, folder=folder, module=load))
        found["nginx"] = [nginx, "-c", str(path), "-p", str(folder)]
    for name, loop in (("hormesis, asyncio", "asyncio"), ("hormesis, uvloop", "uvloop")):
        found[name] = [*us, "--ours", str(ports[name]), "--upstream", str(upstream), "--loop", loop]
    return found


def main() -> None:
    """Be what is asked for: the server, the proxy, or who measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--only", action="append", help="measure this proxy; may be repeated")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ours", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--loop", default="uvloop", help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = uvloop.run if options.loop == "uvloop" else asyncio.run
    if options.serve:
        run(serve(options.serve))
    elif options.ours:
        run(serve_ours(options.ours, options.upstream, options.delay))
    else:
        compare(rounds=1 if options.quick else 5, duration=0.35, only=options.only)


def compare(rounds: int, duration: float, only: list[str] | None) -> None:
    """Measure all, and print the table."""
    os.sched_setaffinity(0, {OTHER_CORE})
    print(worth_of_two_cores())
    upstream = free_port("127.0.0.1")
    names = ["HAProxy", "nginx", "hormesis, asyncio", "hormesis, uvloop"]
    found: dict[str, dict[str, list[float]]] = {}
    late_by: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(running([sys.executable, __file__, "--serve", str(upstream)], OTHER_CORE, upstream))
        ports = {name: free_port("127.0.0.1") for name in names}
        places = {"none": upstream}
        for name, command in candidates(folder, upstream, ports).items():
            if not only or any(part in name for part in only):
                if "hormesis" in name:
                    with running([*command, "--delay", str(DELAY)], PROXY_CORE, ports[name]):
                        late_by[name] = statistics.median(asyncio.run(late(ports[name])) for _ in range(3))
                stack.enter_context(running(command, PROXY_CORE, ports[name]))
                places[name] = ports[name]
        for turn in range(rounds):
            for figure, measure in FIGURES.items():
                for name, port in list(places.items())[:: 1 if turn % 2 == 0 else -1]:
                    found.setdefault(name, {}).setdefault(figure, []).append(measure(port, duration))
    report(found, late_by)
    print(worth_of_two_cores())


def report(found: dict[str, dict[str, list[float]]], late_by: dict[str, float]) -> None:
    """Print the median of each figure, and of its ratios to no proxy."""
    nothing = found["none"]
    print("".join([f"{'proxy':<18}", *(f"{figure:>25}" for figure in FIGURES), f"{'latency fault +ms':>20}"]))
    for name in sorted(found, key=lambda name: name != "none"):
        line = f"{name:<18}"
        for figure, values in found[name].items():
            text = number(statistics.median(values))
            if name != "none":
                text += f" {compared(figure, values, nothing[figure])}"
            line += f"{text:>25}"
        print(line + (f"{late_by[name]:>20.2f}" if name in late_by else ""))


def compared(figure: str, values: list[float], nothing: list[float]) -> str:
    """Return what values are to those without a proxy, round by round: the median, and quartiles of ratios."""
    pairs = list(zip(values, nothing, strict=True))
    if "µs" in figure:
        return f"(+{statistics.median(value - none for value, none in pairs):.0f})"
    ratios = sorted(value / none for value, none in pairs)
    quarter = len(ratios) // 4
    return f"{statistics.median(ratios):.2f} ({ratios[quarter]:.2f}-{ratios[-1 - quarter]:.2f})"


def worth_of_two_cores() -> str:
    """Return how much more two busy cores do than one."""
    code = "import time\nn, end = 0, time.perf_counter() + 0.4\nwhile time.perf_counter() < end: n += 1\nprint(n)"

    def busy(*cores: int) -> int:
        commands = [["taskset", "-c", str(core), sys.executable, "-c", code] for core in cores]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
        return sum(int(process.communicate()[0]) for process in processes)

    alone = busy(PROXY_CORE), busy(OTHER_CORE)
    return f"two busy cores do {busy(PROXY_CORE, OTHER_CORE) / statistics.mean(alone):.2f} times the work of one"


def number(value: float) -> str:
    """Write a figure."""
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()

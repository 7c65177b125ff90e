"""Faults on the wire: a TCP proxy on one edge between two services, which needs no privilege and no change to either.

Without a fault it is transparent: half-closed connections stay half-closed, a slow reader slows the writer, a
dependency that is down is a connection that breaks. A fault comes into force and ends in the instant of the call
(`apply`, `lift`), on live connections and new ones alike.

Which connections a fault affects, when it affects only a share of them, is decided by a hash of (seed, edge, index of
the connection), as is the luck of a jitter: the same seed gives the same run. New connections are counted from the
moment the fault is applied; live ones keep the index they have.

`Refuse` closes the port, but must get it back. On Linux `shutdown()` makes a listening socket deaf while the port stays
bound to it: connecting is refused by the kernel, nobody else can take the port, and `listen()` reopens it. Two details
matter. A port that the kernel chose itself would be lost, so we choose it. And while it is deaf SO_REUSEADDR is off,
or another process with that option (most servers) could bind the port as well.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from types import TracebackType

from hormesis.chaos.faults import Bandwidth, BlackHole, Latency, Refuse, Reset, Stream, WireFault
from hormesis.chaos.processes import free_port
from hormesis.chaos.pump import CLEAR, Address, Link, Shape, Tally, luck
from hormesis.errors import ConfigurationError
from hormesis.units import bytes_per_second, seconds

__all__ = ["FaultProxy"]

_BACKLOG = 1024
_ACCEPTS_PER_TURN = 64
_CONNECTIONS_MAX = 10_000
_ACCEPT_PAUSE = 0.1
"""Seconds to leave new connections to the kernel's queue when they are too many, or no file descriptor is left."""


class FaultProxy:
    """The proxy of one edge.

    Args:
        name: The edge, for errors and as part of what decides who is affected.
        upstream: Host and port of the dependency.
        seed: What decides who is affected.
        host: Where to listen.
        port: Where to listen; 0 for a free port, to be read from `port` once started.

    >>> async def main():
    ...     async with FaultProxy("payments", ("127.0.0.1", 9000)) as proxy:
    ...         proxy.apply(Latency("2s"))
    ...         proxy.lift()
    >>> asyncio.run(main())
    """

    def __init__(
        self, name: str, upstream: tuple[str, int], *, seed: int = 0, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.name = name
        self.upstream = upstream
        self.seed = seed
        self.host = host
        self.port = port
        self.connections = 0
        """Connections accepted so far."""
        self.affected = 0
        """Connections that a fault was put on so far; one that lives through two faults counts twice."""
        self._up = Tally()
        self._down = Tally()
        self._fault: WireFault | None = None
        self._since_fault = 0
        self._links: dict[Link, int] = {}
        self._addresses: list[Address] = []
        self._listener: socket.socket | None = None
        self._listening = False
        self._pause: asyncio.TimerHandle | None = None

    @property
    def active(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def bytes_up(self) -> int:
        """Bytes passed on to the dependency so far."""
        return self._up.bytes

    @property
    def bytes_down(self) -> int:
        """Bytes passed on to the callers so far."""
        return self._down.bytes

    async def start(self) -> None:
        """Listen. One that was stopped can be started again, on the same port.

        Raises:
            ConfigurationError: The port is in use, or an address means nothing here.
        """
        if self._listener is not None:
            raise RuntimeError(f"the proxy of edge {self.name!r} is running already")
        self._loop = asyncio.get_running_loop()
        host, port = self.upstream
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            message = f"edge {self.name!r}: no such host as its upstream {host!r}: {error.strerror}"
            raise ConfigurationError(message, "upstream") from error
        self._addresses = [(family, address) for family, _, _, _, address in found]
        self._bind()

    async def stop(self) -> None:
        """Close the port and all connections. Stopping twice changes nothing."""
        if self._listener is None:
            return
        self._stop_accepting(self._listener)
        self._listener.close()
        self._listener = None
        self._listening = False
        self._fault = None
        for link in list(self._links):
            link.close()

    def apply(self, fault: WireFault) -> None:
        """Put a fault into force now, instead of the one in force, on live connections and new ones."""
        if self._listener is None:
            raise RuntimeError(f"the proxy of edge {self.name!r} is not running")
        self._fault = fault
        self._since_fault = 0
        if isinstance(fault, Refuse):
            self._refuse(self._listener)
            return
        self._listen(self._listener)
        for link, index in list(self._links.items()):
            hit = self._affects(fault, index)
            if hit and isinstance(fault, Reset):
                link.reset()
            else:
                self._shape(link, fault if hit or isinstance(fault, Reset) else None, index)

    def lift(self) -> None:
        """End the fault now: what is held flows, and connecting works. Without a fault, nothing changes."""
        if self._listener is None or self._fault is None:
            return
        self._fault = None
        self._listen(self._listener)
        for link, index in list(self._links.items()):
            self._shape(link, None, index)

    async def __aenter__(self) -> FaultProxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _bind(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        port = self.port or free_port(self.host)
        try:
            listener = socket.create_server((self.host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be listened on: {error.strerror}"
            message = f"port {port} of edge {self.name!r} on {self.host!r} {why}; leave it out to have one chosen"
            raise ConfigurationError(message, "port") from error
        listener.setblocking(False)
        self.port = port
        self._listener = listener
        self._listen(listener)

    def _listen(self, listener: socket.socket) -> None:
        if self._listening:
            return
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(_BACKLOG)
        self._start_accepting(listener)
        self._listening = True

    def _refuse(self, listener: socket.socket) -> None:
        if self._listening:
            self._stop_accepting(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            listener.shutdown(socket.SHUT_RDWR)
            self._listening = False
        self.affected += len(self._links)
        for link in list(self._links):
            link.reset()

    def _start_accepting(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._accept, listener)

    def _stop_accepting(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _accept(self, listener: socket.socket) -> None:
        """Take what waits at the port, a bounded number at a time so that live connections get their turn."""
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self._links) >= _CONNECTIONS_MAX:
                self._pause_accepting(listener)
                return
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._pause_accepting(listener)
                return
            self._admit(client)

    def _pause_accepting(self, listener: socket.socket) -> None:
        self._stop_accepting(listener)
        self._pause = self._loop.call_later(_ACCEPT_PAUSE, self._start_accepting, listener)

    def _admit(self, client: socket.socket) -> None:
        link = Link(client, self._addresses, (self._up, self._down), self._forget)
        self._links[link] = self.connections
        self.connections += 1
        index = self._since_fault
        self._since_fault += 1
        fault = self._fault
        if fault is None or (isinstance(fault, Reset) and fault.reset != "connect"):
            # Which requests and answers such a reset breaks, the lanes find out one by one.
            self.affected += fault is not None
            self._shape(link, fault, index)
        elif not self._affects(fault, index):
            self._shape(link, None, index)
        elif isinstance(fault, Reset):
            link.reset()
        else:
            self._shape(link, fault, index)

    def _forget(self, link: Link) -> None:
        del self._links[link]

    def _shape(self, link: Link, fault: WireFault | None, index: int) -> None:
        up, down = _shapes(fault)
        link.reshape(up, down, self._key(index))

    def _affects(self, fault: WireFault, index: int) -> bool:
        share = 1.0 if isinstance(fault, Refuse) else fault.share
        hit = luck(self._key(index)) < share
        self.affected += hit
        return hit

    def _key(self, index: int) -> str:
        return f"{self.seed}/{self.name}/{index}"


def _shapes(fault: WireFault | None) -> tuple[Shape, Shape]:
    """Say how bytes travel under a fault: upstream, downstream."""
    match fault:
        case Latency():
            delay = seconds(fault.latency)
            return _in(fault.stream, Shape(delay=delay, jitter=seconds(fault.jitter, zero=True)))
        case Bandwidth():
            return _in(fault.stream, Shape(rate=bytes_per_second(fault.bandwidth)))
        case BlackHole():
            return _in("both", Shape(shut=True))
        case Reset() if fault.reset != "connect":
            return _in("upstream" if fault.reset == "request" else "downstream", Shape(trap=fault.share))
        case _:
            return CLEAR, CLEAR


def _in(stream: Stream, shape: Shape) -> tuple[Shape, Shape]:
    return (CLEAR if stream == "downstream" else shape), (CLEAR if stream == "upstream" else shape)

"""Faults on the wire: a TCP proxy on one edge between two services, which needs no privilege and no change to either.

Without a fault it is transparent: half-closed connections stay half-closed, a slow reader slows the writer, a
dependency that is down is a connection that breaks. A fault comes into force and ends in the instant of the call
(`apply`, `lift`), on live connections and new ones alike. Several may be in force at once, each under its name; they
act one after the other, in the order they were put.

`Refuse` closes the port, but must get it back. On Linux `shutdown()` makes a listening socket deaf while the port stays
bound to it: connecting is refused by the kernel, nobody else can take the port, and `listen()` reopens it. Two details
matter. A port that the kernel chose itself would be lost, so we choose it. And while it is deaf SO_REUSEADDR is off,
or another process with that option (most servers) could bind the port as well.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import TracebackType

from hormesis.chaos.faults import WireFault
from hormesis.chaos.faults.aim import ByRequest
from hormesis.chaos.processes import free_port
from hormesis.chaos.wire.dialler import Dialler, Upstream
from hormesis.chaos.wire.forces import Force, Forces
from hormesis.chaos.wire.lane import Meter
from hormesis.chaos.wire.link import Ground, Link
from hormesis.chaos.wire.poller import Poller
from hormesis.chaos.wire.tls import TlsEnds
from hormesis.errors import ConfigurationError, MissingExtraError

__all__ = ["FaultProxy"]

_BACKLOG = 4096
_ACCEPTS_PER_TURN = 64
_CONNECTIONS_MAX = 10_000
_ACCEPT_PAUSE = 0.1
"""Seconds to leave new connections to the kernel's queue when they are too many, or no file descriptor is left."""


class FaultProxy:
    """The proxy of one edge.

    Args:
        name: The edge, for errors and as part of what decides who is affected.
        upstream: Host and port of the dependency, or the path of its Unix socket.
        seed: What decides who is affected.
        host: Where to listen.
        port: Where to listen; 0 for a free port, to be read from `port` once started.
        lazy: Whether the dependency's name need not exist before a connection needs it.
        tls: How TLS ends here; None: it passes through.

    >>> from hormesis.chaos import Latency, Reset
    >>> async def main():
    ...     async with FaultProxy("payments", ("127.0.0.1", 9000)) as proxy:
    ...         proxy.apply(Latency("2s"))
    ...         proxy.apply(Reset(share=0.1), name="flaky")
    ...         proxy.lift()
    >>> asyncio.run(main())
    """

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        lazy: bool = False,
        tls: TlsEnds | None = None,
    ) -> None:
        self.name = name
        self.upstream = upstream
        self.seed = seed
        self.host = host
        self.port = port
        self.lazy = lazy
        self.tls = tls
        self.connections = 0
        """Connections accepted so far."""
        self.affected = 0
        """Connections that a fault was put on so far; one that lives through two faults counts twice."""
        self._up = Meter()
        self._down = Meter()
        self._forces = Forces(seed, name)
        self._links: dict[Link, None] = {}
        self._ground: Ground | None = None
        self._listener: socket.socket | None = None
        self._listening = False
        self._pause: asyncio.TimerHandle | None = None
        self._window: asyncio.TimerHandle | None = None

    @property
    def active(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def received_up(self) -> int:
        """Bytes that came from the callers so far."""
        return self._up.received

    @property
    def sent_up(self) -> int:
        """Bytes passed on to the dependency so far."""
        return self._up.sent

    @property
    def received_down(self) -> int:
        """Bytes that came from the dependency so far."""
        return self._down.received

    @property
    def sent_down(self) -> int:
        """Bytes passed on to the callers so far."""
        return self._down.sent

    @property
    def bytes_up(self) -> int:
        """The same as `sent_up`."""
        return self._up.sent

    @property
    def bytes_down(self) -> int:
        """The same as `sent_down`."""
        return self._down.sent

    @property
    def faults(self) -> Mapping[str, WireFault]:
        """The faults in force by their names, in the order in which they act."""
        return self._forces.faults

    def affected_by(self, name: str) -> int:
        """Return how many connections the fault of this name has struck since it was put into force.

        Of a fault that picks requests it is the number of requests. Of a name that is not in force it is 0.
        """
        force = self._forces.get(name)
        return 0 if force is None else force.struck

    async def start(self) -> None:
        """Listen. One that was stopped can be started again, on the same port.

        Faults that are put into force right after it act on the first connection.

        Raises:
            ConfigurationError: The port is in use, or an address means nothing here.
        """
        if self._listener is not None:
            raise RuntimeError(f"the proxy of edge {self.name!r} is running already")
        self._loop = asyncio.get_running_loop()
        dialler = Dialler(self.upstream, self._loop)
        if not self.lazy:
            try:
                await dialler.look_up()
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or "it is no name of a host"
                message = f"edge {self.name!r}: no such host as its upstream {self.upstream[0]!r}: {why}"
                raise ConfigurationError(message, "upstream") from error
        listener = self._bind()
        self._ground = Ground(
            edge=self.name,
            key=self._forces.key,
            poller=Poller.hold(self._loop),
            dialler=dialler,
            up=self._up,
            down=self._down,
            to_clients=None if self.tls is None else self.tls.to_clients(),
            to_upstream=None if self.tls is None else self.tls.to_upstream(),
            upstream_name=self._upstream_name(),
            said=set(),
        )
        self._listener = listener
        self._listen(listener)

    async def stop(self) -> None:
        """Close the port and all connections, and lift all faults. Stopping twice changes nothing."""
        if self._listener is None or self._ground is None:
            return
        self._stop_accepting(self._listener)
        self._listener.close()
        self._listener = None
        self._listening = False
        self._forces.clear()
        self._watch_windows()
        for link in list(self._links):
            link.close()
        self._ground.dialler.close()
        self._ground.poller.release()
        self._ground = None

    def apply(self, fault: WireFault, *, name: str = "fault") -> None:
        """Put a fault into force now, on live connections and new ones.

        Under a name that is in force already it takes the other's place in the order of things, its counters, its luck
        and the beginning of its window: only the settings change.

        Args:
            fault: The fault.
            name: What to call it.

        Raises:
            ConfigurationError: It is nothing that a proxy can do, or there are too many.
            MissingExtraError: It must read HTTP, and the extra `gameday` is not installed.
            RuntimeError: The proxy does not run.
        """
        if self._listener is None:
            raise RuntimeError(f"the proxy of edge {self.name!r} is not running")
        if isinstance(fault, ByRequest) and fault.reads_http and find_spec("h11") is None:
            raise MissingExtraError("reading HTTP at a proxy", "gameday")
        force = self._forces.put(name, fault, self._loop.time())
        self._came_into_force([force])

    def lift(self, name: str | None = None) -> None:
        """End a fault now, or all of them: what is held flows. Where there is none, nothing changes.

        Args:
            name: Of the fault; None: all.
        """
        if self._listener is None:
            return
        names = list(self._forces.faults) if name is None else [name]
        lifted = [force for each in names if (force := self._forces.drop(each)) is not None]
        if not lifted:
            return
        for link in self._links:
            link.standing.forget(lifted)
        self._came_into_force([])

    async def __aenter__(self) -> FaultProxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _upstream_name(self) -> str:
        if self.tls is not None and self.tls.upstream_name is not None:
            return self.tls.upstream_name
        return "localhost" if isinstance(self.upstream, str) else self.upstream[0]

    def _came_into_force(self, begun: Iterable[Force]) -> None:
        """Let the faults that are in force now act, of which some have just begun to, or changed."""
        listener = self._listener
        if listener is None:
            return
        self._watch_windows()
        if self._forces.refusing:
            self._refuse(listener)
            return
        self._listen(listener)
        for link in list(self._links):
            acting = self._acting_on(link)
            if any(force.breaks(link.standing) for force in begun):
                link.reset()
            if not link.closed:  # What is released to another may have ended it, too.
                link.reshape(acting)

    def _acting_on(self, link: Link) -> list[Force]:
        acting, fresh = self._forces.acting_on(link.standing)
        self.affected += fresh
        return acting

    def _watch_windows(self) -> None:
        """Arrange to be called when the next window opens or closes."""
        if self._window is not None:
            self._window.cancel()
            self._window = None
        change = self._forces.next_change(self._loop.time())
        if change < math.inf:
            self._window = self._loop.call_at(change, self._window_changed, change)

    def _window_changed(self, moment: float) -> None:
        # Timers may be a hair early, and the moment itself is when it changes.
        self._came_into_force(self._forces.tick(max(moment, self._loop.time())))

    def _bind(self) -> socket.socket:
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
        return listener

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
        self._forces.refused(len(self._links))
        for link in list(self._links):
            link.reset()

    def _start_accepting(self, listener: socket.socket) -> None:
        if self._ground is not None:
            self._loop.add_reader(listener, self._accept, listener, self._ground)

    def _stop_accepting(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _accept(self, listener: socket.socket, ground: Ground) -> None:
        """Take what waits at the port, a bounded number at a time so that live connections get their turn."""
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self._links) >= _CONNECTIONS_MAX:
                self._pause_accepting(listener)
                return
            try:
                client, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._pause_accepting(listener)
                return
            self._admit(client, address, ground)

    def _pause_accepting(self, listener: socket.socket) -> None:
        self._stop_accepting(listener)
        self._pause = self._loop.call_later(_ACCEPT_PAUSE, self._start_accepting, listener)

    def _admit(self, client: socket.socket, address: object, ground: Ground) -> None:
        self.connections += 1
        link = Link(client, self._forces.admit(address), self.connections, ground, self._forget)
        self._links[link] = None
        acting = self._acting_on(link)
        if any(force.breaks_new(link.standing) for force in acting):
            link.reset()
        else:
            link.reshape(acting)

    def _forget(self, link: Link) -> None:
        del self._links[link]

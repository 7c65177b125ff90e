"""Readiness of many sockets at little cost, inside whatever event loop runs.

An event loop makes a handle for each socket that is ready and runs it by way of a context, which costs more than
passing on a small message. On Linux an epoll set is itself a file that is ready when one of its members is. So all
sockets of the proxies of a loop are in one set, the set is the only thing the loop watches, and a turn asks the set and
calls what is ready, several times over before the loop gets its own turn. Elsewhere the loop watches each socket.
"""

from __future__ import annotations

import asyncio
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

from hormesis.chaos.wire.pipes import Pipes

__all__ = ["Poller", "Watch"]

_BUFFER = 256 * 1024
_EVENTS_MAX = 512
_ROUNDS = 8
"""How often ready sockets are asked for before the loop gets its turn."""

Callback: TypeAlias = Callable[[], None]


class Watch:
    """What is to be called when a file can be read, or written.

    It must be stopped before the file is closed.
    """

    __slots__ = ("_poller", "fd", "reader", "since", "writer")

    def __init__(self, poller: Poller, fd: int) -> None:
        self.fd = fd
        self.since = 0
        """In which round it began to be watched."""
        self.reader: Callback | None = None
        self.writer: Callback | None = None
        self._poller = poller

    def on_readable(self, reader: Callback | None) -> None:
        """Call this whenever there is something to read, or the end of it; None: no more."""
        if reader != self.reader:
            self.reader = reader
            self._poller.changed(self)

    def on_writable(self, writer: Callback | None) -> None:
        """Call this whenever there is room to write; None: no more."""
        if writer != self.writer:
            self.writer = writer
            self._poller.changed(self)

    def stop(self) -> None:
        """Call nothing any more."""
        if self.reader is not None or self.writer is not None:
            self.reader = self.writer = None
            self._poller.changed(self)


class Poller(ABC):
    """The sockets of all proxies of one loop; it is there as long as one of them holds it."""

    _of_loops: ClassVar[dict[asyncio.AbstractEventLoop, Poller]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(_BUFFER))
        """Where what is read stands until its reader returns."""
        self.pipes = Pipes()
        self._holders = 0

    @staticmethod
    def hold(loop: asyncio.AbstractEventLoop) -> Poller:
        """Return the loop's poller; `release` must follow."""
        poller = Poller._of_loops.get(loop)
        if poller is None:
            kind = _EpollPoller if hasattr(select, "epoll") else _LoopPoller
            poller = Poller._of_loops[loop] = kind(loop)
        poller._holders += 1
        return poller

    def release(self) -> None:
        """Say that it is needed no more, by one who held it."""
        self._holders -= 1
        if not self._holders:
            del Poller._of_loops[self.loop]
            self.pipes.close()
            self._close()

    @abstractmethod
    def changed(self, watch: Watch) -> None:
        """Watch the file for what it has callbacks for."""

    @abstractmethod
    def _close(self) -> None: ...


class _EpollPoller(Poller):
    """An epoll set in the loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self._round = 0
        loop.add_reader(self._epoll.fileno(), self._turn)

    def changed(self, watch: Watch) -> None:
        wanted = (select.EPOLLIN if watch.reader else 0) | (select.EPOLLOUT if watch.writer else 0)
        if not wanted:
            # Not merely asked about nothing: errors would be reported all the same, again and again.
            del self._watches[watch.fd]
            self._epoll.unregister(watch.fd)
        elif watch.fd in self._watches:
            self._epoll.modify(watch.fd, wanted)
        else:
            self._watches[watch.fd] = watch
            watch.since = self._round
            self._epoll.register(watch.fd, wanted)

    def _turn(self) -> None:
        poll, watches = self._epoll.poll, self._watches
        for _ in range(_ROUNDS):
            self._round += 1
            ready = poll(0, _EVENTS_MAX)
            if not ready:
                return
            for fd, events in ready:
                watch = watches.get(fd)
                # Whoever was called before may have closed it, and one that was opened since may have its number.
                if watch is None or watch.since == self._round:
                    continue
                try:
                    if events != select.EPOLLOUT and watch.reader is not None:
                        watch.reader()
                    if events != select.EPOLLIN and watch.writer is not None:
                        watch.writer()
                except Exception as error:
                    self.loop.call_exception_handler({"message": "a connection's callback raised", "exception": error})

    def _close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


class _LoopPoller(Poller):
    """The loop itself."""

    def changed(self, watch: Watch) -> None:
        if watch.reader is not None:
            self.loop.add_reader(watch.fd, watch.reader)
        else:
            self.loop.remove_reader(watch.fd)
        if watch.writer is not None:
            self.loop.add_writer(watch.fd, watch.writer)
        else:
            self.loop.remove_writer(watch.fd)

    def _close(self) -> None:
        pass

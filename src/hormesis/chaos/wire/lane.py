"""One direction of a connection: what is read at its source goes through the chain of its faults to its sink.

A lane has three ways to carry bytes. With faults that act on it, or that pick requests, chunks go through the chain.
Without, what was read is sent at once, from one buffer that all lanes of a loop share; what the sink does not take is
kept, and nothing more is read before it has gone. And where much comes at once the kernel moves it from socket to
socket through a pipe, and nobody copies it. Changing between them is seamless, because each begins and ends with
nothing under way but what `ready` holds: what is in a pipe when a fault comes is taken out of it.

Everything is synchronous and runs in callbacks of the event loop; there is no task that could be cancelled half-way.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from typing import Protocol

from hormesis.chaos.faults import Stream, WireFault
from hormesis.chaos.wire.chain import Chain
from hormesis.chaos.wire.ends import AGAIN, End
from hormesis.chaos.wire.pipes import CAN_SPLICE, FLAGS, PIPE_SIZE, Pipe
from hormesis.chaos.wire.poller import Poller
from hormesis.chaos.wire.stages import Data, Mark

__all__ = ["Carrier", "Lane", "Meter"]

_BULK = 64 * 1024
"""Bytes in one read from which on a pipe is worth its while."""
_TRICKLE = 16 * 1024
"""Bytes in one move of a pipe below which it is not."""
_TRICKLES_MAX = 4
"""Such moves in a row after which the pipe is given back."""
_MOVES_MAX = 16
"""Moves before others get their turn."""


class Meter:
    """Bytes in one direction, over all connections of an edge."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Carrier(Protocol):
    """The connection, as its lanes see it."""

    closed: bool
    speaker: Lane | None
    """The lane on which bytes came last."""

    def arrived(self, lane: Lane, data: memoryview) -> None:
        """Take bytes that a lane has read, and feed it with them or with what becomes of them."""

    def ended(self, lane: Lane) -> None:
        """Take the end of a stream, and feed the lane with it."""

    def lane_finished(self) -> None:
        """Note that the sink of a lane has been told of the end."""

    def close(self) -> None:
        """Close both ends."""

    def reset(self) -> None:
        """Break both ends."""


class Lane:
    """One direction of a connection.

    Args:
        stream: Which one.
        carrier: The connection.
        source: Where bytes are read.
        sink: Where they are sent.
        meter: Counts them.
        poller: Whose buffer and pipes are used.
        seed: What decides the luck of its faults.
    """

    __slots__ = (
        "_buffer",
        "_bulk",
        "_carrier",
        "_loop",
        "_meter",
        "_pipe",
        "_poller",
        "_timer",
        "_trickles",
        "blocked",
        "chain",
        "finished",
        "holding",
        "over",
        "plain",
        "sink",
        "source",
        "stream",
    )

    def __init__(
        self, stream: Stream, carrier: Carrier, source: End, sink: End, meter: Meter, poller: Poller, seed: str
    ) -> None:
        self.stream = stream
        self.source = source
        self.sink = sink
        self.chain = Chain(stream, seed)
        self.plain = False
        """Whether bytes need nobody's attention."""
        self.holding = False
        """Whether nothing is to be read for now, since those who need to see it can't take it."""
        self.blocked = False
        """Whether the sink takes no more just now."""
        self.over = False
        """Whether the source has said its last; `finished` when the sink has been told."""
        self.finished = False
        self._buffer = poller.buffer
        self._carrier = carrier
        self._loop = poller.loop
        self._meter = meter
        self._poller = poller
        self._pipe: Pipe | None = None
        self._trickles = 0
        self._timer: asyncio.TimerHandle | None = None
        self._bulk = CAN_SPLICE and source.spliceable and sink.spliceable

    def reshape(self, plan: Sequence[tuple[str, WireFault]], *, watched: bool) -> None:
        """Let these faults act from now on, what is under way included; the first call starts the lane.

        Args:
            plan: The faults, in order.
            watched: Whether the carrier wants to see all that arrives.
        """
        if (plan or watched) and (pipe := self._pipe) is not None:
            if pipe.held:
                self.feed(memoryview(pipe.empty()))
            self._give_back(pipe)
        if self.chain.reshape(plan, self._loop.time()):
            self._carrier.close()
            return
        self.plain = not self.chain.stages and not watched
        self.pump()

    def feed(self, data: Data, struck: frozenset[str] = frozenset()) -> None:
        """Put something into the chain; `pump` must follow."""
        self.chain.feed(self._loop.time(), data, struck)

    def pump(self) -> None:
        """Move on and send all that is due, and arrange to be called when more is."""
        self._cancel_timer()
        chain, more = self.chain, True
        now = self._loop.time()
        try:
            for _ in range(_MOVES_MAX):
                more = chain.move(now)
                if chain.broken:
                    self._carrier.reset()
                    return
                self._send()
                if self._carrier.closed:
                    return
                if self.blocked or not (more or chain.due() <= now):
                    break
        except OSError:
            self._carrier.reset()
            return
        due = now if more else chain.due()
        if due < math.inf:
            self._timer = self._loop.call_at(due, self.pump)
        self.watch()

    def watch(self) -> None:
        """Read while there is room for more, and only then."""
        stop = self.over or self.blocked if self.plain else self.over or self.holding or self.chain.full
        self.source.watch.on_readable(None if stop else self._readable)
        if not stop and self.source.buffered:
            self._loop.call_soon(self._read_early)

    def stop(self) -> None:
        """Do nothing more."""
        self._cancel_timer()
        if self._pipe is not None:
            self._give_back(self._pipe)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read_early(self) -> None:
        """Read what no readiness of the socket will tell of: it came together with the end of a handshake."""
        if not self._carrier.closed and self.source.watch.reader is not None:
            self._readable()

    def _readable(self) -> None:
        """Read, and pass on."""
        if self._pipe is not None:
            self._splice(self._pipe)
            return
        try:
            size = self.source.recv_into(self._buffer)
        except AGAIN:
            return
        except OSError:
            self._carrier.reset()
            return
        self._meter.received += size
        if not size:
            self._come_to_end()
        elif self.plain:
            self._carrier.speaker = self
            self._pass_on(size)
        else:
            # A copy of its own: the buffer belongs to the next who reads.
            self._carrier.arrived(self, memoryview(bytes(self._buffer[:size])))
        if self.source.ended and not self.over:
            self._come_to_end()

    def _come_to_end(self) -> None:
        if self._carrier.closed:
            return
        self.over = True
        self._carrier.ended(self)

    def _pass_on(self, size: int) -> None:
        """Send what stands in the buffer, and keep what the sink does not take."""
        try:
            sent = self.sink.send(self._buffer[:size])
        except AGAIN:
            sent = 0
        except OSError:
            self._carrier.reset()
            return
        self._meter.sent += sent
        if sent < size:
            self.feed(memoryview(bytes(self._buffer[sent:size])))
        if sent < size or self.sink.unsent:
            self._block()
        if size >= _BULK and self._bulk and not self._carrier.closed:
            self._pipe = self._poller.pipes.borrow()

    def _send(self) -> None:
        """Send what is ready, as far as the sink takes it."""
        chain, sink = self.chain, self.sink
        while chain.ready and not self.blocked:
            data = chain.ready[0].data
            if sink.unsent and not sink.flush():
                break
            if isinstance(data, Mark):
                chain.sent(0)
                self._obey(data)
                if self._carrier.closed:
                    return
                continue
            try:
                sent = sink.send(data)
            except AGAIN:
                sent = 0
            self._meter.sent += sent
            chain.sent(sent)
            if sent < len(data):
                self._block()
        if sink.unsent:
            self._block()

    def _obey(self, mark: Mark) -> None:
        if mark is Mark.CLOSE:
            self._carrier.close()
        elif not self.finished:
            self.sink.end()
            self.finished = True
            self._carrier.lane_finished()

    def _block(self) -> None:
        self.blocked = True
        self.sink.watch.on_writable(self._writable)
        self.watch()

    def _writable(self) -> None:
        try:
            if not self.sink.flush() or (self._pipe is not None and not self._drain(self._pipe)):
                return
        except OSError:
            self._carrier.reset()
            return
        self.sink.watch.on_writable(None)
        self.blocked = False
        self.chain.stalled(self._loop.time())
        self.pump()

    def _splice(self, pipe: Pipe) -> None:
        """Let the kernel move what has come from socket to socket."""
        self._carrier.speaker = self
        try:
            for _ in range(_MOVES_MAX):
                size = os.splice(self.source.fd, pipe.writer, PIPE_SIZE, flags=FLAGS)
                if not size:
                    self._give_back(pipe)
                    self._come_to_end()
                    return
                self._meter.received += size
                pipe.held = size
                if not self._drain(pipe):
                    return
                self._trickles = self._trickles + 1 if size < _TRICKLE else 0
                if self._trickles > _TRICKLES_MAX:
                    self._give_back(pipe)
                    return
        except AGAIN:
            return
        except OSError:
            self._carrier.reset()

    def _drain(self, pipe: Pipe) -> bool:
        """Move what is in the pipe on to the sink, and say whether all of it went."""
        try:
            while pipe.held:
                moved = os.splice(pipe.reader, self.sink.fd, pipe.held, flags=FLAGS)
                pipe.held -= moved
                self._meter.sent += moved
        except AGAIN:
            self._block()
            return False
        return True

    def _give_back(self, pipe: Pipe) -> None:
        self._pipe = None
        self._trickles = 0
        self._poller.pipes.give_back(pipe)

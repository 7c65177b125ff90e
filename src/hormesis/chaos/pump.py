"""One connection through a fault proxy: two sockets, and a lane each way whose shape says how bytes travel.

A lane is a queue with a clock. A chunk that was read at time `t` may leave at

    due = max(t + delay, free) + bytes / rate

where `free` is when what went before has left. Without a fault `delay` is 0 and `rate` endless, so a chunk leaves as it
comes; latency only moves each chunk in time, so delays of consecutive chunks don't add up; a bandwidth spaces them. A
lane that is shut reads nothing and sends nothing, and loses nothing. So putting a fault into force, replacing it and
lifting it are one operation: set the shape, and look again at what is held.

Sockets are read and written here without transports, because faults need what transports hide: to stop sending what was
already taken, and to break a connection this instant. Everything below is synchronous and runs in callbacks of the
event loop; there is no task that could be cancelled half-way or fail unseen.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["CLEAR", "Address", "Link", "Shape", "Tally"]

Address: TypeAlias = tuple[int, Any]
"""A family and an address of it, as `getaddrinfo` returns them."""

_CHUNK = 64 * 1024
_HELD_MAX = 2 * _CHUNK
"""Bytes a lane holds before it stops reading, so that a slow reader slows the writer down, as it would without us."""
_HELD_MAX_DELAYED = 4 * 1024 * 1024
"""The same under latency, where holding is the point: this over the delay is the most a connection can carry."""
_CHUNKS_MAX = 10_000
"""Chunks a lane holds at most, because a chunk of one byte takes far more memory than that."""
_PIECES_PER_SECOND = 20
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST instead of FIN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How bytes travel in one direction.

    Args:
        delay: Seconds between reading a chunk and sending it on.
        jitter: The delay is drawn evenly from `delay ± jitter`, never below zero.
        rate: Bytes a second.
        shut: Nothing travels.
        trap: The share of turns whose first bytes break the connection. A turn begins when this side speaks after the
            other: a request, or its answer.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = math.inf
    shut: bool = False
    trap: float = 0.0

    @property
    def piece(self) -> int:
        """Bytes to send at once: small against the rate, so that what is slow is slow evenly."""
        return int(min(_CHUNK, max(1.0, self.rate / _PIECES_PER_SECOND)))

    @property
    def room(self) -> float:
        """Bytes to hold at most: at a high rate, enough to bridge the grain of the loop's timers."""
        if self.delay:
            return _HELD_MAX_DELAYED
        if math.isinf(self.rate):
            return _HELD_MAX
        return min(_HELD_MAX_DELAYED, max(_HELD_MAX, self.rate / _PIECES_PER_SECOND))


CLEAR = Shape()
"""No fault."""


def luck(key: str) -> float:
    """Draw a number in [0, 1) from a key, always the same one."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    # 53 bits, as many as a float holds: a number that is rounded up to 1 would escape a share of 1.
    return (int.from_bytes(digest) >> 11) / 2**53


class Tally:
    """Bytes passed on in one direction, over all connections."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Lane:
    """One direction of a connection: what is read from `source` is sent to `sink`, in the shape in force."""

    __slots__ = (
        "_blocked",
        "_ended",
        "_free_at",
        "_held",
        "_link",
        "_loop",
        "_piece",
        "_queue",
        "_reading",
        "_rng",
        "_room",
        "_seed",
        "_shape",
        "_sink",
        "_source",
        "_tally",
        "_timer",
        "finished",
    )

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket, tally: Tally) -> None:
        self.finished = False
        self._link = link
        self._source = source
        self._sink = sink
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._shape = CLEAR
        self._piece = CLEAR.piece
        self._room = CLEAR.room
        self._seed = ""
        self._rng = random.Random(0)
        self._queue: deque[tuple[float, float, memoryview]] = deque()  # read at, luck of the delay (-1 to 1), bytes
        self._held = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False
        self._blocked = False  # The sink takes no more just now.
        self._ended = False  # The source has said its last; `finished` when the sink has been told.

    def reshape(self, shape: Shape, seed: str) -> None:
        """Let bytes travel in a new shape from now on, those that are held included; the first call starts the lane."""
        self._shape = shape
        self._piece = shape.piece
        self._room = shape.room
        self._free_at = self._loop.time()
        self._seed = seed
        if shape.jitter:
            self._rng = random.Random(seed)
        self._pump()

    def stop(self) -> None:
        """Touch the sockets no more."""
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        self._queue.clear()
        self._cancel_timer()

    def _read(self) -> None:
        try:
            data = self._source.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._link.reset()
            return
        if data and self._link.turns_to(self) and self._shape.trap and self._is_trapped():
            self._link.reset()
            return
        # The end of the stream travels as an empty chunk, so that it is late, slow or held like the bytes before it.
        self._ended = not data
        luck = self._rng.uniform(-1, 1) if self._shape.jitter else 0.0
        self._queue.append((self._loop.time(), luck, memoryview(data)))
        self._held += len(data)
        self._pump()

    def _is_trapped(self) -> bool:
        return luck(f"{self._seed}/{self._link.turns}") < self._shape.trap

    def _pump(self) -> None:
        """Send all that is due, and arrange to be called when more is."""
        self._cancel_timer()
        try:
            while self._queue and not self._blocked and not self._shape.shut:
                start, piece = self._next()
                due = start + len(piece) / self._shape.rate
                if due > self._loop.time():
                    self._timer = self._loop.call_at(due, self._pump)
                    break
                self._send(start, piece)
        except OSError:
            self._link.reset()
            return
        self._watch()
        if self.finished:
            self._link.lane_finished()

    def _next(self) -> tuple[float, memoryview]:
        """Return when the line is free for the next piece, and the piece."""
        read_at, luck, chunk = self._queue[0]
        delay = max(0.0, self._shape.delay + luck * self._shape.jitter)
        return max(read_at + delay, self._free_at), chunk[: self._piece]

    def _send(self, start: float, piece: memoryview) -> None:
        if not piece:
            self._queue.popleft()
            self._sink.shutdown(socket.SHUT_WR)
            self.finished = True
            return
        try:
            sent = self._sink.send(piece)
        except (BlockingIOError, InterruptedError):
            sent = 0
        # From when it was due, not from now: a late timer must not slow the line down.
        self._free_at = start + sent / self._shape.rate
        self._tally.bytes += sent
        self._held -= sent
        read_at, luck, chunk = self._queue[0]
        if sent == len(chunk):
            self._queue.popleft()
        else:
            self._queue[0] = read_at, luck, chunk[sent:]
        if sent < len(piece):
            self._blocked = True
            self._loop.add_writer(self._sink, self._unblock)

    def _unblock(self) -> None:
        self._loop.remove_writer(self._sink)
        self._blocked = False
        # Time in which the sink took nothing is no credit: a slow line does not catch up in a burst.
        self._free_at = self._loop.time()
        self._pump()

    def _watch(self) -> None:
        """Read while there is room for more, and only then."""
        full = self._held >= self._room or len(self._queue) >= _CHUNKS_MAX
        wanted = not (full or self._ended or self._shape.shut)
        if wanted and not self._reading:
            self._loop.add_reader(self._source, self._read)
        elif self._reading and not wanted:
            self._loop.remove_reader(self._source)
        self._reading = wanted

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Link:
    """A connection through the proxy, from accepting the caller to the end of both lanes.

    Args:
        client: The caller's socket, just accepted.
        upstream: The dependency's addresses, tried in order.
        tallies: The counters of bytes: upstream, downstream.
        on_end: Called once, when both sockets are closed.
    """

    def __init__(
        self,
        client: socket.socket,
        upstream: Iterable[Address],
        tallies: tuple[Tally, Tally],
        on_end: Callable[[Link], None],
    ) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._upstream: socket.socket | None = None
        self._addresses = iter(upstream)
        self._tallies = tallies
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._shapes = (CLEAR, CLEAR)
        self._seed = ""
        self._lanes: tuple[Lane, ...] = ()
        self._speaker: Lane | None = None
        self.turns = 0
        """How often one side began to speak after the other."""
        self._closed = False

    def turns_to(self, lane: Lane) -> bool:
        """Note that bytes came in on a lane, and say whether they begin a turn."""
        turned = self._speaker is not lane
        self._speaker = lane
        self.turns += turned
        return turned

    def reshape(self, up: Shape, down: Shape, seed: str) -> None:
        """Let bytes travel in new shapes: upstream, downstream; the first call connects to the dependency.

        A connection that begins in a black hole is not dialled before it opens: its SYN would not get through either.
        """
        self._shapes = (up, down)
        self._seed = seed
        if self._lanes:
            self._shape_lanes()
        elif self._upstream is None and not up.shut:
            self._dial()

    def close(self) -> None:
        """Close both sides."""
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes:
            lane.stop()
        if self._upstream is not None:
            self._loop.remove_writer(self._upstream)
            self._upstream.close()
        self._client.close()
        self._on_end(self)

    def reset(self) -> None:
        """Break both sides: each peer gets RST, whatever was under way is lost."""
        if self._closed:
            return
        for side in (self._client, self._upstream):
            if side is not None:
                with suppress(OSError):  # The other end may have broken it first, and some systems then refuse.
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def lane_finished(self) -> None:
        """Close when both directions have ended; one alone is a half-closed connection, which is a normal thing."""
        if all(lane.finished for lane in self._lanes):
            self.close()

    def _dial(self) -> None:
        """Connect to the next address; when there is none left, the dependency is down and its caller must see it."""
        for family, address in self._addresses:
            try:
                upstream = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                break
            upstream.setblocking(False)
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if upstream.connect_ex(address) in (0, errno.EINPROGRESS):
                self._upstream = upstream
                self._loop.add_writer(upstream, self._dialled, upstream)
                return
            upstream.close()
        self.reset()

    def _dialled(self, upstream: socket.socket) -> None:
        self._loop.remove_writer(upstream)
        if upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            upstream.close()
            self._upstream = None
            self._dial()
            return
        up, down = self._tallies
        self._lanes = (Lane(self, self._client, upstream, up), Lane(self, upstream, self._client, down))
        self._shape_lanes()

    def _shape_lanes(self) -> None:
        for lane, shape, stream in zip(self._lanes, self._shapes, ("upstream", "downstream"), strict=True):
            if not self._closed:  # What the first lane releases may find the connection broken.
                lane.reshape(shape, f"{self._seed}/{stream}")

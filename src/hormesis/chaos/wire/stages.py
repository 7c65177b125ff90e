"""What each fault does to the bytes of one direction: queues with a clock, without I/O.

A direction is a chain of stages, one for each fault that acts on it, in the order the faults were put into force. A
stage is handed chunks (`put`), says when the first of them may go on (`due`), and gives it away (`take`) with the
moment at which it left: the moment it was due, not the moment somebody came to fetch it, so that late timers don't add
up. The end of the stream travels as a chunk without bytes and is late, slow or held like the bytes before it; so do the
orders to close or to break the connection, which some faults put into the stream.

What a stage drops cannot come back: `spoilt` says that it did, and that the connection can't go on without the stage.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from hormesis.chaos.faults import (
    Bandwidth,
    BlackHole,
    Corrupt,
    Latency,
    LimitData,
    Reset,
    ResetPeer,
    Slicer,
    SlowClose,
    Stream,
    Timeout,
    WireFault,
)
from hormesis.units import bytes_of, bytes_per_second, seconds

__all__ = ["HELD_MAX", "Chunk", "Data", "Mark", "Stage", "stage_for"]

HELD_MAX = 128 * 1024
"""Bytes a stage holds before it takes no more, so that a slow reader slows the writer down as it would without us."""
_HELD_MAX_DELAYED = 4 * 1024 * 1024
"""The same where holding is the point: this over the delay is the most that a connection under latency can carry."""
_CHUNKS_MAX = 10_000
"""Chunks a stage holds at most, because a chunk of one byte takes far more memory than that."""
_PIECES_PER_SECOND = 20
_PIECE_MAX = 64 * 1024
_NEVER = math.inf


class Mark(enum.Enum):
    """What a stream can hold besides bytes."""

    END = "this side has said its last"
    CLOSE = "the connection ends here, in both directions"
    RESET = "the connection breaks here"

    def __len__(self) -> int:
        return 0


Data: TypeAlias = memoryview | Mark


class Chunk(NamedTuple):
    """Something on its way.

    Args:
        at: When it came to where it is.
        data: Bytes, or a mark.
        struck: The names of the faults that strike the request to which it belongs.
    """

    at: float
    data: Data
    struck: frozenset[str] = frozenset()


class Stage:
    """What one fault does in one direction; this one lets all pass.

    Args:
        name: Under which the fault is in force.
        fault: The fault.
        seed: What decides its luck on this connection, in this direction.
        now: When it began to act on the connection.
    """

    delayed = False
    """Whether it holds on purpose."""

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        self.name = name
        self.fault = fault
        self.held = 0
        """Bytes that it holds."""
        self.spoilt = False
        """Whether bytes are gone for good, so that the connection can't live without this stage."""
        self.began = now
        self.rng = random.Random(seed)
        self.queue: deque[Chunk] = deque()

    @property
    def full(self) -> bool:
        """Whether it takes no more just now."""
        most = _HELD_MAX_DELAYED if self.delayed else HELD_MAX
        return self.held >= most or len(self.queue) >= _CHUNKS_MAX

    def acts_on(self, chunk: Chunk) -> bool:
        """Whether the chunk is struck."""
        return not self.fault.picks_requests or self.name in chunk.struck

    def put(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self.queue.append(chunk)
        self.held += len(chunk.data)

    def due(self) -> float:
        """Return when the first chunk, or a piece of it, may go on; infinity if that is not for time to tell."""
        return self.queue[0].at if self.queue else _NEVER

    def take(self) -> Chunk:
        """Give away what is due."""
        chunk = self.queue.popleft()
        self.held -= len(chunk.data)
        return chunk

    def update(self, fault: Any, now: float) -> None:
        """Act with other settings from now on."""
        self.fault = fault

    def stalled(self, now: float) -> None:
        """Note that nothing could go on until now, whatever was due."""

    def release(self) -> list[Chunk]:
        """Give away all that is held, in order, because the fault is lifted."""
        released = list(self.queue)
        self.queue.clear()
        self.held = 0
        return released

    def _cut(self, size: int, at: float) -> Chunk:
        """Take a piece off the first chunk."""
        first = self.queue[0]
        if isinstance(first.data, Mark) or len(first.data) <= size:
            return Stage.take(self)._replace(at=at)
        self.queue[0] = first._replace(data=first.data[size:])
        self.held -= size
        return first._replace(at=at, data=first.data[:size])


class _Late(Stage):
    """Latency: each chunk is moved in time, so the delays of consecutive chunks don't add up."""

    fault: Latency
    delayed = True

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        super().__init__(name, fault, seed, now)
        self.lucks: deque[float] = deque()
        self._left = -math.inf
        self._read(fault)

    def put(self, chunk: Chunk) -> None:
        super().put(chunk)
        # Kept, so that other settings change the delay and not the luck.
        self.lucks.append(self.rng.uniform(-1, 1))

    def due(self) -> float:
        if not self.queue:
            return _NEVER
        first, delay = self.queue[0], 0.0
        if self.acts_on(first):
            delay = max(0.0, self._latency + self.lucks[0] * self._jitter)
        return max(first.at + delay, self._left)

    def take(self) -> Chunk:
        self._left = self.due()
        self.lucks.popleft()
        return super().take()._replace(at=self._left)

    def update(self, fault: Any, now: float) -> None:
        super().update(fault, now)
        self._read(fault)

    def release(self) -> list[Chunk]:
        self.lucks.clear()
        return super().release()

    def _read(self, fault: Latency) -> None:
        self._latency, self._jitter = seconds(fault.latency, zero=True), seconds(fault.jitter, zero=True)


class _Thin(Stage):
    """Bandwidth: a piece takes its length over the rate, and the next begins when it has gone."""

    fault: Bandwidth

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        super().__init__(name, fault, seed, now)
        self._free = now
        self.rate = bytes_per_second(fault.bandwidth)

    @property
    def piece(self) -> int:
        """Bytes to send at once: small against the rate, so that what is slow is slow evenly."""
        return int(min(_PIECE_MAX, max(1.0, self.rate / _PIECES_PER_SECOND)))

    @property
    def full(self) -> bool:
        # At a high rate, enough to bridge the grain of the loop's timers.
        most = min(_HELD_MAX_DELAYED, max(HELD_MAX, self.rate / _PIECES_PER_SECOND))
        return self.held >= most or len(self.queue) >= _CHUNKS_MAX

    def due(self) -> float:
        if not self.queue:
            return _NEVER
        first = self.queue[0]
        start = max(first.at, self._free)
        return start + min(len(first.data), self.piece) / self.rate if self.acts_on(first) else start

    def take(self) -> Chunk:
        self._free = self.due()
        return self._cut(self.piece, self._free) if self.acts_on(self.queue[0]) else super().take()

    def update(self, fault: Any, now: float) -> None:
        super().update(fault, now)
        self._free = now
        self.rate = bytes_per_second(fault.bandwidth)

    def stalled(self, now: float) -> None:
        # Time in which nobody took anything is no credit: a slow line does not catch up in a burst.
        self._free = max(self._free, now)


class _Shut(Stage):
    """A black hole: nothing goes on, and nothing is lost."""

    fault: BlackHole

    @property
    def full(self) -> bool:
        return super().full if self.fault.picks_requests else True

    def due(self) -> float:
        return _NEVER if self.queue and self.acts_on(self.queue[0]) else super().due()


class _Sliced(Stage):
    """Small pieces, with a pause between one and the next."""

    fault: Slicer

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        super().__init__(name, fault, seed, now)
        self._free = now

    def due(self) -> float:
        return max(self.queue[0].at, self._free) if self.queue else _NEVER

    def take(self) -> Chunk:
        at = self.due()
        first = self.queue[0]
        if isinstance(first.data, Mark) or not self.acts_on(first):
            return super().take()._replace(at=at)
        self._free = at + seconds(self.fault.delay, zero=True)
        spread = bytes_of(self.fault.variation, least=0)
        return self._cut(bytes_of(self.fault.slicer) + self.rng.randint(-spread, spread), at)

    def stalled(self, now: float) -> None:
        self._free = max(self._free, now)


class _Dropping(Stage):
    """Timeout and reset of the peer: bytes are dropped, and at a moment that no byte moves the connection ends."""

    fault: Timeout | ResetPeer

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        super().__init__(name, fault, seed, now)
        self._over = False

    @property
    def full(self) -> bool:
        return False

    def put(self, chunk: Chunk) -> None:
        self.spoilt = True

    def due(self) -> float:
        if self._over:
            return _NEVER
        if isinstance(self.fault, ResetPeer):
            return self.began + seconds(self.fault.reset_peer, zero=True)
        return self.began + (seconds(self.fault.timeout, zero=True) or _NEVER)

    def take(self) -> Chunk:
        at, self._over = self.due(), True
        return Chunk(at, Mark.RESET if isinstance(self.fault, ResetPeer) else Mark.CLOSE)


class _EndLate(Stage):
    """A slow close: the end of the stream is late."""

    fault: SlowClose
    delayed = True

    def due(self) -> float:
        if not self.queue:
            return _NEVER
        first = self.queue[0]
        wait = seconds(self.fault.slow_close, zero=True) if isinstance(first.data, Mark) else 0.0
        return first.at + wait

    def take(self) -> Chunk:
        at = self.due()
        return super().take()._replace(at=at)


class _Limited(Stage):
    """A limit of bytes: those beyond it never pass, and the connection is closed in their place."""

    fault: LimitData

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        super().__init__(name, fault, seed, now)
        self._passed = 0
        self._over = False

    def put(self, chunk: Chunk) -> None:
        if self._over:
            return
        left = self._left()
        if isinstance(chunk.data, Mark) or len(chunk.data) < left:
            self._passed += len(chunk.data)
            super().put(chunk)
            return
        self._passed += left
        if left:
            super().put(chunk._replace(data=chunk.data[:left]))
        self._close(chunk.at)

    def update(self, fault: Any, now: float) -> None:
        super().update(fault, now)
        if self._passed and not self._left() and not self._over:
            self._close(now)

    def _left(self) -> int:
        return max(0, bytes_of(self.fault.limit_data, least=0) - self._passed)

    def _close(self, at: float) -> None:
        self._over = True
        super().put(Chunk(at, Mark.CLOSE))


class _Corrupted(Stage):
    """Single bits flipped, at distances drawn so that each byte has the same chance."""

    fault: Corrupt

    def __init__(self, name: str, fault: Any, seed: str, now: float) -> None:
        super().__init__(name, fault, seed, now)
        self._next = self._distance()

    def put(self, chunk: Chunk) -> None:
        if not isinstance(chunk.data, Mark) and self.acts_on(chunk):
            data = bytearray(chunk.data)
            while self._next < len(data):
                data[self._next] ^= 1 << self.rng.randrange(8)
                self._next += 1 + self._distance()
            self._next -= len(data)
            chunk = chunk._replace(data=memoryview(data))
        super().put(chunk)

    def update(self, fault: Any, now: float) -> None:
        super().update(fault, now)
        self._next = self._distance()

    def _distance(self) -> int:
        """Return how many bytes are spared before the next: geometric, as of independent draws for each byte."""
        if self.fault.corrupt >= 1:
            return 0
        return int(math.log(1.0 - self.rng.random()) / math.log1p(-self.fault.corrupt))


class _Trap(Stage):
    """A reset at a request or an answer: its first bytes break the connection."""

    fault: Reset

    def put(self, chunk: Chunk) -> None:
        if len(chunk.data) and self.acts_on(chunk):
            chunk = Chunk(chunk.at, Mark.RESET)
        super().put(chunk)


_MADE: dict[type[Any], type[Stage]] = {
    Latency: _Late,
    Bandwidth: _Thin,
    BlackHole: _Shut,
    Slicer: _Sliced,
    Timeout: _Dropping,
    ResetPeer: _Dropping,
    SlowClose: _EndLate,
    LimitData: _Limited,
    Corrupt: _Corrupted,
}


def stage_for(fault: WireFault, stream: Stream) -> Callable[[str, Any, str, float], Stage] | None:
    """Return what makes the stage of a fault in a direction; None if it does nothing to the bytes there."""
    if isinstance(fault, Reset):
        moment = {"upstream": "request", "downstream": "answer"}[stream]
        return _Trap if fault.reset == moment else None
    kind = _MADE.get(type(fault))
    return kind if kind is not None and getattr(fault, "stream", stream) in (stream, "both") else None

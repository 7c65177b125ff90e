"""One direction of a connection, without I/O: the stages of the faults that act on it, and what is ready to be sent.

Putting a fault into force, changing it and lifting it are one operation: `reshape` says which faults act from now on.
A stage that stays keeps what it holds; what a stage held that goes moves into the one that follows it, so whatever
happens, bytes stay whole and in order. A new stage at the end gets what was ready to be sent: a fault acts on all that
has not left.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from hormesis.chaos.faults import Stream, WireFault
from hormesis.chaos.wire.stages import HELD_MAX, Chunk, Data, Mark, Stage, stage_for

__all__ = ["Chain"]

_STEPS_MAX = 512
"""Chunks that are moved before others get their turn."""


class Chain:
    """The faults of one direction, and the bytes that are under way in it.

    Args:
        stream: The direction.
        seed: What decides luck in it.
    """

    def __init__(self, stream: Stream, seed: str) -> None:
        self.stream: Stream = stream
        self.seed = seed
        self.stages: list[Stage] = []
        self.ready: deque[Chunk] = deque()
        """What has passed all stages."""
        self.ready_bytes = 0
        self.broken = False
        """Whether a fault breaks the connection, whatever else is under way."""

    @property
    def full(self) -> bool:
        """Whether no more should be fed."""
        return self.stages[0].full if self.stages else self._ready_full

    @property
    def _ready_full(self) -> bool:
        return self.ready_bytes >= HELD_MAX or len(self.ready) >= _STEPS_MAX

    @property
    def held(self) -> int:
        """Bytes under way."""
        return self.ready_bytes + sum(stage.held for stage in self.stages)

    def feed(self, now: float, data: Data, struck: frozenset[str] = frozenset()) -> None:
        """Put bytes, or a mark, in at the source's end."""
        self._put(0, Chunk(now, data, struck))

    def move(self, now: float) -> bool:
        """Move on all that is due, as far as there is room, and say whether there is more to be moved at once."""
        steps = 0
        moved = True
        while moved:
            moved = False
            for place, stage in enumerate(self.stages):
                while stage.due() <= now and self._has_room(place + 1):
                    if steps == _STEPS_MAX:
                        return True
                    self._put(place + 1, stage.take())
                    steps += 1
                    moved = True
        return False

    def due(self) -> float:
        """Return when something can be moved next; infinity if that is not for time to tell."""
        found = (stage.due() for place, stage in enumerate(self.stages) if self._has_room(place + 1))
        return min(found, default=math.inf)

    def stalled(self, now: float) -> None:
        """Note that the sink took nothing until now."""
        for stage in self.stages:
            stage.stalled(now)

    def sent(self, size: int) -> None:
        """Take bytes off what is ready: all of the first chunk, or a part of it."""
        first = self.ready[0]
        self.ready_bytes -= size
        if isinstance(first.data, Mark) or size == len(first.data):
            self.ready.popleft()
        else:
            self.ready[0] = first._replace(data=first.data[size:])

    def reshape(self, plan: Sequence[tuple[str, WireFault]], now: float) -> bool:
        """Let these faults act from now on, under these names and in this order.

        Returns:
            Whether the stream has a hole that the lifted fault has left: the connection can't go on.
        """
        old = {stage.name: stage for stage in self.stages}
        self.stages = []
        for name, fault in plan:
            make = stage_for(fault, self.stream)
            stage = old.get(name)
            if make is None:
                continue
            if stage is not None and type(stage) is make:
                stage.update(fault, now)
            else:
                stage = make(name, fault, f"{self.seed}/{name}/{self.stream}", now)
            stage.stalled(now)
            self.stages.append(stage)
        return self._rehome(list(old.values()), now)

    def _rehome(self, old: list[Stage], now: float) -> bool:
        """Find a place for what was held: the stage that took its stage's place, or what follows; from the sink on."""
        places = {stage.name: place for place, stage in enumerate(self.stages)}
        known = {stage.name for stage in old}
        following = len(self.stages)
        while following and self.stages[following - 1].name not in known:
            following -= 1
        if following < len(self.stages):
            ready, self.ready, self.ready_bytes = self.ready, deque(), 0
            for chunk in ready:
                self._put(following, chunk._replace(at=now))
        spoilt = False
        for stage in reversed(old):
            following = places.get(stage.name, following)
            if following == len(self.stages) or self.stages[following] is not stage:
                spoilt = spoilt or stage.spoilt
                for chunk in stage.release():
                    self._put(following, chunk._replace(at=now))
        return spoilt

    def _has_room(self, place: int) -> bool:
        return not (self.stages[place].full if place < len(self.stages) else self._ready_full)

    def _put(self, place: int, chunk: Chunk) -> None:
        if place < len(self.stages):
            self.stages[place].put(chunk)
        elif chunk.data is Mark.RESET:
            self.broken = True
        else:
            self.ready.append(chunk)
            self.ready_bytes += len(chunk.data)

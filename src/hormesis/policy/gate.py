"""All admission parts of a policy, asked as one: an attempt gets every permit or none.

Two phases. First every part is asked; if any refuses outright, the attempt is refused at once and nothing is spent:
permits that were taken on the way are put back without a trace. If a part could admit after a wait, the caller stands
in that part's queue, holding nothing else, and then, on a fresh reading of the clock, takes all permits or none. So an
open breaker spends no tokens, and no probe expires in a queue.

Where a part has an instance for each key, a gate holds the instances of one call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from hormesis.core.admission import Admission, Permit, Queueing, Refusal, Transition
from hormesis.core.rate_gate import RateGate
from hormesis.outcome import Ending
from hormesis.patterns.part import AdmissionPart

__all__ = ["Entry", "Gate", "News", "Obstacle"]


class Entry(NamedTuple):
    """One part of a gate: its settings, the machine that decides, and whose instance that is."""

    part: AdmissionPart
    machine: Admission
    key: str = ""


class News(NamedTuple):
    """A change of state that nobody has published yet."""

    part: str
    key: str
    change: Transition


@dataclasses.dataclass(slots=True)
class Obstacle:
    """The part that refused, by its index, and why."""

    index: int
    refusal: Refusal


class Gate:
    """The admission parts of one layer of a policy, in their order."""

    __slots__ = ("entries",)

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)

    def enter(self, now: float) -> list[Permit] | Obstacle:
        """Take every permit; when a part refuses, all are put back."""
        permits: list[Permit] = []
        for _, machine, _ in self.entries:
            permit = machine.acquire(now)
            if isinstance(permit, Refusal):
                return self._back_out(permits, permit)
            permits.append(permit)
        return permits

    def enter_with(self, index: int, held: Permit, now: float) -> list[Permit] | Obstacle:
        """Take every permit, with one in hand already after a wait; when a part refuses, all are put back."""
        permits: list[Permit] = []
        for at, (_, machine, _) in enumerate(self.entries):
            permit = held if at == index else machine.acquire(now)
            if isinstance(permit, Refusal):
                if at < index:
                    self.entries[index].machine.put_back(held)
                return self._back_out(permits, permit)
            permits.append(permit)
        return permits

    def _back_out(self, permits: Sequence[Permit], refusal: Refusal) -> Obstacle:
        for (_, machine, _), permit in zip(self.entries, permits, strict=False):
            machine.put_back(permit)
        return Obstacle(len(permits), refusal)

    def queue(self, index: int) -> Queueing | RateGate:
        """What a part that refused waitably lets callers wait in: a queue, or a rate limit that has moments to come."""
        machine = self.entries[index].machine
        return machine if isinstance(machine, RateGate) else cast("Queueing", machine)

    def refused_outright(self, obstacle: Obstacle, now: float) -> Obstacle | None:
        """Return what no wait would help with: the obstacle itself, or another part that would refuse."""
        if not obstacle.refusal.waitable:
            return obstacle
        for index, (_, machine, _) in enumerate(self.entries):
            if index != obstacle.index:
                refusal = machine.refusal(now)
                if refusal is not None and not refusal.waitable:
                    return Obstacle(index, refusal)
        return None

    def succeed(self, permits: Sequence[Permit], started: float, now: float) -> None:
        """End every permit as success, the last one first."""
        for (_, machine, _), permit in zip(reversed(self.entries), reversed(permits), strict=True):
            machine.succeed(permit, started, now)

    def end(
        self,
        permits: Sequence[Permit],
        endings: Sequence[Ending],
        started: float,
        now: float,
        retry_after: float | None = None,
    ) -> None:
        """End every permit, each in its way."""
        for (_, machine, _), permit, ending in zip(self.entries, permits, endings, strict=True):
            machine.end(permit, ending, started, now, retry_after)

    def end_left_behind(
        self, permits: Sequence[Permit], endings: Sequence[Ending], started: float, now: float
    ) -> list[Callable[[], None]]:
        """End the permits of work that goes on without its caller, but not those that stand for a place it holds.

        Returns:
            What ends the latter, to be called when the work has really ended.
        """
        later: list[Callable[[], None]] = []
        for (_, machine, _), permit, ending in zip(self.entries, permits, endings, strict=True):
            end = functools.partial(machine.end, permit, ending, started, now)
            if machine.holds_place:
                later.append(end)
            else:
                end()
        return later

    def news(self) -> list[News]:
        """Take the changes of state out of the outboxes."""
        news = []
        for part, machine, key in self.entries:
            outbox = machine.outbox
            if outbox:
                with contextlib.suppress(IndexError):  # another thread may take the last one between a look and a pop
                    while True:
                        news.append(News(part.slot.key, key, outbox.pop(0)))
        return news

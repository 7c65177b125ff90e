"""All admission parts of a policy, asked as one: an attempt gets every permit or none.

Two phases. First every part is asked; if any refuses outright, the attempt is refused at once and nothing is spent:
permits that were taken on the way are put back without a trace. If a part could admit after a wait, the caller stands
in that part's queue, holding nothing else, and then, on a fresh reading of the clock, takes all permits or none. So an
open breaker spends no tokens, and no probe expires in a queue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import cast

from hormesis.core.admission import Admission, Permit, Queueing, Refusal, Transition
from hormesis.outcome import Ending
from hormesis.patterns.part import AdmissionPart

__all__ = ["Gate", "Obstacle"]


@dataclasses.dataclass(slots=True)
class Obstacle:
    """The part that refused, by its index, and why."""

    index: int
    refusal: Refusal


class Gate:
    """The admission parts of one layer of a policy, in their order.

    The journey itself asks each of `acquire` in turn and, after a success, calls `succeed` with the permits from the
    last to the first; everything that is not the common case goes through the methods.

    Args:
        parts: Settings, with the machine of each.
    """

    __slots__ = ("_machines", "acquire", "outboxes", "parts", "succeed", "timed")

    def __init__(self, parts: Sequence[tuple[AdmissionPart, Admission]]) -> None:
        self.parts = tuple(part for part, _ in parts)
        self._machines = tuple(machine for _, machine in parts)
        # Bound once, for the journey: looking methods up for every call would cost as much as the machines' own work.
        self.acquire = tuple(machine.acquire for machine in self._machines)
        self.succeed = tuple(machine.succeed for machine in reversed(self._machines))
        self.outboxes = tuple((part, machine.outbox) for part, machine in parts if machine.outbox is not None)
        self.timed = any(machine.timed for machine in self._machines)

    def back_out(self, permits: Sequence[Permit], refusal: Refusal) -> Obstacle:
        """Put back the permits that were taken before a part refused."""
        for machine, permit in zip(self._machines, permits, strict=False):
            machine.put_back(permit)
        return Obstacle(len(permits), refusal)

    def take_around(self, index: int, held: Permit, now: float) -> list[Permit] | Obstacle:
        """Take every permit, with one in hand already after a wait; when a part refuses, all are put back."""
        permits: list[Permit] = []
        for at, machine in enumerate(self._machines):
            permit = held if at == index else machine.acquire(now)
            if isinstance(permit, Refusal):
                if at < index:
                    self._machines[index].put_back(held)
                return self.back_out(permits, permit)
            permits.append(permit)
        return permits

    def queue(self, index: int) -> Queueing:
        """The queue of a part that refused waitably."""
        return cast("Queueing", self._machines[index])

    def refused_outright(self, obstacle: Obstacle, now: float) -> Obstacle | None:
        """Return what no wait would help with: the obstacle itself, or another part that would refuse."""
        if not obstacle.refusal.waitable:
            return obstacle
        for index, machine in enumerate(self._machines):
            if index != obstacle.index:
                refusal = machine.refusal(now)
                if refusal is not None and not refusal.waitable:
                    return Obstacle(index, refusal)
        return None

    def end(self, permits: Sequence[Permit], endings: Sequence[Ending], started: float, now: float) -> None:
        """End every permit, each in its way."""
        for machine, permit, ending in zip(self._machines, permits, endings, strict=True):
            machine.end(permit, ending, started, now)

    def end_left_behind(
        self, permits: Sequence[Permit], endings: Sequence[Ending], started: float, now: float
    ) -> list[Callable[[], None]]:
        """End the permits of work that goes on without its caller, but not those that stand for a place it holds.

        Returns:
            What ends the latter, to be called when the work has really ended.
        """
        later: list[Callable[[], None]] = []
        for machine, permit, ending in zip(self._machines, permits, endings, strict=True):
            end = functools.partial(machine.end, permit, ending, started, now)
            if machine.holds_place:
                later.append(end)
            else:
                end()
        return later

    def news(self) -> list[tuple[str, Transition]]:
        """Take the changes of state out of the outboxes, with the key of the part that changed."""
        news = []
        for part, outbox in self.outboxes:
            with contextlib.suppress(IndexError):  # another thread may take the last one between a look and a pop
                while True:
                    news.append((part.slot.key, outbox.pop(0)))
        return news

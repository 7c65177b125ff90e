"""Where an attempt waits that was not admitted at once.

An attempt that one part refuses outright is rejected, and nothing is spent. Where a part has a queue with room, and no
other part would refuse anyway, the attempt stands in that queue: bounded by the part's longest wait and by the
deadline, which is asked first. It holds nothing else meanwhile. With the permit in hand it then asks all other parts
again, on a fresh reading of the clock; if one of them refuses now, the permit goes to the next in the queue.

`wait` blocks the calling thread, `wait_async` suspends the task; all else is shared.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING

from hormesis.clock import Clock
from hormesis.core.admission import Permit, Refusal, Waiter
from hormesis.errors import Rejected
from hormesis.events import Waited
from hormesis.policy.gate import Gate, Obstacle
from hormesis.policy.scope import time_left
from hormesis.policy.telling import Teller

if TYPE_CHECKING:
    import asyncio

__all__ = ["Entrance"]


class Entrance:
    """Waits at a gate.

    Args:
        policy: The policy's name, for rejections.
        gate: What admits.
        clock: The policy's.
        teller: Publishes rejections and waits.
    """

    __slots__ = ("_gate", "_now", "_policy", "_teller")

    def __init__(self, policy: str, gate: Gate, clock: Clock, teller: Teller) -> None:
        self._policy = policy
        self._gate = gate
        self._now = clock.now
        self._teller = teller

    def wait(self, obstacle: Obstacle) -> list[Permit]:
        """Wait in the calling thread, and return all permits.

        Raises:
            Rejected: A part refuses, or the wait came to nothing.
        """
        if not obstacle.refusal.waitable:
            raise self._rejection(obstacle)
        since = self._now()
        while True:
            patience = self._patience(obstacle, since)
            woken = threading.Event()
            waiter = Waiter(woken.set)
            try:
                self._enqueue(waiter, obstacle)
                woken.wait(patience)
                permit = waiter.taken()
            finally:
                self._gate.queue(obstacle.index).leave(waiter)
            permits = self._enter_with(permit, obstacle, since)
            if not isinstance(permits, Obstacle):
                return permits
            obstacle = permits

    async def wait_async(self, obstacle: Obstacle) -> list[Permit]:
        """Wait without blocking the loop; otherwise as `wait`."""
        if not obstacle.refusal.waitable:
            raise self._rejection(obstacle)
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        since = self._now()
        loop = asyncio.get_running_loop()
        while True:
            patience = self._patience(obstacle, since)
            woken = asyncio.Event()
            waiter = Waiter(functools.partial(_wake, loop, woken))
            try:
                self._enqueue(waiter, obstacle)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await woken.wait()
                permit = waiter.taken()
            finally:
                self._gate.queue(obstacle.index).leave(waiter)
            permits = self._enter_with(permit, obstacle, since)
            if not isinstance(permits, Obstacle):
                return permits
            obstacle = permits

    def _patience(self, obstacle: Obstacle, since: float) -> float:
        """How long waiting makes sense; raises the rejection where it makes none."""
        now = self._now()
        outright = self._gate.refused_outright(obstacle, now)
        if outright is not None:
            raise self._rejection(outright)
        left = time_left()
        if left <= 0:
            raise self._rejection(Obstacle(obstacle.index, Refusal("no time left to wait")))
        patience = min(self._gate.queue(obstacle.index).max_wait - (now - since), left)
        if patience <= 0:
            raise self._rejection(Obstacle(obstacle.index, Refusal("waited too long")))
        return patience

    def _enqueue(self, waiter: Waiter, obstacle: Obstacle) -> None:
        refusal = self._gate.queue(obstacle.index).enqueue(waiter)
        if refusal is not None:
            raise self._rejection(Obstacle(obstacle.index, refusal))

    def _enter_with(self, permit: Permit | None, obstacle: Obstacle, since: float) -> list[Permit] | Obstacle:
        """With the permit that was waited for, take all the others, or none."""
        now = self._now()
        if permit is None:
            raise self._rejection(Obstacle(obstacle.index, Refusal("waited too long")))
        permits = self._gate.take_around(obstacle.index, permit, now)
        if not isinstance(permits, Obstacle):
            self._teller.tell(Waited, self._gate.parts[obstacle.index].slot.key, seconds=now - since)
        return permits

    def _rejection(self, obstacle: Obstacle) -> Rejected:
        part, refusal = self._gate.parts[obstacle.index], obstacle.refusal
        self._teller.tell_rejection(part.slot.key, refusal)
        self._teller.tell_news(self._gate)
        return part.rejection(self._policy, refusal.reason, refusal.retry_after)


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    # A loop that was closed while a call waited takes that call with it; its `leave` passes the permit on.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(woken.set)

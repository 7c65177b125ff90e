"""Where an attempt waits that was not admitted at once.

An attempt that one part refuses outright is rejected, and nothing is spent. Where a part has a queue with room, and no
other part would refuse anyway, the attempt stands in that queue: bounded by the part's longest wait and by the
deadline, which is asked first. It holds nothing else meanwhile. With the permit in hand it then asks all other parts
again, on a fresh reading of the clock; if one of them refuses now, the permit goes to the next in the queue.

A rate limit has no queue. A caller reserves a moment that is to come, sleeps until then on the policy's clock, and has
its permit; one that goes away meanwhile gives the moment back.

`wait` blocks the calling thread, `wait_async` suspends the task; all else is shared.
"""

from __future__ import annotations

import contextlib
import functools
import threading

from hormesis.clock import Clock
from hormesis.core.admission import Permit, Queueing, Refusal, Waiter
from hormesis.core.rate_gate import RateGate, Spent
from hormesis.errors import Rejected
from hormesis.events import Waited
from hormesis.policy.gate import Gate, Obstacle
from hormesis.policy.places import set_from_thread
from hormesis.policy.scope import time_left
from hormesis.policy.telling import Teller

__all__ = ["Entrance"]


class Entrance:
    """Waits at the gates of a layer.

    Args:
        policy: The policy's name, for rejections.
        clock: The policy's.
        teller: Publishes rejections and waits.
    """

    __slots__ = ("_clock", "_now", "_policy", "_teller")

    def __init__(self, policy: str, clock: Clock, teller: Teller) -> None:
        self._policy = policy
        self._clock = clock
        self._now = clock.now
        self._teller = teller

    def wait(self, gate: Gate, obstacle: Obstacle) -> list[Permit]:
        """Wait in the calling thread, and return all permits.

        Raises:
            Rejected: A part refuses, or the wait came to nothing.
        """
        if not obstacle.refusal.waitable:
            raise self.rejection(gate, obstacle)
        since = self._now()
        while True:
            queue, patience = gate.queue(obstacle.index), self._patience(gate, obstacle, since)
            permit: Permit | None
            if isinstance(queue, RateGate):
                permit = self._sleep(gate, queue, obstacle, patience)
            else:
                permit = self._stand_in(gate, queue, obstacle, patience)
            permits = self._enter_with(gate, permit, obstacle, since)
            if not isinstance(permits, Obstacle):
                return permits
            obstacle = permits

    async def wait_async(self, gate: Gate, obstacle: Obstacle) -> list[Permit]:
        """Wait without blocking the loop; otherwise as `wait`."""
        if not obstacle.refusal.waitable:
            raise self.rejection(gate, obstacle)
        since = self._now()
        while True:
            queue, patience = gate.queue(obstacle.index), self._patience(gate, obstacle, since)
            permit: Permit | None
            if isinstance(queue, RateGate):
                permit = await self._sleep_async(gate, queue, obstacle, patience)
            else:
                permit = await self._stand_in_async(gate, queue, obstacle, patience)
            permits = self._enter_with(gate, permit, obstacle, since)
            if not isinstance(permits, Obstacle):
                return permits
            obstacle = permits

    def _stand_in(self, gate: Gate, queue: Queueing, obstacle: Obstacle, patience: float) -> Permit | None:
        """Stand in a queue until a permit is handed over, or patience ends."""
        woken = threading.Event()
        waiter = Waiter(woken.set)
        try:
            self._enqueue(gate, queue, waiter, obstacle)
            woken.wait(patience)
            return waiter.taken()
        finally:
            queue.leave(waiter)

    async def _stand_in_async(self, gate: Gate, queue: Queueing, obstacle: Obstacle, patience: float) -> Permit | None:
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        woken = asyncio.Event()
        waiter = Waiter(functools.partial(set_from_thread, asyncio.get_running_loop(), woken))
        try:
            self._enqueue(gate, queue, waiter, obstacle)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await woken.wait()
            return waiter.taken()
        finally:
            queue.leave(waiter)

    def _sleep(self, gate: Gate, limit: RateGate, obstacle: Obstacle, patience: float) -> Permit:
        """Sleep until a moment that was reserved."""
        permit = self._reserve(gate, limit, obstacle, patience)
        try:
            self._clock.sleep(max(0.0, permit.at - self._now()))
        except BaseException:
            limit.cancel(permit, self._now())
            raise
        return permit

    async def _sleep_async(self, gate: Gate, limit: RateGate, obstacle: Obstacle, patience: float) -> Permit:
        permit = self._reserve(gate, limit, obstacle, patience)
        try:
            await self._clock.sleep_async(max(0.0, permit.at - self._now()))
        except BaseException:
            limit.cancel(permit, self._now())
            raise
        return permit

    def _reserve(self, gate: Gate, limit: RateGate, obstacle: Obstacle, patience: float) -> Spent:
        permit = limit.reserve(self._now(), patience)
        if isinstance(permit, Refusal):
            raise self.rejection(gate, Obstacle(obstacle.index, permit))
        return permit

    def _patience(self, gate: Gate, obstacle: Obstacle, since: float) -> float:
        """How long waiting makes sense; raises the rejection where it makes none."""
        now = self._now()
        outright = gate.refused_outright(obstacle, now)
        if outright is not None:
            raise self.rejection(gate, outright)
        left = time_left()
        if left <= 0:
            raise self.rejection(gate, Obstacle(obstacle.index, Refusal("no time left to wait")))
        patience = min(gate.queue(obstacle.index).max_wait - (now - since), left)
        if patience <= 0:
            raise self.rejection(gate, Obstacle(obstacle.index, Refusal("waited too long")))
        return patience

    def _enqueue(self, gate: Gate, queue: Queueing, waiter: Waiter, obstacle: Obstacle) -> None:
        refusal = queue.enqueue(waiter)
        if refusal is not None:
            raise self.rejection(gate, Obstacle(obstacle.index, refusal))

    def _enter_with(
        self, gate: Gate, permit: Permit | None, obstacle: Obstacle, since: float
    ) -> list[Permit] | Obstacle:
        """With the permit that was waited for, take all the others, or none."""
        now = self._now()
        if permit is None:
            raise self.rejection(gate, Obstacle(obstacle.index, Refusal("waited too long")))
        permits = gate.enter_with(obstacle.index, permit, now)
        if not isinstance(permits, Obstacle):
            part, _, key = gate.entries[obstacle.index]
            self._teller.tell(Waited, part.slot.key, key=key, seconds=now - since)
        return permits

    def rejection(self, gate: Gate, obstacle: Obstacle) -> Rejected:
        """Make the error of an attempt that was refused, and tell of it."""
        (part, _, key), refusal = gate.entries[obstacle.index], obstacle.refusal
        self._teller.tell_rejection(part.slot.key, key, refusal)
        self._teller.tell_news(gate)
        return part.rejection(self._policy, refusal.reason, refusal.retry_after)

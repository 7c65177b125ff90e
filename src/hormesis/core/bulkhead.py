"""The bulkhead's machine: a semaphore with a bounded queue, first come, first served.

Permits lie in a deque: taking one is a `pop`, returning one an `append`, both atomic and without a lock. Only when
callers wait does the lock come in. Two orders make that safe: who returns a permit appends it *before* looking for
waiters, and who waits enters the queue *before* looking for a permit once more. Whichever comes second sees the other,
so no wake-up is lost.

A permit is handed over to the first waiter, and newcomers don't overtake a queue.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from hormesis.core.admission import Lock, Permit, Refusal, Waiter
from hormesis.outcome import Ending

__all__ = ["BulkheadMachine"]


class BulkheadMachine:
    """Lets at most `max_concurrent` attempts in at a time, and `max_queued` more wait.

    Args:
        max_concurrent: Permits.
        max_queued: Callers that may wait for one; 0 refuses at once when all permits are taken.
        max_wait: Seconds that a caller waits at most.
        lock: Guards the queue.
    """

    __slots__ = ("_free", "_lock", "_queue", "max_concurrent", "max_queued", "max_wait")

    timed = False
    holds_place = True
    outbox = None

    def __init__(self, *, max_concurrent: int, max_queued: int, max_wait: float, lock: Lock) -> None:
        self.max_concurrent = max_concurrent
        self.max_queued = max_queued
        self.max_wait = max_wait
        self._lock = lock
        # One permit object serves for all: they need not be told apart, and only their number counts.
        self._free: deque[Permit] = deque([Permit(0)] * max_concurrent)
        self._queue: OrderedDict[Waiter, None] = OrderedDict()

    @property
    def in_flight(self) -> int:
        """Permits that are taken."""
        return self.max_concurrent - len(self._free)

    @property
    def queued(self) -> int:
        """Callers that wait."""
        return len(self._queue)

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or be refused because all are taken or others wait already."""
        if not self._queue:
            try:
                return self._free.pop()
            except IndexError:
                pass
        return self._full()

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse."""
        return None if self._free and not self._queue else self._full()

    def put_back(self, permit: Permit) -> None:
        """Return a permit, used or not, and pass it on to whoever waits."""
        self._free.append(permit)
        if self._queue:
            self._hand_over()

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success."""
        self._free.append(permit)
        if self._queue:
            self._hand_over()

    def end(
        self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None
    ) -> None:
        """End a permit: a place is free again, however the attempt went."""
        self.put_back(permit)

    def enqueue(self, waiter: Waiter) -> Refusal | None:
        """Stand in the queue, unless it is full."""
        with self._lock:
            if len(self._queue) >= self.max_queued:
                return self._full()
            self._queue[waiter] = None
        # A permit that came back between the refusal and the queue would otherwise be overlooked.
        self._hand_over()
        return None

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; a permit that was handed over meanwhile goes to the next."""
        with self._lock:
            self._queue.pop(waiter, None)
        if waiter.permit is not None:
            permit, waiter.permit = waiter.permit, None
            self.put_back(permit)

    def _hand_over(self) -> None:
        woken: list[Waiter] = []
        with self._lock:
            while self._queue:
                try:
                    permit = self._free.pop()
                except IndexError:
                    break
                waiter, _ = self._queue.popitem(last=False)
                waiter.permit = permit
                woken.append(waiter)
        for waiter in woken:
            waiter.wake()

    def _full(self) -> Refusal:
        waitable = len(self._queue) < self.max_queued
        return Refusal("full" if self.max_queued == 0 else "queue full", None, waitable)

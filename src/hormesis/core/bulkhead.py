"""The bulkhead's machine: a semaphore with a bounded queue, first come, first served.

Permits lie in a deque: taking one is a `pop`, returning one an `append`, both atomic and without a lock. Only when
callers wait does the lock come in. Two orders make that safe: who returns a permit appends it *before* looking for
waiters, and who waits enters the queue *before* looking for a permit once more. Whichever comes second sees the other,
so no wake-up is lost.

A permit is handed over to the first waiter, and newcomers don't overtake a queue.

So whoever counts instructions needs no verb for the plain case: `if not machine.queue`, then `machine.take()`, and in
the end `machine.give(permit)` and `if machine.queue: machine.hand_over()`.

**Other settings while it is in use.** Growing adds permits. Shrinking takes free ones away; what is missing then is
*owed*, and is taken from the permits that come back. While it owes, the machine itself stands at the head of the queue,
as a waiter that nobody wakes. So the plain case stays as it is: newcomers see a queue, and a permit that comes back is
handed over, to the debt before anybody else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from hormesis.core.admission import Lock, Permit, Refusal, Waiter
from hormesis.outcome import Ending

__all__ = ["BulkheadMachine"]

_DEBT = Waiter(lambda: None)
"""Stands first in the queue of a machine that owes permits."""


class BulkheadMachine:
    """Lets at most `max_concurrent` attempts in at a time, and `max_queued` more wait.

    Args:
        max_concurrent: Permits.
        max_queued: Callers that may wait for one; 0 refuses at once when all permits are taken.
        max_wait: Seconds that a caller waits at most.
        lock: Guards the queue.

    Attributes:
        queue: True (it holds something) when callers wait; then a permit is had by waiting alone.
        take: Takes a free permit; raises `IndexError` when there is none.
        give: Returns one; what waits in `queue` must then be served by `hand_over`.

    >>> from hormesis.core.admission import NullLock
    >>> machine = BulkheadMachine(max_concurrent=2, max_queued=0, max_wait=1.0, lock=NullLock())
    >>> permit = machine.take()
    >>> machine.snapshot(0.0)
    {'max_concurrent': 2, 'in_flight': 1, 'queued': 0}
    >>> machine.give(permit)
    """

    __slots__ = ("_free", "_lock", "_owed", "give", "max_concurrent", "max_queued", "max_wait", "queue", "take")

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
        self._owed = 0
        self.queue: OrderedDict[Waiter, None] = OrderedDict()
        self.take: Callable[[], Permit] = self._free.pop
        self.give: Callable[[Permit], None] = self._free.append

    @property
    def in_flight(self) -> int:
        """Permits that are taken; after shrinking, for a while, more than there should be."""
        with self._lock:
            return self._in_flight()

    @property
    def queued(self) -> int:
        """Callers that wait."""
        with self._lock:
            return self._queued()

    def idle(self, now: float) -> bool:
        """Whether nobody is in and nobody waits: a new machine would act the same."""
        # Without the lock, since whoever asks may hold one. Growing raises the bound first and shrinking lowers it
        # last, so that what is read in between errs towards "in use".
        return not self.queue and len(self._free) >= self.max_concurrent

    def snapshot(self, now: float) -> dict[str, int]:
        """Return the state as plain data: `max_concurrent`, `in_flight` and `queued`."""
        with self._lock:
            return {
                "max_concurrent": self.max_concurrent,
                "in_flight": self._in_flight(),
                "queued": self._queued(),
            }

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or be refused because all are taken or others wait already."""
        if not self.queue:
            try:
                return self.take()
            except IndexError:
                pass
        return self._full()

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse."""
        return None if self._free and not self.queue else self._full()

    def put_back(self, permit: Permit) -> None:
        """Return a permit, used or not, and pass it on to whoever waits."""
        self.give(permit)
        if self.queue:
            self.hand_over()

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success."""
        self.give(permit)
        if self.queue:
            self.hand_over()

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit: a place is free again, however the attempt went."""
        self.put_back(permit)

    def enqueue(self, waiter: Waiter) -> Refusal | None:
        """Stand in the queue, unless it is full."""
        with self._lock:
            if self._queued() >= self.max_queued:
                return self._full()
            self.queue[waiter] = None
        # A permit that came back between the refusal and the queue would otherwise be overlooked.
        self.hand_over()
        return None

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; a permit that was handed over meanwhile goes to the next."""
        with self._lock:
            self.queue.pop(waiter, None)
        if waiter.permit is not None:
            permit, waiter.permit = waiter.permit, None
            self.put_back(permit)

    def hand_over(self) -> None:
        """Pass free permits on: to what is owed, and then to those who wait, in their order."""
        woken: list[Waiter] = []
        with self._lock:
            while self.queue:
                try:
                    permit = self.take()
                except IndexError:
                    break
                if self._owed:
                    self._owe(self._owed - 1)
                    continue
                waiter, _ = self.queue.popitem(last=False)
                waiter.permit = permit
                woken.append(waiter)
        for waiter in woken:
            waiter.wake()

    def reconfigure(self, *, max_concurrent: int, max_queued: int, max_wait: float) -> None:
        """Go on with other bounds; who is in stays in, and who waits goes on waiting."""
        with self._lock:
            self.max_queued = max_queued
            self.max_wait = max_wait
            more = max_concurrent - self.max_concurrent
            if more > 0:
                self._grow(more)
            else:
                self._shrink(-more)
        # A permit that came back before the debt stood in the queue would otherwise be overlooked.
        self.hand_over()

    def _grow(self, more: int) -> None:
        self.max_concurrent += more
        forgiven = min(more, self._owed)
        self._owe(self._owed - forgiven)
        self._free.extend([Permit(0)] * (more - forgiven))

    def _shrink(self, less: int) -> None:
        missing = less
        while missing:
            try:
                self.take()
            except IndexError:
                break
            missing -= 1
        self._owe(self._owed + missing)
        self.max_concurrent -= less

    def _owe(self, permits: int) -> None:
        self._owed = permits
        if not permits:
            self.queue.pop(_DEBT, None)
        elif _DEBT not in self.queue:
            self.queue[_DEBT] = None
            self.queue.move_to_end(_DEBT, last=False)

    def _in_flight(self) -> int:
        return self.max_concurrent + self._owed - len(self._free)

    def _queued(self) -> int:
        return len(self.queue) - (_DEBT in self.queue)

    def _full(self) -> Refusal:
        waitable = self._queued() < self.max_queued
        return Refusal("full" if self.max_queued == 0 else "queue full", None, waitable)

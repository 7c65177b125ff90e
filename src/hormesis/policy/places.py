"""The places of a pool: a bounded number, waited for in a thread or as a task, first come, first served.

The order and the bound are the bulkhead machine's; what is here is the waiting. It is bounded by the time that the
caller has, in seconds of the machine: workers are real threads and processes, and no other clock speaks for them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from typing import TYPE_CHECKING

from hormesis.core.admission import Permit, Waiter
from hormesis.core.bulkhead import BulkheadMachine

if TYPE_CHECKING:
    import asyncio

__all__ = ["Places", "set_from_thread"]

_WAITING_MAX = 1_000_000
"""Callers that wait at a time. Each is a thread or a task, and a bulkhead in front lets in far fewer."""


class Places:
    """Bounds how many workers of a pool are busy.

    Args:
        most: Places.
    """

    __slots__ = ("_machine", "give")

    def __init__(self, most: int) -> None:
        self._machine = BulkheadMachine(
            max_concurrent=most, max_queued=_WAITING_MAX, max_wait=math.inf, lock=threading.Lock()
        )
        self.give = self._machine.put_back

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._machine.in_flight

    def take(self, limit: float) -> Permit | None:
        """Take a place, in the calling thread; None when none came free within so many seconds."""
        place = self._machine.acquire(0.0)
        if isinstance(place, Permit):
            return place
        woken = threading.Event()
        waiter = Waiter(woken.set)
        try:
            if self._machine.enqueue(waiter) is None:
                woken.wait(min(limit, threading.TIMEOUT_MAX))
            return waiter.taken()
        finally:
            self._machine.leave(waiter)

    async def take_async(self, limit: float) -> Permit | None:
        """Take a place without blocking the loop; otherwise as `take`."""
        place = self._machine.acquire(0.0)
        if isinstance(place, Permit):
            return place
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        woken = asyncio.Event()
        waiter = Waiter(functools.partial(set_from_thread, asyncio.get_running_loop(), woken))
        try:
            if self._machine.enqueue(waiter) is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if limit == math.inf else limit):
                        await woken.wait()
            return waiter.taken()
        finally:
            self._machine.leave(waiter)


def set_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set the event of a task from any thread, also from that of its loop, where it need not wait for its turn.

    A loop that was closed meanwhile has taken its tasks with it, and there is nobody to be told.
    """
    from asyncio import _get_running_loop  # noqa: PLC0415  whoever has an event has imported it

    if _get_running_loop() is loop:
        event.set()
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)

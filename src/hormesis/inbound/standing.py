"""Standing in the load shedder's queue, once for each colour."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable

from hormesis.core.shedder import ShedWaiter
from hormesis.inbound.answers import Refused
from hormesis.inbound.ground import Ground
from hormesis.inbound.request import Request
from hormesis.policy.places import set_from_thread

__all__ = ["stand", "stand_async"]


def stand(ground: Ground, request: Request, wake_pulse: Callable[[], object]) -> Refused | None:
    """Stand in the queue, in the calling thread.

    Args:
        ground: Where the request comes in.
        request: One that was refused, and may wait.
        wake_pulse: Wakes what beats while requests wait.

    Returns:
        Why it came to nothing; None when the request has its permit.
    """
    woken = threading.Event()
    waiter = ground.stand(request, woken.set)
    if not isinstance(waiter, ShedWaiter):
        return waiter
    try:
        wake_pulse()
        woken.wait(ground.patience(waiter))
        return ground.served(request, waiter)
    finally:
        ground.leave(waiter)


async def stand_async(ground: Ground, request: Request, wake_pulse: Callable[[], object]) -> Refused | None:
    """Stand in the queue without blocking the loop; otherwise as `stand`."""
    woken = asyncio.Event()
    waiter = ground.stand(request, functools.partial(set_from_thread, asyncio.get_running_loop(), woken))
    if not isinstance(waiter, ShedWaiter):
        return waiter
    try:
        wake_pulse()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ground.patience(waiter)):
                await woken.wait()
        return ground.served(request, waiter)
    finally:
        ground.leave(waiter)

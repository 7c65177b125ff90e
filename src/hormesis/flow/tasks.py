"""Tasks of our own, which are never left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["end"]


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until all have ended. What they raise is nobody's concern any more.

    Whoever waits here and is cancelled meanwhile waits all the same, and is cancelled then: tasks that go on after
    their owner has gone would work on what others have taken over.
    """
    cancelled: asyncio.CancelledError | None = None
    pending = {task for task in tasks if not _over(task)}
    for task in pending:
        task.cancel()
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            pending = {task for task in pending if not _over(task)}
            for task in pending:
                task.cancel()
    if cancelled is not None:
        raise cancelled


def _over(task: asyncio.Task[Any]) -> bool:
    """Whether a task has ended; its exception counts as seen."""
    if task.done() and not task.cancelled():
        task.exception()
    return task.done()

"""Functions of users, run in a thread that can be given up.

The functions of Python providers and controls know nothing of a loop and may block for as long as they like. They run
one after the other in one thread, since what one of them makes (a connection, say) is often used by the next. A call
that is cancelled, because its time is over or the experiment ends early, is interrupted: `Stopped` is raised inside it
at its next line of Python. Code that is inside a long call of C gets it only when that returns; it is not waited for,
and whatever it does afterwards, it does alone: the next call has a new thread. The threads are daemons, so that none of
them can hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Stopped", "Worker"]

_GRACE = 0.5
"""Seconds in which an interrupted function may still clean up before it is left alone."""


class Stopped(BaseException):
    """Raised inside a function whose time is over. No `Exception`, so that no retry loop takes it for one."""


class Worker:
    """One thread, in which functions are called in turn.

    >>> async def main():
    ...     worker = Worker("example")
    ...     try:
    ...         return await worker.call(len, "four")
    ...     finally:
    ...         worker.close()
    >>> asyncio.run(main())
    4
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = asyncio.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._thread: threading.Thread | None = None

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function in the thread and return what it returns, or raise what it raises.

        A call that is cancelled is interrupted; it is waited for only shortly.
        """
        async with self._turn:
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[Any] = loop.create_future()

            def tell(tell_what: Callable[[Any], None], what: Any) -> None:
                def told() -> None:
                    if not ended.done():
                        tell_what(what)

                try:
                    loop.call_soon_threadsafe(told)
                except RuntimeError:  # The loop is gone: nobody asks any more.
                    return

            def run() -> None:
                try:
                    result = function(*args, **kwargs)
                except StopIteration as error:  # A future can't hold it.
                    tell(ended.set_exception, RuntimeError(f"the function raised {error!r}"))
                except BaseException as error:
                    tell(ended.set_exception, error)
                else:
                    tell(ended.set_result, result)

            self._give(run)
            try:
                return await asyncio.shield(ended)
            except asyncio.CancelledError:
                await self._interrupt(ended)
                raise

    def close(self) -> None:
        """End the thread once it is idle; one that is busy ends when it can."""
        if self._calls is not None:
            self._calls.put(None)
        self._calls = self._thread = None

    def _give(self, call: Callable[[], None]) -> None:
        if self._calls is None:
            calls = self._calls = queue.SimpleQueue()

            def serve() -> None:
                with contextlib.suppress(Stopped):
                    while (call := calls.get()) is not None:
                        call()

            self._thread = threading.Thread(target=serve, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(call)

    async def _interrupt(self, ended: asyncio.Future[Any]) -> None:
        """Raise `Stopped` in the thread, and never use that thread again: it might strike late."""
        thread = self._thread
        self.close()
        if thread is not None and thread.ident is not None and not ended.done():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped))
        ended.add_done_callback(asyncio.Future.exception)  # so that asyncio does not complain that nobody looked
        await asyncio.wait([ended], timeout=_GRACE)

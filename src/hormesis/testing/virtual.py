"""An event loop on which time passes at once: when every task waits, the clock jumps to the next timer.

A loop does two things in turn: it runs what is ready, and then it waits, in `select`, for whatever comes first, input
from outside or the next timer. Here the wait for a timer is replaced by moving the clock, so an hour of back-off takes
no time, timeouts expire in their exact order, and a test on `asyncio.sleep` is as deterministic as arithmetic.

What comes from outside comes in real time. While the loop has sockets, pipes or executor threads to wait for, it gives
them the chance to be first: it really waits for the timer, at most `patience` seconds, and only then jumps. Threads
that the loop knows nothing of, and that call back with `call_soon_threadsafe`, are waited for when no timer is set.

When nothing is ready, no timer is set and nobody outside calls back within `patience`, nothing would ever happen again:
`DeadlockError` says which tasks wait, and where.

Source: the autojump clock of trio.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from hormesis.errors import HormesisError
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["DeadlockError", "VirtualClock", "run_virtual"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESOLUTION = time.get_clock_info("monotonic").resolution
_NAMED_TASKS_MAX = 10
"""Tasks that a deadlock's message names; more would hide the first."""


class DeadlockError(HormesisError):
    """Every task waits, and nothing is left that could wake one."""


def run_virtual(main: Coroutine[Any, Any, T], *, patience: Duration = 1.0) -> T:
    """Run a coroutine as `asyncio.run` does, on a loop whose clock jumps when everything waits.

    Args:
        main: What to run.
        patience: Real time that is given to sockets, threads and the like; see the module's docstring.

    Raises:
        DeadlockError: Nothing would ever happen again.
        Exception: Whatever `main` raised.

    >>> async def main() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtual(main())
    3600.0
    """
    patience = seconds(patience, "patience")
    with asyncio.Runner(loop_factory=lambda: _VirtualLoop(patience)) as runner:
        return runner.run(main)


class VirtualClock:
    """The time of the loop that `run_virtual` runs, for `Policy(clock=...)`.

    It holds nothing, so a policy may be made outside the loop and used in several of them; it tells the time only
    inside one.

    >>> from hormesis import Policy, Timeout
    >>> policy = Policy(Timeout("10m"), clock=VirtualClock())
    >>> run_virtual(policy.acall(asyncio.sleep, 3600))
    Traceback (most recent call last):
    hormesis.errors.TimedOut: policy 'policy': no answer within the timeout of 600 s
    """

    __slots__ = ()

    def now(self) -> float:
        """Seconds since the loop began."""
        return _running_loop().time()

    def sleep(self, seconds: float) -> None:
        """Let time pass for every task, as a call that blocks the loop does."""
        _running_loop().jump(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Suspend the calling task."""
        await asyncio.sleep(seconds)


class _VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that reads its time from its selector, and tells it of threads that will call back."""

    def __init__(self, patience: float) -> None:
        # Making the loop reads the time, so the selector must be there before.
        self._virtual = _JumpingSelector(patience, self._waiting)
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def jump(self, duration: float) -> None:
        """Move the clock on."""
        self._virtual.now += seconds(duration, zero=True)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # The thread that joins the others is not announced by run_in_executor; and a timeout would only jump over it.
        with self._virtual.waiting_for_thread():
            await super().shutdown_default_executor()

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        self._virtual.threads -= 1

    def _waiting(self) -> str:
        lines = sorted(f"  {task.get_name()}: {_place(task)}" for task in asyncio.all_tasks(self))
        more = [f"  and {len(lines) - _NAMED_TASKS_MAX} more"] if len(lines) > _NAMED_TASKS_MAX else []
        return "\n".join(lines[:_NAMED_TASKS_MAX] + more)


class _JumpingSelector(selectors.DefaultSelector):
    """A selector whose wait for a timer moves the clock instead."""

    def __init__(self, patience: float, waiting: Callable[[], str]) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0
        """Threads that are known to call back."""
        self._patience = patience
        self._waiting = waiting

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(self._patience)
            if not ready:
                raise DeadlockError(
                    f"nothing is ready or scheduled, and nothing came from outside within the patience of "
                    f"{format_seconds(self._patience)}; waiting are:\n{self._waiting()}"
                )
            return ready
        # The one that is always there is the loop's own, by which threads wake it.
        outside = self.threads > 0 or len(self.get_map()) > 1
        ready = super().select(min(timeout, self._patience) if outside else 0)
        if not ready:
            self._jump(timeout)
        return ready

    def _jump(self, timeout: float) -> None:
        now = self.now + timeout
        # The loop runs what is due before now plus a nanosecond. After a hundred days that sum is now itself, and a
        # timer that is due this very moment would never be reached.
        self.now = now if now + _RESOLUTION > now else math.nextafter(now, math.inf)

    @contextlib.contextmanager
    def waiting_for_thread(self) -> Iterator[None]:
        self.threads += 1
        try:
            yield
        finally:
            self.threads -= 1


def _running_loop() -> _VirtualLoop:
    loop = asyncio.get_running_loop()
    if isinstance(loop, _VirtualLoop):
        return loop
    raise RuntimeError("a VirtualClock tells the time only inside run_virtual()")


def _place(task: asyncio.Task[Any]) -> str:
    """What a task runs, and the innermost line where it stands that Python can tell."""
    outermost: Any = task.get_coro()
    awaited, place = outermost, ""
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        place = f" waits in {frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"
        awaited = awaited.cr_await
    return f"{outermost.__qualname__}{place}"

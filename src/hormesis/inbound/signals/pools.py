"""How long work waits for a thread of a pool.

A service whose endpoints are synchronous functions has a pool of threads, forty by default in Starlette and FastAPI.
When all of them are taken the event loop is idle and on time, and requests wait all the same.

While anybody waits for a thread, one probe stands in the same queue, and how long it stands there is the delay. Until
it has come to its turn its age is reported, which the wait is going to be at least: a pool that hangs tells nothing
else. When nobody waits, the delay is nought, and no probe is sent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Protocol

from hormesis.clock import MONOTONIC, Clock
from hormesis.inbound.signals.tickers import Busy, LoopTicker, Observe, ThreadTicker, Ticker
from hormesis.units import Duration, seconds

if TYPE_CHECKING:
    from anyio import CapacityLimiter

__all__ = ["ThreadPoolWait"]

_EVERY = 0.025
"""Four looks in the shortest window that anybody looks at."""


class ThreadPoolWait:
    """Measures how long work waits for a thread.

    Without an executor it watches the default pool of anyio on the running loop, if and when a program uses anyio; its
    verbs are then for the loop's thread. With one, it may be started anywhere.

    Args:
        observe: Takes each sample, in seconds.
        executor: The pool to watch, a `ThreadPoolExecutor`; None for that of anyio.
        busy: Whether anything is in flight; while nothing is, the probe sleeps.
        every: Time between samples.
        clock: The time; for tests.

    >>> import time
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> samples, requests = [], [1]
    >>> with ThreadPoolExecutor(1) as pool:
    ...     wait = ThreadPoolWait(samples.append, executor=pool, busy=lambda: requests)
    ...     wait.start(); wait.wake()
    ...     done = [pool.submit(time.sleep, 0.1) for _ in range(2)][-1].result()
    ...     wait.stop()
    >>> max(samples) > 0.02
    True
    """

    __slots__ = ("_busy", "_clock", "_every", "_executor", "_looks", "_observe", "_ticker")

    def __init__(
        self,
        observe: Observe,
        *,
        busy: Busy,
        executor: Executor | None = None,
        every: Duration = _EVERY,
        clock: Clock = MONOTONIC,
    ) -> None:
        self._observe = observe
        self._executor = executor
        self._busy = busy
        self._every = seconds(every, "every")
        self._clock = clock
        self._ticker: Ticker | None = None
        self._looks: _Looks | None = None

    def start(self) -> None:
        """Be ready, on the running loop if there is one; nothing happens before `wake`."""
        self.stop()
        now, every, busy = self._clock.now, self._every, self._busy
        if self._executor is None:
            probe: _Queue = _Anyio()
            name = "the wait for anyio's threads"
        else:
            probe = _Pool(self._executor)
            name = "the wait for a thread pool"
        self._looks = _Looks(probe, self._observe, now)
        tick = self._looks.look
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._executor is None:
                raise
            self._ticker = ThreadTicker(tick, every=every, busy=busy, name=name)
        else:
            self._ticker = LoopTicker(tick, every=every, busy=busy, clock=self._clock, name=name)
        self._ticker.start()

    def stop(self) -> None:
        """Look no more; a probe that stands in the queue leaves it."""
        if self._ticker is not None and self._looks is not None:
            self._ticker.stop()
            self._looks.leave()
            self._ticker = self._looks = None

    def wake(self) -> None:
        """Begin to look, if it sleeps."""
        if self._ticker is not None:
            self._ticker.wake()


class _Queue(Protocol):
    """What may be waited in."""

    def waits(self) -> bool:
        """Whether anybody does."""
        ...

    def stand(self, done: Callable[[], object]) -> _Standing:
        """Stand in it, and call `done` when it is our turn."""
        ...


class _Standing(Protocol):
    """Somebody who stands in a queue."""

    def cancel(self) -> bool:
        """Leave it."""
        ...


class _Looks:
    """Sends a probe when somebody waits, and reports."""

    __slots__ = ("_broken", "_now", "_observe", "_queue", "_since", "_standing")

    def __init__(self, queue: _Queue, observe: Observe, now: Callable[[], float]) -> None:
        self._queue = queue
        self._observe = observe
        self._now = now
        self._since: float | None = None
        """Since when the probe stands in the queue; None when there is none."""
        self._standing: _Standing | None = None
        self._broken: Exception | None = None
        """What the observer raised in the middle of the pool's work, where nobody would hear of it."""

    def look(self, late: float) -> None:
        """Report how long work waits now."""
        if self._broken is not None:
            raise self._broken
        since = self._since
        if since is not None:
            self._observe(self._now() - since)
        elif self._queue.waits():
            since = self._since = self._now()
            self._standing = self._queue.stand(lambda: self._done(since))
        else:
            self._observe(0.0)

    def _done(self, since: float) -> None:
        self._since = self._standing = None
        try:
            self._observe(self._now() - since)
        except Exception as error:
            self._broken = error

    def leave(self) -> None:
        """Stand in no queue any more."""
        standing = self._standing
        if standing is not None:
            standing.cancel()


class _Pool:
    """The queue of an executor."""

    __slots__ = ("_executor",)

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def waits(self) -> bool:
        queue = getattr(self._executor, "_work_queue", None)
        # One that does not show its queue is asked by standing in it; it costs a hand-over to a thread.
        return True if queue is None else queue.qsize() > 0

    def stand(self, done: Callable[[], object]) -> Future[object]:
        return self._executor.submit(done)


class _Anyio:
    """The queue of anyio's default limiter; nobody waits there before anyio is loaded."""

    __slots__ = ("_asked", "_limiter")

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None
        self._asked: asyncio.Task[CapacityLimiter] | None = None

    def waits(self) -> bool:
        if self._limiter is None:
            threads = sys.modules.get("anyio.to_thread")
            if self._asked is not None and self._asked.done():
                self._limiter = self._asked.result()
            elif self._asked is None and threads is not None:
                self._asked = asyncio.get_running_loop().create_task(_limiter(threads))
        return self._limiter is not None and self._limiter.statistics().tasks_waiting > 0

    def stand(self, done: Callable[[], object]) -> asyncio.Task[None]:
        assert self._limiter is not None  # noqa: S101  somebody waits in it
        return asyncio.get_running_loop().create_task(_stand(self._limiter, done))


async def _limiter(threads: Any) -> CapacityLimiter:
    """Ask anyio for its limiter, in a task: elsewhere some of its versions don't know on whose loop they are."""
    found: CapacityLimiter = threads.current_default_thread_limiter()
    return found


async def _stand(limiter: CapacityLimiter, done: Callable[[], object]) -> None:
    """Take a place and give it back at once: it is the places that are waited for, each has its thread."""
    me = object()
    await limiter.acquire_on_behalf_of(me)
    limiter.release_on_behalf_of(me)
    done()

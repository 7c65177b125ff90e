"""Running a synchronous attempt in a thread, so that its caller can stop waiting for it.

A thread can't be interrupted. When time is over the caller goes on and the thread is left behind (a *zombie*), still
holding the place that its bulkhead permit stands for; a callback tells when it really ends. The threads are daemons: a
zombie must not keep the process from exiting, which is why this is no `concurrent.futures` pool.

A caller first waits for a free thread and only then hands its work over, so the queue between them never holds more
than there are threads.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["LeftBehind", "Threads"]

_IDLE_SECONDS = 10.0
"""A thread that has had nothing to do for so long ends; so do those of policies that nobody has any more."""


class LeftBehind(Exception):
    """The caller has stopped waiting.

    Args:
        when_ended: Takes what is to happen once the thread has really ended.
        error: What ended the waiting, such as Ctrl-C; None when the time was over.
        begun: Whether the work had come so far as to have a thread.
    """

    def __init__(
        self,
        when_ended: Callable[[Callable[[], None]], None],
        error: BaseException | None = None,
        *,
        begun: bool = True,
    ) -> None:
        super().__init__()
        self.when_ended = when_ended
        self.error = error
        self.begun = begun


class _Work:
    """One attempt: what to run, and what came of it."""

    __slots__ = ("_call", "_lock", "_running", "_then", "done", "error", "given_up", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._running = False
        self._then: Callable[[], None] | None = None
        self.given_up = False
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        with self._lock:
            if self.given_up:
                return
            self._running = True
        try:
            self.result = self._call()
        except BaseException as error:  # it is raised again in the caller's thread
            self.error = error
        with self._lock:
            self._running = False
            then = self._then
        self.done.set()
        if then is not None:
            then()

    def when_ended(self, then: Callable[[], None]) -> None:
        """Call `then` when the thread has ended; at once when it has already, or never began and now never will."""
        with self._lock:
            self.given_up = True
            if self._running:
                self._then = then
                return
        then()


class Threads:
    """A bounded pool of daemon threads, started as they are needed.

    Args:
        name: Of the policy, for the threads' names.
        most: Threads at the same time.
    """

    __slots__ = ("_free", "_idle", "_lock", "_name", "_queue", "_started")

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._idle = 0
        self._started = 0

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], limit: float) -> Any:
        """Run a function in a thread, in a copy of the caller's context, and wait for it at most `limit` seconds.

        Raises:
            LeftBehind: It has not ended in that time, or the waiting was interrupted.
            BaseException: Whatever the function raised.
        """
        ends = time.monotonic() + limit
        if not self._free.acquire(timeout=limit):
            raise LeftBehind(lambda then: then(), begun=False)
        context = contextvars.copy_context()
        work = _Work(lambda: context.run(function, *args, **kwargs))
        try:
            self._hand_over(work)
            ended = work.done.wait(max(0.0, ends - time.monotonic()))
        except BaseException as interrupt:
            raise LeftBehind(work.when_ended, interrupt) from None
        if not ended:
            raise LeftBehind(work.when_ended)
        if work.error is not None:
            raise work.error
        return work.result

    def _hand_over(self, work: _Work) -> None:
        with self._lock:
            another = self._idle == 0
            if another:
                self._started += 1
            else:
                self._idle -= 1
        self._queue.put(work)
        if another:
            name = f"hormesis-{self._name}-{self._started}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle == 0:
                        continue  # this thread has just been counted on
                    self._idle -= 1
                    return
            work.run()
            with self._lock:
                self._idle += 1
            self._free.release()

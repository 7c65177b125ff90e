"""Running a synchronous attempt in a thread, so that its caller can stop waiting for it.

A thread can't be interrupted. When time is over the caller goes on and the thread is left behind (a *zombie*), still
holding the place that its bulkhead permit stands for; a callback tells when it really ends. The threads are daemons: a
zombie must not keep the process from exiting, which is why this is no `concurrent.futures` pool.

A caller first waits for a free thread and only then hands its work over, so the queue between them never holds more
than there are threads. A caller may be a thread (`run`) or a task (`run_async`), whose loop goes on meanwhile.

Nothing is started before the first call, and threads that have nothing to do end by themselves.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hormesis.core.admission import Permit
from hormesis.policy.places import Places, set_from_thread

__all__ = ["LeftBehind", "Threads"]

_IDLE_SECONDS = 10.0
"""A thread that has had nothing to do for so long ends; so do those of policies that nobody has any more."""


class LeftBehind(Exception):
    """The caller has stopped waiting.

    Args:
        when_ended: Takes what is to happen once the work has really ended; at once when it has, or never will begin.
        error: What ended the waiting, such as Ctrl-C or the cancellation of a task; None when the time was over.
        begun: Whether the function was called at all.
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


def at_once(then: Callable[[], None]) -> None:
    """Do what is to happen when work has ended that has ended already, or never will begin."""
    then()


def _nobody() -> None:
    """Nobody waits."""


class _Work:
    """One attempt: what to run, and what came of it.

    Args:
        call: What to run.
        tell: Called in the thread when it has ended.
    """

    __slots__ = ("_call", "_error", "_lock", "_result", "_tell", "_then", "begun", "done", "given_up", "revoked")

    def __init__(self, call: Callable[[], Any], tell: Callable[[], None] = _nobody) -> None:
        self._call = call
        self._tell = tell
        self._lock = threading.Lock()
        self._then: list[Callable[[], None]] = []
        self._result: Any = None
        self._error: BaseException | None = None
        self.begun = False
        self.done = False
        self.given_up = False
        self.revoked = False

    def run(self) -> None:
        """Run it, unless its caller has given up; called in the thread."""
        with self._lock:
            if self.given_up:
                return
            self.begun = True
        try:
            self._result = self._call()
        except BaseException as error:  # it is raised again in the caller's thread
            self._error = error
        with self._lock:
            self.done = True
            then = self._then
        self._tell()
        for step in then:
            # The thread must live on, and the steps after this one be taken, whatever a clock or a listener raises.
            with contextlib.suppress(Exception):
                step()

    def outcome(self) -> Any:
        """Return or raise what came of it."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # or it would keep its own traceback alive, and this frame with it

    def give_up(self, then: Callable[[], None]) -> bool:
        """Begin no more; if it runs, have `then` called when it has ended.

        Returns:
            Whether it runs.
        """
        with self._lock:
            self.given_up = True
            running = self.begun and not self.done
            if running:
                self._then.append(then)
            return running

    def when_ended(self, then: Callable[[], None]) -> None:
        """Call `then` when it has ended; at once when it has already, or never began and now never will."""
        if not self.give_up(then):
            then()

    def revoke(self) -> bool:
        """Take it back from a thread that may not exist; False when one is at it already."""
        with self._lock:
            self.given_up = True
            self.revoked = not self.begun
            return self.revoked


class Threads:
    """A bounded pool of daemon threads, started as they are needed.

    Args:
        name: Of the policy, for the threads' names.
        most: Threads at the same time.
        on_zombies: Called when work is left behind and when it ends, with how many there are now and whether that is
            one more; in whatever thread that happens, with no lock held. It must not raise.
    """

    __slots__ = ("_idle", "_lock", "_name", "_on_zombies", "_places", "_queue", "_started", "_zombies")

    def __init__(self, name: str, most: int, on_zombies: Callable[[int, bool], None] | None = None) -> None:
        self._name = name
        self._places = Places(most)
        self._on_zombies = on_zombies
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[_Work, Permit]] = queue.SimpleQueue()
        self._idle = 0
        self._started = 0
        self._zombies = 0

    @property
    def zombies(self) -> int:
        """Work that was left behind and still goes on."""
        return self._zombies

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], limit: float) -> Any:
        """Run a function in a thread, in a copy of the caller's context, and wait for it at most `limit` seconds.

        Raises:
            LeftBehind: It has not ended in that time, or the waiting was interrupted.
            BaseException: Whatever the function raised.
        """
        ends = time.monotonic() + limit
        place = self._places.take(limit)
        if place is None:
            raise LeftBehind(at_once, begun=False)
        ended = threading.Event()
        work = _Work(_in_context(function, args, kwargs), ended.set)
        try:
            self._hand_over(work, place)
            in_time = ended.wait(min(max(0.0, ends - time.monotonic()), threading.TIMEOUT_MAX))
        except BaseException as interrupt:
            raise self._leave(work, interrupt) or LeftBehind(at_once, interrupt) from None
        return self._end(work, in_time=in_time)

    async def run_async(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], limit: float
    ) -> Any:
        """Run a function in a thread while the loop goes on; otherwise as `run`.

        Raises:
            LeftBehind: It has not ended in that time, or the task was cancelled.
            BaseException: Whatever the function raised.
        """
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        ends = time.monotonic() + limit
        try:
            place = await self._places.take_async(limit)
        except BaseException as cancelled:
            raise LeftBehind(at_once, cancelled, begun=False) from None
        if place is None:
            raise LeftBehind(at_once, begun=False)
        ended = asyncio.Event()
        tell = functools.partial(set_from_thread, asyncio.get_running_loop(), ended)
        work = _Work(_in_context(function, args, kwargs), tell)
        in_time = True
        try:
            self._hand_over(work, place)
            async with asyncio.timeout(None if limit == math.inf else max(0.0, ends - time.monotonic())):
                await ended.wait()
        except TimeoutError:
            in_time = False
        except BaseException as cancelled:
            raise self._leave(work, cancelled) or LeftBehind(at_once, cancelled) from None
        return self._end(work, in_time=in_time)

    def _end(self, work: _Work, *, in_time: bool) -> Any:
        left = None if in_time else self._leave(work, None)
        if left is not None:  # else it came at the last moment, and is an answer
            raise left
        return work.outcome()

    def _leave(self, work: _Work, error: BaseException | None) -> LeftBehind | None:
        """Leave work behind, and count it while it goes on; None when it has ended already."""
        with self._lock:
            running = work.give_up(self._ended_late)
            self._zombies += running
            zombies = self._zombies
        if running and self._on_zombies is not None:
            self._on_zombies(zombies, True)
        if work.begun and not running:
            return None
        return LeftBehind(work.when_ended, error, begun=running)

    def _ended_late(self) -> None:
        with self._lock:
            self._zombies -= 1
            zombies = self._zombies
        if self._on_zombies is not None:
            self._on_zombies(zombies, False)

    def _hand_over(self, work: _Work, place: Permit) -> None:
        with self._lock:
            another = self._idle == 0
            if another:
                self._started += 1
            else:
                self._idle -= 1
        if not another:
            self._queue.put((work, place))
            return
        name = f"hormesis-{self._name}-{self._started}"
        try:
            threading.Thread(target=self._serve, args=(work, place), name=name, daemon=True).start()
        except BaseException:  # the system has no more threads, or Ctrl-C came: perhaps no thread knows of the place
            if work.revoke():
                self._places.give(place)
            raise

    def _serve(self, work: _Work, place: Permit) -> None:
        while True:
            work.run()
            if work.revoked:
                return
            with self._lock:
                self._idle += 1
            self._places.give(place)
            del work, place  # or an idle thread would hold on to what the last call was about
            while True:
                try:
                    work, place = self._queue.get(timeout=_IDLE_SECONDS)
                    break
                except queue.Empty:
                    with self._lock:
                        if self._idle == 0:
                            continue  # this thread has just been counted on
                        self._idle -= 1
                        return


def _in_context(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
    """The call, to be made in a copy of the context of whoever asks."""
    context = contextvars.copy_context()
    return lambda: context.run(function, *args, **kwargs)

"""What comes round every few milliseconds while there is work, and tells how late it was.

`LoopTicker` is a timer of the running event loop, `ThreadTicker` a daemon thread. Both sleep while nothing is in
flight. Waking them costs a look at a flag, and a timer or a thread's event when they did sleep.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from hormesis.clock import MONOTONIC, Clock

__all__ = ["Busy", "LoopTicker", "Observe", "ObserveTimes", "ThreadTicker", "Ticker", "log_once_off"]

Observe = Callable[[float], object]
"""Takes a queueing delay, in seconds."""

ObserveTimes = Callable[[float, int], object]
"""Takes a queueing delay, in seconds, and how often it counts."""

Busy = Callable[[], object]
"""Whether anything is in flight, as truth or as a number."""

_STOP_WITHIN = 1.0
"""Seconds that `ThreadTicker.stop` waits for its thread at most; the thread is a daemon, and would end by itself."""


class Ticker(Protocol):
    """Calls a function every few milliseconds while there is work."""

    def start(self) -> None:
        """Be ready; nothing happens before `wake`."""
        ...

    def stop(self) -> None:
        """Do nothing more."""
        ...

    def wake(self) -> None:
        """Begin, if it sleeps: something is in flight now."""
        ...


def log_once_off(what: object) -> None:
    """Log the exception that is being handled, of an instrument that is off from now on."""
    logging.getLogger("hormesis.signals").exception("%s raised, and is off", what)


class LoopTicker:
    """Ticks on an event loop.

    All verbs are for that loop's own thread.

    Args:
        tick: Called with how late it was, in seconds.
        every: Seconds between ticks.
        busy: Asked after each tick.
        clock: The time; the loop's own is rounded to milliseconds by some.
        name: What the log calls it.
    """

    __slots__ = ("__weakref__", "_busy", "_clock", "_due", "_every", "_handle", "_loop", "_name", "_tick", "asleep")

    def __init__(
        self, tick: Callable[[float], object], *, every: float, busy: Busy, clock: Clock = MONOTONIC, name: str
    ) -> None:
        self._tick = tick
        self._every = every
        self._busy = busy
        self._clock = clock
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.asleep = False
        """Whether `wake` would begin anything; false as well before `start` and after `stop`."""

    def start(self) -> None:
        """Belong to the running loop; nothing happens before `wake`."""
        self.stop()
        self._loop = asyncio.get_running_loop()
        self.asleep = True

    def stop(self) -> None:
        """Tick no more, and belong to no loop."""
        self._loop = None
        self.asleep = False
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def wake(self) -> None:
        """Begin to tick, if it sleeps."""
        if self.asleep:
            self.asleep = False
            self._schedule()

    def _schedule(self) -> None:
        if self._loop is not None:
            self._due = self._clock.now() + self._every
            self._handle = self._loop.call_later(self._every, self._ring)

    def _ring(self) -> None:
        try:
            self._tick(self._clock.now() - self._due)
            busy = self._busy()
        except Exception:
            self.stop()
            log_once_off(self._name)
            return
        if busy:
            self._schedule()
        elif self._loop is not None:  # the tick may have stopped it
            self.asleep, self._handle = True, None


class ThreadTicker:
    """Ticks in a daemon thread, which begins with the first `wake`. Its verbs may be called by any thread.

    After a fork the child has no such thread; it begins anew with the next `wake`.

    Args:
        tick: Called with how late it was, in seconds, in the ticker's thread.
        every: Seconds between ticks.
        busy: Asked after each tick.
        sleep: What waits.
        now: The time.
        name: What the log and the thread are called.
    """

    __slots__ = (
        "__weakref__",
        "_awake",
        "_busy",
        "_every",
        "_lock",
        "_name",
        "_now",
        "_on",
        "_sleep",
        "_thread",
        "_tick",
        "asleep",
    )

    def __init__(
        self,
        tick: Callable[[float], object],
        *,
        every: float,
        busy: Busy,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], float] = time.monotonic,
        name: str,
    ) -> None:
        self._tick = tick
        self._every = every
        self._busy = busy
        self._sleep = sleep
        self._now = now
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None
        self._on = False
        self.asleep = False
        """Whether `wake` would begin anything; false as well before `start` and after `stop`."""

    def start(self) -> None:
        """Be ready; nothing happens before `wake`."""
        with self._lock:
            if not self._on:
                self._on = self.asleep = True
                _started.add(self)

    def stop(self) -> None:
        """Tick no more; waits for a tick that is being made."""
        with self._lock:
            self._on = self.asleep = False
            thread, self._thread = self._thread, None
            self._awake.set()
            _started.discard(self)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_WITHIN)

    def wake(self) -> None:
        """Begin to tick, if it sleeps."""
        if self.asleep:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if not self._on:
                return
            self.asleep = False
            self._awake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"hormesis {self._name}", daemon=True)
                self._thread.start()

    def start_clean(self) -> None:
        """Forget the thread and the locks of the process that this one was forked from."""
        on = self._on
        self._begin()
        if on:
            self.start()

    def _run(self) -> None:
        try:
            while self._wait():
                due = self._now() + self._every
                self._sleep(self._every)
                self._tick(self._now() - due)
        except Exception:
            with self._lock:
                self._on = self.asleep = False
                self._thread = None
            log_once_off(self._name)

    def _wait(self) -> bool:
        """Wait until there is work; False when it is over for this thread."""
        while self._mine() and not self._busy():
            with self._lock:
                if not self._mine():
                    return False
                self._awake.clear()
                self.asleep = True
            # Work that came in between has found it awake, and has woken nobody.
            if self._busy():
                self.asleep = False
                break
            self._awake.wait()
        return self._mine()

    def _mine(self) -> bool:
        return self._thread is threading.current_thread()


_started: weakref.WeakSet[ThreadTicker] = weakref.WeakSet()


def _start_clean_after_fork() -> None:
    for ticker in list(_started):
        ticker.start_clean()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_clean_after_fork)

"""Leaving: readiness turns first, what is in flight ends, then the process goes.

A balancer learns that a process is leaving only when it asks for its readiness the next time, and goes on sending until
then. A process that stops listening at once turns those requests away. So it leaves in steps:

    serving    all is as always
    leaving    readiness says 503, and all is served as always, until balancers have noticed
    refusing   new requests get 503 and `Connection: close`; what is in flight ends, for a bounded time
    over       that time has passed: what still goes on is cut off, as far as that is possible

What a server itself does on SIGTERM is put off to the beginning of *refusing*, and is never swallowed: our handler
takes the place of the server's, and calls it then, with a real signal, since servers wake by it. A second signal from
outside is somebody in a hurry, and is passed on at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from hormesis.clock import Clock
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import normalise
from hormesis.tables import Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Drain", "Leaving", "watch_signals"]

_LOOK_EVERY = 0.05
"""Seconds between two looks at what is still in flight."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Settings):
    """How a process leaves.

    Args:
        ready: The path under which the middleware itself answers whether it is ready; None: it answers none.
        grace: How long it goes on serving after it has said that it is not ready any more.
        limit: How long what is in flight may take after that.
        signals: What makes it leave: names of signals, whose handlers are put off to the end of the grace.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Drain(grace="10s").describe()
    'on SIGTERM /readyz says 503, serves on for 10s, then refuses, and ends what is in flight within 30s'
    """

    # What Kubernetes's own components call it.
    ready: str | None = "/readyz"
    # Balancers ask every few seconds; one that asks less often wants a longer grace.
    grace: Duration = 5.0
    # What most orchestrators give a process before they kill it is 30 s, all in all, or more.
    limit: Duration = 30.0
    # What orchestrators and servers' masters send; ^C is a person, who does not want to wait.
    signals: tuple[str, ...] = ("SIGTERM",)

    def __post_init__(self) -> None:
        if self.ready is not None and not str(self.ready).startswith("/"):
            raise ConfigurationError.bad_value("ready", self.ready, "a path such as '/readyz', or None")
        accepted = "a list of names of signals that can be caught, such as ['SIGTERM']"
        if not isinstance(self.signals, list | tuple):
            raise ConfigurationError.bad_value("signals", self.signals, accepted)
        normalise(
            self,
            grace=seconds(self.grace, "grace", zero=True),
            limit=seconds(self.limit, "limit", zero=True),
            signals=tuple(self.signals),
        )
        for name in self.signals:
            if name not in signal.Signals.__members__ or name in ("SIGKILL", "SIGSTOP"):
                raise ConfigurationError.bad_value("signals", name, accepted)

    def describe(self) -> str:
        """The settings in words."""
        grace, limit = (format_seconds(seconds(each, zero=True)) for each in (self.grace, self.limit))
        when = f"on {' or '.join(self.signals)}" if self.signals else "when it is told to"
        says = f"{self.ready} says 503" if self.ready else "it is not ready any more"
        return f"{when} {says}, serves on for {grace}, then refuses, and ends what is in flight within {limit}"


class Leaving:
    """Where a process stands on its way out.

    Args:
        settings: How it leaves; None: it has no grace, and leaves only when it is told to.
        clock: Times the steps.

    >>> from hormesis.testing import ManualClock
    >>> clock = ManualClock()
    >>> leaving = Leaving(Drain(grace="5s", limit="30s"), clock)
    >>> leaving.begin(); leaving.phase, leaving.ready, leaving.refuses
    ('leaving', False, False)
    >>> clock.advance("5s"); leaving.phase, leaving.refuses
    ('refusing', True)
    """

    __slots__ = ("_clock", "_refusing_from", "began", "gone", "settings")

    def __init__(self, settings: Drain | None, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._refusing_from = math.inf
        self.began: float | None = None
        """When it began to leave; None while it serves."""
        self.gone = False
        """Whether the server has left; another one that begins in the same process serves."""

    @property
    def grace(self) -> float:
        """Seconds for which it serves on, by its settings."""
        return 0.0 if self.settings is None else seconds(self.settings.grace, zero=True)

    @property
    def ready(self) -> bool:
        """Whether balancers should send requests."""
        return self.began is None

    @property
    def refuses(self) -> bool:
        """Whether new requests are turned away."""
        return self.began is not None and self._clock.now() >= self._refusing_from

    @property
    def ends(self) -> float:
        """The moment from which on what is in flight is cut off; infinity while nobody knows."""
        return math.inf if self.settings is None else self._refusing_from + seconds(self.settings.limit, zero=True)

    @property
    def phase(self) -> str:
        """`"serving"`, `"leaving"`, `"refusing"` or `"over"`."""
        if self.began is None:
            return "serving"
        if not self.refuses:
            return "leaving"
        return "refusing" if self._clock.now() < self.ends else "over"

    def begin(self, *, grace: float | None = None) -> None:
        """Begin to leave; what has begun already goes on, and can only be shortened.

        Args:
            grace: Seconds to go on serving; None: what the settings say.
        """
        now = self._clock.now()
        if self.began is None:
            self.began = now
        self._refusing_from = min(self._refusing_from, now + (self.grace if grace is None else grace))

    def stay(self) -> None:
        """Serve on, as if it had never begun."""
        self.began = None
        self.gone = False
        self._refusing_from = math.inf


class _Watch:
    """Stands in the place of a server's handlers of signals.

    Args:
        leaving: What to begin.
        busy: Tells how many requests are in flight.
    """

    def __init__(self, leaving: Leaving, busy: Callable[[], int]) -> None:
        self._leaving = leaving
        self._busy = busy
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._ending = False
        self._ended = False

    def install(self, names: tuple[str, ...]) -> None:
        """Take the place of the handlers; in the main thread."""
        for name in names:
            number = signal.Signals[name].value
            in_loop = _handle_of_loop(number)
            before = signal.getsignal(number) if in_loop is None else in_loop
            if before is None or before is signal.SIG_IGN:
                continue  # not Python's, or somebody decided that nothing is to come of it
            self._before[number] = before
            if in_loop is None:
                signal.signal(number, self._handle)
            else:
                asyncio.get_running_loop().add_signal_handler(number, self._handle, number)

    def uninstall(self) -> None:
        """Give the places back, as far as nobody has taken them since; in the main thread."""
        if self._timer is not None:
            self._timer.cancel()
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None = None) -> None:
        if self._timer is None and self._leaving.began is None:
            self._leaving.begin()
            grace = self._leaving.grace
            if grace:
                # A thread, since a handler must not wait, and a server of threads has no loop. It sends the signal
                # again: it is the signal itself that wakes a server from its waits.
                self._timer = threading.Timer(grace, os.kill, (os.getpid(), number))
                self._timer.daemon = True
                self._timer.start()
                return
        self._leaving.begin(grace=0.0)
        self._hand_over(number, frame)

    def _hand_over(self, number: int, frame: FrameType | None) -> None:
        """Let the server do what it does on this signal."""
        if self._timer is not None:
            self._timer.cancel()
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, frame)
        elif self._ended or self._ending:
            # All has ended, or somebody could not wait for it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            # There is no server to wait for what is in flight, and the system would cut it off.
            self._ending = True
            threading.Thread(target=self._end, args=(number,), name="hormesis-drain", daemon=True).start()

    def _end(self, number: int) -> None:
        while self._busy() and self._leaving.phase != "over":
            time.sleep(_LOOK_EVERY)
        self._ended = True
        os.kill(os.getpid(), number)


def _handle_of_loop(number: int) -> Callable[[int, FrameType | None], Any] | None:
    """Return what the running loop would do on a signal, if it was given something to do."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    # asyncio has no way to ask; a loop that keeps them elsewhere goes on as it would have without us.
    handle = getattr(loop, "_signal_handlers", {}).get(number)
    return None if handle is None else lambda number, frame: handle._run()  # noqa: ARG005


def watch_signals(leaving: Leaving, busy: Callable[[], int]) -> Callable[[], None] | None:
    """Let a process leave on the signals of its settings; returns a function that stops that.

    It must be called after the server has installed its own handlers, and in the main thread; anywhere else nothing can
    be done, and it returns None.

    Args:
        leaving: What to begin.
        busy: Tells how many requests are in flight.
    """
    if leaving.settings is None or not leaving.settings.signals:
        return None
    if threading.current_thread() is not threading.main_thread():
        return None
    watch = _Watch(leaving, busy)
    watch.install(leaving.settings.signals)
    return watch.uninstall

"""Events to a file of JSON lines, for whoever watches the process from outside, such as a game day.

A call hands its event to a bounded queue and goes on; a daemon thread writes. When the queue is full or the disk is,
events are dropped and counted, and the count is written once there is room: a recorder never slows or breaks a call.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hormesis.events import Event, EventBus, bus

__all__ = ["EVENTS_VARIABLE", "record_events"]

EVENTS_VARIABLE = "HORMESIS_EVENTS"
"""The environment variable that names the file."""

_QUEUED_MAX = 10_000
_BATCH_MAX = 1_000
_FLUSH_SECONDS = 0.2


def record_events(path: str | os.PathLike[str] | None = None, *, events: EventBus = bus) -> Callable[[], None]:
    """Append every event of this process to a file of JSON lines; returns a function that stops it.

    Args:
        path: The file. None takes it from the environment variable `HORMESIS_EVENTS`, and does nothing when that is
            unset or empty.
        events: The bus to listen to.

    >>> stop = record_events()  # does nothing: the variable is not set
    >>> stop()
    """
    target = os.environ.get(EVENTS_VARIABLE, "") if path is None else os.fspath(path)
    if not target:
        return lambda: None
    recorder = _Recorder(Path(target))
    stop_listening = events.listen(recorder.take)

    def stop() -> None:
        stop_listening()
        recorder.close()

    return stop


class _Recorder:
    """The queue and the thread that empties it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.Queue[Event | None] = queue.Queue(_QUEUED_MAX)
        self._dropped = 0
        self._start()

    def _start(self) -> None:
        self._ending = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._write, name="hormesis-events", daemon=True)
        self._thread.start()

    def take(self, event: Event) -> None:
        """Queue one event, or count it as dropped."""
        if self._process != os.getpid():  # a forked process has the queue, but not the thread that empties it
            self._queue = queue.Queue(_QUEUED_MAX)
            self._start()
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is queued and end the thread; bounded, in case the disk hangs."""
        try:
            self._queue.put(None, timeout=_FLUSH_SECONDS)
        except queue.Full:
            return
        self._thread.join(timeout=5 * _FLUSH_SECONDS)

    def _write(self) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                while not self._ending and (event := self._queue.get()) is not None:
                    self._append(file, event)
        except OSError as error:
            import logging  # noqa: PLC0415  only a broken disk needs it

            log = logging.getLogger("hormesis.telemetry")
            log.warning("can't record events in %s: %s; recording has ended", self._path, error)

    def _append(self, file: IO[str], event: Event) -> None:
        import json  # noqa: PLC0415  most processes record nothing

        lines = [event.as_dict()]
        while len(lines) < _BATCH_MAX and not self._queue.empty():
            following = self._queue.get_nowait()
            if following is None:
                self._ending = True
                break
            lines.append(following.as_dict())
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append({"event": "events_dropped", "count": dropped})
        file.write("".join(json.dumps(line, default=str) + "\n" for line in lines))
        file.flush()

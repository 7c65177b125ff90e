"""Structured logging: each event is a record of the standard library's `logging`, its facts as attributes.

    import hormesis as hm

    stop = hm.telemetry.logs.instrument()

The facts are what `extra=` of a log call would set, so `JsonFormatter`, structlog's `ExtraAdder` and whatever else
reads extra attributes finds them; so is the id of the request that is being served, where somebody set one.

An outage must not flood the log. Lines that say the same (event, policy, part, and reason) are let through ten times
a minute; the others are counted, and the count is a line of its own as soon as anything happens after that minute,
or when the logging is stopped. As all minutes are equally long, they end in the order in which they began, so a
queue of them is all the bookkeeping there is.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from hormesis.clock import MONOTONIC, Clock
from hormesis.context import request_id
from hormesis.core.breaker import BreakerState
from hormesis.events import (
    AttemptFailed,
    CacheAnswered,
    CallRejected,
    Event,
    EventBus,
    FallbackAnswered,
    FallbackFailed,
    FlowPaused,
    FlowResumed,
    HedgeEnded,
    HedgeStarted,
    LeftWorkEnded,
    LimitChanged,
    Reconfigured,
    RetryScheduled,
    RetrySucceeded,
    Waited,
    bus,
)
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

__all__ = ["JsonFormatter", "instrument"]

_LEVELS: dict[type[Event], int] = {
    # What a policy does so that nobody notices.
    CacheAnswered: logging.DEBUG,
    HedgeEnded: logging.DEBUG,
    HedgeStarted: logging.DEBUG,
    LimitChanged: logging.DEBUG,
    RetryScheduled: logging.DEBUG,
    RetrySucceeded: logging.DEBUG,
    Waited: logging.DEBUG,
    # What somebody will want to know afterwards.
    AttemptFailed: logging.INFO,
    FlowPaused: logging.INFO,
    FlowResumed: logging.INFO,
    LeftWorkEnded: logging.INFO,
    Reconfigured: logging.INFO,
    # What a caller noticed is a warning, the default; and when nothing was left to answer with, an error.
    CallRejected: logging.WARNING,
    FallbackAnswered: logging.WARNING,
    FallbackFailed: logging.ERROR,
}

_GOOD_NEWS = frozenset({BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.RECOVERING})

_LINES_MAX = 1_000
"""Different lines that are told apart within their minute; beyond that the oldest minute ends early."""

_Line: TypeAlias = tuple[object, ...]


def instrument(
    logger: logging.Logger | None = None,
    *,
    most: int = 10,
    every: Duration = 60.0,
    events: EventBus = bus,
    clock: Clock = MONOTONIC,
) -> Callable[[], None]:
    """Log what policies do; returns a function that stops it, and may be called twice.

    Args:
        logger: Where it goes; None: the logger `hormesis`.
        most: Lines that say the same which are let through in each interval.
        every: How long an interval is.
        events: The bus to listen to.
        clock: What intervals are measured by.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> stop = instrument(most=5, every="10s")
    >>> stop()
    """
    whole("most", most, 1)
    log = _Log(logging.getLogger("hormesis") if logger is None else logger, most, seconds(every, "every"), clock)
    stop_listening = events.listen(log.take)

    def stop() -> None:
        stop_listening()
        log.settle(everything=True)

    return stop


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, whatever was given as `extra`, the exception.

    >>> record = logging.makeLogRecord({"name": "shop", "levelname": "INFO", "msg": "sold", "price": 3, "created": 0.0})
    >>> JsonFormatter().format(record)
    '{"time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "logger": "shop", "message": "sold", "price": 3}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what is no JSON is written as text."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


_NOT_EXTRA = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


@dataclasses.dataclass(slots=True)
class _Interval:
    """How often one line was wanted since a moment."""

    began: float
    event: Event
    wanted: int = 0


class _Log:
    """Writes events, each not too often."""

    def __init__(self, logger: logging.Logger, most: int, every: float, clock: Clock) -> None:
        self._logger = logger
        self._most = most
        self._every = every
        self._now = clock.now
        self._intervals: dict[_Line, _Interval] = {}
        self._lost = 0
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Write an event, or count it."""
        self.settle()
        level = _level(event)
        if self._logger.isEnabledFor(level) and self._let_through(event):
            self._write(level, event)

    def settle(self, *, everything: bool = False) -> None:
        """Write what was left out of the intervals that are over."""
        over: list[_Interval] = []
        with self._lock:
            now = self._now()
            while self._intervals:
                line, oldest = next(iter(self._intervals.items()))
                if not everything and len(self._intervals) <= _LINES_MAX and now - oldest.began < self._every:
                    break
                del self._intervals[line]
                over.append(oldest)
        for interval in over:
            if interval.wanted > self._most:
                self._write(_level(interval.event), interval.event, suppressed=interval.wanted - self._most)

    def _let_through(self, event: Event) -> bool:
        line = _line(event)
        with self._lock:
            interval = self._intervals.get(line)
            if interval is None:
                interval = self._intervals[line] = _Interval(self._now(), event)
            interval.wanted += 1
            return interval.wanted <= self._most

    def _write(self, level: int, event: Event, *, suppressed: int = 0) -> None:
        facts = event.as_dict()
        del facts["at"]  # a monotonic clock means nothing to a reader, and the record has its time
        facts = {"event_name": facts.pop("event"), **facts}
        words = " ".join(f"{name}={fact!r}" for name, fact in facts.items() if name != "event_name")
        if suppressed:
            facts["suppressed"] = suppressed
            words = f"{suppressed} more like {words}"
        current = request_id()
        if current is not None and not suppressed:
            facts["request_id"] = current
        lost, self._lost = self._lost, 0
        if lost:
            facts["lost"] = lost
        try:
            self._logger.log(level, "%s: %s", event.name, words, extra=facts)
        except Exception:
            # A filter or handler that raises: a line less is no reason to take the whole logging off the bus.
            self._lost += lost + 1


def _line(event: Event) -> _Line:
    """What makes two events different, as far as a reader of the log is concerned."""
    # The reason of a change is told with its numbers, so it is hardly ever the same: where it led to is.
    facts = ("after",) if hasattr(event, "after") else ("reason", "kind", "source")
    return (event.name, event.policy, event.part, event.shadow, *(getattr(event, fact, None) for fact in facts))


def _level(event: Event) -> int:
    level = _LEVELS.get(type(event), logging.WARNING)
    if getattr(event, "after", None) in _GOOD_NEWS:
        level = logging.INFO
    # What a shadow would have done, nobody noticed.
    return min(level, logging.INFO) if event.shadow else level

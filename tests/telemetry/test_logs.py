"""Events as log records, and how an outage does not flood the log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

import hormesis as hm
from hormesis.context import calling
from hormesis.events import (
    AttemptFailed,
    CallRejected,
    Event,
    EventBus,
    FallbackFailed,
    LeftWorkEnded,
    RetryScheduled,
    StateChanged,
)
from hormesis.telemetry import logs
from hormesis.testing import ManualClock


class Lines(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def facts(self, name: str) -> list[Any]:
        return [getattr(record, name, None) for record in self.records]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.stock")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Lines())
    yield logger
    logger.handlers.clear()


@pytest.fixture
def lines(logger: logging.Logger) -> Lines:
    handler = logger.handlers[0]
    assert isinstance(handler, Lines)
    return handler


@pytest.fixture
def here() -> EventBus:
    return EventBus()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def logging_of_here(here: EventBus, logger: logging.Logger, clock: ManualClock) -> Iterator[None]:
    stop = logs.instrument(logger, most=3, every="10s", events=here, clock=clock)
    yield
    stop()


def rejected(reason: str = "queue full", key: str = "", shadow: bool = False) -> Event:
    return CallRejected(
        at=1.0, policy="stock", part="bulkhead", reason=reason, retry_after=None, key=key, shadow=shadow
    )


def changed(after: str, reason: str = "because") -> Event:
    return StateChanged(at=1.0, policy="stock", part="circuit_breaker", before="closed", after=after, reason=reason)


@pytest.mark.usefixtures("logging_of_here")
def test_an_event_is_a_record_with_its_facts(here: EventBus, lines: Lines) -> None:
    """The message reads, and the facts are attributes; the reading of a monotonic clock is none."""
    with calling(request_id="r-1"):
        here.publish(changed("open", "5 of 9 failed"))
    (record,) = lines.records
    assert record.getMessage() == (
        "state_changed: policy='stock' part='circuit_breaker' before='closed' after='open' reason='5 of 9 failed'"
    )
    facts = vars(record)
    assert (facts["event_name"], facts["policy"], facts["after"]) == ("state_changed", "stock", "open")
    assert facts["request_id"] == "r-1"
    assert "at" not in facts


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (RetryScheduled(at=1.0, policy="p", part="retry", attempt=1, delay=0.1), logging.DEBUG),
        (AttemptFailed(at=1.0, policy="p", part="function", attempt=1, kind="error", error="KeyError"), logging.INFO),
        (LeftWorkEnded(at=1.0, policy="p", part="timeout", zombies=0), logging.INFO),
        (changed("closed"), logging.INFO),
        (changed("open"), logging.WARNING),
        (changed("isolated"), logging.WARNING),
        (rejected(), logging.WARNING),
        (rejected(shadow=True), logging.INFO),
        (FallbackFailed(at=1.0, policy="p", part="fallback", kind="error", error="KeyError"), logging.ERROR),
    ],
    ids=lambda each: getattr(each, "name", None),
)
@pytest.mark.usefixtures("logging_of_here")
def test_each_kind_has_its_level(here: EventBus, lines: Lines, event: Event, level: int) -> None:
    """Debug for what nobody notices, warnings for what a caller does, and never more than info for a shadow."""
    here.publish(event)
    assert [record.levelno for record in lines.records] == [level]


@pytest.mark.usefixtures("logging_of_here")
def test_a_level_that_is_off_costs_nothing(here: EventBus, logger: logging.Logger, lines: Lines) -> None:
    """What would not be written is not counted against what would."""
    logger.setLevel(logging.ERROR)
    for _ in range(5):
        here.publish(rejected())
    logger.setLevel(logging.INFO)
    here.publish(rejected())
    assert len(lines.records) == 1


@pytest.mark.usefixtures("logging_of_here")
def test_an_outage_does_not_flood_the_log(here: EventBus, lines: Lines, clock: ManualClock) -> None:
    """The same line comes three times in ten seconds; what was left out is counted once these are over."""
    for number in range(1_000):
        here.publish(rejected(key=f"host-{number}"))
    assert len(lines.records) == 3
    here.publish(rejected("waited too long"))
    assert len(lines.records) == 4
    clock.advance("10s")
    here.publish(changed("closed"))
    assert lines.facts("suppressed") == [None] * 4 + [997, None]
    assert lines.records[4].getMessage().startswith("call_rejected: 997 more like policy='stock'")
    for _ in range(4):
        here.publish(rejected())
    assert len(lines.records) == 9


@pytest.mark.usefixtures("logging_of_here")
def test_a_change_of_state_is_told_by_where_it_led(here: EventBus, lines: Lines) -> None:
    """Reasons with ever different numbers do not make ever different lines; each state does."""
    for number in range(20):
        here.publish(changed("open", f"{number} of 20 calls failed"))
        here.publish(changed("half-open"))
    assert lines.facts("after") == ["open", "half-open"] * 3


def test_stopping_tells_what_was_left_out(here: EventBus, logger: logging.Logger, lines: Lines) -> None:
    """Nothing that was counted is lost; stopping twice tells it once."""
    stop = logs.instrument(logger, most=1, events=here)
    for _ in range(5):
        here.publish(rejected())
    stop()
    stop()
    here.publish(rejected())
    assert lines.facts("suppressed") == [None, 4]


@pytest.mark.usefixtures("logging_of_here")
def test_different_lines_are_bounded(here: EventBus, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many different lines the oldest is settled early."""
    monkeypatch.setattr(logs, "_LINES_MAX", 5)
    for _ in range(4):
        here.publish(rejected("first"))
    for number in range(10):
        here.publish(rejected(f"reason-{number}"))
    assert [suppressed for suppressed in lines.facts("suppressed") if suppressed] == [1]


@pytest.mark.usefixtures("logging_of_here")
def test_a_filter_that_raises_loses_a_line_only(here: EventBus, logger: logging.Logger, lines: Lines) -> None:
    """The logging stays on the bus, and the next line tells how many were lost."""

    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("no")

    logger.addFilter(broken)
    here.publish(rejected("a"))
    here.publish(rejected("b"))
    logger.removeFilter(broken)
    here.publish(rejected("c"))
    assert lines.facts("lost") == [2]


def test_by_default_the_logger_is_ours(here: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """Applications configure `hormesis` as any other logger, and calls of policies reach it."""
    stop = logs.instrument(events=here)
    policy = hm.Policy(hm.Fallback(value=0), name="stock", events=here)
    with caplog.at_level(logging.INFO, "hormesis"):
        policy.call(lambda: 1 // 0)
    stop()
    assert [record.__dict__["event_name"] for record in caplog.records] == ["attempt_failed", "fallback_answered"]


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "many"])
def test_a_number_of_lines_that_makes_no_sense(most: Any) -> None:
    """It is refused with the value and what would do."""
    with pytest.raises(hm.ConfigurationError, match=r"most is .*; it takes a whole number from 1"):
        logs.instrument(most=most)


@pytest.mark.parametrize("every", [0, -1, "soon"])
def test_an_interval_that_makes_no_sense(every: Any) -> None:
    """It is refused with the value and what would do."""
    with pytest.raises(hm.ConfigurationError, match="every"):
        logs.instrument(every=every)


@pytest.mark.usefixtures("logging_of_here")
def test_lines_of_json(here: EventBus, logger: logging.Logger) -> None:
    """The formatter writes facts as members, and exceptions of other records too."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logs.JsonFormatter())
    logger.addHandler(handler)
    here.publish(rejected())
    try:
        raise KeyError("tea")
    except KeyError:
        logger.exception("no %s", "tea", extra={"shelf": {3}})
    first, second = [json.loads(line) for line in output.getvalue().splitlines()]
    assert first["time"].endswith("+00:00")
    del first["time"]
    assert first == {
        "level": "WARNING",
        "logger": "tests.stock",
        "message": "call_rejected: policy='stock' part='bulkhead' reason='queue full' retry_after=None",
        "event_name": "call_rejected",
        "policy": "stock",
        "part": "bulkhead",
        "reason": "queue full",
        "retry_after": None,
    }
    assert second["shelf"] == "{3}"
    assert "KeyError" in second["exception"]


@pytest.mark.usefixtures("logging_of_here")
def test_structlog_reads_the_facts(here: EventBus, logger: logging.Logger) -> None:
    """Through structlog's bridge to the standard library the facts are members of its event."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ExtraAdder(),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ]
        )
    )
    logger.addHandler(handler)
    here.publish(rejected())
    line = json.loads(output.getvalue())
    assert line["event"].startswith("call_rejected: policy='stock'")
    assert (line["event_name"], line["policy"], line["reason"]) == ("call_rejected", "stock", "queue full")

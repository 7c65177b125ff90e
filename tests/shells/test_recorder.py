"""Events to a file of JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis.events import EventBus, RetrySucceeded
from hormesis.telemetry import EVENTS_VARIABLE, record_events, recorder


def fact(attempt: int) -> RetrySucceeded:
    return RetrySucceeded(at=1.0, policy="p", part="retry", attempt=attempt)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_event_is_a_line(tmp_path: Path) -> None:
    """Events are written in their order, and are all there when the recording has been stopped."""
    here, path = EventBus(), tmp_path / "events.jsonl"
    stop = record_events(path, events=here)
    for number in range(500):
        here.publish(fact(number))
    stop()
    here.publish(fact(500))
    assert lines(path) == [fact(number).as_dict() for number in range(500)]


def test_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A file that is there already is added to."""
    here, path = EventBus(), tmp_path / "events.jsonl"
    for number in range(2):
        stop = record_events(path, events=here)
        here.publish(fact(number))
        stop()
    assert [line["attempt"] for line in lines(path)] == [0, 1]


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the environment decides, and calls of any policy are recorded."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_VARIABLE, str(path))
    stop = record_events()
    hm.Policy(hm.Fallback(value=0), name="stock").call(lambda: 1 // 0)
    stop()
    assert [(line["event"], line["policy"]) for line in lines(path)] == [
        ("attempt_failed", "stock"),
        ("fallback_answered", "stock"),
    ]


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_happens_unless_asked(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable unset or empty nobody listens and no thread is started."""
    monkeypatch.delenv(EVENTS_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(EVENTS_VARIABLE, value)
    here, before = EventBus(), threading.active_count()
    stop = record_events(events=here)
    assert here.listeners == ()
    assert threading.active_count() == before
    stop()


def test_a_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bad path is logged once, and breaks no call."""
    here = EventBus()
    stop = record_events(tmp_path / "missing" / "events.jsonl", events=here)
    for number in range(10):
        here.publish(fact(number))
    stop()
    assert len(caplog.records) == 1
    assert "can't record events" in caplog.text


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk hangs, calls go on; the events that were lost are counted once there is room."""
    monkeypatch.setattr(recorder, "_QUEUED_MAX", 5)
    here, path = EventBus(), tmp_path / "events.pipe"
    os.mkfifo(path)  # opening it to write hangs until somebody reads
    stop = record_events(path, events=here)
    for number in range(20):
        here.publish(fact(number))
    with path.open() as reading:
        first = [json.loads(reading.readline()) for _ in range(6)]
        stop()
    assert [line["attempt"] for line in first[:5]] == [0, 1, 2, 3, 4]
    assert first[5] == {"event": "events_dropped", "count": 15}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_records_too(tmp_path: Path) -> None:
    """A process that was forked after recording began has a writer of its own."""
    path = tmp_path / "events.jsonl"
    script = f"""
import os, warnings, hormesis as hm
warnings.simplefilter("ignore")
stop = hm.telemetry.record_events({str(path)!r})
policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), name="parent")
child = os.fork()
if child == 0:
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), name="child")
try:
    policy.call(lambda: 1 / 0)
except ZeroDivisionError:
    pass
stop()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {event["policy"] for event in events} == {"parent", "child"}

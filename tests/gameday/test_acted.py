"""What acted is counted from a process's own events, as far as they can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hormesis.gameday import acted
from hormesis.gameday.acted import EventLog, summarise
from hormesis.gameday.results import Acted


def event(at: float, name: str, part: str = "retry", policy: str = "stock", **more: object) -> dict[str, Any]:
    return {"event": name, "at": at, "policy": policy, "part": part, **more}


def change(at: float, after: str) -> dict[str, Any]:
    return event(at, "state_changed", "circuit_breaker", before="?", after=after)


def line(found: dict[str, Any]) -> bytes:
    return json.dumps(found).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("call_rejected", "refused"),
        ("waited", "queued"),
        ("timeout_hit", "cut off"),
        ("retry_scheduled", "retried"),
        ("retry_succeeded", "succeeded"),
        ("retry_stopped", "gave up"),
        ("fallback_answered", "answered"),
        ("fallback_failed", "had no answer"),
        ("flow_paused", "paused"),
        ("item_dropped", "dropped"),
        ("reader_disconnected", "disconnected"),
    ],
)
def test_acts(name: str, act: str) -> None:
    """Each event by which a part does more than the bare call counts as its act."""
    (found,) = summarise("shop", [event(12.5, name)], 10.0, 20.0)
    assert found == Acted(process="shop", policy="stock", part="retry", counts={act: 1}, first=2.5)


def test_states() -> None:
    """A state that was entered is an act, by what it is called."""
    events = [change(11, "open"), change(12, "half-open"), change(13, "open"), change(14, "closed"), change(15, "odd")]
    (found,) = summarise("shop", events, 10.0, 20.0)
    assert found.counts == {"opened": 2, "half-opened": 1, "closed": 1}
    assert found.first == 1


def test_what_is_no_act() -> None:
    """Calls that ended as they would have without a policy, and events of another world, count for nothing."""
    assert summarise("shop", [event(11, "call_ended"), {"at": 12}, event(13, "brewed")], 10.0, 20.0) == []
    assert summarise("shop", [], 10.0, 20.0) == []


def test_parts_are_counted_apart() -> None:
    """Each part of each policy has its own counts; the part that acted first comes first."""
    events = [
        event(14, "timeout_hit", "timeout"),
        event(12, "retry_scheduled"),
        event(15, "timeout_hit", "timeout"),
        event(13, "timeout_hit", "timeout", policy="prices"),
        event(16, "retry_scheduled"),
        event(11, "retry_succeeded"),
    ]
    found = summarise("shop", events, 10.0, 20.0)
    assert [(each.policy, each.part, each.counts, each.first) for each in found] == [
        ("stock", "retry", {"retried": 2, "succeeded": 1}, 1),
        ("prices", "timeout", {"cut off": 1}, 3),
        ("stock", "timeout", {"cut off": 2}, 4),
    ]


def test_only_the_window_counts() -> None:
    """Acts before the dose are no answer to it, and those after the end belong to the next; the edges are inside."""
    events = [event(at, "waited") for at in (9.999, 10.0, 15.0, 20.0, 20.001)]
    (found,) = summarise("shop", events, 10.0, 20.0)
    assert found.counts == {"queued": 3}
    assert found.first == 0
    assert summarise("shop", events, 30.0, 40.0) == []


def test_huge_numbers() -> None:
    """A time beyond every clock, as a whole number without end, is outside of every window."""
    events = [event(10**400, "waited"), event(-(10**400), "waited"), event(float("inf"), "waited")]
    assert summarise("shop", events, 10.0, 20.0) == []


def test_a_missing_file(tmp_path: Path) -> None:
    """A process that recorded nothing, or nothing yet, has no events."""
    log = EventLog("shop", tmp_path / "none.jsonl")
    assert list(log.read()) == []
    (tmp_path / "none.jsonl").write_bytes(line(event(1, "waited")))
    assert len(list(log.read())) == 1


def test_each_event_is_read_once(tmp_path: Path) -> None:
    """A reading goes on where the last one ended; half a line waits until it is whole."""
    path = tmp_path / "events.jsonl"
    log = EventLog("shop", path)
    first, second, third = (line(event(at, "waited")) for at in (1, 2, 3))
    path.write_bytes(first + second[:10])
    assert [found["at"] for found in log.read()] == [1]
    assert list(log.read()) == []
    path.write_bytes(first + second + third[:-1])
    assert [found["at"] for found in log.read()] == [2]
    path.write_bytes(first + second + third)
    assert [found["at"] for found in log.read()] == [3]
    assert list(log.read()) == []


def test_a_line_that_stays_half(tmp_path: Path) -> None:
    """A process that was killed in the middle of a line spoils that line, and those of its successor count."""
    path = tmp_path / "events.jsonl"
    log = EventLog("shop", path)
    path.write_bytes(line(event(1, "waited")) + b'{"event": "wai')
    assert [found["at"] for found in log.read()] == [1]
    with path.open("ab") as file:
        file.write(line(event(2, "waited")) + line(event(3, "waited")))
    assert [found["at"] for found in log.read()] == [3]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"no JSON",
        b"\xff\xfe\x00",
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b"{}",
        b'{"event": "waited"}',
        b'{"event": "waited", "at": null}',
        b'{"event": "waited", "at": "12"}',
        b'{"event": "waited", "at": [1]}',
        b'{"event": "waited", "at": true}',
        b"[" * 100_000,
        b'{"event": "waited", "at": ' + b"1" * 5000 + b"}",
        b'{"event": "events_dropped", "count": 3}',
    ],
    ids=lambda garbage: repr(garbage[:40]),
)
def test_garbage(tmp_path: Path, garbage: bytes) -> None:
    """What is no event is passed over, and hides none of those around it."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(event(11, "waited")) + garbage + b"\n" + line(event(12, "waited")))
    (found,) = summarise("shop", EventLog("shop", path).read(), 10.0, 20.0)
    assert found.counts == {"queued": 2}


def test_fields_of_another_kind(tmp_path: Path) -> None:
    """Names that are no text, or missing, are told as they are, and never break the count."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"at": 11, "event": "waited", "policy": ["a"], "part": null}\n{"at": 12, "after": {}}\n')
    (found,) = summarise("shop", EventLog("shop", path).read(), 10.0, 20.0)
    assert (found.policy, found.part, found.counts) == ("['a']", "None", {"queued": 1})


def test_a_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading takes so many bytes at most; the next goes on there."""
    path = tmp_path / "events.jsonl"
    lines = [line(event(at, "waited")) for at in (1, 2, 3)]
    path.write_bytes(b"".join(lines))
    monkeypatch.setattr(acted, "_READ_MAX", len(lines[0]) + len(lines[1]) + 5)
    log = EventLog("shop", path)
    assert [found["at"] for found in log.read()] == [1, 2]
    assert [found["at"] for found in log.read()] == [3]


def test_events_of_an_earlier_stress(tmp_path: Path) -> None:
    """Each stress reads what was written since the one before, so no act counts twice."""
    path = tmp_path / "events.jsonl"
    log = EventLog("shop", path)
    path.write_bytes(line(event(11, "waited")))
    assert len(summarise("shop", log.read(), 10.0, 20.0)) == 1
    assert summarise("shop", log.read(), 10.0, 20.0) == []

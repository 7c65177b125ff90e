"""Faults are values that refuse what can't be meant, read from tables, and say themselves in plain words."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from hormesis.chaos import (
    Bandwidth,
    BlackHole,
    Fault,
    Kill,
    Latency,
    Pause,
    Refuse,
    Reset,
    Spike,
    Throttle,
    describe,
    fault_from,
)
from hormesis.errors import ConfigurationError

TABLES: list[tuple[dict[str, object], Fault, str]] = [
    ({"latency": "2s"}, Latency(2.0), "latency 2s"),
    ({"latency": 2, "jitter": "500ms"}, Latency("2s", jitter=0.5), "latency 2s ± 500ms"),
    ({"jitter": 0, "latency": "1s", "stream": "upstream"}, Latency(1, stream="upstream"), "latency 1s upstream"),
    ({"bandwidth": "20KB/s", "stream": "both"}, Bandwidth(20_000, stream="both"), "bandwidth 20KB/s both ways"),
    ({"bandwidth": 512, "share": 0.5}, Bandwidth("512B/s", share=0.5), "bandwidth 512B/s on 50 % of connections"),
    ({"black_hole": True}, BlackHole(), "black hole"),
    ({"refuse": True}, Refuse(), "refuses connections"),
    ({"reset": True}, Reset("answer"), "resets answers"),
    ({"reset": "request", "share": 0.3}, Reset("request", share=0.3), "resets 30 % of requests"),
    ({"kill": True}, Kill(), "killed"),
    ({"pause": True}, Pause(), "paused"),
    ({"spike": 3}, Spike(3), "load x3"),
    ({"spike": 20, "request": "report"}, Spike(20, request="report"), "report x20"),
    ({"spike": 2.5, "client": "bots"}, Spike(2.5, client="bots"), "bots x2.5"),
    ({"throttle": 0.2}, Throttle(0.2), "throttled to 20 %"),
]


@pytest.mark.parametrize(("table", "fault", "words"), TABLES)
def test_table(table: dict[str, object], fault: object, words: str) -> None:
    """A table becomes the fault that one would write in code, and the fault says what it is."""
    made = fault_from(table)
    assert made == fault
    assert describe(made) == words


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({}, ["empty", "latency", "spike"]),
        ({"latncy": "2s"}, ["latncy", "'2s'", "did you mean 'latency'", "black_hole"]),
        ({"share": 0.5}, ["share", "0.5", "latency"]),
        ({"share": 0.5, "rest": True}, ["unknown fault 'rest'", "reset"]),
        ({"latency": "2s", "reset": True}, ["latency and reset", "one fault"]),
        ({"latency": "2s", "jiter": "1s"}, ["jiter", "did you mean 'jitter'", "stream"]),
        ({"refuse": True, "share": 0.5}, ["share", "'refuse'", "known are: refuse"]),
        ({"latency": "soon"}, ["latency is 'soon'", "300ms"]),
    ],
)
def test_table_that_cannot_be_meant(table: dict[str, object], parts: list[str]) -> None:
    """A table that names no fault, two, or a stranger's setting is refused; the error shows it and what is known."""
    with pytest.raises(ConfigurationError) as caught:
        fault_from(table)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (Latency, {"latency": 0}, "latency"),
        (Latency, {"latency": "1s", "jitter": -1}, "jitter"),
        (Latency, {"latency": "1s", "stream": "sideways"}, "stream"),
        (Latency, {"latency": "1s", "stream": ["both"]}, "stream"),
        (Latency, {"latency": "1s", "share": 0}, "share"),
        (Bandwidth, {"bandwidth": 0}, "bandwidth"),
        (Bandwidth, {"bandwidth": 1, "stream": "down"}, "stream"),
        (Bandwidth, {"bandwidth": 1, "share": 1.1}, "share"),
        (BlackHole, {"black_hole": False}, "black_hole"),
        (BlackHole, {"share": True}, "share"),
        (Refuse, {"refuse": False}, "refuse"),
        (Reset, {"reset": False}, "reset"),
        (Reset, {"reset": "sometimes"}, "reset"),
        (Reset, {"share": "half"}, "share"),
        (Kill, {"kill": False}, "kill"),
        (Pause, {"pause": 1}, "pause"),
        (Spike, {"spike": 1}, "spike"),
        (Spike, {"spike": float("inf")}, "spike"),
        (Spike, {"spike": float("nan")}, "spike"),
        (Spike, {"spike": True}, "spike"),
        (Spike, {"spike": 2, "request": ""}, "request"),
        (Spike, {"spike": 2, "client": 3}, "client"),
        (Spike, {"spike": 2, "request": "a", "client": "b"}, "client"),
        (Throttle, {"throttle": 0}, "throttle"),
        (Throttle, {"throttle": 1}, "throttle"),
        (Throttle, {"throttle": True}, "throttle"),
    ],
)
def test_bad_value(kind: type, values: dict[str, object], key: str) -> None:
    """A value that can't be meant is refused by the name of its field."""
    with pytest.raises(ConfigurationError) as caught:
        kind(**values)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key} is ")


@pytest.mark.parametrize("fault", [fault for _, fault, _ in TABLES])
def test_value(fault: Fault) -> None:
    """A fault is a value: it can be sent between processes, be a key, and not be changed."""
    assert pickle.loads(pickle.dumps(fault)) == fault
    assert len({fault, dataclasses.replace(fault)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fault, dataclasses.fields(fault)[0].name, 1)

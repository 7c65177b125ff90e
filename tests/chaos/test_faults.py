"""Faults are values that refuse what can't be meant, read from tables, and say themselves in plain words."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from hormesis.chaos import (
    Bandwidth,
    BlackHole,
    Corrupt,
    Fault,
    Kill,
    Latency,
    LimitData,
    Loss,
    Pause,
    Refuse,
    Reset,
    ResetPeer,
    Rewrite,
    Slicer,
    SlowClose,
    Spike,
    Status,
    Throttle,
    Timeout,
    Truncate,
    describe,
    fault_from,
)
from hormesis.chaos.faults import Inject
from hormesis.chaos.faults.aim import client_range
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
    ({"latency": 0, "jitter": "10ms"}, Latency(0, jitter=0.01), "latency 0s ± 10ms"),
    (
        {"latency": 1, "requests": 3, "route": "GET /a"},
        Latency(1, requests="3", route="GET /a"),
        "latency 1s on requests 3 of GET /a",
    ),
    ({"black_hole": True, "stream": "upstream"}, BlackHole(stream="upstream"), "black hole upstream"),
    ({"refuse": True, "after": 1, "until": "3s"}, Refuse(after=1, until=3), "refuses connections after 1s until 3s"),
    (
        {"reset": "connect", "connections": "1-2"},
        Reset("connect", connections="1-2"),
        "resets connections on connections 1-2",
    ),
    ({"reset_peer": 0}, ResetPeer(0), "resets connections"),
    (
        {"reset_peer": "2s", "client": "10.0.0.0/8"},
        ResetPeer(2, client="10.0.0.0/8"),
        "resets connections after 2s from 10.0.0.0/8",
    ),
    ({"timeout": 0}, Timeout(0), "drops data"),
    ({"timeout": "5s", "stream": "both"}, Timeout(5, stream="both"), "drops data both ways, closed after 5s"),
    ({"slow_close": "1s"}, SlowClose(1), "closes 1s late"),
    (
        {"slicer": 64, "variation": 32, "delay": "1ms"},
        Slicer(64, variation=32, delay=0.001),
        "pieces of 64B ± 32B, 1ms apart",
    ),
    ({"limit_data": "64KB"}, LimitData(64_000), "closes after 64KB"),
    ({"corrupt": 0.01, "share": 0.5}, Corrupt(0.01, share=0.5), "corrupts 1 % of bytes on 50 % of connections"),
    ({"loss": 0.1}, Loss(0.1), "loses 10 % of packets"),
    ({"status": 503, "requests": "1-2"}, Status(503, requests="1-2"), "answers 503 on requests 1-2"),
    (
        {"status": 502, "ask": True, "header": "X: y"},
        Status(502, ask=True, header="X: y"),
        "answers 502 in the place of the answer on requests with X: y",
    ),
    ({"truncate": 100, "share": 0.1}, Truncate(100, share=0.1), "cuts answers off after 100 bytes on 10 % of requests"),
    ({"rewrite": {"ETag": False}}, Rewrite({"ETag": False}), "rewrites ETag of answers"),
    ({"kill": True}, Kill(), "killed"),
    ({"pause": True}, Pause(), "paused"),
    ({"spike": 3}, Spike(3), "load x3"),
    ({"spike": 20, "request": "report"}, Spike(20, request="report"), "report x20"),
    ({"spike": 2.5, "client": "bots"}, Spike(2.5, client="bots"), "bots x2.5"),
    ({"throttle": 0.2}, Throttle(0.2), "throttled to 20 %"),
    (
        {"inject": {"latency": "2s", "share": 0.1, "where": {"host": "eu-*"}}, "at": "stock"},
        Inject({"latency": 2.0, "share": 0.1, "where": {"host": "eu-*"}}, at="stock"),
        "injects latency 2s on 10 % of calls where host is eu-* at stock",
    ),
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
        ({"inject": {}}, ["nothing is injected", "latency, error"]),
        ({"inject": "latency"}, ["'latency'", "a table such as"]),
        ({"inject": {"latncy": 1}}, ["unknown setting", "'latncy'", "did you mean 'latency'"]),
        ({"inject": {"error": "connect"}, "at": ""}, ["at is ''", "names of policies"]),
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
        (Latency, {"latency": "1s", "requests": "0"}, "requests"),
        (Latency, {"latency": "1s", "requests": "3-1"}, "requests"),
        (Latency, {"latency": "1s", "connections": "every 0"}, "connections"),
        (Latency, {"latency": "1s", "connections": True}, "connections"),
        (Latency, {"latency": "1s", "connections": "1,"}, "connections"),
        (Latency, {"latency": "1s", "client": "somewhere"}, "client"),
        (Latency, {"latency": "1s", "client": "10.0.0.0/33"}, "client"),
        (Latency, {"latency": "1s", "client": "10.0.0.1:5-4"}, "client"),
        (Latency, {"latency": "1s", "client": 7}, "client"),
        (Latency, {"latency": "1s", "route": "orders"}, "route"),
        (Latency, {"latency": "1s", "route": ""}, "route"),
        (Latency, {"latency": "1s", "header": ": x"}, "header"),
        (Latency, {"latency": "1s", "after": 2, "until": 2}, "until"),
        (Latency, {"latency": "1s", "after": -1}, "after"),
        (Reset, {"reset": "connect", "requests": 1}, "requests"),
        (Timeout, {"timeout": -1}, "timeout"),
        (ResetPeer, {"reset_peer": "soon"}, "reset_peer"),
        (Slicer, {"slicer": 0}, "slicer"),
        (Slicer, {"slicer": 10, "variation": 10}, "variation"),
        (LimitData, {"limit_data": -1}, "limit_data"),
        (Corrupt, {"corrupt": 0}, "corrupt"),
        (Loss, {"loss": 1.5}, "loss"),
        (Loss, {"loss": float("nan")}, "loss"),
        (Status, {"status": 100}, "status"),
        (Status, {"status": True}, "status"),
        (Status, {"status": 200, "headers": {"A B": "c"}}, "headers"),
        (Status, {"status": 200, "headers": {"A": "b\nc"}}, "headers.A"),
        (Status, {"status": 200, "headers": {"Content-Length": "1"}}, "headers"),
        (Status, {"status": 200, "body": 7}, "body"),
        (Status, {"status": 200, "ask": 1}, "ask"),
        (Truncate, {"truncate": "all"}, "truncate"),
        (Rewrite, {"rewrite": {}}, "rewrite"),
        (Rewrite, {"rewrite": {"Transfer-Encoding": False}}, "rewrite"),
        (Rewrite, {"rewrite": {"A": True}}, "rewrite.A"),
        (Rewrite, {"rewrite": {"A": "b"}, "add": "yes"}, "add"),
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


@pytest.mark.parametrize(
    ("text", "address", "inside"),
    [
        ("10.0.0.0/8", ("10.9.8.7", 1), True),
        ("10.0.0.0/8", ("11.0.0.1", 1), False),
        ("10.0.0.0/8", ("::ffff:10.0.0.1", 1, 0, 0), True),
        ("127.0.0.1:4000", ("127.0.0.1", 4000), True),
        ("127.0.0.1:4000", ("127.0.0.1", 4001), False),
        ("127.0.0.1:4000-4010", ("127.0.0.1", 4010), True),
        ("::1", ("::1", 5, 0, 0), True),
        ("[fe80::/10]", ("fe80::1", 5, 0, 0), True),
        ("[::1]:80-90", ("::1", 91, 0, 0), False),
        ("::1", ("127.0.0.1", 5), False),
        ("::1", "", False),
    ],
)
def test_client_range(text: str, address: object, inside: bool) -> None:
    """Addresses, networks and ports, of both families."""
    assert (address in client_range(text)) is inside


def test_repr_shows_what_is_not_as_usual() -> None:
    """A fault shows itself as one would write it."""
    assert repr(Latency("2s", share=0.3)) == "Latency(2.0, share=0.3)"
    assert repr(Status(503, route="GET /a", headers={"A": "b"})) == (
        "Status(503, route='GET /a', headers=(('A', 'b'),))"
    )
    assert eval(repr(Slicer(64, delay="1ms"))) == Slicer(64, delay=0.001)

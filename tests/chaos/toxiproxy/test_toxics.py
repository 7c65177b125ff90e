"""What each toxic means: Toxiproxy's types in its units, ours, and whatever can't be meant."""

from __future__ import annotations

from typing import Any

import pytest

from hormesis.chaos.faults import (
    Bandwidth,
    BlackHole,
    Latency,
    LimitData,
    Refuse,
    Reset,
    ResetPeer,
    Rewrite,
    Slicer,
    SlowClose,
    Status,
    Timeout,
    WireFault,
)
from hormesis.chaos.toxiproxy import ApiError, Toxic


def toxic(kind: str, *, stream: str | None = None, toxicity: float | None = None, **attributes: Any) -> Toxic:
    """A toxic; what is None is sent as null, which is not given."""
    return Toxic.from_json({"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes})


def refused(value: object) -> str:
    with pytest.raises(ApiError) as refusal:
        Toxic.from_json(value)
    assert refusal.value.status == 400
    return refusal.value.message


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (toxic("latency", latency=100), Latency(0.1)),
        (toxic("latency", latency=100, jitter=10, stream="upstream"), Latency(0.1, jitter=0.01, stream="upstream")),
        (toxic("latency", jitter=10), Latency(0, jitter=0.01)),
        (toxic("latency", latency=1.5), Latency(0.0015)),
        (toxic("latency", latency="2s", jitter="10ms"), Latency(2, jitter=0.01)),
        (toxic("latency", latency=1, stream="both"), Latency(0.001, stream="both")),
        (toxic("bandwidth", rate=20), Bandwidth("20KB/s")),
        (toxic("bandwidth", rate="1MB/s"), Bandwidth("1MB/s")),
        (toxic("slow_close", delay=30), SlowClose("30ms")),
        (toxic("timeout", timeout=500), Timeout("500ms")),
        (toxic("timeout"), Timeout(0)),
        (toxic("reset_peer", timeout=2000), ResetPeer(2)),
        (toxic("reset_peer"), ResetPeer(0)),
        (toxic("slicer", average_size=64, size_variation=32, delay=10), Slicer(64, variation=32, delay="10us")),
        (toxic("slicer", average_size="1KB"), Slicer(1000)),
        (toxic("limit_data", bytes=100), LimitData(100)),
        (toxic("limit_data", bytes=100.0), LimitData(100)),
        (toxic("limit_data"), LimitData(0)),
    ],
    ids=lambda value: value.type if isinstance(value, Toxic) else str(value),
)
def test_toxiproxys_types(made: Toxic, fault: WireFault) -> None:
    """Each of Toxiproxy's types means the fault of its kind, with its numbers in its units."""
    assert made.fault == fault


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_a_rate_of_nothing_cuts_a_direction(stream: Any) -> None:
    """People cut connections with a bandwidth of 0: nothing passes, and it flows when the toxic ends."""
    assert toxic("bandwidth", rate=0, stream=stream).fault == BlackHole(stream=stream)
    assert toxic("bandwidth", stream=stream).fault == BlackHole(stream=stream)


@pytest.mark.parametrize(
    "nothing", [toxic("latency"), toxic("noop"), toxic("latency", latency=100, toxicity=0), toxic("noop", toxicity=0.5)]
)
def test_toxics_that_do_nothing(nothing: Toxic) -> None:
    """A delay of nothing, a toxicity of nothing, and the noop are toxics like any other, and no faults."""
    assert nothing.fault is None


def test_as_the_api_shows_it() -> None:
    """Defaults are filled in, attributes that were not given are 0, and numbers come back as they were given."""
    assert toxic("latency", latency=100).as_json == {
        "name": "latency_downstream",
        "type": "latency",
        "stream": "downstream",
        "toxicity": 1.0,
        "attributes": {"latency": 100, "jitter": 0},
    }
    assert toxic("slicer", average_size=10).as_json["attributes"] == {
        "average_size": 10,
        "size_variation": 0,
        "delay": 0,
    }


def test_toxicity_is_a_share() -> None:
    """The toxicity is the share of connections that is struck."""
    assert toxic("latency", latency=100, toxicity=0.2).fault == Latency(0.1, share=0.2)


def test_keys_in_any_case() -> None:
    """As for Go's decoder, the case of a key does not matter, nor that of a direction: .NET's client has its own."""
    made = Toxic.from_json(
        {"Name": "slow", "Type": "latency", "Stream": "UpStream", "Toxicity": 1.0, "Attributes": {"Latency": 100}}
    )
    assert (made.name, made.stream, made.fault) == ("slow", "upstream", Latency(0.1, stream="upstream"))


def test_unknown_fields_of_a_toxic_are_left_alone() -> None:
    """A client may send more than we know, as long as it is not an attribute."""
    assert Toxic.from_json({"type": "noop", "id": 3, "proxy": "redis"}).name == "noop_downstream"


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (toxic("black_hole"), BlackHole()),
        (toxic("black_hole", stream="upstream"), BlackHole(stream="upstream")),
        (toxic("reset"), Reset()),
        (toxic("reset", reset="request", toxicity=0.5), Reset("request", share=0.5)),
        (toxic("refuse", after="1s"), Refuse(after=1)),
        (toxic("status", status=503, route="POST /orders"), Status(503, route="POST /orders")),
        (toxic("rewrite", rewrite={"ETag": False}), Rewrite({"ETag": False})),
    ],
    ids=lambda value: value.type if isinstance(value, Toxic) else str(value),
)
def test_our_types(made: Toxic, fault: WireFault) -> None:
    """Each of our faults is a type, with the settings and the direction that it has by itself."""
    assert made.fault == fault


def test_whom_and_when() -> None:
    """Every type takes the settings that narrow down whom a fault strikes."""
    aim = {"connections": "1-2", "client": "10.0.0.0/8", "after": 1, "until": "5s"}
    assert toxic("latency", latency=100, **aim).fault == Latency(0.1, **aim)  # type: ignore[arg-type]
    assert toxic("timeout", timeout=100, **aim).fault == Timeout(0.1, **aim)  # type: ignore[arg-type]
    assert toxic("bandwidth", rate=1, requests=3).fault == Bandwidth(1000, requests=3)


def test_an_update_changes_what_it_gives() -> None:
    """What an update does not give stays; name, type and direction always do."""
    before = toxic("latency", latency=100, jitter=10, toxicity=0.5, connections="1-2")
    after = before.updated({"attributes": {"latency": 1000}, "name": "other", "type": "noop", "stream": "upstream"})
    assert after.fault == Latency(1, jitter=0.01, share=0.5, connections="1-2")
    assert (after.name, after.type, after.stream) == (before.name, before.type, before.stream)
    assert before.updated({"toxicity": 1}).fault == Latency(0.1, jitter=0.01, connections="1-2")
    assert before.updated({"toxicity": 0}).fault is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "invalid toxic type: unknown type ''; known are: latency, bandwidth,"),
        ({"type": "latncy"}, "invalid toxic type: unknown type 'latncy' (did you mean 'latency'?)"),
        ({"type": 3}, "bad request body: type is 3; it takes a text"),
        ("latency", "bad request body: the toxic is latency; it takes an object"),
        ({"type": "latency", "stream": "walrus"}, "stream was invalid, can be either upstream or downstream"),
        ({"type": "latency", "stream": 1}, "bad request body: stream is 1; it takes a text"),
        ({"type": "latency", "name": "a/b"}, "bad request body: name is 'a/b'; it takes a text of 1 to 255"),
        ({"type": "latency", "name": "x" * 256}, "bad request body: name is 'xxx"),
        ({"type": "latency", "name": "a\nb"}, "bad request body: name is 'a\\nb'"),
        ({"type": "latency", "toxicity": 1.1}, "bad request body: toxicity is 1.1; it takes a part of the connections"),
        ({"type": "latency", "toxicity": -1}, "bad request body: toxicity is -1; "),
        ({"type": "latency", "toxicity": True}, "bad request body: toxicity is True; "),
        ({"type": "latency", "toxicity": float("nan")}, "bad request body: toxicity is nan; "),
        ({"type": "latency", "attributes": [1]}, "bad request body: attributes is [1]; it takes an object"),
        (
            {"type": "noop", "attributes": {"latency": 1}},
            "bad request body: unknown attribute of a noop",
        ),
        (
            {"type": "refuse", "toxicity": 0.5},
            "bad request body: toxicity is 0.5; it takes 1 or 0 where",
        ),
        ({"type": "status"}, "bad request body: attribute status of a status toxic is missing"),
        (
            {"type": "black_hole", "attributes": {"share": 0.5}},
            "bad request body: unknown attribute of a black_hole",
        ),
    ],
    ids=str,
)
def test_what_is_no_toxic(value: object, message: str) -> None:
    """One sentence says what can't be meant, with Toxiproxy's own words in front."""
    assert refused(value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("latency", {"latncy": 1}, "unknown attribute of a latency toxic 'latncy' (did you mean 'latency'?)"),
        ("latency", {"latency": -1}, "latency is -1; it takes milliseconds from 0, or a text like '300ms', '2s'"),
        ("latency", {"latency": "soon"}, "latency is 'soon'; it takes milliseconds"),
        ("latency", {"latency": True}, "latency is True; it takes milliseconds"),
        ("latency", {"latency": 1e300}, "latency is 1e+300; it takes milliseconds"),
        ("latency", {"latency": float("inf")}, "latency is inf; it takes milliseconds"),
        ("latency", {"connections": "some"}, "connections is 'some'; it takes numbers from 1"),
        ("bandwidth", {"rate": "20"}, "rate is '20'; it takes kilobytes a second from 0"),
        ("limit_data", {"bytes": 1.5}, "bytes is 1.5; it takes a whole number of bytes from 0"),
        ("slicer", {}, "average_size is 0; it takes bytes from 1"),
        ("slicer", {"average_size": 8, "size_variation": 8}, "size_variation is 8; it takes bytes from 0 to less than"),
        ("slow_close", {"route": "/"}, "unknown attribute of a slow_close toxic 'route'"),
        ("status", {"status": 5}, "status is 5; it takes a status from 200 to 599"),
    ],
    ids=str,
)
def test_attributes_that_cannot_be_meant(kind: str, attributes: dict[str, Any], message: str) -> None:
    """An attribute that is wrong is named with its value and with what would do, and so is one that does nothing."""
    assert refused({"type": kind, "attributes": attributes}).startswith(f"bad request body: {message}")


def test_an_update_that_cannot_be_meant() -> None:
    """An update is held to the same, and leaves the toxic as it was."""
    before = toxic("latency", latency=100)
    with pytest.raises(ApiError, match="latency is -1"):
        before.updated({"attributes": {"latency": -1}})
    assert before.fault == Latency(0.1)

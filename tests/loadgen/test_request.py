"""Requests and runs as settings: what is drawn, what is refused, what counts as an answer."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.loadgen import Answer, LoadSpec, Request, Retries, Segment, Stream
from hormesis.loadgen.template import Template

BUY = Request(
    "buy",
    method="POST",
    path="/orders/{sku}?page={n}",
    headers={"Idempotency-Key": "{uuid}"},
    json={"order_id": "o-{uuid}", "items": [{"sku": "{sku}", "quantity": 2}], "note": "{{literal}}"},
    values={"sku": ["a/b", "c d"]},
)


def spec(**changes: Any) -> LoadSpec:
    settings: dict[str, Any] = {
        "base_url": "http://127.0.0.1:8000",
        "segments": [Segment("1s", "10/s")],
        "requests": [BUY],
        "seed": 1,
    }
    return LoadSpec(**(settings | changes))


def test_placeholders_reach_path_headers_and_body() -> None:
    """One arrival has one value per placeholder, quoted in the path and literal in headers and body."""
    call = Template(BUY, seed=7).render(12)
    body = json.loads(call.body or b"")
    sku = body["items"][0]["sku"]
    assert call.path == f"/orders/{'a%2Fb' if sku == 'a/b' else 'c%20d'}?page=12"
    assert body == {
        "order_id": "o-" + call.headers["Idempotency-Key"],
        "items": [{"sku": sku, "quantity": 2}],
        "note": "{literal}",
    }
    assert uuid.UUID(call.headers["Idempotency-Key"]).version == 4
    assert call.headers["Content-Type"] == "application/json"


def test_what_is_drawn_depends_on_seed_and_arrival_alone() -> None:
    """Ids differ between arrivals and seeds, and repeat with the same seed; values cover their range evenly."""
    request = Request("read", path="/products/{sku}", headers={"id": "{uuid}"}, values={"sku": {"from": 1, "to": 4}})
    calls = [Template(request, seed=7).render(n) for n in range(400)]
    assert [Template(request, seed="7").render(n) for n in range(400)] == calls
    assert len({call.headers["id"] for call in calls}) == 400
    assert Template(request, seed=8).render(0).headers != calls[0].headers
    paths = [call.path for call in calls]
    assert set(paths) == {f"/products/{sku}" for sku in (1, 2, 3, 4)}
    assert all(60 < paths.count(path) < 140 for path in set(paths))


def test_a_run_survives_the_pipe() -> None:
    """Settings come out of their table as they went in."""
    retry = Retries(3, timeout="500ms", delay=0.1)
    read = Request(
        "read", path="/{sku}", values={"sku": range(1, 51)}, expect=[200, 404], weight=9, timeout=1, retry=retry
    )
    before = spec(requests=[BUY, read], timeout="2s", grace=0, process="constant", seed="text")
    assert LoadSpec.from_table(json.loads(json.dumps(before.to_table()))) == before
    streams = [Stream([Segment(1, 9), Segment(2, 0)], name=name, requests=[name]) for name in ("buy", "read")]
    before = spec(requests=[BUY, read], segments=(), streams=streams)
    assert LoadSpec.from_table(json.loads(json.dumps(before.to_table()))) == before
    assert before.duration == 3


@pytest.mark.parametrize(
    ("expect", "status", "header", "answer"),
    [
        (None, 204, None, (Answer.FULL, "")),
        (None, 302, None, (Answer.FAILED, "status 302")),
        (None, 200, "stale", (Answer.DEGRADED, "")),
        (None, 200, "False", (Answer.FULL, "")),
        (None, 200, "0", (Answer.FULL, "")),
        (None, 503, "stale", (Answer.FAILED, "status 503")),
        (404, 404, None, (Answer.FULL, "")),
        ([201, 409], 200, None, (Answer.FAILED, "status 200")),
    ],
)
def test_an_answer_is_full_degraded_or_failed(
    expect: int | list[int] | None, status: int, header: str | None, answer: tuple[Answer, str]
) -> None:
    """The expected status decides whether it failed, the header whether it was degraded."""
    assert Request("r", path="/", expect=expect).judge(status, header) == answer


@pytest.mark.parametrize(
    ("status", "retry_after", "answer"),
    [
        (503, "2", (Answer.DECLINED, "declined 503")),
        (429, "Sun, 06 Nov 1994 08:49:37 GMT", (Answer.DECLINED, "declined 429")),
        (503, None, (Answer.FAILED, "status 503")),
        (503, "soon", (Answer.FAILED, "status 503")),
        (500, "2", (Answer.FAILED, "status 500")),
        (200, "2", (Answer.FULL, "")),
    ],
)
def test_declined_is_who_was_told_when_to_come_back(
    status: int, retry_after: str | None, answer: tuple[Answer, str]
) -> None:
    """A 429 or 503 with a time that can be read is declined; without one it is a failure like any other."""
    assert Request("r", path="/").judge(status, None, retry_after) == answer


@pytest.mark.parametrize(
    ("answer", "status", "repeated"),
    [
        (Answer.FULL, 201, False),
        (Answer.DEGRADED, 200, False),
        (Answer.FAILED, 0, True),
        (Answer.FAILED, 500, True),
        (Answer.FAILED, 404, False),
        (Answer.DECLINED, 503, True),
        (Answer.DECLINED, 429, True),
    ],
)
def test_what_is_repeated(answer: Answer, status: int, repeated: bool) -> None:
    """Callers who repeat do so after no answer, a server's fault or a refusal, not after what is their own fault."""
    assert Request("r", path="/", retry=Retries(2)).repeats(answer, status) is repeated
    assert not Request("r", path="/").repeats(answer, status)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attempts": 1}, "attempts is 1; it takes a whole number from 2 to 20"),
        ({"attempts": 21}, "attempts is 21"),
        ({"attempts": True}, "attempts is True"),
        ({"attempts": 2, "timeout": 0}, "timeout"),
        ({"attempts": 2, "delay": -1}, "delay"),
    ],
)
def test_retries_that_can_not_be_meant(settings: dict[str, Any], message: str) -> None:
    """The error names the setting and the value."""
    with pytest.raises(ConfigurationError, match=message):
        Retries(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": 0}, r"request\.r\.weight is 0; it takes a number above 0"),
        ({"weight": True}, r"request\.r\.weight"),
        ({"weight": float("nan")}, r"request\.r\.weight"),
        ({"path": "products"}, r"request\.r\.path is 'products'"),
        ({"path": "/a b"}, r"request\.r\.path"),
        ({"method": "get"}, r"unknown method 'get'"),
        ({"path": "/{skuu}", "values": {"sku": ["a"]}}, r"request\.r\.path 'skuu' \(did you mean 'sku'\?\)"),
        ({"json": {"a": ["{nope}"]}}, r"request\.r\.json 'nope'"),
        ({"headers": {"a": "{nope}"}}, r"request\.r\.headers\.a 'nope'"),
        ({"headers": {"a": "x\r\ny"}}, r"request\.r\.headers\.a"),
        ({"headers": {"a b": "x"}}, r"request\.r\.headers"),
        ({"path": "/{"}, r"request\.r\.path is '/\{'"),
        ({"path": "/{n:>3}"}, r"request\.r\.path"),
        ({"path": "/{}"}, r"request\.r\.path"),
        ({"json": object()}, r"request\.r\.json"),
        ({"json": float("nan")}, r"request\.r\.json"),
        ({"values": {"sku": []}}, r"request\.r\.values\.sku is \[\]"),
        ({"values": {"sku": {"from": 5, "to": 1}}}, r"request\.r\.values\.sku"),
        ({"values": {"sku": {"from": 5}}}, r"request\.r\.values\.sku"),
        ({"values": {"sku": range(0, 9, 2)}}, r"request\.r\.values\.sku"),
        ({"values": {"sku": "abc"}}, r"request\.r\.values\.sku"),
        ({"values": {"sku": ["a\nb"]}}, r"request\.r\.values\.sku"),
        ({"values": {"uuid": ["a"]}}, r"request\.r\.values is 'uuid'"),
        ({"expect": 99}, r"request\.r\.expect is 99"),
        ({"expect": []}, r"request\.r\.expect"),
        ({"timeout": 0}, r"request\.r\.timeout is 0"),
    ],
)
def test_a_request_that_can_not_be_meant_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """The error names the request, the setting and the value."""
    with pytest.raises(ConfigurationError, match=message):
        Request("r", **({"path": "/"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url is '127.0.0.1:8000'"),
        ({"base_url": "http://"}, "base_url"),
        ({"requests": []}, "requests"),
        ({"requests": [BUY, BUY]}, r"requests is \['buy', 'buy'\]"),
        ({"segments": []}, "segments"),
        ({"timeout": 0}, "timeout"),
        ({"grace": -1}, "grace"),
        ({"in_flight_max": 0}, "in_flight_max is 0"),
        ({"degraded_header": ""}, "degraded_header"),
        ({"process": "bursty"}, "unknown arrival process"),
        ({"streams": [Stream([Segment(1, 1)])]}, "streams .* none beside segments"),
        ({"segments": (), "streams": [Stream([Segment(1, 1)])] * 2}, r"streams is \['', ''\]"),
        ({"segments": (), "streams": [Stream([Segment(1, 1)], requests=["by"])]}, r"'by' \(did you mean 'buy'\?\)"),
        ({"segments": (), "streams": [Stream([Segment(1, 4e6)], name=n) for n in "ab"]}, "5,000,000"),
    ],
)
def test_a_run_that_can_not_be_meant_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """The error names the setting and the value."""
    with pytest.raises(ConfigurationError, match=message):
        spec(**changes)

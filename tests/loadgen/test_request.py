"""Requests and runs as settings: what is drawn, what is refused, what counts as an answer."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any, NamedTuple

import pytest

from hormesis.errors import ConfigurationError
from hormesis.loadgen import Answer, Expect, LoadSpec, Request, Retries, Seed, Segment, Stream, Trace, Users
from hormesis.loadgen.origin import Origin
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


class Sent(NamedTuple):
    """A request as a server would read it."""

    line: str
    headers: dict[str, str]
    body: bytes


def sent(
    request: Request, n: int = 0, *, seed: Seed = 7, url: str = "http://shop.test", keep_alive: bool = True
) -> Sent:
    payload = Template(request, seed, Origin.of(url), keep_alive=keep_alive).payload(n)
    head, _, body = payload.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    return Sent(line, dict(line.split(": ", 1) for line in lines), body)


def test_placeholders_reach_path_headers_and_body() -> None:
    """One arrival has one value per placeholder, quoted in the path and literal in headers and body."""
    call = sent(BUY, 12)
    body = json.loads(call.body)
    sku = body["items"][0]["sku"]
    assert call.line == f"POST /orders/{'a%2Fb' if sku == 'a/b' else 'c%20d'}?page=12 HTTP/1.1"
    assert body == {
        "order_id": "o-" + call.headers["Idempotency-Key"],
        "items": [{"sku": sku, "quantity": 2}],
        "note": "{literal}",
    }
    assert uuid.UUID(call.headers["Idempotency-Key"]).version == 4
    assert call.headers["Content-Type"] == "application/json"
    assert call.headers["Content-Length"] == str(len(call.body))


def test_what_is_drawn_depends_on_seed_and_arrival_alone() -> None:
    """Ids differ between arrivals and seeds, and repeat with the same seed; values cover their range evenly."""
    request = Request("read", path="/products/{sku}", headers={"id": "{uuid}"}, values={"sku": {"from": 1, "to": 4}})
    calls = [sent(request, n) for n in range(400)]
    assert [sent(request, n, seed="7") for n in range(400)] == calls
    assert len({call.headers["id"] for call in calls}) == 400
    assert sent(request, seed=8).headers["id"] != calls[0].headers["id"]
    lines = [call.line for call in calls]
    assert set(lines) == {f"GET /products/{sku} HTTP/1.1" for sku in (1, 2, 3, 4)}
    assert all(60 < lines.count(line) < 140 for line in set(lines))


def test_what_every_request_says() -> None:
    """The host with its port, the path of the base URL, who asks, and whether the connection is for others as well."""
    plain = sent(Request("r", path="/a?b=%7B"), url="http://u%40x:p@[::1]:8000/api/", keep_alive=False)
    assert plain.line == "GET /api/a?b=%7B HTTP/1.1"
    assert plain.headers == {
        "Host": "[::1]:8000",
        "User-Agent": "hormesis-load",
        "Accept": "*/*",
        "Connection": "close",
        "Authorization": "Basic dUB4OnA=",
    }
    own = sent(Request("r", path="/", method="POST", headers={"host": "other", "PRIORITY": "u=0"}, priority="critical"))
    assert own.headers["host"] == "other"
    assert own.headers["PRIORITY"] == "u=0"
    assert own.headers["Content-Length"] == "0"
    assert not {"Host", "priority"} & set(own.headers)


def test_a_body_is_sent_as_it_is_and_a_priority_as_a_header() -> None:
    """A body that is text knows no placeholders; a criticality is an urgency of RFC 9218."""
    call = sent(Request("r", path="/{n}", method="PUT", body="{n} ä", priority="background"), 3)
    assert call.line == "PUT /3 HTTP/1.1"
    assert call.body.decode() == "{n} ä"
    assert call.headers["Content-Length"] == "6"
    assert call.headers["priority"] == "u=7"


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
    checked = Request("checked", path="/{sku}", values={"sku": [1]}, expect=Expect(json={"sku": "{sku}"}, contains="x"))
    before = spec(requests=[checked], segments=[Segment(1, 0, to=9)], connections=4, verify=False, share=(1, 3))
    assert LoadSpec.from_table(json.loads(json.dumps(before.to_table()))) == before
    before = spec(segments=(), trace=Trace([0, 0.5, 0.5], ["buy"] * 3))
    assert LoadSpec.from_table(json.loads(json.dumps(before.to_table()))) == before
    assert (before.duration, before.expected) == (0.5, 3)
    before = spec(segments=(), users=Users(5, "10s", think="1s"))
    assert LoadSpec.from_table(json.loads(json.dumps(before.to_table()))) == before
    assert before.duration == 10
    assert math.isnan(before.expected)


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
        ({"expect": {"statsu": 200}}, r"request\.r\.expect 'statsu' \(did you mean 'status'\?\)"),
        ({"expect": {"status": 99}}, r"request\.r\.expect\.status is 99"),
        ({"expect": {"matches": "("}}, r"request\.r\.expect\.matches is '\('"),
        ({"expect": {"json": {"a": "{nope}"}}}, r"request\.r\.expect\.json\.a 'nope'"),
        ({"expect": Expect(header={"a": "{nope}"})}, r"request\.r\.expect\.header\.a 'nope'"),
        ({"body": b"x"}, r"request\.r\.body"),
        ({"body": "x", "json": {}}, r"request\.r\.body is 'x'; it takes a text, and none beside json"),
        ({"priority": "urgent"}, r"request\.r\.priority is 'urgent'"),
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
        ({"base_url": "http://h:99999"}, "base_url is 'http://h:99999'"),
        ({"base_url": "http://h:0"}, "base_url"),
        ({"base_url": "http://h/?q"}, "base_url"),
        ({"connections": 0}, "connections is 0"),
        ({"trace": Trace([0])}, "trace .* none beside segments"),
        ({"segments": (), "trace": Trace([0], ["by"])}, r"'by' \(did you mean 'buy'\?\)"),
        ({"users": Users(1, 1)}, "users .* none beside segments"),
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

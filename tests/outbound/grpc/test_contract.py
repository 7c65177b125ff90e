"""What holds for gRPC calls under a policy, on both of its APIs, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

import hormesis as hm
from hormesis.outbound.grpc import RpcDeadlineExceeded
from hormesis.outcome import FailureKind, classify
from hormesis.testing import ManualClock

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
ONE_REQUEST = ["unary_unary", "unary_stream"]
MANY_REQUESTS = ["stream_unary", "stream_stream"]
STREAMS = ["unary_stream", "stream_stream"]

RETRY = hm.Retry(on="transient", delay=0, attempts=3)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def breaker() -> hm.CircuitBreaker:
    """One that opens at the first failure."""
    return hm.CircuitBreaker(consecutive=1, open_for=60)


def raised_by(function: Callable[[], object]) -> Any:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def state(policy: hm.Policy) -> Any:
    return policy.snapshot()["parts"]["circuit_breaker"]["state"]


def inside(policy: hm.Policy) -> Any:
    return policy.snapshot()["parts"]["bulkhead"]["in_flight"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_goes_through(server: Any, connect: Any, kind: str) -> None:
    """A call of any kind brings its answer, once, and gives back its permit."""
    policy = hm.Policy(RETRY, breaker(), hm.Bulkhead(1))
    client = connect(policy)
    assert client.call(kind) == [b"a"]
    assert client.call(kind) == [b"a"]
    assert (len(server.seen), state(policy)) == (2, "closed")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("UNAVAILABLE", FailureKind.UNAVAILABLE),
        ("ABORTED", FailureKind.UNAVAILABLE),
        ("DEADLINE_EXCEEDED", FailureKind.TIMEOUT),
        ("RESOURCE_EXHAUSTED", FailureKind.THROTTLED),
        ("INTERNAL", FailureKind.ERROR),
        ("UNKNOWN", FailureKind.ERROR),
        ("DATA_LOSS", FailureKind.ERROR),
        ("CANCELLED", FailureKind.ERROR),
        ("INVALID_ARGUMENT", FailureKind.INVALID),
        ("NOT_FOUND", FailureKind.INVALID),
        ("ALREADY_EXISTS", FailureKind.INVALID),
        ("PERMISSION_DENIED", FailureKind.INVALID),
        ("UNAUTHENTICATED", FailureKind.INVALID),
        ("FAILED_PRECONDITION", FailureKind.INVALID),
        ("OUT_OF_RANGE", FailureKind.INVALID),
        ("UNIMPLEMENTED", FailureKind.INVALID),
    ],
)
def test_a_status_is_a_kind_of_failure(server: Any, connect: Any, status: str, expected: FailureKind) -> None:
    """Each status is the kind of failure that it says, and the caller gets gRPC's own error."""
    policy = hm.Policy(breaker())
    client = connect(policy)
    server.plan.append(server.fails(grpc.StatusCode[status]))
    error = raised_by(lambda: client.call("unary_unary"))
    assert isinstance(error, grpc.RpcError)
    assert (error.code().name, classify(error)) == (status, expected)
    assert state(policy) == ("closed" if expected is FailureKind.INVALID else "open")


def test_an_error_without_a_status_is_an_error() -> None:
    """The base class of gRPC's errors promises no status."""
    assert classify(grpc.RpcError()) is FailureKind.ERROR


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_counts(server: Any, connect: Any, kind: str) -> None:
    """A call of any kind that fails opens the breaker, and the caller gets gRPC's own error."""
    policy = hm.Policy(breaker())
    client = connect(policy)
    server.plan.append(server.fails(UNAVAILABLE))
    error = raised_by(lambda: client.call(kind))
    assert error.code() is UNAVAILABLE
    assert state(policy) == "open"


def test_a_server_that_is_not_there_is_unavailable(connect: Any) -> None:
    """A refused connection is a transient failure."""
    policy = hm.Policy(breaker())
    client = connect(policy)
    other = type(client)("127.0.0.1:1", policy)
    try:
        assert classify(raised_by(lambda: other.call("unary_unary"))) is FailureKind.UNAVAILABLE
    finally:
        other.close()
    assert state(policy) == "open"


@pytest.mark.parametrize("kind", ONE_REQUEST)
def test_a_failed_attempt_is_repeated(server: Any, connect: Any, kind: str) -> None:
    """What fails before the first answer is tried again, where that is harmless."""
    client = connect(hm.Policy(RETRY), repeatable=True)
    server.plan.extend([server.fails(UNAVAILABLE), server.fails(grpc.StatusCode.RESOURCE_EXHAUSTED)])
    assert client.call(kind) == [b"a"]
    assert len(server.seen) == 3


@pytest.mark.parametrize("kind", ONE_REQUEST)
def test_nothing_is_repeated_unless_that_is_harmless(server: Any, connect: Any, kind: str) -> None:
    """A method of which nobody says that it may be sent twice is sent once, and the error says why."""
    client = connect(hm.Policy(RETRY, hm.Hedge(0.01, budget=None, threads=2)))
    server.plan.append(server.fails(UNAVAILABLE))
    error = raised_by(lambda: client.call(kind))
    assert "not safe to repeat" in error.__notes__[0]
    assert len(server.seen) == 1


@pytest.mark.parametrize("kind", MANY_REQUESTS)
def test_a_stream_of_requests_is_sent_once(server: Any, connect: Any, kind: str) -> None:
    """What has been sent of a stream is gone, so it is never repeated."""
    client = connect(hm.Policy(RETRY), repeatable=True)
    server.plan.append(server.fails(UNAVAILABLE))
    assert raised_by(lambda: client.call(kind)).code() is UNAVAILABLE
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("repeatable", "attempts"),
    [
        (False, 1),
        ({"/t.T/unary_unary"}, 2),
        (["/t.T/other"], 1),
        (lambda method: method == "/t.T/unary_unary", 2),
    ],
)
def test_who_may_be_repeated(server: Any, connect: Any, repeatable: Any, attempts: int) -> None:
    """Names of methods, or a function of the name, say which may be sent twice."""
    client = connect(hm.Policy(RETRY), repeatable=repeatable)
    server.plan.append(server.fails(UNAVAILABLE))
    if attempts == 1:
        raised_by(lambda: client.call("unary_unary"))
    else:
        client.call("unary_unary")
    assert len(server.seen) == attempts


def test_a_policy_may_repeat_what_is_unsafe(server: Any, connect: Any) -> None:
    """A retry with `unsafe_methods` repeats any method with one request."""
    client = connect(hm.Policy(hm.Retry(on="transient", delay=0, unsafe_methods=True)))
    server.plan.append(server.fails(UNAVAILABLE))
    assert client.call("unary_unary") == [b"a"]


def test_a_proto_file_says_what_may_be_repeated(server: Any, connect: Any) -> None:
    """A method is repeated whose `idempotency_level` says so, and its neighbour is not."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName("marked.proto")
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto(name="marked.proto", package="marked")
        file.message_type.add(name="Empty")
        service = file.service.add(name="Stock")
        for name, level in (("unary_unary", "NO_SIDE_EFFECTS"), ("unary_stream", "IDEMPOTENCY_UNKNOWN")):
            method = service.method.add(name=name, input_type=".marked.Empty", output_type=".marked.Empty")
            method.options.idempotency_level = descriptor_pb2.MethodOptions.IdempotencyLevel.Value(level)
        pool.Add(file)
    client = connect(hm.Policy(RETRY))
    server.plan.append(server.fails(UNAVAILABLE))
    assert client.call("unary_unary", service="marked.Stock") == [b"a"]
    server.plan.append(server.fails(UNAVAILABLE))
    assert raised_by(lambda: client.call("unary_stream", service="marked.Stock")).code() is UNAVAILABLE


def test_the_server_says_when_to_come_back(server: Any, connect: Any) -> None:
    """A pushback is waited for, and the back-off on top."""
    clock = ManualClock()
    client = connect(hm.Policy(RETRY, clock=clock), repeatable=True)
    server.plan.append(server.fails(UNAVAILABLE, trailing=(("grpc-retry-pushback-ms", "1500"),)))
    assert client.call("unary_unary") == [b"a"]
    assert clock.now() == 1.5


@pytest.mark.parametrize("said", ["-1", "soon"])
def test_the_server_says_not_to_come_back(server: Any, connect: Any, said: str) -> None:
    """A pushback that is negative, or can't be read, ends the retry at once."""
    clock = ManualClock()
    client = connect(hm.Policy(hm.Retry(on="transient", delay=1, jitter="none"), clock=clock), repeatable=True)
    server.plan.append(server.fails(UNAVAILABLE, trailing=(("grpc-retry-pushback-ms", said),)))
    assert raised_by(lambda: client.call("unary_unary")).code() is UNAVAILABLE
    assert (len(server.seen), clock.now()) == (1, 0)
    assert client.call("unary_unary") == [b"a"]  # the next call is another matter


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_holds_its_permit_to_its_end(server: Any, connect: Any, kind: str) -> None:
    """While a stream flows, nobody takes its place in the bulkhead; when it has ended, somebody can."""
    client = connect(hm.Policy(hm.Bulkhead(1)))
    server.plan.append(server.hangs(after=1))
    stream = client.opens(kind)
    assert stream.next() == b"0"
    assert isinstance(raised_by(lambda: client.call("unary_unary")), hm.BulkheadFull)
    assert isinstance(raised_by(lambda: client.call(kind)), hm.BulkheadFull)
    server.go.set()
    assert [stream.next(), stream.next()] == [b"late", None]
    assert client.call(kind) == [b"a"]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_breaks_is_not_repeated(server: Any, connect: Any, kind: str) -> None:
    """A failure after the first message reaches the caller, counts, and frees the place."""
    policy = hm.Policy(RETRY, breaker(), hm.Bulkhead(1))
    client = connect(policy, repeatable=True)
    server.plan.append(server.fails(UNAVAILABLE, after=2))
    stream = client.opens(kind)
    assert [stream.next(), stream.next()] == [b"0", b"1"]
    assert raised_by(stream.next).code() is UNAVAILABLE
    assert (len(server.seen), state(policy), inside(policy)) == (1, "open", 0)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_may_be_empty(server: Any, connect: Any, kind: str) -> None:
    """A stream without a message is a success."""
    policy = hm.Policy(breaker(), hm.Bulkhead(1))
    client = connect(policy)
    server.plan.append(lambda requests, context: (request for request in requests if request != b"a"))
    assert client.call(kind) == []
    assert (state(policy), inside(policy)) == ("closed", 0)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_cancelled_stream_has_not_failed(server: Any, connect: Any, until: Any, kind: str) -> None:
    """Who cancels a stream ends it at the server, gets the place back, and leaves the breaker as it was."""
    policy = hm.Policy(breaker(), hm.Bulkhead(1))
    client = connect(policy)
    server.plan.append(server.hangs(after=1))
    stream = client.opens(kind)
    assert stream.next() == b"0"
    stream.cancel()
    assert server.seen[0].ended.wait(10)
    assert (state(policy), inside(policy)) == ("closed", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deadline_goes_along(server: Any, connect: Any, kind: str) -> None:
    """The server sees what is left of the policy's deadline, or of the nearest around it; or none."""
    connect(hm.Policy()).call(kind)
    client = connect(hm.Policy(hm.Deadline("30s")))
    client.call(kind)
    client.call(kind, timeout=20)
    with hm.deadline("10s"):
        client.call(kind, timeout=20)
    times = [seen.time for seen in server.seen]
    assert times[0] is None or times[0] > 1e6
    assert [round(time, -1) for time in times[1:]] == [30, 20, 10]


def test_each_attempt_gets_what_is_left(server: Any, connect: Any) -> None:
    """Over the attempts of a call its deadline comes nearer, and a timeout bounds each of them."""

    def slowly(requests: Any, context: Any) -> Any:
        server.go.wait(0.1)
        context.abort(UNAVAILABLE, "as told")

    client = connect(hm.Policy(RETRY), repeatable=True)
    server.plan.extend([slowly, slowly])
    client.call("unary_unary", timeout=3)
    times = [seen.time for seen in server.seen]
    # On the wire, gRPC rounds up to hundredths.
    assert 2 < times[2] <= times[1] - 0.08 <= times[0] - 0.16 < 3
    client = connect(hm.Policy(RETRY, hm.Deadline(30), hm.Timeout(5, cooperative=True)))
    client.call("unary_unary")
    assert 4 < server.seen[3].time < 5.1


@pytest.mark.parametrize("kind", ONE_REQUEST)
def test_an_attempt_that_takes_too_long_is_cut(server: Any, connect: Any, kind: str) -> None:
    """A timeout ends the attempt here and at the server, counts as a failure, and may be repeated."""
    policy = hm.Policy(RETRY, hm.CircuitBreaker(consecutive=2), hm.Bulkhead(1), hm.Timeout(0.1, cooperative=True))
    client = connect(policy, repeatable=True)
    server.plan.append(server.hangs())
    assert client.call(kind) == [b"a"]
    assert server.seen[0].ended.wait(10)
    assert len(server.seen) == 2
    server.plan.extend([server.hangs()] * 2)
    assert isinstance(raised_by(lambda: client.call(kind)), hm.TimedOut)
    assert (state(policy), inside(policy)) == ("open", 0)


def test_a_timeout_bounds_a_stream_up_to_its_first_message(server: Any, connect: Any) -> None:
    """What flows is not cut by the timeout of an attempt."""
    client = connect(hm.Policy(hm.Timeout(0.05, cooperative=True)))
    server.plan.append(server.hangs(after=1))
    stream = client.opens("unary_stream")
    assert stream.next() == b"0"
    client.pause(0.1)
    server.go.set()
    assert [stream.next(), stream.next()] == [b"late", None]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_deadline_bounds_a_stream_to_its_end(server: Any, connect: Any, kind: str) -> None:
    """The deadline of a call is that of its stream, and passing it is a failure of the server's."""
    policy = hm.Policy(hm.Deadline(0.2), breaker(), hm.Bulkhead(1))
    client = connect(policy)
    server.plan.append(server.hangs(after=1))
    stream = client.opens(kind)
    assert stream.next() == b"0"
    assert raised_by(stream.next).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (state(policy), inside(policy)) == ("open", 0)


@pytest.mark.parametrize("kind", ONE_REQUEST)
def test_the_callers_timeout_is_an_error_of_both(server: Any, connect: Any, kind: str) -> None:
    """When `timeout=` is over, handlers of gRPC's errors and of ours both see it."""
    client = connect(hm.Policy(RETRY, breaker()), repeatable=True)
    server.plan.append(server.hangs())
    error = raised_by(lambda: client.call(kind, timeout=0.1))
    assert isinstance(error, RpcDeadlineExceeded)
    assert isinstance(error, hm.DeadlineExceeded)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (error.details(), error.trailing_metadata(), error.initial_metadata()) == (str(error), (), ())
    assert classify(error) is FailureKind.TIMEOUT
    assert len(server.seen) == 1


def test_no_time_at_all_makes_no_call(server: Any, connect: Any) -> None:
    """A timeout of nothing, or less, is over before it begins."""
    client = connect(hm.Policy(RETRY))
    assert isinstance(raised_by(lambda: client.call("unary_unary", timeout=-1)), RpcDeadlineExceeded)
    assert server.seen == []


def test_time_without_end(server: Any, connect: Any) -> None:
    """An infinite timeout is none."""
    assert connect(hm.Policy(RETRY)).call("unary_unary", timeout=float("inf")) == [b"a"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_request_id_goes_along(server: Any, connect: Any, kind: str) -> None:
    """The id of the request that is served is in the metadata, unless the caller has put one there."""
    client = connect(hm.Policy())
    with hm.calling(request_id="r-1"):
        client.call(kind, metadata=(("tenant", "acme"),))
        client.call(kind, metadata=(("x-request-id", "own"),))
    client.call(kind)
    assert [seen.metadata.get("x-request-id") for seen in server.seen] == ["r-1", "own", None]
    assert server.seen[0].metadata["tenant"] == "acme"


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_breaker_makes_no_call(server: Any, connect: Any, kind: str) -> None:
    """A refusal is raised as what it is, and the server hears nothing."""
    policy = hm.Policy(RETRY, breaker())
    client = connect(policy)
    policy.breaker().isolate()
    assert isinstance(raised_by(lambda: client.call(kind)), hm.CircuitOpen)
    assert server.seen == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_fallback_answers_a_refusal(server: Any, connect: Any, kind: str) -> None:
    """What stands in for a call that was not made looks like its answer."""
    policy = hm.Policy(hm.Fallback(value=[b"x", b"y"] if kind in STREAMS else b"x"), breaker())
    client = connect(policy)
    policy.breaker().isolate()
    with hm.answers() as seen:
        assert client.call(kind) == ([b"x", b"y"] if kind in STREAMS else [b"x"])
    assert seen.degraded
    assert server.seen == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_fallback_answers_a_failure(server: Any, connect: Any, kind: str) -> None:
    """A function is given the method and the request; where nothing is waited for, the failure comes through."""
    asked = []

    def instead(method: str, request: Any) -> Any:
        asked.append((method, request))
        return [b"x"] if kind in STREAMS else b"x"

    client = connect(hm.Policy(hm.Fallback(instead)))
    server.plan.append(server.fails(UNAVAILABLE))
    if kind not in client.waits_for:
        assert raised_by(lambda: client.call(kind)).code() is UNAVAILABLE
        return
    assert client.call(kind) == [b"x"]
    assert asked[0][0] == f"/t.T/{kind}"
    if kind in ONE_REQUEST:
        assert asked[0][1] == b"a"


def test_answers_are_kept(server: Any, connect: Any) -> None:
    """A cache tells requests and methods apart, and knows each again."""
    client = connect(hm.Policy(hm.Fallback(cache=hm.StaleCache(fresh="1h"))))
    for _ in range(2):
        assert client.call("unary_unary", b"a") == [b"a"]
        assert client.call("unary_unary", b"b") == [b"b"]
        assert client.call("unary_unary", b"a", service="t.U") == [b"a"]
        assert client.call("stream_unary", b"a") == [b"a"]
    assert len(server.seen) == 3 + 2


def test_unwanted_answers_are_tried_again(server: Any, connect: Any) -> None:
    """`on_result` sees the message; when none is better, the caller gets it."""
    client = connect(hm.Policy(hm.Retry(on="transient", delay=0, on_result=lambda answer: answer == b"no")))
    client_that_may = connect(
        hm.Policy(hm.Retry(on="transient", delay=0, on_result=lambda answer: answer == b"no")), repeatable=True
    )
    server.plan.append(lambda requests, context: [b"no"])
    assert client.call("unary_unary") == [b"no"]
    server.plan.append(lambda requests, context: [b"no"])
    assert client_that_may.call("unary_unary") == [b"a"]


def test_a_slow_attempt_gets_a_rival(server: Any, connect: Any) -> None:
    """The faster of two attempts answers."""
    client = connect(hm.Policy(hm.Hedge(0.03, budget=None, threads=2)), repeatable=True)
    server.plan.append(server.hangs())
    assert client.call("unary_unary", timeout=5) == [b"a"]
    assert len(server.seen) == 2


def test_each_method_has_a_breaker_of_its_own(server: Any, connect: Any) -> None:
    """`by="method"` keeps one method's failures from the others."""
    policy = hm.Policy(hm.CircuitBreaker(consecutive=1, by="method"))
    client = connect(policy)
    server.plan.append(server.fails(UNAVAILABLE))
    raised_by(lambda: client.call("unary_unary"))
    assert isinstance(raised_by(lambda: client.call("unary_unary")), hm.CircuitOpen)
    assert client.call("unary_stream") == [b"a"]
    assert policy.breaker("/t.T/unary_unary").state == "open"


def test_each_host_has_a_breaker_of_its_own(server: Any, connect: Any) -> None:
    """`by="host"` goes by what the interceptor was told of the channel's target."""
    policy = hm.Policy(hm.CircuitBreaker(consecutive=1, by="host"))
    one, two = connect(policy, host="one"), connect(policy, host="two")
    server.plan.append(server.fails(UNAVAILABLE))
    raised_by(lambda: one.call("unary_unary"))
    assert isinstance(raised_by(lambda: one.call("unary_unary")), hm.CircuitOpen)
    assert two.call("unary_unary") == [b"a"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_shadow_only_watches(server: Any, connect: Any, kind: str) -> None:
    """A policy in the shadow changes nothing of a call."""
    policy = hm.Policy(hm.Deadline("30s"), RETRY, hm.Bulkhead(1), shadow=True)
    client = connect(policy)
    assert client.call(kind) == [b"a"]
    assert server.seen[0].time is None or server.seen[0].time > 1e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "stock"}, "policy is 'stock'; it takes a Policy"),
        ({"host": ""}, "host is ''; it takes the name of the channel's target"),
        ({"host": 1}, "host is 1; it takes"),
        ({"repeatable": "/t.T/Get"}, "repeatable is '/t.T/Get'; it takes True or False"),
        ({"repeatable": ["Get"]}, r"repeatable is \['Get'\]; it takes"),
        ({"repeatable": 1}, "repeatable is 1; it takes"),
        ({"repeatable": [1]}, r"repeatable is \[1\]; it takes"),
    ],
)
def test_what_cannot_be_meant_is_refused(connect: Any, settings: dict[str, Any], message: str) -> None:
    """A setting that makes no sense is refused when made, with what would do."""
    with pytest.raises(hm.ConfigurationError, match=message):
        connect(**{"policy": hm.Policy(), **settings})

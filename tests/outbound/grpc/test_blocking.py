"""What only the synchronous API of gRPC has: futures, calls that are forgotten, and what a call tells besides."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import hormesis as hm
from hormesis.outbound.grpc import PolicyInterceptor

RETRY = hm.Retry(on="transient", delay=0, attempts=3)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def breaker() -> hm.CircuitBreaker:
    return hm.CircuitBreaker(consecutive=1, open_for=60)


def state(policy: hm.Policy) -> Any:
    return policy.snapshot()["parts"]["circuit_breaker"]["state"]


def inside(policy: hm.Policy) -> Any:
    return policy.snapshot()["parts"]["bulkhead"]["in_flight"]


@pytest.fixture
def channel(server: Any) -> Iterator[Callable[..., grpc.Channel]]:
    """Return what makes a channel under a policy."""
    made: list[grpc.Channel] = []

    def make(policy: hm.Policy, **settings: Any) -> grpc.Channel:
        made.append(grpc.intercept_channel(grpc.insecure_channel(server.target), PolicyInterceptor(policy, **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_a_future_is_not_waited_for(server: Any, channel: Any, kind: str) -> None:
    """A future comes back at once, and holds its permit until it is done."""
    policy = hm.Policy(breaker(), hm.Bulkhead(1))
    ours = channel(policy)
    method = getattr(ours, kind)(f"/t.T/{kind}")
    request = b"a" if kind == "unary_unary" else iter([b"a"])
    server.plan.append(server.hangs())
    future = method.future(request)
    told: list[Any] = []
    future.add_done_callback(told.append)
    assert (future.done(), future.running(), inside(policy)) == (False, True, 1)
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.01)
    refused = method.future(request)
    with pytest.raises(hm.BulkheadFull):
        refused.result()
    server.go.set()
    assert future.result(timeout=10) == b"late"
    assert (future.exception(), future.traceback(), future.code()) == (None, None, grpc.StatusCode.OK)
    assert (state(policy), inside(policy)) == ("closed", 0)
    assert isinstance(future, grpc.Call)
    assert isinstance(future, grpc.Future)
    assert told == [future]


def test_a_future_that_fails_counts(server: Any, channel: Any, until: Any) -> None:
    """The breaker hears of a future's failure even when nobody asks for its result; nothing is repeated."""
    policy = hm.Policy(RETRY, breaker(), hm.Bulkhead(1))
    ours = channel(policy, repeatable=True)
    server.plan.append(server.hangs())
    server.plan.append(server.fails(UNAVAILABLE))
    cancelled = ours.unary_unary("/t.T/unary_unary").future(b"a")
    until(lambda: server.seen)
    cancelled.cancel()
    assert (state(policy), inside(policy)) == ("closed", 0)
    future = ours.unary_unary("/t.T/unary_unary").future(b"a")
    until(lambda: state(policy) == "open")
    assert future.exception().code() is UNAVAILABLE
    assert inside(policy) == 0
    assert not future.cancel()


def test_a_future_that_cannot_begin_fails_at_once(channel: Any) -> None:
    """A request that can't be written is an error of the attempt."""

    def refuses(request: object) -> bytes:
        raise ValueError(request)

    policy = hm.Policy(breaker())
    ours = channel(policy)
    future = ours.unary_unary("/t.T/unary_unary", request_serializer=refuses).future(b"a")
    with pytest.raises(grpc.RpcError, match="serializing"):
        future.result()
    assert state(policy) == "open"


def test_a_future_ends_with_its_time(server: Any, channel: Any, until: Any) -> None:
    """A timeout bounds a future by gRPC's own deadline."""
    policy = hm.Policy(breaker(), hm.Timeout(0.1, cooperative=True))
    server.plan.append(server.hangs())
    future = channel(policy).unary_unary("/t.T/unary_unary").future(b"a")
    assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert state(policy) == "open"


def test_the_server_says_not_to_come_back_to_a_thread(server: Any, channel: Any) -> None:
    """A pushback that reaches a worker's thread ends the retry as well: no other attempt is made."""
    ours = channel(hm.Policy(RETRY, hm.Timeout(5, threads=2)), repeatable=True)
    server.plan.append(server.fails(UNAVAILABLE, trailing=(("grpc-retry-pushback-ms", "-1"),)))
    with pytest.raises(grpc.RpcError) as raised:
        ours.unary_unary("/t.T/unary_unary")(b"a")
    assert "the server asked for no retry" in raised.value.__notes__[0]
    assert len(server.seen) == 1


def test_a_fallback_answers_a_future_that_is_refused(channel: Any) -> None:
    """A future that was not begun has the fallback's answer."""
    policy = hm.Policy(hm.Fallback(value=b"x"), breaker())
    policy.breaker().isolate()
    future = channel(policy).unary_unary("/t.T/unary_unary").future(b"a")
    assert (future.result(), future.done(), future.exception()) == (b"x", True, None)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_forgotten_stream_gives_its_place_back(server: Any, channel: Any, until: Any, kind: str) -> None:
    """A stream that nobody refers to any more is over, and has not failed."""
    policy = hm.Policy(breaker(), hm.Bulkhead(1))
    server.plan.append(server.hangs(after=1))
    stream = getattr(channel(policy), kind)(f"/t.T/{kind}")(b"a" if kind == "unary_stream" else iter([b"a"]))
    assert next(stream) == b"0"
    del stream
    gc.collect()
    assert server.seen[0].ended.wait(10)
    until(lambda: inside(policy) == 0)
    assert state(policy) == "closed"


def test_a_stream_is_heard_of_while_nobody_reads_it(server: Any, channel: Any, until: Any) -> None:
    """A stream that its deadline ends gives its place back then, not when somebody looks."""
    policy = hm.Policy(hm.Deadline(0.1), hm.Bulkhead(1))
    server.plan.append(server.hangs(after=1))
    stream = channel(policy).unary_stream("/t.T/unary_stream")(b"a")
    until(lambda: inside(policy) == 0)
    assert next(stream) == b"0"
    with pytest.raises(grpc.RpcError):
        stream.next()


def test_what_a_call_tells_besides(server: Any, channel: Any) -> None:
    """Status, details and metadata of a call are those of its last attempt."""

    def with_metadata(requests: Any, context: Any) -> Iterator[bytes]:
        context.set_trailing_metadata((("left", "3"),))
        yield from requests

    ours = channel(hm.Policy(RETRY), repeatable=True)
    server.plan.extend([server.fails(UNAVAILABLE), with_metadata])
    answer, call = ours.unary_unary("/t.T/unary_unary").with_call(b"a")
    assert (answer, call.code()) == (b"a", grpc.StatusCode.OK)
    assert dict(call.trailing_metadata())["left"] == "3"
    server.plan.append(with_metadata)
    stream = ours.unary_stream("/t.T/unary_stream")(b"a")
    assert list(stream) == [b"a"]
    assert dict(stream.trailing_metadata())["left"] == "3"


def test_what_an_answer_from_elsewhere_tells(channel: Any) -> None:
    """A fallback's answer is a call that has gone well, without metadata."""
    policy = hm.Policy(hm.Fallback(value=b"x"), breaker())
    policy.breaker().isolate()
    ours = channel(policy)
    answer, call = ours.unary_unary("/t.T/unary_unary").with_call(b"a")
    told: list[Any] = []
    call.add_done_callback(told.append)
    assert (answer, told) == (b"x", [call])
    assert (call.code(), call.details(), call.time_remaining()) == (grpc.StatusCode.OK, "", None)
    assert (call.initial_metadata(), call.trailing_metadata(), call.traceback()) == ((), (), None)
    assert [call.is_active(), call.running(), call.cancelled(), call.cancel(), call.add_callback(print)] == [False] * 5
    stream = channel(hm.Policy(hm.Fallback(value=[b"x"]), breaker())).unary_stream("/t.T/unary_stream")
    assert list(stream(b"a")) == [b"a"]


def test_an_interceptor_further_in_is_kept(server: Any, channel: Any) -> None:
    """Policies can be put around each other, and what the outer one adds the inner one keeps."""
    inner, outer = hm.Policy(breaker(), hm.Bulkhead(1), name="inner"), hm.Policy(RETRY, hm.Bulkhead(1), name="outer")
    ours = grpc.intercept_channel(channel(inner), PolicyInterceptor(outer, repeatable=True))
    server.plan.append(server.fails(grpc.StatusCode.RESOURCE_EXHAUSTED))
    with pytest.raises(grpc.RpcError) as raised:
        ours.unary_unary("/t.T/unary_unary")(b"a")
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert state(inner) == "open"
    inner.breaker().close()
    assert ours.unary_unary("/t.T/unary_unary")(b"a") == b"a"
    for kind, request in (("unary_stream", b"a"), ("stream_stream", iter([b"a"]))):
        assert list(getattr(ours, kind)(f"/t.T/{kind}")(request)) == [b"a"]
    assert ours.unary_unary("/t.T/unary_unary").future(b"a").result() == b"a"
    assert (inside(inner), inside(outer)) == (0, 0)


def test_many_threads_share_a_channel(server: Any, channel: Any) -> None:
    """Calls of many threads don't get in each other's way, and give back all they took."""
    policy = hm.Policy(RETRY, breaker(), hm.Bulkhead(4, max_queued=100))
    ours = channel(policy)
    unary, stream = ours.unary_unary("/t.T/unary_unary"), ours.unary_stream("/t.T/unary_stream")
    answers: list[Any] = []

    def ask(number: int) -> None:
        request = b"%d" % number
        answers.append((request, unary(request), *stream(request), unary.future(request).result()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert all(len(set(one)) == 1 for one in answers)
    assert (state(policy), inside(policy)) == ("closed", 0)


def test_a_first_message_at_the_last_moment_is_all_or_nothing(server: Any, channel: Any) -> None:
    """A stream that is handed out is not one that the timeout has just cancelled."""
    ours = channel(hm.Policy(hm.Timeout(0.02, cooperative=True)))
    ends = []
    for wait in (0.016, 0.018, 0.02, 0.022, 0.024):

        def late(requests: Any, context: Any, wait: float = wait) -> Iterator[bytes]:
            time.sleep(wait)
            yield b"first"
            yield b"second"

        server.plan.append(late)
        try:
            stream = ours.unary_stream("/t.T/unary_stream")(b"a")
            ends.append(list(stream))
        except hm.TimedOut:
            ends.append([])
    assert all(end in ([], [b"first", b"second"]) for end in ends)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (hm.Timeout("1s"), "cooperative=True"),
        (hm.Hedge("10ms"), "threads=N"),
        (hm.Bulkhead(2, workers="processes"), "can't go to another process"),
    ],
)
def test_a_policy_that_cannot_protect_a_channel_is_refused(part: Any, message: str) -> None:
    """What makes no sense around a synchronous channel is refused when the interceptor is made."""
    with pytest.raises(hm.ConfigurationError, match=message):
        PolicyInterceptor(hm.Policy(part))

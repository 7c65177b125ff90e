"""What every HTTP client promises under a policy: one set of scenarios, four clients, a real server."""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hormesis as hm

from .conftest import FAILURES, Asynchronous, MakeClient, Server, after, answer, made_instead, parts, reset, trickle

Until = Callable[[Callable[[], object]], None]


def retry(attempts: int = 3, **settings: Any) -> hm.Retry:
    """Retry at once."""
    return hm.Retry(on="transient", attempts=attempts, **{"delay": 0, **settings})


def in_flight(policy: hm.Policy) -> int:
    """Permits of a policy's bulkhead that are taken."""
    taken: int = policy.snapshot()["parts"]["bulkhead"]["in_flight"]
    return taken


def tally(policy: hm.Policy) -> tuple[int, int]:
    """Calls and failures that a policy's breaker has counted."""
    state = policy.snapshot()["parts"]["circuit_breaker"]
    return state["calls"], state["failures"]


@pytest.fixture
def refusing() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


# Answers and failures.


def test_an_answer_comes_through(server: Server, client_of: MakeClient) -> None:
    """A request that succeeds gives what it gives without a policy, and its permits come back."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    path = server.path(answer(200, b"tea", x_kind="green"))
    got = client_of(policy).request("GET", server.urls[0] + path)
    assert (got.status, got.body) == (200, b"tea")
    assert {name.lower(): value for name, value in got.headers.items()}["x-kind"] == "green"
    assert (in_flight(policy), tally(policy)) == (0, (1, 0))


@pytest.mark.parametrize(
    ("status", "attempts", "failures"),
    [(204, 1, 0), (302, 1, 0), (404, 1, 0), (408, 2, 1), (429, 2, 1), (500, 1, 1), (503, 2, 1), (504, 2, 1)],
)
def test_a_status_says_whose_failure_it_is(
    server: Server, client_of: MakeClient, status: int, attempts: int, failures: int
) -> None:
    """The server's failures count, the transient ones are repeated, and what came last is handed out."""
    policy = hm.Policy(retry(2, jitter="none"), hm.CircuitBreaker())
    body = b"" if status == 204 else b"said"
    path = server.path(answer(status, body))
    got = client_of(policy).request("GET", server.urls[0] + path)
    assert (got.status, got.body) == (status, body)
    assert len(server.seen[path]) == attempts
    assert tally(policy) == (attempts, failures * attempts)


def test_a_failure_and_then_an_answer(server: Server, client_of: MakeClient) -> None:
    """What failed once is asked again, and the caller sees the answer only, over one connection."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    path = server.path(answer(503), answer(502, b"x" * 1000), answer(200, b"tea"))
    got = client_of(policy).request("GET", server.urls[0] + path)
    assert (got.status, got.body) == (200, b"tea")
    assert tally(policy) == (3, 2)
    assert server.connections(path) == 1


def test_a_long_unwanted_answer_is_not_read(server: Server, client_of: MakeClient) -> None:
    """An unwanted answer that is large, or does not end, costs a connection and no time."""
    policy = hm.Policy(retry())
    gate = server.gate()
    path = server.path(answer(503, b"x" * 3_000_000), parts(b"x", gate, status=503), answer(200, b"tea"))
    began = time.monotonic()
    assert client_of(policy).request("GET", server.urls[0] + path).body == b"tea"
    assert time.monotonic() - began < 1.0


def test_retry_after_is_heeded(server: Server, client_of: MakeClient) -> None:
    """A server that says when to come back is asked then."""
    policy = hm.Policy(retry())
    path = server.path(answer(429, retry_after="0.1"), answer(200))
    began = time.monotonic()
    assert client_of(policy).request("GET", server.urls[0] + path).status == 200
    assert time.monotonic() - began >= 0.1


def test_retry_after_is_capped(server: Server, client_of: MakeClient) -> None:
    """A server that asks for an hour gets what the policy allows."""
    policy = hm.Policy(retry(retry_after_max="10ms"))
    path = server.path(answer(503, retry_after="3600"), answer(200))
    began = time.monotonic()
    assert client_of(policy).request("GET", server.urls[0] + path).status == 200
    assert time.monotonic() - began < 1.0


def test_nobody_listens(client_of: MakeClient, refusing: str) -> None:
    """A connection that was refused is a failure to connect, is tried again, and is the caller's in the end."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    with pytest.raises(FAILURES) as raised:
        client_of(policy).request("GET", refusing)
    assert hm.classify(raised.value) is hm.FailureKind.CONNECT
    assert (tally(policy), in_flight(policy)) == ((3, 3), 0)


def test_an_unsafe_request_that_nobody_took(client_of: MakeClient, refusing: str) -> None:
    """What must not be repeated is not, even where nothing can have happened."""
    policy = hm.Policy(retry(), hm.CircuitBreaker())
    with pytest.raises(FAILURES):
        client_of(policy).request("POST", refusing, content=b"order")
    assert tally(policy) == (1, 1)


def test_a_connection_lost_before_the_answer(server: Server, client_of: MakeClient) -> None:
    """A connection that is reset before the head of an answer is a failure like others."""
    policy = hm.Policy(retry(2), hm.CircuitBreaker(), hm.Bulkhead(1))
    path = server.path(reset())
    with pytest.raises(FAILURES) as raised:
        client_of(policy).request("GET", server.urls[0] + path)
    assert hm.classify(raised.value) is hm.FailureKind.UNAVAILABLE
    assert (len(server.seen[path]), tally(policy), in_flight(policy)) == (2, (2, 2), 0)


@pytest.mark.parametrize("length", [None, 100], ids=["chunked", "length"])
def test_a_connection_lost_within_the_answer(server: Server, client_of: MakeClient, length: int | None) -> None:
    """An answer that breaks off is not asked for again, counts as a failure, and gives its permit back."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    path = server.path(parts(b"half", then_reset=True, length=length))
    with pytest.raises(FAILURES) as raised:
        client_of(policy).request("GET", server.urls[0] + path)
    assert hm.classify(raised.value) is hm.FailureKind.UNAVAILABLE
    assert (len(server.seen[path]), tally(policy), in_flight(policy)) == (1, (1, 1), 0)


# What may be sent twice.


def test_a_post_is_sent_once(server: Server, client_of: MakeClient) -> None:
    """An unsafe method without a key is not repeated."""
    path = server.path(answer(503), answer(200))
    got = client_of(hm.Policy(retry())).request("POST", server.urls[0] + path, content=b"order")
    assert (got.status, got.body, len(server.seen[path])) == (503, b"fine", 1)


@pytest.mark.parametrize("how", ["key", "policy", "put"])
def test_a_body_is_sent_again(server: Server, client_of: MakeClient, how: str) -> None:
    """With a key, by the policy's word, or by its method a request is repeated, as it was."""
    policy = hm.Policy(retry(unsafe_methods=how == "policy"))
    headers = {"Idempotency-Key": "k-1"} if how == "key" else {}
    path = server.path(answer(503), reset(), answer(200))
    method = "PUT" if how == "put" else "POST"
    got = client_of(policy).request(method, server.urls[0] + path, content=b"order", headers=headers)
    assert got.status == 200
    seen = server.seen[path]
    assert [request.body for request in seen] == [b"order"] * 3
    assert {request.headers.get("idempotency-key") for request in seen} == {headers.get("Idempotency-Key")}


def test_a_body_that_can_be_sent_only_once(server: Server, client_of: MakeClient) -> None:
    """A body that comes from a generator is sent once and whole, and never again in part."""

    def pieces() -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    path = server.path(answer(503), answer(200))
    got = client_of(hm.Policy(retry())).request("PUT", server.urls[0] + path, content=pieces())
    assert got.status == 503
    assert [request.body for request in server.seen[path]] == [b"onetwo"]


def test_a_file_is_sent_again_whole_or_not_at_all(server: Server, client_of: MakeClient) -> None:
    """A file is sent again where the library can rewind it, from where it stood."""
    path = server.path(answer(503), answer(200))
    client = client_of(hm.Policy(retry()))
    file = io.BytesIO(b"this")
    # httpx tells files from generators only by asking for their length, and takes none in asyncio.
    once = client.name.startswith("httpx")
    client.request("PUT", server.urls[0] + path, content=iter([file.read()]) if client.name == "httpx-async" else file)
    assert [request.body for request in server.seen[path]] == [b"this"] * (1 if once else 2)


# Answers that flow.


def test_a_stream_holds_its_permit(server: Server, client_of: MakeClient, until: Until) -> None:
    """A bulkhead's place is taken from the head of an answer to its last byte, and a breaker hears of it then."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Bulkhead(1))
    gate = server.gate()
    client = client_of(policy)
    flow = client.flow("GET", server.urls[0] + server.path(parts(b"one", gate, b"two")))
    assert flow.read() == b"one"
    assert (in_flight(policy), tally(policy)) == (1, (0, 0))
    with pytest.raises(hm.BulkheadFull):
        client.request("GET", server.urls[0] + server.path(answer()))
    gate.open()
    assert flow.read() == b"two"
    assert flow.read() == b""
    assert (in_flight(policy), tally(policy)) == (0, (1, 0))
    flow.close()
    assert (in_flight(policy), tally(policy)) == (0, (1, 0))


def test_a_stream_that_breaks_off(server: Server, client_of: MakeClient) -> None:
    """After its first bytes nothing is repeated; the failure is the caller's, and the breaker's."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    gate = server.gate()
    path = server.path(parts(b"one", gate, then_reset=True))
    flow = client_of(policy).flow("GET", server.urls[0] + path)
    assert flow.read() == b"one"
    gate.open()
    with pytest.raises(FAILURES):
        flow.read()
    flow.close()
    assert (len(server.seen[path]), tally(policy), in_flight(policy)) == (1, (1, 1), 0)


def test_a_stream_that_is_closed_early(server: Server, client_of: MakeClient) -> None:
    """Who closes an answer before its end has seen nothing wrong with it."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Bulkhead(1))
    flow = client_of(policy).flow("GET", server.urls[0] + server.path(parts(b"one", server.gate())))
    assert flow.read() == b"one"
    flow.close()
    flow.close()
    assert (in_flight(policy), tally(policy)) == (0, (1, 0))


def test_a_stream_that_is_forgotten(server: Server, client_of: MakeClient, until: Until) -> None:
    """An answer that nobody reads or closes gives its permit back when it is garbage, and says nothing."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Bulkhead(1))
    client, gate = client_of(policy), server.gate()
    flow = client.flow("GET", server.urls[0] + server.path(parts(b"one", gate)))
    assert (flow.status, in_flight(policy)) == (200, 1)
    del flow
    calls = 1
    if client.name == "aiohttp":
        # Which itself keeps the answer for as long as more of it may come, and takes all that comes as read.
        gate.open()
        until(lambda: client.run(asyncio.sleep(0.001)) or not in_flight(policy))
        calls = 2
    gc.collect()
    assert client.request("GET", server.urls[0] + server.path(answer())).status == 200
    assert (in_flight(policy), tally(policy)) == (0, (calls, 0))


def test_an_answer_without_a_body(server: Server, client_of: MakeClient) -> None:
    """Nothing to read is nothing to wait for."""
    policy = hm.Policy(retry(), hm.Bulkhead(1))
    client = client_of(policy)
    assert client.request("HEAD", server.urls[0] + server.path(answer(200))).body == b""
    path = server.path(*[answer(status, b"") for status in (200, 503, 200, 204)])
    for _ in range(3):
        assert client.request("GET", server.urls[0] + path).body == b""
    assert in_flight(policy) == 0
    assert server.connections(path) == 1


# Time.


def test_an_attempt_has_its_timeout(server: Server, client_of: MakeClient) -> None:
    """An attempt that takes too long is cut, in either colour, and tried again in its own time."""
    policy = hm.Policy(retry(2), hm.CircuitBreaker(), hm.Timeout("100ms", cooperative=True))
    slow = after(server.gate(), answer())
    path = server.path(slow, slow)
    began = time.monotonic()
    with pytest.raises(hm.TimedOut):
        client_of(policy).request("GET", server.urls[0] + path)
    assert 0.2 <= time.monotonic() - began < 0.5
    assert (len(server.seen[path]), tally(policy)) == (2, (2, 2))


def test_a_thread_is_left_behind(server: Server, client_of: MakeClient, until: Until) -> None:
    """With threads the caller goes on; what comes late is closed, and the permit comes back."""
    policy = hm.Policy(hm.Bulkhead(1), hm.Timeout("50ms", threads=1))
    client = client_of(policy)
    gate = server.gate()
    path = server.path(after(gate, answer()))
    with pytest.raises(hm.TimedOut):
        client.request("GET", server.urls[0] + path, timeout=5)
    gate.open()
    until(lambda: in_flight(policy) == 0)


def test_a_deadline_travels(server: Server, client_of: MakeClient) -> None:
    """Each attempt tells how long it has, and a later one has less."""
    policy = hm.Policy(hm.Deadline("2s"), retry())
    path = server.path(answer(503, retry_after="0.02"), answer(200))
    client_of(policy).request("GET", server.urls[0] + path)
    first, second = (float(request.headers["hormesis-timeout-ms"]) for request in server.seen[path])
    assert 2000 >= first > second > 0
    assert all(len([name for name in request.headers if name == "grpc-timeout"]) == 1 for request in server.seen[path])


def test_no_deadline_no_header(server: Server, client_of: MakeClient) -> None:
    """Where nothing bounds a call, nothing is told."""
    path = server.path(answer())
    client_of(hm.Policy(retry())).request("GET", server.urls[0] + path)
    assert not {"hormesis-timeout-ms", "grpc-timeout", "x-request-id"} & server.seen[path][0].headers.keys()


def test_what_the_user_tells_stays(server: Server, client_of: MakeClient) -> None:
    """Headers that the user has set are not overwritten."""
    path = server.path(answer(503), answer(200))
    with hm.calling(request_id="ours"):
        client_of(hm.Policy(hm.Deadline("2s"), retry())).request(
            "GET", server.urls[0] + path, headers={"grpc-timeout": "7S", "X-Request-ID": "theirs"}
        )
    for request in server.seen[path]:
        assert (request.headers["grpc-timeout"], request.headers["x-request-id"]) == ("7S", "theirs")
        assert "hormesis-timeout-ms" not in request.headers


def test_a_request_id_travels(server: Server, client_of: MakeClient) -> None:
    """The id of the request that is being served goes out with every attempt."""
    path = server.path(answer(503), answer(200))
    with hm.calling(request_id="r-1"):
        client_of(hm.Policy(retry())).request("GET", server.urls[0] + path)
    assert [request.headers["x-request-id"] for request in server.seen[path]] == ["r-1", "r-1"]


def test_a_body_within_the_deadline(server: Server, client_of: MakeClient) -> None:
    """A deadline is for the whole call, and cuts off a body that stalls."""
    policy = hm.Policy(hm.Deadline("150ms"), hm.Bulkhead(1))
    path = server.path(parts(b"one", server.gate()))
    began = time.monotonic()
    with pytest.raises(hm.DeadlineExceeded):
        client_of(policy).request("GET", server.urls[0] + path)
    assert time.monotonic() - began < 0.5
    assert in_flight(policy) == 0


@pytest.mark.parametrize("length", [False, True], ids=["chunked", "length"])
def test_a_body_that_trickles(server: Server, client_of: MakeClient, length: bool) -> None:
    """A deadline cuts off a body too that comes in drops."""
    policy = hm.Policy(hm.Deadline("150ms"), hm.Bulkhead(1))
    path = server.path(trickle(b"drop", 0.02, 100, length=length))
    began = time.monotonic()
    with pytest.raises(hm.DeadlineExceeded):
        client_of(policy).request("GET", server.urls[0] + path)
    assert time.monotonic() - began < 0.5
    assert in_flight(policy) == 0


def test_a_timeout_ends_with_the_head(server: Server, client_of: MakeClient) -> None:
    """A body may take longer than an attempt: its gaps are the library's own timeout's business."""
    policy = hm.Policy(hm.Timeout("100ms", cooperative=True), hm.Bulkhead(1))
    path = server.path(trickle(b"drop", 0.15, 2))
    assert client_of(policy).request("GET", server.urls[0] + path).body == b"dropdrop"


def test_the_users_timeout_is_not_lengthened(server: Server, client_of: MakeClient) -> None:
    """A library's own timeout that is shorter still holds, and is the library's exception."""
    policy = hm.Policy(hm.Timeout("5s", cooperative=True), hm.CircuitBreaker())
    path = server.path(after(server.gate(), answer()))
    began = time.monotonic()
    with pytest.raises(FAILURES) as raised:
        client_of(policy).request("GET", server.urls[0] + path, timeout=0.1)
    assert time.monotonic() - began < 1.0
    assert not isinstance(raised.value, hm.TimedOut)
    assert hm.classify(raised.value) is hm.FailureKind.TIMEOUT
    assert tally(policy) == (1, 1)


# The parts of a policy.


def test_a_breaker_for_each_host(server: Server, client_of: MakeClient) -> None:
    """A host that fails does not close the way to another; an open circuit makes no connection."""
    policy = hm.Policy(hm.CircuitBreaker(by="host", consecutive=2, minimum_calls=2, open_for="10s"))
    client = client_of(policy)
    bad, good = server.path(answer(503)), server.path(answer(200))
    for _ in range(2):
        assert client.request("GET", server.urls[0] + bad).status == 503
    with pytest.raises(hm.CircuitOpen):
        client.request("GET", server.urls[0] + good)
    assert server.seen[good] == []
    assert client.request("GET", server.urls[1] + good).status == 200
    hosts = [url.removeprefix("http://") for url in server.urls]
    assert sorted(policy.snapshot()["parts"]["circuit_breaker"]["keys"]) == sorted(hosts)


def test_an_open_circuit_ends_the_retries(server: Server, client_of: MakeClient) -> None:
    """When the circuit opens between two attempts, the caller gets the last answer, and can read it."""
    policy = hm.Policy(retry(5), hm.CircuitBreaker(consecutive=2, minimum_calls=2, open_for="10s"))
    path = server.path(answer(503, b"sorry"))
    got = client_of(policy).request("GET", server.urls[0] + path)
    assert (got.status, got.body, len(server.seen[path])) == (503, b"sorry", 2)


def test_a_long_answer_that_nothing_took_the_place_of(server: Server, client_of: MakeClient) -> None:
    """A long answer whose successor is refused was not let go, and is read to its end."""
    policy = hm.Policy(retry(5), hm.CircuitBreaker(consecutive=1, minimum_calls=1, open_for="10s"))
    path = server.path(answer(503, b"x" * 3_000_000))
    client = client_of(policy)
    got = client.request("GET", server.urls[0] + path)
    assert (got.status, len(got.body), len(server.seen[path])) == (503, 3_000_000, 1)


def test_a_fallback_answers(server: Server, client_of: MakeClient) -> None:
    """A fallback is called with the library's request, and what it makes of it is the caller's."""
    path, backup = server.path(answer(503)), server.path(answer(200, b"instead"))
    asked: list[str] = []

    def instead(request: Any) -> Any:
        asked.append(str(request.url))
        return made_instead(request, server.urls[0] + backup)

    policy = hm.Policy(hm.Fallback(instead), retry(2), hm.CircuitBreaker(), hm.Bulkhead(1))
    client = client_of(policy)
    for times in (1, 2):
        assert client.request("GET", server.urls[0] + path).body == b"instead"
        assert (asked, in_flight(policy)) == ([server.urls[0] + path] * times, 0)
    assert server.connections(path) == 1


def test_a_fallback_that_answers_something_else(server: Server, client_of: MakeClient) -> None:
    """What the library would not know is refused, with what would do."""
    policy = hm.Policy(hm.Fallback(value="sorry"), hm.Bulkhead(1))
    with pytest.raises(
        hm.ConfigurationError, match=r"the fallback's answer is 'sorry'; it takes an object of the class"
    ):
        client_of(policy).request("GET", server.urls[0] + server.path(answer(503)))


def test_a_shadow_only_watches(server: Server, client_of: MakeClient) -> None:
    """A policy in the shadow repeats nothing, cuts nothing, and hands out what came."""
    policy = hm.Policy(hm.Deadline("2s"), retry(), hm.CircuitBreaker(), hm.Bulkhead(1), shadow=True)
    path = server.path(answer(503, b"sorry"))
    got = client_of(policy).request("GET", server.urls[0] + path)
    assert (got.status, got.body, len(server.seen[path])) == (503, b"sorry", 1)
    assert "hormesis-timeout-ms" not in server.seen[path][0].headers


def test_layers_as_given(server: Server, client_of: MakeClient) -> None:
    """In an order as given, each layer holds its permit until the end, and unwanted answers pass through all."""
    policy = hm.Policy(hm.Bulkhead(1), retry(2), hm.Bulkhead(1), order="as given")
    gate = server.gate()
    path = server.path(answer(503), parts(b"one", gate, b"two"))
    flow = client_of(policy).flow("GET", server.urls[0] + path)
    flow.read()

    def taken() -> list[int]:
        return [state["in_flight"] for key, state in policy.snapshot()["parts"].items() if "bulkhead" in key]

    assert taken() == [1, 1]
    gate.open()
    while flow.read():
        pass
    assert taken() == [0, 0]
    flow.close()


# Connections, and many at a time.


def test_connections_are_used_again(server: Server, client_of: MakeClient) -> None:
    """Twenty calls, some of them repeated, go over one connection."""
    client = client_of(hm.Policy(retry(budget=None), hm.CircuitBreaker(), hm.Bulkhead(1)))
    path = server.path(*[behaviour for _ in range(10) for behaviour in (answer(), answer(503), answer())])
    for _ in range(20):
        assert client.request("GET", server.urls[0] + path).status == 200
    assert len(server.seen[path]) == 30
    assert server.connections(path) == 1


def test_many_share_one_client(server: Server, client_of: MakeClient) -> None:
    """Threads and tasks use one client under one policy, and every permit comes back."""
    policy = hm.Policy(retry(budget=None), hm.Bulkhead(4, max_queued=100, max_wait="5s"))
    client = client_of(policy)
    paths = [server.path(answer(503), answer(200, str(n).encode())) for n in range(20)]
    got = client.at_once([server.urls[0] + path for path in paths])
    assert [each.body for each in got] == [str(n).encode() for n in range(20)]
    assert in_flight(policy) == 0
    assert [len(server.seen[path]) for path in paths] == [2] * 20


# Cancellation.


async def _cancel_when(reached: Callable[[], bool], work: Any) -> None:
    task = asyncio.create_task(work)
    while not reached():  # noqa: ASYNC110  what is waited for happens in the server's thread
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancelled_before_the_head(server: Server, async_client_of: MakeClient) -> None:
    """Who is cancelled while the answer is awaited gives the permit back, and the breaker hears nothing."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    client: Asynchronous = async_client_of(policy)
    gate = server.gate()
    path = server.path(after(gate, answer()))
    client.run(_cancel_when(gate.reached.is_set, client.get(server.urls[0] + path)))
    assert (in_flight(policy), tally(policy), len(server.seen[path])) == (0, (0, 0), 1)


def test_cancelled_while_reading(server: Server, async_client_of: MakeClient) -> None:
    """Who is cancelled within the body gives the permit back, and the breaker hears nothing."""
    policy = hm.Policy(retry(), hm.CircuitBreaker(), hm.Bulkhead(1))
    client: Asynchronous = async_client_of(policy)
    gate = server.gate()
    path = server.path(parts(b"one", gate))
    work = client.get(server.urls[0] + path)
    began = time.monotonic()
    client.run(_cancel_when(lambda: gate.reached.is_set() and time.monotonic() > began + 0.1, work))
    assert (in_flight(policy), tally(policy), len(server.seen[path])) == (0, (0, 0), 1)


def test_cancelled_between_attempts(server: Server, async_client_of: MakeClient) -> None:
    """Who is cancelled in a back-off leaves no permit and no connection behind."""
    policy = hm.Policy(hm.Retry(on="transient", delay=30, delay_max=30, jitter="none"), hm.Bulkhead(1))
    client: Asynchronous = async_client_of(policy)
    path = server.path(answer(503), answer(200))
    client.run(_cancel_when(lambda: bool(server.seen[path]), client.get(server.urls[0] + path)))
    assert in_flight(policy) == 0
    assert client.request("GET", server.urls[0] + path).status == 200


def test_cancelled_anywhere(server: Server, async_client_of: MakeClient) -> None:
    """Wherever a call is cancelled, its permit comes back, and the next call finds all in order."""
    policy = hm.Policy(
        retry(budget=None), hm.CircuitBreaker(failure_rate=1, minimum_calls=100, quiet=None), hm.Bulkhead(1)
    )
    client: Asynchronous = async_client_of(policy)
    url = server.urls[0] + server.path(*[behaviour for _ in range(200) for behaviour in (answer(503), answer(200))])

    async def sweep() -> int:
        cancelled = 0
        for steps in [*range(50), *range(50)]:
            task = asyncio.create_task(client.get(url))
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled += task.cancel()
            await asyncio.wait([task])
            assert in_flight(policy) == 0
        return cancelled

    assert client.run(sweep()) >= 10  # how often the loop turns in a call depends on how soon the server answers
    assert client.request("GET", server.urls[0] + server.path(answer())).status == 200

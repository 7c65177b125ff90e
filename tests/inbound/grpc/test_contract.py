"""What a service promises to gRPC's servers, of the synchronous and of the asynchronous API alike."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

import hormesis as hm
from hormesis.inbound import Rule, current
from hormesis.inbound.grpc.rpc import arrive
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit

from .conftest import AsyncServer

PATIENCE = 20.0
CALL = "/shop.Shop/Call"
ServerOf = Callable[[Service], Any]


@pytest.fixture
def channel_to() -> Iterator[Callable[[Any], grpc.Channel]]:
    """Return the function that opens a channel to a server."""
    opened: list[grpc.Channel] = []

    def open_channel(server: Any) -> grpc.Channel:
        channel = grpc.insecure_channel(server.target)
        opened.append(channel)
        return channel

    yield open_channel
    for channel in opened:
        channel.close()


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    """Return the error of a call that is turned away."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def trailing(error: Any) -> dict[str, Any]:
    return dict(error.trailing_metadata() or ())


def unary(request: Any, context: Any) -> bytes:
    return bytes(request)


def joined(requests: Any, context: Any) -> bytes:
    return b"".join(requests)


def spelt(request: Any, context: Any) -> Iterator[bytes]:
    yield from (request[at : at + 1] for at in range(len(request)))


def echoed(requests: Any, context: Any) -> Iterator[bytes]:
    yield from requests


def test_all_four_kinds_pass(
    server_of: ServerOf, channel_to: Any, until: Callable[[Callable[[], object]], None]
) -> None:
    """What is let in is answered as the application answers it."""
    service = Service(LoadShedder(), RateLimit("1000/s", by="client"), name="shop")
    server = server_of(service)
    for name, kind, behave in (
        ("/s.S/UU", (False, False), unary),
        ("/s.S/SU", (True, False), joined),
        ("/s.S/US", (False, True), spelt),
        ("/s.S/SS", (True, True), echoed),
    ):
        server.serve(behave, kind, name)
    channel = channel_to(server)
    assert channel.unary_unary("/s.S/UU")(b"ab", timeout=PATIENCE) == b"ab"
    assert channel.stream_unary("/s.S/SU")(iter([b"a", b"b"]), timeout=PATIENCE) == b"ab"
    assert list(channel.unary_stream("/s.S/US")(b"ab", timeout=PATIENCE)) == [b"a", b"b"]
    assert list(channel.stream_stream("/s.S/SS")(iter([b"a", b"b"]), timeout=PATIENCE)) == [b"a", b"b"]
    until(lambda: service.snapshot()["in_flight"] == 0)


def test_a_method_that_is_not_there_is_none_of_ours(server_of: ServerOf, channel_to: Any) -> None:
    """The server says so, as without us."""
    error = refused(lambda: channel_to(server_of(Service(name="shop"))).unary_unary("/no.Such/Call")(b"", timeout=9))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_application_knows_of_its_call(server_of: ServerOf, channel_to: Any) -> None:
    """Id, deadline, class and client of a call are there inside, and gone from the thread afterwards."""
    seen: dict[str, Any] = {}

    def behave(request: Any, context: Any) -> bytes:
        seen.update(
            id=hm.request_id(),
            left=hm.remaining(),
            criticality=hm.criticality(),
            method=current().method,
            path=current().path,
            address=current().address,
        )
        return b""

    server = server_of(Service(LoadShedder(), name="shop", trusted=["127.0.0.0/8"]))
    server.serve(behave)
    metadata = (("x-request-id", "r-1"), ("priority", "u=0"))
    channel_to(server).unary_unary(CALL)(b"", timeout=5, metadata=metadata)
    assert 0 < seen.pop("left") < 5.1  # on its way gRPC rounds it up to two or three digits
    assert seen == {
        "id": "r-1",
        "criticality": hm.Criticality.CRITICAL,
        "method": "RPC",
        "path": CALL,
        "address": "127.0.0.1",
    }
    assert hm.request_id() is None


def test_a_used_up_rate_limit_says_when_to_come_back(server_of: ServerOf, channel_to: Any) -> None:
    """RESOURCE_EXHAUSTED, with what gRPC's own retries heed."""
    server = server_of(Service(RateLimit("1/h", by="client"), name="shop"))
    server.serve(unary)
    call = channel_to(server).unary_unary(CALL)
    call(b"", timeout=PATIENCE)
    error = refused(lambda: call(b"", timeout=PATIENCE))
    told = trailing(error)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(told["retry-after"]) >= 3600
    assert int(told["grpc-retry-pushback-ms"]) == 1000 * int(told["retry-after"])
    assert told["ratelimit"].startswith('"1/h";r=0')


def test_rules_go_by_the_method_s_name(server_of: ServerOf, channel_to: Any) -> None:
    """A route of a rule is a pattern of full method names."""
    classes: list[Any] = []
    server = server_of(Service(Rule("/shop.Shop/*", criticality="sheddable"), name="shop"))
    server.serve(lambda request, context: classes.append(hm.criticality()) or b"")
    channel_to(server).unary_unary(CALL)(b"", timeout=PATIENCE)
    assert classes == [hm.Criticality.SHEDDABLE]


def test_a_full_service_is_unavailable_until_the_call_has_ended(server_of: ServerOf, channel_to: Any) -> None:
    """A permit is held as long as the behaviour runs, and not longer."""
    inside, go = threading.Event(), threading.Event()

    def behave(request: Any, context: Any) -> Iterator[Any]:
        inside.set()
        yield b"1"
        if hasattr(context, "_context"):
            yield go
        else:
            assert go.wait(PATIENCE)

    service = Service(LoadShedder(limit=1, max_queued=0), name="shop")
    server = server_of(service)
    server.serve(behave, (False, True))
    server.serve(unary, name="/shop.Shop/Quick")
    channel = channel_to(server)
    stream = channel.unary_stream(CALL)(b"", timeout=PATIENCE)
    assert next(stream) == b"1"
    error = refused(lambda: channel.unary_unary("/shop.Shop/Quick")(b"", timeout=PATIENCE))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert int(trailing(error)["grpc-retry-pushback-ms"]) >= 1000
    go.set()
    assert list(stream) == []
    assert channel.unary_unary("/shop.Shop/Quick")(b"a", timeout=PATIENCE) == b"a"


def test_a_caller_who_goes_away_gives_its_permit_back(
    server_of: ServerOf, channel_to: Any, until: Callable[[Callable[[], object]], None]
) -> None:
    """A stream that is cancelled half way ends there."""
    go = threading.Event()

    def behave(request: Any, context: Any) -> Iterator[Any]:
        yield b"1"
        if hasattr(context, "_context"):
            yield go
        else:
            assert go.wait(PATIENCE)
        yield b"2"

    service = Service(LoadShedder(limit=1, max_queued=0), name="shop")
    server = server_of(service)
    server.serve(behave, (False, True))
    stream = channel_to(server).unary_stream(CALL)(b"", timeout=PATIENCE)
    assert next(stream) == b"1"
    assert service.snapshot()["parts"]["load_shedder"]["in_flight"] == 1
    stream.cancel()
    until(lambda: service.snapshot()["parts"]["load_shedder"]["in_flight"] == 0)
    go.set()


def test_who_waits_is_let_in_when_there_is_room(
    server_of: ServerOf, channel_to: Any, until: Callable[[Callable[[], object]], None]
) -> None:
    """A short wait is no refusal."""
    inside, go = threading.Event(), threading.Event()

    def behave(request: Any, context: Any) -> Iterator[Any]:
        inside.set()
        yield b"1"
        if hasattr(context, "_context"):
            yield go
        else:
            assert go.wait(PATIENCE)

    service = Service(LoadShedder(limit=1, max_queued=1, max_wait="15s"), name="shop")
    server = server_of(service)
    server.serve(behave, (False, True))
    server.serve(unary, name="/shop.Shop/Quick")
    channel = channel_to(server)
    stream = channel.unary_stream(CALL)(b"", timeout=PATIENCE)
    assert next(stream) == b"1"
    quick = channel.unary_unary("/shop.Shop/Quick").future(b"a", timeout=PATIENCE)
    until(lambda: service.snapshot()["parts"]["load_shedder"]["queued"] == 1)
    go.set()
    assert quick.result(PATIENCE) == b"a"


def test_what_our_policies_refuse_inside_is_unavailable(server_of: ServerOf, channel_to: Any) -> None:
    """An open circuit further in is no error of the application's."""

    def behave(request: Any, context: Any) -> bytes:
        raise hm.CircuitOpen("payments", "open", 7.0)

    server = server_of(Service(LoadShedder(), name="shop"))
    server.serve(behave)
    error = refused(lambda: channel_to(server).unary_unary(CALL)(b"", timeout=PATIENCE))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert int(trailing(error)["retry-after"]) >= 7


def test_a_status_of_the_application_s_own_stays(
    server_of: ServerOf, channel_to: Any, until: Callable[[Callable[[], object]], None]
) -> None:
    """We answer for what is ours alone."""

    def behave(request: Any, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such tea")
        raise AssertionError("unreachable")

    service = Service(LoadShedder(), name="shop")
    server = server_of(service)
    server.serve(behave)
    error = refused(lambda: channel_to(server).unary_unary(CALL)(b"", timeout=PATIENCE))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such tea")
    until(lambda: service.snapshot()["in_flight"] == 0)


def test_an_exception_of_the_application_s_is_grpc_s_business(server_of: ServerOf, channel_to: Any) -> None:
    """It becomes UNKNOWN, as without us, and its permit ends."""

    def behave(request: Any, context: Any) -> bytes:
        raise KeyError("tea")

    service = Service(LoadShedder(limit=1, max_queued=0), name="shop")
    server = server_of(service)
    server.serve(behave)
    call = channel_to(server).unary_unary(CALL)
    for _ in range(3):
        assert refused(lambda: call(b"", timeout=PATIENCE)).code() is grpc.StatusCode.UNKNOWN


def test_health_is_told_whatever_the_load_until_the_service_leaves(server_of: ServerOf, channel_to: Any) -> None:
    """A balancer hears of a full service that it is healthy, and of one that leaves that it is not."""
    service = Service(RateLimit("1/h", by="client"), name="shop")
    server = server_of(service)
    server.serve(unary, name="/grpc.health.v1.Health/Check")
    check = channel_to(server).unary_unary("/grpc.health.v1.Health/Check")
    for _ in range(3):
        assert check(b"\x08\x01", timeout=PATIENCE) == b"\x08\x01"
    service.drain()
    assert refused(lambda: check(b"", timeout=PATIENCE)).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("value", ["u=9", "u=" + "1" * 1500, "", "{}", "u=1,u=,;;"])
def test_malformed_metadata_say_nothing(server_of: ServerOf, channel_to: Any, value: str) -> None:
    """No stranger's value makes an error of a good call."""
    server = server_of(Service(LoadShedder(), name="shop", trusted=["127.0.0.0/8"]))
    server.serve(unary)
    metadata = [("priority", value), ("hormesis-timeout-ms", value), ("x-request-id", value), ("x-bin", b"\xff")]
    metadata = [
        (key, each.encode() if key.endswith("-bin") and isinstance(each, str) else each) for key, each in metadata
    ]
    printable = [(key, each) for key, each in metadata if isinstance(each, bytes) or each.isprintable()]
    assert channel_to(server).unary_unary(CALL)(b"a", timeout=PATIENCE, metadata=printable) == b"a"


class Context:
    """What `arrive` asks of a servicer's context."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> None:
        return None


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:[::1]:5000", "::1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("unix:/run/shop.sock", ""),
        ("", ""),
    ],
)
def test_a_peer_is_read_in_all_its_forms(peer: str, address: str) -> None:
    """GRPC spells addresses in ways of its own."""
    assert arrive(Service(name="shop").ground, CALL, Context(peer)).address == address


def test_synchronous_behaviours_of_an_asynchronous_server_make_the_journey(channel_to: Any) -> None:
    """Such a server runs them in threads, and they are limited like all others."""
    server = AsyncServer(Service(RateLimit("1/h", by="client"), name="shop"))
    try:
        server.methods.known[CALL] = (False, False), unary
        call = channel_to(server).unary_unary(CALL)
        assert call(b"a", timeout=PATIENCE) == b"a"
        assert refused(lambda: call(b"a", timeout=PATIENCE)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        server.stop()


async def _yields(request: Any, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 100_000


async def _writes(request: Any, context: Any) -> None:
    while True:
        await context.write(b"x" * 100_000)


@pytest.mark.parametrize("behave", [_yields, _writes])
def test_a_caller_who_takes_no_message_is_cut_off(
    channel_to: Any, until: Callable[[Callable[[], object]], None], behave: Any
) -> None:
    """Whichever way a behaviour sends its messages; one that takes them is not."""
    service = Service(LoadShedder(limit=1, max_queued=0), name="shop", send_timeout="300ms")
    server = AsyncServer(service)
    try:
        server.methods.known[CALL] = (False, True), behave
        stream = channel_to(server).unary_stream(CALL)(b"", timeout=PATIENCE)
        assert len(next(stream)) == 100_000
        began = time.monotonic()
        while time.monotonic() - began < 0.8:
            next(stream)
        assert service.busy() == 1
        until(lambda: service.busy() == 0)
        assert service.snapshot()["parts"]["load_shedder"]["in_flight"] == 0
        assert time.monotonic() - began < PATIENCE / 2  # and not by the call's own deadline
        stream.cancel()
    finally:
        server.stop()

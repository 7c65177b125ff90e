"""Faults before the behaviours of a gRPC server, of either API."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest

import hormesis as hm
from hormesis.chaos.inside import fault_header
from hormesis.inbound.service import Service

TOKEN = "a token of sixteen"
CALL = "/shop.Shop/Call"


def unary(request: Any, context: Any) -> bytes:
    return b"tea"


def spelt(request: Any, context: Any) -> Any:
    yield from (b"t", b"e", b"a")


@pytest.mark.parametrize("streams", [False, True])
def test_faults_in_the_place_of_a_behaviour(server_of: Any, streams: bool) -> None:
    """Its settings', a signed header's, latency, and what makes no sense there; all is over when the switch is off."""
    switch = hm.ChaosSwitch(TOKEN, events=hm.events.EventBus())
    faults = [
        hm.Injection(status="NOT_FOUND", calls="1"),
        hm.Injection(error="throttled", calls="2"),
        hm.Injection(latency="100ms", calls="3"),
        hm.Injection(result=3, calls="4"),
        hm.Injection(error=KeyError, calls="5"),
    ]
    service = Service(hm.Chaos(*faults, switch=switch), hm.LoadShedder(limit=5), name="shop")
    server = server_of(service)
    server.serve(spelt if streams else unary, (False, streams))
    with grpc.insecure_channel(server.target) as channel:
        method: Any = channel.unary_stream(CALL) if streams else channel.unary_unary(CALL)

        def call(**headers: str) -> Any:
            metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
            try:
                got = method(b"", timeout=20, metadata=metadata)
                return b"".join(got) if streams else got
            except grpc.RpcError as error:
                return error.code().name

        assert call() == b"tea"
        with switch.enabled("1m"):
            assert [call(), call()] == ["NOT_FOUND", "RESOURCE_EXHAUSTED"]
            began = time.monotonic()
            assert call() == b"tea"
            assert time.monotonic() - began >= 0.1
            assert [call(), call()] == ["UNKNOWN", "UNKNOWN"]
            (text,) = fault_header({"status": "ABORTED"}, token=TOKEN, at="shop").values()
            assert call(hormesis_fault=text) == "ABORTED"
        assert call(hormesis_fault=text) == b"tea"
    assert service.snapshot()["in_flight"] == 0

"""Faults that are injected into the calls of a gRPC channel look as gRPC's own."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

import hormesis as hm
from hormesis.outcome import retry_after

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"error": "connect"}, "UNAVAILABLE"),
        ({"error": "timeout"}, "DEADLINE_EXCEEDED"),
        ({"error": "throttled"}, "RESOURCE_EXHAUSTED"),
        ({"status": "ABORTED"}, "ABORTED"),
        ({"status": 404}, "INVALID_ARGUMENT"),
    ],
)
def test_a_failure_is_a_status(connect: Any, kind: str, fault: dict[str, Any], code: str) -> None:
    """Of every kind of call, by the status that stands for it."""
    switch = hm.ChaosSwitch("a token of sixteen")
    policy = hm.Policy(hm.Bulkhead(1), hm.Chaos(switch=switch, **fault), name="stock")
    client = connect(policy)
    assert client.call(kind) == [b"a"]
    with switch.enabled("1m"):
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                client.call(kind)
            assert caught.value.code().name == code
    assert client.call(kind) == [b"a"]
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


def test_it_may_ask_to_come_back(connect: Any) -> None:
    """As a server does that pushes back."""
    switch = hm.ChaosSwitch("a token of sixteen")
    client = connect(hm.Policy(hm.Chaos(status="UNAVAILABLE", retry_after="1500ms", switch=switch), name="stock"))
    with switch.enabled("1m"), pytest.raises(grpc.RpcError) as caught:
        client.call("unary_unary")
    assert retry_after(caught.value) == 1.5

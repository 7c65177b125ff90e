"""A call is cancelled at each moment of an injected latency, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import hormesis as hm
from hormesis.inbound.injecting import InjectASGI
from hormesis.testing import VirtualClock, run_virtual


@pytest.mark.parametrize("when", [0.0, 0.1, 0.2, 0.5, 0.99])
def test_a_cancelled_latency(when: float) -> None:
    """It ends at once: the permit is back, no failure counts, and the function is never called."""
    switch = hm.ChaosSwitch("a token of sixteen")
    policy = hm.Policy(
        hm.CircuitBreaker(consecutive=1),
        hm.Bulkhead(1),
        hm.Timeout("5s"),
        hm.Chaos(latency="1s", switch=switch),
        clock=VirtualClock(),
        name="stock",
    )
    called: list[int] = []

    async def depend() -> None:
        called.append(1)

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        with switch.enabled("1m"):
            call = asyncio.ensure_future(policy.acall(depend))
            await asyncio.sleep(when)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            assert call.cancelled()
        assert asyncio.get_running_loop().time() - began <= when + 0.01
        parts = policy.snapshot()["parts"]
        assert parts["bulkhead"]["in_flight"] == 0
        assert (parts["circuit_breaker"]["state"], parts["circuit_breaker"]["failures"]) == ("closed", 0)

    run_virtual(main())
    assert not called


def test_a_cancelled_request() -> None:
    """A client that goes away while its request is delayed is not kept, and the application hears nothing of it."""
    switch = hm.ChaosSwitch("a token of sixteen")
    called: list[int] = []

    async def app(scope: object, receive: object, send: object) -> None:
        called.append(1)

    async def main() -> None:
        place = InjectASGI(app, hm.Chaos(latency="1s", switch=switch), name="shop", clock=VirtualClock())
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        with switch.enabled("1m"):
            request = asyncio.ensure_future(place(scope, None, None))
            await asyncio.sleep(0.3)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    run_virtual(main())
    assert not called

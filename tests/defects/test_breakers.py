"""Defects that shipped circuit breakers have, each with a test that shows its absence here."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import ManualClock, Scripted, VirtualClock, hear, run_virtual

OPEN_FOR = 5.0


def a_policy(clock: Any, **settings: Any) -> hm.Policy:
    """A policy whose breaker opens with the first failure."""
    breaker: dict[str, Any] = {"minimum_calls": 1, "quiet": None, "open_for": OPEN_FOR, "probes": 2} | settings
    return hm.Policy(hm.CircuitBreaker(**breaker), clock=clock)


def open_up(policy: hm.Policy) -> None:
    """Let the dependency fail once."""
    with pytest.raises(ConnectionResetError):
        policy.call(Scripted(ConnectionResetError).call)
    assert policy.breaker().state == "open"


def breaker_of(policy: hm.Policy) -> dict[str, Any]:
    state: dict[str, Any] = policy.snapshot()["parts"]["circuit_breaker"]
    return state


def went_away(call: Any) -> bool:
    """Whether a call ended since its caller went away."""
    try:
        call.result(20)
    except (KeyboardInterrupt, asyncio.CancelledError, CancelledError):
        return True
    except Exception:
        return False
    return False


@pytest.mark.parametrize("late", [ConnectionResetError, 3], ids=["failure", "success"])
def test_defect_1_stale_outcomes(caller: Any, late: Any) -> None:
    """What a call that was admitted while closed says when it ends while half-open counts neither way, nor later."""
    clock = ManualClock()
    policy, slow, probes = a_policy(clock), Scripted(Scripted.forever), Scripted(3)
    stale = [caller.start(policy, slow) for _ in range(5)]
    slow.wait_until_inside(5)
    open_up(policy)
    clock.advance(OPEN_FOR)
    assert caller.call(policy, probes) == 3
    assert policy.breaker().state == "half-open"
    before = breaker_of(policy)
    slow.release(late)
    for call in stale:
        call.exception(20)
    assert breaker_of(policy) == before
    assert caller.call(policy, probes) == 3
    assert policy.breaker().state == "closed"
    assert (breaker_of(policy)["calls"], breaker_of(policy)["failures"]) == (0, 0)


def test_defect_1_stale_outcomes_after_recovery(caller: Any) -> None:
    """Calls from before an outage that fail when it is over don't open the circuit again."""
    clock = ManualClock()
    policy, slow = a_policy(clock, probes=1), Scripted(Scripted.forever)
    stale = [caller.start(policy, slow) for _ in range(5)]
    slow.wait_until_inside(5)
    open_up(policy)
    clock.advance(OPEN_FOR)
    assert caller.call(policy, Scripted(3)) == 3
    slow.release(ConnectionResetError)
    assert all(isinstance(call.exception(20), ConnectionResetError) for call in stale)
    assert policy.breaker().state == "closed"


@pytest.mark.parametrize("ending", ["cancelled", "rejected", "ignored"])
def test_defect_2_a_probe_without_a_verdict(caller: Any, ending: str) -> None:
    """A probe that is cancelled, or ends in what says nothing, neither closes nor opens, and gives its place back."""
    clock = ManualClock()
    policy = a_policy(clock, probes=1, ignore=KeyError)
    open_up(policy)
    clock.advance(OPEN_FOR)
    error = {"cancelled": caller.cancelled, "rejected": hm.BulkheadFull("further in", "full"), "ignored": KeyError}
    call = caller.start(policy, Scripted(error[ending]))
    assert went_away(call) is (ending == "cancelled")
    assert policy.breaker().state == "half-open"
    assert caller.call(policy, Scripted(3)) == 3
    assert policy.breaker().state == "closed"


def test_defect_2_a_probe_that_hangs(caller: Any) -> None:
    """A probe that never returns does not keep the circuit half-open for ever; if it does return, it is not judged."""
    clock = ManualClock()
    policy, hung = a_policy(clock, probes=1, probe_expires=30), Scripted(Scripted.forever)
    open_up(policy)
    clock.advance(OPEN_FOR)
    probe = caller.start(policy, hung)
    hung.wait_until_inside()
    with pytest.raises(hm.CircuitOpen):
        caller.call(policy, Scripted(3))
    clock.advance(30)
    assert caller.call(policy, Scripted(3)) == 3
    hung.release(ConnectionResetError)
    assert isinstance(probe.exception(20), ConnectionResetError)
    assert policy.breaker().state == "closed"


@pytest.mark.parametrize("probes", [1, 3])
def test_defect_3_half_open_stampede(caller: Any, probes: int) -> None:
    """Of ten callers that come at once when the open time is over, the probes go in and no others."""
    clock = ManualClock()
    policy, back = a_policy(clock, probes=probes), Scripted(Scripted.forever)
    open_up(policy)
    clock.advance(OPEN_FOR)
    calls = caller.together([policy] * 10, back)
    assert back.inside == probes
    back.release(3)
    outcomes = [call.exception(20) for call in calls]
    assert sum(isinstance(outcome, hm.CircuitOpen) for outcome in outcomes) == 10 - probes
    assert back.calls == probes
    assert policy.breaker().state == "closed"


def test_defect_4_a_lock_across_the_call(caller: Any) -> None:
    """Ten calls are inside a policy with every kind of part at the same time: none waits for another."""
    policy = hm.Policy(
        hm.Fallback(value=0, on="rejected"),
        hm.Deadline("20s"),
        hm.Retry(on="transient"),
        hm.CircuitBreaker(slow_after="10s", window="10s"),
        hm.Bulkhead(10),
        hm.Timeout("20s", cooperative=True),
    )
    script = Scripted(Scripted.forever)
    calls = caller.together([policy] * 10, script)
    assert script.inside == 10
    script.release(3)
    assert [call.result(20) for call in calls] == [3] * 10


def test_defect_4_a_lock_while_half_open_and_recovering(caller: Any) -> None:
    """In the states in which a machine takes its lock, it is not held across a call either."""
    clock = ManualClock()
    policy, script = a_policy(clock, probes=3, recover_over="10s"), Scripted(Scripted.forever)
    open_up(policy)
    clock.advance(OPEN_FOR)
    calls = caller.together([policy] * 3, script)
    assert script.inside == 3
    script.release(3)
    assert [call.result(20) for call in calls] == [3] * 3
    assert policy.breaker().state == "recovering"
    clock.advance(9)
    calls = caller.together([policy] * 3, script)
    assert script.inside >= 2
    script.release(3)
    assert {call.exception(20) for call in calls if not isinstance(call.exception(20), hm.CircuitOpen)} == {None}


@pytest.mark.parametrize("where", ["beside", "further in"])
def test_defect_5_local_rejections(caller: Any, where: str) -> None:
    """A full bulkhead of our own, beside the breaker or further in, says nothing of the dependency."""
    breaker = hm.CircuitBreaker(minimum_calls=1, on="any")
    script = Scripted(Scripted.forever, 3)
    inner = hm.Policy(hm.Bulkhead(1), name="inner")
    if where == "beside":
        policy = inside = hm.Policy(breaker, hm.Bulkhead(1))
        asked = script
    else:
        policy, inside = hm.Policy(breaker), inner
        asked = Scripted(inner(caller.face(script)))
    busy = caller.start(inside, script)
    script.wait_until_inside()
    for _ in range(20):
        with pytest.raises(hm.BulkheadFull):
            caller.call(policy, asked)
    assert policy.breaker().state == "closed"
    assert (breaker_of(policy)["calls"], breaker_of(policy)["failures"]) == (0, 0)
    script.release(3)
    assert busy.result(20) == 3
    assert caller.call(policy, asked) == 3


def test_defect_5_an_open_circuit_further_in(caller: Any) -> None:
    """A breaker of ours that refuses does not open the one around it."""
    inner = hm.Policy(hm.CircuitBreaker(), name="inner")
    inner.breaker().isolate()
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1))
    asked = Scripted(inner(caller.face(Scripted(3))))
    for _ in range(20):
        with pytest.raises(hm.CircuitOpen):
            caller.call(policy, asked)
    assert policy.breaker().state == "closed"


def test_defect_9_cancelled_is_not_failed(caller: Any) -> None:
    """Callers that go away are neither failures of the dependency nor a reason to try again."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1, quiet=1, consecutive=1), hm.Retry(on="any"), hm.Bulkhead(1))
    script = Scripted(caller.cancelled)
    with hear(policy) as heard:
        for _ in range(20):
            assert went_away(caller.start(policy, script))
    assert script.calls == 20
    assert breaker_of(policy)["calls"] == 0
    heard.assert_nothing_happened()
    assert caller.call(policy, Scripted(3)) == 3


def test_defect_9_tasks_that_are_cancelled_while_they_wait() -> None:
    """So it is for tasks that lose patience inside, with a timeout of somebody else's around them."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), hm.Timeout("1m"), clock=VirtualClock())

    async def main() -> int:
        lost = 0
        for _ in range(20):
            try:
                async with asyncio.timeout(1):
                    await policy.acall(asyncio.sleep, 30)
            except TimeoutError:
                lost += 1
        return lost

    assert run_virtual(main()) == 20
    assert policy.breaker().state == "closed"


@pytest.mark.parametrize("wall", [0.0, 1e12], ids=["back", "forth"])
def test_defect_9_a_wall_clock(caller: Any, monkeypatch: pytest.MonkeyPatch, wall: float) -> None:
    """When somebody sets the clock on the wall, an open circuit neither closes nor stays open for longer."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1, quiet=None, open_for=60))
    open_up(policy)
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(time, "time_ns", lambda: int(wall * 1e9))
    with pytest.raises(hm.CircuitOpen) as refused:
        caller.call(policy, Scripted(3))
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 60


def test_defect_12_a_shared_breaker_serialises_nobody(caller: Any) -> None:
    """Policies that share a breaker call side by side, and while they do, others ask, switch and change it."""
    registry, script = hm.Registry(), Scripted(Scripted.forever)
    policies = [hm.Policy(hm.CircuitBreaker(), name="shared", registry=registry) for _ in range(2)]
    calls = caller.together(policies * 5, script)
    assert script.inside == 10
    policies[0].breaker().isolate()
    assert policies[1].breaker().state == "isolated"
    with pytest.raises(hm.CircuitOpen):
        caller.call(policies[1], Scripted(3))
    policies[1].breaker().close()
    assert caller.call(policies[0], Scripted(3)) == 3
    script.release(3)
    assert [call.result(20) for call in calls] == [3] * 10

"""Defects that shipped retries have, each with a test that shows its absence here."""

from __future__ import annotations

import collections
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import ManualClock, Scripted, hear


class Throttled(Exception):
    """A server that says when to come back."""

    retry_after = 3.0


hm.register_failures({f"{Throttled.__module__}.{Throttled.__qualname__}": hm.FailureKind.THROTTLED})


def test_defect_6_sleep_past_the_deadline(caller: Any) -> None:
    """When the back-off would end after the deadline, the failure comes out at once: nothing is slept in vain."""
    clock = ManualClock()
    policy = hm.Policy(hm.Deadline(2), hm.Retry(on="any", attempts=9, delay=1, jitter="none"), clock=clock)
    script = Scripted(ConnectionResetError)
    with pytest.raises(ConnectionResetError) as failed:
        caller.call(policy, script)
    assert (script.calls, clock.now()) == (2, 1.0)
    assert "no time left" in failed.value.__notes__[0]


def test_defect_6_an_exhausted_budget_is_not_slept_on(caller: Any) -> None:
    """The budget is asked before the sleep, and one that is used up costs no time."""
    clock = ManualClock()
    policy = hm.Policy(hm.Retry(on="any", attempts=2, delay=1, jitter="none", budget=0.001), clock=clock)
    script = Scripted(ConnectionResetError)
    for _ in range(30):
        with pytest.raises(ConnectionResetError):
            caller.call(policy, script)
    assert (script.calls, clock.now()) == (40, 10.0)


def test_defect_6_a_retry_after_is_never_undercut(caller: Any) -> None:
    """Whatever the jitter draws, nobody comes back sooner than the server asked for, nor all at once."""
    clock = ManualClock()
    policy = hm.Policy(hm.Retry(on="transient", attempts=2, delay=1, budget=None), clock=clock)
    with hear(policy) as heard:
        for _ in range(200):
            assert caller.call(policy, Scripted(Throttled, 3)) == 3
    assert len(heard.delays) == 200
    assert all(3.0 <= delay <= 4.0 for delay in heard.delays)
    assert len(set(heard.delays)) > 190


def test_defect_6_a_retry_after_beyond_the_deadline(caller: Any) -> None:
    """A server that asks for more time than is left gets no second call, and the caller hears so at once."""
    clock = ManualClock()
    policy = hm.Policy(hm.Deadline(2), hm.Retry(on="transient", delay=0), clock=clock)
    script = Scripted(Throttled)
    with pytest.raises(Throttled):
        caller.call(policy, script)
    assert (script.calls, clock.now()) == (1, 0.0)


def test_defect_6_no_wait_for_a_permit_that_can_not_come_in_time(caller: Any) -> None:
    """Who has no time left does not stand in a queue, and who has little stands no longer than that."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait="1m"))
    busy = Scripted(Scripted.forever)
    inside = caller.start(policy, busy)
    busy.wait_until_inside()
    for left in (0, 0.05):
        with hear(policy) as heard, hm.deadline(left), pytest.raises(hm.BulkheadFull):
            caller.call(policy, Scripted(3))
        heard.assert_happened("call_rejected", reason="no time left to wait" if not left else "waited too long")
    busy.release(3)
    assert inside.result(20) == 3


@pytest.mark.parametrize("jitter", ["full", "equal", "decorrelated", "smooth"])
def test_defect_7_the_cap_is_no_meeting_point(caller: Any, jitter: Any) -> None:
    """With a cap of ten times the first delay, late delays lie below it and apart from each other."""
    policy = hm.Policy(
        hm.Retry(on="any", attempts=8, delay=0.1, delay_max=1, jitter=jitter, budget=None), clock=ManualClock()
    )
    script = Scripted(ConnectionResetError)
    late = []
    for _ in range(100):
        with hear(policy) as heard, pytest.raises(ConnectionResetError):
            caller.call(policy, script)
        late += heard.delays[5:]
    assert len(late) == 200
    assert max(late) <= 1
    assert sum(delay == 1 for delay in late) == 0
    assert max(collections.Counter(round(delay, 6) for delay in late).values()) <= 2

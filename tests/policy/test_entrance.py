"""Waiting at a gate: what a single policy of today can't show."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.admission import NullLock, Permit, Refusal
from hormesis.events import EventBus
from hormesis.policy.entrance import Entrance
from hormesis.policy.gate import Entry, Gate, Obstacle
from hormesis.policy.telling import Teller
from hormesis.testing import ManualClock


def test_who_has_no_time_left_does_not_wait(machine_of: Any) -> None:
    """The deadline is asked before the queue: a caller whose time is over is refused at once."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1))
    bulkhead = machine_of(policy, hm.Bulkhead)
    permit = bulkhead.acquire(0.0)
    with hm.deadline(0), pytest.raises(hm.BulkheadFull, match="no time left to wait"):
        policy.call(int)
    assert bulkhead.queued == 0
    bulkhead.put_back(permit)


def test_two_queues_share_one_patience(until: Any) -> None:
    """Who has waited for one part has so much less patience for the next, and holds nothing while waiting."""
    settings = hm.Bulkhead(1, max_queued=1, max_wait="1s")
    first, second = settings.machine(NullLock()), settings.machine(NullLock())
    taken = [machine.acquire(0.0) for machine in (first, second)]
    clock = ManualClock()
    gate = Gate([Entry(settings, first), Entry(settings, second)])
    entrance = Entrance("two", clock, Teller("two", clock, EventBus()))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(entrance.wait, gate, Obstacle(0, Refusal("queue full", None, waitable=True)))
        until(lambda: first.queued == 1)
        clock.advance(2)
        assert isinstance(taken[0], Permit)
        first.put_back(taken[0])
        with pytest.raises(hm.BulkheadFull, match="waited too long"):
            waiting.result(20)
    assert (first.in_flight, first.queued, second.queued) == (0, 0, 0)

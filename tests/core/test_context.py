"""The deadline that travels with a call."""

from __future__ import annotations

import asyncio
import threading

import pytest

import hormesis as hm
from hormesis.testing import ManualClock, VirtualClock, run_virtual


def test_no_deadline_unless_set() -> None:
    """Outside of any deadline there is no time to remain, and nothing to exceed."""
    assert hm.remaining() is None
    hm.check_deadline()


def test_nested_deadlines_take_the_minimum() -> None:
    """Nobody further in can give a call more time than its caller has; less is fine."""
    clock = ManualClock()
    with hm.deadline("2s", clock=clock):
        with hm.deadline("5s", clock=clock):
            assert hm.remaining() == 2.0
        with hm.deadline("1s", clock=clock):
            clock.advance(0.25)
            assert hm.remaining() == 0.75
        assert hm.remaining() == 1.75
    assert hm.remaining() is None


def test_deadlines_on_different_clocks_are_compared_by_what_is_left() -> None:
    """Two clocks can't be compared, but the seconds that are left on each can."""
    outer, inner = ManualClock(start=1e9), ManualClock()
    with hm.deadline(3, clock=outer), hm.deadline(5, clock=inner):
        outer.advance(1)
        assert hm.remaining() == 2.0


def test_a_deadline_that_has_passed() -> None:
    """`check_deadline` raises once no time is left, and tells the policy and the limit."""
    clock = ManualClock()
    with hm.deadline("1s", clock=clock, policy="report"):
        hm.check_deadline()
        clock.advance(1)
        with pytest.raises(hm.DeadlineExceeded, match="'report'") as caught:
            hm.check_deadline()
    assert caught.value.limit == 1.0


def test_a_deadline_of_no_time() -> None:
    """Zero is a deadline that has passed; a negative one is a mistake."""
    with hm.deadline(0), pytest.raises(hm.DeadlineExceeded):
        hm.check_deadline()
    with pytest.raises(hm.ConfigurationError, match="deadline is -1"), hm.deadline(-1):
        pass


def test_deadlines_are_restored_after_an_error() -> None:
    """A block that raises leaves no deadline behind."""
    with pytest.raises(KeyError), hm.deadline(1):
        raise KeyError
    assert hm.remaining() is None


def test_deadlines_travel_into_tasks_and_stay_apart() -> None:
    """A task sees the deadline of whoever started it, and what it sets itself is seen by no other."""
    clock = VirtualClock()

    async def child(limit: float) -> float | None:
        with hm.deadline(limit, clock=clock):
            await asyncio.sleep(1)
            return hm.remaining()

    async def main() -> None:
        with hm.deadline(10, clock=clock):
            assert list(await asyncio.gather(child(5), child(20))) == [4.0, 9.0]
            assert hm.remaining() == 9.0

    run_virtual(main())


def test_threads_begin_without_a_deadline() -> None:
    """A thread of one's own has a context of its own: the deadline goes along only where the context is carried."""
    seen: list[float | None] = []
    with hm.deadline(10):
        thread = threading.Thread(target=lambda: seen.append(hm.remaining()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_serving_a_request() -> None:
    """What a request's headers bring holds inside of the block: its deadline, if it is the nearer, and its id."""
    headers = [(b"x-envoy-expected-rq-timeout-ms", b"800"), (b"x-request-id", b"r-1"), (b"grpc-timeout", b"soon")]
    with hm.serving(headers):
        left = hm.remaining()
        assert left is not None
        assert 0.5 < left <= 0.8
        assert hm.request_id() == "r-1"
        with hm.serving({"Hormesis-Timeout-Ms": "5000"}):
            nearer = hm.remaining()
            assert nearer is not None
            assert nearer <= left
            assert hm.request_id() == "r-1"  # of the outer one, since this one has none
    assert (hm.remaining(), hm.request_id()) == (None, None)
    with hm.serving({"grpc-timeout": "0m"}), pytest.raises(hm.DeadlineExceeded):
        hm.check_deadline()


def test_what_is_known_of_a_call() -> None:
    """Facts of a call add up from the outside in, and are gone with their block."""
    with hm.calling(host="eu", repeatable=False), hm.calling(tenant="acme", host="us") as facts:
        assert dict(facts.labels) == {"host": "us", "tenant": "acme"}
        assert not facts.repeatable
        with hm.calling(repeatable=True) as inner:
            assert inner.repeatable
    assert hm.request_id() is None


def test_answers_are_bounded() -> None:
    """A block that goes on for ever does not collect answers for ever."""
    policy = hm.Policy(hm.Fallback(value=0))
    with hm.answers() as seen:
        for _ in range(1100):
            policy.call(int, "x")
    assert len(seen.noted) == 1000

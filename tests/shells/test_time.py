"""Timeouts and deadlines, in every colour."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hormesis as hm
from hormesis.testing import ManualClock, VirtualClock, run_virtual

SHORT = "20ms"


def test_a_timeout_cuts_an_attempt_off(colour: Any, dependency: Any, held: Any, heard: Any, is_async: bool) -> None:
    """The caller gets `TimedOut` with the limit; an asynchronous function is cancelled."""
    policy = hm.Policy(hm.Timeout(SHORT, threads=1), name="p", events=heard.bus)
    called = dependency(held)
    with pytest.raises(hm.TimedOut, match="'p'") as caught:
        colour.call(policy, called)
    assert type(caught.value) is hm.TimedOut
    assert caught.value.limit == 0.02
    assert called.cancelled == is_async
    assert heard.names == [*([] if is_async else ["work_left_behind"]), "timeout_hit", "attempt_failed"]
    cut, failed = heard.events[-2:]
    assert (cut.part, cut.limit, failed.kind) == ("timeout", 0.02, "timeout")


def test_the_functions_own_timeout_error_is_not_ours(colour: Any, dependency: Any, heard: Any) -> None:
    """A `TimeoutError` that the function raises passes through as it is."""
    called = dependency(TimeoutError)
    with pytest.raises(TimeoutError) as caught:
        colour.call(hm.Policy(hm.Timeout("20s", threads=1), events=heard.bus), called)
    assert caught.value is called.raised[0]
    assert heard.names == ["attempt_failed"]


def test_attempts_that_timed_out_are_retried(colour: Any, dependency: Any, held: Any) -> None:
    """Each attempt has its own timeout, and the next may answer."""
    policy = hm.Policy(hm.Retry(on="timeout", delay=0), hm.Timeout(SHORT, threads=3))
    called = dependency(held, 3)
    assert colour.call(policy, called) == 3
    assert called.calls == 2


def test_one_policy_times_out_many_calls_at_once(colour: Any, dependency: Any, held: Any) -> None:
    """Calls that share a policy don't share their timers."""
    policy = hm.Policy(hm.Timeout("50ms", threads=10))
    called = dependency(held)
    running = [colour.start(policy, called) for _ in range(10)]
    assert [type(call.exception(20)) for call in running] == [hm.TimedOut] * 10
    assert called.calls == 10


def test_every_task_times_out_at_its_own_time() -> None:
    """A hundred tasks that share one policy are each cut off one second after they began."""
    policy = hm.Policy(hm.Timeout("1s"), clock=VirtualClock())

    async def call_after(delay: float) -> float:
        await asyncio.sleep(delay)
        with pytest.raises(hm.TimedOut):
            await policy.acall(asyncio.sleep, 3600)
        return asyncio.get_running_loop().time() - delay

    async def main() -> list[float]:
        return await asyncio.gather(*(call_after(number / 100) for number in range(100)))

    assert run_virtual(main()) == pytest.approx([1.0] * 100)


def test_a_deadline_that_cuts_a_timeout_short_is_not_blamed_on_the_dependency(
    colour: Any, dependency: Any, held: Any, machine_of: Any, heard: Any
) -> None:
    """An attempt that had less time than its timeout promised says nothing to the breaker."""
    parts = hm.Deadline(SHORT), hm.CircuitBreaker(minimum_calls=1), hm.Timeout("20s", threads=1)
    policy = hm.Policy(*parts, events=heard.bus)
    with pytest.raises(hm.DeadlineExceeded):
        colour.call(policy, dependency(held))
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0).calls == 0
    (cut,) = (event for event in heard.events if event.name == "timeout_hit")
    assert cut.part == "deadline"


def test_a_deadline_alone_is_the_timeout(machine_of: Any) -> None:
    """Where there is no timeout, an attempt that the deadline cuts off counts as a failure."""
    policy = hm.Policy(hm.Deadline("2s"), hm.CircuitBreaker(), clock=VirtualClock())

    async def main() -> None:
        with pytest.raises(hm.DeadlineExceeded):
            await policy.acall(asyncio.sleep, 3600)
        assert asyncio.get_running_loop().time() == 2.0
        assert machine_of(policy, hm.CircuitBreaker).tally(2.0) == (1, 1, 0)

    run_virtual(main())


@pytest.mark.parametrize("part", [hm.Deadline("5s"), hm.Timeout("5s", threads=1)], ids=["deadline", "timeout"])
def test_nothing_begins_when_no_time_is_left(colour: Any, dependency: Any, machine_of: Any, part: Any) -> None:
    """A call whose caller's deadline has passed does not reach the function, and is not blamed on it."""
    called, policy = dependency(3), hm.Policy(part, hm.CircuitBreaker(), hm.Bulkhead(1))
    with hm.deadline(0), pytest.raises(hm.DeadlineExceeded):
        colour.call(policy, called)
    assert called.calls == 0
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0).calls == 0
    assert machine_of(policy, hm.Bulkhead).in_flight == 0


@pytest.mark.parametrize(
    ("parts", "seen"),
    [
        ([], None),
        ([hm.Timeout("2s", threads=1)], 2.0),
        ([hm.Deadline("5s")], 5.0),
        ([hm.Deadline("5s"), hm.Timeout("2s", threads=1)], 2.0),
        ([hm.Deadline("2s"), hm.Timeout("5s", threads=1)], 2.0),
        ([hm.Deadline("10s", reserve="4s")], 6.0),
    ],
)
def test_what_the_function_sees_of_the_time(colour: Any, dependency: Any, parts: Any, seen: float | None) -> None:
    """Inside, `hm.remaining()` is the nearer of timeout and deadline, less the reserve; outside nothing is set."""
    policy = hm.Policy(*parts, clock=ManualClock())
    assert colour.call(policy, dependency(hm.remaining)) == seen
    assert hm.remaining() is None


@pytest.mark.parametrize(("outer", "seen"), [(1, 1.0), (60, 5.0)])
def test_the_callers_deadline_travels_in(colour: Any, dependency: Any, outer: float, seen: float) -> None:
    """Of the caller's deadline and the policy's own, the nearer counts; of nested policies' as well."""
    clock = ManualClock()
    own = hm.Policy(hm.Deadline("5s"), clock=clock)
    with hm.deadline(outer, clock=clock):
        assert colour.call(own, dependency(hm.remaining)) == seen
    around = hm.Policy(hm.Deadline(outer), name="around", clock=clock)
    assert colour.call(around, colour.nest(own, dependency(hm.remaining))) == seen


@pytest.mark.parametrize(
    ("deadline", "attempt", "answer"),
    [
        (hm.Deadline("10s", reserve="4s"), 6.0, 10.0),
        (hm.Deadline("10s", reserve=0), 10.0, 10.0),
        (hm.Deadline("10s"), 9.0, 10.0),
    ],
    ids=["its own reserve", "none", "a tenth by default"],
)
def test_the_fallback_has_time_of_its_own(
    colour: Any, dependency: Any, deadline: Any, attempt: float, answer: float
) -> None:
    """Attempts end earlier than the call, by the reserve, and the fallback has what is left of the whole."""
    seen: list[float | None] = []

    def fail() -> Exception:
        seen.append(hm.remaining())
        return ZeroDivisionError()

    fallback = hm.Fallback(colour.paint(hm.remaining))
    assert colour.call(hm.Policy(deadline, fallback, clock=ManualClock()), dependency(fail)) == answer
    assert seen == [attempt]


def test_a_fallback_that_hangs_is_cut_off_at_the_deadline() -> None:
    """The deadline bounds the fallback as well; the caller gets the original failure."""

    async def hang() -> None:
        await asyncio.sleep(3600)

    policy = hm.Policy(hm.Fallback(hang), hm.Deadline("10s", reserve="4s"), clock=VirtualClock())

    async def main() -> None:
        with pytest.raises(hm.DeadlineExceeded) as caught:
            await policy.acall(hang)
        assert asyncio.get_running_loop().time() == 10.0
        assert "the fallback of policy 'policy' had no answer either" in caught.value.__notes__[-1]

    run_virtual(main())


DURATIONS = st.sampled_from([0, 0.1, 0.5, 1.0, 3.0, 60.0])


@settings(max_examples=150)
@given(
    deadline=st.sampled_from([0.3, 1.0, 2.5]),
    timeout=st.sampled_from([0.2, 1.0, 10.0]),
    delay=DURATIONS,
    attempts=st.integers(1, 5),
    takes=st.lists(st.tuples(DURATIONS, st.booleans()), min_size=5, max_size=5),
    busy=DURATIONS,
    fallback=DURATIONS,
)
def test_no_call_outlives_its_deadline(
    *,
    deadline: float,
    timeout: float,
    delay: float,
    attempts: int,
    takes: list[tuple[float, bool]],
    busy: float,
    fallback: float,
) -> None:
    """Whatever the queue, the attempts, the back-offs and the fallback take, the caller has an end by the deadline."""

    async def answer() -> str:
        await asyncio.sleep(fallback)
        return "old"

    policy = hm.Policy(
        hm.Fallback(answer),
        hm.Deadline(deadline),
        hm.Retry(on="any", attempts=attempts, delay=delay, jitter="none"),
        hm.Bulkhead(1, max_queued=1, max_wait=5),
        hm.Timeout(timeout),
        clock=VirtualClock(),
    )
    rival = policy.with_parts(hm.Deadline(100), hm.Timeout(100))
    script = iter(takes)

    async def function() -> str:
        seconds, fails = next(script)
        await asyncio.sleep(seconds)
        if fails:
            raise ZeroDivisionError
        return "new"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(rival.acall(asyncio.sleep, busy))
            await asyncio.sleep(0)
            began = loop.time()
            with contextlib.suppress(hm.HormesisError, ZeroDivisionError):
                assert await policy.acall(function) in ("new", "old")
            assert loop.time() - began <= deadline + 1e-9

    run_virtual(main())

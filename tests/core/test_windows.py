"""Sliding windows against lists of outcomes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.window import CountWindow, Tally, TimeWindow, Window

Outcome = tuple[int, bool, bool]
"""Seconds since the one before, failed, slow."""

OUTCOMES = st.lists(st.tuples(st.integers(0, 15), st.booleans(), st.booleans()), max_size=60)


def feed(window: Window, now: float, *, failed: bool, slow: bool) -> None:
    """Count a call the way a breaker does: an unremarkable success by a tick, as long as ticks count."""
    if failed or slow or now >= window.ticks_until:
        window.record(now, failed=failed, slow=slow)
    else:
        window.tick()


def tally_of(outcomes: list[Outcome]) -> Tally:
    return Tally(len(outcomes), sum(failed for _, failed, _ in outcomes), sum(slow for *_, slow in outcomes))


@given(OUTCOMES, st.integers(1, 20))
def test_a_count_window_holds_the_latest_calls(outcomes: list[Outcome], size: int) -> None:
    """After every call it holds the last `size` of them, no matter when they ended."""
    window = CountWindow(size)
    for number, (_, failed, slow) in enumerate(outcomes, 1):
        feed(window, 0.0, failed=failed, slow=slow)
        assert window.tally(0.0) == tally_of(outcomes[:number][-size:])


@given(OUTCOMES, st.sampled_from([10, 20, 60]))
def test_a_time_window_holds_the_current_tenth_and_the_nine_before(outcomes: list[Outcome], seconds: int) -> None:
    """After every call it holds what ended in the last ten of its tenths."""
    window, width, now = TimeWindow(float(seconds)), seconds // 10, 0
    ended: list[Outcome] = []
    for step, failed, slow in outcomes:
        now += step
        ended.append((now, failed, slow))
        feed(window, float(now), failed=failed, slow=slow)
        assert window.tally(float(now)) == tally_of([call for call in ended if call[0] // width > now // width - 10])


@given(st.lists(st.floats(0, 30), max_size=40), st.floats(0.001, 100))
def test_a_time_window_forgets_within_a_tenth(steps: list[float], seconds: float) -> None:
    """At any time it holds all calls of the last nine tenths, and none that is older than its whole length."""
    window, now = TimeWindow(seconds), 0.0
    ended: list[float] = []
    for step in steps:
        now += step
        ended.append(now)
        calls = window.record(now, failed=True, slow=False).calls
        tiny = 1e-9 * max(1.0, now)
        assert sum(now - at < 0.9 * seconds - tiny for at in ended) <= calls
        assert calls <= sum(now - at <= seconds + tiny for at in ended)


@pytest.mark.parametrize("window", [CountWindow(5), TimeWindow(10.0)], ids=["count", "time"])
def test_a_cleared_window_holds_nothing(window: Window) -> None:
    """`clear` forgets all that was counted, and counting goes on."""
    for _ in range(4):
        window.record(0.0, failed=True, slow=True)
    window.clear()
    assert window.tally(0.0) == Tally(0, 0, 0)
    assert window.record(0.0, failed=False, slow=True) == Tally(1, 0, 1)


def test_a_healthy_time_window_takes_successes_without_the_lock() -> None:
    """Within a tenth, a success is counted by a tick alone; the first of each tenth is not."""
    window = TimeWindow(10.0)
    assert window.ticks_until == -math.inf
    window.record(0.3, failed=False, slow=False)
    assert window.ticks_until == 1.0
    window.tick()
    assert window.tally(0.5) == Tally(2, 0, 0)
    window.record(7.0, failed=False, slow=False)
    assert window.ticks_until == 8.0


def test_readings_are_not_counted() -> None:
    """However often a window is read, it holds the same calls."""
    for window in (CountWindow(100), TimeWindow(10.0)):
        window.record(0.0, failed=True, slow=False)
        assert {window.tally(0.0) for _ in range(50)} == {Tally(1, 1, 0)}

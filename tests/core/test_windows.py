"""Sliding windows against lists of outcomes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.ticks import Ticks
from hormesis.core.window import CountWindow, Tally, TimeWindow, Window, reshaped

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


@given(OUTCOMES, OUTCOMES, st.integers(1, 20), st.integers(1, 20))
def test_a_count_window_keeps_the_latest_when_it_is_resized(
    before: list[Outcome], after: list[Outcome], size: int, then: int
) -> None:
    """It holds the latest calls of what it held, and never takes a failure that it has forgotten for a success."""
    window = CountWindow(size)
    for _, failed, slow in before:
        feed(window, 0.0, failed=failed, slow=slow)
    window.resize(then)
    held = before[-size:]
    assert window.tally(0.0) == tally_of(held[-then:])
    for number, (_, failed, slow) in enumerate(after, 1):
        feed(window, 0.0, failed=failed, slow=slow)
        assert window.tally(0.0) == tally_of((held + after[:number])[-then:])


@given(OUTCOMES, st.sampled_from([10, 20, 60]), st.sampled_from([10, 20, 60]))
def test_a_time_window_keeps_what_is_recent_when_it_is_resized(outcomes: list[Outcome], size: int, then: int) -> None:
    """It holds no less than what both windows would, and forgets all that the new one would, to the old one's tenth."""
    window, now = TimeWindow(float(size)), 0
    ended: list[int] = []
    for step, failed, slow in outcomes:
        now += step
        ended.append(now)
        feed(window, float(now), failed=failed, slow=slow)
    window.resize(float(then))
    shorter = min(size, then)
    calls = window.tally(float(now)).calls
    assert sum(now - at < 0.9 * shorter for at in ended) <= calls
    assert calls <= sum(now - at < then + size / 10 for at in ended)
    later = now + then + size // 10
    assert window.record(float(later), failed=True, slow=False) == Tally(1, 1, 0)


@pytest.mark.parametrize("kind", [CountWindow, TimeWindow])
def test_a_window_knows_of_calls_before_it_was_made(kind: Any) -> None:
    """A window that is made late takes what was drawn from its counter for successes, from the number given on."""
    ticks = Ticks()
    for _ in range(4):
        ticks.draw()
    window = kind(10, ticks, 1)
    for _ in range(2):
        window.tick()
    if kind is CountWindow:
        assert window.tally(0.0) == Tally(5, 0, 0)
        assert window.record(0.0, failed=True, slow=False) == Tally(6, 1, 0)
    else:  # the calls came at no known time
        assert window.record(0.0, failed=True, slow=False) == Tally(1, 1, 0)


@pytest.mark.parametrize("kind", [CountWindow, TimeWindow])
@pytest.mark.parametrize("after", [{"calls": 7, "seconds": None}, {"calls": None, "seconds": 20.0}])
def test_a_reshaped_window_goes_on(kind: Any, after: dict[str, Any]) -> None:
    """One of the same kind keeps what it holds, one of another starts empty; calls draw from the same counter."""
    before: Window = kind(10)
    tick, ticks = before.tick, before.ticks
    before.record(5.0, failed=True, slow=True)
    same = isinstance(before, CountWindow) == (after["calls"] is not None)
    window = reshaped(before, **after)
    assert (window is before) == same
    assert window.ticks is ticks
    kept = Tally(1, 1, 1) if same else Tally(0, 0, 0)
    assert window.tally(5.0) == kept
    tick()
    assert window.tally(5.0) == kept._replace(calls=kept.calls + 1)
    assert getattr(window, "size", None) == after["calls"]
    assert getattr(window, "seconds", None) == after["seconds"]


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

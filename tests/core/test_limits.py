"""Limits that find themselves: what is observed of a window, and what each rule makes of it."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.admission import NullLock
from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.limits import Fixed, QueueDelay, Window, Windowing


def windowing(seconds: float = 1.0, calls: int = 2) -> Windowing:
    return Windowing(seconds=seconds, calls=calls, now=0.0, lock=NullLock())


# Windows.


def test_a_window_tells_what_was_observed() -> None:
    """Counts, the least and the mean latency, the most in flight, drops, refusals and the mean delay."""
    observed = windowing()
    observed.ended(0.1, in_flight=3)
    observed.ended(0.3, in_flight=2)
    observed.dropped(in_flight=4)
    observed.limited(in_flight=5)
    observed.delayed(0.02)
    observed.delayed(0.05, times=2)
    window = observed.take(1.5)
    assert window is not None
    assert window.delay == pytest.approx(0.04)
    assert (window.seconds, window.ended, window.latency_min) == (1.5, 2, 0.1)
    assert window.latency_mean == pytest.approx(0.2)
    assert (window.in_flight_max, window.limited, window.dropped) == (5, True, 1)


def test_a_window_is_long_enough_and_holds_enough() -> None:
    """Neither a short window is complete, nor one with too few calls; drops are calls as well."""
    observed = windowing()
    observed.ended(0.1, in_flight=1)
    assert observed.take(0.5) is None
    assert observed.take(1.0) is None
    observed.dropped(in_flight=1)
    assert observed.take(1.1) is not None


def test_a_window_with_too_few_calls_ends_after_ten_times_its_length() -> None:
    """Delays are heard of even where hardly a call ends."""
    observed = windowing()
    observed.delayed(0.5)
    assert observed.take(9.9) is None
    assert observed.take(10.0) == Window(seconds=10.0, delay=0.5)


def test_the_next_window_is_empty() -> None:
    """What one window has told, the next does not tell again."""
    observed = windowing(calls=1)
    observed.ended(0.1, in_flight=1)
    observed.limited(in_flight=1)
    assert observed.take(1.0) is not None
    assert observed.due == 2.0
    assert observed.take(11.0) == Window(seconds=10.0)


def test_a_window_is_taken_once() -> None:
    """Of two threads that come when it is complete, one gets it."""

    class TakenMeanwhile:
        """A lock for which somebody else has come first."""

        def __enter__(self) -> bool:
            if not entered:
                entered.append(True)
                assert observed.take(1.0) is not None
            return True

        def __exit__(self, *error: object) -> None:
            return None

    entered: list[bool] = []
    observed = Windowing(seconds=1.0, calls=0, now=0.0, lock=TakenMeanwhile())
    assert observed.take(1.0) is None


def test_threads_lose_no_observation() -> None:
    """What many threads observe at once is counted whole."""
    observed = Windowing(seconds=1.0, calls=1, now=0.0, lock=threading.Lock())

    def observe() -> None:
        for _ in range(1000):
            observed.ended(0.1, in_flight=1)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    window = observed.take(1.0)
    assert window is not None
    assert window.ended == 4000


# A limit that stays, and one by queueing delay.


def test_a_fixed_limit_stays() -> None:
    """Whatever happens."""
    fixed = Fixed(7)
    fixed.update(Window(seconds=1.0, dropped=1000, delay=10.0))
    assert fixed.limit == 7.0


def by_delay(start: float = 20) -> QueueDelay:
    return QueueDelay(start=start, least=4, most=100, target=0.04)


def seen(delay: float | None, *, in_flight: int = 20, limited: bool = False, latency: float = 0.1) -> Window:
    return Window(seconds=0.1, ended=10, latency_mean=latency, in_flight_max=in_flight, limited=limited, delay=delay)


def test_without_a_delay_nothing_moves() -> None:
    """Who is not told how long work waits can't know what to do."""
    found = by_delay()
    found.update(seen(None))
    assert found.limit == 20


def test_it_grows_by_less_than_one_a_round_trip_the_more_work_waits() -> None:
    """A window of two round trips brings twice as much as one; a quarter of the delay that may be costs a quarter."""
    found = by_delay()
    found.update(seen(0.01))
    assert found.limit == 20.75
    found.update(seen(0.01, latency=0.05))
    assert found.limit == 22.25


def test_a_large_limit_grows_by_a_thousandth() -> None:
    """So that it takes as long for a large limit as for a small one to grow by a share of itself."""
    found = QueueDelay(start=5000, least=4, most=10_000, target=0.04)
    found.update(seen(0.01, in_flight=5000))
    assert found.limit == 5003.75


def test_it_grows_only_while_it_is_used() -> None:
    """A limit of which less than half is used holds nobody back, and says nothing."""
    found = by_delay()
    found.update(seen(0.01, in_flight=9))
    assert found.limit == 20
    found.update(seen(0.01, in_flight=9, limited=True))
    assert found.limit == 20.75


def test_it_shrinks_in_proportion_to_what_is_too_much() -> None:
    """Twice the target takes a fiftieth a round trip, and no window takes more than half."""
    found = by_delay()
    found.update(seen(0.08))
    assert found.limit == pytest.approx(20 * 0.98)
    found = by_delay()
    found.update(seen(60.0))
    assert found.limit == 10


def test_without_latencies_a_window_is_one_round_trip() -> None:
    """Where nothing ended, there is nothing to count round trips by."""
    found = by_delay()
    found.update(Window(seconds=1.0, delay=0.08))
    assert found.limit == pytest.approx(20 * 0.98)


# Vegas.


def vegas(start: float = 20, **more: int) -> Vegas:
    return Vegas(start=start, least=1, most=1000, **more)


def timed(latency: float, *, in_flight: int = 1000, limited: bool = True, dropped: int = 0, ended: int = 100) -> Window:
    return Window(
        seconds=1.0,
        ended=ended,
        latency_min=latency,
        latency_mean=latency if ended else 0.0,
        in_flight_max=in_flight,
        limited=limited,
        dropped=dropped,
    )


def test_vegas_has_four_regimes() -> None:
    """By the queue that the latency tells of: grow fast, grow, stay, shrink."""
    for queue, moved in ((0, 6), (1, 6), (2, 1), (3, 0), (6, 0), (7, -1), (19, -1)):
        found = vegas()
        found.update(timed(0.1))
        before = found.limit
        # A latency of which q = ⌈L (1 - base / latency)⌉ makes this queue.
        found.update(timed(0.1 / (1 - (queue - 0.5) / before) if queue else 0.1))
        assert found.limit - before == moved, queue


def test_vegas_moves_larger_limits_by_larger_steps() -> None:
    """By the logarithm of the limit."""
    found = vegas(start=100)
    found.update(timed(0.1))
    assert found.limit == 112
    found.update(timed(1.0))
    assert found.limit == 110


def test_vegas_shrinks_for_drops_and_not_for_noise() -> None:
    """More than one in twenty calls dropped is too much; fewer are how the dependency is."""
    found = vegas()
    found.update(timed(0.1, dropped=6, ended=94))
    assert found.limit == 19
    found.update(timed(0.1, dropped=5, ended=95))
    assert found.limit == 25


def test_vegas_does_not_move_for_nothing() -> None:
    """Neither for a window without answers, nor while less than half of the limit is used."""
    found = vegas()
    found.update(timed(0.1, ended=0))
    found.update(timed(0.1, in_flight=9, limited=False))
    assert found.limit == 20


def test_vegas_takes_answers_that_take_no_time() -> None:
    """What answers within the clock's resolution has no queue."""
    found = vegas()
    found.update(timed(0.0))
    assert found.limit == 26


def test_vegas_learns_its_baseline_while_the_limit_is_not_reached() -> None:
    """A quiet window moves nothing, and tells what a call takes by nature."""
    found = vegas()
    found.update(timed(0.05, in_flight=1, limited=False))
    found.update(timed(0.1))
    assert found.limit == 19


def test_vegas_probes_for_its_baseline() -> None:
    """After so many windows under a limit that is reached, it is halved for two, of which the second tells."""
    found = vegas(probe_every=2)
    found.update(timed(0.1))
    found.update(timed(0.1))
    assert (found.limit, found.probing) == (16, True)
    found.update(timed(0.3))
    assert (found.limit, found.probing) == (16, True)
    found.update(timed(0.2))
    assert (found.limit, found.probing) == (32, False)
    found.update(timed(0.2))
    assert found.limit == 38


def test_vegas_goes_on_after_a_probe_without_answers() -> None:
    """When nothing ends in a probe, the baseline stays as it was."""
    found = vegas(probe_every=1)
    found.update(timed(0.1))
    assert found.probing
    found.update(timed(0.1, ended=0))
    found.update(timed(0.1, ended=0))
    assert (found.limit, found.probing) == (26, False)
    found.update(timed(0.2))
    assert found._kept == 25


def test_vegas_that_is_not_held_back_never_probes() -> None:
    """While the limit holds nobody back, there is nothing to find out."""
    found = vegas(probe_every=1)
    for _ in range(5):
        found.update(timed(0.1, limited=False))
    assert not found.probing


# Gradient2.


def test_gradient2_creeps_up_while_latencies_are_as_usual() -> None:
    """By a fifth of the queue that it allows for."""
    found = Gradient2(start=50, least=20, most=200)
    found.update(timed(0.1))
    assert found.limit == pytest.approx(50.8)
    assert not found.probing


def test_gradient2_follows_the_ratio_of_latencies() -> None:
    """When calls take four times as long as usual, it gives up a fifth of half, and no more."""
    found = Gradient2(start=100, least=20, most=200)
    for _ in range(20):
        found.update(timed(0.1, in_flight=1, limited=False))
    found.update(timed(0.4))
    assert found.limit == pytest.approx(0.8 * 100 + 0.2 * (0.5 * 100 + 4))


def test_gradient2_forgets_a_bad_time_quickly() -> None:
    """A long average more than twice the latency of now is brought down by a twentieth a window."""
    found = Gradient2(start=20, least=20, most=200)
    for _ in range(10):
        found.update(timed(1.0))
    for _ in range(40):
        found.update(timed(0.1))
    assert found._long < 0.25


def test_gradient2_absorbs_an_overload_that_lasts() -> None:
    """It fails where it is said to: in the end, nothing holds the limit any more."""
    found = Gradient2(start=20, least=20, most=200)
    for _ in range(3000):
        found.update(timed(0.1 + found.limit / 100))
    assert found.limit > 100


def test_gradient2_does_not_move_for_nothing() -> None:
    """Neither for a window without answers, nor while less than half of the limit is used."""
    found = Gradient2(start=50, least=20, most=200)
    found.update(timed(0.1, ended=0))
    found.update(timed(0.0))
    found.update(timed(0.1, in_flight=24, limited=False))
    assert found.limit == 50


# AIMD.


def test_aimd_goes_by_drops_alone() -> None:
    """One more while hardly a call is dropped, a tenth less otherwise, however long calls take."""
    found = AIMD(start=20, least=1, most=100)
    found.update(timed(0.1, dropped=5, ended=95))
    assert found.limit == 21
    found.update(timed(90.0))
    assert found.limit == 22
    found.update(timed(0.1, dropped=50, ended=50))
    assert found.limit == pytest.approx(19.8)
    assert not found.probing


def test_aimd_does_not_grow_for_nothing() -> None:
    """Neither for a window without answers, nor while less than half of the limit is used."""
    found = AIMD(start=20, least=1, most=100)
    found.update(timed(0.1, ended=0))
    found.update(timed(0.1, in_flight=9, limited=False))
    assert found.limit == 20


# What holds for all of them.

WINDOWS = st.builds(
    Window,
    seconds=st.floats(0.01, 100),
    ended=st.integers(0, 10_000),
    latency_min=st.floats(0, 100),
    latency_mean=st.floats(0, 1e6),
    in_flight_max=st.integers(0, 2000),
    limited=st.booleans(),
    dropped=st.integers(0, 10_000),
    delay=st.none() | st.floats(0, 1e6),
)
RULES = [
    lambda start: QueueDelay(start=start, least=2, most=50, target=0.04),
    lambda start: Vegas(start=start, least=2, most=50, probe_every=3),
    lambda start: Gradient2(start=start, least=2, most=50),
    lambda start: AIMD(start=start, least=2, most=50),
]


@pytest.mark.parametrize("rule", RULES, ids=["queue delay", "vegas", "gradient2", "aimd"])
@given(start=st.integers(2, 50), windows=st.lists(WINDOWS, max_size=30))
def test_limits_stay_within_their_bounds(rule: type[Vegas], start: int, windows: list[Window]) -> None:
    """Whatever is observed, a limit is a number between its bounds."""
    found = rule(start)  # type: ignore[call-arg, misc]
    for window in windows:
        found.update(window)
        assert math.isfinite(found.limit)
        assert 2 <= found.limit <= 50


def test_a_window_that_nobody_took_for_an_hour_is_not_an_hour_of_growth() -> None:
    """After a pause the limit goes on from where it was, by one window's worth."""
    found = QueueDelay(start=20, least=1, most=10_000, target=0.04)
    found.update(Window(seconds=3600.0, ended=5, latency_mean=0.1, in_flight_max=20, limited=True, delay=0.0))
    assert found.limit == 22


def test_a_quick_service_does_not_jump() -> None:
    """A hundred round trips in a window move the limit by a tenth at most, and down by two trips' worth."""
    found = QueueDelay(start=100, least=1, most=10_000, target=0.04)
    found.update(Window(seconds=0.1, ended=99, latency_mean=0.001, in_flight_max=100, limited=True, delay=0.0))
    assert found.limit == pytest.approx(110)
    found.update(Window(seconds=0.1, ended=99, latency_mean=0.001, in_flight_max=100, limited=True, delay=0.08))
    assert found.limit == pytest.approx(110 * 0.98**2)

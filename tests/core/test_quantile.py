"""The moving quantile, against a sorted list of what it should remember."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.admission import NullLock
from hormesis.core.quantile import RELATIVE_ERROR, MovingQuantile

LATENCIES = st.floats(1e-6, 86_400)
QUANTILES = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999])


def moving(quantile: float = 0.95, minimum: int = 1) -> MovingQuantile:
    return MovingQuantile(quantile=quantile, minimum=minimum, lock=NullLock())


def exact(quantile: float, values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(quantile * len(values)) - 1]


def assert_near(estimate: float | None, true: float) -> None:
    assert estimate is not None
    assert abs(estimate - true) <= true * RELATIVE_ERROR * 1.000001


@given(st.lists(LATENCIES, min_size=1, max_size=300), QUANTILES)
def test_it_is_near_the_true_quantile(latencies: list[float], quantile: float) -> None:
    """Whatever is recorded, the estimate is within 2.5 % of the observation of rank ceil(q * n)."""
    recent = moving(quantile)
    for latency in latencies:
        recent.record(latency)
    recent.count()
    assert_near(recent.value, exact(quantile, latencies))


@given(
    st.lists(st.tuples(st.integers(1, 1500), LATENCIES, LATENCIES), min_size=1, max_size=8),
    st.sampled_from([0.5, 0.95]),
    st.integers(0, 2**32),
)
def test_it_remembers_between_half_a_window_and_a_whole(
    phases: list[tuple[int, float, float]], quantile: float, seed: int
) -> None:
    """A generation is dropped as a whole, so what it speaks of is the last half to whole window of observations."""
    numbers, recent, all_of_them = random.Random(seed), moving(quantile), []
    for count, one, other in phases:
        for _ in range(count):
            all_of_them.append(one if numbers.random() < 0.9 else other)
            recent.record(all_of_them[-1])
    recent.count()
    half, total = recent.window // 2, len(all_of_them)
    remembered = total if total <= half else half + ((total - 1) % half + 1)
    assert half < remembered <= recent.window or remembered == total
    assert_near(recent.value, exact(quantile, all_of_them[-remembered:]))


def test_it_means_nothing_before_the_minimum() -> None:
    """There is no estimate until so many observations have come, and there is one as soon as they have."""
    recent = moving(minimum=50)
    for _ in range(49):
        recent.record(0.01)
        assert recent.value is None
    recent.record(0.01)
    assert_near(recent.value, 0.01)


def test_it_is_soon_up_to_date() -> None:
    """After a twentieth of the window has become slow, the 95th percentile is slow."""
    recent = moving(0.95)
    for _ in range(2000):
        recent.record(0.010)
    assert_near(recent.value, 0.010)
    for _ in range(150):
        recent.record(0.400)
    assert_near(recent.value, 0.400)


def test_it_forgets() -> None:
    """A window later nothing is left of what was slow."""
    recent = moving(0.95)
    for _ in range(recent.window):
        recent.record(5.0)
    for _ in range(recent.window):
        recent.record(0.010)
    recent.count()
    assert_near(recent.value, 0.010)


@pytest.mark.parametrize(("seconds", "counts_as"), [(0.0, 1e-6), (-1.0, 1e-6), (1e9, 86_400.0), (math.inf, 86_400.0)])
def test_what_is_out_of_range_counts_as_its_end(seconds: float, counts_as: float) -> None:
    """A clock of coarse steps or a call of a week breaks nothing."""
    recent = moving()
    recent.record(seconds)
    assert_near(recent.value, counts_as)


def test_another_quantile_of_the_same_observations() -> None:
    """Reconfigured, it estimates anew from what it has seen."""
    recent = moving(0.5)
    for number in range(1, 101):
        recent.record(float(number))
    recent.reconfigure(quantile=0.95, minimum=20)
    assert_near(recent.value, 95.0)
    recent.reconfigure(quantile=0.95, minimum=101)
    assert recent.value is None
    recent.record(1.0)
    assert_near(recent.value, 95.0)


def test_it_takes_constant_memory() -> None:
    """What has not been counted is bounded, however slow the counting."""
    recent = moving(minimum=1_000_000)
    for _ in range(10_000):
        recent.record(0.01)
    recent._uncounted.extend([0.01] * 5000)  # as when threads record while another counts
    assert len(recent._uncounted) == 1024
    recent.count()
    assert not recent._uncounted
    assert len(recent._both) == len(recent._old) == len(recent._young) < 600


def test_threads_may_record_at_once() -> None:
    """No observation is counted twice or lost in a race."""
    recent = MovingQuantile(quantile=0.5, minimum=1, lock=threading.Lock())

    def record() -> None:
        for _ in range(200):
            recent.record(0.01)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recent.count()
    assert sum(recent._both) == sum(recent._seen) == 800
    assert_near(recent.value, 0.01)

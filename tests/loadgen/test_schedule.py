"""Schedules: deterministic, stable under change, and as random as they claim."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hormesis.errors import ConfigurationError
from hormesis.loadgen import ARRIVALS_MAX, Segment, Stream, Trace, Users, arrivals, merged, pick
from hormesis.loadgen.schedule import ArrivalProcess

segments = st.lists(st.builds(Segment, st.floats(0.01, 5), st.floats(0.1, 200)), min_size=1, max_size=4)
processes = st.sampled_from(["poisson", "constant"])


@given(segments, st.integers(), processes)
@settings(max_examples=50)
def test_a_seed_fixes_the_schedule(parts: list[Segment], seed: int, process: ArrivalProcess) -> None:
    """The same seed gives the same arrivals, in order, all inside the segments."""
    first = arrivals(parts, seed=seed, process=process)
    assert first == arrivals(parts, seed=str(seed), process=process)
    assert list(first) == sorted(first)
    assert all(0 <= offset <= sum(part.length for part in parts) * (1 + 1e-9) for offset in first)


@given(segments, st.integers(), processes, st.floats(0.1, 500))
@settings(max_examples=50)
def test_a_later_rate_moves_no_earlier_arrival(
    parts: list[Segment], seed: int, process: ArrivalProcess, rate: float
) -> None:
    """Changing the rate of the last segment leaves all arrivals before it where they were."""
    before = sum(part.length for part in parts[:-1])
    other = [*parts[:-1], Segment(parts[-1].length, rate)]

    def prefix(of: list[Segment]) -> list[float]:
        return [offset for offset in arrivals(of, seed=seed, process=process) if offset < before - 1e-9]

    assert prefix(parts) == prefix(other)


@given(st.integers(0, 200), st.integers(0, 200), st.integers())
@settings(max_examples=50)
def test_a_longer_run_keeps_its_choices(fewer: int, more: int, seed: int) -> None:
    """The request of an arrival does not depend on how many arrivals follow."""
    weights = [1.0, 2.0, 0.5]
    assert list(pick(weights, fewer, seed=seed)) == list(pick(weights, fewer + more, seed=seed))[:fewer]


def test_poisson_gaps_have_the_mean_and_spread_of_an_exponential() -> None:
    """The gaps' mean and deviation are one over the rate, and the variance of counts is their mean."""
    offsets = arrivals([Segment(100, 200)], seed=1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(offsets)]
    assert statistics.mean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 200, rel=0.03)
    counts = [0] * 100
    for offset in offsets:
        counts[int(offset)] += 1
    assert 0.7 < statistics.variance(counts) / statistics.mean(counts) < 1.3


def test_constant_arrivals_are_even_and_exactly_as_many() -> None:
    """A constant load brings rate times seconds arrivals, evenly spaced across segments."""
    offsets = arrivals([Segment(3, 200)] * 2, seed=1, process="constant")
    assert len(offsets) == 1200
    assert offsets[600] - offsets[599] == pytest.approx(1 / 200)


def test_picks_follow_the_weights_and_leave_arrivals_alone() -> None:
    """Requests come in proportion to their weights, from a stream that the arrivals don't share."""
    picked = pick([9, 1], 20_000, seed=3)
    assert picked.count(1) / len(picked) == pytest.approx(0.1, rel=0.1)
    assert list(pick([1, 1], 500, seed=3)) != [0] * 500


@pytest.mark.parametrize("rate", [False, -1, "0/s", float("nan"), float("inf")])
def test_a_rate_must_be_above_zero(rate: float | str) -> None:
    """A rate that is negative or no number is refused by name; the number 0 alone is silence."""
    with pytest.raises(ConfigurationError, match=r"segment\.rate"):
        Segment(1, rate)


def test_what_can_not_be_scheduled_is_refused() -> None:
    """An empty load, too many arrivals, and an unknown process are errors of the settings."""
    with pytest.raises(ConfigurationError, match="one segment or more"):
        arrivals([], seed=1)
    with pytest.raises(ConfigurationError, match="at least one with a rate above zero"):
        arrivals([Segment(1, 0), Segment(2, 0)], seed=1)
    with pytest.raises(ConfigurationError, match="5,000,000"):
        arrivals([Segment(1, ARRIVALS_MAX), Segment(1, 1)], seed=1)
    with pytest.raises(ConfigurationError, match="did you mean 'poisson'"):
        arrivals([Segment(1, 1)], seed=1, process="poison")  # type: ignore[arg-type]


def test_nothing_arrives_in_silence() -> None:
    """A segment of the rate 0 has no arrivals, and leaves those after it as they would be without it."""
    parts = [Segment(1, 50), Segment(2, 0), Segment(1, 50)]
    offsets = arrivals(parts, seed=5)
    assert not [offset for offset in offsets if 1 <= offset < 3]
    moved = [offset if offset < 1 else offset - 2 for offset in offsets]
    assert moved == pytest.approx(list(arrivals([Segment(1, 50)] * 2, seed=5)))


def test_streams_are_merged_and_leave_one_another_alone() -> None:
    """Arrivals of all streams come in order, each with its own stream's request; one stream more moves none of them."""
    weights = {"read": 3.0, "buy": 1.0, "report": 1.0}
    main = Stream([Segment(2, 100)], requests=["read", "buy"])
    extra = Stream([Segment(1, 0), Segment(1, 40)], name="spike", requests=["report"], process="constant")
    offsets, mix = merged([main, extra], weights, seed=7)
    assert list(offsets) == sorted(offsets)
    assert [at for at, request in zip(offsets, mix, strict=True) if request == 2] == pytest.approx(
        [1 + (i + 0.5) / 40 for i in range(40)]
    )
    alone = merged([main], weights, seed=7)
    rows = list(zip(offsets, mix, strict=True))
    assert [row for row in rows if row[1] != 2] == list(zip(*alone, strict=True))
    assert list(alone[0]) == list(arrivals(main.segments, seed=7))


def test_streams_draw_from_numbers_of_their_own() -> None:
    """Two streams of the same rate do not arrive at the same moments."""
    weights = {"a": 1.0, "b": 1.0}
    pair = [Stream([Segment(1, 50)], name=name, requests=[name]) for name in weights]
    offsets, _ = merged(pair, weights, seed=1)
    assert len(set(offsets)) == len(offsets)


def test_a_ramp_brings_its_mean_and_ever_more_of_it() -> None:
    """The arrivals of a ramp up to a moment are the area under its rate, whichever way it goes."""
    up = arrivals([Segment(10, 0, to=100)], seed=1, process="constant")
    assert len(up) == 500
    assert sum(offset < 5 for offset in up) == pytest.approx(125, abs=1)
    down = arrivals([Segment(10, 100, to=0)], seed=1, process="constant")
    assert list(down) == pytest.approx([10 - offset for offset in reversed(up)])
    nearly = arrivals([Segment(10, 50, to=50 + 1e-9)], seed=1, process="constant")
    assert list(nearly) == pytest.approx(list(arrivals([Segment(10, 50)], seed=1, process="constant")))


def test_a_ramp_moves_no_earlier_arrival() -> None:
    """What comes before a ramp is where it would be without it."""
    steady = arrivals([Segment(2, 50), Segment(2, 50)], seed=3)
    ramped = arrivals([Segment(2, 50), Segment(2, 50, to=400)], seed=3)
    before = [offset for offset in steady if offset < 2]
    assert list(ramped[: len(before)]) == before
    assert len(ramped) > len(steady)


def test_a_trace_is_what_was_recorded() -> None:
    """Arrivals come when and as what they were recorded; those without a name are drawn."""
    weights = {"read": 1.0, "buy": 1.0}
    offsets, mix = Trace([0, 0.25, 0.25], ["buy", "read", "buy"]).schedule(weights, seed=1)
    assert (list(offsets), list(mix)) == ([0, 0.25, 0.25], [1, 0, 1])
    _, drawn = Trace([0.1] * 50).schedule(weights, seed=1)
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize(
    ("offsets", "names"), [([], []), ([1, 0.5], []), ([-1], []), ([float("nan")], []), ([0, 1], ["a"])]
)
def test_a_trace_that_can_not_be_meant_is_refused(offsets: list[float], names: list[str]) -> None:
    """Nothing, disorder, times before the start, and names that don't match are errors of the settings."""
    with pytest.raises(ConfigurationError, match="trace"):
        Trace(offsets, names)


@pytest.mark.parametrize(("count", "settings"), [(0, {}), (True, {}), (10_001, {}), (1, {"think": -1})])
def test_users_that_can_not_be_meant_are_refused(count: int, settings: dict[str, float]) -> None:
    """Nobody, too many, and negative pauses are errors of the settings."""
    with pytest.raises(ConfigurationError, match=r"users|think"):
        Users(count, 1, **settings)

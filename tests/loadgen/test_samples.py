"""Samples and histograms: nothing lost on the way, and parts add up to the whole."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hormesis.errors import ConfigurationError
from hormesis.loadgen import Answer, Histogram, Sample, Samples

durations = st.lists(st.floats(0, 1000), max_size=50)


def sample(due: float, error: str = "") -> Sample:
    return Sample(due, due + 0.001, due + 0.5, 2, Answer.FAILED if error else Answer.FULL, error, 0 if error else 200)


def test_samples_are_kept_cut_and_joined() -> None:
    """Rows come back as they went in, are cut by when they were due, and keep their errors when joined."""
    rows = [sample(10.0), sample(12.0, "reset"), sample(11.0, "timeout")]
    samples = Samples(rows)
    assert list(samples) == rows
    assert list(samples.between(11.0, 12.0)) == [rows[2]]
    other = Samples([sample(13.0, "timeout"), sample(14.0, "refused")])
    samples.extend(other)
    assert list(samples) == [*rows, *other]
    assert samples.latencies()[0] == pytest.approx(0.5)
    assert samples.lags()[0] == pytest.approx(0.001)


def test_samples_survive_the_pipe() -> None:
    """Samples come out of JSON as they went in, to the microsecond."""
    rows = [sample(100.25, "status 500"), sample(101.5)]
    about, data = Samples(rows).to_wire()
    assert list(Samples.from_wire((json.loads(json.dumps(about)), data))) == rows


@given(durations, durations)
@settings(max_examples=30, deadline=None)
def test_merging_is_recording_together(left: list[float], right: list[float]) -> None:
    """The histogram merged from two parts is the histogram of their union."""
    merged = Histogram(left)
    merged.merge(Histogram(right))
    assert merged.count == len(left) + len(right)
    assert merged.to_base64() == Histogram(left + right).to_base64()


@given(durations.filter(bool))
@settings(max_examples=30, deadline=None)
def test_a_histogram_survives_its_export(values: list[float]) -> None:
    """What was exported reads back with the same counts and quantiles."""
    histogram = Histogram(values)
    again = Histogram.from_base64(histogram.to_base64())
    assert again.count == histogram.count
    assert [again.quantile(q) for q in (0, 0.5, 0.99, 1)] == [histogram.quantile(q) for q in (0, 0.5, 0.99, 1)]


def test_quantiles_are_right_to_three_digits() -> None:
    """Quantiles of a known distribution err by no more than a thousandth, never downwards."""
    histogram = Histogram(i / 1000 for i in range(1, 1001))
    for q in (0.5, 0.9, 0.99, 0.999, 1):
        assert q <= histogram.quantile(q) <= q * 1.001


def test_what_is_beyond_the_ends_counts_at_the_ends() -> None:
    """Durations above five minutes, and below a microsecond, are clamped, not dropped."""
    histogram = Histogram([1e-9, 0.0, 10_000.0])
    histogram.record(1e6)
    assert histogram.count == 4
    assert histogram.quantile(0.5) == pytest.approx(1e-6)
    assert histogram.quantile(1) == pytest.approx(300, rel=0.001)


def test_nothing_recorded_has_no_quantile() -> None:
    """An empty histogram answers no number, and a quantile outside 0 to 1 is refused."""
    assert math.isnan(Histogram().quantile(0.99))
    with pytest.raises(ConfigurationError, match="quantile is 99"):
        Histogram([1.0]).quantile(99)

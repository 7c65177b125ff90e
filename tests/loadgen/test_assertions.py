"""What must hold of a run, and the numbers that it is held against."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from hormesis.errors import ConfigurationError
from hormesis.loadgen import Answer, LoadSpec, Request, RunResult, Sample, Samples, Segment, Users
from hormesis.loadgen.assertions import Assertion
from hormesis.loadgen.hdrlog import write_hdr_log
from hormesis.loadgen.summary import Summary, summarise

NAMES = ["browse", "v1.buy"]


def summary(*, lag: float = 0.001, dropped: int = 0, cancelled: bool = False, **settings: Any) -> Summary:
    """A hundred browses of 1 to 100 ms, all full; ten buys of 1 s, of which two failed; in ten seconds."""
    samples = Samples(Sample(i / 10, i / 10, i / 10 + (i + 1) / 1000, 0, Answer.FULL) for i in range(100))
    samples.extend(Samples(Sample(i, i, i + 1, 1, Answer.FULL) for i in range(7)))
    samples.append(Sample(7, 7, 8, 1, Answer.DEGRADED))
    samples.append(Sample(8, 8, 9, 1, Answer.FAILED, "timeout"))
    samples.append(Sample(9, 9, 10, 1, Answer.DECLINED, "declined 503", 503))
    result = RunResult(
        samples=samples,
        attempts=Samples(),
        start_at=0.0,
        cancelled=cancelled,
        dropped=dropped,
        lag_p50=lag,
        lag_p99=lag,
        lag_max=lag,
    )
    shape = settings or {"segments": [Segment(10, 11)]}
    requests = [Request(name, path="/") for name in NAMES]
    return summarise(LoadSpec(base_url="http://h", requests=requests, seed=1, **shape), result)


@pytest.mark.parametrize(
    ("text", "held", "found"),
    [
        ("browse.p99 < 100ms", True, "99ms"),
        ("browse.p99<99ms", False, "99ms"),
        ("browse.p50 <= 0.05", True, "50ms"),
        ("browse.p99.9 == 100ms", True, "100ms"),
        ("v1.buy.success >= 70%", True, "0.7"),
        ("v1.buy.answered >= 0.8", True, "0.8"),
        ("v1.buy.failed <= 0.1", False, "0.2"),
        ("success > 0.99", False, "0.9727"),
        ("throughput >= 10/s", True, "10.7/s"),
        ("rate >= 12", False, "11/s"),
        ("max < 2s", True, "1s"),
        ("mean > 100ms", True, "137ms"),
    ],
)
def test_an_assertion_is_held_against_its_metric(text: str, held: bool, found: str) -> None:
    """Shares, rates, means and quantiles, of all requests or of one whose name may have dots."""
    finding = Assertion.of(text, NAMES).check(summary())
    assert (finding.held, finding.found) == (held, found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99", "assert is 'p99'; it takes a metric, a sign and a limit"),
        ("p99 ~ 3", "it takes a metric"),
        ("latency < 3", "unknown metric 'latency'"),
        ("sucess > 0.9", r"did you mean 'success'\?"),
        ("brows.p99 < 3", r"unknown request 'brows' \(did you mean 'browse'\?\)"),
        ("success >= 99", "is '99'; it takes a share"),
        ("p99 < fast", "is 'fast'; it takes"),
        ("rate > -1", "it takes a rate"),
    ],
)
def test_what_is_no_assertion_is_refused(text: str, message: str) -> None:
    """The error shows the assertion and what one looks like."""
    with pytest.raises(ConfigurationError, match=message):
        Assertion.of(text, NAMES)


def test_nothing_measured_holds_nothing() -> None:
    """A request that never came keeps no promise."""
    nothing = summary(segments=[Segment(10, 1)])
    assertion = Assertion.of("other.p99 < 1h", ["other"])
    empty = summarise(
        LoadSpec(base_url="http://h", requests=[Request("other", path="/")], seed=1, segments=[Segment(1, 1)]),
        RunResult(
            samples=Samples(),
            attempts=Samples(),
            start_at=0,
            cancelled=True,
            dropped=0,
            lag_p50=math.nan,
            lag_p99=math.nan,
            lag_max=math.nan,
        ),
    )
    finding = assertion.check(empty)
    assert (finding.held, finding.found) == (False, "nothing was sent")
    assert empty.invalid == nothing.invalid == []
    assert (empty.fruitless, nothing.fruitless) == ("no request was due", "")
    json.dumps(empty.to_table(), allow_nan=False)


def test_a_generator_that_lagged_makes_a_run_invalid() -> None:
    """So does one without room; the reasons say so."""
    assert summary().invalid == []
    (lagged,) = summary(lag=0.2).invalid
    assert "the generator lagged" in lagged
    assert "200ms late or more" in lagged
    (held_up,) = summary(lag=0.2, users=Users(3, 10)).invalid
    assert "one moment in a hundred was noticed 200ms late or more" in held_up
    (full,) = summary(dropped=3).invalid
    assert full.startswith("3 requests were not sent")


def test_the_table_says_how_the_load_was_made() -> None:
    """A closed loop is marked as coordinated; a run that was cut short counts the seconds that it lasted."""
    table = summary().to_table()
    assert (table["loop"], table["coordinated"], table["valid"]) == ("open", False, True)
    total: Any = table["total"]
    assert (total["requests"], total["full"], total["degraded"], total["declined"], total["failed"]) == (
        110,
        107,
        1,
        1,
        1,
    )
    assert total["errors"] == {"timeout": 1, "declined 503": 1}
    closed = summary(users=Users(3, 10)).to_table()
    assert (closed["loop"], closed["coordinated"]) == ("closed", True)
    assert summary(cancelled=True, segments=[Segment(99, 1)]).total.seconds == pytest.approx(9.9)


def test_the_log_reads_back(tmp_path: Path) -> None:
    """HdrHistogram's own reader finds every request in its second, under its tag, in nanoseconds."""
    file = tmp_path / "log"
    text = io.StringIO()
    found = summary()
    write_hdr_log(text, found.result.samples, 0.0, ["browse", "v1, buy"])
    file.write_text(text.getvalue())
    reader = HistogramLogReader(str(file), HdrHistogram(1, 3_600_000_000_000, 3))
    intervals = []
    while (interval := reader.get_next_interval_histogram()) is not None:
        intervals.append(interval)
    reader.input_file.close()
    assert len(intervals) == 20
    assert {interval.get_tag() for interval in intervals} == {"browse", "v1__buy"}
    assert sum(interval.get_total_count() for interval in intervals) == 110
    slowest = max(interval.get_max_value() for interval in intervals if interval.get_tag() == "browse")
    assert slowest == pytest.approx(100e6, rel=0.001)

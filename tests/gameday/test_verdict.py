"""From samples to a verdict: arithmetic, held against samples made by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.gameday import verdict
from hormesis.gameday.results import SHARES, Bin, Check, Phase, ProbeResult, RouteStats, Verdict, Window
from hormesis.loadgen import Answer, Histogram, Sample, Samples

FULL, DEGRADED, FAILED, DECLINED = Answer
START = 1000.0
ROUTES = ("browse", "order")
PHASES = {
    Phase.CALM: Window(0.0, 4.0),
    Phase.DETECTION: Window(4.0, 6.0),
    Phase.CONTAINED: Window(6.0, 10.0),
    Phase.RECOVERING: Window(10.0, 12.0),
    Phase.RECOVERED: Window(12.0, 16.0),
}
Stats = dict[Phase, dict[str, RouteStats]]


def sample(due: float, answer: Answer = FULL, *, took: float = 0.01, request: int = 0, error: str = "") -> Sample:
    at = START + due
    return Sample(at, at, at + took, request, answer, error or ("status 500" if answer is FAILED else ""))


def never_late(_: int) -> float:
    return math.inf


def stats(*samples: Sample, good_within: verdict.GoodWithin = never_late) -> Stats:
    return verdict.stats(Samples(samples), Samples(), START, PHASES, ROUTES, good_within)


def requests(found: Stats, route: str = "") -> list[int]:
    return [found[phase][route].requests for phase in Phase]


def route_stats(
    full: int = 0, degraded: int = 0, failed: int = 0, latency: float = 0.01, declined: int = 0
) -> RouteStats:
    return RouteStats(
        requests=full + degraded + declined + failed,
        full=full,
        degraded=degraded,
        declined=declined,
        failed=failed,
        good=full,
        p50=latency,
        p99=latency,
        errors={},
        attempts=full + degraded + declined + failed,
        histogram="",
    )


@pytest.mark.parametrize(
    ("due", "phase"),
    [
        (0.0, Phase.CALM),
        (3.98, Phase.CALM),
        (4.0, Phase.DETECTION),
        (5.99, Phase.DETECTION),
        (6.0, Phase.CONTAINED),
        (9.99, Phase.CONTAINED),
        (10.0, Phase.RECOVERING),
        (12.0, Phase.RECOVERED),
        (15.99, Phase.RECOVERED),
    ],
)
def test_a_request_belongs_where_it_was_due(due: float, phase: Phase) -> None:
    """The phase is the one in which a request was due; each phase begins with its start and ends before its end."""
    found = stats(sample(due))
    assert {each for each in Phase if found[each][""].requests} == {phase}


@pytest.mark.parametrize("due", [4.5, 6.5, 9.9, 10.5])
def test_a_late_answer_belongs_where_it_was_due(due: float) -> None:
    """A caller of the dose waited because of the dose, however late the answer came."""
    assert requests(stats(sample(due, took=5))) == requests(stats(sample(due)))


def test_under_way_when_the_dose_began() -> None:
    """A request that was still under way when the dose began is not calm's; one that had ended by then is."""
    assert requests(stats(sample(3.0, took=1.0))) == [1, 0, 0, 0, 0]
    assert requests(stats(sample(3.0, took=1.001))) == [0, 1, 0, 0, 0]
    assert requests(stats(sample(0.5, took=15.0))) == [0, 1, 0, 0, 0]


def test_under_way_without_a_detection_phase() -> None:
    """Where no time is given to find out, it is the contained phase's."""
    phases = {**PHASES, Phase.DETECTION: Window(4.0, 4.0), Phase.CONTAINED: Window(4.0, 10.0)}
    found = verdict.stats(Samples([sample(3.9, took=1.0)]), Samples(), START, phases, ROUTES, never_late)
    assert requests(found) == [0, 0, 1, 0, 0]


lengths = st.lists(st.floats(0.05, 30), min_size=5, max_size=5)
a_sample = st.tuples(
    st.floats(0, 0.999), st.floats(0, 60), st.sampled_from(list(Answer)), st.integers(0, 1), st.sampled_from("ab")
)


def laid_out(start: float, parts: Sequence[float], rows: Sequence[Any]) -> tuple[Samples, dict[Phase, Window]]:
    """Phases of these lengths from any start, and samples at these parts of the whole."""
    ends = [math.fsum(parts[: i + 1]) for i in range(len(parts))]
    phases = dict(zip(Phase, map(Window, [0.0, *ends], ends), strict=False))
    samples = Samples()
    for where, took, answer, request, error in rows:
        due = start + where * ends[-1]
        samples.append(Sample(due, due, due + took, request, answer, error if answer in (FAILED, DECLINED) else ""))
    return samples, phases


@given(st.floats(0, 1e6), lengths, st.lists(a_sample, max_size=30), st.floats(0.01, 5))
def test_every_request_is_counted_once(start: float, parts: list[float], rows: list[Any], good: float) -> None:
    """Every request is in exactly one phase, and all sums agree: over phases, routes, answers and errors."""
    samples, phases = laid_out(start, parts, rows)
    found = verdict.stats(samples, Samples(), start, phases, ROUTES, lambda _: good)
    assert sum(requests(found)) == len(samples)
    for by_route in found.values():
        everything = by_route[""]
        for metric in ("requests", "full", "degraded", "declined", "failed", "good", "attempts"):
            assert getattr(everything, metric) == sum(getattr(by_route[route], metric) for route in ROUTES)
        for each in by_route.values():
            assert each.requests == each.full + each.degraded + each.declined + each.failed
            assert each.good <= each.full
            assert sum(each.errors.values()) == each.failed + each.declined
            assert Histogram.from_base64(each.histogram).count == each.requests


@given(st.floats(0, 1e6), lengths, st.lists(a_sample, min_size=1, max_size=10))
def test_calm_is_over_when_the_dose_begins(start: float, parts: list[float], rows: list[Any]) -> None:
    """Whatever the clock says, calm counts exactly those that were due and answered before the dose."""
    samples, phases = laid_out(start, parts, rows)
    found = verdict.stats(samples, Samples(), start, phases, ROUTES, never_late)
    dose = phases[Phase.CALM].end
    before = [each for each in samples if each.intended - start < dose and each.done - start <= dose]
    assert found[Phase.CALM][""].requests == len(before)


@given(st.floats(0, 1e6), lengths, st.lists(a_sample, max_size=30), st.floats(0.05, 3))
def test_the_timeline_agrees(start: float, parts: list[float], rows: list[Any], width: float) -> None:
    """The slices of the timeline hold every request once, and their sums are those of the phases."""
    samples, phases = laid_out(start, parts, rows)
    found = verdict.stats(samples, Samples(), start, phases, ROUTES, lambda _: 0.2)
    end = phases[Phase.RECOVERED].end
    bins = verdict.timeline(samples, Samples(), start, end, width, lambda _: 0.2)
    columns = {"offered": "requests", "full": "full", "degraded": "degraded", "declined": "declined", "good": "good"}
    for of_bin, of_stats in columns.items():
        counted = sum(getattr(by_route[""], of_stats) for by_route in found.values())
        summed = math.fsum(getattr(piece, of_bin) * min(width, end - piece.at) for piece in bins)
        assert summed == pytest.approx(counted)


def test_answers() -> None:
    """Full, degraded and failed answers are counted apart, and failures by their kind, the most frequent first."""
    answers = [sample(1, error="timeout", answer=FAILED), *[sample(1, FAILED)] * 2, *[sample(1, DEGRADED)] * 3]
    calm = stats(*answers, *[sample(1)] * 4)[Phase.CALM][""]
    assert (calm.requests, calm.full, calm.degraded, calm.failed) == (10, 4, 3, 3)
    assert list(calm.errors.items()) == [("status 500", 2), ("timeout", 1)]


def test_declined_answers() -> None:
    """Who was told when to come back is counted apart from who was failed, by a kind of its own."""
    calm = stats(sample(1, DECLINED, error="declined 503"), sample(1, FAILED), sample(1))[Phase.CALM][""]
    assert (calm.requests, calm.full, calm.declined, calm.failed, calm.good) == (3, 1, 1, 1, 1)
    assert calm.errors == {"declined 503": 1, "status 500": 1}


def test_what_went_over_the_wire() -> None:
    """Attempts count when they were sent, for their own request; what nobody repeats was sent once."""
    whole, once = sample(3, took=4.0), sample(5, request=1)
    attempts = [sample(at, FAILED) for at in (3, 5, 7)]
    found = verdict.stats(Samples([whole, once]), Samples(attempts), START, PHASES, ROUTES, never_late)
    assert [found[phase]["browse"].attempts for phase in Phase] == [1, 1, 1, 0, 0]
    assert [found[phase]["order"].attempts for phase in Phase] == [0, 1, 0, 0, 0]
    assert [found[phase][""].attempts for phase in Phase] == [1, 2, 1, 0, 0]
    bins = verdict.timeline(Samples([whole, once]), Samples(attempts), START, 16, 1.0, never_late)
    assert [piece.at for piece in bins if piece.sent] == [3, 5, 7]
    assert [piece.sent for piece in bins if piece.sent] == [1, 2, 1]


def test_good_answers() -> None:
    """Only full answers within their own route's objective are good, and one that takes just as long is."""
    slow = [sample(1, took=0.25), sample(1, took=0.2500001), sample(1, took=0.9, request=1), sample(1, DEGRADED)]
    calm = stats(*slow, good_within=lambda request: (0.25, 1.0)[request])[Phase.CALM]
    assert (calm[""].good, calm["browse"].good, calm["order"].good) == (2, 1, 1)


def test_quantiles() -> None:
    """Quantiles count failures with the time that their callers waited, and name no number without requests."""
    found = stats(*[sample(1, took=0.1)] * 60, *[sample(1, FAILED, took=2.0)] * 40, sample(5, took=0.3))
    assert found[Phase.CALM][""].p50 == pytest.approx(0.1, rel=0.002)
    assert found[Phase.CALM][""].p99 == pytest.approx(2.0, rel=0.002)
    assert found[Phase.DETECTION][""].p50 == found[Phase.DETECTION][""].p99 == pytest.approx(0.3, rel=0.002)
    assert math.isnan(found[Phase.CONTAINED][""].p50)
    assert math.isnan(found[Phase.CALM]["order"].p99)


def check_of(found: RouteStats, metric: str, wanted: float) -> Check:
    (check,) = verdict.checks({Phase.CALM: {"": found, "browse": found}}, lambda route, phase: {metric: wanted})
    return check


@pytest.mark.parametrize(
    ("metric", "wanted", "measured", "held"),
    [
        ("success", 0.5, 0.5, True),
        ("success", 0.51, 0.5, False),
        ("success", 0.0, 0.5, True),
        ("answered", 0.7, 0.7, True),
        ("answered", 0.71, 0.7, False),
        ("honest", 0.9, 0.9, True),
        ("honest", 0.91, 0.9, False),
        ("p50", 0.2, 0.2, True),
        ("p50", 0.199, 0.2, False),
        ("p99", 0.2, 0.2, True),
        ("p99", 0.199, 0.2, False),
    ],
)
def test_checks(metric: str, wanted: float, measured: float, held: bool) -> None:
    """Shares are to be reached, durations not to be passed; degraded is answered, declined is no more than honest."""
    check = check_of(route_stats(full=5, degraded=2, declined=2, failed=1, latency=0.2), metric, wanted)
    assert check == Check(
        route="browse",
        phase=Phase.CALM,
        metric=metric,
        wanted=wanted,
        measured=measured,
        requests=10,
        held=held,
    )


@pytest.mark.parametrize("metric", [*SHARES, "p50", "p99"])
@pytest.mark.parametrize("count", range(verdict.REQUESTS_MIN + 1))
def test_too_few_requests(metric: str, count: int) -> None:
    """Below the minimum nothing is held and nothing is missed, however it looks."""
    good, bad = (1.0, 0.0) if metric in SHARES else (0.01, 9.0)
    for found, wanted in ((route_stats(full=count), good), (route_stats(failed=count, latency=9.0), good)):
        held = check_of(found, metric, wanted).held
        assert (held is None) == (count < verdict.REQUESTS_MIN)
    assert math.isnan(check_of(route_stats(), metric, bad).measured)


def test_what_is_checked() -> None:
    """Each limit of each route and phase is checked once; all routes together have no objective."""
    asked = []

    def limits(route: str, phase: Phase) -> Mapping[str, float]:
        asked.append((route, phase))
        return {"success": 0.9, "p99": 1.0} if (route, phase) == ("order", Phase.CONTAINED) else {}

    found = verdict.checks(stats(sample(7, request=1)), limits)
    assert [(check.route, check.phase, check.metric) for check in found] == [
        ("order", Phase.CONTAINED, "success"),
        ("order", Phase.CONTAINED, "p99"),
    ]
    assert asked == [(route, phase) for phase in Phase for route in ROUTES]


HELD = Check(route="browse", phase=Phase.CONTAINED, metric="success", wanted=0.9, measured=1.0, requests=40, held=True)
MISSED = dataclasses.replace(HELD, measured=0.5, held=False)
UNSTEADY = dataclasses.replace(MISSED, phase=Phase.CALM)
UNKNOWN = dataclasses.replace(HELD, measured=1.0, requests=2, held=None)
QUIET = {phase: {"": route_stats(full=10)} for phase in Phase}


def judged(*checks: Check, measured: Any = QUIET, lag: float = 0.001) -> tuple[Verdict, list[str]]:
    return verdict.judge(checks, measured, lag_p99=lag, lag_max=0.05)


def with_degraded(phase: Phase) -> Any:
    return {**QUIET, phase: {"": route_stats(full=9, degraded=2)}}


def test_a_lag_beats_everything() -> None:
    """What a generator that lagged measured is no measurement; as late as is allowed is not too late."""
    conclusion, reasons = judged(UNSTEADY, MISSED, lag=0.051)
    assert conclusion is Verdict.INCONCLUSIVE
    assert reasons == ["the load generator lagged: p99 send lag 51 ms, at most 50 ms"]
    assert judged(HELD, lag=0.05) == (Verdict.SURVIVED, [])
    conclusion, (reason,) = judged(HELD, lag=math.inf)
    assert conclusion is Verdict.INCONCLUSIVE
    assert "could not send every request" in reason


def test_nothing_sent_is_no_lag() -> None:
    """A generator that had nothing to send has no lag, and then no objective can be told either."""
    assert judged(UNKNOWN, lag=math.nan)[0] is Verdict.INCONCLUSIVE


def test_no_objectives() -> None:
    """Without objectives there is nothing to hold, and that is no success."""
    conclusion, (reason,) = judged()
    assert conclusion is Verdict.INCONCLUSIVE
    assert "no objective" in reason


def test_unsteady_beats_missed() -> None:
    """A system that was not steady before the dose says nothing of the dose."""
    conclusion, reasons = judged(MISSED, UNSTEADY, UNKNOWN)
    assert conclusion is Verdict.INCONCLUSIVE
    assert reasons == ["not steady before the dose: " + verdict.describe(UNSTEADY)]


def test_missed_beats_unknown_and_degraded() -> None:
    """A missed objective is a failure, whatever could not be told; each one is a reason."""
    other = dataclasses.replace(MISSED, metric="p99", wanted=0.25, measured=0.3)
    conclusion, reasons = judged(HELD, MISSED, UNKNOWN, other, measured=with_degraded(Phase.CONTAINED))
    assert conclusion is Verdict.FAILED
    assert reasons == [verdict.describe(MISSED), verdict.describe(other)]


def test_unknown_beats_degraded() -> None:
    """Too few requests are no judgement, even when all others held; in calm too."""
    conclusion, (reason,) = judged(HELD, UNKNOWN, measured=with_degraded(Phase.CONTAINED))
    assert conclusion is Verdict.INCONCLUSIVE
    assert reason == "too few requests to say: " + verdict.describe(UNKNOWN)
    nothing = verdict.describe(dataclasses.replace(UNKNOWN, measured=math.nan, requests=0))
    assert " unknown in " in nothing
    assert "nan" not in nothing
    assert judged(HELD, dataclasses.replace(UNKNOWN, phase=Phase.CALM))[0] is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("phase", Phase)
def test_degraded_answers(phase: Phase) -> None:
    """Held with degraded answers is degraded, except for those that calm had already."""
    conclusion, reasons = judged(HELD, measured=with_degraded(phase))
    if phase is Phase.CALM:
        assert (conclusion, reasons) == (Verdict.SURVIVED, [])
    else:
        assert (conclusion, reasons) == (Verdict.DEGRADED, ["2 answers were degraded"])
    assert conclusion.held


def test_declined_is_held_in_part() -> None:
    """Held while some were declined is degraded too, and each is said."""
    found = {**QUIET, Phase.CONTAINED: {"": route_stats(full=9, degraded=2, declined=3)}}
    assert judged(HELD, measured=found) == (Verdict.DEGRADED, ["2 answers were degraded", "3 answers were declined"])


def test_survived() -> None:
    """Held with full answers is survived, and needs no reason."""
    assert judged(HELD, HELD) == (Verdict.SURVIVED, [])


SURE = dataclasses.replace(MISSED, low=0.4, high=0.6)
UNSURE = dataclasses.replace(MISSED, measured=0.85, low=0.7, high=0.95)
LATE = dataclasses.replace(MISSED, metric="p99", wanted=0.25, measured=0.3, low=0.2, high=math.inf)


def test_a_miss_by_chance_is_no_failure() -> None:
    """A miss counts only where the whole interval misses: one slow answer of a few says nothing of the p99."""
    assert judged(SURE, UNSURE)[0] is Verdict.FAILED
    assert judged(SURE, UNSURE)[1] == [verdict.describe(SURE)]
    for unsure in (UNSURE, LATE):
        conclusion, (reason,) = judged(HELD, unsure)
        assert conclusion is Verdict.INCONCLUSIVE
        assert reason == "missed, but by no more than chance may do: " + verdict.describe(unsure)
    assert judged(dataclasses.replace(LATE, low=0.26))[0] is Verdict.FAILED


def test_a_blip_in_calm_is_no_unsteadiness() -> None:
    """A miss in calm that chance may have done stands in no verdict's way; a certain one does."""
    blip = dataclasses.replace(UNSURE, phase=Phase.CALM)
    assert judged(HELD, blip) == (Verdict.SURVIVED, [])
    assert judged(SURE, blip)[0] is Verdict.FAILED
    assert judged(SURE, dataclasses.replace(SURE, phase=Phase.CALM))[0] is Verdict.INCONCLUSIVE


def test_what_the_control_misses_too_is_not_the_faults_doing() -> None:
    """The same objective, in the same phase, missed without any fault: nothing can be said of the fault."""
    conclusion, reasons = verdict.judge([SURE], QUIET, lag_p99=0.001, lag_max=0.05, control=[SURE])
    assert conclusion is Verdict.INCONCLUSIVE
    assert reasons == ["missed without any fault as well: " + verdict.describe(SURE)]
    for other in (HELD, dataclasses.replace(SURE, route="order"), dataclasses.replace(SURE, phase=Phase.RECOVERED)):
        assert verdict.judge([SURE], QUIET, lag_p99=0.001, lag_max=0.05, control=[other])[0] is Verdict.FAILED


def test_certain() -> None:
    """Where certainty is asked for, an objective has held only if the whole interval says so."""
    perhaps = dataclasses.replace(HELD, low=0.8, high=1.0)
    surely = dataclasses.replace(HELD, low=0.95, high=1.0)
    assert judged(perhaps)[0] is Verdict.SURVIVED
    for check, expected in ((perhaps, Verdict.INCONCLUSIVE), (surely, Verdict.SURVIVED)):
        assert verdict.judge([check], QUIET, lag_p99=0.001, lag_max=0.05, certain=True)[0] is expected


def looked(
    said: str = "", phase: Phase = Phase.CONTAINED, *, judged: bool = True, invariant: bool = False
) -> ProbeResult:
    return ProbeResult(probe="stock", phase=phase, at=1, took=0.1, said=said, judged=judged, invariant=invariant)


@pytest.mark.parametrize(
    ("probe", "expected", "reason"),
    [
        (looked(), Verdict.SURVIVED, ""),
        (looked("is 503, not 200"), Verdict.FAILED, "probe 'stock' is 503, not 200 in contained"),
        (looked("is 503", judged=False), Verdict.SURVIVED, ""),
        (
            looked("is 503", Phase.CALM),
            Verdict.INCONCLUSIVE,
            "not steady before the dose: probe 'stock' is 503 in calm",
        ),
        (
            looked("is 1, not 0", Phase.RECOVERED, invariant=True),
            Verdict.FAILED,
            "invariant 'stock' is 1, not 0 after the run",
        ),
    ],
)
def test_probes_are_judged(probe: ProbeResult, expected: Verdict, reason: str) -> None:
    """A probe that misses is a failure, or an unsteady system before the dose; one that may miss is neither."""
    conclusion, reasons = verdict.judge([HELD], QUIET, lag_p99=0.001, lag_max=0.05, probes=[probe])
    assert conclusion is expected
    assert reasons == ([reason] if reason else [])


def test_probes_alone_are_enough() -> None:
    """Without objectives, a probe can hold or miss all the same."""
    assert verdict.judge([], QUIET, lag_p99=0.001, lag_max=0.05, probes=[looked()])[0] is Verdict.SURVIVED


def test_intervals_come_from_the_samples() -> None:
    """A check has the interval of its own route and phase; where nothing was due, it has none."""
    samples = Samples([sample(6 + i / 50, FAILED if i % 4 == 0 else FULL) for i in range(200)])
    interval = verdict.intervals(samples, START, PHASES, ROUTES, 0.95)
    measured = verdict.stats(samples, Samples(), START, PHASES, ROUTES, never_late)
    limits = {"success": 0.9, "p50": 0.5, "throughput": 10.0}
    checks = verdict.checks(measured, lambda route, phase: limits if route == "browse" else {}, interval)
    found = {check.metric: check for check in checks if check.phase is Phase.CONTAINED}
    assert found["success"].measured == 0.75
    assert 0.65 < found["success"].low < 0.75 < found["success"].high < 0.85
    assert found["success"].certain
    assert (found["p50"].low, found["p50"].high) == pytest.approx((0.01, 0.01))
    assert found["throughput"].measured == pytest.approx(150 / 4)
    assert found["throughput"].low < 150 / 4 < found["throughput"].high
    assert all(math.isnan(check.low) for check in checks if check.phase is Phase.CALM)


def test_a_throughput() -> None:
    """Full answers a second, of the phase's own length; too few are a miss."""
    measured = stats(*[sample(6 + i / 10) for i in range(40)])
    checks = verdict.checks(measured, lambda route, phase: {"throughput": 11.0} if route == "browse" else {})
    found = next(check for check in checks if check.phase is Phase.CONTAINED)
    assert (found.measured, found.held) == (10.0, False)
    assert verdict.describe(found) == "browse throughput 10/s in contained (objective: at least 11/s, 40 requests)"


def test_descriptions() -> None:
    """A check says what was measured, when, what was wanted, and from how much."""
    assert verdict.describe(MISSED) == "browse success 50% in contained (objective: at least 90%, 40 requests)"
    slow = dataclasses.replace(MISSED, metric="p99", wanted=0.25, measured=0.31, requests=1)
    assert verdict.describe(slow) == "browse p99 310 ms in contained (objective: at most 250 ms, 1 request)"


def bins(shares: Sequence[float | None], offered: float = 10.0) -> list[Bin]:
    """Slices of half a second with these shares of good answers; None is one without requests."""
    return [
        Bin(
            at=index * 0.5,
            offered=0.0 if share is None else offered,
            good=0.0 if share is None else offered * share,
            full=0.0,
            degraded=0.0,
            declined=0.0,
            failed=0.0,
            sent=0.0,
            p50=0.01,
            p99=0.01,
        )
        for index, share in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("shares", "dose_end", "calm_share", "expected"),
    [
        # At once: the first slice after the dose is well already.
        ([1, 0, 0, 1, 1], 1.5, 1.0, 0.0),
        # The slice in which the dose ends counts, and recovery is never before the end.
        ([1, 0, 0, 1, 1], 1.7, 1.0, 0.0),
        # Later, to the slice.
        ([1, 0, 0, 0, 1, 1], 1.5, 1.0, 0.5),
        ([1, 0, 0, 0, 0, 1], 1.25, 1.0, 1.25),
        # Back, but not for good.
        ([1, 0, 1, 0, 1], 1.0, 1.0, 1.0),
        ([1, 0, 1, 1, 0], 1.0, 1.0, None),
        # Slices without requests neither help nor harm.
        ([1, 0, None, 1, None], 1.0, 1.0, 0.5),
        ([1, 0, None, None], 1.0, 1.0, None),
        ([1, 0, 0, None], 1.0, 1.0, None),
        # Nine tenths of what calm had are enough.
        ([1, 0, 0.9, 0.9], 1.0, 1.0, 0.0),
        ([1, 0, 0.89, 0.9], 1.0, 1.0, 0.5),
        ([0.5, 0, 0.45, 0.46], 1.0, 0.5, 0.0),
        # Where calm had no good answers, none are missed.
        ([0, 0, 0, 0], 1.0, 0.0, 0.0),
        # Nothing after the dose, or nothing at all.
        ([1, 1], 1.0, 1.0, None),
        ([], 1.0, 1.0, None),
    ],
)
def test_recovery(shares: list[float | None], dose_end: float, calm_share: float, expected: float | None) -> None:
    """Recovered is when good answers are again, and stay, nearly as frequent as in calm."""
    assert verdict.recovered_after(bins(shares), 0.5, dose_end, calm_share) == expected


def test_a_timeline() -> None:
    """A slice has rates by the second, its own exact quantiles, and no number where nothing was due."""
    samples = Samples([sample(0.1, took=0.2), sample(0.2, FAILED, took=1.0), sample(0.4, DEGRADED), sample(1.2)])
    first, second, third = verdict.timeline(samples, Samples(), START, 1.5, 0.5, lambda _: 0.1)
    assert (first.offered, first.full, first.degraded, first.failed, first.good) == (6, 2, 2, 2, 0)
    assert (first.p50, first.p99) == pytest.approx((0.2, 1.0))
    assert (second.at, second.offered, second.good) == (0.5, 0, 0)
    assert math.isnan(second.p50)
    assert (third.at, third.offered, third.good) == (1.0, 2, 2)


@pytest.mark.parametrize(
    ("seconds", "width", "count"), [(1.0, 0.5, 2), (1.1, 0.5, 3), (0.1 + 0.2, 0.1, 3), (1e-9, 0.5, 1)]
)
def test_how_many_slices(seconds: float, width: float, count: int) -> None:
    """The whole time is covered, and the rounding of a sum makes no slice."""
    assert len(verdict.timeline(Samples(), Samples(), START, seconds, width, never_late)) == count

"""From samples to objectives held or missed; pure arithmetic.

A request belongs to the phase in which it was *due*, however late its answer came: a caller who called during the dose
waited because of the dose. For the same reason one that was still under way when the dose began is not calm's. Only
phases that objectives speak of are judged, and too few requests are no judgement.

What was measured has a confidence interval (`intervals`). A miss is a failure only where the whole interval misses: one
slow answer of sixty is no proof that the p99 is too long. That an objective held needs no such proof by default, since
few requests could never give it; `certain` asks for it. And what a run without any fault misses as well, the fault did
not do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from hormesis.gameday.intervals import design_effect, of_count, of_quantile, of_share
from hormesis.gameday.results import (
    QUANTILES,
    SHARES,
    Bin,
    Check,
    Phase,
    ProbeResult,
    RouteStats,
    Verdict,
    Window,
)
from hormesis.loadgen import Answer, Histogram, Sample, Samples

__all__ = ["checks", "intervals", "judge", "recovered_after", "stats", "timeline"]

REQUESTS_MIN = 3
"""Fewer requests in a phase say nothing of a share or a quantile."""

_SLICE = 0.5
"""Seconds of the slices between which requests are compared to see how much they depend on each other."""

_WELL = 0.9
"""An arm is back when its share of good answers is again nine tenths of what it was in calm."""

GoodWithin = Callable[[int], float]
"""By a request's index: the latency up to which a full answer is a good one."""

Interval = Callable[[Phase, str, str], tuple[float, float]]
"""By phase, route and metric: the confidence interval; not numbers where nothing was measured."""


def stats(
    samples: Samples,
    attempts: Samples,
    start: float,
    phases: Mapping[Phase, Window],
    routes: Sequence[str],
    good_within: GoodWithin,
) -> dict[Phase, dict[str, RouteStats]]:
    """Sum up every phase, for each route and (under `""`) for all of them.

    Args:
        samples: Every request, with absolute times.
        attempts: Every attempt of those that are repeated.
        start: When the load began.
        phases: Relative to that.
        routes: Names by request index.
        good_within: When a full answer is a good one.
    """
    wire = _on_the_wire(samples, attempts)
    result: dict[Phase, dict[str, RouteStats]] = {}
    for phase, inside in _by_phase(samples, start, phases).items():
        window = phases[phase]
        length = window.end - window.start
        sent = Counter(request for at, request in wire if window.start <= at - start < window.end)
        by_route = {"": _stats(inside, sent.total(), good_within, length)}
        for index, route in enumerate(routes):
            own = [sample for sample in inside if sample.request == index]
            by_route[route] = _stats(own, sent[index], good_within, length)
        result[phase] = by_route
    return result


def _by_phase(samples: Samples, start: float, phases: Mapping[Phase, Window]) -> dict[Phase, list[Sample]]:
    """Return the samples of each phase."""
    dose = phases[Phase.CALM].end
    counted = [(_counts_at(sample, start, dose), sample) for sample in samples]
    return {
        phase: [sample for at, sample in counted if window.start <= at < window.end] for phase, window in phases.items()
    }


def _on_the_wire(samples: Samples, attempts: Samples) -> list[tuple[float, int]]:
    """Return when each request was sent, with its index: each attempt of those that are repeated, the others once."""
    repeated = set(attempts.request)
    once = ((sent, request) for sent, request in zip(samples.sent, samples.request, strict=True))
    return [
        *zip(attempts.sent, attempts.request, strict=True),
        *((sent, request) for sent, request in once if request not in repeated),
    ]


def _counts_at(sample: Sample, start: float, dose: float) -> float:
    due = sample.intended - start
    return dose if due < dose < sample.done - start else due


def _stats(samples: Sequence[Sample], attempts: int, good_within: GoodWithin, length: float) -> RouteStats:
    histogram = Histogram(sample.latency for sample in samples)
    answers = Counter(sample.answer for sample in samples)
    return RouteStats(
        requests=len(samples),
        full=answers[Answer.FULL],
        degraded=answers[Answer.DEGRADED],
        declined=answers[Answer.DECLINED],
        failed=answers[Answer.FAILED],
        good=sum(_good(sample, good_within) for sample in samples),
        p50=histogram.quantile(0.5),
        p99=histogram.quantile(0.99),
        errors=dict(Counter(sample.error for sample in samples if not sample.answer.served).most_common()),
        attempts=attempts,
        histogram=histogram.to_base64(),
        seconds=length,
    )


def _good(sample: Sample, good_within: GoodWithin) -> bool:
    return sample.answer is Answer.FULL and sample.latency <= good_within(sample.request)


def checks(
    measured: Mapping[Phase, Mapping[str, RouteStats]],
    limits: Callable[[str, Phase], Mapping[str, float]],
    interval: Interval | None = None,
) -> list[Check]:
    """Hold every objective against what was measured.

    Args:
        measured: From `stats`.
        limits: What must hold for a route in a phase, by metric.
        interval: From `intervals`; None is for none.
    """
    result = []
    for phase, by_route in measured.items():
        for route, found in by_route.items():
            for metric, wanted in limits(route, phase).items() if route else ():
                low, high = interval(phase, route, metric) if interval is not None else (math.nan, math.nan)
                result.append(_check(phase, route, found, metric, wanted, low, high))
    return result


def _check(phase: Phase, route: str, found: RouteStats, metric: str, wanted: float, low: float, high: float) -> Check:
    value = math.nan if not found.requests else _value(found, metric)
    held = None if found.requests < REQUESTS_MIN else (value <= wanted if metric in QUANTILES else value >= wanted)
    return Check(
        route=route,
        phase=phase,
        metric=metric,
        wanted=wanted,
        measured=value,
        requests=found.requests,
        held=held,
        low=low,
        high=high,
    )


def _value(found: RouteStats, metric: str) -> float:
    if metric == "throughput":
        return found.full / found.seconds
    if metric in SHARES:
        return sum((found.full, found.degraded, found.declined)[: 1 + SHARES.index(metric)]) / found.requests
    return float(getattr(found, metric))


def intervals(
    samples: Samples, start: float, phases: Mapping[Phase, Window], routes: Sequence[str], confidence: float
) -> Interval:
    """Return what tells the confidence interval of every metric, by phase and route.

    Args:
        samples: Every request, with absolute times.
        start: When the load began.
        phases: Relative to that.
        routes: Names by request index.
        confidence: How sure an interval is to hold the true value, such as 0.95.
    """
    by_phase = _by_phase(samples, start, phases)

    def interval(phase: Phase, route: str, metric: str) -> tuple[float, float]:
        index = routes.index(route)
        own = [sample for sample in by_phase[phase] if sample.request == index]
        window = phases[phase]
        if not own or window.end <= window.start:
            return math.nan, math.nan
        if metric in QUANTILES:
            ordered = sorted(sample.latency for sample in own)
            middle = _nearest_rank(ordered, QUANTILES[metric])
            effect = _effect(own, [sample.latency > middle for sample in own])
            return of_quantile(ordered, QUANTILES[metric], confidence, effect)
        if metric == "throughput":
            full = sum(sample.answer is Answer.FULL for sample in own)
            low, high = of_count(full, confidence)
            return low / (window.end - window.start), high / (window.end - window.start)
        counting = (Answer.FULL, Answer.DEGRADED, Answer.DECLINED)[: 1 + SHARES.index(metric)]
        hits = [sample.answer in counting for sample in own]
        return of_share(sum(hits), len(hits), confidence, _effect(own, hits))

    return interval


def _effect(samples: Sequence[Sample], hits: Sequence[bool]) -> float:
    """Return the design effect of a share, over slices of time."""
    slices: dict[int, list[bool]] = {}
    for sample, hit in zip(samples, hits, strict=True):
        slices.setdefault(int(sample.intended / _SLICE), []).append(hit)
    return design_effect((len(each), sum(each)) for each in slices.values())


def judge(
    found: Sequence[Check],
    measured: Mapping[Phase, Mapping[str, RouteStats]],
    *,
    lag_p99: float,
    lag_max: float,
    probes: Sequence[ProbeResult] = (),
    control: Sequence[Check] = (),
    certain: bool = False,
) -> tuple[Verdict, list[str]]:
    """Conclude; the reasons come most important first.

    Inconclusive beats failed where the measurement itself can't be trusted: a load generator that lagged, or a system
    that was not steady before the dose. It beats survived where something can't be told.

    Args:
        found: The objectives, held against what was measured.
        measured: From `stats`.
        lag_p99: The load generator's send lag.
        lag_max: How much of it is too much.
        probes: What was looked at besides; those that were asked for nothing are left out.
        control: The objectives, held against a run of the same load without any fault.
        certain: Whether an objective has held only if its whole interval does.
    """
    if lag_p99 == math.inf:
        return Verdict.INCONCLUSIVE, ["the load generator could not send every request that was due"]
    if lag_p99 > lag_max:
        lag, most = f"{lag_p99 * 1000:.0f} ms", f"{lag_max * 1000:.0f} ms"
        return Verdict.INCONCLUSIVE, [f"the load generator lagged: p99 send lag {lag}, at most {most}"]
    looked_at = [probe for probe in probes if probe.judged]
    if not found and not looked_at:
        return Verdict.INCONCLUSIVE, ["no objective speaks of it, so nothing can be held or missed"]
    # What chance may have done in calm says neither that the system was unsteady nor anything of the dose.
    calm = [check for check in found if check.phase is Phase.CALM and check.held is False]
    unsteady = [describe(check) for check in calm if check.certain]
    unsteady += [probe.described for probe in looked_at if probe.phase is Phase.CALM and not probe.held]
    if unsteady:
        return Verdict.INCONCLUSIVE, ["not steady before the dose: " + each for each in unsteady]
    without = {(check.route, check.phase, check.metric) for check in control if check.held is False}
    missed = [check for check in found if check.held is False and check not in calm]
    blamed = [check for check in missed if (check.route, check.phase, check.metric) not in without]
    reasons = [describe(check) for check in blamed if check.certain]
    reasons += [probe.described for probe in looked_at if not probe.held]
    if reasons:
        return Verdict.FAILED, reasons
    reasons = [f"missed without any fault as well: {describe(check)}" for check in missed if check not in blamed]
    reasons += [f"missed, but by no more than chance may do: {describe(check)}" for check in blamed]
    reasons += [f"too few requests to say: {describe(check)}" for check in found if check.held is None]
    if certain:
        unsure = [check for check in found if check.held and not check.certain]
        reasons += [f"held, but perhaps by chance: {describe(check)}" for check in unsure]
    if reasons:
        return Verdict.INCONCLUSIVE, reasons
    after = [by_route[""] for phase, by_route in measured.items() if phase is not Phase.CALM]
    counts = {"degraded": sum(each.degraded for each in after), "declined": sum(each.declined for each in after)}
    reasons = [f"{count} answers were {what}" for what, count in counts.items() if count]
    return (Verdict.DEGRADED if reasons else Verdict.SURVIVED), reasons


def describe(check: Check) -> str:
    """Say what was wanted and what was measured.

    >>> about = {"route": "browse", "phase": Phase.CALM, "requests": 9, "held": False}
    >>> describe(Check(**about, metric="success", wanted=0.99, measured=0.5, low=0.25, high=0.75))
    'browse success 50% in calm (objective: at least 99%, 9 requests, interval 25% to 75%)'
    """
    most = check.metric in QUANTILES
    requests = f"{check.requests} request{'s' * (check.requests != 1)}"
    wanted = f"at {'most' if most else 'least'} {_written(check.metric, check.wanted)}"
    interval = ""
    if not math.isnan(check.low):
        interval = f", interval {_written(check.metric, check.low)} to {_written(check.metric, check.high)}"
    measured = _written(check.metric, check.measured)
    return f"{check.route} {check.metric} {measured} in {check.phase} (objective: {wanted}, {requests}{interval})"


def _written(metric: str, value: float) -> str:
    if math.isnan(value):
        return "unknown"
    if metric in QUANTILES:
        return "any time" if math.isinf(value) else f"{value * 1000:.4g} ms"
    return f"{value:.4g}/s" if metric == "throughput" else f"{100 * value:.4g}%"


def recovered_after(bins: Iterable[Bin], bin_width: float, dose_end: float, calm_share: float) -> float | None:
    """Return the seconds from the dose's end until good answers were, and stayed, as frequent as in calm.

    Args:
        bins: The timeline.
        bin_width: Its resolution, and so this figure's.
        dose_end: Relative to the load's start.
        calm_share: Good answers as a share of requests, in calm.

    Returns:
        None when the last slice with requests was not well.
    """
    back: float | None = None
    for piece in bins:
        if piece.at + bin_width <= dose_end or not piece.offered:
            continue
        if piece.good / piece.offered < _WELL * calm_share:
            back = None
        elif back is None:
            back = max(0.0, piece.at - dose_end)
    return back


def timeline(
    samples: Samples, attempts: Samples, start: float, seconds: float, bin_width: float, good_within: GoodWithin
) -> list[Bin]:
    """Cut a stress into slices of equal width, by when requests were due."""
    count = max(1, math.ceil(seconds / bin_width - 1e-9))
    sent = Counter(int((at - start) / bin_width) for at, _ in _on_the_wire(samples, attempts))
    slices: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        index = int((sample.intended - start) / bin_width)
        if 0 <= index < count:
            slices[index].append(sample)
    bins = []
    for index, inside in enumerate(slices):
        at = index * bin_width
        # The last slice may be a shorter one.
        bins.append(_bin(at, inside, sent[index], min(bin_width, seconds - at), good_within))
    return bins


def _bin(at: float, inside: Sequence[Sample], sent: int, width: float, good_within: GoodWithin) -> Bin:
    answers = Counter(sample.answer for sample in inside)
    latencies = sorted(sample.latency for sample in inside)
    return Bin(
        at=at,
        offered=len(inside) / width,
        good=sum(_good(sample, good_within) for sample in inside) / width,
        full=answers[Answer.FULL] / width,
        degraded=answers[Answer.DEGRADED] / width,
        declined=answers[Answer.DECLINED] / width,
        failed=answers[Answer.FAILED] / width,
        sent=sent / width,
        p50=_nearest_rank(latencies, 0.5),
        p99=_nearest_rank(latencies, 0.99),
    )


def _nearest_rank(ordered: Sequence[float], q: float) -> float:
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan

"""From samples to objectives held or missed; pure arithmetic.

A request belongs to the phase in which it was *due*, however late its answer came: a caller who called during the dose
waited because of the dose. For the same reason one that was still under way when the dose began is not calm's. Only
phases that objectives speak of are judged, and too few requests are no judgement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from hormesis.gameday.results import SHARES, Bin, Check, Phase, RouteStats, Verdict, Window
from hormesis.loadgen import Answer, Histogram, Sample, Samples

__all__ = ["checks", "judge", "recovered_after", "stats", "timeline"]

REQUESTS_MIN = 3
"""Fewer requests in a phase say nothing of a share or a quantile."""

_WELL = 0.9
"""An arm is back when its share of good answers is again nine tenths of what it was in calm."""

GoodWithin = Callable[[int], float]
"""By a request's index: the latency up to which a full answer is a good one."""


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
    dose = phases[Phase.CALM].end
    wire = _on_the_wire(samples, attempts)
    result: dict[Phase, dict[str, RouteStats]] = {}
    for phase, window in phases.items():
        inside = [sample for sample in samples if window.start <= _counts_at(sample, start, dose) < window.end]
        sent = Counter(request for at, request in wire if window.start <= at - start < window.end)
        by_route = {"": _stats(inside, sent.total(), good_within)}
        for index, route in enumerate(routes):
            own = [sample for sample in inside if sample.request == index]
            by_route[route] = _stats(own, sent[index], good_within)
        result[phase] = by_route
    return result


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


def _stats(samples: Sequence[Sample], attempts: int, good_within: GoodWithin) -> RouteStats:
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
    )


def _good(sample: Sample, good_within: GoodWithin) -> bool:
    return sample.answer is Answer.FULL and sample.latency <= good_within(sample.request)


def checks(
    measured: Mapping[Phase, Mapping[str, RouteStats]], limits: Callable[[str, Phase], Mapping[str, float]]
) -> list[Check]:
    """Hold every objective against what was measured.

    Args:
        measured: From `stats`.
        limits: What must hold for a route in a phase, by metric.
    """
    result = []
    for phase, by_route in measured.items():
        for route, found in by_route.items():
            if route:
                result += [_check(phase, route, found, *limit) for limit in limits(route, phase).items()]
    return result


def _check(phase: Phase, route: str, found: RouteStats, metric: str, wanted: float) -> Check:
    share = metric in SHARES
    if not found.requests:
        value = math.nan
    elif share:
        counting = (found.full, found.degraded, found.declined)[: 1 + SHARES.index(metric)]
        value = sum(counting) / found.requests
    else:
        value = found.p50 if metric == "p50" else found.p99
    held = None if found.requests < REQUESTS_MIN else (value >= wanted if share else value <= wanted)
    return Check(
        route=route, phase=phase, metric=metric, wanted=wanted, measured=value, requests=found.requests, held=held
    )


def judge(
    found: Sequence[Check], measured: Mapping[Phase, Mapping[str, RouteStats]], *, lag_p99: float, lag_max: float
) -> tuple[Verdict, list[str]]:
    """Conclude; the reasons come most important first.

    Inconclusive beats failed where the measurement itself can't be trusted: a load generator that lagged, or a system
    that was not steady before the dose.
    """
    if lag_p99 == math.inf:
        return Verdict.INCONCLUSIVE, ["the load generator could not send every request that was due"]
    if lag_p99 > lag_max:
        lag, most = f"{lag_p99 * 1000:.0f} ms", f"{lag_max * 1000:.0f} ms"
        return Verdict.INCONCLUSIVE, [f"the load generator lagged: p99 send lag {lag}, at most {most}"]
    if not found:
        return Verdict.INCONCLUSIVE, ["no objective speaks of it, so nothing can be held or missed"]
    unsteady = [check for check in found if check.phase is Phase.CALM and check.held is False]
    if unsteady:
        return Verdict.INCONCLUSIVE, ["not steady before the dose: " + describe(check) for check in unsteady]
    missed = [check for check in found if check.held is False]
    if missed:
        return Verdict.FAILED, [describe(check) for check in missed]
    unknown = [check for check in found if check.held is None]
    if unknown:
        return Verdict.INCONCLUSIVE, [f"too few requests to say: {describe(check)}" for check in unknown]
    after = [by_route[""] for phase, by_route in measured.items() if phase is not Phase.CALM]
    counts = {"degraded": sum(each.degraded for each in after), "declined": sum(each.declined for each in after)}
    reasons = [f"{count} answers were {what}" for what, count in counts.items() if count]
    return (Verdict.DEGRADED if reasons else Verdict.SURVIVED), reasons


def describe(check: Check) -> str:
    """Say what was wanted and what was measured.

    >>> about = {"route": "browse", "phase": Phase.CALM, "requests": 9, "held": False}
    >>> describe(Check(**about, metric="success", wanted=0.99, measured=0.5))
    'browse success 50% in calm (objective: at least 99%, 9 requests)'
    """
    if check.metric in SHARES:
        measured, wanted = f"{100 * check.measured:.4g}%", f"at least {100 * check.wanted:.4g}%"
    else:
        measured, wanted = f"{check.measured * 1000:.4g} ms", f"at most {check.wanted * 1000:.4g} ms"
    requests = f"{check.requests} request{'s' * (check.requests != 1)}"
    return f"{check.route} {check.metric} {measured} in {check.phase} (objective: {wanted}, {requests})"


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

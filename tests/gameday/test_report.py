"""The report says what was found, no more and no less, in words, a table, a page and plain data."""

from __future__ import annotations

import dataclasses
import doctest
import io
import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from hormesis.gameday.report import as_json, observer, print_report, words, write_page
from hormesis.gameday.report.plots import latency_range, timeline
from hormesis.gameday.results import (
    Acted,
    Bin,
    Check,
    GameDay,
    Outcome,
    Phase,
    RouteStats,
    StressResult,
    Verdict,
    Window,
)
from hormesis.load import Answer, Histogram, Sample, Samples

STARTED = 1000.0
ROUTES = ("browse", "order")
PHASES = {
    Phase.CALM: Window(0.0, 5.0),
    Phase.DETECTION: Window(5.0, 7.0),
    Phase.CONTAINED: Window(7.0, 12.0),
    Phase.RECOVERING: Window(12.0, 14.0),
    Phase.RECOVERED: Window(14.0, 18.0),
}


def shop_samples(rng: random.Random, rate: float, *, protected: bool, error: str = "timeout") -> Samples:
    """Answers of a shop whose payments are slow from 5 s to 12 s: bare, it drowns; protected, it answers degraded."""
    samples = Samples()
    due = 0.0
    while (due := due + rng.expovariate(rate)) < 18:
        latency, answer, status, kind = rng.lognormvariate(-4.2, 0.4), Answer.FULL, 200, ""
        if not protected and 5 <= due < 14.5 and rng.random() < 0.96:
            latency, answer, status, kind = 5 - rng.random() * 0.02, Answer.FAILED, 0, error
        elif protected and 5 <= due < 5.8:
            latency, answer, status, kind = 0.5 + rng.random() * 0.1, Answer.FAILED, 503, "status 503"
        elif protected and 5.8 <= due < 12.6 and rng.random() < 0.3:
            answer = Answer.DEGRADED
        at = STARTED + due
        samples.append(Sample(at, at + 0.0003, at + latency, int(rng.random() < 0.1), answer, kind, status))
    return samples


def stats(samples: Samples, route: int | None = None) -> RouteStats:
    rows = [row for row in samples if route is None or row.request == route]
    ended = Counter(row.answer for row in rows)
    histogram = Histogram(row.latency for row in rows)
    return RouteStats(
        requests=len(rows),
        full=ended[Answer.FULL],
        degraded=ended[Answer.DEGRADED],
        failed=ended[Answer.FAILED],
        good=sum(row.answer is Answer.FULL and row.latency < 0.25 for row in rows),
        p50=histogram.quantile(0.5),
        p99=histogram.quantile(0.99),
        errors=Counter(row.error for row in rows if row.error),
        histogram=histogram.to_base64(),
    )


def slice_of(samples: Samples, at: float, width: float) -> Bin:
    found = stats(samples.between(STARTED + at, STARTED + at + width))
    return Bin(
        at=at,
        offered=found.requests / width,
        good=found.good / width,
        full=found.full / width,
        degraded=found.degraded / width,
        failed=found.failed / width,
        p50=found.p50,
        p99=found.p99,
    )


def outcome(arm: str, samples: Samples, verdict: Verdict, **changes: object) -> Outcome:
    by_phase: dict[Phase, Mapping[str, RouteStats]] = {}
    for phase, window in PHASES.items():
        cut = samples.between(STARTED + window.start, STARTED + window.end)
        by_phase[phase] = {"": stats(cut), **{route: stats(cut, i) for i, route in enumerate(ROUTES)}}
    checks = []
    for route in ROUTES:
        found = by_phase[Phase.CONTAINED][route]
        success = found.good / found.requests if found.requests else math.nan
        for metric, wanted, measured in (("success", 0.99, success), ("p99", 0.25, found.p99)):
            held = None if not found.requests else measured >= wanted if metric == "success" else measured <= wanted
            checks.append(
                Check(
                    route=route,
                    phase=Phase.CONTAINED,
                    metric=metric,
                    wanted=wanted,
                    measured=measured,
                    requests=found.requests,
                    held=held,
                )
            )
    made = Outcome(
        arm=arm,
        phases=PHASES,
        stats=by_phase,
        checks=checks,
        verdict=verdict,
        reasons=[],
        recovered_after=2.5,
        acted=[],
        aborted="",
        lag_p99=0.0004,
        timeline=[slice_of(samples, i / 2, 0.5) for i in range(36)],
        bin_width=0.5,
        samples=samples,
        started=STARTED,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


ACTED = [
    Acted(
        process="storefront",
        policy="payments",
        part="circuit_breaker",
        counts={"opened": 2, "half-opened": 2, "closed": 1, "refused": 1140},
        first=0.8,
    ),
    Acted(process="storefront", policy="payments", part="timeout", counts={"cut off": 12}, first=0.5),
    Acted(
        process="storefront",
        policy="payments",
        part="retry",
        counts={"retried": 14, "succeeded": 3, "gave up": 1},
        first=0.51,
    ),
    Acted(process="storefront", policy="inventory", part="fallback", counts={"answered": 321}, first=0.7),
]


def stress(
    name: str, bare: Verdict, protected: Verdict, *, seed: int = 1, rate: float = 40, **texts: str
) -> StressResult:
    rng = random.Random(seed)
    hurt = shop_samples(rng, rate, protected=False)
    calm = shop_samples(rng, rate, protected=True)
    well = {"recovered_after": 0.6}
    return StressResult(
        name=name,
        about=texts.get("about", "A payment provider that answers late is the failure we see most."),
        target=texts.get("target", "edge payments"),
        fault=texts.get("fault", "latency 2s"),
        outcomes={
            "bare": outcome(
                "bare", hurt if bare is Verdict.FAILED else calm, bare, **({} if bare is Verdict.FAILED else well)
            ),
            "protected": outcome("protected", calm, protected, acted=ACTED, **well),
        },
    )


def gameday(*stresses: StressResult, **changes: object) -> GameDay:
    made = GameDay(
        title="The shop under stress",
        file="shop/gameday.toml",
        seed=7,
        version="0.1.0",
        began="2025-03-04T10:00:00+00:00",
        seconds=212.4,
        rate=40.0,
        routes=ROUTES,
        arms=["bare", "protected"],
        judged=["protected"],
        stresses=stresses,
        left_out=[],
        host="Linux 6.1, 2 cores, CPython 3.11",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]

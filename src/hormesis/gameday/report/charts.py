"""The pictures of the page: what each arm was asked and answered, how late, and what freed it.

Arms of one stress are drawn to the same scales, and latencies to the same scale all over the page, so that what looks
different is different.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean

from hormesis.gameday.metastability import WELL, Hysteresis
from hormesis.gameday.report import words
from hormesis.gameday.report.svg import Drawing, Scale, ticks
from hormesis.gameday.results import Bin, GameDay, Outcome, Phase, StressResult
from hormesis.units import format_seconds

__all__ = ["Look", "change", "comparison", "course", "hysteresis", "look_of"]

_WIDTH = 540.0
_LEFT, _RIGHT = 52.0, 530.0
_COLUMNS_MAX = 80
"""Slices of time in a chart: each is several pixels wide, and can be pointed at."""
_CHARTS_MANY = 40
"""From so many charts on, each gets half the slices, so that the page stays one that can be mailed."""
_ROWS_A_DECADE = 8
_SHADES = 5

_ANSWERS = ("good", "late", "degraded", "declined", "failed")
"""How requests end, as they are stacked: good ones below."""


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What all charts of a page have in common.

    Attributes:
        latencies: The range of latency axes, in seconds.
        columns: How many slices of time a chart has at most.
    """

    latencies: tuple[float, float]
    columns: int


def look_of(gameday: GameDay) -> Look:
    """Return the look of a game day's charts."""
    outcomes = [outcome for stress in gameday.stresses for outcome in stress.outcomes.values()]
    found = [
        value
        for outcome in outcomes
        for each in outcome.timeline
        for value in (each.p50, each.p99)
        if math.isfinite(value) and value > 0
    ]
    latencies = (min(found) / 1.6, max(found) * 1.6) if found else (0.001, 1.0)
    return Look(latencies, _COLUMNS_MAX if len(outcomes) <= _CHARTS_MANY else _COLUMNS_MAX // 2)


def comparison(stress: StressResult, arms: Mapping[str, str], judged: Collection[str], look: Look) -> str:
    """Draw the goodput of all arms of a stress over each other.

    Args:
        stress: What happened.
        arms: The class of each arm's line.
        judged: The arms whose degraded answers are drawn too.
        look: The look of the page.
    """
    outcomes = list(stress.outcomes.values())
    told = "; ".join(words.what_happened(outcome) for outcome in outcomes)
    chart = Drawing(_WIDTH, 170, f"{stress.name}: goodput over time. {told}")
    time, rate = _time(outcomes), Scale(0, _most(outcomes, "offered"), 140, 12)
    _furnish(chart, rate, time, 140)
    for outcome in outcomes[:1]:
        _shade(chart, outcome, time, 12, 140)
        _edges(chart, outcome, time, 12, 140)
        chart.line(_line(_joined(outcome, look.columns), "offered", time, rate), "offered")
    for outcome in outcomes:
        slices = _joined(outcome, look.columns)
        chart.line(_line(slices, "good", time, rate), f"goodput {arms[outcome.arm]}")
        if outcome.arm in judged and any(each.degraded for each in slices):
            chart.line(_line(slices, "degraded", time, rate), f"partial {arms[outcome.arm]}")
    return str(chart)


def course(stress: StressResult, outcome: Outcome, look: Look) -> str:
    """Draw one arm's way through a stress: how its requests ended, and below it how long they took.

    Args:
        stress: What happened.
        outcome: What happened to the arm.
        look: The look of the page.
    """
    outcomes = list(stress.outcomes.values())
    label = f"{stress.name}, requests a second by how they ended and latency over time. {words.what_happened(outcome)}"
    chart = Drawing(_WIDTH, 366, label)
    time = _time(outcomes)
    top, middle, upper, bottom = 24, 164, 206, 338
    repeated = any(len(each.attempts) for each in outcomes)
    rate = Scale(0, max(_most(outcomes, "offered"), _most(outcomes, "sent") if repeated else 0.0), middle, top)
    latency = Scale(*look.latencies, bottom, upper, log=True)
    slices = _joined(outcome, look.columns)
    chart.text((0, 12), "requests/s", "title")
    for low, high in ((top, middle), (upper, bottom)):
        _shade(chart, outcome, time, low, high)
    _furnish(chart, rate, time, middle, named=False)
    _answers(chart, slices, time, rate)
    chart.line(_line(slices, "offered", time, rate), "offered")
    if len(outcome.attempts):
        chart.line(_line(slices, "sent", time, rate), "sent")
    chart.text((0, upper - 12), "latency, each request from when it was due", "title")
    _furnish(chart, latency, time, bottom)
    _heat(chart, outcome, slices, time, latency)
    for quantile in ("p50", "p99"):
        chart.line(_line(slices, quantile, time, latency), quantile)
    for low, high in ((top, middle), (upper, bottom)):
        _edges(chart, outcome, time, low, high)
    for each in slices:
        chart.rect(time(each.at), top, time(each.at + each.width), bottom, "tip", _told(each, repeated=repeated))
    return str(chart)


def hysteresis(found: Hysteresis, arm: str) -> str:
    """Draw good answers against load, down to where a system came back and up again.

    Args:
        found: The loads that were held, and what became of them.
        arm: Whose they are.
    """
    if found.recovers_at is None:
        told = "it never came back"
    else:
        told = f"it came back at {words.percent(found.recovers_at)} of the load"
    chart = Drawing(_WIDTH, 240, f"Hysteresis of {arm}: share of good answers by load, going down and up again; {told}")
    load, good = Scale(0, 1.05, _LEFT, _RIGHT), Scale(0, 1, 196, 24)
    chart.text((0, 12), "good answers", "title")
    for share in (0.0, 0.5, 1.0):
        chart.line([(_LEFT, good(share)), (_RIGHT, good(share))], "grid")
        chart.text((_LEFT - 8, good(share) + 4), f"{100 * share:g} %", "tick", "end")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        chart.text((load(share), 214), f"{100 * share:g} %", "tick", "middle")
    chart.text(((_LEFT + _RIGHT) / 2, 234), "load, of the normal one", "tick", "middle")
    if found.gap:
        left = 0.0 if found.recovers_at is None else found.recovers_at
        chart.rect(load(left), good(1), load(1), good(0), "gap", f"the gap: {words.percent(found.gap)} of the load")
        chart.text((load(1) - 6, good(0.75)), f"gap {words.percent(found.gap)}", "tick", "end")
    chart.line([(_LEFT, good(WELL)), (_RIGHT, good(WELL))], "well")
    levels = [step.level for step in found.steps]
    turn = levels.index(min(levels)) if levels else 0
    points = [(load(step.level), good(step.good)) for step in found.steps]
    chart.line(points[: turn + 1], "down")
    chart.line(points[turn:] if len(points) > turn + 1 else [], "up")
    for number, (point, step) in enumerate(zip(points, found.steps, strict=True), 1):
        way = "down" if number <= turn + 1 else "up"
        tip = f"{number}. {words.percent(step.level)} of the load: {words.percent(step.good)} good"
        chart.dot(point, 9, f"step {way}", f"{tip}, {step.attempts:.2f} requests on the wire for each")
        chart.text((point[0], point[1] + 4), str(number), "number", "middle")
    return str(chart)


def change(before: float, after: float, label: str) -> str:
    """Draw how a share has changed: a line from what it was to what it is, between nothing and all.

    Args:
        before: The share that was; not a number where nothing is known.
        after: The share that is.
        label: What it is.
    """
    chart = Drawing(170, 20, f"{label}: from {words.percent(before)} to {words.percent(after)}")
    share = Scale(0, 1, 8, 162)
    chart.line([(8, 10), (162, 10)], "rail")
    if math.isfinite(before) and math.isfinite(after):
        chart.line([(share(before), 10), (share(after), 10)], "better" if after >= before else "worse")
    for value, style in ((before, "before"), (after, "after")):
        if math.isfinite(value):
            chart.dot((share(value), 10), 6, style, words.percent(value))
    return str(chart)


@dataclasses.dataclass(frozen=True, slots=True)
class _Slice:
    """Some slices of a timeline as one: means of rates, and the worst of latencies, which have no mean."""

    at: float
    width: float
    offered: float
    good: float
    late: float
    degraded: float
    declined: float
    failed: float
    sent: float
    p50: float
    p99: float

    @property
    def middle(self) -> float:
        return self.at + self.width / 2


def _joined(outcome: Outcome, columns: int) -> list[_Slice]:
    size = max(1, math.ceil(len(outcome.timeline) / columns))
    groups = [outcome.timeline[start : start + size] for start in range(0, len(outcome.timeline), size)]
    return [_slice(group, outcome.bin_width) for group in groups]


def _slice(bins: Sequence[Bin], width: float) -> _Slice:
    def mean(value: Callable[[Bin], float]) -> float:
        return fmean(map(value, bins))

    def worst(values: Sequence[float]) -> float:
        return max(filter(math.isfinite, values), default=math.nan)

    return _Slice(
        at=bins[0].at,
        width=bins[-1].at + width - bins[0].at,
        offered=mean(lambda each: each.offered),
        good=mean(lambda each: each.good),
        late=max(0.0, mean(lambda each: each.full - each.good)),
        degraded=mean(lambda each: each.degraded),
        declined=mean(lambda each: each.declined),
        failed=mean(lambda each: each.failed),
        sent=mean(lambda each: each.sent),
        p50=worst([each.p50 for each in bins]),
        p99=worst([each.p99 for each in bins]),
    )


def _time(outcomes: Sequence[Outcome]) -> Scale:
    ends = [window.end for outcome in outcomes for window in outcome.phases.values()]
    return Scale(0, max(ends, default=0.0) or 1.0, _LEFT, _RIGHT)


def _most(outcomes: Sequence[Outcome], column: str) -> float:
    return 1.08 * max((getattr(each, column) for outcome in outcomes for each in outcome.timeline), default=0.0) or 1.0


def _furnish(chart: Drawing, values: Scale, time: Scale, bottom: float, *, named: bool = True) -> None:
    """Draw the axes; `named`: with the times."""
    for value, said in _latency_ticks(values) if values.log else [(tick, f"{tick:g}") for tick in ticks(values.high)]:
        chart.line([(_LEFT, values(value)), (_RIGHT, values(value))], "grid")
        chart.text((_LEFT - 8, values(value) + 4), said, "tick", "end")
    for second in ticks(time.high, 8) if named else ():
        chart.text((time(second), bottom + 18), f"{second:g} s", "tick", "middle")


def _latency_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Return the powers of ten within a scale, with the threes between when there are few."""
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    tens = [10.0**power for power in powers]
    within = [ten for ten in tens if scale.low <= ten <= scale.high]
    if len(within) < 3:
        within = [tick for ten in tens for tick in (ten, 3 * ten) if scale.low <= tick <= scale.high]
    return [(tick, format_seconds(tick)) for tick in within]


def _shade(chart: Drawing, outcome: Outcome, time: Scale, top: float, bottom: float) -> None:
    """Shade the dose: lightly while the system may still find out, darker while damage should be contained."""
    for phase in (Phase.DETECTION, Phase.CONTAINED):
        if (window := outcome.phases.get(phase)) and window.end > window.start:
            chart.rect(time(window.start), top, time(window.end), bottom, f"dose {phase}")
            chart.rect(time(window.start), top - 6, time(window.end), top - 2, f"dose {phase} bar")


def _edges(chart: Drawing, outcome: Outcome, time: Scale, top: float, bottom: float) -> None:
    """Mark the beginning and the end of the dose, on top of everything."""
    dosed = [outcome.phases[phase] for phase in (Phase.DETECTION, Phase.CONTAINED) if phase in outcome.phases]
    for at in {dosed[0].start, dosed[-1].end} if dosed else ():
        chart.line([(time(at), top), (time(at), bottom)], "edge")


def _answers(chart: Drawing, slices: Sequence[_Slice], time: Scale, rate: Scale) -> None:
    """Stack how requests ended."""
    below = [0.0] * len(slices)
    for answer in _ANSWERS:
        above = [low + getattr(each, answer) for low, each in zip(below, slices, strict=True)]
        if above != below:
            lower, upper = (
                [(time(each.middle), rate(value)) for each, value in zip(slices, values, strict=True)]
                for values in (below, above)
            )
            chart.area(lower, upper, answer)
        below = above


def _heat(chart: Drawing, outcome: Outcome, slices: Sequence[_Slice], time: Scale, latency: Scale) -> None:
    """Colour each cell of time and latency by how many requests fell into it."""
    if not slices:
        return
    width = slices[0].width
    cells: Counter[tuple[int, int]] = Counter()
    lowest = math.log10(latency.low)
    for intended, done in zip(outcome.samples.intended, outcome.samples.done, strict=True):
        took = min(max(done - intended, latency.low), latency.high)
        cells[int((intended - outcome.started) / width), int((math.log10(took) - lowest) * _ROWS_A_DECADE)] += 1
    most = max(cells.values(), default=1)
    shades: dict[int, list[tuple[float, float, float, float]]] = {}
    for (column, row), count in cells.items():
        if 0 <= column < len(slices):
            low, high = (10 ** (lowest + each / _ROWS_A_DECADE) for each in (row, row + 1))
            each = slices[column]
            shade = max(1, math.ceil(_SHADES * math.sqrt(count / most)))
            box = (time(each.at), latency(high), time(each.at + each.width), latency(low))
            shades.setdefault(shade, []).append(box)
    for shade, boxes in sorted(shades.items()):
        chart.rects(boxes, f"heat-{shade}")


def _line(slices: Sequence[_Slice], column: str, time: Scale, values: Scale) -> list[tuple[float, float]]:
    found = [(each, getattr(each, column)) for each in slices]
    return [(time(each.middle), values(value) if math.isfinite(value) else math.nan) for each, value in found]


def _told(each: _Slice, *, repeated: bool) -> str:
    """Say what a slice of time was."""
    rates = {"offered": each.offered, **{answer: getattr(each, answer) for answer in _ANSWERS}}
    said = [f"{value:.4g}/s {name}" for name, value in rates.items() if value or name == "offered"]
    said += [f"{each.sent:.4g}/s on the wire"] if repeated else []
    return f"{each.middle:.4g} s: {', '.join(said)}; p50 {words.duration(each.p50)}, p99 {words.duration(each.p99)}"

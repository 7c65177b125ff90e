"""The timeline of a stress: goodput and tail latency of every arm in the same axes, with the dose shaded.

The drawing is inline SVG that follows the page's theme: each colour is drawn as a stand-in, which is then replaced by
the page's own CSS variable, so that one drawing serves light and dark. Text stays text. No words of the experiment
enter the drawing.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import fmean

from hormesis.errors import MissingExtraError
from hormesis.gameday.results import GameDay, Outcome, Phase, StressResult

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.report", "gameday") from error

__all__ = ["latency_range", "timeline"]

_SIZE = (7.6, 3.9)
"""Inches of 72 pixels: the width that a panel has when two stand side by side."""
_POINTS_MAX = 240
"""Slices to a line: a point every two pixels. More can't be seen, and would make the page large."""
_TEXT = 12.0


def latency_range(gameday: GameDay) -> tuple[float, float]:
    """Return the latencies between which all timelines of a game day are drawn, so that they can be compared."""
    found = [
        slice_.p99
        for stress in gameday.stresses
        for outcome in stress.outcomes.values()
        for slice_ in outcome.timeline
        if math.isfinite(slice_.p99) and slice_.p99 > 0
    ]
    return (min(found) / 1.5, max(found) * 1.5) if found else (0.001, 1.0)


def timeline(
    stress: StressResult,
    *,
    colours: Mapping[str, str],
    judged: Collection[str],
    latencies: tuple[float, float],
    key: str,
) -> str:
    """Draw one stress.

    Args:
        stress: What happened.
        colours: The CSS variable of each arm's colour.
        judged: The arms whose degraded answers are drawn too.
        latencies: The range of the latency axis.
        key: What makes the drawing's ids unique on its page.

    Returns:
        An `<svg>` element that uses the variables `--ink`, `--quiet`, `--line`, `--dose` and those of the arms.
    """
    with mpl.rc_context():
        mpl.rcdefaults()  # A style of the user's own would not fit the page.
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": key})
        paints = _Paints()
        buffer = io.StringIO()
        figure = _figure(list(stress.outcomes.values()), colours, judged, latencies, paints)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return paints.put_into(_inlined(buffer.getvalue(), key))


def _figure(
    outcomes: Sequence[Outcome],
    colours: Mapping[str, str],
    judged: Collection[str],
    latencies: tuple[float, float],
    paints: _Paints,
) -> Figure:
    figure = Figure(figsize=_SIZE)
    figure.patch.set_visible(False)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.subplots_adjust(left=0.1, right=0.985, top=0.925, bottom=0.08, hspace=0.3)
    for axes in (upper, lower):
        _furnish(axes, paints)
        for outcome in outcomes[:1]:
            _shade(axes, outcome, paints)
    _goodput(upper, outcomes, colours, judged, paints)
    _latency(lower, outcomes, colours, latencies, paints)
    return figure


class _Paints:
    """Stand-ins for CSS variables: colours that matplotlib takes, and that nothing else in a drawing has."""

    def __init__(self) -> None:
        self._stand_ins: dict[str, str] = {}

    def __getitem__(self, variable: str) -> str:
        return self._stand_ins.setdefault(variable, f"#0000{len(self._stand_ins) + 1:02x}")

    def put_into(self, svg: str) -> str:
        for variable, stand_in in self._stand_ins.items():
            svg = svg.replace(stand_in, f"var({variable})")
        return svg


def _furnish(axes: Axes, paints: _Paints) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(paints["--line"])
    axes.tick_params(length=0, labelsize=_TEXT, labelcolor=paints["--quiet"])
    axes.grid(axis="y", color=paints["--line"], linewidth=0.6)
    axes.set_axisbelow(True)


def _shade(axes: Axes, outcome: Outcome, paints: _Paints) -> None:
    """Shade the dose: lightly while the system may still find out, darker while damage should be contained."""
    for phase, alpha in ((Phase.DETECTION, 0.10), (Phase.CONTAINED, 0.22)):
        if window := outcome.phases.get(phase):
            axes.axvspan(window.start, window.end, color=paints["--dose"], alpha=alpha, linewidth=0)


def _goodput(
    axes: Axes, outcomes: Sequence[Outcome], colours: Mapping[str, str], judged: Collection[str], paints: _Paints
) -> None:
    _title(axes, "goodput, requests/s", paints)
    for outcome in outcomes[:1]:
        axes.plot(*_line(outcome, "offered"), color=paints["--quiet"], linewidth=0.7)
    for outcome, (width, alpha) in zip(outcomes, _strokes(), strict=False):
        colour = paints[colours[outcome.arm]]
        if len(outcome.attempts):
            axes.plot(*_line(outcome, "sent"), color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)))
        axes.plot(*_line(outcome, "good"), color=colour, linewidth=width, alpha=alpha)
        if outcome.arm in judged and any(slice_.degraded for slice_ in outcome.timeline):
            axes.plot(*_line(outcome, "degraded"), color=colour, linewidth=1.1, linestyle=(0, (3, 2)))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))


def _latency(
    axes: Axes,
    outcomes: Sequence[Outcome],
    colours: Mapping[str, str],
    latencies: tuple[float, float],
    paints: _Paints,
) -> None:
    _title(axes, "p99 latency", paints)
    for outcome, (width, alpha) in zip(outcomes, _strokes(), strict=False):
        axes.plot(*_line(outcome, "p99", _worst), color=paints[colours[outcome.arm]], linewidth=width, alpha=alpha)
    axes.set_yscale("log")
    axes.set_ylim(*latencies)
    axes.yaxis.set_minor_locator(NullLocator())
    ticks = _ticks(*latencies)
    axes.set_yticks(ticks, [f"{tick:g} s" if tick >= 1 else f"{tick * 1000:g} ms" for tick in ticks])
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:g} s")


def _strokes() -> Iterator[tuple[float, float]]:
    """Yield width and opacity: the first arm's line is broad and soft, and shows beneath one that coincides with it."""
    return itertools.chain(((5.0, 0.6),), itertools.repeat((1.8, 1.0)))


def _title(axes: Axes, text: str, paints: _Paints) -> None:
    axes.set_title(text, loc="left", fontsize=_TEXT, color=paints["--ink"], pad=6)


def _ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten within a range, with the threes between when there are few."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    tens = [tick for tick in powers if low <= tick <= high]
    if len(tens) >= 3:
        return tens
    return [tick for ten in powers for tick in (ten, 3 * ten) if low <= tick <= high]


def _line(
    outcome: Outcome, column: str, join: Callable[[list[float]], float] = fmean
) -> tuple[list[float], list[float]]:
    """Return times and values of one column of the timeline, slices joined until there are few enough."""
    size = max(1, math.ceil(len(outcome.timeline) / _POINTS_MAX))
    groups = [outcome.timeline[start : start + size] for start in range(0, len(outcome.timeline), size)]
    times = [(group[0].at + group[-1].at + outcome.bin_width) / 2 for group in groups]
    return times, [join([getattr(slice_, column) for slice_ in group]) for group in groups]


def _worst(latencies: list[float]) -> float:
    """Return the highest: quantiles have no mean. No number means no requests."""
    return max((latency for latency in latencies if math.isfinite(latency)), default=math.nan)


def _inlined(document: str, key: str) -> str:
    """Return the `<svg>` element alone: without a size or a style sheet of its own, and with ids of its own."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<svg[^>]*(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 role="img">', svg, count=1)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)

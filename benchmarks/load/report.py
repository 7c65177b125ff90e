"""What is told of the runs: a line for each, a table, which targets are met, and plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measures import median, spread
from outcome import Outcome
from scenarios import Scenario

__all__ = ["best_fixed", "markdown", "plot", "table", "targets", "told"]

_OF_BEST_FIXED = 0.95
_OF_OPTIMUM = 0.90
_AVAILABLE = 0.999
_RECOVERED = 2.0
_SETTLED = 5.0
_WINDOW = 0.5
"""Seconds of goodput that a point of a plot is of, to either side."""


def told(outcome: Outcome) -> str:
    """A run in a line."""
    line = (
        f"{outcome.arm:10} goodput {outcome.goodput:5.3f}  throughput {outcome.throughput:5.3f}"
        f"  p50 {outcome.p50 * 1e3:5.0f}  p99 {outcome.p99 * 1e3:5.0f} ms  settled {outcome.settled:4.1f} s"
        f"  shed {outcome.shed:4.2f}  unanswered {outcome.unanswered:4.2f}  limit {outcome.limit:5.1f}"
        f"  in app {outcome.in_app:5.1f}  busy {outcome.busy:4.2f}  lag {outcome.lag * 1e3:4.1f} ms"
        f"  waited {outcome.waited:5.3f}"
    )
    if outcome.critical_asked:
        line += (
            f"\n{'':15}critical: answered {outcome.critical_answered / outcome.critical_asked:.4f}, within the"
            f" objective {outcome.critical_good / outcome.critical_asked:.4f}; background {outcome.background:.3f} of"
            f" what is left, Jain's index of its tenants {outcome.fairness:.3f}"
        )
    if outcome.recovered is not None:
        line += f"\n{'':15}recovered {outcome.recovered:.1f} s after the trigger"
    return line if outcome.valid else f"{line}  NOT VALID"


class Runs:
    """All runs of a scenario under an arm; those that are not valid count only when there are no others."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = [outcome for outcome in outcomes if outcome.valid] or list(outcomes)
        self.valid = any(outcome.valid for outcome in outcomes)

    def median(self, name: str) -> float:
        """The median of a figure; NaN where it has none."""
        values = [getattr(outcome, name) for outcome in self.outcomes]
        return median([value for value in values if value is not None])

    def share(self, part: str, whole: str) -> float:
        """A share over all runs together."""
        of = sum(getattr(outcome, whole) for outcome in self.outcomes)
        return sum(getattr(outcome, part) for outcome in self.outcomes) / of if of else math.nan


def _by_arm(outcomes: Sequence[Outcome], scenario: str) -> dict[str, Runs]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.scenario == scenario:
            found.setdefault(outcome.arm, []).append(outcome)
    return {arm: Runs(theirs) for arm, theirs in found.items()}


def best_fixed(outcomes: Sequence[Outcome], scenario: str) -> str | None:
    """The fixed limit that did best in a scenario; None when none was tried."""
    arms = _by_arm(outcomes, scenario)
    fixed = [arm for arm in arms if arm.startswith("fixed-")]
    return max(fixed, key=lambda arm: arms[arm].median("goodput")) if fixed else None


_COLUMNS = (
    "",
    "",
    "goodput",
    "of best fixed",
    "throughput",
    "p50 ms",
    "p99 ms",
    "settled s",
    "shed",
    "limit",
    "runs ±",
    "",
)


def rows(outcomes: Sequence[Outcome], chosen: Mapping[str, Scenario]) -> Iterator[list[str]]:
    """Yield the rows of the table: a head, and for each scenario its arms, of the fixed limits the best."""
    yield list(_COLUMNS)
    for name in chosen:
        arms = _by_arm(outcomes, name)
        best = best_fixed(outcomes, name)
        for arm, runs in arms.items():
            if arm.startswith("fixed-") and arm != best:
                continue
            value = runs.median("goodput")
            of_best = f"{value / arms[best].median('goodput'):.2f}" if best is not None else ""
            apart = spread([outcome.goodput for outcome in runs.outcomes])
            yield [
                name,
                arm,
                f"{value:.3f}",
                of_best,
                f"{runs.median('throughput'):.3f}",
                _number(runs.median("p50") * 1e3, "0f"),
                _number(runs.median("p99") * 1e3, "0f"),
                _number(runs.median("settled"), "1f"),
                f"{runs.median('shed'):.2f}",
                _number(runs.median("limit"), "1f"),
                f"{len(runs.outcomes)} {apart:.3f}" if len(runs.outcomes) > 1 else "1",
                "; ".join(_besides(runs)),
            ]


def _besides(runs: Runs) -> Iterator[str]:
    """What only some scenarios have."""
    if any(outcome.critical_asked for outcome in runs.outcomes):
        critical, good = (runs.share(f"critical_{part}", "critical_asked") for part in ("answered", "good"))
        yield f"critical: answered {critical:.4f}, well {good:.4f}"
        yield f"background {runs.median('background'):.2f} of the rest, Jain {runs.median('fairness'):.3f}"
    recovered = runs.median("recovered")
    if not math.isnan(recovered):
        yield "never recovers" if recovered == math.inf else f"recovers in {recovered:.1f} s"
    if not runs.valid:
        yield "NOT VALID"


def _number(value: float, form: str) -> str:
    return format(value, f".{form}") if math.isfinite(value) else ""


def table(outcomes: Sequence[Outcome], chosen: Mapping[str, Scenario]) -> Iterator[str]:
    """Yield the lines of the table, for a terminal."""
    cells = list(rows(outcomes, chosen))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False))
        right = "  ".join(cell.rjust(width) for cell, width in zip(row[2:-1], widths[2:-1], strict=True))
        yield f"{left}  {right}  {row[-1]}".rstrip()


def markdown(outcomes: Sequence[Outcome], chosen: Mapping[str, Scenario]) -> Iterator[str]:
    """Yield the lines of the table, for a page."""
    for number, row in enumerate(rows(outcomes, chosen)):
        cells = [
            f"**{cell}**" if cell and row[1] == "hormesis" and place in (1, 2, 3) else cell
            for place, cell in enumerate(row)
        ]
        yield f"| {' | '.join(cells)} |"
        if not number:
            yield f"|{'---|' * len(row)}"


def targets(outcomes: Sequence[Outcome], chosen: Mapping[str, Scenario]) -> Iterator[tuple[bool, str]]:
    """Yield whether each target is met by our default settings, and in words which it is."""
    for name, scenario in chosen.items():
        arms = _by_arm(outcomes, name)
        ours, best = arms.get("hormesis"), best_fixed(outcomes, name)
        if ours is None:
            continue
        goodput = ours.median("goodput")
        if best is not None:
            ratio = goodput / arms[best].median("goodput")
            met = ratio >= _OF_BEST_FIXED
            yield met, f"{name}: goodput {ratio:.3f} of the best fixed limit's ({best}); at least {_OF_BEST_FIXED}"
        if scenario.streams[0].calls:
            yield goodput >= _OF_OPTIMUM, f"{name}: goodput {goodput:.3f} of the optimum; at least {_OF_OPTIMUM}"
        if any(outcome.critical_asked for outcome in ours.outcomes):
            critical = ours.share("critical_answered", "critical_asked")
            asked = sum(outcome.critical_asked for outcome in ours.outcomes)
            met = critical >= _AVAILABLE
            yield met, f"{name}: of {asked} critical requests {critical:.5f} answered; at least {_AVAILABLE}"
        recovered = ours.median("recovered")
        if not math.isnan(recovered):
            yield recovered <= _RECOVERED, f"{name}: recovered in {recovered:.1f} s; at most {_RECOVERED:g}"
        elif scenario.streams[0].calls <= 1:  # journeys of several calls are too few a second to tell it by
            settled = ours.median("settled")
            yield settled <= _SETTLED, f"{name}: settled in {settled:.1f} s; at most {_SETTLED:g}"


def plot(outcomes: Sequence[Outcome], name: str, scenario: Scenario, directory: Path) -> Path:
    """Draw goodput and limit over time for each arm of a scenario, of the fixed limits the best; returns the file."""
    import matplotlib as mpl  # noqa: PLC0415  only plots need it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    arms = _by_arm(outcomes, name)
    best = best_fixed(outcomes, name)
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    for colour, (arm, runs) in enumerate(arms.items()):
        if arm.startswith("fixed-") and arm != best:
            continue
        first = runs.outcomes[0]
        times = [step / 10 for step in range(5, round(scenario.end * 10) - 4)]
        goodput = [
            sum(at - _WINDOW <= good < at + _WINDOW for good in first.good_at) / (2 * _WINDOW) / first.capacity
            for at in times
        ]
        line: dict[str, Any] = {
            "linewidth": 2.2 if arm == "hormesis" else 1.2,
            "label": arm,
            "color": f"C{colour}",
        }
        above.plot(times, goodput, **line)
        finite = [(at, limit) for at, limit in first.limits if limit < math.inf and at <= scenario.end]
        if finite:
            below.plot(*zip(*finite, strict=True), **line)
    for axes, label in ((above, "good answers a second / C"), (below, "limit")):
        axes.axvline(scenario.step, color="grey", linewidth=0.8, linestyle=":")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    above.set_title(f"{name}: {scenario.what}", fontsize=10)
    above.legend(fontsize=8)
    below.set_xlabel("seconds")
    path = directory / f"{name}.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path

"""What is told of the runs: a line for each, a table, which targets are met, and plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from measures import median, spread
from outcome import Outcome
from scenarios import Scenario

__all__ = ["best_fixed", "plot", "table", "targets", "told"]

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


def table(outcomes: Sequence[Outcome], chosen: Mapping[str, Scenario]) -> Iterator[str]:
    """Yield the lines of the table: for each scenario its arms, of the fixed limits the best."""
    yield (
        f"{'':9}{'':12}{'goodput':>8}{'of best':>8}{'runs':>5}{'spread':>7}{'through-':>9}{'p50':>7}{'p99':>7}"
        f"{'settled':>8}{'shed':>6}{'limit':>7}"
    )
    yield f"{'':9}{'':12}{'':8}{'fixed':>8}{'':5}{'':7}{'put':>9}{'ms':>7}{'ms':>7}{'s':>8}"
    for name in chosen:
        arms = _by_arm(outcomes, name)
        best = best_fixed(outcomes, name)
        for arm, runs in arms.items():
            if arm.startswith("fixed-") and arm != best:
                continue
            value = runs.median("goodput")
            ratio = value / arms[best].median("goodput") if best is not None else math.nan
            line = (
                f"{name:9}{arm:12}{value:8.3f}{ratio:8.2f}{len(runs.outcomes):5d}"
                f"{spread([outcome.goodput for outcome in runs.outcomes]):7.3f}{runs.median('throughput'):9.3f}"
                f"{runs.median('p50') * 1e3:7.0f}{runs.median('p99') * 1e3:7.0f}{runs.median('settled'):8.1f}"
                f"{runs.median('shed'):6.2f}{runs.median('limit'):7.1f}"
            )
            yield line + "".join(f"  {each}" for each in _besides(runs))


def _besides(runs: Runs) -> Iterator[str]:
    critical = runs.share("critical_answered", "critical_asked")
    if critical == critical:  # noqa: PLR0124  it is none where there are no classes
        good = runs.share("critical_good", "critical_asked")
        yield f"critical {critical:.4f}, good {good:.4f}; background {runs.median('background'):.2f}"
        yield f"Jain {runs.median('fairness'):.3f}"
    recovered = runs.median("recovered")
    if recovered == recovered:  # noqa: PLR0124
        yield f"recovered {recovered:.1f} s"
    if not runs.valid:
        yield "NOT VALID"


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
        critical = ours.share("critical_answered", "critical_asked")
        if critical == critical:  # noqa: PLR0124
            asked = sum(outcome.critical_asked for outcome in ours.outcomes)
            met = critical >= _AVAILABLE
            yield met, f"{name}: critical requests answered {critical:.5f} of {asked}; at least {_AVAILABLE}"
        recovered = ours.median("recovered")
        if recovered == recovered:  # noqa: PLR0124
            yield recovered <= _RECOVERED, f"{name}: recovered in {recovered:.1f} s; at most {_RECOVERED:g}"
        else:
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
    for arm, runs in arms.items():
        if arm.startswith("fixed-") and arm != best:
            continue
        first = runs.outcomes[0]
        times = [step / 10 for step in range(5, round(scenario.end * 10) - 4)]
        goodput = [
            sum(at - _WINDOW <= good < at + _WINDOW for good in first.good_at) / (2 * _WINDOW) / first.capacity
            for at in times
        ]
        line = {"linewidth": 2.2 if arm == "hormesis" else 1.2, "label": arm}
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

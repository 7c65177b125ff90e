"""Naming the fix: the minimal failure again, with one change to the policies at a time.

That a pattern acted while a system failed, or would have been nice to have, proves nothing. A change is *named* only if
the objectives hold with the fault under it, several times in a row, and without a fault it costs nothing that can be
measured. One that contains the failure at a price is told of with that price; the rest does not contain it.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from hormesis.gameday.explore.trials import Budget, Seen, Steps, Trial, held, repeatedly

__all__ = ["Cost", "Counterfactual", "Effect", "Tolerance", "Tried", "try_changes"]


class Effect(enum.StrEnum):
    """What a change does about a failure."""

    CONTAINS = "contains it"
    AT_A_PRICE = "contains it at a price"
    HARMFUL = "fails without a fault"
    DOES_NOT = "does not contain it"
    UNTRIED = "no time was left for it"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still counts as no cost: as much as two runs of the same may differ.

    Args:
        goodput: Share of good answers that may be missing.
        p99: By what factor latency may grow ...
        p99_least: ... or by so many seconds, whichever is more.
        attempts: By what factor the requests that dependencies get may grow.
    """

    goodput: float = 0.01
    p99: float = 1.25
    p99_least: float = 0.02
    attempts: float = 1.1


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change costs without a fault, against the same load without it.

    Args:
        goodput: The share of good answers that is missing; negative where there are more.
        p99: Seconds of latency that are added.
        attempts: By what factor dependencies get more to do.
    """

    goodput: float
    p99: float
    attempts: float

    @property
    def weight(self) -> float:
        """One number to order costs by: percent of good answers, of latency in tenths of a second, of attempts."""
        return 100 * self.goodput + 10 * max(0.0, self.p99) + 10 * max(0.0, self.attempts - 1)

    def __str__(self) -> str:
        more = f"{100 * (self.attempts - 1):+.0f} %"
        return f"goodput {-100 * self.goodput:+.1f} points, p99 {1000 * self.p99:+.0f} ms, calls {more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One change, and what it did.

    Attributes:
        change: Its name.
        effect: What it does about the failure.
        cost: What it costs without a fault; None where that was not asked.
        under_fault: What was seen with the fault and the change, last.
        why: The reason why it is not named; empty when it is.
    """

    change: str
    effect: Effect
    cost: Cost | None = None
    under_fault: Seen | None = None
    why: str = ""


@dataclass(slots=True)
class Counterfactual:
    """What became of each change; it grows as they are tried.

    Attributes:
        trial: The failure.
        tried: In the order in which they were tried.
    """

    trial: Trial
    tried: list[Tried] = field(default_factory=list)

    @property
    def named(self) -> list[Tried]:
        """The changes that contain the failure and cost nothing, the cheapest first."""
        fixes = [each for each in self.tried if each.effect is Effect.CONTAINS and each.cost is not None]
        return sorted(fixes, key=lambda each: each.cost.weight if each.cost else 0.0)


def try_changes(
    result: Counterfactual,
    changes: Sequence[str],
    *,
    baseline: Sequence[Seen] = (),
    tolerance: Tolerance = Tolerance(),
    repeats: int = 2,
    budget: Budget | None = None,
) -> Steps[None]:
    """Try changes on a failure, one at a time.

    Args:
        result: Where what becomes of them goes.
        changes: Their names, the most promising first.
        baseline: What was seen without a fault and without a change; where that is too little, it is asked for.
        tolerance: What still counts as no cost.
        repeats: How often the objectives must hold in a row.
        budget: When it is used up, the rest is not tried.
    """
    failing = result.trial
    if len(baseline) < repeats:
        more = yield from repeatedly(failing.without_faults(), held, repeats - len(baseline))
        baseline = [*baseline, *(more or ())]
    if len(baseline) < repeats:
        result.tried += [
            Tried(change=change, effect=Effect.UNTRIED, why="the objectives were missed without a fault too")
            for change in changes
        ]
        return
    for change in changes:
        if budget is not None and not budget.has_room(2 * repeats):
            result.tried.append(Tried(change=change, effect=Effect.UNTRIED, why=Effect.UNTRIED.value))
        else:
            result.tried.append((yield from _try(failing, change, baseline, tolerance, repeats)))


def _try(failing: Trial, change: str, baseline: Sequence[Seen], tolerance: Tolerance, repeats: int) -> Steps[Tried]:
    changed = Trial(failing.injections, change, failing.dose)
    contained = yield from repeatedly(changed, held, repeats)
    if contained is None:
        return Tried(change=change, effect=Effect.DOES_NOT, why="an objective was missed, or it could not be told")
    without = yield from repeatedly(changed.without_faults(), held, repeats)
    if without is None:
        why = "without a fault an objective is missed, or it can't be told"
        return Tried(change=change, effect=Effect.HARMFUL, under_fault=contained[-1], why=why)
    cost = cost_of(without, baseline)
    why = _too_much(cost, baseline, tolerance)
    effect = Effect.AT_A_PRICE if why else Effect.CONTAINS
    return Tried(change=change, effect=effect, cost=cost, under_fault=contained[-1], why=why)


def cost_of(changed: Sequence[Seen], baseline: Sequence[Seen]) -> Cost:
    """Compare runs without a fault: with a change, and without it."""

    def mean(runs: Sequence[Seen], what: str) -> float:
        return statistics.fmean(getattr(run, what) for run in runs)

    return Cost(
        goodput=mean(baseline, "goodput") - mean(changed, "goodput"),
        p99=mean(changed, "p99") - mean(baseline, "p99"),
        attempts=_ratio(statistics.fmean(map(_work, changed)), statistics.fmean(map(_work, baseline))),
    )


def _work(seen: Seen) -> float:
    """How much the dependencies get to do: by what they are sent where edges tell, by attempts where there are none."""
    return sum(seen.traffic.values()) or seen.attempts


def _ratio(one: float, other: float) -> float:
    return one / other if other else (1.0 if not one else math.inf)


def _too_much(cost: Cost, baseline: Sequence[Seen], tolerance: Tolerance) -> str:
    """Say what is too dear about a change; empty when nothing is. Runs that differ by themselves excuse as much."""

    def spread(what: str) -> float:
        values: list[float] = [getattr(run, what) for run in baseline]
        return max(values) - min(values)

    p99 = statistics.fmean(seen.p99 for seen in baseline)
    reasons = []
    if cost.goodput > max(tolerance.goodput, spread("goodput")):
        reasons.append(f"it costs {100 * cost.goodput:.1f} points of goodput without a fault")
    if cost.p99 > max((tolerance.p99 - 1) * p99, tolerance.p99_least, spread("p99")):
        reasons.append(f"it adds {1000 * cost.p99:.0f} ms to the p99 without a fault")
    if cost.attempts > tolerance.attempts:
        reasons.append(f"it makes {cost.attempts:.2f} times as many calls without a fault")
    return "; ".join(reasons)

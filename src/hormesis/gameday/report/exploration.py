"""One HTML page of an exploration: what became of every fault, what fails, and what each change would do about it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hormesis.chaos.journal import FILE_NAME, Episode, history
from hormesis.gameday.explore.counterfactual import Effect, Tried
from hormesis.gameday.explore.expedition import Expedition, Proposal
from hormesis.gameday.explore.hunt import Finding
from hormesis.gameday.explore.search import Fate, counts
from hormesis.gameday.report import charts
from hormesis.gameday.report.matrix import SYMBOLS, matrix_of
from hormesis.gameday.report.templates import drawn, write

__all__ = ["write_exploration"]

_PAIRS_SHOWN = 200
_LOOKS = {Fate.PRUNED: "pruned", Fate.LEFT_OUT: "left"}
"""The looks of what was not tried; all else looks as its verdict does."""


def write_exploration(expedition: Expedition, path: str | Path) -> None:
    """Write the page.

    Raises:
        OSError: It can't be written there.
    """
    hunt = expedition.hunt
    records = hunt.records
    singles = [record for record in records if len(record.injections) == 1]
    pairs = [record for record in records if len(record.injections) > 1]
    pairs.sort(key=lambda record: list(_ORDER).index(record.fate))
    write(
        path,
        "exploration.html.j2",
        expedition=expedition,
        hunt=hunt,
        symbols=SYMBOLS,
        looks=_LOOKS,
        counts={what: count for what, count in counts(records) if count},
        matrix=matrix_of(
            (record.injections[0].target, record.injections[0].kind.replace("_", " "), record) for record in singles
        ),
        pairs=pairs[:_PAIRS_SHOWN],
        more_pairs=max(0, len(pairs) - _PAIRS_SHOWN),
        findings=[_worked_out(expedition, number, finding) for number, finding in enumerate(hunt.findings)],
        undo_log=_undo_log(expedition),
    )


_ORDER = (Fate.FOUND, Fate.INCONCLUSIVE, Fate.DEGRADED, Fate.SURVIVED, Fate.LEFT_OUT, Fate.PRUNED)
"""The most telling first."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """One change of the policies: what it does under the fault."""

    tried: Tried
    after: float
    drawing: str


@dataclasses.dataclass(frozen=True, slots=True)
class _WorkedOut:
    """A finding, and all that was made of it."""

    finding: Finding
    case: str
    before: float
    changes: Sequence[_Change]
    untried: int
    proposal: Proposal | None
    diff: Sequence[tuple[str, str]]


def _worked_out(expedition: Expedition, number: int, finding: Finding) -> _WorkedOut:
    case = expedition.cases.get(number)
    least = finding.seen if finding.shrunk is None or finding.shrunk.seen is None else finding.shrunk.seen
    tried = [] if finding.fixes is None else list(finding.fixes.tried)
    tried.sort(key=lambda each: list(Effect).index(each.effect))
    proposal = expedition.proposal(finding)
    return _WorkedOut(
        finding=finding,
        case="" if case is None else str(case.path),
        before=least.goodput,
        changes=[_change(each, least.goodput) for each in tried if each.effect is not Effect.UNTRIED],
        untried=sum(each.effect is Effect.UNTRIED for each in tried),
        proposal=proposal,
        diff=[] if proposal is None else list(_diff(proposal.diff)),
    )


def _change(tried: Tried, before: float) -> _Change:
    after = math.nan if tried.under_fault is None else tried.under_fault.goodput
    return _Change(tried, after, drawn(charts.change(before, after, f"goodput under the fault with {tried.change}")))


def _diff(diff: str) -> Iterator[tuple[str, str]]:
    """Return the lines of a diff, each with the element that it is."""
    kinds = {"+": "ins", "-": "del"}
    for line in diff.splitlines():
        yield ("span" if line.startswith(("+++", "---")) else kinds.get(line[:1], "span")), line


def _undo_log(expedition: Expedition) -> list[Episode]:
    """Return what the journal says, times from its first fault on; nothing where it can't be read."""
    episodes: list[Episode] = []
    with suppress(OSError):
        episodes = history(expedition.out / FILE_NAME)
    start = min((each.began for each in episodes), default=0.0)
    return [
        dataclasses.replace(each, began=each.began - start, ended=None if each.ended is None else each.ended - start)
        for each in episodes
    ]

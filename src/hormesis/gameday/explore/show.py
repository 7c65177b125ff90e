"""What an exploration found, for people and for machines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hormesis.chaos import describe
from hormesis.errors import MissingExtraError
from hormesis.gameday.explore.counterfactual import Effect, Tried
from hormesis.gameday.explore.expedition import Expedition
from hormesis.gameday.explore.hunt import Finding, Hunt, Stage
from hormesis.gameday.explore.search import Fate, Record, counts
from hormesis.gameday.explore.trials import Injection, Seen, held
from hormesis.gameday.report.terminal import STYLES, text
from hormesis.gameday.results import Verdict
from hormesis.units import format_seconds

try:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.explore", "gameday") from error

__all__ = ["as_json", "print_exploration"]

_PAIRS_SHOWN = 20
_WIDE = 1_000
"""Characters that any table fits into."""


def print_exploration(expedition: Expedition, console: Console) -> None:
    """Print what became of every fault, what fails, and what contains it."""
    hunt = expedition.hunt
    records = hunt.records
    title = f"{expedition.experiment.title}: arm {expedition.arm} explored"
    console.print(text(title, "bold"))
    console.print(text(f"{hunt.budget.trials} trials in {format_seconds(round(expedition.seconds))}", "dim"))
    if hunt.controls:
        console.print(text(_steadiness(hunt.controls), "dim"))
    for case in hunt.replayed:
        console.print(text(f"corpus: {case.name} {case.outcome}"))
    if records:
        console.print()
        matrix = _matrix(records)
        fits = Measurement.get(console, console.options.update_width(_WIDE), matrix).maximum <= console.width
        console.print(matrix if fits else _by_place(records))
        console.print(text(", ".join(f"{count} {what}" for what, count in _counted(records)), "dim"))
    _print_pairs(records, console)
    for number, finding in enumerate(hunt.findings):
        console.print()
        _print_finding(expedition, number, finding, console)
    for trouble in expedition.unsaved:
        console.print(text(f"not saved: {trouble}", "bold red"))
    console.print()
    _print_conclusion(hunt, console)


def _steadiness(controls: Sequence[Seen]) -> str:
    """Say how steady the system was without a fault, between the trials."""
    runs = f"{len(controls)} runs without a fault in between, of which {sum(map(held, controls))} held"
    goodput, p99 = [100 * seen.goodput for seen in controls], [1000 * seen.p99 for seen in controls]
    return f"{runs}: goodput {_range(goodput, '.1f')} %, p99 {_range(p99, '.0f')} ms"


def _range(values: Sequence[float], spec: str) -> str:
    low, high = format(min(values), spec), format(max(values), spec)
    return low if low == high else f"{low} to {high}"


def _print_conclusion(hunt: Hunt, console: Console) -> None:
    if hunt.controls and not hunt.steady:
        why = "It does not hold its objectives without a fault, so nothing more can be found out:"
        console.print(text(why, "bold"))
        for reason in hunt.controls[-1].reasons:
            console.print(text(f"  {reason}"))
    elif hunt.survived:
        console.print(text("Nothing was found that it does not survive.", "bold green"))
    elif not hunt.findings:
        why = f"{hunt.unclear} of the {hunt.tried} that were tried can't be told" if hunt.tried else "nothing was tried"
        console.print(text(f"Nothing was found that it does not survive, but {why}.", "bold magenta"))


def _counted(records: list[Record]) -> Iterator[tuple[str, int]]:
    return ((what, count) for what, count in counts(records) if count)


def _matrix(records: list[Record]) -> Table:
    """Return the single faults: a row for each place, a column for each kind."""
    singles = _singles(records)
    kinds = list(dict.fromkeys(kind for _, kind in singles))
    table = Table("", *map(_words, kinds), box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.no_wrap = True
    for place in dict.fromkeys(target for target, _ in singles):
        table.add_row(text(place), *(_cell(singles.get((place, kind))) for kind in kinds))
    return table


def _by_place(records: list[Record]) -> Table:
    """Return the single faults for a narrow terminal: a row for each place, the kinds by what became of them."""
    singles = _singles(records)
    table = Table.grid(padding=(0, 2))
    for place in dict.fromkeys(target for target, _ in singles):
        for number, fate in enumerate(dict.fromkeys(r.fate for (at, _), r in singles.items() if at == place)):
            kinds = [_words(kind) for (at, kind), r in singles.items() if (at, r.fate) == (place, fate)]
            table.add_row(text(place if not number else ""), text(fate.value, _style(fate)), text(", ".join(kinds)))
    return table


def _singles(records: list[Record]) -> dict[tuple[str, str], Record]:
    singles = {record.injections[0].signature: record for record in records if len(record.injections) == 1}
    return dict(sorted(singles.items(), key=lambda each: each[0][0]))  # edges before processes


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _style(fate: Fate) -> str:
    return STYLES[Verdict(fate.value)] if fate.tried else "dim"


def _cell(record: Record | None) -> Text:
    if record is None:
        return Text("")
    return text(record.fate.value, _style(record.fate))


def _print_pairs(records: list[Record], console: Console) -> None:
    """Say which pairs fail or can't be told; those that hold are counted above."""
    told = [r for r in records if len(r.injections) == 2 and r.fate in (Fate.FOUND, Fate.INCONCLUSIVE)]
    for record in told[:_PAIRS_SHOWN]:
        what = " + ".join(map(str, record.injections))
        because = f" (tried because {record.suspected})" if record.suspected else ""
        console.print(
            Text.assemble(text(f"{what}: "), text(record.fate.value, _style(record.fate)), text(because, "dim"))
        )
    if len(told) > _PAIRS_SHOWN:
        console.print(text(f"... and {len(told) - _PAIRS_SHOWN} more pairs; --json has all", "dim"))


def _print_finding(expedition: Expedition, number: int, finding: Finding, console: Console) -> None:
    known = f" (known: {finding.known})" if finding.known else ""
    found = " + ".join(map(str, finding.injections))
    console.print(Text.assemble(text(f"{number + 1}. {found} fails", "bold red"), text(known, "dim")))
    seen = finding.seen
    for reason in seen.reasons[:3]:
        console.print(text(f"   {reason}"))
    if finding.shrunk is not None and finding.shrunk.steps:
        dose = "" if finding.least.dose is None else f", for {format_seconds(finding.least.dose)}"
        console.print(text(f"   the least that fails: {finding.least}{dose}"))
    if (case := expedition.cases.get(number)) is not None:
        console.print(text(f"   kept as {case.path}", "dim"))
    if finding.fixes is None:
        why = "no policy file is known" if expedition.protection is None else "no time was left to look for a fix"
        console.print(text(f"   {why}", "dim"))
        return
    for tried in sorted(finding.fixes.tried, key=lambda each: list(Effect).index(each.effect)):
        if tried.effect in (Effect.CONTAINS, Effect.AT_A_PRICE, Effect.HARMFUL):
            console.print(_tried(tried))
    rest = [tried for tried in finding.fixes.tried if tried.effect is Effect.DOES_NOT]
    left_out = [tried for tried in finding.fixes.tried if tried.effect is Effect.UNTRIED]
    console.print(text(f"   {len(rest)} changes do not contain it, {len(left_out)} were not tried", "dim"))
    if (proposal := expedition.proposal(finding)) is not None:
        console.print(text(f"   proposed: {proposal.change}", "bold"))
        console.print(Syntax(proposal.diff, "diff", background_color="default"))


def _tried(tried: Tried) -> Text:
    style = "bold green" if tried.effect is Effect.CONTAINS else "bold yellow"
    cost = f"; without a fault: {tried.cost}" if tried.cost is not None else ""
    return Text.assemble(text(f"   {tried.change}: "), text(tried.effect.value, style), text(cost))


def as_json(expedition: Expedition) -> dict[str, Any]:
    """Return everything as plain data."""
    hunt = expedition.hunt
    records = hunt.records
    return {
        "version": 1,
        "title": expedition.experiment.title,
        "file": str(expedition.file),
        "arm": expedition.arm,
        "seed": expedition.experiment.seed,
        "seconds": round(expedition.seconds, 1),
        "trials": hunt.budget.trials,
        "complete": hunt.stage is Stage.OVER,
        "steady": hunt.steady,
        "controls": [_control(each) for each in hunt.controls],
        "corpus": [{"case": each.name, "outcome": each.outcome.value} for each in hunt.replayed],
        "counts": dict(counts(records)),
        "explored": [
            {
                "faults": [_fault(each) for each in record.injections],
                "fate": record.fate.value,
                "why": record.why,
                "suspected": record.suspected,
                "runs": record.runs,
            }
            for record in records
        ],
        "findings": [_finding(expedition, number, each) for number, each in zip(itertools.count(), hunt.findings)],
    }


def _control(seen: Seen) -> dict[str, Any]:
    return {"verdict": seen.verdict.value, "goodput": seen.goodput, "p99": seen.p99, "reasons": list(seen.reasons)}


def _fault(injection: Injection) -> dict[str, Any]:
    return {"target": injection.target, "kind": injection.kind, "fault": describe(injection.fault)}


def _finding(expedition: Expedition, number: int, finding: Finding) -> dict[str, Any]:
    case = expedition.cases.get(number)
    proposal = expedition.proposal(finding)
    return {
        "faults": [_fault(each) for each in finding.injections],
        "known": finding.known,
        "reasons": list(finding.seen.reasons),
        "least": {
            "faults": [_fault(each) for each in finding.least.injections],
            "dose": finding.least.dose,
            "steps": [] if finding.shrunk is None else list(finding.shrunk.steps),
            "runs": 0 if finding.shrunk is None else finding.shrunk.runs,
        },
        "case": None if case is None else str(case.path),
        "changes": [_change(each) for each in finding.fixes.tried] if finding.fixes is not None else [],
        "named": None if proposal is None else proposal.change,
        "diff": None if proposal is None else proposal.diff,
    }


def _change(tried: Tried) -> dict[str, Any]:
    cost = tried.cost
    return {
        "change": tried.change,
        "effect": tried.effect.value,
        "why": tried.why,
        "cost": None if cost is None else {"goodput": cost.goodput, "p99": cost.p99, "attempts": cost.attempts},
    }

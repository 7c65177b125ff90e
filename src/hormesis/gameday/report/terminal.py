"""The report in a terminal: a table with a row for each stress and arm, then what it comes to in words.

The rows of a stress stand under its name, in columns that keep their place from stress to stress: so the name costs the
columns nothing, and the table fits into 80 characters. What is left of the width goes to the errors. A narrow terminal
gets the columns that matter most.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from hormesis.errors import MissingExtraError
from hormesis.gameday.report import words
from hormesis.gameday.report.matrix import stresses_by_place
from hormesis.gameday.results import GameDay, StressResult, Verdict

try:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.report", "gameday") from error

__all__ = ["STYLES", "print_report", "text"]

STYLES = {
    Verdict.SURVIVED: "bold green",
    Verdict.DEGRADED: "bold yellow",
    Verdict.FAILED: "bold red",
    Verdict.INCONCLUSIVE: "bold magenta",
}
"""How each verdict looks; the word is always there too."""

_ARM_WIDTH_MAX = 16
_KINDS_SHOWN = 3
_PLACES_MIN = 2
_FIGURES = {"goodput": 7, "degraded": 8, "p50": 6, "p99": 6, "back in": 7}
"""The columns of figures, and their widths."""
_NARROW = ("goodput", "p99", "back in")
"""Those that a narrow terminal gets, and no errors."""
_WIDTH_FULL = 72
_WIDE = 10_000
_WIDTH_MAX = 110
"""Characters to a line of prose: longer ones are hard to read on a wide terminal."""

Findings: TypeAlias = Iterator[tuple[str, list[str]]]
"""Sentences, and what they are about."""


def print_report(gameday: GameDay, console: Console, page: str | Path | None = None) -> None:
    """Print the table, the summary, and which parts of the policies acted.

    Args:
        gameday: The findings.
        console: Where to; rich leaves out colours when it is no terminal.
        page: The HTML page, to be pointed to.
    """
    console.print(text(gameday.title, "bold"))
    console.print(
        text(f"{gameday.rate:g} requests/s; figures of the phase in which the damage should be contained", "dim")
    )
    console.print()
    wide = console.width >= _WIDTH_FULL
    console.print(_columns(gameday, heading=True, wide=wide))
    for stress in gameday.stresses:
        where = text(f"  {stress.target}: {stress.fault}", "dim")
        console.print(Text.assemble(text(stress.name, "bold"), where))
        console.print(_rows(gameday, stress, wide=wide))
    console.print()
    _say(console, words.headline(gameday), "bold")
    for said in words.summary(gameday):
        _say(console, said)
    _print_matrix(console, gameday)
    _section(console, "Missed", _missed(gameday))
    _section(console, "After the trigger", _metastable(gameday))
    _section(console, "What acted", _acted(gameday))
    _section(console, "Noise and undo", _circumstances(gameday))
    if page is not None:
        console.print()
        console.print(text(f"Report: {page}"), soft_wrap=True)


def text(said: object, style: str = "") -> Text:
    """Return text that is printed as it is: no markup is read in it, and no control character is let through."""
    return Text("".join(char if char.isprintable() else " " for char in str(said)), style)


def _columns(gameday: GameDay, *, heading: bool, wide: bool) -> Table:
    """Return a table whose columns stand where those of its siblings stand: all but the last have fixed widths."""
    table = Table(box=None, expand=True, show_header=heading, pad_edge=False, collapse_padding=True, header_style="dim")
    arm_width = min(_ARM_WIDTH_MAX, max(map(len, gameday.arms), default=0))
    verdicts = {outcome.verdict for stress in gameday.stresses for outcome in stress.outcomes.values()}
    table.add_column(width=arm_width + 2, no_wrap=True)
    table.add_column(width=max(map(len, verdicts), default=0), no_wrap=True)
    for name, width in _FIGURES.items():
        if wide or name in _NARROW:
            table.add_column(name, width=width, justify="right")
    if wide:
        table.add_column("errors", ratio=1)
    return table


def _rows(gameday: GameDay, stress: StressResult, *, wide: bool) -> Table:
    table = _columns(gameday, heading=False, wide=wide)
    for outcome in stress.outcomes.values():
        stats = words.stats_of(outcome)
        figures = {
            "goodput": words.percent(words.goodput(stats)),
            "degraded": words.percent(words.share(stats, "degraded")),
            "p50": words.duration(stats.p50),
            "p99": words.duration(stats.p99),
            "back in": words.back_in(outcome),
        }
        table.add_row(
            text(f"  {outcome.arm}"),
            text(outcome.verdict, STYLES[outcome.verdict]),
            *(figure for name, figure in figures.items() if wide or name in _NARROW),
            *([text(words.errors(stats, _KINDS_SHOWN))] if wide else []),
        )
    return table


def _print_matrix(console: Console, gameday: GameDay) -> None:
    """Print places by kinds of fault, a letter for each arm, where there is room for it and more than one place."""
    found = stresses_by_place(gameday.stresses)
    if len(found.rows) < _PLACES_MIN:
        return
    arms = ", ".join(gameday.arms)
    letters = ", ".join(f"{verdict[0].upper()} {verdict}" for verdict in Verdict)
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    table.add_column("", no_wrap=True)
    for kind in found.kinds:
        table.add_column(kind, no_wrap=True)
    for place, row in found.rows.items():
        table.add_row(text(f"  {place}"), *(_cell(row.get(kind, ())) for kind in found.kinds))
    if table.__rich_measure__(console, console.options.update(max_width=_WIDE)).maximum <= console.width:
        console.print()
        console.print(Text("What survives what", "bold"))
        _say(console, f"for {arms}: {letters}", "dim", indent=2)
        console.print(table)


def _cell(found: Sequence[tuple[int, StressResult]]) -> Text:
    """Write the verdicts of all arms, of each stress."""
    cell = Text()
    for number, (_, stress) in enumerate(found):
        cell.append("; " if number else "")
        for place, outcome in enumerate(stress.outcomes.values()):
            cell.append(" " if place else "")
            cell.append(outcome.verdict[0].upper(), STYLES[outcome.verdict])
    return cell


def _missed(gameday: GameDay) -> Findings:
    for stress in gameday.stresses:
        missed = [outcome for outcome in stress.outcomes.values() if outcome.verdict is Verdict.FAILED]
        if missed:
            yield stress.name, [words.what_happened(outcome) for outcome in missed]


def _metastable(gameday: GameDay) -> Findings:
    for stress in gameday.stresses:
        for outcome in stress.outcomes.values():
            if outcome.hysteresis is not None:
                yield f"{stress.name}, {outcome.arm}", [words.metastable(outcome.hysteresis)]


def _circumstances(gameday: GameDay) -> Findings:
    """Say what the figures have in them that is not the system's, and whether anything was left in force."""
    outcomes = [outcome for stress in gameday.stresses for outcome in stress.outcomes.values()]
    if outcomes:
        worst = max(outcomes, key=lambda outcome: outcome.lag_p99)
        machines = [stress.noise for stress in gameday.stresses if stress.noise is not None]
        busiest = max(machines, key=lambda noise: (noise.busy, noise.load), default=None)
        said = [f"generator: {words.send_lag(worst)} at worst"]
        yield gameday.host, said if busiest is None else [*said, f"at its busiest: {words.machine(busiest)}"]
    if gameday.undo_log:
        left = [episode for episode in gameday.undo_log if episode.ended is None]
        said = [f"{episode}: {words.undone(episode)}" for episode in left]
        yield f"{words.counted(len(gameday.undo_log), 'entry', 'entries')} in the undo log", said or ["all undone"]


def _acted(gameday: GameDay) -> Findings:
    for stress in gameday.stresses:
        for outcome in stress.outcomes.values():
            if said := words.acted(outcome):
                yield f"{stress.name}, {outcome.arm}", said


def _section(console: Console, title: str, findings: Findings) -> None:
    for number, (about, sentences) in enumerate(findings):
        if number == 0:
            console.print()
            console.print(Text(title, "bold"))
        _say(console, about, indent=2)
        for said in sentences:
            _say(console, said, "dim", indent=4)


def _say(console: Console, said: str, style: str = "", indent: int = 0) -> None:
    """Print a paragraph with its lines indented, the first a little less when there is an indent at all."""
    width = min(console.width, _WIDTH_MAX)
    hanging = " " * (indent + 2 if indent else 0)
    plain = words.unbroken(text(said).plain)
    wrapped = textwrap.fill(
        plain, width, initial_indent=" " * indent, subsequent_indent=hanging, break_on_hyphens=False
    )
    console.print(Text(wrapped.replace("\u00a0", " "), style), soft_wrap=True)

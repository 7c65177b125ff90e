"""The report in a terminal: a table with a row for each stress and arm, then what it comes to in words.

The rows of a stress stand under its name, in columns that keep their place from stress to stress: so the name costs the
columns nothing, and the table fits into 80 characters. What is left of the width goes to the errors.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from hormesis.errors import MissingExtraError
from hormesis.gameday.report import words
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
    console.print(_columns(gameday, heading=True))
    for stress in gameday.stresses:
        where = text(f"  {stress.target}: {stress.fault}", "dim")
        console.print(Text.assemble(text(stress.name, "bold"), where))
        console.print(_rows(gameday, stress))
    console.print()
    _say(console, words.headline(gameday), "bold")
    for said in words.summary(gameday):
        _say(console, said)
    _section(console, "Missed", _missed(gameday))
    _section(console, "What acted", _acted(gameday))
    if page is not None:
        console.print()
        console.print(text(f"Report: {page}"), soft_wrap=True)


def text(said: object, style: str = "") -> Text:
    """Return text that is printed as it is: no markup is read in it, and no control character is let through."""
    return Text("".join(char if char.isprintable() else " " for char in str(said)), style)


def _columns(gameday: GameDay, *, heading: bool) -> Table:
    """Return a table whose columns stand where those of its siblings stand: all but the last have fixed widths."""
    table = Table(box=None, expand=True, show_header=heading, pad_edge=False, collapse_padding=True, header_style="dim")
    arm_width = min(_ARM_WIDTH_MAX, max(map(len, gameday.arms), default=0))
    verdicts = {outcome.verdict for stress in gameday.stresses for outcome in stress.outcomes.values()}
    table.add_column(width=arm_width + 2, no_wrap=True)
    table.add_column(width=max(map(len, verdicts), default=0), no_wrap=True)
    for name, width in (("goodput", 7), ("degraded", 8), ("p50", 6), ("p99", 6), ("back in", 7)):
        table.add_column(name, width=width, justify="right")
    table.add_column("errors", ratio=1)
    return table


def _rows(gameday: GameDay, stress: StressResult) -> Table:
    table = _columns(gameday, heading=False)
    for outcome in stress.outcomes.values():
        stats = words.stats_of(outcome)
        table.add_row(
            text(f"  {outcome.arm}"),
            text(outcome.verdict, STYLES[outcome.verdict]),
            words.percent(words.goodput(stats)),
            words.percent(words.share(stats, "degraded")),
            words.duration(stats.p50),
            words.duration(stats.p99),
            words.back_in(outcome),
            text(words.errors(stats, _KINDS_SHOWN)),
        )
    return table


def _missed(gameday: GameDay) -> Findings:
    for stress in gameday.stresses:
        missed = [outcome for outcome in stress.outcomes.values() if outcome.verdict is Verdict.FAILED]
        if missed:
            yield stress.name, [words.what_happened(outcome) for outcome in missed]


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

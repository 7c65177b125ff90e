"""One HTML page of a game day, complete in itself: no network, no scripts, no fonts; it can be mailed and kept.

The page is a template filled with the findings. Everything that comes from the experiment's file, or from the system
under stress, is escaped.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from hormesis.chaos.journal import Episode
from hormesis.gameday.metastability import State
from hormesis.gameday.report import charts, words
from hormesis.gameday.report.matrix import SYMBOLS, TOGETHER, stresses_by_place
from hormesis.gameday.report.templates import drawn, write
from hormesis.gameday.results import Check, GameDay, Outcome, Phase, StressResult

__all__ = ["write_page"]

_JUDGED = ("judged-1", "judged-2", "judged-3")
_OTHERS = ("other-1", "other-2", "other-3")


def write_page(gameday: GameDay, path: str | Path) -> None:
    """Write the page.

    Raises:
        OSError: It can't be written there.
    """
    colours = _colours(gameday)
    write(
        path,
        "page.html.j2",
        gameday=gameday,
        colours=colours,
        symbols=SYMBOLS,
        together=TOGETHER,
        matrix=stresses_by_place(gameday.stresses),
        apart={arm: _apart(gameday, arm) for arm in gameday.arms},
        pictures=_pictures(gameday, colours),
        changes=list(_changes(gameday)),
        checks=[_checks(stress) for stress in gameday.stresses],
        undo_log=[(episode, *_stressed(gameday, episode)) for episode in gameday.undo_log],
        phases=list(Phase),
        routes=list(gameday.routes),
        apart_drawn=any(
            each.degraded
            for stress in gameday.stresses
            for arm in gameday.judged
            for each in stress.outcomes[arm].timeline
        ),
        repeated=any(len(outcome.attempts) for stress in gameday.stresses for outcome in stress.outcomes.values()),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Pictures:
    """The drawings of one stress: all arms over each other, then each, then what freed those that were stuck."""

    comparison: str
    courses: dict[str, str]
    hysteresis: dict[str, str]


def _pictures(gameday: GameDay, colours: dict[str, str]) -> list[_Pictures]:
    look = charts.look_of(gameday)
    return [
        _Pictures(
            comparison=drawn(charts.comparison(stress, colours, gameday.judged, look)),
            courses={arm: drawn(charts.course(stress, outcome, look)) for arm, outcome in stress.outcomes.items()},
            hysteresis={
                arm: drawn(charts.hysteresis(outcome.hysteresis, arm))
                for arm, outcome in stress.outcomes.items()
                if outcome.hysteresis is not None and outcome.hysteresis.state is not State.RECOVERED
            },
        )
        for stress in gameday.stresses
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """What became of one stress from an arm that is not judged to one that is."""

    number: int
    stress: StressResult
    before: Outcome
    after: Outcome
    drawing: str
    acted: list[str]


def _changes(gameday: GameDay) -> Iterator[_Change]:
    """Compare each judged arm with the first that is not."""
    before = next((arm for arm in gameday.arms if arm not in gameday.judged), None)
    if before is None:
        return
    for arm in gameday.judged:
        for number, stress in enumerate(gameday.stresses, 1):
            one, other = stress.outcomes[before], stress.outcomes[arm]
            was, is_now = (words.useful(words.stats_of(each)) for each in (one, other))
            drawing = charts.change(was, is_now, f"good or degraded answers under {stress.name}, {before} and {arm}")
            parts = dict.fromkeys(part.part.replace("_", " ") for part in other.acted if any(part.counts.values()))
            yield _Change(number, stress, one, other, drawn(drawing), list(parts))


def _colours(gameday: GameDay) -> dict[str, str]:
    """Give each arm a colour: judged arms and the others have families of their own."""
    judged, others = itertools.cycle(_JUDGED), itertools.cycle(_OTHERS)
    return {arm: next(judged if arm in gameday.judged else others) for arm in gameday.arms}


def _apart(gameday: GameDay, arm: str) -> list[str]:
    """Return which answers of an arm are worth a column of their own, beside those that count as goodput."""
    found = [words.stats_of(stress.outcomes[arm]) for stress in gameday.stresses]
    return [share for share in words.APART if any(getattr(stats, share) for stats in found)]


def _checks(stress: StressResult) -> dict[tuple[str, Phase, str, float], dict[str, Check]]:
    """Return the checks by objective, then by arm, so that a row can hold the arms side by side."""
    rows: dict[tuple[str, Phase, str, float], dict[str, Check]] = {}
    for arm, outcome in stress.outcomes.items():
        for check in outcome.checks:
            rows.setdefault((check.route, check.phase, check.metric, check.wanted), {})[arm] = check
    return rows


def _stressed(gameday: GameDay, episode: Episode) -> tuple[str, str]:
    """Return the stress that a fault belongs to, and what was seen of the steady state after it; empty for none."""
    for stress in gameday.stresses:
        outcomes = [each for each in stress.outcomes.values() if episode.arm in ("", each.arm)]
        for outcome in outcomes:
            start = outcome.started - gameday.started
            if start <= episode.began <= start + max((window.end for window in outcome.phases.values()), default=0.0):
                unwell = [each.arm for each in outcomes if not each.steady]
                return stress.name, f"not back to normal: {', '.join(unwell)}" if unwell else "back to normal"
    return "", ""

"""One HTML page of a game day, complete in itself: no network, no scripts, no fonts; it can be mailed and kept.

The page is a template filled with the findings. Everything that comes from the experiment's file, or from the system
under stress, is escaped by the template engine; only the drawings, which hold no such text, are put in as they are.
"""

from __future__ import annotations

import itertools
from importlib.resources import files
from pathlib import Path

from hormesis.errors import MissingExtraError
from hormesis.gameday.report import plots, words
from hormesis.gameday.results import Check, GameDay, Phase, StressResult

try:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.report", "gameday") from error

__all__ = ["write_page"]

_JUDGED = ("--judged-1", "--judged-2", "--judged-3")
_CONTROLS = ("--control-1", "--control-2", "--control-3")


def write_page(gameday: GameDay, path: str | Path) -> None:
    """Write the page.

    Raises:
        OSError: It can't be written there.
    """
    latencies = plots.latency_range(gameday)
    colours = _colours(gameday)
    timelines = [
        plots.timeline(stress, colours=colours, judged=gameday.judged, latencies=latencies, key=f"timeline-{number}")
        for number, stress in enumerate(gameday.stresses, 1)
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["unbroken"] = words.unbroken
    template = environment.from_string(files("hormesis.gameday.report").joinpath("page.html.j2").read_text("utf-8"))
    page = template.render(
        gameday=gameday,
        words=words,
        phases=list(Phase),
        routes=list(gameday.routes),
        checks=[_checks(stress) for stress in gameday.stresses],
        colours=colours,
        apart={arm: _apart(gameday, arm) for arm in gameday.arms},
        repeated=any(len(outcome.attempts) for stress in gameday.stresses for outcome in stress.outcomes.values()),
        timelines=[Markup(timeline) for timeline in timelines],  # noqa: S704  drawn here, from numbers alone
    )
    # A file name may hold bytes that are no text; they must not cost anyone the report.
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def _colours(gameday: GameDay) -> dict[str, str]:
    """Give each arm a CSS variable: judged arms and the others have families of colours of their own."""
    judged, controls = itertools.cycle(_JUDGED), itertools.cycle(_CONTROLS)
    return {arm: next(judged if arm in gameday.judged else controls) for arm in gameday.arms}


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

"""How an exploration goes, while it goes: a line for each trial; on a terminal, under these, what is tried right now.

It is an instrument: when it raises, it is taken off and logged, and the exploration goes on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from hormesis.errors import MissingExtraError
from hormesis.gameday.explore.hunt import Stage
from hormesis.gameday.explore.trials import Budget, Seen, Trial
from hormesis.gameday.observing import Quiet
from hormesis.gameday.report.terminal import STYLES, text
from hormesis.gameday.results import Verdict
from hormesis.loadgen import Samples
from hormesis.units import format_seconds

try:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.explore", "gameday") from error

__all__ = ["Progress"]

_REDRAW_SECONDS = 0.2


def _guarded(tell: Callable[..., None]) -> Callable[..., None]:
    """Have a method of `Progress` do nothing any more once one has raised."""

    @functools.wraps(tell)
    def guarded(self: Progress, *told: Any) -> None:
        if self.broken:
            return
        try:
            tell(self, *told)
        except Exception:
            self.broken = True
            with contextlib.suppress(Exception):
                self.live.stop()
            logging.getLogger("hormesis.gameday").exception("the progress display raised and was taken off")

    return guarded


class Progress(Quiet):
    """Tells of an exploration, and of the runs that its trials are.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self.broken = False
        self._console = console
        self._redraws = console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only
        self._budget: Budget | None = None
        self._doing = self._phase = ""
        self._phase_ends = self._drawn = 0.0
        self._verdicts = dict.fromkeys(Verdict, 0)
        # Nothing is redrawn by a thread: what is told is told often enough.
        self.live = Live(
            console=console,
            get_renderable=self._picture,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        )

    @_guarded
    def begins(self, stage: Stage, trial: Trial, budget: Budget) -> None:
        """A trial begins."""
        self._budget, self._doing = budget, f"{stage}: {trial}"
        self._phase, self._phase_ends = "", 0.0
        self._draw()

    @_guarded
    def ended(self, stage: Stage, trial: Trial, seen: Seen, budget: Budget) -> None:
        """A trial is over."""
        self._verdicts[seen.verdict] += bool(trial.injections)
        left = max(0.0, budget.seconds - budget.spent - seen.seconds)
        self._console.print(
            Text.assemble(
                (f"{format_seconds(round(left)):>7} left  ", "dim"),
                text(f"{stage}: {trial}: "),
                text(seen.verdict, STYLES[seen.verdict]),
            ),
            soft_wrap=True,
        )
        self._draw()

    @_guarded
    def step(self, text: str) -> None:
        """Something is being done besides."""
        self._phase = text
        self._phase_ends = 0.0
        self._draw()

    @_guarded
    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        """A phase of a trial begins."""
        self._phase, self._phase_ends = phase, time.monotonic() + seconds
        self._draw()

    @_guarded
    def samples(self, arm: str, samples: Samples) -> None:
        """Answers came: time to redraw."""
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    @_guarded
    def close(self) -> None:
        """It is over."""
        self.live.stop()

    def _draw(self) -> None:
        if self._redraws:
            self._drawn = time.monotonic()
            self.live.start()
            self.live.refresh()

    def _picture(self) -> RenderableType:
        spent, whole = (0.0, 1.0) if self._budget is None else (self._budget.spent, self._budget.seconds)
        overall = Table.grid(padding=(0, 2), expand=True)
        overall.add_column(ratio=1)
        overall.add_column(no_wrap=True)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self._verdicts.items() if count)
        bar = ProgressBar(max(whole, spent), spent, complete_style="cyan", finished_style="cyan")
        overall.add_row(bar, text(counts or "no trial yet", "dim"))
        left = max(0.0, self._phase_ends - time.monotonic())
        phase = f"{self._phase}, {left:.0f} s left" if left else self._phase
        lines = [text(self._doing), text(f"  {phase}", "dim")]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(overall, *lines)

"""How a game day goes, while it goes: an observer that the runner tells of each step.

On a terminal a few lines are redrawn in place; elsewhere each step is a line. Both go to stderr, so that stdout stays
free for the report. An observer is an instrument: one that fails is taken off and logged, and the run goes on.

Nothing is redrawn by a thread. The runner's own calls are frequent enough, and what runs inside them can be guarded.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from hormesis.errors import MissingExtraError
from hormesis.gameday.observing import Observer
from hormesis.gameday.report import words
from hormesis.gameday.report.terminal import STYLES, text
from hormesis.gameday.results import Outcome, Phase
from hormesis.loadgen import Answer, Samples

try:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.report", "gameday") from error

__all__ = ["Observer", "PatientConsole", "observer"]

_REDRAW_SECONDS = 0.2
_HISTORY_SECONDS = 24
_BARS = "▁▂▃▄▅▆▇█"
_TOLD = (Answer.FULL, Answer.DEGRADED, Answer.FAILED)
"""Answers that are told of even when there are none."""


def observer(console: Console | None = None) -> Observer:
    """Return what suits the console: live progress on a terminal that can redraw, a line for each step elsewhere.

    Args:
        console: Where to write; stderr by default.
    """
    console = console or PatientConsole(stderr=True)
    live = console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only
    return _Guarded(_Live(console) if live else _Lines(console))


class PatientConsole(Console):
    """A console whose reader may leave: an error like any other, which ends neither the process nor its stdout."""

    def on_broken_pipe(self) -> None:
        """Raise, where rich would end the process."""
        raise BrokenPipeError


class _Guarded:
    """Passes everything on until that raises once."""

    def __init__(self, inner: Observer) -> None:
        self._inner: Observer | None = inner

    def plan(self, title: str, seconds: float, stresses: Sequence[str], arms: Sequence[str]) -> None:
        self._tell(lambda inner: inner.plan(title, seconds, stresses, arms))

    def step(self, text: str) -> None:
        self._tell(lambda inner: inner.step(text))

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        self._tell(lambda inner: inner.phase(arm, stress, phase, seconds))

    def samples(self, arm: str, samples: Samples) -> None:
        self._tell(lambda inner: inner.samples(arm, samples))

    def outcome(self, stress: str, outcome: Outcome) -> None:
        self._tell(lambda inner: inner.outcome(stress, outcome))

    def close(self) -> None:
        self._tell(lambda inner: inner.close())

    def _tell(self, call: Callable[[Observer], None]) -> None:
        if self._inner is None:
            return
        try:
            call(self._inner)
        except Exception:
            broken, self._inner = self._inner, None
            with contextlib.suppress(Exception):
                broken.close()
            logging.getLogger("hormesis.gameday").exception("the progress display raised and was taken off")


class _Lines:
    """A line for each step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def plan(self, title: str, seconds: float, stresses: Sequence[str], arms: Sequence[str]) -> None:
        self._began = time.monotonic()
        what = f"{words.counted(len(stresses), 'stress', 'stresses')} on {' and '.join(arms)}"
        self._say(f"{title}: {what}, about {words.duration(seconds)}")

    def step(self, text: str) -> None:
        self._say(text)

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        lasts = words.duration(seconds)
        match phase:
            case Phase.CALM:
                self._say(f"{stress}: {arm} begins, calm for {lasts}")
            case Phase.DETECTION:
                self._say(f"{stress}: {arm}, the dose begins")
            case Phase.RECOVERING:
                self._say(f"{stress}: {arm}, the dose has ended")

    def samples(self, arm: str, samples: Samples) -> None:
        """Lines tell of steps only."""

    def outcome(self, stress: str, outcome: Outcome) -> None:
        self._say(f"{stress}: ", _verdict(outcome))

    def close(self) -> None:
        """There is nothing to put away."""

    def _say(self, said: str, ending: Text | None = None) -> None:
        since = f"{time.monotonic() - self._began:6.1f} s  "
        self._console.print(Text.assemble((since, "dim"), text(said), ending or ""), soft_wrap=True)


class _Live:
    """A few lines, redrawn in place; verdicts stay above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""
        self._seconds = 0.0
        self._began = time.monotonic()
        self._doing = ""
        self._arms: dict[str, _Arm] = {}
        self._drawn = 0.0
        # stdout is left alone: it may go to a file or another program.
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        )

    def plan(self, title: str, seconds: float, stresses: Sequence[str], arms: Sequence[str]) -> None:
        self._title, self._seconds, self._began = title, seconds, time.monotonic()
        self._arms = {arm: _Arm() for arm in arms}
        self._draw()

    def step(self, text: str) -> None:
        self._doing = text
        self._draw()

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        self._arm(arm).begin(stress, phase, seconds)
        self._doing = ""
        self._draw()

    def samples(self, arm: str, samples: Samples) -> None:
        self._arm(arm).take(samples)
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def outcome(self, stress: str, outcome: Outcome) -> None:
        self._console.print(Text.assemble(text(f"{stress}: "), _verdict(outcome)))
        self._draw()

    def close(self) -> None:
        self._live.stop()

    def _arm(self, name: str) -> _Arm:
        return self._arms.setdefault(name, _Arm())

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.start()
        self._live.refresh()

    def _picture(self) -> RenderableType:
        elapsed = time.monotonic() - self._began
        left = max(0.0, self._seconds - elapsed)
        overall = Table.grid(padding=(0, 2), expand=True)
        overall.add_column(ratio=1)
        overall.add_column(no_wrap=True)
        overall.add_row(
            ProgressBar(max(self._seconds, elapsed), elapsed, complete_style="cyan", finished_style="cyan"),
            Text(f"{_clock(elapsed)} gone, {_clock(left)} left", style="dim"),
        )
        lines = [line for name, arm in self._arms.items() for line in arm.lines(name)]
        doing = [text(self._doing, "dim")] if self._doing else []
        return Group(text(self._title, "bold"), overall, *lines, *doing)


class _Arm:
    """What is known of an arm at the moment: its phase, and the answers of the last seconds."""

    def __init__(self) -> None:
        self._stress = self._phase = ""
        self._ends = 0.0
        self._second = int(time.monotonic())
        self._counting = [0] * len(Answer)
        self._history: deque[list[int]] = deque(maxlen=_HISTORY_SECONDS)

    def begin(self, stress: str, phase: str, seconds: float) -> None:
        self._stress, self._phase, self._ends = stress, phase, time.monotonic() + seconds

    def take(self, samples: Samples) -> None:
        second = int(time.monotonic())
        for _ in range(min(second - self._second, _HISTORY_SECONDS)):
            self._history.append(self._counting)
            self._counting = [0] * len(Answer)
        self._second = second
        for answer in Answer:
            self._counting[answer] += samples.answer.count(answer)

    def lines(self, name: str) -> list[Text]:
        left = max(0.0, self._ends - time.monotonic())
        doing = f"  {self._stress}: {self._phase}, {left:.0f} s left" if self._phase else ""
        lines = [Text.assemble(text(name, "bold"), text(doing))]
        if self._history:
            latest = self._history[-1]
            counts = (
                f"{latest[answer]} {answer.name.lower()}" for answer in Answer if latest[answer] or answer in _TOLD
            )
            figures = f"  {sum(latest)}/s: {', '.join(counts)}  "
            lines.append(Text(figures + _sparkline(self._history), style="dim"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines


def _sparkline(seconds: Sequence[list[int]]) -> str:
    """Draw the full answers of each second, against the most answers of any kind."""
    most = max(1, *(sum(counts) for counts in seconds))
    return "".join(_BARS[round(counts[Answer.FULL] / most * (len(_BARS) - 1))] for counts in seconds)


def _verdict(outcome: Outcome) -> Text:
    share = words.percent(words.goodput(words.stats_of(outcome)))
    verdict = text(outcome.verdict, STYLES[outcome.verdict])
    return Text.assemble(text(f"{outcome.arm} "), verdict, f", goodput {share} in contained")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

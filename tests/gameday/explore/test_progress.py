"""Progress: what is tried is told, and a display that fails ends nothing."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from hormesis.chaos import Latency
from hormesis.gameday.explore.hunt import Stage
from hormesis.gameday.explore.progress import Progress
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial
from hormesis.gameday.results import Verdict

TRIAL = Trial((Injection("edge", "payments", Latency("2s")),))
SEEN = Seen(verdict=Verdict.FAILED, seconds=10.0)


def told(console: Console) -> Progress:
    """Tell of one trial."""
    progress, budget = Progress(console), Budget(60.0, 10.0)
    progress.begins(Stage.SEARCH, TRIAL, budget)
    progress.phase("protected", "trial", "calm", 3.0)
    progress.step("starting storefront")
    progress.ended(Stage.SEARCH, TRIAL, SEEN, budget)
    progress.close()
    return progress


def test_a_line_for_each_trial() -> None:
    """Where nothing can be redrawn, a trial is a line."""
    file = io.StringIO()
    assert not told(Console(file=file, width=120)).broken
    assert file.getvalue() == "    50s left  exploring: edge payments: latency 2s: failed\n"


def test_on_a_terminal_it_is_redrawn() -> None:
    """There it says what is being done, and what came of it so far."""
    file = io.StringIO()
    assert not told(Console(file=file, width=120, force_terminal=True, _environ={})).broken
    for said in ("calm, 3 s left", "starting storefront", "no trial yet", "1 failed"):
        assert said in file.getvalue()


def test_a_reader_who_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """A display that can't be written to is taken off, once, and said in the log."""
    file = io.StringIO()
    file.close()
    with caplog.at_level(logging.ERROR, "hormesis.gameday"):
        assert told(Console(file=file, width=120)).broken
    assert len(caplog.records) == 1

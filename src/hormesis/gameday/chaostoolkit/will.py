"""The rollbacks of a run that was killed: written down before the method, played by the watchdog.

The undo journal (`hormesis.chaos.journal`) holds one entry for an experiment: run this package with the path of a file
that has all that the rollbacks need. The file is readable by its owner alone, since it holds the environment and what
was made of secrets, and it is gone as soon as the experiment has ended in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

from hormesis.chaos import Keeper
from hormesis.chaos.journal import Entry
from hormesis.chaos.undo import Run
from hormesis.gameday.chaostoolkit.values import Table, Values

__all__ = ["Will"]

_WITHIN = 60.0
"""Seconds that the rollbacks have when the watchdog plays them."""


class Will:
    """What is to be done if this process dies in the middle of an experiment.

    Args:
        keeper: Who carries it out; it has an undo journal.
        journal: The experiment's journal, which then gets what came of the rollbacks.
    """

    def __init__(self, keeper: Keeper, journal: Path) -> None:
        self._keeper = keeper
        self._journal = journal
        self._file = journal.with_name("rollbacks.json")
        self._entry: Entry | None = None

    async def arm(self, experiment: Table, values: Values) -> None:
        """Write it down.

        Raises:
            OSError: It can't be written.
        """
        if not experiment.get("rollbacks"):
            return
        will = {
            "journal": os.fspath(self._journal.absolute()),
            "experiment": experiment,
            "configuration": values.configuration,
            "secrets": values.secrets,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "path": sys.path,
        }
        await asyncio.to_thread(self._write, json.dumps(will, default=str))

    def _write(self, text: str) -> None:
        with open(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        argv = [sys.executable, "-m", "hormesis.gameday.chaostoolkit", os.fspath(self._file.absolute())]
        if self._keeper.journal is not None:
            self._entry = self._keeper.journal.enter("the rollbacks of the experiment", [Run(argv, within=_WITHIN)])

    async def disarm(self) -> None:
        """Take it back: the rollbacks have been played."""
        await asyncio.to_thread(self._revoke)

    def _revoke(self) -> None:
        if self._entry is not None and self._keeper.journal is not None:
            with contextlib.suppress(OSError):  # they would be played once more, which a rollback stands
                self._keeper.journal.tick(self._entry)
        self._file.unlink(missing_ok=True)

"""The journal of an experiment: everything that happened, in the Chaos Toolkit's documented form.

Ours adds one thing: under `steady_states` also `restored`, the hypothesis once more after the rollbacks. It is written
whenever something has happened, each time as a whole, so a run that is killed leaves one as well; it says "interrupted"
until it is finished.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import json
import os
import platform
import uuid
from pathlib import Path
from typing import Any, Literal

from hormesis.gameday.chaostoolkit.values import Table
from hormesis.version import __version__

__all__ = ["Journal", "Status", "now", "seconds_between"]

Status = Literal["completed", "failed", "aborted", "interrupted"]
"""How an experiment ended, in the words of the journal's readers."""


class Journal:
    """What happened so far.

    Args:
        experiment: The file; the journal holds a copy of it as it is now.
        path: Where to write it; None writes nowhere.

    Raises:
        OSError: It can't be written.
    """

    def __init__(self, experiment: Table, path: Path | None = None) -> None:
        self._path = path
        self.trouble: OSError | None = None
        """Why the last writing of it failed; the experiment goes on, as its rollbacks matter more."""
        self.run: list[Table] = []
        """What came of the method's activities."""
        self.rollbacks: list[Table] = []
        """What came of the rollbacks."""
        self.steady_states: Table = {"before": None, "after": None, "during": [], "restored": None}
        """What came of the hypothesis, each time."""
        self.table: Table = {
            "hormesis-version": __version__,
            "platform": platform.platform(),
            "node": platform.node(),
            "experiment": copy.deepcopy(experiment),
            "start": now(),
            "status": "interrupted",
            "deviated": False,
            "steady_states": self.steady_states,
            "run": self.run,
            "rollbacks": self.rollbacks,
        }
        self._write()

    @classmethod
    def resume(cls, path: Path) -> Journal:
        """Return the journal of a run that was killed, to go on with.

        Raises:
            OSError: It can't be read.
        """
        table: Table = json.loads(path.read_text(encoding="utf-8"))
        journal = cls(table["experiment"])
        journal._path = path
        journal.table = table
        journal.steady_states, journal.run, journal.rollbacks = (
            table[name] for name in ("steady_states", "run", "rollbacks")
        )
        return journal

    @property
    def status(self) -> Status:
        """How it ended; "interrupted" until it has."""
        status: Status = self.table["status"]
        return status

    @status.setter
    def status(self, status: Status) -> None:
        self.table["status"] = status

    @property
    def deviated(self) -> bool:
        """Whether the steady state was lost during or after the method."""
        return bool(self.table["deviated"])

    @deviated.setter
    def deviated(self, deviated: bool) -> None:
        self.table["deviated"] = deviated

    def finish(self) -> None:
        """Say when it ended, and write it for the last time."""
        start, end = self.table["start"], now()
        self.table.update(end=end, duration=seconds_between(start, end))
        self.save()

    def save(self) -> None:
        """Write it, all or nothing; what keeps it from being written is in `trouble`."""
        self.trouble = None
        try:
            self._write()
        except OSError as error:
            self.trouble = error

    def _write(self) -> None:
        if self._path is None:
            return
        written = self._path.with_name(self._path.name + ".part")
        written.write_text(self.to_json(), encoding="utf-8")
        os.replace(written, self._path)

    def to_json(self) -> str:
        """Return it as JSON; what JSON does not know is told in words."""
        try:
            return json.dumps(self.table, indent=2, ensure_ascii=False, default=_plain, skipkeys=True)
        except (ValueError, RecursionError):  # An output that holds itself.
            worded = {**self.table, "steady_states": repr(self.steady_states)}
            worded.update({name: [_worded(run) for run in self.table[name]] for name in ("run", "rollbacks")})
            return json.dumps(worded, indent=2, ensure_ascii=False, default=_plain, skipkeys=True)


def _worded(run: Table) -> Table:
    return {**run, "output": repr(run.get("output"))}


def _plain(value: Any) -> Any:
    match value:
        case datetime.date():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case bytes():
            return value.decode(errors="replace")
        case set() | frozenset():
            return list(value)
        case _:
            return repr(value)


def now() -> str:
    """Return the time of the day as RFC 3339 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two such times."""
    return (datetime.datetime.fromisoformat(end) - datetime.datetime.fromisoformat(start)).total_seconds()

"""Play the rollbacks of a run that was killed: what its will says (`will`), which is what the watchdog runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from hormesis.gameday.chaostoolkit.journal import Journal
from hormesis.gameday.chaostoolkit.runner import Experiment, Settings
from hormesis.gameday.chaostoolkit.values import Table, Values

__all__ = ["main"]


def main(will_file: str) -> int:
    """Play them; 0 if all of them succeeded."""
    will: Table = json.loads(Path(will_file).read_text(encoding="utf-8"))
    os.environ.clear()
    os.environ.update(will["environment"])
    os.chdir(will["folder"])
    sys.path[:] = will["path"]
    journal = Journal.resume(Path(will["journal"]))
    values = Values(will["configuration"], will["secrets"])
    asyncio.run(Experiment(will["experiment"], values, Settings(), journal, say=_say).undo())
    journal.finish()
    Path(will_file).unlink(missing_ok=True)
    return 0 if all(run["status"] == "succeeded" for run in journal.rollbacks) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201  # the watchdog tells it if they fail


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

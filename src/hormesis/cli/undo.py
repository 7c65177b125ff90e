"""`hormesis undo`: take back what a game day left in force, by its journal.

The watchdog does this at once when a game day dies. This is for when the watchdog died too, or could not do it. It may
be run as often as one likes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hormesis.chaos.journal import FILE_NAME, recover
from hormesis.errors import ConfigurationError

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Undo what is outstanding; 1 if something could not be undone."""
    folder = Path(options.dir)
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {options.dir!r}; name the --out of the game day")
    done = recover(folder / FILE_NAME)
    for undone in done:
        print(f"{'NOT undone' if undone.why else 'undone'}: {undone.entry}")
        if undone.why:
            print(f"  {undone.why}")
    if not done:
        print(f"nothing to undo: no fault of a game day in {folder} is in force")
    stuck = sum(bool(undone.why) for undone in done)
    if stuck:
        print(f"{stuck} of {len(done)} could not be undone; run this again when the reason is gone")
    return 1 if stuck else 0

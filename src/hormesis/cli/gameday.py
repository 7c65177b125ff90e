"""`hormesis gameday`: read, run, report.

The first Ctrl-C (or SIGTERM, or a closed terminal) ends the game day in order: faults are undone, processes stopped.
Further ones are ignored while that happens; it takes a few seconds at most.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from hormesis.cli.shell import folder, until_interrupted
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import load_experiment
from hormesis.gameday.report import PatientConsole, as_json, observer, print_report, write_page
from hormesis.gameday.results import GameDay
from hormesis.gameday.runner import hold

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Hold a game day; 0 only if every judged arm held its objectives."""
    experiment = load_experiment(options.file)
    if options.seed is not None:
        experiment = dataclasses.replace(experiment, seed=options.seed)
    stresses = experiment.chosen(options.only, everything=options.all)
    for arm in options.arm:
        if arm not in experiment.arm:
            raise ConfigurationError(f"--arm: {ConfigurationError.unknown('arm', arm, experiment.arm)}")
    arms = [arm for arm in experiment.arm if not options.arm or arm in options.arm]
    with folder(options.out) as out:
        watcher = observer()
        try:
            gameday, interrupted_by = until_interrupted(
                hold(experiment, stresses, arms, file=options.file, out=out, observer=watcher)
            )
        finally:
            watcher.close()
        if gameday is None:
            print("hormesis: interrupted; every fault is undone and every process is stopped", file=sys.stderr)
            return 128 + interrupted_by
        _report(gameday, out, as_data=options.json)
    return 0 if gameday.held else 1


def _report(gameday: GameDay, out: Path, *, as_data: bool) -> None:
    """Write the page and the data, and print; what can't be written is said after what was found."""
    page, trouble = out / "report.html", None
    try:
        write_page(gameday, page)
        (out / "report.json").write_text(json.dumps(as_json(gameday, samples=True)), encoding="utf-8")
    except OSError as error:
        trouble = error
    if as_data:
        print(json.dumps(as_json(gameday, samples=False), indent=2))
    else:
        print_report(gameday, PatientConsole(), None if trouble else page)
    if trouble is not None:
        reason = trouble.strerror or trouble
        raise ConfigurationError(f"--out {out}: the report can't be written: {reason}") from trouble

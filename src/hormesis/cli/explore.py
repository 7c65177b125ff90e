"""`hormesis explore`: find what a system does not survive, make it small, and name what contains it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from hormesis.cli.shell import check_writable, folder, until_interrupted
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, load_experiment
from hormesis.gameday.explore.expedition import Expedition
from hormesis.gameday.explore.progress import Progress
from hormesis.gameday.explore.show import as_json, print_exploration
from hormesis.gameday.report import PatientConsole
from hormesis.gameday.report.exploration import write_exploration
from hormesis.units import seconds

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Explore; 0 when all that was tried was seen to hold, 1 when something failed or it can't be told."""
    experiment = load_experiment(options.file)
    if options.seed is not None:
        experiment = dataclasses.replace(experiment, seed=options.seed)
    with folder(options.out) as out:
        for name in ("explore.html", "explore.json"):
            check_writable("--out", out / name)
        expedition = Expedition(
            experiment,
            _arm(experiment, options.arm),
            file=Path(options.file),
            out=out,
            within=seconds(options.within, "--within"),
            corpus=None if options.corpus is None else Path(options.corpus),
            policies=options.policies,
            only=options.only,
            kinds=options.kind,
            singles=not options.pairs,
            pairs=not options.singles,
        )
        progress = Progress(PatientConsole(stderr=True))
        try:
            _, interrupted_by = until_interrupted(expedition.run(progress))
        finally:
            progress.close()
        found = as_json(expedition)
        (out / "explore.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
        if options.json:
            print(json.dumps(found, indent=2))
        else:
            print_exploration(expedition, PatientConsole())
            print(f"Report: {out / 'explore.html'}")
        write_exploration(expedition, out / "explore.html")
    if interrupted_by:
        print("hormesis: interrupted; every fault is undone and every process is stopped", file=sys.stderr)
        return 128 + interrupted_by
    return 0 if expedition.hunt.survived else 1


def _arm(experiment: Experiment, name: str | None) -> str:
    if name is None:
        return (experiment.judged or list(experiment.arm))[0]
    if name not in experiment.arm:
        raise ConfigurationError(f"--arm: {ConfigurationError.unknown('arm', name, experiment.arm)}")
    return name

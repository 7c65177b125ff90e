"""`hormesis explore`: find what a system does not survive, make it small, and name what contains it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hormesis.cli.shell import folder, until_interrupted
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, load_experiment
from hormesis.gameday.explore.expedition import Expedition
from hormesis.gameday.explore.show import Lines, as_json, print_exploration
from hormesis.gameday.report import PatientConsole
from hormesis.loadgen import Samples
from hormesis.units import seconds

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Explore; 0 when nothing was found, 1 when something was, or nothing could be found out."""
    experiment = load_experiment(options.file)
    with folder(options.out) as out:
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
        console = PatientConsole(stderr=True)
        _, interrupted_by = until_interrupted(expedition.run(_Quiet(console), Lines(console)))
        found = as_json(expedition)
        (out / "explore.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
        if options.json:
            print(json.dumps(found, indent=2))
        else:
            print_exploration(expedition, PatientConsole())
    if interrupted_by:
        print("hormesis: interrupted; every fault is undone and every process is stopped", file=sys.stderr)
        return 128 + interrupted_by
    return 1 if expedition.hunt.findings or not expedition.hunt.steady else 0


def _arm(experiment: Experiment, name: str | None) -> str:
    if name is None:
        return (experiment.judged or list(experiment.arm))[0]
    if name not in experiment.arm:
        raise ConfigurationError(f"--arm: {ConfigurationError.unknown('arm', name, experiment.arm)}")
    return name


class _Quiet:
    """An observer for trials, of which only the results are told."""

    def __init__(self, console: PatientConsole) -> None:
        self._console = console

    def plan(self, title: str, seconds: float, stresses: object, arms: object) -> None:
        """Plans are not told."""

    def step(self, text: str) -> None:
        """Steps are."""
        self._console.print(text, style="dim", markup=False)

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        """Phases are not."""

    def samples(self, arm: str, samples: Samples) -> None:
        """Nor are answers."""

    def outcome(self, stress: str, outcome: object) -> None:
        """Nor outcomes, which come with the trial."""

    def close(self) -> None:
        """There is nothing to put away."""

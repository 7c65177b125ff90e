"""`hormesis gameday`: read, run, report.

The first Ctrl-C (or SIGTERM, or a closed terminal) ends the game day in order: faults are undone, processes stopped,
and what was finished by then is reported. Further ones are ignored while that happens; it takes a few seconds at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hormesis.cli import chaostoolkit
from hormesis.cli.shell import check_writable, folder, until_interrupted
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.gameday.chaostoolkit import is_experiment
from hormesis.gameday.experiment import Experiment, Stress, load_experiment
from hormesis.gameday.junit import as_junit
from hormesis.gameday.plan import lines, make_plan
from hormesis.gameday.report import PatientConsole, as_json, observer, print_report, write_page
from hormesis.gameday.results import GameDay
from hormesis.gameday.runner import Day

__all__ = ["run"]

_REPEATS_MAX = 100

_OF_GAME_DAYS: Mapping[str, object] = {
    "seed": None,
    "only": [],
    "all": False,
    "arm": [],
    "repeat": 1,
    "corpus": None,
    "junit": None,
}
_OF_CHAOSTOOLKIT: Mapping[str, object] = {
    "var": [],
    "hypothesis_strategy": None,
    "hypothesis_frequency": None,
    "fail_fast": None,
    "rollback_strategy": None,
}
"""Options that the other kind of file knows nothing of, and what they are when nobody gives them."""


def run(options: argparse.Namespace) -> int:
    """Hold a game day; 0 only if every judged arm held its objectives."""
    if is_experiment(options.file):
        _refuse(options, _OF_GAME_DAYS, "game days (TOML), and this is an experiment of the Chaos Toolkit's")
        return chaostoolkit.run(options)
    _refuse(options, _OF_CHAOSTOOLKIT, "experiments of the Chaos Toolkit (JSON, YAML), and this is a game day")
    experiment = load_experiment(options.file)
    if options.seed is not None:
        experiment = dataclasses.replace(experiment, seed=options.seed)
    stresses = experiment.chosen(options.only, everything=options.all)
    if options.corpus is not None:
        from hormesis.gameday.explore.corpus import replayed_first  # noqa: PLC0415  only those who have a corpus need it

        cases, experiment = replayed_first(options.corpus, experiment, options.file)
        stresses = [*experiment.stress[: len(cases)], *stresses]
    for arm in options.arm:
        if arm not in experiment.arm:
            raise ConfigurationError(f"--arm: {ConfigurationError.unknown('arm', arm, experiment.arm)}")
    arms = [arm for arm in experiment.arm if not options.arm or arm in options.arm]
    if not 1 <= options.repeat <= _REPEATS_MAX:
        raise ConfigurationError.bad_value("--repeat", options.repeat, f"a whole number from 1 to {_REPEATS_MAX}")
    if options.dry_run:
        return _dry_run(experiment, stresses, arms, options)
    junit = None if options.junit is None else Path(options.junit)
    if junit is not None:
        check_writable("--junit", junit)
    with folder(options.out) as out:
        for name in ("report.html", "report.json"):
            check_writable("--out", out / name)
        return _hold(experiment, stresses, arms, options, out, junit)


def _refuse(options: argparse.Namespace, unknown: Mapping[str, object], known_to: str) -> None:
    """Refuse options that would do nothing with a file of this kind."""
    for name, left_out in unknown.items():
        if getattr(options, name) != left_out:
            raise ConfigurationError(f"--{name.replace('_', '-')} is for {known_to}: {options.file}", name)


def _hold(
    experiment: Experiment,
    stresses: Sequence[Stress],
    arms: Sequence[str],
    options: argparse.Namespace,
    out: Path,
    junit: Path | None,
) -> int:
    watcher = observer()
    day = Day(experiment, stresses, arms, file=options.file, out=out, observer=watcher, repeat=options.repeat)
    try:
        gameday, interrupted_by = until_interrupted(day.hold())
    except HormesisError as error:
        watcher.close()
        _report_part(day.so_far(str(error).splitlines()[0]), options, out, junit)
        raise
    finally:
        watcher.close()
    if gameday is None:
        print("hormesis: interrupted; every fault is undone and every process is stopped", file=sys.stderr)
        _report_part(day.so_far(f"interrupted by {signal.Signals(interrupted_by).name}"), options, out, junit)
        return 128 + interrupted_by
    _report(gameday, options, out, junit)
    return 0 if gameday.held else 1


def _report_part(gameday: GameDay, options: argparse.Namespace, out: Path, junit: Path | None) -> None:
    """Report what was finished, if anything was."""
    if gameday.stresses:
        _report(gameday, options, out, junit)


def _report(gameday: GameDay, options: argparse.Namespace, out: Path, junit: Path | None) -> None:
    """Write the data, then the page, and print.

    Raises:
        ConfigurationError: The data can't be written; raised after what was found is printed.
    """
    trouble = None
    try:
        (out / "report.json").write_text(json.dumps(as_json(gameday, samples=True)), encoding="utf-8")
        if junit is not None:
            junit.write_text(as_junit(gameday), encoding="utf-8")
    except OSError as error:
        trouble = error
    page = _page(gameday, out / "report.html")
    if options.json:
        print(json.dumps(as_json(gameday, samples=False), indent=2))
    else:
        print_report(gameday, PatientConsole(), page)
    if trouble is not None:
        where = trouble.filename or f"--out {out}"
        raise ConfigurationError(f"{where}: the results can't be written: {trouble.strerror or trouble}") from trouble


def _page(gameday: GameDay, page: Path) -> Path | None:
    """Write the page; where that fails, say so in a line and leave no earlier one, since the results stand without."""
    try:
        write_page(gameday, page)
    except Exception as error:  # whatever a page lacks, it is not worth the results
        with contextlib.suppress(OSError):
            page.unlink()
        why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        print(f"hormesis: {page} can't be written, the results are beside it: {' '.join(why.split())}", file=sys.stderr)
        return None
    return page


def _dry_run(
    experiment: Experiment, stresses: Sequence[Stress], arms: Sequence[str], options: argparse.Namespace
) -> int:
    """Print the plan; 1 if this machine can't carry it out."""
    plan = asyncio.run(make_plan(experiment, stresses, arms, options.repeat))
    if options.json:
        print(json.dumps(dataclasses.asdict(plan), indent=2))
    else:
        print("\n".join(lines(plan)))
    return 0 if plan.possible else 1

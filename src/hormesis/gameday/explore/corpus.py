"""The corpus: minimal failures, kept as files, to be tried first the next time.

A case is a small experiment file of its own: it names the experiment that it is about, and holds one stress, the seed
and the lengths under which it failed. `hormesis gameday CASE` runs it by itself.

    experiment = "../gameday.toml"
    seed = 7

    [run]
    calm = 1.5
    ...

    [[stress]]
    name = "edge payments reset + edge inventory latency"
    doses = [ ... ]

Its name follows from what is dosed, so a failure that is found again takes the place of what it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hormesis import tables
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, Run
from hormesis.gameday.explore.trials import Injection, Trial
from hormesis.gameday.stress import Stress
from hormesis.tables import Settings
from hormesis.units import seconds

__all__ = ["Case", "load_corpus", "replayed_first", "save_case"]

_CASES_MAX = 1_000
_NAME_MAX = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One minimal failure.

    Args:
        path: Its file.
        experiment: The experiment that it is about.
        seed: With which it failed.
        run: The lengths with which it failed.
        stress: What failed.
    """

    path: Path
    experiment: Path
    seed: int
    run: Run
    stress: Stress

    @property
    def trial(self) -> Trial:
        """The case as a question."""
        dose = None if self.stress.dose is None else seconds(self.stress.dose, "dose")
        return Trial(tuple(Injection.of(dose) for dose in self.stress.doses), dose=dose)

    def replay(self, number: int) -> Stress:
        """The case as a stress of its experiment, with a name of its own, and the lengths with which it failed."""
        run, stress = self.run, self.stress
        return dataclasses.replace(
            stress,
            name=f"corpus {number} - {stress.name}"[:_NAME_MAX].rstrip(" -"),
            calm=run.calm,
            dose=run.dose if stress.dose is None else stress.dose,
            recovery=run.recovery,
            detection=run.detection,
            recover_within=run.recover_within,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _File(Settings):
    """What stands in the file of a case."""

    experiment: str
    seed: int
    stress: Sequence[Stress]
    run: Run = dataclasses.field(default_factory=Run)
    title: str = ""

    def __post_init__(self) -> None:
        if len(self.stress) != 1:
            raise ConfigurationError("a case holds one [[stress]]", "stress")


def load_corpus(folder: str | os.PathLike[str]) -> list[Case]:
    """Read the cases of a folder, by the names of their files; a folder that is not there has none.

    Raises:
        ConfigurationError: Something in a file can't be meant, or there are too many.
    """
    paths = sorted(Path(folder).glob("*.toml"))
    if len(paths) > _CASES_MAX:
        raise ConfigurationError(f"{folder}: holds {len(paths):,} cases; a corpus has at most {_CASES_MAX:,}")
    return [_load(path) for path in paths]


def replayed_first(
    folder: str | os.PathLike[str], experiment: Experiment, file: str | os.PathLike[str]
) -> tuple[list[Case], Experiment]:
    """Read the cases of a folder that are about an experiment; those about others are passed over.

    Returns:
        The cases, and the experiment with each of them as a stress, before its own.

    Raises:
        ConfigurationError: As for `load_corpus`, or a case is about a place that the system has not got any more.
    """
    cases = [case for case in load_corpus(folder) if case.experiment == Path(file).resolve()]
    for number, case in reversed(list(enumerate(cases, 1))):
        try:
            experiment = dataclasses.replace(experiment, stress=[case.replay(number), *experiment.stress])
        except ConfigurationError as error:
            raise tables.in_file(case.path, error) from None
    return cases, experiment


def _load(path: Path) -> Case:
    try:
        found = tables.read(_File, tables.read_toml(path), "")
    except ConfigurationError as error:
        raise (error if error.message.startswith(str(path)) else tables.in_file(path, error)) from None
    experiment = (path.parent / found.experiment).resolve()
    return Case(path, experiment, found.seed, found.run, found.stress[0])


def save_case(
    folder: str | os.PathLike[str], trial: Trial, *, experiment: str | os.PathLike[str], seed: int, run: Run, about: str
) -> Case:
    """Write a minimal failure into a corpus; the folder is made.

    Args:
        folder: The corpus.
        trial: What fails.
        experiment: The experiment's file.
        seed: With which it fails.
        run: The lengths with which it fails.
        about: Why, in a sentence.

    Raises:
        OSError: It can't be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_slug(trial)}.toml"
    relative = os.path.relpath(Path(experiment).resolve(), path.parent.resolve())
    dose = run.dose if trial.dose is None else trial.dose
    lengths = {"calm": run.calm, "detection": run.detection, "recovery": run.recovery}
    text = (
        f"# {about}\n"
        f"experiment = {_toml(relative)}\n"
        f"seed = {seed}\n\n"
        "[run]\n"
        + "".join(f"{name} = {_toml(value)}\n" for name, value in lengths.items())
        + f"recover_within = {_toml(run.recover_within)}\n\n"
        "[[stress]]\n"
        f"name = {_toml(_name(trial))}\n"
        f"about = {_toml(about)}\n"
        f"dose = {_toml(dose)}\n"
        "doses = [\n" + "".join(f"    {_toml(_dose(each))},\n" for each in trial.injections) + "]\n"
    )
    # Whole or not at all: a half-written case would stop every exploration after this one.
    draft = path.with_suffix(".toml.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return _load(path)


def _name(trial: Trial) -> str:
    words = " - ".join(f"{each.target} {each.kind}" for each in trial.injections)
    return words[:_NAME_MAX].rstrip(" -")


def _slug(trial: Trial) -> str:
    words = "--".join(f"{each.target} {each.kind}" for each in trial.injections)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words)[:200]


def _dose(injection: Injection) -> dict[str, Any]:
    given = dataclasses.asdict(injection.dose())
    return {key: value for key, value in given.items() if value not in (None, False)}


def _toml(value: Any) -> str:
    """Write a value as TOML; strings of JSON are strings of TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)

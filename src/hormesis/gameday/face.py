"""Game days from Python: an experiment built in code or read from a file, held in one call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, load_experiment
from hormesis.gameday.load import known
from hormesis.gameday.observing import Observer, Quiet
from hormesis.gameday.results import GameDay
from hormesis.gameday.runner import Day

__all__ = ["hold_gameday", "run_gameday"]

P = ParamSpec("P")
T = TypeVar("T")

_IN_CODE = "experiment.toml"
"""The file that an experiment built in code would have come from; its folder is where the processes run."""


async def hold_gameday(
    experiment: Experiment | str | os.PathLike[str],
    *,
    stresses: Iterable[str] = (),
    arms: Iterable[str] = (),
    everything: bool = False,
    seed: int | None = None,
    repeat: int = 1,
    folder: str | os.PathLike[str] = ".",
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
) -> GameDay:
    """Hold a game day, and return what it found; `run_gameday` is the same for those who have no loop.

    Args:
        experiment: Built in code, or the file to read it from.
        stresses: The names of those to run; left out: the tour, which is all of them if the experiment has none.
        arms: The names of those to run; left out: all.
        everything: Whether to run every stress and not just the tour.
        seed: In place of the experiment's; the same seed gives the same arrivals and doses.
        repeat: How often the stresses are run, each round from a seed of its own.
        folder: Where processes run, of an experiment built in code; of a file it is the file's own.
        out: Where logs, events and the undo journal go, a folder of your own; left out: they are thrown away.
        observer: Is told what happens.

    Raises:
        ConfigurationError: The experiment can't be meant, or can't be carried out here.
        HormesisError: A process does not get ready, or the load generator fails.

    >>> from hormesis.gameday import Experiment, Limits, Load, Objective, ProcessTable, RequestTable, Stress, System
    >>> experiment = Experiment(
    ...     system=System(process={"app": ProcessTable(command="python -m http.server {port}")}),
    ...     load=Load(to="app", rate="20/s", request=[RequestTable(name="home", get="/")]),
    ...     objective={"home": Objective(success=0.99, contained=Limits(success=0.0))},
    ...     stress=[Stress(name="paused", process="app", fault={"pause": True})],
    ... )
    >>> gameday = run_gameday(experiment)  # doctest: +SKIP
    >>> gameday.held  # doctest: +SKIP
    True
    """
    if repeat < 1:
        raise ConfigurationError.bad_value("repeat", repeat, "a whole number from 1")
    file: str | os.PathLike[str]
    if isinstance(experiment, Experiment):
        file = Path(folder) / _IN_CODE
    else:
        file, experiment = experiment, load_experiment(experiment)
    if seed is not None:
        experiment = dataclasses.replace(experiment, seed=seed)
    chosen = experiment.chosen(stresses, everything=everything)
    wanted = list(arms)
    for arm in wanted:
        known("arms", "arm", arm, experiment.arm)
    names = [arm for arm in experiment.arm if not wanted or arm in wanted]
    with _folder(out) as place:
        day = Day(experiment, chosen, names, file=file, out=place, observer=observer or Quiet(), repeat=repeat)
        return await day.hold()


def _with_arguments_of(model: Callable[P, object]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Give a function that passes its arguments on the signature of the one that they are for."""

    def give(function: Callable[..., T]) -> Callable[P, T]:
        return functools.update_wrapper(function, model, assigned=(), updated=())

    return give


@_with_arguments_of(hold_gameday)
def run_gameday(*args: Any, **kwargs: Any) -> GameDay:
    """Hold a game day in a loop of its own, and return what it found; see `hold_gameday`."""
    return asyncio.run(hold_gameday(*args, **kwargs))


@contextlib.contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="gameday-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    place = Path(out).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"out {os.fspath(out)!r} can't be made: {error.strerror or error}", "out") from error
    yield place

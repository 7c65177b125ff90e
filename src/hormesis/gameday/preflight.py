"""What is looked at before anything is started: whether the plan can be carried out here and now."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.gameday.course import LEAD
from hormesis.gameday.experiment import Experiment, Stress
from hormesis.gameday.probes import Invariant, Look
from hormesis.gameday.probing import Probes
from hormesis.gameday.system import environment, impossible
from hormesis.gameday.together import together
from hormesis.units import format_seconds, seconds

__all__ = ["check", "obstacles", "planned_seconds"]

_ANSWER_WITHIN = 2.0


async def check(experiment: Experiment, stresses: Sequence[Stress], arms: Sequence[str], folder: Path) -> None:
    """Make sure that a game day can be held.

    Args:
        experiment: The file.
        stresses: Those that are to be run.
        arms: Those of its arms that are to be run.
        folder: Where its processes and probes run.

    Raises:
        ConfigurationError: It can't: a fault is beyond this machine, nobody listens where the file says that somebody
            does, a command or a probe's function is not there, or the budget is too small for a single stress.
    """
    for stress, why in await obstacles(stresses):
        raise ConfigurationError(f"stress {stress.name!r} can't be dosed on this machine: {why}")
    if experiment.budget is not None and experiment.budget.time is not None:
        shortest = min(planned_seconds(experiment, [stress], arms) for stress in stresses)
        if shortest > seconds(experiment.budget.time):
            accepted = f"at least {format_seconds(shortest)}, which the shortest stress takes"
            raise ConfigurationError.bad_value("budget.time", experiment.budget.time, accepted)
    listening = {
        f"system.edge.{name}.to": edge.address
        for name, edge in experiment.system.edge.items()
        if edge.address is not None and edge.proxy is None
    }
    if experiment.load.url is not None:
        url = urlsplit(experiment.load.url)
        listening["load.to"] = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
    _find_commands(experiment, folder)
    await together(*(_reach(key, *address) for key, address in listening.items()))
    await _find_asked([*experiment.probe, *experiment.invariant], folder)


async def obstacles(stresses: Sequence[Stress]) -> list[tuple[Stress, str]]:
    """Return which stresses this machine can't dose, and why not."""
    found = []
    for stress in stresses:
        for dose in stress.doses:
            if (why := await asyncio.to_thread(impossible, dose)) is not None:
                found.append((stress, f"{dose.target}: {why}" if dose.target != "host" else why))
                break
    return found


async def _reach(key: str, host: str, port: int) -> None:
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            _, writer = await asyncio.open_connection(host, port)
            with closing(writer):
                return
    except TimeoutError:
        why = f"no answer in {_ANSWER_WITHIN:g} s"
    except OSError as error:
        # asyncio puts words of its own there, which say the address once more.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    raise ConfigurationError(f"{key} leads to {host}:{port}, which can't be reached: {why}", key)


def planned_seconds(experiment: Experiment, stresses: Sequence[Stress], arms: Sequence[str]) -> float:
    """Return how long the stresses of a game day will take, without starting and stopping the system."""
    once = sum(LEAD + sum(experiment.lengths(stress)) for stress in stresses) * (2 if experiment.run.control else 1)
    return once * (1 if experiment.run.arms == "together" else len(arms))


def _find_commands(experiment: Experiment, folder: Path) -> None:
    """Make sure that the programs of all commands are there, as far as that can be known before anything has run."""
    processes = experiment.system.process
    made = any(table.setup for table in processes.values())  # what has a path may come from one of these
    for where, command, variables in _commands(experiment):
        program = shlex.split(command)[0]
        path = {**environment(), **variables}["PATH"]
        if "{" in program + path or (made and os.sep in program):
            continue
        place = str(folder / program) if os.sep in program else program
        if shutil.which(place, path=path) is None:
            why = os.strerror(errno.EACCES if os.path.exists(place) else errno.ENOENT)
            raise ConfigurationError(f"{where}: the command {program!r} can't be run: {why}")


def _commands(experiment: Experiment) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Yield whose each command is, the command, and the variables that it has of its own."""
    for name, table in experiment.system.process.items():
        for command in table.commands().values():
            for arm in experiment.arm.values():
                yield f"process {name!r}", command, {**arm.env, **table.env}
    for look in (*experiment.probe, *experiment.invariant):
        if look.command is not None:
            yield _called(look), look.command, {}


async def _find_asked(looks: Sequence[Look], folder: Path) -> None:
    """Make sure that there are the functions that probes ask, and the library with which they ask a database."""
    postgres = any(look.dsn is not None and not look.dsn.startswith("sqlite:") for look in looks)
    if postgres and importlib.util.find_spec("psycopg") is None:
        raise MissingExtraError("a probe in PostgreSQL", "postgres")
    probes = Probes(routes=[], known={}, folder=folder, env=environment())
    try:
        for look in looks:
            if look.python is not None and (why := await probes.lack(look)):
                raise ConfigurationError(f"{_called(look)}: python is {look.python!r}; {why}", "python")
    finally:
        await probes.stop()


def _called(look: Look) -> str:
    return f"{'invariant' if isinstance(look, Invariant) else 'probe'} {look.name!r}"

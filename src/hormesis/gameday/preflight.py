"""What is looked at before anything is started: whether the plan can be carried out here and now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import closing
from urllib.parse import urlsplit

from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, Stress
from hormesis.gameday.system import impossible
from hormesis.gameday.together import together
from hormesis.units import format_seconds, seconds

__all__ = ["check", "obstacles"]

_ANSWER_WITHIN = 2.0


async def check(experiment: Experiment, stresses: Sequence[Stress]) -> None:
    """Make sure that a game day can be held.

    Raises:
        ConfigurationError: It can't: a fault is beyond this machine, nobody listens where the file says that somebody
            does, or the budget is too small for a single stress.
    """
    for stress, why in await obstacles(stresses):
        raise ConfigurationError(f"stress {stress.name!r} can't be dosed on this machine: {why}")
    if experiment.budget is not None and experiment.budget.time is not None:
        shortest = min(sum(experiment.lengths(stress)) for stress in stresses)
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
    await together(*(_reach(key, *address) for key, address in listening.items()))


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

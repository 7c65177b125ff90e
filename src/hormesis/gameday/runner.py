"""The course of a game day.

For each stress, each arm gets the same load from the same seed and goes its way through it (`course`).

Arms run together by default: they live through the same seconds, so what the host does to one it does to the other.

An arm that is not back to normal when a stress is over is started anew before the next one: a backlog that nobody waits
for any more, or a storm of retries, would be counted as the next stress's doing. Whatever has just been started first
gets a second of its load that is not counted: what is slow because it is done for the first time is nobody's failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hormesis.chaos import Keeper
from hormesis.chaos.journal import FILE_NAME, recover
from hormesis.gameday.course import LEAD, Course
from hormesis.gameday.experiment import Experiment, Stress, folder_of
from hormesis.gameday.report.progress import Observer
from hormesis.gameday.results import GameDay, Outcome, Phase, StressResult
from hormesis.gameday.system import ArmSystem, running
from hormesis.gameday.together import together
from hormesis.loadgen import UNFINISHED
from hormesis.version import __version__

__all__ = ["hold", "planned_seconds"]

_FILES_MAX = 65_536


async def hold(
    experiment: Experiment,
    stresses: Sequence[Stress],
    arms: Sequence[str],
    *,
    file: str | os.PathLike[str],
    out: Path,
    observer: Observer,
) -> GameDay:
    """Start the system of every arm, take each through the stresses, and stop everything.

    Args:
        experiment: The file.
        stresses: Those of its stresses that are to be run, in order.
        arms: Those of its arms.
        file: Where it was read from; its folder is where the processes run.
        out: The folder for logs, events and scratch; it must exist, and be ours alone.
        observer: Is told what happens.

    Raises:
        ConfigurationError: The system can't be started as the file says.
        HormesisError: A process does not get ready, or the load generator fails.
    """
    began, started = datetime.datetime.now(datetime.UTC), time.monotonic()
    observer.plan(experiment.title, planned_seconds(experiment, stresses, arms), [s.name for s in stresses], arms)
    await asyncio.to_thread(recover, out / FILE_NAME, "runner")
    for leftover in ("logs", "events", "scratch", "clocks"):  # of an earlier run into the same folder
        shutil.rmtree(out / leftover, ignore_errors=True)
    _allow_many_connections()
    results: list[StressResult] = []
    async with contextlib.AsyncExitStack() as stack:
        keeper = stack.enter_context(Keeper(out / FILE_NAME))
        stack.callback(shutil.rmtree, out / "scratch", ignore_errors=True)
        systems = []
        for arm in arms:
            observer.step(f"starting {arm}: {', '.join(experiment.system.process)}")
            folder = out / "scratch" / arm
            folder.mkdir(parents=True)
            system = running(
                experiment, arm, folder=folder_of(file), out=out, scratch=folder, keeper=keeper, stresses=stresses
            )
            systems.append(await stack.enter_async_context(system))
        for stress in stresses:
            results.append(await _stress_all(experiment, stress, systems, observer))
            if experiment.abort is not None and experiment.abort.then == "stop" and _aborted(results[-1]):
                observer.step("the abort condition held: the game day ends here")
                break
        observer.step("stopping everything")
    ran = [result.name for result in results]
    return GameDay(
        title=experiment.title,
        file=os.fspath(file),
        seed=experiment.seed,
        version=__version__,
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        rate=experiment.load.mean_rate,
        routes=[request.name for request in experiment.load.request],
        arms=list(arms),
        judged=[arm for arm in arms if arm in experiment.judged],
        stresses=results,
        left_out=[stress.name for stress in experiment.stress if stress.name not in ran],
        host=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def planned_seconds(experiment: Experiment, stresses: Sequence[Stress], arms: Sequence[str]) -> float:
    """Return how long the stresses of a game day will take, without starting and stopping the system."""
    once = sum(LEAD + sum(experiment.lengths(stress)) for stress in stresses)
    return once * (1 if experiment.run.arms == "together" else len(arms))


async def _warm_up(experiment: Experiment, system: ArmSystem) -> None:
    """Give a system that has just been started a little of its load, which nobody counts."""
    await system.driver.run(experiment.warm_up_spec(system.url))
    system.warm = True


def _back_to_normal(outcome: Outcome) -> bool:
    """Whether good answers are as frequent again as in calm, and none of what was due is unanswered."""
    recovered = outcome.stats[Phase.RECOVERED][""]
    return outcome.recovered_after is not None and UNFINISHED not in recovered.errors


def _aborted(result: StressResult) -> bool:
    return any(outcome.aborted for outcome in result.outcomes.values())


async def _stress_all(
    experiment: Experiment, stress: Stress, systems: Sequence[ArmSystem], observer: Observer
) -> StressResult:
    outcomes: dict[str, Outcome] = {}
    spent = [system for system in systems if not system.well]
    for system in spent:
        observer.step(f"starting {system.arm} anew: it was not back to normal")
    await together(*(system.begin_anew() for system in spent))
    await together(*(_warm_up(experiment, system) for system in systems if not system.warm))

    async def stress_one(system: ArmSystem) -> None:
        outcome = outcomes[system.arm] = await Course(experiment, stress, system, observer).run()
        system.well = _back_to_normal(outcome)
        observer.outcome(stress.name, outcomes[system.arm])

    if experiment.run.arms == "together":
        await together(*(stress_one(system) for system in systems))
    else:
        for system in systems:
            await stress_one(system)
    return StressResult(
        name=stress.name,
        about=stress.about,
        target=stress.target,
        fault=stress.described,
        outcomes={system.arm: outcomes[system.arm] for system in systems},
    )


def _allow_many_connections() -> None:
    """Callers that gave up in a black hole keep their connections through the proxy until it heals."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(_FILES_MAX, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""The course of a game day.

For each stress, each arm gets the same load from the same seed and goes its way through it (`course`).

Arms run together by default: they live through the same seconds, so what the host does to one it does to the other. A
*control* is a run of the same load without any fault, right before the stress.

An arm that is not back to normal when a stress is over is started anew before the next one: a backlog that nobody waits
for any more, or a storm of retries, would be counted as the next stress's doing. Whatever has just been started first
gets a second of its load that is not counted: what is slow because it is done for the first time is nobody's failure.

What has been found is known at any moment (`Day.so_far`), so a game day that is interrupted still has a report.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import os
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hormesis.chaos import Keeper, describe
from hormesis.chaos.journal import FILE_NAME, Episode, history, recover
from hormesis.gameday.course import Course
from hormesis.gameday.experiment import Experiment, Stress, folder_of
from hormesis.gameday.lock import locked, touched
from hormesis.gameday.noise import NoiseMeter
from hormesis.gameday.observing import Observer
from hormesis.gameday.preflight import check, planned_seconds
from hormesis.gameday.results import GameDay, Outcome, Phase, StressResult
from hormesis.gameday.system import ArmSystem, running
from hormesis.gameday.together import together
from hormesis.gameday.watch import Failures
from hormesis.loadgen import UNFINISHED
from hormesis.units import format_seconds, seconds
from hormesis.version import __version__

__all__ = ["Day", "allow_many_connections", "back_to_normal", "warm_up"]

_FILES_MAX = 65_536


class Day:
    """A game day, and what it has found so far.

    Args:
        experiment: The file.
        stresses: Those of its stresses that are to be run, in order.
        arms: Those of its arms.
        file: Where it was read from; its folder is where the processes run.
        out: The folder for logs, events and scratch; it must exist, and be ours alone.
        observer: Is told what happens.
        repeat: How often the stresses are run, one round after the other, each from a seed of its own.
    """

    def __init__(
        self,
        experiment: Experiment,
        stresses: Sequence[Stress],
        arms: Sequence[str],
        *,
        file: str | os.PathLike[str],
        out: Path,
        observer: Observer,
        repeat: int = 1,
    ) -> None:
        self.experiment = experiment
        self.stresses = stresses
        self.arms = arms
        self.file, self.out = file, out
        self.observer = observer
        self.repeat = repeat
        self._began, self._started = datetime.datetime.now(datetime.UTC), time.monotonic()
        self._results: list[StressResult] = []
        self._ended = ""
        self._journal: Path | None = None
        budget = experiment.budget
        self._failures = None if budget is None or budget.failed is None else Failures(budget.failed)

    async def hold(self) -> GameDay:
        """Start the system of every arm, take each through the stresses, and stop everything.

        Raises:
            ConfigurationError: The system can't be started as the file says, or another game day is running on it.
            HormesisError: A process does not get ready, or the load generator fails.
        """
        experiment, stresses, arms, out, observer = self.experiment, self.stresses, self.arms, self.out, self.observer
        planned = self.repeat * planned_seconds(experiment, stresses, arms)
        observer.plan(experiment.title, planned, [stress.name for stress in stresses], arms)
        with locked(touched(experiment, stresses)):
            await check(experiment, stresses, arms, folder_of(self.file))
            # What an earlier run into the same folder left in force, and its files.
            await asyncio.to_thread(recover, out / FILE_NAME, "runner")
            for leftover in ("logs", "events", "scratch", "clocks", "inside"):
                shutil.rmtree(out / leftover, ignore_errors=True)
            allow_many_connections()
            async with contextlib.AsyncExitStack() as stack:
                keeper = stack.enter_context(Keeper(out / FILE_NAME))
                self._journal = out / FILE_NAME
                stack.callback(shutil.rmtree, out / "scratch", ignore_errors=True)
                systems = []
                for arm in arms:
                    what = ", ".join(experiment.system.process) or f"nothing, it runs at {experiment.load.to}"
                    observer.step(f"starting {arm}: {what}")
                    folder = out / "scratch" / arm
                    folder.mkdir(parents=True)
                    system = running(
                        experiment,
                        arm,
                        folder=folder_of(self.file),
                        out=out,
                        scratch=folder,
                        keeper=keeper,
                        stresses=stresses,
                    )
                    systems.append(await stack.enter_async_context(system))
                await self._rounds(systems)
                observer.step("stopping everything")
        return self.so_far()

    def so_far(self, ended: str = "") -> GameDay:
        """Return what has been found so far.

        Args:
            ended: Why it is over before its time; left out: as the game day itself says.
        """
        experiment = self.experiment
        ran = {result.stress or result.name for result in self._results}
        system = f"{platform.system()} {platform.machine()}"
        return GameDay(
            title=experiment.title,
            file=os.fspath(self.file),
            seed=experiment.seed,
            version=__version__,
            began=self._began.isoformat(timespec="seconds"),
            seconds=time.monotonic() - self._started,
            rate=experiment.load.mean_rate,
            routes=experiment.routes,
            arms=list(self.arms),
            judged=[arm for arm in self.arms if arm in experiment.judged],
            stresses=list(self._results),
            left_out=[stress.name for stress in experiment.stress if stress.name not in ran],
            host=f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}",
            ended=ended or self._ended,
            undo_log=self._undo_log(),
            started=self._started,
            confidence=experiment.run.confidence,
        )

    def _undo_log(self) -> list[Episode]:
        """Return what the journal says, in seconds since the game day began; nothing where it can't be read."""
        if self._journal is None:
            return []
        with contextlib.suppress(OSError):
            return [
                dataclasses.replace(
                    each,
                    began=each.began - self._started,
                    ended=None if each.ended is None else each.ended - self._started,
                )
                for each in history(self._journal)
            ]
        return []

    async def _rounds(self, systems: Sequence[ArmSystem]) -> None:
        start = time.monotonic()
        for number in range(self.repeat):
            experiment = dataclasses.replace(self.experiment, seed=self.experiment.seed + number)
            for stress in self.stresses:
                if self._no_time_for(stress, time.monotonic() - start):
                    continue
                result = await self._stress_all(experiment, stress, systems)
                if self.repeat > 1:
                    result = dataclasses.replace(result, name=f"{stress.name} #{number + 1}", stress=stress.name)
                self._results.append(result)
                if self._over(result):
                    self.observer.step(f"{self._ended}: the game day ends here")
                    return

    def _no_time_for(self, stress: Stress, spent: float) -> bool:
        budget = self.experiment.budget
        if budget is None or budget.time is None:
            return False
        left = seconds(budget.time) - spent
        if planned_seconds(self.experiment, [stress], self.arms) <= left:
            return False
        self._ended = f"the time of the budget, {format_seconds(seconds(budget.time))}, is used up"
        self.observer.step(f"{stress.name} is left out: {self._ended}")
        return True

    def _over(self, result: StressResult) -> bool:
        """Whether the game day ends with this stress."""
        reason = "" if self._failures is None else self._failures.spent
        if self.experiment.abort is not None and self.experiment.abort.then == "stop" and _aborted(result):
            reason = reason or "the abort condition held"
        self._ended = reason or self._ended
        return bool(reason)

    async def _stress_all(self, experiment: Experiment, stress: Stress, systems: Sequence[ArmSystem]) -> StressResult:
        controls: dict[str, Outcome] = {}
        if experiment.run.control:
            controls = await self._through(experiment, stress, systems, dosed=False)
        meter = NoiseMeter()
        outcomes = await self._through(experiment, stress, systems, controls=controls)
        return StressResult(
            name=stress.name,
            about=stress.about,
            target=stress.target,
            fault=stress.described,
            outcomes=outcomes,
            doses=[(dose.target, describe(dose.what)) for dose in stress.doses],
            controls=controls,
            kinds=[dose.kind for dose in stress.doses],
            noise=meter.read(),
        )

    async def _through(
        self,
        experiment: Experiment,
        stress: Stress,
        systems: Sequence[ArmSystem],
        *,
        dosed: bool = True,
        controls: dict[str, Outcome] | None = None,
    ) -> dict[str, Outcome]:
        """Take every arm through the load of a stress once."""
        spent = [system for system in systems if not system.well]
        for system in spent:
            self.observer.step(f"starting {system.arm} anew: it was not back to normal")
        await together(*(system.begin_anew() for system in spent))
        await together(*(warm_up(experiment, system) for system in systems if not system.warm))
        outcomes: dict[str, Outcome] = {}

        async def stress_one(system: ArmSystem) -> None:
            course = Course(
                experiment,
                stress,
                system,
                self.observer,
                dosed=dosed,
                control=(controls or {}).get(system.arm),
                failures=self._failures,
            )
            outcome = outcomes[system.arm] = await course.run()
            system.well = back_to_normal(outcome)
            self.observer.outcome(course.name, outcome)

        if experiment.run.arms == "together":
            await together(*(stress_one(system) for system in systems))
        else:
            for system in systems:
                await stress_one(system)
        return {system.arm: outcomes[system.arm] for system in systems}


async def warm_up(experiment: Experiment, system: ArmSystem) -> None:
    """Give a system that has just been started a little of its load, which nobody counts."""
    result = await system.driver.run(experiment.warm_up_spec(system.url))
    system.probes.count(result.samples)
    system.warm = True


def back_to_normal(outcome: Outcome) -> bool:
    """Whether it is as it was in calm, and none of what was due is unanswered."""
    return outcome.steady and UNFINISHED not in outcome.stats[Phase.RECOVERED][""].errors


def _aborted(result: StressResult) -> bool:
    return any(outcome.aborted for outcome in result.outcomes.values())


def allow_many_connections() -> None:
    """Callers that gave up in a black hole keep their connections through the proxy until it heals."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(_FILES_MAX, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

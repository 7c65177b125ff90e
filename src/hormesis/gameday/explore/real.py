"""Trials on a real system: started once, asked often, started anew when it is not back to normal.

Each trial is a short stress with the same load from the same seed. A trial under a change of the policies takes a
system that was started with the changed file; they are asked one after the other, so that only one runs at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from hormesis.chaos import FaultProxy, Keeper
from hormesis.chaos.host import FaultFailed
from hormesis.errors import ConfigurationError
from hormesis.gameday.course import LEAD, Course
from hormesis.gameday.experiment import Experiment, Stress, folder_of
from hormesis.gameday.explore.setup import Protection
from hormesis.gameday.explore.trials import Seen, Steps, Trial
from hormesis.gameday.observing import Observer
from hormesis.gameday.results import Outcome, Phase, RouteStats, Verdict
from hormesis.gameday.runner import back_to_normal, warm_up
from hormesis.gameday.system import ArmSystem, running
from hormesis.loadgen import Samples
from hormesis.units import seconds

__all__ = ["RealSystem", "check", "planned_trial"]

T = TypeVar("T")

_HURT = 0.9
"""A route is hurt when it gets fewer full answers than this share of those that it gets in calm."""

_INSIDE: Mapping[str, object] = {"inject": {"latency": 1.0}}
"""Any fault that is injected."""

_AROUND = 1.0
"""Seconds that a trial takes besides its phases: late answers, the judgement, now and then a start."""


def check(experiment: Experiment) -> None:
    """Refuse what can't be explored.

    Raises:
        ConfigurationError: It is a system that runs already, or one without objectives.
    """
    if not experiment.system.process or any(edge.proxy is not None for edge in experiment.system.edge.values()):
        wanted = "[system.process.NAME], and edges without a proxy of their own"
        raise ConfigurationError(f"exploring takes a system that it can start anew: {wanted}", "system")
    if not experiment.objective:
        message = "exploring takes objectives: without [objective.ROUTE] nothing can be missed"
        raise ConfigurationError(message, "objective")


def planned_trial(experiment: Experiment) -> float:
    """Return what one trial takes, in seconds."""
    run = experiment.run
    return LEAD + sum(seconds(each) for each in (run.calm, run.dose, run.recovery)) + _AROUND


class RealSystem:
    """Answers trials from the real system of an arm.

    Args:
        experiment: The system, its load and objectives, with the lengths of a trial.
        arm: The arm.
        file: Where the experiment was read from.
        out: The folder for logs, events, scratch and changed policy files.
        keeper: The watchdog, running, with a journal.
        observer: Is told what happens.
        protection: The policies of the arm, if they are known.
        injected: The processes into which faults are to be injected.
    """

    def __init__(
        self,
        experiment: Experiment,
        arm: str,
        *,
        file: Path,
        out: Path,
        keeper: Keeper,
        observer: Observer,
        protection: Protection | None,
        injected: Collection[str] = (),
    ) -> None:
        self._experiment = experiment
        self._arm = arm
        self._folder = folder_of(file)
        self._out = out
        self._keeper = keeper
        self._protection = protection
        # The system is prepared for what stresses say, so that these processes can be reached inside.
        self._prepared = [
            *experiment.stress,
            *(Stress(name=f"inside {n}", process=name, fault=_INSIDE) for n, name in enumerate(sorted(injected), 1)),
        ]
        self._texts: dict[str, str] = {}
        self._system: ArmSystem | None = None
        self._change = ""
        self._stack = contextlib.AsyncExitStack()
        self._watch = _Traffic(observer)

    def know(self, changes: Mapping[str, str]) -> None:
        """Learn what the changes that trials name make of the policy file."""
        self._texts.update(changes)

    async def __aenter__(self) -> RealSystem:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def converse(
        self, steps: Steps[T], begins: Callable[[Trial], None], ended: Callable[[Trial, Seen], None]
    ) -> T:
        """Answer a conversation to its end.

        Args:
            steps: The conversation.
            begins: Is told of each trial before it ...
            ended: ... and after it.
        """
        try:
            trial = next(steps)
            while True:
                begins(trial)
                seen = await self.answer(trial)
                ended(trial, seen)
                trial = steps.send(seen)
        except StopIteration as stop:
            conclusion: T = stop.value
            return conclusion
        finally:
            steps.close()

    async def answer(self, trial: Trial) -> Seen:
        """Carry a trial out.

        Raises:
            HormesisError: The system does not start, or the load generator fails.
        """
        began = time.monotonic()
        system = await self._running(trial.change)
        if not system.well:
            await system.begin_anew()
        if not system.warm:
            await warm_up(self._experiment, system)
        self._watch.begin(system)
        try:
            outcome = await self._course(trial, system).run()
        except FaultFailed as error:  # such as a policy that its process has not made yet
            return Seen(verdict=Verdict.INCONCLUSIVE, seconds=time.monotonic() - began, reasons=(str(error),))
        system.well = back_to_normal(outcome)
        return self._seen(outcome, time.monotonic() - began)

    def _course(self, trial: Trial, system: ArmSystem) -> Course:
        experiment = self._experiment
        if not trial.injections:
            return Course(experiment, experiment.stress[0], system, self._watch, dosed=False)
        stress = Stress(name="trial", doses=[each.dose() for each in trial.injections], dose=trial.dose)
        return Course(experiment, stress, system, self._watch)

    async def _running(self, change: str) -> ArmSystem:
        """Return the system with a change of its policies, started if need be."""
        if self._system is None or change != self._change:
            await self._stop()
            experiment = self._changed(change)
            scratch = self._out / "scratch" / self._arm
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            starting = running(
                experiment,
                self._arm,
                folder=self._folder,
                out=self._out,
                scratch=scratch,
                keeper=self._keeper,
                stresses=self._prepared,
            )
            self._system = await self._stack.enter_async_context(starting)
            self._change = change
        return self._system

    def _changed(self, change: str) -> Experiment:
        if not change or self._protection is None:
            return self._experiment
        folder = self._out / "policies"
        folder.mkdir(exist_ok=True)
        path = folder / self._protection.file.path.name
        path.write_text(self._texts[change], encoding="utf-8")
        return self._protection.with_file(self._experiment, self._arm, path)

    async def _stop(self) -> None:
        self._system = None
        await self._stack.aclose()

    def _seen(self, outcome: Outcome, took: float) -> Seen:
        calm, contained = outcome.stats[Phase.CALM], outcome.stats[Phase.CONTAINED]
        everything = contained[""]
        return Seen(
            verdict=outcome.verdict,
            seconds=took,
            traffic=self._watch.traffic,
            answers=self._watch.answers,
            goodput=_share(everything.good, everything),
            p99=everything.p99 if everything.requests else 0.0,
            attempts=_share(everything.attempts, everything),
            hurt=frozenset(route for route, stats in contained.items() if route and _hurt(stats, calm[route])),
            acted=tuple(dict.fromkeys(each.policy for each in outcome.acted)),
            reasons=tuple(outcome.reasons),
        )


def _hurt(now: RouteStats, calm: RouteStats) -> bool:
    return bool(now.requests) and _share(now.full, now) < _HURT * _share(calm.full, calm)


def _share(count: float, stats: RouteStats) -> float:
    return count / stats.requests if stats.requests else 1.0


@dataclasses.dataclass(slots=True)
class _Counted:
    """What the proxies had carried by a moment: up, down."""

    at: float
    bytes: dict[str, tuple[int, int]]


class _Traffic:
    """Passes on what happens, and takes down what the edges carried during the dose."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._system: ArmSystem | None = None
        self._before: _Counted | None = None
        self.traffic: dict[str, float] = {}
        self.answers: dict[str, float] = {}

    def begin(self, system: ArmSystem) -> None:
        """Watch a system through a trial."""
        self._system, self._before = system, None
        self.traffic, self.answers = {}, {}

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        """A phase begins."""
        if phase in (Phase.DETECTION, Phase.CONTAINED) and self._before is None:
            self._before = self._counted()
        elif phase in (Phase.RECOVERING, Phase.RECOVERED) and not self.traffic:
            self._note(self._counted())
        self._observer.phase(arm, stress, phase, seconds)

    def plan(self, title: str, seconds: float, stresses: object, arms: object) -> None:
        """It was planned already."""

    def step(self, text: str) -> None:
        """Something is being done."""
        self._observer.step(text)

    def samples(self, arm: str, samples: Samples) -> None:
        """Answers came."""
        self._observer.samples(arm, samples)

    def outcome(self, stress: str, outcome: Outcome) -> None:
        """A trial was judged; who asked for it tells of that."""

    def close(self) -> None:
        """It is over."""

    def _note(self, now: _Counted) -> None:
        if self._before is not None:
            took = max(1e-3, now.at - self._before.at)
            for name, (up, down) in now.bytes.items():
                up_before, down_before = self._before.bytes[name]
                self.traffic[name] = (up - up_before) / took
                self.answers[name] = (down - down_before) / took

    def _counted(self) -> _Counted:
        proxies = {} if self._system is None else self._system.proxies
        ours = {name: proxy for name, proxy in proxies.items() if isinstance(proxy, FaultProxy)}
        return _Counted(time.monotonic(), {name: (proxy.bytes_up, proxy.bytes_down) for name, proxy in ours.items()})

"""One arm's way through one stress: calm, the dose, recovery, and what the load met in each.

The dose is put into force and taken out at moments that are measured, and the phases are cut there. The fault is undone
whatever happens. A dose ends early when an abort condition holds, when a probe misses that is there to end it, and when
requests fail that the blast radius spares. It does not begin at all when a probe finds the system unwell.

After the undo it is looked whether the system is back: answers as in calm, probes content, every process up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from hormesis.gameday import verdict
from hormesis.gameday.acted import summarise
from hormesis.gameday.experiment import Experiment, Probe, Stress
from hormesis.gameday.freeing import Freeing, Recent, ready_to_free
from hormesis.gameday.looks import Looks
from hormesis.gameday.metastability import Hysteresis, State
from hormesis.gameday.observing import Observer
from hormesis.gameday.results import Acted, Check, Outcome, Phase, Verdict, Window
from hormesis.gameday.system import ArmSystem
from hormesis.gameday.together import together
from hormesis.gameday.watch import Failures, Watch
from hormesis.loadgen import LAG_MAX, Answer, LoadDriver, LoadSpec, RunResult, Sample, Samples
from hormesis.units import seconds

__all__ = ["LEAD", "Course"]

LEAD = 0.4
"""Seconds between the order to load and the first arrival, in which the generator makes its schedule."""

_BIN_WIDTH = 0.5
_OVERDUE = 5.0
"""Seconds after the end of a dose after which the watchdog ends it, whatever holds us up."""
_ENDING = ("kill", "crash_loop", "restart", "memory_left")
"""Faults under which a process that ends does what is expected of it."""


class Course:
    """One arm's way through one stress.

    Args:
        experiment: The file.
        stress: The stress.
        system: The arm, running.
        observer: Is told what happens.
        dosed: False for a control: the same load and the same phases, without any fault.
        control: What such a control came to.
        failures: Counts the requests that fail, where the game day has a budget of them.
    """

    def __init__(
        self,
        experiment: Experiment,
        stress: Stress,
        system: ArmSystem,
        observer: Observer,
        *,
        dosed: bool = True,
        control: Outcome | None = None,
        failures: Failures | None = None,
    ) -> None:
        self.experiment = experiment
        self.stress = stress
        self.system = system
        self.observer = observer
        self.dosed = dosed
        self.control: list[Check] = [] if control is None else list(control.checks)
        self.failures = failures
        self.name = stress.name if dosed else f"{stress.name} (control)"
        self.calm, self.dose, self.recovery = experiment.lengths(stress)
        self.length = self.calm + self.dose + self.recovery
        self.detection, self.recover_within = experiment.allowances(stress)
        self.started = 0.0
        # Faults come into force, and go, within these: from the beginning of the dosing to its end, and of the undo.
        self.dosing = self.dose_start = 0.0
        self.undoing = self.dose_end = 0.0
        self.aborted = ""
        self._abort = asyncio.Event()
        self._watch: Watch | None = None
        self._recent: Recent | None = None
        self._hysteresis: Hysteresis | None = None
        self._looks: Looks
        self._restarts = {name: process.restarts for name, process in system.processes.items()}
        self._trouble = (len(system.left), len(system.expired))

    async def run(self) -> Outcome:
        """Load, dose, undo, and judge."""
        experiment, stress = self.experiment, self.stress
        spec = experiment.load_spec(stress, self.system.url, dosed=self.dosed)
        async with contextlib.AsyncExitStack() as stack:
            freeing = None
            if self.dosed and stress.staircase is not None:
                watch = self.system.grounds.keeper.watch
                freeing = self._freeing(await stack.enter_async_context(ready_to_free(watch)))
            self.started = time.monotonic() + LEAD
            self._looks = Looks(
                experiment.probe, experiment.invariant, self.system.probes, self.started, self._missed, stress.may_miss
            )
            self._recent = None if freeing is None else Recent(spec, self.started, self._good)
            load = self.system.driver.run(spec, on_samples=self._take, start_at=self.started)
            result, _ = await together(load, self._phases(freeing))
        if freeing is not None and self._hysteresis is not None:
            self._hysteresis = freeing.told(self._hysteresis, result)
        self.system.probes.count(result.samples)
        await self._looks.when_over()
        return self._outcome(result)

    async def _phases(self, freeing: Freeing | None) -> None:
        along = asyncio.create_task(self._looks.all_along())
        try:
            if not await self._calm():
                # What is unwell before the dose is not to be stressed.
                self.dosing = self.dose_start = self.undoing = self.dose_end = time.monotonic()
                self.length = self.dose_end - self.started
                await self.system.driver.cancel()
                return
            await self._dose()
            await self._phase(Phase.RECOVERING, self.dose_end + self.recover_within)
            await together(self._back(), *([] if freeing is None else [self._follow(freeing)]))
        finally:
            along.cancel()
            await asyncio.wait([along])
        if not along.cancelled():
            along.result()

    async def _calm(self) -> bool:
        """Let calm pass; false when a probe finds the system unwell."""
        end = self.started + self.calm
        self.observer.phase(self.system.arm, self.name, Phase.CALM, end - time.monotonic())
        await asyncio.sleep(max(0.0, self.started + self.calm / 2 - time.monotonic()))
        if not await self._looks.at("start"):
            return False
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        return True

    async def _dose(self) -> None:
        end = self.started + self.calm + self.dose
        self.dosing = time.monotonic()
        try:
            if self.dosed:
                await self.system.dose(self.stress, within=self.dose + _OVERDUE)
            self.dose_start = time.monotonic()
            if self.dosed:
                experiment, stress = self.experiment, self.stress
                self._watch = Watch(
                    experiment.abort, experiment.radius(stress), experiment.spared(stress), self.dose_start
                )
            await self._phase(Phase.DETECTION, min(self.dose_start + self.detection, end), abortable=True)
            await self._phase(Phase.CONTAINED, end, abortable=True)
            self._watch = None
            if not self.aborted:
                await self._looks.at("end")
        finally:
            self._watch = None
            self.undoing = time.monotonic()
            if self.dosed:
                await self.system.undo()
            self.dose_end = time.monotonic()

    async def _back(self) -> None:
        await self._phase(Phase.RECOVERED, self.started + self.length)
        await self._looks.at("after")

    async def _phase(self, phase: Phase, until: float, *, abortable: bool = False) -> None:
        """Let a phase pass; one of the dose ends early when it is aborted."""
        left = until - time.monotonic()
        if left <= 0 or (abortable and self.aborted):
            return
        self.observer.phase(self.system.arm, self.name, phase, left)
        if not abortable:
            await asyncio.sleep(left)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._abort.wait()

    def _take(self, samples: Samples) -> None:
        self.observer.samples(self.system.arm, samples)
        if self._recent is not None:
            self._recent.take(samples)
        if self.failures is not None:
            self.failures.take(samples)
        if self._watch is not None:
            reason = self._watch.take(samples, time.monotonic())
            self._end_dose(reason or (self.failures.spent if self.failures is not None else ""))

    def _missed(self, probe: Probe, said: str) -> None:
        if probe.abort and self._watch is not None and probe.name not in self.stress.may_miss:
            self._end_dose(f"probe {probe.name!r} {said}")

    def _end_dose(self, reason: str) -> None:
        if reason and not self.aborted:
            self.aborted = reason
            self._abort.set()

    def _freeing(self, drivers: tuple[LoadDriver, LoadDriver]) -> Freeing:
        settings = self.stress.staircase
        assert settings is not None  # noqa: S101
        length = seconds(settings.every)

        def spec_of(level: float, number: int) -> LoadSpec:
            return self.experiment.step_spec(self.stress, self.system.url, level=level, length=length, number=number)

        return Freeing(settings, spec_of, self._good, drivers)

    async def _follow(self, freeing: Freeing) -> None:
        assert self._recent is not None  # noqa: S101
        calm = self._recent.share(self.started, self.dosing)
        self._hysteresis = await freeing.follow(self._recent, self.started + self.length, calm)

    def _outcome(self, result: RunResult) -> Outcome:
        experiment, stress = self.experiment, self.stress
        routes = experiment.routes
        phases = dict(self._windows())
        within = [self._good_within(route) for route in routes]
        samples, attempts = result.samples, result.attempts
        stats = verdict.stats(samples, attempts, self.started, phases, routes, within.__getitem__)
        interval = verdict.intervals(samples, self.started, phases, routes, experiment.run.confidence)
        checks = verdict.checks(stats, lambda route, phase: experiment.limits(stress, route, phase).limits(), interval)
        probes = self._looks.results(phases)
        lag = result.lag_p99 if result.dropped == 0 else float("inf")
        conclusion, reasons = verdict.judge(
            checks,
            stats,
            lag_p99=lag,
            lag_max=LAG_MAX,
            probes=probes,
            control=self.control,
            certain=experiment.run.certain,
        )
        ended = list(self._ended())
        conclusion, reasons = self._with_findings(conclusion, list(reasons), ended)
        bins = verdict.timeline(samples, attempts, self.started, self.length, _BIN_WIDTH, within.__getitem__)
        calm = stats[Phase.CALM][""]
        calm_share = calm.good / calm.requests if calm.requests else 1.0
        return Outcome(
            arm=self.system.arm,
            phases=phases,
            stats=stats,
            checks=checks,
            verdict=conclusion,
            reasons=reasons,
            recovered_after=verdict.recovered_after(bins, _BIN_WIDTH, phases[Phase.CONTAINED].end, calm_share),
            acted=self._acted(),
            aborted=self.aborted,
            lag_p99=lag,
            timeline=bins,
            bin_width=_BIN_WIDTH,
            samples=samples,
            attempts=attempts,
            started=self.started,
            probes=probes,
            ended=ended,
            hysteresis=self._hysteresis,
        )

    def _with_findings(self, found: Verdict, reasons: list[str], ended: list[str]) -> tuple[Verdict, list[str]]:
        """Add what no objective speaks of: processes that died, a system that stayed broken, faults out of order."""
        findings = list(ended)
        if (hysteresis := self._hysteresis) is not None and hysteresis.state is State.METASTABLE:
            findings.append(
                "metastable: it stayed broken under the load that it carried before, until that was down to "
                f"{100 * (hysteresis.recovers_at or 0):.0f}%"
            )
        elif hysteresis is not None and hysteresis.state is State.STUCK:
            findings.append(f"stuck: it stayed broken down to {100 * hysteresis.steps[-1].level:.0f}% of the load")
        if findings and found is not Verdict.INCONCLUSIVE:
            found, reasons = Verdict.FAILED, [*findings, *(reasons if found is Verdict.FAILED else [])]
        elif findings:
            reasons = [*reasons, *findings]
        left, expired = self._trouble
        trouble = [f"could not be undone: {each}" for each in self.system.left[left:]]
        trouble += [f"was undone before its time: {each}" for each in self.system.expired[expired:]]
        if trouble:
            found, reasons = Verdict.INCONCLUSIVE, [*trouble, *reasons]
        if self.aborted:
            reasons = [f"the dose was ended early: {self.aborted}", *reasons]
        return found, reasons

    def _ended(self) -> Iterator[str]:
        """Say which processes ended though nothing was done to them that ends one."""
        expected = {
            dose.process for dose in self.stress.doses if self.dosed and any(key in dose.fault for key in _ENDING)
        }
        for name, process in self.system.processes.items():
            again = process.restarts - self._restarts[name]
            if not process.running and (process.settings.restart_after is None or name not in expected):
                yield f"process {name!r} has ended, and is not back"
            elif again and name not in expected:
                often = "once" if again == 1 else f"{again} times"
                yield f"process {name!r} ended by itself {often}, and was restarted"

    def _windows(self) -> Iterator[tuple[Phase, Window]]:
        """The phases as they really were.

        What comes while a fault is put into force, or taken back, is neither with it nor without: it belongs to the
        phase in which a system may find out, or come back, and the time that it has for that counts from there.
        """
        dosing, undoing = self.dosing - self.started, self.undoing - self.started
        found_out = min(self.dose_start - self.started + self.detection, undoing)
        back = min(self.dose_end - self.started + self.recover_within, self.length)
        yield Phase.CALM, Window(0.0, dosing)
        yield Phase.DETECTION, Window(dosing, found_out)
        yield Phase.CONTAINED, Window(found_out, undoing)
        yield Phase.RECOVERING, Window(undoing, back)
        yield Phase.RECOVERED, Window(back, self.length)

    def _good(self, sample: Sample) -> bool:
        within = self._good_within(self.experiment.routes[sample.request])
        return sample.answer is Answer.FULL and sample.latency <= within

    def _good_within(self, route: str) -> float:
        """A full answer is a good one inside the route's own objective for calm times."""
        objective = self.experiment.objective.get(route)
        limit = None if objective is None else objective.at(Phase.CALM).p99
        return float("inf") if limit is None else seconds(limit)

    def _acted(self) -> list[Acted]:
        now = time.monotonic()
        found = [summarise(log.process, log.read(), self.dosing, now) for log in self.system.events]
        return sorted((acted for each in found for acted in each), key=lambda acted: acted.first)

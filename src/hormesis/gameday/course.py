"""One arm's way through one stress: calm, the dose, recovery, and what the load met in each.

The dose is put into force and taken out at moments that are measured, and the phases are cut there. The fault is undone
whatever happens; an arm that answers nobody any more has its dose ended early, if the experiment says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator

from hormesis.gameday import verdict
from hormesis.gameday.acted import summarise
from hormesis.gameday.experiment import Abort, Experiment, Stress
from hormesis.gameday.report.progress import Observer
from hormesis.gameday.results import Acted, Outcome, Phase, Window
from hormesis.gameday.system import ArmSystem
from hormesis.gameday.together import together
from hormesis.loadgen import LAG_MAX, RunResult, Samples
from hormesis.units import seconds

__all__ = ["LEAD", "Course"]

LEAD = 0.4
"""Seconds between the order to load and the first arrival, in which the generator makes its schedule."""

_BIN_WIDTH = 0.5
_OVERDUE = 5.0
"""Seconds after the end of a dose after which the watchdog ends it, whatever holds us up."""
_ABORT_REQUESTS_MIN = 10
"""Fewer requests are no reason to end a dose."""


class Course:
    """One arm's way through one stress."""

    def __init__(self, experiment: Experiment, stress: Stress, system: ArmSystem, observer: Observer) -> None:
        self.experiment = experiment
        self.stress = stress
        self.system = system
        self.observer = observer
        self.calm, self.dose, self.recovery = experiment.lengths(stress)
        self.length = self.calm + self.dose + self.recovery
        self.detection, self.recover_within = experiment.allowances(stress)
        self.started = time.monotonic() + LEAD
        self.dose_start = self.dose_end = 0.0
        self.watch = _AbortWatch(experiment.abort)

    async def run(self) -> Outcome:
        """Load, dose, undo, and judge."""
        spec = self.experiment.load_spec(self.stress, self.system.url)
        load = self.system.driver.run(spec, on_samples=self._take, start_at=self.started)
        result, _ = await together(load, self._phases())
        return self._outcome(result)

    async def _phases(self) -> None:
        await self._phase(Phase.CALM, self.started + self.calm)
        try:
            await self.system.dose(self.stress, within=self.dose + _OVERDUE)
            self.dose_start = time.monotonic()
            end = self.started + self.calm + self.dose
            await self._phase(Phase.DETECTION, min(self.dose_start + self.detection, end))
            await self._phase(Phase.CONTAINED, end)
        finally:
            await self.system.undo(self.stress)
            self.dose_end = time.monotonic()
        await self._phase(Phase.RECOVERING, self.dose_end + self.recover_within, abortable=False)
        await self._phase(Phase.RECOVERED, self.started + self.length, abortable=False)

    async def _phase(self, phase: Phase, until: float, *, abortable: bool = True) -> None:
        """Let a phase pass; one of the dose ends early when the abort condition holds."""
        left = until - time.monotonic()
        if left <= 0 or (abortable and self.watch.reason):
            return
        self.observer.phase(self.system.arm, self.stress.name, phase, left)
        if phase is Phase.CALM or not abortable:
            await asyncio.sleep(left)
            return
        self.watch.watching = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self.watch.held.wait()
        self.watch.watching = False

    def _take(self, samples: Samples) -> None:
        self.observer.samples(self.system.arm, samples)
        self.watch.take(samples)

    def _outcome(self, result: RunResult) -> Outcome:
        experiment, stress = self.experiment, self.stress
        routes = [request.name for request in experiment.load.request]
        phases = dict(self._windows())
        within = [self._good_within(route) for route in routes]
        samples, attempts = result.samples, result.attempts
        stats = verdict.stats(samples, attempts, self.started, phases, routes, within.__getitem__)
        checks = verdict.checks(stats, lambda route, phase: experiment.limits(stress, route, phase).limits())
        lag = result.lag_p99 if result.dropped == 0 else float("inf")
        conclusion, reasons = verdict.judge(checks, stats, lag_p99=lag, lag_max=LAG_MAX)
        if self.watch.reason:
            reasons = [f"the dose was ended early: {self.watch.reason}", *reasons]
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
            aborted=self.watch.reason,
            lag_p99=lag,
            timeline=bins,
            bin_width=_BIN_WIDTH,
            samples=samples,
            attempts=attempts,
            started=self.started,
        )

    def _windows(self) -> Iterator[tuple[Phase, Window]]:
        """The phases as they really were."""
        dose_start, dose_end = self.dose_start - self.started, self.dose_end - self.started
        found_out = min(dose_start + self.detection, dose_end)
        back = min(dose_end + self.recover_within, self.length)
        yield Phase.CALM, Window(0.0, dose_start)
        yield Phase.DETECTION, Window(dose_start, found_out)
        yield Phase.CONTAINED, Window(found_out, dose_end)
        yield Phase.RECOVERING, Window(dose_end, back)
        yield Phase.RECOVERED, Window(back, self.length)

    def _good_within(self, route: str) -> float:
        """A full answer is a good one inside the route's own objective for calm times."""
        objective = self.experiment.objective.get(route)
        limit = None if objective is None else objective.at(Phase.CALM).p99
        return float("inf") if limit is None else seconds(limit)

    def _acted(self) -> list[Acted]:
        now = time.monotonic()
        found = [summarise(log.process, log.read(), self.dose_start, now) for log in self.system.events]
        return sorted((acted for each in found for acted in each), key=lambda acted: acted.first)


class _AbortWatch:
    """Looks at the answers that come in, and says when the abort condition holds."""

    def __init__(self, condition: Abort | None) -> None:
        self._condition = condition
        self._ended: deque[tuple[float, bool]] = deque()
        self._since: float | None = None
        self._answered = 0
        self.watching = False
        self.held = asyncio.Event()
        self.reason = ""

    def take(self, samples: Samples) -> None:
        """Look at a batch."""
        if self._condition is None or not self.watching:
            return
        over = seconds(self._condition.over)
        for sample in samples:
            answered = sample.answer.served
            self._ended.append((sample.done, answered))
            self._answered += answered
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        while self._ended and self._ended[0][0] < now - over:
            self._answered -= self._ended.popleft()[1]
        count = len(self._ended)
        if now - self._since < over or count < _ABORT_REQUESTS_MIN:
            return
        if self._answered / count < self._condition.answered:
            self.reason = (
                f"{self._answered} of {count} requests were answered in {over:g} s "
                f"(abort below {100 * self._condition.answered:.4g}%)"
            )
            self.held.set()

"""An exploration of a real system, from its file to its findings."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hormesis.chaos import Keeper
from hormesis.chaos.faults import Inject
from hormesis.chaos.journal import FILE_NAME, recover
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, folder_of
from hormesis.gameday.explore.catalogue import catalogue, chosen, wiring
from hormesis.gameday.explore.corpus import Case, replayed_first, save_case
from hormesis.gameday.explore.fixes import Change
from hormesis.gameday.explore.hunt import Finding, Hunt, Stage
from hormesis.gameday.explore.real import RealSystem, check, planned_trial
from hormesis.gameday.explore.setup import Protection, lengths, protection, shortest_dose
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial
from hormesis.gameday.lock import locked, touched
from hormesis.gameday.observing import Observer
from hormesis.gameday.preflight import check as preflight
from hormesis.gameday.runner import allow_many_connections

__all__ = ["Expedition", "Told"]


class Told(Observer, Protocol):
    """Is told of an exploration, and of the runs that its trials are. Every call is quick, and none raises."""

    def begins(self, stage: Stage, trial: Trial, budget: Budget) -> None:
        """A trial begins."""

    def ended(self, stage: Stage, trial: Trial, seen: Seen, budget: Budget) -> None:
        """A trial is over."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of the policy file that contains a finding, as a diff."""

    change: str
    diff: str


class Expedition:
    """An exploration, and what it has found so far.

    Args:
        experiment: The system, its load and its objectives.
        arm: Which of its arms.
        file: Where it was read from.
        out: The folder for logs, events and scratch; it must exist, and be ours alone.
        within: How long it may take, in seconds; starting and stopping come on top of it.
        corpus: Where minimal failures are kept, and tried first; None: nowhere.
        policies: The policy file of the arm; None: the one that the arm names.
        only: The places to explore, such as `"edge payments"`; all when empty.
        kinds: The kinds of fault, such as `"latency"`; all when empty.
        singles, pairs: What to explore.

    Raises:
        ConfigurationError: The system can't be explored, a case of the corpus or the policy file can't be meant.
    """

    def __init__(
        self,
        experiment: Experiment,
        arm: str,
        *,
        file: Path,
        out: Path,
        within: float,
        corpus: Path | None = None,
        policies: str | None = None,
        only: Sequence[str] = (),
        kinds: Sequence[str] = (),
        singles: bool = True,
        pairs: bool = True,
    ) -> None:
        check(experiment)
        self._protection = protection(experiment, arm, folder_of(file), policies)
        places = () if self._protection is None else self._protection.places
        everything = catalogue(experiment, {}, places)
        chosen(everything, only, kinds)
        self._injected = {each.name for each in everything if isinstance(each.fault, Inject)}
        self.experiment = dataclasses.replace(experiment, run=lengths(experiment))
        self.arm = arm
        self.file = file
        self.out = out
        self.cases: dict[int, Case] = {}
        """By the number of the finding: the file that it was saved in."""
        self.unsaved: list[str] = []
        """What could not be written into the corpus, and why."""
        self._corpus = corpus
        self._changes: dict[str, Change] = {}
        self._began = time.monotonic()
        self._real: RealSystem | None = None
        run = self.experiment.run
        cases = [] if corpus is None else replayed_first(corpus, self.experiment, file)[0]
        trial = planned_trial(self.experiment)
        if within < 2 * trial:
            accepted = f"the time of two trials at least, {2 * trial:.0f}s"
            raise ConfigurationError.bad_value("--within", f"{within:g}s", accepted)
        self.budget = Budget(within, trial)
        self.hunt = Hunt(
            catalogue=lambda control: chosen(catalogue(experiment, control.answers, places), only, kinds),
            wiring=wiring(experiment),
            budget=self.budget,
            length=float(run.dose),
            length_min=shortest_dose(run),
            corpus=[(case.path.name, case.trial) for case in cases],
            allowed=self._allowed,
            changes_for=self._changes_for,
            found=self._found,
            singles=singles,
            pairs=pairs,
        )

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    @property
    def protection(self) -> Protection | None:
        """The policies of the arm, if there are any."""
        return self._protection

    def proposal(self, finding: Finding) -> Proposal | None:
        """Return the change that is named for a finding, as a diff of the policy file."""
        named = [] if finding.fixes is None else finding.fixes.named
        if not named or self._protection is None:
            return None
        return Proposal(named[0].change, self._protection.file.diff(self._changes[named[0].change]))

    async def run(self, told: Told) -> None:
        """Explore; what was found stays here when it is cancelled.

        Args:
            told: Is told how it goes.

        Raises:
            ConfigurationError: The system can't be started as the file says, or a game day is running on it.
            HormesisError: A process does not get ready, or the load generator fails.
        """
        experiment, out = self.experiment, self.out
        with locked(touched(experiment, ())):
            await preflight(experiment, experiment.stress[:1], [self.arm], folder_of(self.file))
            await asyncio.to_thread(recover, out / FILE_NAME, "runner")
            for leftover in ("logs", "events", "scratch", "policies"):
                shutil.rmtree(out / leftover, ignore_errors=True)
            allow_many_connections()
            async with contextlib.AsyncExitStack() as stack:
                keeper = stack.enter_context(Keeper(out / FILE_NAME))
                stack.callback(shutil.rmtree, out / "scratch", ignore_errors=True)
                real = RealSystem(
                    experiment,
                    self.arm,
                    file=self.file,
                    out=out,
                    keeper=keeper,
                    observer=told,
                    protection=self._protection,
                    injected=self._injected,
                )
                self._real = await stack.enter_async_context(real)
                await real.converse(
                    self.hunt.steps(),
                    lambda trial: told.begins(self.hunt.stage, trial, self.budget),
                    lambda trial, seen: told.ended(self.hunt.stage, trial, seen, self.budget),
                )

    def _allowed(self, injections: Sequence[Injection]) -> bool:
        """Whether faults that act together stay within the blast radius."""
        if self.experiment.blast_radius is None:
            return True
        try:
            self.experiment.blast_radius.check([each.dose() for each in injections], self.experiment.load)
        except ConfigurationError:
            return False
        return True

    def _changes_for(self, trial: Trial, seen: Seen, helped: Sequence[str]) -> list[str]:
        """Name the changes to try: those that helped with other findings first."""
        if self._protection is None:
            return []
        found = {each.name: each for each in self._protection.changes(trial, seen.acted, seen.hurt)}
        self._changes |= found
        if self._real is not None:
            self._real.know({name: change.text for name, change in found.items()})
        return sorted(found, key=lambda name: name not in helped)

    def _found(self, finding: Finding) -> None:
        """Keep a finding in the corpus, unless it came from there."""
        if self._corpus is None or finding.known:
            return
        seen = finding.seen if finding.shrunk is None or finding.shrunk.seen is None else finding.shrunk.seen
        about = seen.reasons[0] if seen.reasons else "an objective was missed"
        try:
            self.cases[self.hunt.findings.index(finding)] = save_case(
                self._corpus,
                finding.least,
                experiment=self.file,
                seed=self.experiment.seed,
                run=self.experiment.run,
                about=f"Fails: {about}",
            )
        except OSError as error:
            self.unsaved.append(f"{finding.least}: {error.strerror or error}")

"""The whole of it, in order: the corpus, the search, and for each finding its least form and what contains it.

A `Hunt` is a conversation like its parts. It may be broken off at any time; what was found by then is in it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hormesis.gameday.explore.counterfactual import Counterfactual, try_changes
from hormesis.gameday.explore.pruning import Wiring
from hormesis.gameday.explore.search import Fate, Record, Search
from hormesis.gameday.explore.shrink import Shrunk, shrink
from hormesis.gameday.explore.trials import (
    Budget,
    Injection,
    Seen,
    Steps,
    Trial,
    failed,
    held,
    held_without_fault,
    metered,
)

__all__ = ["Finding", "Hunt", "Replay", "Replayed", "Stage"]

_TRIALS_FOR_A_FINDING = 20
"""How many trials of the budget the search leaves for what is done with each finding ..."""

_SHARE_FOR_FINDINGS = 0.5
"""... but never more than this share of all of it."""

_SHARE_FOR_SHRINKING = 0.4
"""Of what a finding gets; the rest is for finding what contains it."""

_STEADY_TRIES = 5

_BASELINE = 3
"""How many runs without a fault, the latest, a change is held against."""


class Stage(enum.StrEnum):
    """What a hunt is about at the moment."""

    CONTROL = "without a fault"
    CORPUS = "the corpus"
    SEARCH = "exploring"
    SHRINKING = "shrinking"
    FIXING = "what contains it"
    OVER = "over"


class Replay(enum.StrEnum):
    """What became of a case of the corpus."""

    FAILS = "still fails"
    HOLDS = "holds now"
    UNCLEAR = "can't be told"
    UNTRIED = "not tried"


@dataclass(slots=True)
class Replayed:
    """A case of the corpus, by the name of its file, and what became of it."""

    name: str
    trial: Trial
    outcome: Replay = Replay.UNTRIED


@dataclass(slots=True)
class Finding:
    """A combination that fails.

    Attributes:
        injections: What was dosed when it was found.
        seen: What that showed.
        known: The name of the case of the corpus that it is; empty when it is new.
        shrunk: The least that still fails; None while it has not been looked for.
        fixes: What became of each change of the policies; None while none was tried.
    """

    injections: tuple[Injection, ...]
    seen: Seen
    known: str = ""
    shrunk: Shrunk | None = None
    fixes: Counterfactual | None = None

    @property
    def least(self) -> Trial:
        """The least that is known to fail."""
        return Trial(self.injections) if self.shrunk is None else self.shrunk.trial


ChangesFor: TypeAlias = Callable[[Trial, Seen, Sequence[str]], Sequence[str]]
"""Names the changes to try on a failure, the most promising first, given those that helped with others."""


@dataclass(slots=True, kw_only=True)
class Hunt:
    """Looks for what a system does not survive.

    Attributes:
        catalogue: The single faults to explore, given what was seen without any.
        wiring: Who calls whom.
        budget: The time for all of it.
        length, length_min: How long a dose lasts, and how short it may get, in seconds.
        corpus: The cases to try first, by their names.
        allowed: Whether faults may act together; by default all may.
        changes_for: The changes to try; by default none.
        found: Called with each finding once it is as small as it gets.
        confirm: How many times more often than it held a failure must have come up to be believed.
        repeats: How often the answers of shrinking and fixing must come out alike.
        singles, pairs: What to explore.
    """

    catalogue: Callable[[Seen], Sequence[Injection]]
    wiring: Wiring
    budget: Budget
    length: float
    length_min: float
    corpus: Sequence[tuple[str, Trial]] = ()
    allowed: Callable[[Sequence[Injection]], bool] = lambda _injections: True
    changes_for: ChangesFor = lambda _trial, _seen, _helped: ()
    found: Callable[[Finding], None] = lambda _finding: None
    confirm: int = 2
    repeats: int = 2
    singles: bool = True
    pairs: bool = True
    stage: Stage = Stage.CONTROL
    controls: list[Seen] = field(default_factory=list)
    """All runs without a fault and without a change, in the order in which they came."""
    steady: bool = False
    """Whether the system holds its objectives without any fault, without which nothing can be found out."""
    replayed: list[Replayed] = field(default_factory=list)
    search: Search | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """What became of every combination."""
        return [] if self.search is None else self.search.finish()

    @property
    def unclear(self) -> int:
        """How many combinations, and cases of the corpus, it can't be told of whether they fail."""
        records = sum(record.fate is Fate.INCONCLUSIVE for record in self.records)
        return records + sum(case.outcome is Replay.UNCLEAR for case in self.replayed)

    @property
    def tried(self) -> int:
        """How many combinations, and cases of the corpus, were tried."""
        records = sum(record.fate.tried for record in self.records)
        return records + sum(case.outcome is not Replay.UNTRIED for case in self.replayed)

    @property
    def survived(self) -> bool:
        """Whether something was tried, and all of it was seen to hold."""
        return self.steady and bool(self.tried) and not self.unclear and not self.findings

    def steps(self) -> Steps[None]:
        """Hunt."""
        yield from metered(self._noting_controls(self._steps()), self.budget)

    def _noting_controls(self, steps: Steps[None]) -> Steps[None]:
        try:
            trial = next(steps)
            while True:
                seen = yield trial
                if trial == Trial():
                    self.controls.append(seen)
                trial = steps.send(seen)
        except StopIteration:
            return
        finally:
            steps.close()

    def _steps(self) -> Steps[None]:
        self.replayed = [Replayed(name, trial) for name, trial in self.corpus]
        control = yield from self._asked_without_fault()
        if control is None:
            return
        self.stage = Stage.CORPUS
        yield from self._replay()
        self.stage = Stage.SEARCH
        search = self.search = self._new_search(control)
        yield from search.steps()
        self.findings += [Finding(each.injections, each.seen) for each in _spread(search.found) if each.seen]
        self.steady = not search.drifted
        if self.steady:
            yield from self._work_out(search)
        self.stage = Stage.OVER

    def _asked_without_fault(self) -> Steps[Seen | None]:
        control = yield from held_without_fault(_STEADY_TRIES)
        self.steady = control is not None
        if control is None:
            self.stage = Stage.OVER
        return control

    def _replay(self) -> Steps[None]:
        for case in self.replayed:
            if not self.budget.has_room():
                return
            seen = yield case.trial
            again = (yield case.trial) if failed(seen) else seen
            if held(seen):
                case.outcome = Replay.HOLDS
            elif not (failed(seen) and failed(again)):
                case.outcome = Replay.UNCLEAR
            else:
                case.outcome = Replay.FAILS
                shrunk = Shrunk(trial=case.trial, seen=seen, runs=0, steps=())
                self.findings.append(Finding(case.trial.injections, seen, case.name, shrunk))

    def _new_search(self, control: Seen) -> Search:
        known = [frozenset(each.signature for each in finding.injections) for finding in self.findings]
        return Search(
            self.catalogue(control),
            wiring=self.wiring,
            control=control,
            budget=self.budget,
            reserve=self._reserve,
            confirm=self.confirm,
            known=known,
            allowed=self.allowed,
            singles=self.singles,
            pairs=self.pairs,
        )

    def _reserve(self, found: int) -> float:
        """How many trials to leave for findings."""
        wanted = _TRIALS_FOR_A_FINDING * (found + len(self.findings))
        return min(wanted, _SHARE_FOR_FINDINGS * self.budget.seconds / self.budget.trial)

    def _work_out(self, search: Search) -> Steps[None]:
        """Make each finding small, and look for what contains it."""
        helped: list[str] = []
        for index, finding in enumerate(self.findings):
            share = Budget(self._share(len(self.findings) - index), self.budget.trial)
            if finding.shrunk is None:
                self.stage = Stage.SHRINKING
                own = Budget(_SHARE_FOR_SHRINKING * share.seconds, share.trial)
                shrunk = yield from metered(metered(self._shrunk(finding, search, own), own), share)
                if shrunk.steps and (yield from self._asked_without_fault()) is None:
                    return  # whatever was tried meanwhile may have failed for another reason
                finding.shrunk = shrunk
            self.found(finding)
            self.stage = Stage.FIXING
            changes = self.changes_for(finding.least, finding.shrunk.seen or finding.seen, helped)
            if changes:
                finding.fixes = Counterfactual(finding.least)
                latest = [seen for seen in self.controls if held(seen)][-_BASELINE:]
                asking = try_changes(finding.fixes, changes, baseline=latest, repeats=self.repeats, budget=share)
                yield from metered(asking, share)
                helped += [each.change for each in finding.fixes.named if each.change not in helped]

    def _share(self, findings: int) -> float:
        """Seconds for the next of so many findings: an equal share, but enough to come to something."""
        left = max(0.0, self.budget.seconds - self.budget.spent)
        return min(left, max(left / findings, _TRIALS_FOR_A_FINDING * self.budget.trial))

    def _shrunk(self, finding: Finding, search: Search, budget: Budget) -> Steps[Shrunk]:
        harmless = (each.injections for each in search.records.values() if each.harmless)
        holds = [frozenset(injections) for injections in harmless]
        return shrink(
            Trial(finding.injections),
            length=self.length,
            length_min=self.length_min,
            repeats=self.repeats,
            holds=holds,
            budget=budget,
        )


def _spread(found: Sequence[Record]) -> list[Record]:
    """Order findings so that each pair of places, or place, has its turn before one has its second."""
    turns: dict[frozenset[str], int] = {}
    order = []
    for record in found:
        places = frozenset(each.target for each in record.injections)
        turns[places] = turns.get(places, 0) + 1
        order.append(turns[places])
    return [found[index] for index in sorted(range(len(found)), key=order.__getitem__)]

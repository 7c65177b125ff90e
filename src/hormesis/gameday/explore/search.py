"""The exploration itself: single faults, then pairs, each with what became of it and why.

Every combination of the catalogue ends as one `Record`. What needs no trial is pruned; the rest is tried, the most
suspicious first, until the time is up. Whatever fails is asked for again before it is believed: a *finding* has failed
clearly more often than not, and the system has held without a fault right after it. What fails only now and then is
told of as inconclusive, and is no finding.

Controls, runs without a fault, are spread evenly among the trials, so that a system or a machine that drifts is
noticed. Where the objectives are missed without a fault too, time after time, the search ends: nothing more can be
told.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hormesis.chaos import Bandwidth, BlackHole, Latency, Pause, Throttle
from hormesis.gameday.explore.pruning import Suspicion, Wiring, hides, idle, suspicion
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Steps, Trial, failed, held, held_without_fault

__all__ = ["Fate", "Record", "Search", "counts"]

_SEEN_TOGETHER = 1.0
"""How much less suspicious a pair is for each trial of its two places, ..."""

_SEEN_ALIKE = 2.0
"""... how much less still for one with faults of the same manner, ..."""

_FAILED_TOGETHER = 6.0
"""... and how much for a finding there: it is most likely the same failure once more."""

_IDLE = "nothing passes there"
_DRIFTED = "the objectives were missed without a fault too"

_RUNS_MAX = 12
"""How often a failure is asked for at most ..."""

_UNCLEAR_MAX = 2
"""... and how many of the answers may be unclear."""

_CONTROL_EVERY = 10
"""Trials after which there is a control ..."""

_CONTROLS_MAX = 3
"""... and how often it is asked for until it holds."""

_WAITS = (Latency, BlackHole, Bandwidth, Pause, Throttle)
"""Faults that keep callers waiting; all others let them know at once. Many a policy can do one of the two."""

Combination: TypeAlias = tuple[Injection, ...]
Signature: TypeAlias = frozenset[tuple[str, str]]
Likeness: TypeAlias = frozenset[tuple[str, bool]]


class Fate(enum.StrEnum):
    """What became of a combination."""

    SURVIVED = "survived"
    DEGRADED = "degraded"
    FOUND = "failed"
    INCONCLUSIVE = "inconclusive"
    PRUNED = "pruned"
    LEFT_OUT = "left out"

    @property
    def tried(self) -> bool:
        """Whether there was a trial."""
        return self not in (Fate.PRUNED, Fate.LEFT_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One combination, and what became of it.

    Attributes:
        injections: The faults.
        fate: How it ended.
        why: The reason: of the verdict, of the pruning, of being left out.
        suspected: Why it was tried when it was.
        runs: How often it was tried.
        seen: What the first trial that came out so showed; None where there was none.
    """

    injections: Combination
    fate: Fate
    why: str
    suspected: str = ""
    runs: int = 0
    seen: Seen | None = None

    @property
    def harmless(self) -> bool:
        """Whether it is known to hold: it did, or there is nothing for it to act on."""
        return self.fate in (Fate.SURVIVED, Fate.DEGRADED) or (self.fate is Fate.PRUNED and self.why == _IDLE)


class _Agenda:
    """What waits to be tried, by what it is like: there are far fewer of these than combinations."""

    def __init__(self) -> None:
        self._at: dict[Likeness, list[tuple[Combination, Suspicion]]] = {}

    def __bool__(self) -> bool:
        return bool(self._at)

    def add(self, combination: Combination, clue: Suspicion) -> None:
        """Have one wait behind those like it that are as suspicious."""
        here = self._at.setdefault(_likeness(combination), [])
        bisect.insort(here, (combination, clue), key=lambda waiting: -waiting[1].weight)

    def next(self, boredom: Callable[[Likeness], float]) -> tuple[Combination, Suspicion]:
        """Return the most suspicious, less how boring its like has become; of equals, the one that came first."""
        most = max(self._at, key=lambda likeness: self._at[likeness][0][1].weight - boredom(likeness))
        return self._at[most][0]

    def remove(self, combination: Combination) -> None:
        """Take the first of its like out."""
        likeness = _likeness(combination)
        self._at[likeness].pop(0)
        if not self._at[likeness]:
            del self._at[likeness]

    def take_all(self) -> list[tuple[Combination, Suspicion]]:
        """Take all of it out."""
        everything = [waiting for here in self._at.values() for waiting in here]
        self._at.clear()
        return everything


def _likeness(combination: Combination) -> Likeness:
    """Return the places of a combination, and whether callers wait there or are told at once."""
    return frozenset((each.target, isinstance(each.fault, _WAITS)) for each in combination)


def _places(likeness: Likeness) -> frozenset[str]:
    return frozenset(target for target, _ in likeness)


class Search:
    """Explores a catalogue of faults.

    Args:
        catalogue: The single faults, most telling first.
        wiring: Who calls whom.
        control: What was seen without any fault.
        budget: The time; whoever drives the conversation counts it (`metered`).
        reserve: How many trials to leave in the budget, by the number of findings, for what is done with these.
        confirm: How many times more often than it held a failure must have come up to be believed.
        known: Combinations that are known to fail, by the signatures of their injections.
        allowed: Whether a combination stays within the blast radius.
        singles, pairs: What to explore; without singles, nothing is known that could prune pairs.
    """

    def __init__(
        self,
        catalogue: Sequence[Injection],
        *,
        wiring: Wiring,
        control: Seen,
        budget: Budget,
        reserve: Callable[[int], float] = lambda _findings: 0.0,
        confirm: int = 3,
        known: Collection[Signature] = (),
        allowed: Callable[[Combination], bool] = lambda _combination: True,
        singles: bool = True,
        pairs: bool = True,
    ) -> None:
        self._catalogue = catalogue
        self._wiring = wiring
        self._control = control
        self._budget = budget
        self._reserve = reserve
        self._confirm = confirm
        self._known = known
        self._allowed = allowed
        self._sizes = [size for size, wanted in ((1, singles), (2, pairs)) if wanted]
        self._waiting = _Agenda()
        self._alone: dict[Injection, Seen] = {}
        self._tried_at: Counter[frozenset[str]] = Counter()
        self._tried_like: Counter[Likeness] = Counter()
        self._failed_at: set[frozenset[str]] = set()
        self._findings = 0
        self._since_control = 0
        self.drifted = False
        """Whether the objectives were missed without a fault as well, so that the search had to end."""
        self.records: dict[Combination, Record] = {}

    @property
    def found(self) -> list[Record]:
        """The combinations that fail."""
        return [record for record in self.records.values() if record.fate is Fate.FOUND]

    def finish(self) -> list[Record]:
        """Return all records; what there was no time for, or what an interruption has cut off, is left out."""
        self._leave_out("the exploration ended before it")
        for combination in self._combinations():
            if combination not in self.records:
                self._record(combination, Fate.LEFT_OUT, "the exploration ended before it", Suspicion(0.0, ""))
        return list(self.records.values())

    def steps(self) -> Steps[None]:
        """Explore."""
        for size in self._sizes:
            for combination in itertools.combinations(self._catalogue, size):
                self._take_in(combination)
            yield from self._try_waiting()

    def _combinations(self) -> Iterator[Combination]:
        for size in self._sizes:
            yield from itertools.combinations(self._catalogue, size)

    def _take_in(self, combination: Combination) -> None:
        """Prune a combination, or have it wait for its turn."""
        match combination:
            case [one]:
                pointless, clue = self._pointless_alone(one), Suspicion(0.0, "single faults come first")
            case [one, other]:
                pointless = self._pointless_together(one, other)
                clue = suspicion((one, other), self._alone, self._control, self._wiring)
            case _:
                raise AssertionError(combination)
        if not self._allowed(combination):
            self._record(combination, Fate.PRUNED, "beyond the blast radius", clue)
        elif pointless:
            self._record(combination, Fate.PRUNED, pointless, clue)
        else:
            self._waiting.add(combination, clue)

    def _leave_out(self, why: str) -> None:
        for combination, clue in self._waiting.take_all():
            self._record(combination, Fate.LEFT_OUT, why, clue)

    def _pointless_alone(self, injection: Injection) -> str:
        if frozenset([injection.signature]) in self._known:
            return "known from the corpus"
        return _IDLE if idle(injection, self._control, self._wiring) else ""

    def _pointless_together(self, one: Injection, other: Injection) -> str:
        """Say why a pair needs no trial; empty when it does."""
        signatures = frozenset([one.signature, other.signature])
        if any(known <= signatures for known in self._known):
            return "known from the corpus"
        if hides(one, other, self._wiring) or hides(other, one, self._wiring):
            return "one hides the other"
        for first, second in ((one, other), (other, one)):
            record = self.records.get((first,))
            if record is not None and record.fate is Fate.FOUND:
                return "one fails alone"
            under_first = self._alone.get(first)
            if under_first is not None and idle(second, under_first, self._wiring):
                return "nothing passes there under the other"
        if all(idle(each, self._control, self._wiring) for each in (one, other)):
            return _IDLE
        return ""

    def _try_waiting(self) -> Steps[None]:
        again: list[Combination] = []
        while self._waiting and self._has_room() and (yield from self._steady()):
            combination, clue = self._waiting.next(self._boredom)
            record = yield from self._try(combination, clue)
            self._waiting.remove(combination)
            self.records[combination] = record
            if record.fate is Fate.INCONCLUSIVE and record.runs == 1:
                again.append(combination)
        for combination in again:  # the host had a bad moment, perhaps
            if self._has_room() and (yield from self._steady()):
                first = self.records[combination]
                record = yield from self._try(combination, Suspicion(0.0, first.suspected))
                self.records[combination] = record
        self._leave_out(_DRIFTED if self.drifted else "no time was left for it")

    def _steady(self) -> Steps[bool]:
        """Whether the system still holds without a fault, as far as is known: it is asked now and then."""
        if self._since_control >= _CONTROL_EVERY:
            yield from self._asked_without_fault()
        return not self.drifted

    def _asked_without_fault(self) -> Steps[None]:
        control = yield from held_without_fault(_CONTROLS_MAX)
        self._since_control = 0
        self.drifted = control is None

    def _has_room(self) -> bool:
        return self._budget.has_room(1 + self._reserve(self._findings))

    def _boredom(self, likeness: Likeness) -> float:
        """How much less a combination is worth for what was tried at its places already."""
        places = _places(likeness)
        tried = _SEEN_TOGETHER * self._tried_at[places] + _SEEN_ALIKE * self._tried_like[likeness]
        return tried + _FAILED_TOGETHER * (places in self._failed_at)

    def _try(self, combination: Combination, clue: Suspicion) -> Steps[Record]:
        trial, likeness = Trial(combination), _likeness(combination)
        seen = yield trial
        self._since_control += 1
        runs, fate, why = 1, Fate(seen.verdict), "; ".join(seen.reasons)
        if failed(seen):
            runs, doubt = yield from self._confirmed(trial)
            if doubt:
                fate, why = Fate.INCONCLUSIVE, doubt
        self._tried_at[_places(likeness)] += 1
        self._tried_like[likeness] += 1
        if fate is Fate.FOUND:
            self._failed_at.add(_places(likeness))
            self._findings += 1
        if len(combination) == 1 and fate is not Fate.INCONCLUSIVE:
            self._alone[combination[0]] = seen
        return Record(injections=combination, fate=fate, why=why, suspected=clue.why, runs=runs, seen=seen)

    def _confirmed(self, trial: Trial) -> Steps[tuple[int, str]]:
        """Ask for a failure again; returns how often it was asked for, and what is doubtful about it.

        A walk between two walls: up with each failure, down with each time it held. The upper wall is far enough
        away that luck seldom gets there from the first failure.
        """
        bad, good, runs = 1, 0, 1
        while good <= bad < good + self._confirm and runs < _RUNS_MAX and runs - bad - good <= _UNCLEAR_MAX:
            seen = yield trial
            runs += 1
            bad += failed(seen)
            good += held(seen)
        if bad < good + self._confirm:
            return runs, f"it failed in {bad} of {runs} runs only"
        yield from self._asked_without_fault()
        return runs, f"right after it, {_DRIFTED}" if self.drifted else ""

    def _record(self, combination: Combination, fate: Fate, why: str, clue: Suspicion) -> None:
        self.records[combination] = Record(injections=combination, fate=fate, why=why, suspected=clue.why)


def counts(records: Sequence[Record]) -> Iterator[tuple[str, int]]:
    """Count what became of combinations, with the reasons of those that were not tried.

    The counts of the fates add up to the number of records.
    """
    by_fate = Counter(record.fate for record in records)
    for fate in Fate:
        yield fate.value, by_fate[fate]
    for why, count in Counter(record.why for record in records if record.fate is Fate.PRUNED).most_common():
        yield f"{Fate.PRUNED.value}: {why}", count

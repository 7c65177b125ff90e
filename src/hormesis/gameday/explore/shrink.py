"""Shrinking a failure to the least that still fails: fewer faults, milder, shorter.

Fewer faults is delta debugging (Zeller and Hildebrandt, 2002). Milder and shorter are bisections. A real system does
not answer alike every time, so nothing is taken away before its absence has failed several times in a row; one
answer to the contrary keeps it. So what comes out has been seen to fail as it stands, whatever the noise; where the
noise is great it may be larger than it needs to be, never smaller.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hormesis.chaos import describe
from hormesis.gameday.explore.milder import Scale, knobs
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Steps, Trial, failed, repeatedly
from hormesis.units import format_seconds

__all__ = ["Shrunk", "shrink"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What is left of a failure.

    Attributes:
        trial: The least that still fails.
        seen: What it showed when it failed last; None when nothing was taken away.
        runs: How many trials shrinking took.
        steps: What was taken away, in words.
    """

    trial: Trial
    seen: Seen | None
    runs: int
    steps: tuple[str, ...]


class _Shrinking:
    """The least that fails so far, and how it came to that."""

    def __init__(
        self, trial: Trial, repeats: int, holds: Collection[frozenset[Injection]], budget: Budget | None
    ) -> None:
        self.trial = trial
        self.seen: Seen | None = None
        self.steps: list[str] = []
        self.runs = 0
        self._repeats = repeats
        self._budget = budget
        self._holds: set[tuple[frozenset[Injection], float | None]] = {(each, None) for each in holds}

    def fails(self, smaller: Trial, step: str) -> Steps[bool]:
        """Ask for something smaller; it takes the failure's place when it fails too."""
        key = (frozenset(smaller.injections), smaller.dose)
        if not smaller.injections or key in self._holds:
            return False
        if self._budget is not None and not self._budget.has_room(self._repeats):
            return False
        found = yield from self._counted(smaller)
        if found is None:
            self._holds.add(key)
            return False
        self.trial, self.seen = smaller, found[-1]
        self.steps.append(step)
        return True

    def _counted(self, trial: Trial) -> Steps[list[Seen] | None]:
        asking = repeatedly(trial, failed, self._repeats)
        try:
            question = next(asking)
            while True:
                self.runs += 1
                question = asking.send((yield question))
        except StopIteration as stop:
            found: list[Seen] | None = stop.value
            return found


def shrink(
    failing: Trial,
    *,
    length: float,
    length_min: float,
    repeats: int = 2,
    holds: Collection[frozenset[Injection]] = (),
    budget: Budget | None = None,
) -> Steps[Shrunk]:
    """Shrink a failure.

    Args:
        failing: What is known to fail.
        length: How long its dose lasts.
        length_min: How short a dose may be.
        repeats: How often something smaller must fail in a row.
        holds: Combinations that are known to hold.
        budget: When it is used up, the failure stays as small as it is by then.
    """
    state = _Shrinking(failing, repeats, holds, budget)
    yield from _fewer(state)
    yield from _milder(state)
    yield from _shorter(state, length, length_min)
    return Shrunk(trial=state.trial, seen=state.seen, runs=state.runs, steps=tuple(state.steps))


def _fewer(state: _Shrinking) -> Steps[None]:
    """Delta debugging: leave out halves, then quarters, and so on down to single faults."""
    parts = 2
    while len(whole := state.trial.injections) > 1:
        parts = min(parts, len(whole))
        for part in _split(whole, parts):
            rest = tuple(each for each in whole if each not in part)
            smaller = dataclasses.replace(state.trial, injections=rest)
            if (yield from state.fails(smaller, "without " + " and ".join(map(str, part)))):
                parts = max(2, parts - 1)
                break
        else:
            if parts == len(whole):
                return
            parts *= 2


def _split(whole: Sequence[Injection], parts: int) -> list[Sequence[Injection]]:
    """Cut into so many parts of about the same size."""
    cuts = [len(whole) * number // parts for number in range(parts + 1)]
    return [whole[start:end] for start, end in itertools.pairwise(cuts)]


def _milder(state: _Shrinking) -> Steps[None]:
    for signature in [injection.signature for injection in state.trial.injections]:
        for knob in knobs(_of(signature, state.trial).fault):
            scale = knob.scale
            while (middle := scale.middle()) is not None:
                now = _of(signature, state.trial)
                milder = dataclasses.replace(now, fault=knob.turned(now.fault, middle))
                others = [each for each in state.trial.injections if each != now]
                smaller = dataclasses.replace(state.trial, injections=(*others, milder))
                step = f"{now.target}: {describe(milder.fault)} instead of {describe(now.fault)}"
                fails = yield from state.fails(smaller, step)
                scale = scale.narrowed(middle, fails=fails)


def _of(signature: tuple[str, str], trial: Trial) -> Injection:
    """Return the injection of that place and kind; there is only one of each."""
    return next(each for each in trial.injections if each.signature == signature)


def _shorter(state: _Shrinking, length: float, length_min: float) -> Steps[None]:
    if length_min >= length:
        return
    scale = Scale(length, length_min)
    if not (yield from state.fails(dataclasses.replace(state.trial, dose=length_min), _dose(length_min))):
        while (middle := scale.middle()) is not None:
            fails = yield from state.fails(dataclasses.replace(state.trial, dose=middle), _dose(middle))
            scale = scale.narrowed(middle, fails=fails)


def _dose(length: float) -> str:
    return f"a dose of {format_seconds(length)}"

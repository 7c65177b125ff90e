"""How much of a service is on: levels from best to worst, and features that are off from their level on.

    full ──(worse than its threshold for `worsen_after`)──► reduced ──(worse still)──► minimal
    minimal ──(better for `recover_after`)──► reduced ──(better for `recover_after`, again)──► full

Sources say how well things are: a health from 0 to 1, or the level that they ask for. The worst of them counts, since
a service whose database is gone is not half well because its cache is fine. A health below a level's threshold asks
for that level. Going down is quick and may skip levels; going up is slow and takes one level at a time, since what was
just switched on brings load of its own, and the next step should see what it did.

A source that has not been heard of for `forget_after` counts as unknown, and so does not count. Without that, a level
could hold itself: the feature is off because its dependency failed, so nobody calls the dependency, so nobody finds out
that it is back.

A level that is set by hand wins until it is released. Underneath, the automatic level goes on.

Nothing happens by itself: the verbs are handed the time, and `due` says when `settle` has something to do again, so
that asking is a comparison and a dictionary's look-up as long as nothing is due. What is known of the time between two
questions is what was seen at both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from hormesis.core.admission import Lock, Transition

__all__ = ["DegradationMachine", "DegradationTerms"]

_SOURCES_MAX = 1000
"""Sources that are remembered; when there are more, the one that would be forgotten first is."""


@dataclasses.dataclass(frozen=True, slots=True)
class DegradationTerms:
    """What a machine goes by.

    Args:
        levels: Names, from best to worst; at least two.
        thresholds: For each level after the best: the health below which it is asked for. They fall.
        features: Feature to the level from which it is off.
        worsen_after: Seconds that health must have been worse before the level is.
        recover_after: Seconds that health must have been better before the level is, by one.
        forget_after: Seconds for which a reading counts.
    """

    levels: Sequence[str]
    thresholds: Sequence[float]
    features: Mapping[str, str]
    worsen_after: float
    recover_after: float
    forget_after: float

    def rank(self, reading: float | str) -> int:
        """The position of the level that a reading asks for; a level that is not (or no longer) known is no wish."""
        if isinstance(reading, str):
            return self.levels.index(reading) if reading in self.levels else 0
        return sum(reading < threshold for threshold in self.thresholds)

    def switched(self, rank: int) -> dict[str, bool]:
        """Whether each feature is on at a level."""
        return {feature: rank < self.levels.index(level) for feature, level in self.features.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    value: float | str
    until: float


class DegradationMachine:
    """Which level holds; see the module's docstring.

    Args:
        terms: What it goes by.
        lock: Guards everything but reading `switched`, `level` and `due`.

    >>> from hormesis.core.admission import NullLock
    >>> levels, off = ("full", "reduced"), {"reviews": "reduced"}
    >>> machine = DegradationMachine(DegradationTerms(levels, (0.5,), off, 0, 30, 60), NullLock())
    >>> machine.report({"database": 0.2}, now=0)
    Transition(before='full', after='reduced', reason='health 0.2 of database')
    >>> machine.switched
    {'reviews': False}
    """

    __slots__ = (
        "_automatic",
        "_better_since",
        "_hand",
        "_lock",
        "_readings",
        "_terms",
        "_worse_since",
        "due",
        "level",
        "switched",
    )

    def __init__(self, terms: DegradationTerms, lock: Lock) -> None:
        self._terms = terms
        self._lock = lock
        self._readings: dict[str, _Reading] = {}
        self._automatic = 0
        self._hand: int | None = None
        self._worse_since = [math.inf] * len(terms.levels)
        """By level: since when it, or a worse one, is asked for; infinity while it is not."""
        self._better_since = math.inf
        """Since when a better one than the automatic level is."""
        self.due = math.inf
        """When `settle` will have something to do."""
        self.level = terms.levels[0]
        """The level that holds."""
        self.switched = terms.switched(0)
        """Whether each feature is on; replaced as a whole."""

    @property
    def automatic(self) -> str:
        """The level that health alone would make."""
        with self._lock:
            return self._terms.levels[self._automatic]

    @property
    def by_hand(self) -> bool:
        """Whether the level was set by hand."""
        return self._hand is not None

    def readings(self, now: float) -> dict[str, float | str]:
        """Return what each source said that still counts."""
        with self._lock:
            return {source: reading.value for source, reading in self._readings.items() if now < reading.until}

    def report(
        self, readings: Mapping[str, float | str | None], now: float, lasts: float | None = None
    ) -> Transition | None:
        """Take readings that were made together: a health from 0 to 1, a level that is asked for, or None for unknown.

        Args:
            readings: By source; they are known to make sense.
            now: The time.
            lasts: Seconds for which they count, if not for `forget_after`.

        Returns:
            The change of level that came of it, or None.
        """
        with self._lock:
            until = now + (self._terms.forget_after if lasts is None else lasts)
            for source, value in readings.items():
                if value is None:
                    self._readings.pop(source, None)
                    continue
                if source not in self._readings and len(self._readings) >= _SOURCES_MAX:
                    del self._readings[min(self._readings, key=lambda name: self._readings[name].until)]
                self._readings[source] = _Reading(value, until)
            return self._settle(now)

    def settle(self, now: float) -> Transition | None:
        """Do what time alone brings about."""
        with self._lock:
            return self._settle(now)

    def set(self, level: str) -> Transition | None:
        """Set the level by hand."""
        with self._lock:
            before = self._rank()
            self._hand = self._terms.levels.index(level)
            return self._changed(before, "set by hand")

    def release(self, now: float) -> Transition | None:
        """Go back to the automatic level."""
        with self._lock:
            before = self._rank()
            self._hand = None
            self._settle(now)
            return self._changed(before, "released by hand")

    def become(self, terms: DegradationTerms, now: float) -> Transition | None:
        """Go by other terms from now on; levels are kept by name, and one that is gone becomes the nearest in place."""
        with self._lock:
            before = self.level
            names, self._terms = self._terms.levels, terms

            def moved(rank: int) -> int:
                name = names[rank]
                return terms.levels.index(name) if name in terms.levels else min(rank, len(terms.levels) - 1)

            self._automatic = moved(self._automatic)
            self._hand = None if self._hand is None else moved(self._hand)
            self._worse_since = [math.inf] * len(terms.levels)
            self._better_since = math.inf
            self._settle(now)
            self._show()
            return None if self.level == before else Transition(before, self.level, "reconfigured")

    def _rank(self) -> int:
        return self._automatic if self._hand is None else self._hand

    def _settle(self, now: float) -> Transition | None:
        terms, before, automatic = self._terms, self._rank(), self._automatic
        for source in [source for source, reading in self._readings.items() if now >= reading.until]:
            del self._readings[source]
        wanted = max((terms.rank(reading.value) for reading in self._readings.values()), default=0)
        worsened = 0
        for rank in range(1, len(terms.levels)):
            self._worse_since[rank] = min(self._worse_since[rank], now) if wanted >= rank else math.inf
            if now >= self._worse_since[rank] + terms.worsen_after:
                worsened = rank
        self._better_since = min(self._better_since, now) if wanted < automatic else math.inf
        if worsened > automatic:
            self._automatic = worsened
        elif now >= self._better_since + terms.recover_after:
            self._automatic -= 1
            self._better_since = now if wanted < self._automatic else math.inf
        self.due = self._next(wanted)
        return self._changed(before, self._worst() if self._automatic > automatic else "better health")

    def _next(self, wanted: int) -> float:
        """When something will be due: a reading is forgotten, or health has been worse or better for long enough."""
        moments = [reading.until for reading in self._readings.values()]
        worse = self._worse_since[self._automatic + 1 : wanted + 1]
        moments += [since + self._terms.worsen_after for since in worse]
        return min([*moments, self._better_since + self._terms.recover_after])

    def _worst(self) -> str:
        """Which source made it worse, in words."""
        source = max(self._readings, key=lambda name: self._terms.rank(self._readings[name].value))
        value = self._readings[source].value
        return f"{source} asks for {value}" if isinstance(value, str) else f"health {value:.3g} of {source}"

    def _changed(self, before: int, reason: str) -> Transition | None:
        rank = self._rank()
        if rank == before:
            return None
        self._show()
        return Transition(self._terms.levels[before], self.level, reason)

    def _show(self) -> None:
        rank = self._rank()
        self.level = self._terms.levels[rank]
        self.switched = self._terms.switched(rank)

"""Degradation levels against a naive model, which keeps all that was seen and looks through it each time."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hormesis.core.admission import NullLock, Transition
from hormesis.core.degradation import DegradationMachine, DegradationTerms

LEVELS = ("a", "b", "c", "d")
THRESHOLDS = (0.75, 0.5, 0.25)
SOURCES = st.sampled_from(["x", "y"])
READINGS = st.sampled_from([1.0, 0.75, 0.5, 0.25, 0.0, *LEVELS, None])


class DegradationModel(RuleBasedStateMachine):
    """Time goes in whole seconds."""

    @initialize(worsen=st.integers(0, 4), recover=st.integers(0, 6), forget=st.integers(1, 12))
    def begin(self, worsen: int, recover: int, forget: int) -> None:
        self.worsen, self.recover, self.forget = worsen, recover, forget
        terms = DegradationTerms(LEVELS, THRESHOLDS, {"f": "b", "g": "d"}, worsen, recover, forget)
        self.machine = DegradationMachine(terms, NullLock())
        self.now = 0
        self.said: dict[str, tuple[float | str, int]] = {}
        self.seen: list[tuple[int, int]] = []  # when somebody looked, and what was asked for then
        self.automatic = 0
        self.hand: int | None = None
        self.stepped = -1  # how much had been seen when the level last changed
        self.stepped_at = 0

    def wanted(self) -> int:
        ranks = [
            LEVELS.index(value) if isinstance(value, str) else sum(value < limit for limit in THRESHOLDS)
            for value, until in self.said.values()
            if self.now < until
        ]
        return max(ranks, default=0)

    def look(self) -> None:
        self.seen.append((self.now, self.wanted()))
        worse = max((rank for rank in range(1, 4) if self.worse_for_long_enough(rank)), default=0)
        if worse > self.automatic:
            self.automatic = worse
            self.stepped = len(self.seen)
        elif self.better_for_long_enough():
            self.automatic -= 1
            # The next step's wait begins with this one, which saw the same health.
            self.stepped = len(self.seen) - 1

    def worse_for_long_enough(self, rank: int) -> bool:
        since = None
        for at, asked in reversed(self.seen):
            if asked < rank:
                break
            since = at
        return since is not None and self.now >= since + self.worsen

    def better_for_long_enough(self) -> bool:
        since = None
        for at, asked in reversed(self.seen[max(0, self.stepped) :]):
            if asked >= self.automatic:
                break
            since = at
        return since is not None and self.now >= since + self.recover

    def level(self) -> int:
        return self.automatic if self.hand is None else self.hand

    def check(self, before: int, change: Transition | None) -> None:
        after = self.level()
        told = None if change is None else (change.before, change.after)
        assert told == (None if before == after else (LEVELS[before], LEVELS[after]))

    @rule(step=st.integers(1, 8))
    def wait(self, step: int) -> None:
        self.now += step

    @rule(source=SOURCES, reading=READINGS)
    def report(self, source: str, reading: float | str | None) -> None:
        before = self.level()
        self.said.pop(source, None)
        if reading is not None:
            self.said[source] = (reading, self.now + self.forget)
        self.look()
        self.check(before, self.machine.report({source: reading}, self.now))

    @rule()
    def settle(self) -> None:
        before = self.level()
        self.look()
        self.check(before, self.machine.settle(self.now))

    @rule()
    def look_when_nothing_is_due(self) -> None:
        """Before its time, looking changes nothing: so the shell needn't."""
        if self.now < self.machine.due:
            before = self.level()
            self.look()
            assert self.level() == before
            assert self.machine.settle(self.now) is None

    @rule(level=st.integers(0, 3))
    def set_by_hand(self, level: int) -> None:
        before, self.hand = self.level(), level
        self.check(before, self.machine.set(LEVELS[level]))

    @rule()
    def release(self) -> None:
        before = self.level()
        self.hand = None
        self.look()
        self.check(before, self.machine.release(self.now))

    @invariant()
    def agrees(self) -> None:
        """Levels and features are the model's."""
        if not hasattr(self, "machine"):
            return
        assert (self.machine.level, self.machine.automatic) == (LEVELS[self.level()], LEVELS[self.automatic])
        assert self.machine.switched == {"f": self.level() < 1, "g": self.level() < 3}


TestDegradationModel = DegradationModel.TestCase
TestDegradationModel.__doc__ = "Whatever is reported, forgotten and set by hand, the levels are the naive model's."

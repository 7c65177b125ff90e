"""Whether a system that a trigger has broken stays broken when the trigger is gone, and what it takes to free it.

A *metastable failure* (N. Bronson et al., *Metastable Failures in Distributed Systems*, HotOS 2021) outlives its
trigger: the load that the system carried with ease before keeps it down, because something in it, retries or an empty
cache or a full queue, makes work of its failing. It has two states at the same load, and the way from one to the other
is not the way back:

    good answers
      ▲ ━━━━━━━━━━━━━━━━━━━━━┓     going up
      │        ↑             ↓
      │        ┗━━━━━━━━━━━━━━━━━  coming down
      └────────┴─────────────┴──▶ load
         recovers here    breaks here

So the load is held first. If the system does not recover, the load goes down step by step until it does, and then up
again, step by step, to where it came from. The distance is the *hysteresis gap*.

`Staircase` is the plan of that, pure: it says which load comes next, and is told what became of it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from hormesis.errors import ConfigurationError
from hormesis.tables import Settings
from hormesis.units import Duration, seconds

__all__ = ["Hysteresis", "Metastability", "Staircase", "State", "Step"]

WELL = 0.9
"""A system is well when its share of good answers is nine tenths of what it was in calm."""

_EVERY_MIN = 2.0
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metastability(Settings):
    """`metastability = { … }` of a stress, or `true`: what is done with a system that does not recover by itself.

    Attributes:
        step: Each load is so much of the one before, going down, and the other way round going up.
        every: How long each load is held.
        least: Below this share of the load it is given up.
    """

    step: float = 0.7
    every: Duration = 3.0
    least: float = 0.1

    def __post_init__(self) -> None:
        if not 0.1 <= self.step <= 0.95:
            raise ConfigurationError.bad_value("step", self.step, "a share from 0.1 to 0.95")
        if not 0 < self.least < 1:
            raise ConfigurationError.bad_value("least", self.least, "a share above 0 and below 1")
        if seconds(self.every, "every") < _EVERY_MIN:
            raise ConfigurationError.bad_value("every", self.every, f"at least {_EVERY_MIN:g} s, for a load to be felt")


class State(enum.StrEnum):
    """What became of a system once the trigger was gone."""

    RECOVERED = "recovered"
    """It was well again under the load that it had before."""
    METASTABLE = "metastable"
    """It was well again only after the load had gone down."""
    STUCK = "stuck"
    """It was not well at any load that was tried."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One load, held for a while.

    Attributes:
        level: The load, as a share of the normal one.
        good: The share of good answers.
        attempts: Requests on the wire for each that was due; more than 1 where callers repeat them.
    """

    level: float
    good: float
    attempts: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hysteresis:
    """What was found.

    Attributes:
        state: Whether, and how, it came back.
        recovers_at: The share of the load at which it was well again; None when it never was.
        breaks_at: Where it broke again on the way up; None when it did not up to the whole load.
        steps: Every load that was held, the first one included.
    """

    state: State
    recovers_at: float | None
    breaks_at: float | None
    steps: Sequence[Step]

    @property
    def gap(self) -> float:
        """How far the load had to go down, as a share of what the system carried before; 0 when it came back by itself.

        One that never came back has the whole of it.
        """
        return 1.0 if self.recovers_at is None else 1.0 - self.recovers_at


class Staircase:
    """Which load comes next.

    Args:
        settings: How far and how long.
        calm_good: The share of good answers in calm.

    >>> stairs = Staircase(Metastability(step=0.5), calm_good=1.0)
    >>> for good in (0.1, 0.2, 0.99, 0.98, 0.97):
    ...     level = stairs.level
    ...     stairs.saw(good)
    >>> found = stairs.found
    >>> found.state.value, found.recovers_at, found.breaks_at, [step.level for step in found.steps]
    ('metastable', 0.25, None, [1.0, 0.5, 0.25, 0.5, 1.0])
    """

    def __init__(self, settings: Metastability, calm_good: float) -> None:
        self._settings = settings
        self._enough = WELL * calm_good - _ROUNDING
        self._steps: list[Step] = []
        self._recovers_at: float | None = None
        self._breaks_at: float | None = None
        self.level: float | None = 1.0
        """The load to hold next, as a share of the normal one; None when enough is known."""

    def saw(self, good: float, attempts: float = 1.0) -> None:
        """Take what became of the load that was held."""
        level = self.level
        if level is None:
            raise RuntimeError("the staircase has ended")
        self._steps.append(Step(level, good, attempts))
        well = good >= self._enough
        if self._recovers_at is None:
            if not well:
                lower = level * self._settings.step
                self.level = lower if lower >= self._settings.least - _ROUNDING else None
                return
            self._recovers_at = level
        elif not well:
            self._breaks_at = level
            self.level = None
            return
        self.level = min(1.0, level / self._settings.step) if level < 1.0 else None

    @property
    def found(self) -> Hysteresis:
        """What is known so far."""
        if self._recovers_at is None:
            state = State.STUCK
        else:
            state = State.RECOVERED if self._recovers_at >= 1.0 else State.METASTABLE
        return Hysteresis(
            state=state, recovers_at=self._recovers_at, breaks_at=self._breaks_at, steps=tuple(self._steps)
        )

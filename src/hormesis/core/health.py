"""How well a system is, as a factor for limits: readings are compared with what they may be at most.

    strain = the largest of reading / ceiling, over the readings that still count

    strain >= 1:        factor *= max(0.5, 1 / strain)      once a step: what it does takes a while to show
    strain < relief:    factor += dt / recover_over         slowly, for what is let in brings strain of its own
    in between:         factor                              or it would swing around the ceiling

A *health*, such as a function of one's own returns, bounds the factor directly: at a health of 0.5, half of a limit is
open.

The factor is never less than `factor_min`: how the system is with little to do can only be seen while it has some. What
was not heard of for `forget_after` does not count, so that a reader that broke at a bad moment shuts nobody out for
ever.

A limit by queueing delay needs none of this to stay within an objective. It is for what queues don't show: memory that
runs out, neighbours on the same machine, a loop that one bad request blocks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from hormesis.core.admission import Lock

__all__ = ["HealthMachine", "HealthTerms"]

_FALL_MAX = 0.5
"""The least that a step leaves of the factor."""

_READINGS_MAX = 100
"""Readings that are remembered; there are a handful."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HealthTerms:
    """What a machine goes by.

    Args:
        ceilings: What each reading may be at most; what has none here is a health from 0 to 1.
        factor_min: What the factor is at least.
        relief: The share of its ceiling below which every reading must be before the factor rises.
        recover_over: Seconds in which the factor would rise from 0 to 1.
        forget_after: Seconds for which a reading counts.
        step: Seconds between two falls.
    """

    ceilings: Mapping[str, float]
    factor_min: float
    relief: float
    recover_over: float
    forget_after: float
    step: float


class HealthMachine:
    """Makes a factor of readings; see the module's docstring.

    Args:
        terms: What it goes by.
        lock: Guards it.

    >>> from hormesis.core.admission import NullLock
    >>> terms = HealthTerms(
    ...     ceilings={"cpu": 0.8}, factor_min=0.1, relief=0.9, recover_over=10, forget_after=5, step=1
    ... )
    >>> machine = HealthMachine(terms, NullLock())
    >>> [round(machine.report({"cpu": cpu}, now), 2) for now, cpu in enumerate([0.5, 1.0, 1.0, 0.75, 0.5, 0.5])]
    [1.0, 0.8, 0.64, 0.64, 0.74, 0.84]
    """

    __slots__ = ("_at", "_fell_at", "_lock", "_readings", "_terms", "factor", "worst")

    def __init__(self, terms: HealthTerms, lock: Lock) -> None:
        self._terms = terms
        self._lock = lock
        self._readings: dict[str, tuple[float, float]] = {}
        """Each reading, and until when it counts."""
        self._at = -math.inf
        """When the factor was settled last."""
        self._fell_at = -math.inf
        self.factor = 1.0
        """What is left of a limit, above 0 and at most 1."""
        self.worst = ""
        """Which reading holds the factor down; empty when none does."""

    def report(self, readings: Mapping[str, float | None], now: float) -> float:
        """Take readings that were made together, and return the factor.

        Args:
            readings: By name; None for one that can't be had, which then counts until it is forgotten.
            now: The time.
        """
        with self._lock:
            until = now + self._terms.forget_after
            for name, value in readings.items():
                known = name in self._readings or len(self._readings) < _READINGS_MAX
                if value is not None and not math.isnan(value) and known:
                    self._readings[name] = value, until
            self._settle(now)
            return self.factor

    def settle(self, now: float) -> float:
        """Do what time alone brings about, and return the factor."""
        with self._lock:
            self._settle(now)
            return self.factor

    def readings(self, now: float) -> dict[str, float]:
        """Return the readings that still count."""
        with self._lock:
            return {name: value for name, (value, until) in self._readings.items() if now < until}

    def become(self, terms: HealthTerms) -> None:
        """Go by other terms from now on; the factor goes on from where it is."""
        with self._lock:
            self._terms = terms
            self.factor = max(terms.factor_min, self.factor)

    def _settle(self, now: float) -> None:
        terms = self._terms
        self._readings = {name: reading for name, reading in self._readings.items() if now < reading[1]}
        strain, strained, health, ill = 0.0, "", 1.0, ""
        for name, (value, _) in self._readings.items():
            ceiling = terms.ceilings.get(name)
            if ceiling is None:
                if value < health:
                    health, ill = max(value, terms.factor_min), name
            elif value / ceiling > strain:
                strain, strained = value / ceiling, name
        factor = self.factor
        # A machine that nobody asked for a while has not seen what it was like meanwhile.
        passed = min(max(0.0, now - self._at), terms.step)
        self._at = max(self._at, now)
        if strain >= 1:
            if now - self._fell_at >= terms.step:
                self._fell_at = now
                factor *= max(_FALL_MAX, 1 / strain)
        elif strain < terms.relief:
            factor += passed / terms.recover_over
        self.factor = min(health, max(terms.factor_min, factor))
        if self.factor >= 1:
            self.worst = ""
        elif health <= self.factor:
            self.worst = ill
        elif strain >= 1:
            self.worst = strained

"""Where a request stands among all, and how far down the ranks a service gets.

A rank is a number; the smaller the better. Each class has two units of it: in the first stands what is within its
clients' fair shares, in the second what is beyond them; and within a unit the cohort decides. So the ranks of requests
are spread evenly, and how much of the traffic is better than a rank can be read off a histogram.

The *ceiling* is the rank down to which what comes is as much as goes in. Who stands beyond it is told so at once,
instead of waiting in vain, unless places are idle: so when the service can do more, it finds that out.

**Journeys.** A request whose journey has been let in before stands at the top of its class. What its other calls have
cost is not wasted then, wherever in its class its cohort stands. That holds for so many calls as a journey has, and
within its client's share: an id that has got in once must not be a ticket for all that bears it. One whose journey has
been turned away stands at the end of its class: whatever it is let in for now, the journey has failed already, and many
callers make their other calls all the same.

Source: Zhou et al., "Overload Control for Scaling WeChat Microservices" (SoCC 2018), for the histogram.
"""

from __future__ import annotations

import math

from hormesis.priority import Criticality

__all__ = ["Ranks"]

_CELLS = 64
"""Cells of the histogram for each unit of rank."""

_RANKS = 2 * len(Criticality)

_FADE = 0.1
"""The weight of the latest window: of a tenth of a second each, so the last second counts."""

_MARGIN = 1.0
"""How much of what went in lately the ceiling lets in; what idle places let in besides is how it finds out for more."""

_JOURNEYS_MAX = 8192
"""Journeys of a generation that are remembered."""

_JOURNEYS_ABOVE = 1 / 16
"""The first part of a class, in which the journeys that are under way stand, and nobody else; in the last part of that
size of each unit stand those that were turned away."""

_CALLS_MAX = 32
"""Calls of a journey that stand there; more under one id are a client that has found an id which gets in."""

_CALLS_TOLD = 8.0
"""The mean of calls that is told at most: a few ids that never end are no journeys."""

_BELOW_ONE = 1 - 2.0**-32
"""The last cohort; the ranks of later ones would be rounded into the next class."""

_NOTHING = 1e-9
"""What goes in in a window, below which nothing does: as it fades for ever, its inverse would end as infinity."""


class Ranks:
    """The ranks of what came lately, and the ceiling.

    >>> ranks = Ranks()
    >>> for tenth in range(10): ranks.came(ranks.rank(Criticality.DEFAULT, tenth / 10, 1.0))
    >>> for tenth in range(5): ranks.went_in(tenth / 10)
    >>> ranks.find_ceiling()
    >>> 2.4 < ranks.ceiling < 2.6
    True
    """

    __slots__ = (
        "_above",
        "_began",
        "_beginning",
        "_cells",
        "_density",
        "_entered",
        "_entering",
        "_failed",
        "_failed_before",
        "_journeys",
        "_journeys_before",
        "ceiling",
    )

    def __init__(self) -> None:
        self._journeys: dict[float, int] = {}
        self._journeys_before: dict[float, int] = {}
        self._failed: set[float] = set()
        self._failed_before: set[float] = set()
        self.begin()

    def begin(self) -> None:
        """Begin anew, with an overload of which nothing is known yet."""
        self._cells = [0] * (_RANKS * _CELLS)
        self._density = [0.0] * (_RANKS * _CELLS)
        self._above = [0.0] * (_RANKS * _CELLS + 1)
        self._entered = self._began = 0
        self._entering = self._beginning = 0.0
        self.ceiling = math.inf
        """The rank beyond which there is no hope."""

    def rank(self, criticality: int, cohort: float, keeps: float) -> float:
        """Where a request stands.

        Args:
            criticality: A `Criticality`, or the number of one.
            cohort: The place of its journey in its class, from 0 to 1.
            keeps: The share of its client's journeys that is within its fair share; 0 for one that has had too much.
        """
        if keeps:
            calls = self._journeys.get(cohort, 0) + self._journeys_before.get(cohort, 0)
            if 0 < calls < _CALLS_MAX:
                return 2 * criticality + min(cohort, _BELOW_ONE) * _JOURNEYS_ABOVE
        cohort = min(cohort, _BELOW_ONE)
        # Stretched, so that the third that one client keeps is spread like the whole of another's.
        kept = cohort < keeps
        share = _JOURNEYS_ABOVE + cohort / keeps * (1 - _JOURNEYS_ABOVE) if kept else 1 + (cohort - keeps) / (1 - keeps)
        if self.has_failed(cohort):
            share = int(share) + 1 - (1 - cohort) * _JOURNEYS_ABOVE
        return 2 * criticality + share

    def came(self, rank: float) -> None:
        """A request of that rank came."""
        self._cells[int(rank * _CELLS)] += 1

    def went_in(self, cohort: float) -> None:
        """A request of that journey went in."""
        self._entered += 1
        calls = self._journeys.get(cohort, 0)
        self._began += not calls and cohort not in self._journeys_before
        if calls or len(self._journeys) < _JOURNEYS_MAX:
            self._journeys[cohort] = calls + 1

    def turned_away(self, cohort: float) -> None:
        """A request of that journey was turned away: if none of it has gone in, it has failed."""
        if cohort not in self._journeys and cohort not in self._journeys_before and len(self._failed) < _JOURNEYS_MAX:
            self._failed.add(cohort)

    def has_failed(self, cohort: float) -> bool:
        """Whether a journey was turned away when it began."""
        return cohort in self._failed or cohort in self._failed_before

    def forget_journeys(self) -> None:
        """Begin a new generation of journeys; those before the last one are forgotten."""
        self._journeys_before, self._journeys = self._journeys, {}
        self._failed_before, self._failed = self._failed, set()

    def find_ceiling(self) -> None:
        """A window is over: find the ceiling from what came and went in lately."""
        self._entering += _FADE * (self._entered - self._entering)
        self._beginning += _FADE * (self._began - self._beginning)
        self._entered = self._began = 0
        above, left = 0.0, self._entering * _MARGIN
        scale = 1 / self._entering if self._entering > _NOTHING else 0.0
        self.ceiling = math.inf
        for cell, count in enumerate(self._cells):
            rate = self._density[cell] = self._density[cell] + _FADE * (count - self._density[cell])
            if above + rate > left and self.ceiling == math.inf:
                self.ceiling = (cell + (left - above) / rate) / _CELLS
            above += rate
            self._above[cell + 1] = above * scale
        self._cells = [0] * len(self._cells)

    @property
    def calls(self) -> float:
        """How many calls a journey makes that was let in: the mean of lately, at least 1 and at most 8."""
        return min(max(1.0, self._entering / self._beginning), _CALLS_TOLD) if self._beginning > _NOTHING else 1.0

    def better(self, rank: float) -> float:
        """How much of what comes is better than a rank, as a multiple of what goes in."""
        at = rank * _CELLS
        cell = int(at)
        return self._above[cell] + (at - cell) * (self._above[cell + 1] - self._above[cell])

    def under_way(self, rank: float) -> bool:
        """Whether it is the rank of a journey that has been let in before."""
        return rank % 2 < _JOURNEYS_ABOVE

    def safe(self, rank: float) -> bool:
        """Whether all of its class is within the ceiling."""
        return self.ceiling < math.inf and rank < 2 * (self.ceiling // 2)

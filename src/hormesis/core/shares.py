"""Fair shares among the clients of one class: nobody can starve the others, and nothing is left unused.

Max-min: everybody gets what he asks for, up to a level, and the level is such that all there is gets used. It is found
once a second, from what each client asked for and what the class got.

A client beyond the level keeps that share of its journeys which have the lowest cohorts. So all calls of a journey fare
alike, and it takes no more than a comparison. The others need not be turned away; they go behind everybody else's. What
a client really got then corrects what it keeps, since a moment of idleness serves who comes, and who asks for most
comes most. And whoever has got far more than its share in a second, by whatever cohorts, has had enough of it: ids can
be chosen, counts can't.

Clients are counted in a bounded space. Whoever asks for much is seen early in each second, and who is not seen any
more has asked for little.

Source: Bertsekas and Gallager, "Data Networks" (1992), for max-min fairness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["FairShares", "level_of"]

_CLIENTS_MAX = 4096
"""Clients that are counted in a second."""

_SMOOTHING = 0.5
"""The weight of the latest second in what a client asks for."""

_GOT_SMOOTHING = 0.3
"""The same in what it got, which is a smaller number and so a noisier one."""

_CORRECTION = 0.3
"""How much of the way to its share a client is moved in a second, as an exponent."""


_FAR_OVER = 2.0
"""How much more than its share a client may get in a second before it stands behind all others for the rest of it."""

_A_FEW = 4
"""What it may get besides, since shares of less than one a second are no whole requests."""


class FairShares:
    """Who has how much of what one class gets.

    >>> shares = FairShares()
    >>> for _ in range(10): shares.asked("small")
    >>> for _ in range(90): shares.asked("large")
    >>> shares.weigh(served=40, short=True)
    >>> shares.kept("small"), round(shares.kept("large"), 3)
    (1.0, 0.333)
    """

    __slots__ = ("_asked", "_demand", "_got", "_got_lately", "_keep", "_most")

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._demand: dict[str, float] = {}
        self._got: dict[str, int] = {}
        self._got_lately: dict[str, float] = {}
        self._keep: dict[str, float] = {}
        self._most = math.inf

    def asked(self, client: str) -> None:
        """A client asked for something."""
        if client in self._asked:
            self._asked[client] += 1
        elif len(self._asked) < _CLIENTS_MAX:
            self._asked[client] = 1

    def got(self, client: str) -> None:
        """A client got something."""
        if client in self._keep:
            self._got[client] = self._got.get(client, 0) + 1

    def kept(self, client: str) -> float:
        """The share of a client's journeys, from 0 to 1, that is within its fair share; 0 when it has had far more."""
        keep = self._keep.get(client)
        if keep is None:
            return 1.0
        return keep if self._got.get(client, 0) < self._most else 0.0

    @property
    def over(self) -> int:
        """How many clients ask for more than their share."""
        return len(self._keep)

    def weigh(self, *, served: int, short: bool) -> None:
        """A second is over: find the level, and what each client keeps.

        Args:
            served: What the class got in it.
            short: Whether some of the class got nothing.
        """
        before, asked = self._demand, self._asked
        # Who has gone silent fades away, so there are never more than a few times as many as are counted in a second.
        demand = {client: _SMOOTHING * was for client, was in before.items() if client not in asked and was >= 1}
        for client, count in asked.items():
            demand[client] = count + _SMOOTHING * (before.get(client, count) - count)
        self._demand, self._asked = demand, {}
        level = level_of(demand.values(), served)
        self._keep = self._shares(level) if short and len(demand) > 1 else {}
        self._most = _FAR_OVER * level + _A_FEW
        self._got = {}
        self._got_lately = {client: got for client, got in self._got_lately.items() if client in self._keep}

    def _shares(self, level: float) -> dict[str, float]:
        keep = {}
        for client, asked in self._demand.items():
            if asked > level:
                share = level / asked
                was = self._keep.get(client)
                keep[client] = max(1e-6, share if was is None else self._corrected(client, was, share, level))
        return keep

    def _corrected(self, client: str, was: float, share: float, level: float) -> float:
        """Move what a client keeps by what it got of its share, within bounds that no noise leaves."""
        latest = self._got.get(client, 0)
        got = latest + (1 - _GOT_SMOOTHING) * (self._got_lately.get(client, latest) - latest)
        self._got_lately[client] = got
        moved = was * (level / max(got, 0.2 * level)) ** _CORRECTION if level else 0.0
        return min(1.0, 2 * share, max(share / 8, moved))


def level_of(demands: Iterable[float], capacity: float) -> float:
    """The max-min level: what everybody gets who asks for more; infinite when there is enough for all.

    >>> level_of([1, 2, 9], 6), level_of([1, 2], 6)
    (3.0, inf)
    """
    ascending = sorted(demands)
    left = float(capacity)
    for index, demand in enumerate(ascending):
        even = left / (len(ascending) - index)
        if demand > even:
            return even
        left -= demand
    return math.inf

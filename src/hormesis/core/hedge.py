"""When a slow attempt gets a rival, and whether there is budget for it.

Hedging: an attempt that has not answered after most of its like would have is probably one of the slow ones, and a
second, begun now, will probably be faster. Begun at the q-quantile of latencies, it adds 1 - q of load at most, as long
as the latencies stay what they were. When everything slows down they don't, every attempt is late, and hedges would
double the load at the worst moment. So hedges draw on a budget:

    each race deposits `share` of a token, each hedge withdraws one; the stock is bounded, and is empty at first

Unlike the retry budget it has nothing in reserve: a hedge saves time, not the call, so a quiet client can do without.

What is recorded as latency: the time of attempts that succeeded; and of those that ended in any other way, the time
that they took if it was longer than the delay. A loser that was cancelled after the delay would have taken longer
still, and wherever exactly it belongs, it belongs above the quantile; leaving it out would pull the quantile down. Fast
failures stay out, or a dependency that fails fast would look like one that answers fast.

Sources: Dean and Barroso, "The Tail at Scale" (CACM 2013); Finagle's `BackupRequestFilter`, for the budget.
"""

from __future__ import annotations

import dataclasses
import math

from hormesis.core.admission import Lock
from hormesis.core.quantile import MovingQuantile
from hormesis.core.retry import RetryBudget

__all__ = ["HedgeBudget", "HedgeMachine", "HedgeTerms"]

_STOCK = 10.0
"""Hedges that can be saved up for a bad moment: slow attempts come in clusters."""


class HedgeBudget(RetryBudget):
    """A stock of hedges: a retry budget that begins with nothing, and takes back what was not used.

    Args:
        share: Hedges earned by a race, such as 0.05.
        lock: Guards withdrawals; deposits take none.

    >>> from hormesis.core.admission import NullLock
    >>> budget = HedgeBudget(share=0.5, lock=NullLock())
    >>> budget.withdraw()
    False
    >>> _ = budget.deposit(), budget.deposit()
    >>> budget.withdraw(), budget.withdraw()
    (True, False)
    """

    __slots__ = ()

    def __init__(self, *, share: float, lock: Lock) -> None:
        super().__init__(share=share, stock=_STOCK, lock=lock)
        self._tokens = 0.0

    @property
    def races(self) -> int:
        """Deposits so far."""
        with self._lock:
            return self._calls.read()

    def put_back(self) -> None:
        """Return what was withdrawn for a hedge that did not come about."""
        with self._lock:
            self._tokens = min(_STOCK, self._refill() + 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HedgeTerms:
    """What a `HedgeMachine` goes by, in seconds and shares.

    Args:
        delay: After how long an attempt gets a rival; None follows the quantile.
        quantile: Of recent latencies; it counts where `delay` is None.
        delay_min: The least that the quantile makes of it.
        minimum_calls: Latencies that must be known before the quantile means anything.
        budget: Hedges earned by a race; None bounds them by nothing.
    """

    delay: float | None
    quantile: float
    delay_min: float
    minimum_calls: int
    budget: float | None


class HedgeMachine:
    """Decides when a rival is due, and whether it may begin.

    Args:
        terms: What it goes by.
        lock: Guards the counts, the budget and the latencies.

    >>> from hormesis.core.admission import NullLock
    >>> terms = HedgeTerms(delay=0.05, quantile=0.95, delay_min=0.001, minimum_calls=20, budget=0.5)
    >>> machine = HedgeMachine(terms, NullLock())
    >>> for _ in range(2): _ = machine.deposit()
    >>> machine.delay, machine.begin(None), machine.begin(None)
    (0.05, True, False)
    """

    __slots__ = ("_budget", "_latencies", "_lock", "_terms", "begun", "deposit", "rejected", "unaffordable", "won")

    def __init__(self, terms: HedgeTerms, lock: Lock) -> None:
        self._terms = terms
        self._lock = lock
        # There is one even where nothing is bounded by it: it counts the races, and other terms may come.
        self._budget = HedgeBudget(share=terms.budget or 0.0, lock=lock)
        self.deposit = self._budget.deposit
        """Count a race; any thread, and no lock."""
        self._latencies = MovingQuantile(quantile=terms.quantile, minimum=_minimum(terms), lock=lock)
        self.begun = 0
        self.won = 0
        self.rejected = 0
        self.unaffordable = 0

    @property
    def delay(self) -> float | None:
        """The seconds after which a rival is due; None while too little is known of the latencies."""
        terms = self._terms
        if terms.delay is not None:
            return terms.delay
        usual = self._latencies.value
        return None if usual is None else max(terms.delay_min, usual)

    @property
    def timed(self) -> bool:
        """Whether it wants to know how long attempts take."""
        return self._terms.delay is None

    def succeeded(self, seconds: float) -> None:
        """Record how long an attempt took that answered."""
        self._latencies.record(seconds)

    def ended(self, seconds: float) -> None:
        """Record how long an attempt took that ended without an answer, by failure or cancellation, if it was long."""
        usual = self._latencies.value
        if usual is not None and seconds > usual:
            self._latencies.record(seconds)

    def begin(self, retries: RetryBudget | None) -> bool:
        """Ask for a rival: whether its own budget and that of the retries allow one."""
        bounded = self._terms.budget is not None
        allowed = not bounded or self._budget.withdraw()
        if allowed and retries is not None and not retries.withdraw():
            allowed = False
            if bounded:
                self._budget.put_back()
        with self._lock:
            self.begun += allowed
            self.unaffordable += not allowed
        return allowed

    def was_rejected(self) -> None:
        """A rival was not let in: it put no load on anybody, so it costs no budget."""
        with self._lock:
            self.rejected += 1
        if self._terms.budget is not None:
            self._budget.put_back()

    def was_won(self) -> None:
        """A rival answered first."""
        with self._lock:
            self.won += 1

    def reconfigure(self, terms: HedgeTerms) -> None:
        """Go by other terms from now on; what is known of the latencies and what is in stock is kept."""
        self._latencies.reconfigure(quantile=terms.quantile, minimum=_minimum(terms))
        self._budget.reconfigure(share=terms.budget or 0.0, stock=_STOCK)
        self._terms = terms

    def snapshot(self) -> dict[str, float | int | None]:
        """The state as plain data."""
        return {
            "delay": self.delay,
            "races": self._budget.races,
            "begun": self.begun,
            "won": self.won,
            "rejected": self.rejected,
            "unaffordable": self.unaffordable,
            "budget": None if self._terms.budget is None else self._budget.snapshot()["tokens"],
        }


def _minimum(terms: HedgeTerms) -> int:
    # Below 1 / (1 - q) observations the quantile is their maximum. The rounding keeps 1 - 0.95 from making 21 of 20.
    return max(terms.minimum_calls, math.ceil(round(1 / (1 - terms.quantile), 6)))

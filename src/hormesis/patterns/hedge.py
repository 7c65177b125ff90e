"""Pattern 3, the tail: an attempt that is slow gets a rival, and the first answer wins.

When a rival is due and whether there is budget for it is decided in `hormesis.core.hedge`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from hormesis.core.admission import Lock
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import normalise, number, share, whole
from hormesis.tables import Settings
from hormesis.units import Duration, format_seconds, seconds

if TYPE_CHECKING:
    from hormesis.core.hedge import HedgeMachine, HedgeTerms

__all__ = ["Hedge"]

# Hedging at the 95th percentile makes of the slowest twentieth a race, and adds a twentieth of load at most.
_QUANTILE = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Hedge(Settings):
    """Begin another attempt beside one that is slow; the first answer wins, and the losers are cancelled.

    It makes some calls twice, so it is for calls that may be made twice: reads, and writes with an idempotency key.
    Calls made inside `hormesis.calling(repeatable=False)` are left alone.

    A failure that comes before the delay is over is raised at once: repeating failures is the retry's business. Once
    rivals run, a failure waits for the others, and when all have failed the caller gets the first one's, with notes.

    Args:
        delay: After how long an attempt gets a rival. None follows a quantile of the latencies that are seen.
        quantile: Which one, from 0.5 to 0.999; 0.95 unless `delay` is given.
        max_hedges: Rivals of one attempt at most, each begun `delay` after the one before.
        budget: Hedges that a call earns: over time at most this share of traffic is added, with nothing in reserve.
            Where the policy has a retry budget too, hedges draw on both. None switches this one off.
        delay_min: The least delay that a quantile can make, in which nothing is to be gained.
        minimum_calls: Latencies that must be known before a quantile means anything, and nothing is hedged until then;
            at least 1 / (1 - quantile).
        threads: For synchronous functions, which need it: run attempts in a pool of so many threads. A thread can't be
            interrupted, so a loser goes on, keeps its permits, and keeps its thread until it ends. While all threads
            are busy calls are made in the caller's own thread, without a rival.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Hedge("50ms").delay, Hedge().quantile
    (0.05, 0.95)
    """

    slot: ClassVar[Slot] = Slot.HEDGE

    delay: Duration | None = None
    _: dataclasses.KW_ONLY
    quantile: float | None = None
    # Two attempts that are both slow mean that the dependency is, and then a third one only adds to it.
    max_hedges: int = 1
    # What hedging at the default quantile costs when all is well; when it is not, no more than that either.
    budget: float | None = 0.05
    # A loop and its scheduler are late by about as much.
    delay_min: Duration = 0.001
    # The 95th percentile of fewer would be their maximum.
    minimum_calls: int = 20
    threads: int | None = None

    def __post_init__(self) -> None:
        delay, quantile = self.delay, self.quantile
        if delay is not None:
            delay = seconds(delay, "delay")
            if quantile is not None:
                raise ConfigurationError(
                    f"delay is {self.delay!r} and quantile is {quantile!r}; a hedge begins after one of the two"
                )
        else:
            quantile = _QUANTILE if quantile is None else number("quantile", quantile, 0.5, 0.999)
        whole("max_hedges", self.max_hedges, 1, 10)
        if self.budget is not None:
            share("budget", self.budget)
        whole("minimum_calls", self.minimum_calls, 1)
        if self.threads is not None:
            whole("threads", self.threads, 2, 10_000)  # with one there is never a second for the rival
        delay_min = seconds(self.delay_min, "delay_min", zero=True)
        normalise(self, delay=delay, quantile=quantile, delay_min=delay_min)

    def terms(self) -> HedgeTerms:
        """What a machine goes by that these settings describe."""
        from hormesis.core.hedge import HedgeTerms  # noqa: PLC0415  most policies don't hedge

        return HedgeTerms(
            delay=None if self.delay is None else seconds(self.delay),
            quantile=_QUANTILE if self.quantile is None else self.quantile,
            delay_min=seconds(self.delay_min, zero=True),
            minimum_calls=self.minimum_calls,
            budget=self.budget,
        )

    def machine(self, lock: Lock) -> HedgeMachine:
        """Make the machine that these settings describe."""
        from hormesis.core.hedge import HedgeMachine  # noqa: PLC0415

        return HedgeMachine(self.terms(), lock)

    def adopt(self, machine: HedgeMachine) -> bool:
        """Let what another hedge's settings made go on with these; it keeps its latencies and its budget."""
        machine.reconfigure(self.terms())
        return True

    def describe(self) -> str:
        """The settings in words."""
        rivals = "another attempt" if self.max_hedges == 1 else f"up to {self.max_hedges} more attempts"
        if self.delay is not None:
            when = f"after {format_seconds(seconds(self.delay))}"
        else:
            when = f"when it takes longer than {self.quantile:.4g} of recent ones"
        budget = "no budget" if self.budget is None else f"budget {self.budget * 100:.3g}% of traffic"
        how = f", synchronous functions in {self.threads} threads" if self.threads else ""
        return f"{rivals} {when}, {budget}{how}"

"""Pattern 3, second half: try again, later and not too often.

The arithmetic of back-off and budget is in `hormesis.core.retry`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal

from hormesis.clock import Random, system_random
from hormesis.core.admission import Lock
from hormesis.core.retry import JITTERS, RetryBudget, backoff
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.outcome import ON_ACCEPTED, FailureKind, FailureTest, On, classify, failure_test, in_words
from hormesis.patterns.part import normalise, number, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Retry"]

_STOCK = 10.0
"""Retries that a quiet client has before traffic must earn them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Settings):
    """Repeat an attempt that failed, after an exponential back-off with jitter.

    Rejections by a policy and cancellations are never repeated, nothing is begun that the deadline leaves no time for,
    and when it is over the caller gets the last real exception, with a note.

    Args:
        on: Which failures are worth another attempt; it has no default, since repeating the wrong thing does harm.
        attempts: Attempts at most, the first one included.
        delay: The back-off after the first failure.
        factor: What each further failure multiplies it by.
        delay_max: The most it grows to, before jitter.
        jitter: `"full"`, `"equal"` or `"none"`.
        budget: Retries that a call earns: over time at most this share of traffic is added, after a stock of ten.
            None switches the budget off.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Retry(on="transient").attempts
    3
    """

    slot: ClassVar[Slot] = Slot.RETRY

    on: On = dataclasses.field(metadata={ACCEPTED: ON_ACCEPTED})
    # Two more tries ride out a lost packet or a restart behind a load balancer; what needs more is an outage.
    attempts: int = 3
    delay: Duration = 0.1
    factor: float = 2.0
    # Users don't wait longer; background work says so itself.
    delay_max: Duration = 5.0
    # Full jitter spreads a herd best.
    jitter: Literal["full", "equal", "none"] = "full"
    # Finagle's and gRPC's share: an outage is answered with 1.2x the traffic, not 3x.
    budget: float | None = 0.2
    _wanted: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole("attempts", self.attempts, 1, 1000)
        delay = seconds(self.delay, "delay", zero=True)
        delay_max = seconds(self.delay_max, "delay_max", zero=True)
        number("factor", self.factor, 1, 100)
        if self.jitter not in list(JITTERS):  # a list, since what was given may have no hash
            raise ConfigurationError.unknown("jitter", self.jitter, JITTERS, "jitter")
        if self.budget is not None:
            share("budget", self.budget)
        normalise(self, delay=delay, delay_max=delay_max, _wanted=failure_test(self.on))

    def wants(self, error: Exception) -> bool:
        """Say whether this failure is worth another attempt."""
        return self._wanted(error) and classify(error) is not FailureKind.REJECTED

    def delay_after(self, failures: int, random: Random) -> float:
        """Return the seconds to wait after so many failures."""
        return backoff(
            failures,
            delay=seconds(self.delay, zero=True),
            factor=self.factor,
            delay_max=seconds(self.delay_max, zero=True),
            jitter=JITTERS[self.jitter],
            random=random,
        )

    def longest_delays(self) -> float:
        """The seconds of all back-offs together, at the most."""
        delay, most = seconds(self.delay, zero=True), seconds(self.delay_max, zero=True)
        capped = functools.partial(
            backoff, delay=delay, factor=self.factor, delay_max=most, jitter=JITTERS["none"], random=system_random()
        )
        return sum(capped(failures) for failures in range(1, self.attempts))

    def retry_budget(self, lock: Lock) -> RetryBudget | None:
        """Make the budget that these settings describe."""
        return None if self.budget is None else RetryBudget(share=self.budget, stock=_STOCK, lock=lock)

    def describe(self) -> str:
        """The settings in words."""
        budget = "no budget" if self.budget is None else f"budget {self.budget:.0%} of traffic"
        jitter = "no jitter" if self.jitter == "none" else f"{self.jitter} jitter"
        first = format_seconds(seconds(self.delay, zero=True))
        most = format_seconds(seconds(self.delay_max, zero=True))
        return (
            f"up to {self.attempts} attempts on {in_words(self.on)}, "
            f"back-off {first} x{self.factor:g} up to {most}, {jitter}, {budget}"
        )

"""Pattern 3, second half: try again, later and not too often.

The arithmetic of back-off and budget is in `hormesis.core.retry`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from hormesis.clock import Random
from hormesis.core.admission import Lock
from hormesis.core.retry import GROWTHS, JITTERS, SELF_GROWING, Backoff, Delays, Growth, Jitter, RetryBudget
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.outcome import (
    ON_ACCEPTED,
    ON_RESULT_ACCEPTED,
    FailureKind,
    FailureTest,
    On,
    OnResult,
    UnwantedResult,
    classify,
    failure_test,
    in_words,
    result_test,
)
from hormesis.patterns.part import flag, needs, normalise, number, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Delays", "Retry"]

_FACTOR = 2.0

_STOCK = 10.0
"""Retries that a quiet client has before traffic must earn them."""


@needs("on", ON_ACCEPTED)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Settings):
    """Repeat an attempt that failed, after a back-off with jitter.

    Rejections by a policy and cancellations are never repeated, nothing is begun that the deadline leaves no time for,
    and when it is over the caller gets the last real exception, with a note; or the last result, where `on_result` did
    not want it.

    A server that says when to come back (`Retry-After`) is heeded: the wait is what it asked for, and the back-off on
    top, so that those whom it told the same don't come back in step.

    Args:
        on: Which failures are worth another attempt; it has no default, since repeating the wrong thing does harm.
        attempts: Attempts at most, the first one included.
        delay: The back-off after the first failure, in seconds or like `"100ms"`.
        backoff: How it grows with each further failure: `"exponential"` multiplies it by `factor`, `"linear"` adds
            `delay` to it, `"constant"` leaves it.
        factor: What exponential growth multiplies it by.
        delay_max: The most it grows to, before jitter.
        jitter: `"full"` (anything from zero to the back-off), `"equal"` (at least half of it), `"decorrelated"` (from
            `delay` to three times the wait before), `"smooth"` (doubling in the middle, without gaps or peaks), or
            `"none"`. The decorrelated and the smooth one grow at a pace of their own, in place of `factor`.
        budget: Retries that a call earns: over time at most this share of traffic is added, after a stock of ten.
            None switches the budget off.
        retry_after_max: The most of a server's `Retry-After` that is heeded; 0 heeds none of it.
        on_result: Which results are worth another attempt too: a function of what the protected function returned.
        unsafe_methods: Whether HTTP clients repeat methods that are not idempotent (POST, PATCH) without an idempotency
            key as well: only where the server finds out duplicates by itself.

    Raises:
        ConfigurationError: A setting can't be meant, or has no effect beside another.

    >>> Retry(on="transient").attempts
    3
    """

    slot: ClassVar[Slot] = Slot.RETRY

    on: On = dataclasses.field(metadata={ACCEPTED: ON_ACCEPTED})
    # Two more tries ride out a lost packet or a restart behind a load balancer; what needs more is an outage.
    attempts: int = 3
    # About a round trip between continents: sooner, what has failed has hardly had time to change.
    delay: Duration = 0.1
    # The one growth that finds a rate which the dependency can bear, however many clients there are.
    backoff: Growth = "exponential"
    factor: float = _FACTOR
    # Users don't wait longer; background work says so itself.
    delay_max: Duration = 5.0
    # Full jitter spreads a herd best.
    jitter: Jitter = "full"
    # Finagle's and gRPC's share: an outage is answered with 1.2x the traffic, not 3x.
    budget: float | None = 0.2
    # A server may ask for an hour, or for a date that somebody mistyped; a call that is worth that wait is a job.
    retry_after_max: Duration = 60.0
    on_result: OnResult | None = dataclasses.field(default=None, metadata={ACCEPTED: ON_RESULT_ACCEPTED})
    # A payment that timed out may have been made.
    unsafe_methods: bool = False
    _wanted: FailureTest = dataclasses.field(init=False, repr=False, compare=False)
    _backoff: Backoff = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole("attempts", self.attempts, 1, 1000)
        delay = seconds(self.delay, "delay", zero=True)
        delay_max = seconds(self.delay_max, "delay_max", zero=True)
        retry_after_max = seconds(self.retry_after_max, "retry_after_max", zero=True)
        factor = number("factor", self.factor, 1, 100)
        _one_of("backoff", self.backoff, GROWTHS)
        _one_of("jitter", self.jitter, JITTERS)
        if self.budget is not None:
            share("budget", self.budget)
        result_test(self.on_result)
        flag("unsafe_methods", self.unsafe_methods)
        backoff = Backoff(delay=delay, growth=self.backoff, factor=factor, delay_max=delay_max, jitter=self.jitter)
        self._check_growth(backoff)
        normalise(
            self,
            delay=delay,
            delay_max=delay_max,
            retry_after_max=retry_after_max,
            _wanted=failure_test(self.on),
            _backoff=backoff,
        )

    def _check_growth(self, backoff: Backoff) -> None:
        """Refuse what would have no effect beside the other settings."""
        if self.jitter in SELF_GROWING and self.backoff != "exponential":
            raise ConfigurationError.bad_value(
                "backoff", self.backoff, f"'exponential' with jitter={self.jitter!r}, which grows by itself"
            )
        if self.factor != _FACTOR and (self.jitter in SELF_GROWING or self.backoff != "exponential"):
            beside = f"jitter={self.jitter!r}" if self.jitter in SELF_GROWING else f"backoff={self.backoff!r}"
            accepted = f"its default of {_FACTOR:g} with {beside}, where it has no effect"
            raise ConfigurationError.bad_value("factor", self.factor, accepted)
        if self.jitter == "decorrelated" and backoff.delay >= backoff.delay_max > 0:
            accepted = f"less than the delay_max of {format_seconds(backoff.delay_max)}"
            raise ConfigurationError.bad_value(
                "delay", self.delay, f"{accepted}: jitter='decorrelated' draws from between the two"
            )

    def wants(self, error: Exception) -> bool:
        """Say whether this failure is worth another attempt."""
        if isinstance(error, UnwantedResult) and self.on_result is not None and self.on_result(error.result):
            return True
        return self._wanted(error) and classify(error) is not FailureKind.REJECTED

    def delays(self, random: Random) -> Delays:
        """Make what tells the delays of one call."""
        return Delays(self._backoff, retry_after_max=seconds(self.retry_after_max, zero=True), random=random)

    def longest_delays(self) -> float:
        """The seconds of all back-offs together, at the most; what servers ask for comes on top."""
        return sum(map(self._backoff.longest, range(1, self.attempts)))

    def retry_budget(self, lock: Lock) -> RetryBudget | None:
        """Make the budget that these settings describe."""
        return None if self.budget is None else RetryBudget(share=self.budget, stock=_STOCK, lock=lock)

    def adopt(self, machine: Any) -> bool:
        """Give these settings to a budget that was made from others; False when it can't go on with them."""
        if self.budget is None or machine is None:
            return self.budget is None and machine is None
        machine.reconfigure(share=self.budget, stock=_STOCK)
        return True

    def describe(self) -> str:
        """The settings in words."""
        results = "" if self.on_result is None else " and unwanted results"
        jitter = "no jitter" if self.jitter == "none" else f"{self.jitter} jitter"
        budget = "no budget" if self.budget is None else f"budget {self.budget * 100:.3g}% of traffic"
        unsafe = ", unsafe methods too" if self.unsafe_methods else ""
        return (
            f"up to {self.attempts} attempts on {in_words(self.on)}{results}, "
            f"back-off {self._growth()}, {jitter}, {budget}{unsafe}"
        )

    def _growth(self) -> str:
        first, most = format_seconds(self._backoff.capped(1)), format_seconds(self._backoff.delay_max)
        if self.backoff == "constant":
            return first
        if self.jitter in SELF_GROWING:
            return f"from {first} up to {most}"
        return f"{first} {f'x{self.factor:g}' if self.backoff == 'exponential' else f'+{first}'} up to {most}"


def _one_of(key: str, value: object, known: Any) -> None:
    if value not in list(known):  # a list, since what was given may have no hash
        raise ConfigurationError.unknown(key, value, known, key)

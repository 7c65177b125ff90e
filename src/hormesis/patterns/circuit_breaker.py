"""Pattern 1, circuit breaker: stop calling a dependency that fails, and find out by itself when it is back.

The machine, with its states and reasons, is in `hormesis.core.breaker`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from hormesis.clock import Random, system_random
from hormesis.core.admission import Lock
from hormesis.core.breaker import BreakerMachine, BreakerTerms
from hormesis.core.keyed import Keyed
from hormesis.core.slots import Slot
from hormesis.errors import CircuitOpen, ConfigurationError, Rejected
from hormesis.outcome import (
    ON_ACCEPTED,
    ON_RESULT_ACCEPTED,
    Ending,
    FailureKind,
    FailureTest,
    On,
    OnResult,
    UnwantedResult,
    classify,
    failure_test,
    result_test,
)
from hormesis.patterns.keys import BY_ACCEPTED, By, key_of
from hormesis.patterns.part import normalise, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["CircuitBreaker"]

_QUIET = 5
_OPEN_FOR_MAX = 60.0

_LOCKS = 16
"""Locks that the breakers of a keyed set share: one each would add a fifth to their size, and only failures want it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker(Settings):
    """Refuse calls to a dependency while it fails.

    It opens when, among the calls that the window holds, the share of failures reaches `failure_rate` or the share of
    slow calls reaches `slow_rate`. While open, calls raise `CircuitOpen` at once. After `open_for` a few probes are
    let through, and judged by the same rates.

    Args:
        failure_rate: Share of failed calls that opens it.
        consecutive: Failures in a row that open it, whatever the window holds; None: no such rule.
        quiet: Failures in a row that open it while the window holds fewer than `minimum_calls`; it matters when it is
            less than that. None: no such rule.
        slow_after: Duration from which a call counts as slow, however it ends; None to watch no durations.
        slow_rate: Share of slow calls that opens it.
        window: The calls it looks at: a number of the latest, or a duration such as `"10s"`.
        minimum_calls: Calls that the window must hold before a rate means something.
        open_for: How long it stays open the first time. Each further opening in a row doubles that, with jitter.
        open_for_max: What this grows to; None: a minute, or `open_for` where that is longer.
        retry_after_max: How long it stays open at most because the dependency asks for it (`Retry-After`).
        probes: Calls that are let through, and judged, when that time is over.
        probe_expires: A probe that has not ended by then gives its place to another.
        recover_over: After good probes, how long the share of traffic that is let in takes from a tenth to all; it
            falls back on failures. None: all at once.
        on: Which failures count. Others are answers as far as the dependency's health goes; rejections by a policy
            further in are ignored.
        on_result: Which results count as failures: a function that takes one and returns whether it does.
        ignore: Which failures are no verdict either way: they count neither as failure nor as success.
        by: What to have an instance for each of: a label of `calling(…)`, such as `"host"`, or a function that makes a
            key of the call's arguments. None: one for all.
        max_keys: Instances that are kept at most. When there are more keys, one goes that has nothing to remember, or
            that was not used for long.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> CircuitBreaker(failure_rate=0.5, window="10s").open_for
    5.0
    """

    slot: ClassVar[Slot] = Slot.CIRCUIT_BREAKER
    rejection: ClassVar[type[Rejected]] = CircuitOpen

    # Half of all calls failing is an outage, not noise: at 1 % errors, ten calls show it once in forty million windows.
    failure_rate: float = 0.5
    # Off: where one call in two fails by chance, five in a row are no rarity.
    consecutive: int | None = None
    # Wald: against 1 % errors, ln(1/α) / ln(1/p0) = 2 in a row would do for α = 1e-4. Five do for a dependency of which
    # one call in seven fails by nature, and while few calls come, each of them is long to wait for.
    quiet: int | None = _QUIET
    slow_after: Duration | None = None
    # Slow calls still answer, so it takes more of them to prefer none at all.
    slow_rate: float = 0.8
    # A number of calls means the same at every traffic; a duration forgets by itself.
    window: int | str = 100
    # Wald's bound says that six calls tell 50 % failures from 1 %; ten leave a margin.
    minimum_calls: int = 10
    # Long enough for a restart, short enough that nobody opens it by hand.
    open_for: Duration = 5.0
    # A minute: what is down for long is asked less and less, and is still found within a minute of being back.
    open_for_max: Duration | None = None
    # A server may mean an hour when it says so; we look after a minute, since it may also be a mistake.
    retry_after_max: Duration = 60.0
    # One probe is an anecdote; three outvote one unlucky call.
    probes: int = 3
    # Longer than any sane timeout, so that it only meets probes that are lost.
    probe_expires: Duration = 30.0
    # Off: it pays for dependencies that come back cold, and for others it prolongs the outage.
    recover_over: Duration | None = None
    on: On = dataclasses.field(default="any", metadata={ACCEPTED: ON_ACCEPTED})
    on_result: OnResult | None = dataclasses.field(default=None, metadata={ACCEPTED: ON_RESULT_ACCEPTED})
    ignore: On | None = dataclasses.field(default=None, metadata={ACCEPTED: ON_ACCEPTED})
    by: By | None = dataclasses.field(default=None, metadata={ACCEPTED: BY_ACCEPTED})
    # Hosts and tenants of one process; at half a kilobyte for a healthy one, 5 MB.
    max_keys: int = 10_000
    _ignores: FailureTest | None = dataclasses.field(init=False, repr=False, compare=False)
    _counts: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        share("failure_rate", self.failure_rate)
        share("slow_rate", self.slow_rate)
        whole("minimum_calls", self.minimum_calls, 1)
        whole("probes", self.probes, 1, 10_000)
        whole("max_keys", self.max_keys, 1, 10_000_000)
        normalise(
            self,
            slow_after=_seconds_or_none(self.slow_after, "slow_after"),
            open_for=seconds(self.open_for, "open_for"),
            open_for_max=_seconds_or_none(self.open_for_max, "open_for_max"),
            retry_after_max=seconds(self.retry_after_max, "retry_after_max"),
            probe_expires=seconds(self.probe_expires, "probe_expires"),
            recover_over=_seconds_or_none(self.recover_over, "recover_over"),
            on_result=result_test(self.on_result),
            _counts=failure_test(self.on),
            _ignores=None if self.ignore is None else failure_test(self.ignore, "ignore"),
        )
        if self.open_for_max is not None and seconds(self.open_for_max) < seconds(self.open_for):
            accepted = f"at least open_for ({format_seconds(seconds(self.open_for))}); the same switches growth off"
            raise ConfigurationError.bad_value("open_for_max", self.open_for_max, accepted)
        for name, row in (("consecutive", self.consecutive), ("quiet", self.quiet)):
            if row is not None:
                whole(name, row, 1)
        key_of(self.by)
        if isinstance(self.window, str):
            seconds(self.window, "window")
        elif whole("window", self.window, 1) < self.minimum_calls:
            raise ConfigurationError.bad_value(
                "minimum_calls", self.minimum_calls, f"at most the window of {self.window} calls, or it never opens"
            )

    def terms(self) -> BreakerTerms:
        """What machines go by that these settings describe."""
        window, open_for = self.window, seconds(self.open_for)
        return BreakerTerms(
            window_calls=window if isinstance(window, int) else None,
            window_seconds=None if isinstance(window, int) else seconds(window),
            failure_rate=self.failure_rate,
            consecutive=self.consecutive,
            quiet=self.quiet if self._has_quiet_rule else None,
            slow_after=math.inf if self.slow_after is None else seconds(self.slow_after),
            slow_rate=self.slow_rate,
            minimum_calls=self.minimum_calls,
            open_for=open_for,
            open_for_max=max(_OPEN_FOR_MAX, open_for) if self.open_for_max is None else seconds(self.open_for_max),
            retry_after_max=seconds(self.retry_after_max),
            probes=self.probes,
            probe_expires=seconds(self.probe_expires),
            recover_over=_seconds_or_none(self.recover_over, "recover_over"),
        )

    def machine(self, lock: Lock, random: Random | None = None) -> BreakerMachine | Keyed[BreakerMachine]:
        """Make the machine that these settings describe, or a machine for each key if they have `by`.

        Args:
            lock: A lock of its own.
            random: Jitters the time that it stays open; by default seeded by the operating system.
        """
        random = _shared_random() if random is None else random
        if self.by is None:
            return BreakerMachine(self.terms(), lock, random)
        return Keyed(_maker(self.terms(), random), self.max_keys, lock=lock, by=self.by)

    def adopt(self, machine: Any, random: Random | None = None) -> bool:
        """Let what another breaker's settings made go on with these; False when its keys are others.

        Args:
            machine: What `machine` of those settings returned.
            random: For instances that are made from now on.
        """
        if isinstance(machine, BreakerMachine) and self.by is None:
            machine.reconfigure(self.terms())
            return True
        if not isinstance(machine, Keyed) or self.by is None or machine.by != self.by:
            return False
        terms = self.terms()
        # In this order: an instance that is made meanwhile is made by the new terms, or found among the others.
        machine.remake(_maker(terms, _shared_random() if random is None else random), self.max_keys)
        for instance in machine.values():
            instance.reconfigure(terms)
        return True

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this."""
        if not isinstance(error, Exception):
            return Ending.CANCELLED
        if classify(error) is FailureKind.REJECTED or (self._ignores is not None and self._ignores(error)):
            return Ending.IGNORED
        unwanted = self.on_result is not None and isinstance(error, UnwantedResult) and self.on_result(error.result)
        return Ending.FAILURE if unwanted or self._counts(error) else Ending.SUCCESS

    def describe(self) -> str:
        """The settings in words."""
        window = f"{self.window} calls" if isinstance(self.window, int) else format_seconds(seconds(self.window))
        slow = ""
        if self.slow_after is not None:
            slow = f" or {self.slow_rate:.0%} take {format_seconds(seconds(self.slow_after))} or longer"
        quiet = ""
        if self.quiet != _QUIET and self._has_quiet_rule:
            quiet = f", or {self.quiet} in a row before that"
        row = "" if self.consecutive is None else f", or when {self.consecutive} fail in a row"
        grows = "" if self.open_for_max is None else f" up to {format_seconds(seconds(self.open_for_max))}"
        ramp = ""
        if self.recover_over is not None:
            ramp = f", and a share of traffic that climbs over {format_seconds(seconds(self.recover_over))}"
        whose = ""
        if self.by is not None:
            whose = f"; one for each {self.by if isinstance(self.by, str) else 'key'}, {self.max_keys:,} at most"
        open_for = format_seconds(seconds(self.open_for))
        return (
            f"opens when {self.failure_rate:.0%} of the last {window} fail{slow} (from {self.minimum_calls} calls on"
            f"{quiet}){row}, for {open_for}{grows}; then {self.probes} probes{ramp}{whose}"
        )

    @property
    def _has_quiet_rule(self) -> bool:
        return self.quiet is not None and self.quiet < self.minimum_calls


def _seconds_or_none(value: Duration | None, key: str) -> float | None:
    return None if value is None else seconds(value, key)


@functools.cache
def _shared_random() -> Random:
    return system_random()


def _maker(terms: BreakerTerms, random: Random) -> functools.partial[BreakerMachine]:
    locks: Iterator[Lock] = itertools.cycle([threading.Lock() for _ in range(_LOCKS)])
    return functools.partial(_make, terms, locks, random)


def _make(terms: BreakerTerms, locks: Iterator[Lock], random: Random) -> BreakerMachine:
    return BreakerMachine(terms, next(locks), random)

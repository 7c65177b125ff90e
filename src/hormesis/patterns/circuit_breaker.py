"""Pattern 1, circuit breaker: stop calling a dependency that fails, and find out by itself when it is back.

The machine, with its states and reasons, is in `hormesis.core.breaker`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from hormesis.core.admission import Lock
from hormesis.core.breaker import BreakerMachine
from hormesis.core.slots import Slot
from hormesis.core.window import CountWindow, TimeWindow
from hormesis.errors import CircuitOpen, ConfigurationError, Rejected
from hormesis.outcome import ON_ACCEPTED, Ending, FailureKind, FailureTest, On, classify, failure_test
from hormesis.patterns.part import normalise, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["CircuitBreaker"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker(Settings):
    """Refuse calls to a dependency while it fails.

    It opens when, among the calls that the window holds, the share of failures reaches `failure_rate` or the share of
    slow calls reaches `slow_rate`. While open, calls raise `CircuitOpen` at once. After `open_for` a few probes are
    let through, and judged by the same rates.

    Args:
        failure_rate: Share of failed calls that opens it.
        consecutive: Failures in a row that open it, also before the window holds `minimum_calls`; None: no such rule.
        slow_after: Duration from which a call counts as slow, however it ends; None to watch no durations.
        slow_rate: Share of slow calls that opens it.
        window: The calls it looks at: a number of the latest, or a duration such as `"10s"`.
        minimum_calls: Calls that the window must hold before a rate means something.
        open_for: How long it stays open.
        probes: Calls that are let through, and judged, when that time is over.
        probe_expires: A probe that has not ended by then gives its place to another.
        on: Which failures count. Others are answers as far as the dependency's health goes; rejections by a policy
            further in are ignored.
        ignore: Which failures are no verdict either way: they count neither as failure nor as success.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> CircuitBreaker(failure_rate=0.5, window="10s").open_for
    5.0
    """

    slot: ClassVar[Slot] = Slot.CIRCUIT_BREAKER
    rejection: ClassVar[type[Rejected]] = CircuitOpen

    # Half of all calls failing is an outage, not noise: at 1 % errors, ten calls show it once in forty million windows.
    failure_rate: float = 0.5
    # Off: where one call in two fails by chance, five in a row are no rarity. For quiet traffic it is the quicker rule.
    consecutive: int | None = None
    slow_after: Duration | None = None
    # Slow calls still answer, so it takes more of them to prefer none at all.
    slow_rate: float = 0.8
    # A number of calls means the same at every traffic; a duration forgets by itself.
    window: int | str = 100
    # Wald's bound says that six calls tell 50 % failures from 1 %; ten leave a margin.
    minimum_calls: int = 10
    # Long enough for a restart, short enough that nobody opens it by hand.
    open_for: Duration = 5.0
    # One probe is an anecdote; three outvote one unlucky call.
    probes: int = 3
    # Longer than any sane timeout, so that it only meets probes that are lost.
    probe_expires: Duration = 30.0
    on: On = dataclasses.field(default="any", metadata={ACCEPTED: ON_ACCEPTED})
    ignore: On | None = dataclasses.field(default=None, metadata={ACCEPTED: ON_ACCEPTED})
    _ignores: FailureTest | None = dataclasses.field(init=False, repr=False, compare=False)
    _counts: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        share("failure_rate", self.failure_rate)
        share("slow_rate", self.slow_rate)
        whole("minimum_calls", self.minimum_calls, 1)
        whole("probes", self.probes, 1, 10_000)
        normalise(
            self,
            slow_after=None if self.slow_after is None else seconds(self.slow_after, "slow_after"),
            open_for=seconds(self.open_for, "open_for"),
            probe_expires=seconds(self.probe_expires, "probe_expires"),
            _counts=failure_test(self.on),
            _ignores=None if self.ignore is None else failure_test(self.ignore, "ignore"),
        )
        if self.consecutive is not None:
            whole("consecutive", self.consecutive, 1)
        if isinstance(self.window, str):
            seconds(self.window, "window")
        elif whole("window", self.window, 1) < self.minimum_calls:
            raise ConfigurationError.bad_value(
                "minimum_calls", self.minimum_calls, f"at most the window of {self.window} calls, or it never opens"
            )

    def machine(self, lock: Lock) -> BreakerMachine:
        """Make the machine that these settings describe."""
        window = self.window
        return BreakerMachine(
            window=CountWindow(window) if isinstance(window, int) else TimeWindow(seconds(window)),
            failure_rate=self.failure_rate,
            consecutive=self.consecutive,
            slow_after=None if self.slow_after is None else seconds(self.slow_after),
            slow_rate=self.slow_rate,
            minimum_calls=self.minimum_calls,
            open_for=seconds(self.open_for),
            probes=self.probes,
            probe_expires=seconds(self.probe_expires),
            lock=lock,
        )

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this."""
        if not isinstance(error, Exception):
            return Ending.CANCELLED
        if classify(error) is FailureKind.REJECTED or (self._ignores is not None and self._ignores(error)):
            return Ending.IGNORED
        return Ending.FAILURE if self._counts(error) else Ending.SUCCESS

    def describe(self) -> str:
        """The settings in words."""
        window = f"{self.window} calls" if isinstance(self.window, int) else format_seconds(seconds(self.window))
        slow = ""
        if self.slow_after is not None:
            slow = f" or {self.slow_rate:.0%} take {format_seconds(seconds(self.slow_after))} or longer"
        row = "" if self.consecutive is None else f", or when {self.consecutive} fail in a row"
        return (
            f"opens when {self.failure_rate:.0%} of the last {window} fail{slow} (from {self.minimum_calls} calls on)"
            f"{row}, for {format_seconds(seconds(self.open_for))}; then {self.probes} probes"
        )

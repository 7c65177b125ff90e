"""Pattern 6, rate limit: no more than so many in a second, or a day, by everybody or by each tenant.

The arithmetic is in `hormesis.core.rate_limit`. A rate limit bounds how *often* something happens; how much of it
happens at the same time is a bulkhead's or a concurrency limit's matter.

    token bucket    the default: so many at once, and a steady stream on the average
    sliding window  never more than so many in any stretch of that length
    fixed window    for limits that somebody else counts by windows
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from hormesis.clock import MONOTONIC, Clock
from hormesis.context import remaining
from hormesis.core.admission import Lock, Refusal
from hormesis.core.rate_gate import RateGates, RateTerms
from hormesis.core.rate_limit import RATE_MAX, STEPS, Algorithm, RateLimiter, Standing, TokenBucket, WindowCounter
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, RateLimited, Rejected
from hormesis.outcome import Ending
from hormesis.patterns.keys import BY_ACCEPTED, By, key_of
from hormesis.patterns.part import is_async, normalise, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, Quota, Rate, format_seconds, quota, seconds

__all__ = ["LocalLimiter", "RateAlgorithm", "RateLimit"]

T = TypeVar("T")

RateAlgorithm = Literal["token bucket", "sliding window", "fixed window"]
"""How a rate is counted."""

_ALGORITHMS = ("token bucket", "sliding window", "fixed window")
_LIMITS_ACCEPTED = "rates such as '100/s' or '10000/d', each for another window"
_COST_ACCEPTED = "a whole number from 1, or a function of the call's arguments that returns one"

_LIMITS_MAX = 8
"""Limits of one part; each is asked at every call."""
_COUNT_MAX = 1_000_000_000
_WINDOW_LEAST = 0.001
"""Windows that are shorter turn between two readings of a clock."""

_let_others_go_on = functools.partial(time.sleep, 0.0001)


def _several(cls: type[T]) -> type[T]:
    """Let limits be given one after the other."""
    make: Callable[..., None] = cls.__init__

    @functools.wraps(make)
    def several(self: T, *limits: object, **settings: object) -> None:
        if limits:
            settings["limits"] = limits[0] if len(limits) == 1 else limits
        elif "limits" not in settings:
            raise ConfigurationError(f"limits is missing; it takes {_LIMITS_ACCEPTED}", "limits")
        make(self, **settings)

    cls.__init__ = several  # type: ignore[assignment, method-assign]
    return cls


@_several
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit(Settings):
    """Let calls in at a rate, and refuse the rest, or let them wait for their turn.

    Several limits hold at once: a call is let in by all of them, or spends none of them. Attempts count, so that a
    retry spends as well.

    Args:
        limits: How many in which time, one or several: `"100/s"`, `"10000/d"`, `"5/10s"`.
        burst: How many may come at once where a bucket fills; of several limits, that of the one with the shortest
            window. None: as many as its rate has in its window.
        by: Whose limits they are: a label of `calling(…)`, such as `"tenant"`, or a function that makes a key of the
            call's arguments. None: all calls share them.
        cost: What a call spends, or a function of its arguments that tells.
        algorithm: `"token bucket"`, `"sliding window"` or `"fixed window"`; see the module's docstring.
        max_wait: How long a call may wait for its turn; its deadline may cut that short. None refuses at once.
        max_keys: Keys that are remembered at most. Where that is not enough, those are forgotten that have spent the
            least, and may spend it once more.
        name: What answers and metrics call it; by default they say the rates.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> RateLimit("100/s", "10000/d").describe()
    '100/s and 10000/d, up to 100 at once, refused beyond that'
    """

    slot: ClassVar[Slot] = Slot.RATE_LIMIT
    rejection: ClassVar[type[Rejected]] = RateLimited

    limits: Rate | tuple[Rate, ...] = dataclasses.field(metadata={ACCEPTED: _LIMITS_ACCEPTED})
    # What people mean by "100 a second": a hundred in the first moment of it are within the limit.
    burst: int | None = None
    by: By | None = dataclasses.field(default=None, metadata={ACCEPTED: BY_ACCEPTED})
    cost: int | Callable[..., int] = dataclasses.field(default=1, metadata={ACCEPTED: _COST_ACCEPTED})
    # One number for each key, and no edges at which twice the limit comes through.
    algorithm: RateAlgorithm = "token bucket"
    # Refusing at once is honest; a queue hides an overload as latency.
    max_wait: Duration | None = None
    # At some 115 bytes each, 115 MB when a million have spent something lately.
    max_keys: int = 1_000_000
    name: str | None = None
    _quotas: tuple[Quota, ...] = dataclasses.field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *limits: Rate,
            burst: int | None = None,
            by: By | None = None,
            cost: int | Callable[..., int] = 1,
            algorithm: RateAlgorithm = "token bucket",
            max_wait: Duration | None = None,
            max_keys: int = 1_000_000,
            name: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.algorithm not in _ALGORITHMS:
            raise ConfigurationError.unknown("algorithm", self.algorithm, _ALGORITHMS, "algorithm")
        quotas = _quotas(self.limits, self.algorithm)
        if self.burst is not None:
            whole("burst", self.burst, 1, _COUNT_MAX)
            if self.algorithm != "token bucket":
                raise ConfigurationError(
                    f"burst is {self.burst!r}; it takes algorithm='token bucket': a {self.algorithm} lets its count "
                    "through at once",
                    "burst",
                )
        if self.max_wait is not None:
            normalise(self, max_wait=seconds(self.max_wait, "max_wait", zero=True))
        name: object = self.name
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigurationError.bad_value("name", name, "a non-empty string")
        whole("max_keys", self.max_keys, 1, 100_000_000)
        key_of(self.by)
        normalise(self, limits=tuple(each.text for each in quotas), _quotas=quotas)
        self._check_cost()

    def _check_cost(self) -> None:
        cost = self.cost
        if callable(cost):
            if isinstance(cost, type) or is_async(cost):
                raise ConfigurationError.bad_value("cost", cost, _COST_ACCEPTED)
            return
        least = min(self.algorithms(), key=lambda limit: limit.capacity)
        if _cost(cost) > least.capacity:
            raise ConfigurationError(
                f"cost is {cost!r}, which {least.name} can never meet: it takes at most {least.capacity:,} at once",
                "cost",
            )

    def algorithms(self) -> list[Algorithm]:
        """Make the limits that these settings describe, as arithmetic."""
        shortest = min(self._quotas, key=lambda each: each.window)
        made: list[Algorithm] = []
        for each in self._quotas:
            name = (
                each.text if self.name is None else self.name if len(self._quotas) == 1 else f"{self.name} {each.text}"
            )
            if self.algorithm == "token bucket":
                burst = self.burst if self.burst is not None and each is shortest else each.at_once
                made.append(TokenBucket(name, each.number, each.window, burst))
            else:
                steps = STEPS if self.algorithm == "sliding window" else 0
                made.append(WindowCounter(name, each.number, each.window, steps))
        return made

    def limiter(self, *, clock: Clock = MONOTONIC) -> LocalLimiter:
        """Make a limiter to use alone, outside of a policy.

        Args:
            clock: What it goes by.

        >>> limit = RateLimit("2/s").limiter()
        >>> [limit.try_acquire() for _ in range(3)]
        [True, True, False]
        """
        return LocalLimiter(self, clock)

    def core(self, lock: Lock, *, keyed: bool = True) -> RateLimiter:
        """Make the machine behind all of these, for those who have clocks and locks of their own.

        Args:
            lock: A lock of its own.
            keyed: Whether each key has its limits, or all share them.
        """
        max_keys = self.max_keys if keyed else None
        return RateLimiter(self.algorithms(), max_keys=max_keys, lock=lock, pause=_let_others_go_on)

    def machine(self, lock: Lock, random: object = None) -> Any:
        """Make what makes the gate of each call, a `RateGates`.

        Args:
            lock: A lock of its own.
            random: Nothing here is left to chance.
        """
        return RateGates(self.core(lock, keyed=self.by is not None), self._terms())

    def adopt(self, machine: Any) -> bool:
        """Let what another rate limit's settings made go on with these; False when its keys are others.

        Args:
            machine: What `machine` of those settings returned.
        """
        return isinstance(machine, RateGates) and machine.reconfigure(self.algorithms(), self._terms())

    def _terms(self) -> RateTerms:
        return RateTerms(
            max_wait=self.longest_wait,
            cost=self.cost if isinstance(self.cost, int) else 1,
            cost_of=None if isinstance(self.cost, int) else _cost_of(self.cost),
            by=self.by,
            key_of=key_of(self.by),
            max_keys=None if self.by is None else self.max_keys,
        )

    @property
    def longest_wait(self) -> float:
        """Seconds that a call may wait for its turn."""
        return 0.0 if self.max_wait is None else seconds(self.max_wait, zero=True)

    @property
    def rate(self) -> float:
        """Calls a second that are let in over time, by the limit that lets in the fewest."""
        return min(each.number / each.window for each in self._quotas)

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this; what it has spent is spent."""
        return Ending.FAILURE if isinstance(error, Exception) else Ending.CANCELLED

    def describe(self) -> str:
        """The settings in words."""
        limits = " and ".join(each.text for each in self._quotas)
        if self.algorithm == "token bucket":
            shortest = min(self.algorithms(), key=lambda limit: limit.window)
            limits += f", up to {shortest.capacity:,} at once"
        else:
            limits += f" in {'any' if self.algorithm == 'sliding window' else 'each'} window"
        cost = ""
        if self.cost != 1:
            cost = (
                f", {self.cost:,} spent by each call" if isinstance(self.cost, int) else ", calls spend what they cost"
            )
        wait = "refused beyond that"
        if self.longest_wait:
            wait = f"beyond that they wait up to {format_seconds(self.longest_wait)}"
        whose = ""
        if self.by is not None:
            whose = f"; one for each {self.by if isinstance(self.by, str) else 'key'}, {self.max_keys:,} at most"
        return f"{limits}{cost}, {wait}{whose}"


class LocalLimiter:
    """A rate limit of this process, to be asked by hand; for each key, or for all that name none.

    >>> limit = RateLimit("1/min").limiter()
    >>> limit.try_acquire("acme"), limit.try_acquire("acme"), limit.try_acquire("zeta")
    (True, False, True)
    >>> limit.standings("acme")[0].remaining
    0
    """

    __slots__ = ("__weakref__", "_by_key", "_clock", "_lock", "_name", "_now", "_one", "_settings", "_take")

    def __init__(self, settings: RateLimit, clock: Clock) -> None:
        self._settings = settings
        self._name = settings.name or settings.slot.key
        self._clock = clock
        self._now = clock.now
        self.start_clean()
        _limiters.add(self)

    def start_clean(self) -> None:
        """Forget what was spent, and every lock, as a process must that was forked while others held them."""
        self._lock = threading.Lock()
        # Whoever names no key is most often the only caller: for that one, no keys have to be told apart.
        self._one = self._settings.core(threading.Lock(), keyed=False)
        self._take = self._one.take
        self._by_key: RateLimiter | None = None

    def try_acquire(self, key: str = "", cost: int = 1) -> bool:
        """Spend so much of a key's limits, if all of them grant it now.

        Raises:
            ConfigurationError: The cost is no whole number from 1.
        """
        if key or cost != 1:
            return self._limiter(key).take(key, _cost(cost), self._now()) is None
        return self._take("", 1, self._now()) is None

    def acquire(self, key: str = "", cost: int = 1) -> None:
        """Spend so much of a key's limits, and block until it is granted; the first to come is the first to go.

        Raises:
            RateLimited: It would take longer than `max_wait`, or than the deadline of the call leaves.
            ConfigurationError: The cost is no whole number from 1.
        """
        limiter, due = self._reserve(key, cost)
        try:
            self._clock.sleep(max(0.0, due - self._now()))
        except BaseException:
            limiter.cancel(key, cost, self._now(), due - self._now())
            raise

    async def aacquire(self, key: str = "", cost: int = 1) -> None:
        """Spend it, and suspend the task until it is granted; otherwise as `acquire`."""
        limiter, due = self._reserve(key, cost)
        try:
            await self._clock.sleep_async(max(0.0, due - self._now()))
        except BaseException:
            limiter.cancel(key, cost, self._now(), due - self._now())
            raise

    def standings(self, key: str = "") -> tuple[Standing, ...]:
        """Tell how each limit stands for a key."""
        return self._limiter(key).standings(key, self._now())

    def _limiter(self, key: str) -> RateLimiter:
        if not key:
            return self._one
        if self._by_key is None:
            with self._lock:
                if self._by_key is None:
                    self._by_key = self._settings.core(threading.Lock())
        return self._by_key

    def _reserve(self, key: str, cost: int) -> tuple[RateLimiter, float]:
        """Reserve a moment; returns who can take it back, and when it is."""
        limiter, now, left = self._limiter(key), self._now(), remaining()
        patience = float("inf") if self._settings.max_wait is None else self._settings.longest_wait
        wait = limiter.reserve(key, _cost(cost), now, patience if left is None else min(left, patience))
        if isinstance(wait, Refusal):
            raise RateLimited(self._name, wait.reason, wait.retry_after)
        return limiter, now + wait


_limiters: weakref.WeakSet[LocalLimiter] = weakref.WeakSet()


def _start_clean_after_fork() -> None:
    for limiter in list(_limiters):
        limiter.start_clean()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_clean_after_fork)


def _quotas(limits: Rate | Sequence[Rate], algorithm: str) -> tuple[Quota, ...]:
    rates: Sequence[Rate] = limits if isinstance(limits, list | tuple) else (cast("Rate", limits),)
    if not 0 < len(rates) <= _LIMITS_MAX:
        raise ConfigurationError.bad_value("limits", limits, f"from 1 to {_LIMITS_MAX} {_LIMITS_ACCEPTED}")
    quotas = tuple(quota(rate, "limits") for rate in rates)
    for each in quotas:
        if each.number > min(_COUNT_MAX, RATE_MAX * each.window):
            accepted = f"at most {_COUNT_MAX:,} in a window, and {RATE_MAX:,.0f} a second"
            raise ConfigurationError.bad_value("limits", each.text, accepted)
        if algorithm != "token bucket" and (each.at_once, each.window >= _WINDOW_LEAST) != (each.number, True):
            accepted = f"whole numbers in windows of a millisecond and more with algorithm={algorithm!r}"
            raise ConfigurationError.bad_value("limits", each.text, accepted)
    if len({each.window for each in quotas}) < len(quotas):
        texts = tuple(each.text for each in quotas)
        raise ConfigurationError.bad_value("limits", texts, f"{_LIMITS_ACCEPTED}: of two for the same, one never acts")
    return quotas


def _cost(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError.bad_value("cost", value, "a whole number from 1")
    return value


def _cost_of(function: Callable[..., int]) -> Callable[[Sequence[Any], Mapping[str, Any]], int]:
    return lambda args, kwargs: _cost(function(*args, **kwargs))

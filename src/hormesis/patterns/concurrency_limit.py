"""Pattern 6, concurrency limit: no more calls at a time than the dependency can work on, found out by itself.

The machine is in `hormesis.core.concurrency_limit`, and the algorithms in `hormesis.core.latency_limits`. A bulkhead
keeps a dependency from taking all of *our* callers; this keeps all of our callers from taking the *dependency*.

    vegas       the default: compares latencies with what they are without a queue, which it looks up now and then
    aimd        goes by drops alone: best where a `timeout` is known that tells a good answer from one too late
    gradient2   compares latencies with their long average; an overload that lasts becomes that average
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from hormesis.core.admission import Lock
from hormesis.core.concurrency_limit import BoundedAlgorithm, ConcurrencyLimitMachine, LimitTerms
from hormesis.core.keyed import Keyed
from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, Overloaded, Rejected
from hormesis.outcome import ON_ACCEPTED, Ending, FailureKind, FailureTest, On, classify, failure_test, in_words
from hormesis.patterns.keys import BY_ACCEPTED, By, key_of
from hormesis.patterns.part import is_async, normalise, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Adapt", "ConcurrencyLimit"]

Adapt = Literal["vegas", "gradient2", "aimd"]
"""What a limit is found by."""

_ALGORITHMS: dict[str, Callable[..., BoundedAlgorithm]] = {"vegas": Vegas, "gradient2": Gradient2, "aimd": AIMD}
_DEFAULT = "vegas"
_FIXED = "fixed"

_DROPS = ("timeout", "unavailable", "throttled")
_CALLS = 10
"""Calls of a window at least: fewer have no mean worth speaking of."""

_HEALTH_ACCEPTED = "a synchronous function that returns how well the system is, from 0 to 1"


@dataclasses.dataclass(frozen=True, slots=True)
class ConcurrencyLimit(Settings):
    """Let no more calls in at a time than a dependency can work on: a number, or one that finds itself.

    Args:
        limit: Attempts that run at the same time, over all threads and tasks of this process. None: it finds itself.
        adapt: What it finds itself by: `"vegas"` (what None means), `"gradient2"` or `"aimd"`.
        start: The limit to begin with, when it finds itself.
        limit_min, limit_max: Its bounds.
        timeout: An answer that takes longer counts as dropped. None: only failures do.
        on: Failures that mean "too much", and count as dropped. Others say nothing of load, and are not observed.
        window: How long is observed before the limit moves, and ten calls at least.
        max_queued: Callers that may wait, first come, first served; the next raises `Overloaded`.
        max_wait: How long a caller waits at most; its deadline may cut that short.
        health: Says how well the system is, from 0 to 1: the limit is multiplied by that. It is asked up to ten times
            a window, by callers, so it must be quick; see `hormesis.inbound.signals.HealthMonitor`.
        by: What to have an instance for each of: a label of `calling(…)`, such as `"host"`, or a function that makes a
            key of the call's arguments.
        max_keys: Instances that are kept at most; the least recently used go first.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> ConcurrencyLimit(20).describe()
    'at most 20 at a time, none wait'
    >>> ConcurrencyLimit(limit_max=200, timeout="500ms").algorithm
    'vegas'
    """

    slot: ClassVar[Slot] = Slot.CONCURRENCY_LIMIT
    rejection: ClassVar[type[Rejected]] = Overloaded

    limit: int | None = None
    _: dataclasses.KW_ONLY
    adapt: Adapt | None = None
    # What a service of two processors does at once, and not so much that the first second of a bad day is lost.
    start: int = 20
    limit_min: int = 1
    # More than a thousand at a time from one process is a batch job's, and then a number is known.
    limit_max: int = 1000
    # Only its callers know which answer comes too late.
    timeout: Duration | None = None
    # What a dependency that has too much to do answers. A refused connection or an error of its own is no sign of load.
    on: On = dataclasses.field(default=_DROPS, metadata={ACCEPTED: ON_ACCEPTED})
    # Some ten round trips of a usual call, and a tenth of what a breaker's window takes: loops that are stacked must
    # differ in pace.
    window: Duration = 1.0
    # As with a bulkhead: a queue hides an overload as latency.
    max_queued: int = 0
    max_wait: Duration = 1.0
    health: Callable[[], float] | None = dataclasses.field(default=None, metadata={ACCEPTED: _HEALTH_ACCEPTED})
    by: By | None = dataclasses.field(default=None, metadata={ACCEPTED: BY_ACCEPTED})
    # More hosts or tenants at once are a fleet's; at 1.7 kB each these are 17 MB.
    max_keys: int = 10_000
    _drops: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.limit is not None:
            whole("limit", self.limit, 1)
        if self.adapt is not None:
            if self.adapt not in list(_ALGORITHMS):  # a list, since what was given may have no hash
                raise ConfigurationError.unknown("algorithm", self.adapt, _ALGORITHMS, "adapt")
            if self.limit is not None:
                raise ConfigurationError(
                    f"limit is {self.limit!r} and adapt is {self.adapt!r}; a limit is given, or finds itself: "
                    "leave one of them out (start is where one that finds itself begins)",
                    "adapt",
                )
        whole("limit_min", self.limit_min, 1)
        whole("limit_max", self.limit_max, self.limit_min)
        whole("start", self.start, self.limit_min, self.limit_max)
        whole("max_queued", self.max_queued, 0)
        whole("max_keys", self.max_keys, 1)
        _check_health(self.health)
        normalise(
            self,
            timeout=None if self.timeout is None else seconds(self.timeout, "timeout"),
            window=seconds(self.window, "window"),
            max_wait=seconds(self.max_wait, "max_wait"),
            _drops=failure_test(self.on),
        )
        key_of(self.by)

    @property
    def algorithm(self) -> str:
        """What the limit is found by: one of `Adapt`, or `"fixed"`."""
        return _FIXED if self.limit is not None else self.adapt or _DEFAULT

    def terms(self) -> LimitTerms:
        """What machines go by that these settings describe."""
        kind = self.algorithm
        make = None
        if self.limit is None:
            make = functools.partial(_make, _ALGORITHMS[kind], self.limit_min, self.limit_max)
        return LimitTerms(
            algorithm=make,
            kind=kind,
            start=self.start if self.limit is None else self.limit,
            least=self.limit_min,
            most=self.limit_max,
            timeout=math.inf if self.timeout is None else seconds(self.timeout),
            window=seconds(self.window),
            calls=_CALLS,
            max_queued=self.max_queued,
            max_wait=seconds(self.max_wait),
            health=None if self.health is None else _Asked(self.health),
        )

    def machine(self, lock: Lock, random: object = None) -> ConcurrencyLimitMachine | Keyed[ConcurrencyLimitMachine]:
        """Make the machine that these settings describe, or a machine for each key if they have `by`.

        Args:
            lock: A lock of its own.
            random: Nothing here is left to chance.
        """
        terms = self.terms()
        if self.by is None:
            return ConcurrencyLimitMachine(terms, lock)
        return Keyed(functools.partial(_another, terms), self.max_keys, lock=lock, by=self.by)

    def adopt(self, machine: Any) -> bool:
        """Let what another limit's settings made go on with these; False when its keys are others.

        Args:
            machine: What `machine` of those settings returned.
        """
        terms = self.terms()
        if isinstance(machine, ConcurrencyLimitMachine) and self.by is None:
            machine.become(terms)
            return True
        if not isinstance(machine, Keyed) or self.by is None or machine.by != self.by:
            return False
        # In this order: an instance that is made meanwhile is made by the new terms, or found among the others.
        machine.remake(functools.partial(_another, terms), self.max_keys)
        for instance in machine.values():
            instance.become(terms)
        return True

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this: as a failure if it was dropped, else it says nothing of load."""
        if not isinstance(error, Exception):
            return Ending.CANCELLED
        if classify(error) is FailureKind.REJECTED:
            return Ending.IGNORED
        return Ending.FAILURE if self._drops(error) else Ending.IGNORED

    def describe(self) -> str:
        """The settings in words."""
        whose = ""
        if self.by is not None:
            whose = f"; one for each {self.by if isinstance(self.by, str) else 'key'}, {self.max_keys:,} at most"
        queue = "none wait"
        if self.max_queued:
            queue = f"{self.max_queued} more wait up to {format_seconds(seconds(self.max_wait))}"
        health = ", less while the system is unwell" if self.health is not None else ""
        if self.limit is not None:
            return f"at most {self.limit} at a time{health}, {queue}{whose}"
        late = ""
        if self.timeout is not None:
            late = f", and answers after {format_seconds(seconds(self.timeout))},"
        bounds = f"{self.start} at first, {self.limit_min} to {self.limit_max:,}"
        return (
            f"as many at a time as {self.algorithm} finds right: {bounds}{health}; "
            f"{in_words(self.on)}{late} tell of too many; {queue}{whose}"
        )


def _check_health(health: object) -> None:
    if health is not None and (not callable(health) or is_async(health)):
        raise ConfigurationError.bad_value("health", health, _HEALTH_ACCEPTED)


def _make(algorithm: Callable[..., BoundedAlgorithm], least: int, most: int, start: float) -> BoundedAlgorithm:
    return algorithm(start=start, least=least, most=most)


def _another(terms: LimitTerms) -> ConcurrencyLimitMachine:
    return ConcurrencyLimitMachine(terms, threading.Lock())


class _Asked:
    """A health function that can't break a call: what it raises is logged once, and counts as well."""

    __slots__ = ("_function", "_logged")

    def __init__(self, function: Callable[[], float]) -> None:
        self._function = function
        self._logged = False

    def __call__(self) -> float:
        try:
            health = self._function()
            if 0 <= health <= 1:  # also refuses what is no number
                return float(health)
            self._log(f"said {health!r}, which is not from 0 to 1")
        except Exception:
            self._log("raised")
        return 1.0

    def _log(self, what: str) -> None:
        if not self._logged:
            self._logged = True
            import logging  # noqa: PLC0415  only a broken function needs it

            log = logging.getLogger("hormesis.concurrency_limit")
            log.warning("health function %r %s, and counts as well", self._function, what, exc_info=True)

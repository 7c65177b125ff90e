"""Pattern 6, seen from the client: what a dependency would refuse anyway is not sent.

The machine is in `hormesis.core.throttle`. A circuit breaker asks whether a dependency works; a throttle asks how much
of what it is sent the dependency takes, and sends about that much.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from hormesis.clock import Random, system_random
from hormesis.core.admission import Lock
from hormesis.core.keyed import Keyed
from hormesis.core.slots import Slot
from hormesis.core.throttle import ThrottleMachine, ThrottleTerms
from hormesis.errors import Rejected, Throttled
from hormesis.outcome import ON_ACCEPTED, Ending, FailureKind, FailureTest, On, classify, failure_test, in_words
from hormesis.patterns.keys import BY_ACCEPTED, By, key_of
from hormesis.patterns.part import normalise, number, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Throttle"]

_ON = ("throttled", "unavailable")

_LOCKS = 16
"""Machines by key share so many locks."""

_SAYS_NOTHING = {FailureKind.REJECTED, FailureKind.CONNECT, FailureKind.TIMEOUT}
"""Failures after which nobody knows whether the dependency took the call."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Throttle(Settings):
    """Refuse here a share of the calls that a dependency would refuse, and heed when it wants to be asked again.

    Args:
        ratio: The dependency gets about so many times what it takes. With 2, nothing is refused here as long as it
            takes half of the calls.
        on: Which failures mean that it did not take a call; others count as taken.
        window: How far is looked back.
        minimum_calls: Calls that the window must hold before anything is refused.
        retry_after_max: The most of its `Retry-After` that is heeded; 0 heeds none of it.
        probe_every: After so long, a call is let in whatever came of those before.
        by: What to have an instance for each of: a label of `calling(…)`, such as `"host"`, or a function that makes a
            key of the call's arguments.
        max_keys: Instances that are kept at most; the least recently used go first.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Throttle(by="host").ratio
    2.0
    """

    slot: ClassVar[Slot] = Slot.THROTTLE
    rejection: ClassVar[type[Rejected]] = Throttled

    # The book's: twice what it takes shows within a moment that it takes more, and costs it one refusal per answer.
    ratio: float = 2.0
    # 429 and 503. An error of its own is a call that it took.
    on: On = dataclasses.field(default=_ON, metadata={ACCEPTED: ON_ACCEPTED})
    # Half of it passes before an outage is noticed that came without warning. The book's two minutes are for fleets.
    window: Duration = 10.0
    # A share of fewer is chance.
    minimum_calls: int = 20
    # As with a retry: a dependency may ask for an hour, or for a date that somebody mistyped.
    retry_after_max: Duration = 60.0
    # Whoever is back is found out within a second, for one call a second.
    probe_every: Duration = 1.0
    by: By | None = dataclasses.field(default=None, metadata={ACCEPTED: BY_ACCEPTED})
    # As with a breaker: more hosts at once are a fleet's, at half a kilobyte each.
    max_keys: int = 10_000
    _refused: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole("minimum_calls", self.minimum_calls, 1)
        whole("max_keys", self.max_keys, 1)
        normalise(
            self,
            ratio=number("ratio", self.ratio, 1, 100),
            window=seconds(self.window, "window"),
            retry_after_max=seconds(self.retry_after_max, "retry_after_max", zero=True),
            probe_every=seconds(self.probe_every, "probe_every"),
            _refused=failure_test(self.on),
        )
        key_of(self.by)

    def terms(self) -> ThrottleTerms:
        """What machines go by that these settings describe."""
        return ThrottleTerms(
            ratio=self.ratio,
            window=seconds(self.window),
            minimum_calls=self.minimum_calls,
            retry_after_max=seconds(self.retry_after_max, zero=True),
            probe_every=seconds(self.probe_every),
        )

    def machine(self, lock: Lock, random: Random | None = None) -> ThrottleMachine | Keyed[ThrottleMachine]:
        """Make the machine that these settings describe, or a machine for each key if they have `by`.

        Args:
            lock: A lock of its own.
            random: Draws who is refused; by default seeded by the operating system.
        """
        random = system_random() if random is None else random
        if self.by is None:
            return ThrottleMachine(self.terms(), lock, random)
        return Keyed(_maker(self.terms(), random), self.max_keys, lock=lock, by=self.by)

    def adopt(self, machine: Any) -> bool:
        """Let what another throttle's settings made go on with these; False when its keys are others.

        Args:
            machine: What `machine` of those settings returned.
        """
        terms = self.terms()
        if isinstance(machine, ThrottleMachine) and self.by is None:
            machine.reconfigure(terms)
            return True
        if not isinstance(machine, Keyed) or self.by is None or machine.by != self.by:
            return False
        # In this order: an instance that is made meanwhile is made by the new terms, or found among the others.
        machine.remake(_maker(terms, system_random()), self.max_keys)
        for instance in machine.values():
            instance.reconfigure(terms)
        return True

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this: as a failure if the dependency did not take it."""
        if not isinstance(error, Exception):
            return Ending.CANCELLED
        kind = classify(error)
        if kind is not FailureKind.REJECTED and self._refused(error):
            return Ending.FAILURE
        return Ending.IGNORED if kind in _SAYS_NOTHING else Ending.SUCCESS

    def describe(self) -> str:
        """The settings in words."""
        whose = ""
        if self.by is not None:
            whose = f"; one for each {self.by if isinstance(self.by, str) else 'key'}, {self.max_keys:,} at most"
        heeds = ""
        if self.retry_after_max:
            heeds = (
                f", and when it says when to come back, none before that (at most {self._in_words('retry_after_max')})"
            )
        return (
            f"sends {self.ratio:g} times what it takes ({in_words(self.on)} are not taken), over "
            f"{self._in_words('window')} and from {self.minimum_calls} calls on, and at least one in "
            f"{self._in_words('probe_every')}{heeds}{whose}"
        )

    def _in_words(self, setting: str) -> str:
        return format_seconds(seconds(getattr(self, setting), zero=True))


def _maker(terms: ThrottleTerms, random: Random) -> functools.partial[ThrottleMachine]:
    # Not the lock of `Keyed`, which is held while it asks a machine whether it may be forgotten.
    locks: Iterator[Lock] = itertools.cycle([threading.Lock() for _ in range(_LOCKS)])
    return functools.partial(_make, terms, locks, random)


def _make(terms: ThrottleTerms, locks: Iterator[Lock], random: Random) -> ThrottleMachine:
    return ThrottleMachine(terms, next(locks), random)

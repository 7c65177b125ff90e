"""Pattern 6, limits that adapt to the system's health: what of it is watched, and from where on it is too much.

The machine is in `hormesis.core.health`. What reads the system is `hormesis.inbound.signals.HealthMonitor`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hormesis.core.admission import Lock
from hormesis.core.health import HealthMachine, HealthTerms
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import is_async, normalise, number, share
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["SystemHealth"]

_HEALTH_ACCEPTED = "a synchronous function that returns how well the system is, from 0 to 1"

_IN_WORDS = {
    "cpu": "the processors are above {:.0%}",
    "process_cpu": "the process uses more than {:.3g} processors",
    "cpu_pressure": "work waits for a processor more than {:.0%} of the time",
    "memory": "memory is above {:.0%}",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SystemHealth(Settings):
    """Watch the system, and open less of a limit while it is unwell.

    Args:
        cpu: The share of its processors that may be used: of what the control group of the process may have, or else of
            the machine. None: not watched; so with all of them.
        process_cpu: Processors that this process may use: 0.9 is what a program of one busy thread can't exceed for
            long, for only one thread of an interpreter runs at a time.
        cpu_pressure: The share of the time in which some work waits for a processor (PSI, on Linux).
        memory: The share of memory that may be used: of the limit of the control group, or else of the machine's.
        loop_lag: The mean lag of the event loop; told by `HealthMonitor.lagged`.
        function: A health of one's own: returns how well the system is, from 0 to 1, or None when it doesn't know.
        every: Time between readings; they are made by whoever asks.
        recover_over: The time in which the factor rises from nothing to 1, once all is well.
        forget_after: How long a reading counts.
        factor_min: What the factor is at least.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> SystemHealth(cpu=None, loop_lag="100ms").describe()
    'less while memory is above 90% or the loop lags by more than 100ms, and 10% at least'
    """

    # Whoever waits for an answer does not mind a processor that is busy. The last twentieth is for those who look what
    # is the matter.
    cpu: float | None = 0.95
    # Off: the lag of the loop says the same, and says what it costs.
    process_cpu: float | None = None
    # Off: many short waits are what a busy machine looks like, and harm nobody.
    cpu_pressure: float | None = None
    # The next allocation may be the one that the kernel answers by killing the process.
    memory: float | None = 0.9
    # Off: a load shedder aims at it already.
    loop_lag: Duration | None = None
    function: Callable[[], float | None] | None = dataclasses.field(default=None, metadata={ACCEPTED: _HEALTH_ACCEPTED})
    # Twenty ticks of the kernel's processor clock, so that a share is exact to a twentieth or better.
    every: Duration = 0.5
    # Thirty times as slow as it falls: what is let in again brings load of its own, and memory.
    recover_over: Duration = 30.0
    # Some ten readings that did not come are a reader that is broken.
    forget_after: Duration = 5.0
    # Enough to find out whether it is well again.
    factor_min: float = 0.1

    def __post_init__(self) -> None:
        for key in ("cpu", "cpu_pressure", "memory"):
            if getattr(self, key) is not None:
                normalise(self, **{key: share(key, getattr(self, key))})
        if self.process_cpu is not None:
            normalise(self, process_cpu=number("process_cpu", self.process_cpu, 0.01, 1024))
        if self.loop_lag is not None:
            normalise(self, loop_lag=seconds(self.loop_lag, "loop_lag"))
        _check_function(self.function)
        normalise(
            self,
            every=seconds(self.every, "every"),
            recover_over=seconds(self.recover_over, "recover_over"),
            forget_after=seconds(self.forget_after, "forget_after"),
            factor_min=share("factor_min", self.factor_min),
        )
        if seconds(self.forget_after) <= seconds(self.every):
            accepted = f"more than every ({format_seconds(seconds(self.every))}), or no reading would count"
            raise ConfigurationError.bad_value("forget_after", self.forget_after, accepted)

    def ceilings(self) -> dict[str, float]:
        """What each reading that is watched may be at most."""
        found: dict[str, float] = {}
        for key in _IN_WORDS:
            value = getattr(self, key)
            if value is not None:
                found[key] = value
        if self.loop_lag is not None:
            found["loop_lag"] = seconds(self.loop_lag)
        return found

    def terms(self) -> HealthTerms:
        """What machines go by that these settings describe."""
        return HealthTerms(
            ceilings=self.ceilings(),
            factor_min=self.factor_min,
            relief=0.9,
            recover_over=seconds(self.recover_over),
            forget_after=seconds(self.forget_after),
            step=2 * seconds(self.every),
        )

    def machine(self, lock: Lock, random: object = None) -> HealthMachine:
        """Make the machine that these settings describe.

        Args:
            lock: A lock of its own.
            random: Nothing here is left to chance.
        """
        return HealthMachine(self.terms(), lock)

    def describe(self) -> str:
        """The settings in words."""
        ceilings = self.ceilings()
        parts = [words.format(ceilings[key]) for key, words in _IN_WORDS.items() if key in ceilings]
        if self.loop_lag is not None:
            parts.append(f"the loop lags by more than {format_seconds(seconds(self.loop_lag))}")
        if self.function is not None:
            parts.append("its own function says so")
        if not parts:
            return "nothing is watched"
        return f"less while {' or '.join(parts)}, and {self.factor_min:.0%} at least"


def _check_function(function: object) -> None:
    if function is not None and (not callable(function) or is_async(function)):
        raise ConfigurationError.bad_value("function", function, _HEALTH_ACCEPTED)

"""Pattern 5, load shedding: a service that is offered ten times what it can do goes on doing what it can.

The machine is in `hormesis.core.shedder`: a limit on what is in flight that finds itself, and a bounded queue in which
what matters more goes first. This is what its author can say of it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from hormesis.clock import MONOTONIC
from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.limits import Algorithm, Fixed, QueueDelay
from hormesis.core.shedder import ShedderMachine, ShedderTerms
from hormesis.core.slots import Inbound
from hormesis.errors import ConfigurationError, Overloaded, Rejected
from hormesis.patterns.part import normalise, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["LoadShedder"]

_BY_LATENCY: dict[str, Callable[..., Algorithm]] = {"vegas": Vegas, "gradient2": Gradient2, "aimd": AIMD}
_ALGORITHMS = ("queue delay", *_BY_LATENCY)
_LIMIT_ACCEPTED = f"{', '.join(map(repr, _ALGORITHMS))}, or a whole number from 1"
_WINDOWS = {"queue delay": (0.1, 1)}
_WINDOW_OTHERWISE = (1.0, 10)
"""What an algorithm observes before it moves: seconds, and requests that end. A delay is sampled by the clock, so a
window of it means something when a single request has ended; a mean of latencies does not."""

_QUANTILE_ACCEPTED = "a share of the answers from 0.5 to 0.999"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadShedder(Settings):
    """Let in what can be answered within the objective; let what matters more go first, and turn the rest away.

    Args:
        objective: The time in which an answer counts. It is what the shedder aims at, so it should be what users
            notice, and not what the service does on a good day.
        quantile: The share of the answers that is to be within it.
        limit: How the limit on what is in flight is found: `"queue delay"`, by how long work stands waiting for the
            event loop, a thread or the processor; `"vegas"`, `"gradient2"` or `"aimd"`, by latencies; or a number that
            stays.
        start: What to begin with.
        limit_min, limit_max: Its bounds. While it binds, what matters more finds some more room than the limit, but
            never more than `limit_max`, or than the number that stays.
        max_queued: Requests that may wait.
        max_wait: How long one waits at most; None: a fifth of the time that the objective leaves for queueing.
        shed_max: The largest share of what comes that is turned away, whatever the limit says.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> LoadShedder(objective="400ms").describe()
    'answers within 400ms: a limit found by queue delay, 200 more wait'
    """

    slot: ClassVar[Inbound] = Inbound.LOAD_SHEDDER
    rejection: ClassVar[type[Rejected]] = Overloaded

    # A quarter of a second is when people begin to feel that a page is slow.
    objective: Duration = 0.25
    # What is promised of services, more often than anything else.
    quantile: float = dataclasses.field(default=0.99, metadata={ACCEPTED: _QUANTILE_ACCEPTED})
    # The only signal that means overload and nothing else; docs/load.md has the others, measured side by side.
    limit: int | Literal["queue delay", "vegas", "gradient2", "aimd"] = dataclasses.field(
        default="queue delay", metadata={ACCEPTED: _LIMIT_ACCEPTED}
    )
    # Most services of Python are well below their knee with so many, and it takes them seconds to find a higher one.
    start: int = 20
    # A few always go in, or a service with a broken signal would be shut.
    limit_min: int = 4
    limit_max: int = 10_000
    # More than that could not be answered in time by a service that answers 1,000 a second.
    max_queued: int = 200
    max_wait: Duration | None = None
    # A load fifty times of what a service can do is an attack, and a shedder that turns away more than that is broken.
    shed_max: float = 0.98

    def __post_init__(self) -> None:
        normalise(self, objective=seconds(self.objective, "objective"), quantile=self._checked_quantile())
        if isinstance(self.limit, str):
            if self.limit not in _ALGORITHMS:
                raise ConfigurationError.bad_value("limit", self.limit, _LIMIT_ACCEPTED)
        else:
            whole("limit", self.limit, 1)
        whole("limit_min", self.limit_min, 1)
        whole("limit_max", self.limit_max, self.limit_min)
        whole("start", self.start, self.limit_min, self.limit_max)
        whole("max_queued", self.max_queued, 0, 100_000)
        if self.max_wait is not None:
            normalise(self, max_wait=seconds(self.max_wait, "max_wait"))
        normalise(self, shed_max=share("shed_max", self.shed_max))

    def _checked_quantile(self) -> float:
        value: object = self.quantile
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 0.999:
            raise ConfigurationError.bad_value("quantile", value, _QUANTILE_ACCEPTED)
        return float(value)

    def machine(self, lock: object = None, *, now: float | None = None) -> ShedderMachine:
        """Make the machine that these settings describe.

        Args:
            lock: Not needed; the machine's parts have locks of their own.
            now: The time on the clock that it will be told; that of the machine's own clock by default.
        """
        return ShedderMachine(
            self._terms(), self.algorithm(), now=MONOTONIC.now() if now is None else now, lock=threading.Lock
        )

    def algorithm(self) -> Algorithm:
        """Make what keeps the limit."""
        if not isinstance(self.limit, str):
            return Fixed(self.limit)
        bounds = {"start": self.start, "least": self.limit_min, "most": self.limit_max}
        if self.limit in _BY_LATENCY:
            return _BY_LATENCY[self.limit](**bounds)
        return QueueDelay(**bounds, target=seconds(self.objective))

    def adopt(self, machine: Any) -> bool:
        """Let what another shedder's settings made go on with these: who is in stays in, and who waits waits on.

        Args:
            machine: What `machine` of those settings returned.
        """
        machine.reconfigure(self._terms(), self.algorithm())
        return True

    def _terms(self) -> ShedderTerms:
        window, calls = _WINDOWS.get(str(self.limit), _WINDOW_OTHERWISE)
        return ShedderTerms(
            objective=seconds(self.objective),
            quantile=self.quantile,
            max_queued=self.max_queued,
            max_wait=None if self.max_wait is None else seconds(self.max_wait),
            shed_max=self.shed_max,
            window=window,
            window_calls=calls,
            most=self.limit_max if isinstance(self.limit, str) else self.limit,
        )

    def describe(self) -> str:
        """The settings in words."""
        how = f"a limit found by {self.limit}" if isinstance(self.limit, str) else f"at most {self.limit} in flight"
        queue = f"{self.max_queued} more wait" if self.max_queued else "none wait"
        if self.max_queued and self.max_wait is not None:
            queue += f" up to {format_seconds(seconds(self.max_wait))}"
        return f"answers within {format_seconds(seconds(self.objective))}: {how}, {queue}"

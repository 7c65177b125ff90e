"""Pattern 2, bulkhead: one dependency can't take all of the callers with it.

The machine is in `hormesis.core.bulkhead`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from hormesis.core.admission import Lock
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.slots import Slot
from hormesis.errors import BulkheadFull, Rejected
from hormesis.outcome import Ending
from hormesis.patterns.part import normalise, whole
from hormesis.tables import Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Bulkhead"]


@dataclasses.dataclass(frozen=True, slots=True)
class Bulkhead(Settings):
    """Let a bounded number of calls in at a time, and a bounded number wait for a bounded time.

    Args:
        max_concurrent: Attempts that run at the same time, over all threads and tasks of this process.
        max_queued: Callers that may wait, first come, first served; the next raises `BulkheadFull`.
        max_wait: How long a caller waits at most; its deadline may cut that short.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Bulkhead(20, max_queued=40).max_wait
    1.0
    """

    slot: ClassVar[Slot] = Slot.BULKHEAD
    rejection: ClassVar[type[Rejected]] = BulkheadFull

    max_concurrent: int
    _: dataclasses.KW_ONLY
    # No queue unless asked for: refusing at once is the honest default, since a queue hides an overload as latency.
    max_queued: int = 0
    # A second in our own queue is already an outage to whoever waits.
    max_wait: Duration = 1.0

    def __post_init__(self) -> None:
        whole("max_concurrent", self.max_concurrent, 1)
        whole("max_queued", self.max_queued, 0)
        normalise(self, max_wait=seconds(self.max_wait, "max_wait"))

    def machine(self, lock: Lock) -> BulkheadMachine:
        """Make the machine that these settings describe."""
        return BulkheadMachine(
            max_concurrent=self.max_concurrent,
            max_queued=self.max_queued,
            max_wait=seconds(self.max_wait),
            lock=lock,
        )

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this; a place is free again either way."""
        return Ending.FAILURE if isinstance(error, Exception) else Ending.CANCELLED

    def describe(self) -> str:
        """The settings in words."""
        queue = "none wait"
        if self.max_queued:
            queue = f"{self.max_queued} more wait up to {format_seconds(seconds(self.max_wait))}"
        return f"at most {self.max_concurrent} at a time, {queue}"

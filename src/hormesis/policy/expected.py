"""What the author of a policy expects of its traffic, so that lint can check the settings against it."""

from __future__ import annotations

import dataclasses

from hormesis.patterns.part import normalise
from hormesis.tables import Settings
from hormesis.units import Duration, Rate, per_second, seconds

__all__ = ["Expected"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expected(Settings):
    """The traffic of a policy in calm times.

    Args:
        rate: Calls a second of this process.
        latency: How long the function takes, at the 99th percentile or so.

    Raises:
        ConfigurationError: A value can't be meant.

    >>> Expected(rate="200/s", latency="50ms").concurrency
    10.0
    """

    rate: Rate
    latency: Duration

    def __post_init__(self) -> None:
        normalise(self, rate=per_second(self.rate, "rate"), latency=seconds(self.latency, "latency"))

    @property
    def concurrency(self) -> float:
        """Calls that are inside at the same time, by Little's law."""
        return per_second(self.rate) * seconds(self.latency)

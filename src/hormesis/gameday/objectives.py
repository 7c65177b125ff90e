"""What must hold: limits for a route, and how the limits of phases and stresses change them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.gameday.results import QUANTILES, SHARES, Phase
from hormesis.tables import Settings
from hormesis.units import Duration, Rate, per_second, seconds

__all__ = ["Limits", "Objective"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Settings):
    """What must hold for a route.

    Attributes:
        success: Least share of full answers.
        answered: Least share of answers, full or degraded.
        honest: Least share of honest endings: answered, or declined by a 429 or 503 that says when to come back.
        throughput: Least full answers a second, as a number or like `"50/s"`.
        p50, p99: Longest latency at that quantile, failures included: the time a caller waits for whatever comes.
    """

    success: float | None = None
    answered: float | None = None
    honest: float | None = None
    throughput: Rate | None = None
    p50: Duration | None = None
    p99: Duration | None = None

    def __post_init__(self) -> None:
        for name in SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigurationError.bad_value(name, value, "a share from 0 to 1")
        if self.throughput is not None:
            object.__setattr__(self, "throughput", per_second(self.throughput, "throughput"))
        for name in QUANTILES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, seconds(value, name))

    def under(self, other: Limits | None) -> Limits:
        """Return these limits with those that `other` sets in their place."""
        if other is None:
            return self
        mine, others = self.limits(), other.limits()
        return Limits(**{**mine, **others})

    def limits(self) -> dict[str, Any]:
        """The limits that are set."""
        names = (field.name for field in dataclasses.fields(Limits))
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Objective(Limits):
    """`[objective.ROUTE]`: what must hold in calm, contained and recovered, with changes for single phases.

    Nothing is asked of detection and recovering unless their own tables say so.
    """

    calm: Limits | None = None
    detection: Limits | None = None
    contained: Limits | None = None
    recovering: Limits | None = None
    recovered: Limits | None = None

    def __post_init__(self) -> None:
        Limits.__post_init__(self)

    def at(self, phase: Phase) -> Limits:
        """Return what must hold in a phase."""
        special: Limits | None = getattr(self, phase.value)
        asked_by_default = phase not in (Phase.DETECTION, Phase.RECOVERING)
        return (Limits(**self.limits()) if asked_by_default else Limits()).under(special)

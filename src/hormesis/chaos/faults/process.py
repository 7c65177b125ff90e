"""Faults of a process, as values: what is done to it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hormesis.chaos.faults.checks import check_true, is_number
from hormesis.errors import ConfigurationError

__all__ = ["Kill", "Pause", "ProcessFault", "Throttle"]


@dataclass(frozen=True, slots=True)
class Kill:
    """The process and all it started die at once, without a chance to clean up (SIGKILL)."""

    kill: bool = True

    def __post_init__(self) -> None:
        check_true("kill", self.kill)

    def __str__(self) -> str:
        return "killed"


@dataclass(frozen=True, slots=True)
class Pause:
    """The process freezes (SIGSTOP): its port accepts and nobody answers, as on an overcommitted host."""

    pause: bool = True

    def __post_init__(self) -> None:
        check_true("pause", self.pause)

    def __str__(self) -> str:
        return "paused"


@dataclass(frozen=True, slots=True)
class Throttle:
    """The process runs only this share of the time, as under a CPU quota or beside a greedy neighbour.

    It is frozen and thawed in turn (SIGSTOP, SIGCONT), ten times a second or, with a share below a tenth, for ten
    milliseconds at a time; between two pauses it is as fast as ever.
    """

    throttle: float

    def __post_init__(self) -> None:
        if not is_number(self.throttle) or not 0 < self.throttle < 1:
            raise ConfigurationError.bad_value("throttle", self.throttle, "the share of its time, above 0 and below 1")
        object.__setattr__(self, "throttle", float(self.throttle))

    def __str__(self) -> str:
        return f"throttled to {100 * self.throttle:.3g} %"


ProcessFault: TypeAlias = Kill | Pause | Throttle

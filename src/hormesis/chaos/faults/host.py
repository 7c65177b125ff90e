"""Faults of the machine that everything runs on, as values.

They hurt whatever runs beside them, the load generator too: a report says how much it lagged.
"""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from hormesis.chaos.faults.checks import check_true, is_number, is_whole
from hormesis.chaos.faults.process import format_bytes
from hormesis.errors import ConfigurationError
from hormesis.units import Size, bytes_of

__all__ = ["CpuBurn", "DiskFull", "HostFault", "MemoryHog"]

_WORKERS_MAX = 256
_MEMORY_SHARE_MAX = 0.9
_DISK_LEAST = 1_000_000
_DISK_MOST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CpuBurn:
    """Greedy neighbours: workers that do nothing but use the processors.

    Args:
        cpu: How many; as many as there are processors leave everybody half.
        load: The share of a processor that each of them uses.
    """

    cpu: int
    _: KW_ONLY
    load: float = 1.0

    def __post_init__(self) -> None:
        if not is_whole(self.cpu) or not 0 < self.cpu <= _WORKERS_MAX:
            accepted = f"a number of workers from 1 to {_WORKERS_MAX}; this machine has {os.cpu_count()} processors"
            raise ConfigurationError.bad_value("cpu", self.cpu, accepted)
        if not is_number(self.load) or not 0.01 <= self.load <= 1:
            raise ConfigurationError.bad_value("load", self.load, "a share of a processor from 0.01 to 1")
        object.__setattr__(self, "load", float(self.load))

    def __str__(self) -> str:
        each = f" at {100 * self.load:.3g} %" if self.load < 1 else ""
        return f"CPU burnt by {self.cpu} worker{'s' if self.cpu > 1 else ''}{each}"


@dataclass(frozen=True, slots=True)
class MemoryHog:
    """A neighbour takes this share of the memory that is free when the dose begins, and holds it.

    It stops before less than a tenth of the machine's memory is left, and is the first that the kernel would kill.
    """

    memory: float

    def __post_init__(self) -> None:
        if not is_number(self.memory) or not 0 < self.memory <= _MEMORY_SHARE_MAX:
            accepted = f"a share of the free memory above 0, up to {_MEMORY_SHARE_MAX}"
            raise ConfigurationError.bad_value("memory", self.memory, accepted)
        object.__setattr__(self, "memory", float(self.memory))

    def __str__(self) -> str:
        return f"{100 * self.memory:.3g} % of free memory taken"


@dataclass(frozen=True, slots=True)
class DiskFull:
    """The disk on which `{dir}` is has no room left: writing fails with ENOSPC, reading goes on.

    It is a disk of its own (a tmpfs, as root), there from before the processes start; what is done to it hurts nobody
    else.

    Args:
        disk_full: Only true.
        size: How large the disk is.
    """

    disk_full: bool = True
    _: KW_ONLY
    size: Size = 64_000_000

    def __post_init__(self) -> None:
        check_true("disk_full", self.disk_full)
        object.__setattr__(self, "size", bytes_of(self.size, "size", least=_DISK_LEAST, most=_DISK_MOST))

    def __str__(self) -> str:
        return f"disk of {format_bytes(bytes_of(self.size))} full"


HostFault: TypeAlias = CpuBurn | MemoryHog | DiskFull
"""What a machine may be dosed with."""

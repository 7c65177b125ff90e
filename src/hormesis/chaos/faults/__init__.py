"""The faults a game day can dose, as values.

A fault says *what* goes wrong, never where or when: that is the stress's business. Faults on the wire are put into
force by a `FaultProxy`, faults of a process by a `Process`, the load fault by the load generator. Each is one table in
a file, and one of its keys names it:

    fault = { latency = "2s", jitter = "500ms" }
    fault = { reset = "answer", share = 0.3 }

Each fault is a failure that production knows and that a caller sees differently from all the others: a slow network, a
thin one, a partition, a dead port, a connection broken in the middle, a wrong answer, a crash, a freeze, too small a
share of the processor, a rush of everybody or of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeAlias, get_args

from hormesis.chaos.faults.host import CpuBurn, DiskFull, HostFault, MemoryHog
from hormesis.chaos.faults.http import Rewrite, Status, Truncate
from hormesis.chaos.faults.inside import Inject
from hormesis.chaos.faults.load import LoadFault, Spike
from hormesis.chaos.faults.process import (
    Clock,
    CpuQuota,
    CrashLoop,
    FilesLeft,
    Kill,
    Link,
    MemoryLeft,
    Pause,
    PortLoss,
    ProcessFault,
    Reject,
    Restart,
    Throttle,
    Unplug,
)
from hormesis.chaos.faults.wire import (
    Bandwidth,
    BlackHole,
    Corrupt,
    Latency,
    LimitData,
    Loss,
    Refuse,
    Reset,
    ResetAt,
    ResetPeer,
    Slicer,
    SlowClose,
    Stream,
    Timeout,
)
from hormesis.errors import ConfigurationError

__all__ = [
    "Bandwidth",
    "BlackHole",
    "Clock",
    "Corrupt",
    "CpuBurn",
    "CpuQuota",
    "CrashLoop",
    "DiskFull",
    "Fault",
    "FilesLeft",
    "HostFault",
    "Inject",
    "Kill",
    "Latency",
    "LimitData",
    "Link",
    "LoadFault",
    "Loss",
    "MemoryHog",
    "MemoryLeft",
    "Pause",
    "PortLoss",
    "ProcessFault",
    "Refuse",
    "Reject",
    "Reset",
    "ResetAt",
    "ResetPeer",
    "Restart",
    "Rewrite",
    "Slicer",
    "SlowClose",
    "Spike",
    "Status",
    "Stream",
    "Throttle",
    "Timeout",
    "Truncate",
    "Unplug",
    "WireFault",
    "describe",
    "fault_from",
]

WireFault: TypeAlias = (
    Latency
    | Bandwidth
    | BlackHole
    | Refuse
    | Reset
    | ResetPeer
    | Timeout
    | SlowClose
    | Slicer
    | LimitData
    | Corrupt
    | Loss
    | Status
    | Truncate
    | Rewrite
)
"""What an edge may be dosed with."""

Fault: TypeAlias = WireFault | ProcessFault | HostFault | LoadFault
"""What a dose may be: of an edge, a process, the machine or the load."""


def _key(kind: type[Fault]) -> str:
    """The one setting that may be given without its name: it names the fault."""
    return next(field.name for field in fields(kind) if not field.kw_only)


_KINDS: dict[str, type[Fault]] = {_key(kind): kind for kind in get_args(Fault)}


def fault_from(table: Mapping[str, object]) -> Fault:
    """Make a fault from a table of a file: one key says which fault, the others are its settings.

    >>> fault_from({"latency": "2s", "jitter": "500ms"})
    Latency(2.0, jitter=0.5)

    Raises:
        ConfigurationError: No fault is named, or more than one; a setting is not this fault's, or can't be meant.
    """
    shown = f"fault {dict(table)!r}"
    named = [key for key in table if key in _KINDS]
    if len(named) > 1:
        raise ConfigurationError(f"{shown} mixes {' and '.join(named)}; a stress doses one fault at a time", "fault")
    if not table:
        raise ConfigurationError(f"{shown} is empty; known are: {', '.join(_KINDS)}", "fault")
    if not named:
        settings = {field.name for kind in _KINDS.values() for field in fields(kind)}
        stranger = next((key for key in table if key not in settings), next(iter(table)))
        unknown = ConfigurationError.unknown("fault", stranger, _KINDS)
        raise ConfigurationError(f"{shown}: {unknown}", stranger)
    kind = _KINDS[named[0]]
    first = named[0]
    known = sorted((field.name for field in fields(kind)), key=lambda name: name != first)
    for key in table:
        if key not in known:
            unknown = ConfigurationError.unknown(f"setting of the fault {named[0]!r}", key, known)
            raise ConfigurationError(f"{shown}: {unknown}", key)
    rest = {key: value for key, value in table.items() if key != first}
    try:
        return kind(table[first], **rest)  # type: ignore[arg-type]  # each class checks its own values
    except ConfigurationError as error:
        raise ConfigurationError(f"{shown}: {error}", error.key) from None


def describe(fault: Fault) -> str:
    """Say a fault in plain words.

    >>> describe(Latency("2s", jitter="500ms"))
    'latency 2s ± 500ms'
    >>> describe(Reset(share=0.3))
    'resets 30 % of answers'
    >>> describe(Spike(20, request="report"))
    'report x20'
    """
    return str(fault)

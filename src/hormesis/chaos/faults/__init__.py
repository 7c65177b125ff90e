"""The faults a game day can dose, as values.

A fault says *what* goes wrong, never where or when: that is the stress's business. Faults on the wire are put into
force by a `FaultProxy`, faults of a process by a `Process`, the load fault by the load generator. Each is one table in
a file, and one of its keys names it:

    fault = { latency = "2s", jitter = "500ms" }
    fault = { reset = "answer", share = 0.3 }

The set is small on purpose: each fault is a failure that production knows and that a caller sees differently from all
the others. A slow network, a thin one, a partition, a dead port, a connection broken in the middle, a crash, a freeze,
too small a share of the processor, a rush of everybody or of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeAlias, get_args

from hormesis.chaos.faults.load import LoadFault, Spike
from hormesis.chaos.faults.process import Kill, Pause, ProcessFault, Throttle
from hormesis.chaos.faults.wire import Bandwidth, BlackHole, Latency, Refuse, Reset, ResetAt, Stream, WireFault
from hormesis.errors import ConfigurationError

__all__ = [
    "Bandwidth",
    "BlackHole",
    "Fault",
    "Kill",
    "Latency",
    "LoadFault",
    "Pause",
    "ProcessFault",
    "Refuse",
    "Reset",
    "ResetAt",
    "Spike",
    "Stream",
    "Throttle",
    "WireFault",
    "describe",
    "fault_from",
]

Fault: TypeAlias = WireFault | ProcessFault | LoadFault

_KINDS: dict[str, type[Fault]] = {fields(kind)[0].name: kind for kind in get_args(Fault)}


def fault_from(table: Mapping[str, object]) -> Fault:
    """Make a fault from a table of a file: one key says which fault, the others are its settings.

    >>> fault_from({"latency": "2s", "jitter": "500ms"})
    Latency(latency=2.0, jitter=0.5, stream='downstream', share=1.0)

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
    known = [field.name for field in fields(kind)]
    for key in table:
        if key not in known:
            unknown = ConfigurationError.unknown(f"setting of the fault {named[0]!r}", key, known)
            raise ConfigurationError(f"{shown}: {unknown}", key)
    first, *_ = known
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

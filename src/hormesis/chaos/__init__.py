"""Chaos: faults as values, and what puts them into force on a real system.

`FaultProxy` stands on an edge between two services and delays, thins, holds, refuses or breaks connections. `Process`
runs a service and kills, freezes or throttles it. `Keeper` makes sure that nothing of it outlives the runner.
"""

from hormesis.chaos.faults import (
    Bandwidth,
    BlackHole,
    Corrupt,
    Fault,
    Kill,
    Latency,
    LimitData,
    LoadFault,
    Loss,
    Pause,
    ProcessFault,
    Refuse,
    Reset,
    ResetPeer,
    Rewrite,
    Slicer,
    SlowClose,
    Spike,
    Status,
    Throttle,
    Timeout,
    Truncate,
    WireFault,
    describe,
    fault_from,
)
from hormesis.chaos.keeper import Keeper
from hormesis.chaos.processes import Process, ProcessFailed, ProcessSettings, check_port_free, free_port
from hormesis.chaos.wire import FaultProxy

__all__ = [
    "Bandwidth",
    "BlackHole",
    "Corrupt",
    "Fault",
    "FaultProxy",
    "Keeper",
    "Kill",
    "Latency",
    "LimitData",
    "LoadFault",
    "Loss",
    "Pause",
    "Process",
    "ProcessFailed",
    "ProcessFault",
    "ProcessSettings",
    "Refuse",
    "Reset",
    "ResetPeer",
    "Rewrite",
    "Slicer",
    "SlowClose",
    "Spike",
    "Status",
    "Throttle",
    "Timeout",
    "Truncate",
    "WireFault",
    "check_port_free",
    "describe",
    "fault_from",
    "free_port",
]

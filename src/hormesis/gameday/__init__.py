"""Game days: stress a real system of real processes, and see which failure modes it survives.

`experiment` is the file, or the same built in code; its tables are in `topology`, `load`, `objectives`, `dose` and
`stress`, `probes`, `bounds`. `system` is the processes and proxies of one arm; `runner` the course of events, and
`course` that of one arm under one stress. `verdict` is the arithmetic from samples to objectives held or missed,
`intervals` how sure it is, `acted` what the policies' own events tell, and `report` what people read.

What is imported from here comes when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hormesis.gameday.bounds import Abort, BlastRadius, Budget, Burn
    from hormesis.gameday.dose import Dose
    from hormesis.gameday.experiment import Experiment, Run, load_experiment
    from hormesis.gameday.face import hold_gameday, run_gameday
    from hormesis.gameday.junit import as_junit
    from hormesis.gameday.load import Bursts, Client, Load, LoadChanges, RequestTable, RetryTable
    from hormesis.gameday.metastability import Hysteresis, Metastability
    from hormesis.gameday.objectives import Limits, Objective
    from hormesis.gameday.observing import Observer
    from hormesis.gameday.probes import Invariant, Probe
    from hormesis.gameday.results import Check, GameDay, Outcome, Phase, ProbeResult, StressResult, Verdict
    from hormesis.gameday.stress import Stress
    from hormesis.gameday.topology import Arm, Edge, ProcessTable, System

__all__ = [
    "Abort",
    "Arm",
    "BlastRadius",
    "Budget",
    "Burn",
    "Bursts",
    "Check",
    "Client",
    "Dose",
    "Edge",
    "Experiment",
    "GameDay",
    "Hysteresis",
    "Invariant",
    "Limits",
    "Load",
    "LoadChanges",
    "Metastability",
    "Objective",
    "Observer",
    "Outcome",
    "Phase",
    "Probe",
    "ProbeResult",
    "ProcessTable",
    "RequestTable",
    "RetryTable",
    "Run",
    "Stress",
    "StressResult",
    "System",
    "Verdict",
    "as_junit",
    "hold_gameday",
    "load_experiment",
    "run_gameday",
]

_ROOMS = {
    "bounds": ("Abort", "BlastRadius", "Budget", "Burn"),
    "dose": ("Dose",),
    "experiment": ("Experiment", "Run", "load_experiment"),
    "face": ("hold_gameday", "run_gameday"),
    "junit": ("as_junit",),
    "load": ("Bursts", "Client", "Load", "LoadChanges", "RequestTable", "RetryTable"),
    "metastability": ("Hysteresis", "Metastability"),
    "objectives": ("Limits", "Objective"),
    "observing": ("Observer",),
    "probes": ("Invariant", "Probe"),
    "results": ("Check", "GameDay", "Outcome", "Phase", "ProbeResult", "StressResult", "Verdict"),
    "stress": ("Stress",),
    "topology": ("Arm", "Edge", "ProcessTable", "System"),
}
_ROOM = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOM[name]}"), name)


def __dir__() -> list[str]:
    return __all__

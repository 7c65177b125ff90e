"""Seeing what policies do: metrics, traces and logs, each a listener that is started by hand.

`opentelemetry`, `prometheus` and `logs` each have an `instrument` that returns what stops it. A backend, and the
library that it needs, is imported when it is first asked for: importing hormesis must not pay for what most
processes don't use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hormesis.telemetry.recorder import EVENTS_VARIABLE, record_events

if TYPE_CHECKING:
    from hormesis.telemetry import logs, opentelemetry, prometheus

__all__ = ["EVENTS_VARIABLE", "logs", "opentelemetry", "prometheus", "record_events"]

_BACKENDS = frozenset({"logs", "opentelemetry", "prometheus"})


def __getattr__(name: str) -> Any:
    if name in _BACKENDS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_BACKENDS})

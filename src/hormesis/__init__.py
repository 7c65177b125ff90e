"""Hormesis makes distributed services resilient, proves it under stress, and learns from the stress.

A `Policy` puts resilience patterns around any call, in the right order:

>>> import hormesis as hm
>>> inventory = hm.Policy(
...     hm.Fallback(value=0),
...     hm.Deadline("2s"),
...     hm.Retry(attempts=3, on="transient"),
...     hm.CircuitBreaker(failure_rate=0.5),
...     hm.Bulkhead(20, max_queued=40),
...     name="inventory",
... )
>>> @inventory
... def stock(sku: str) -> int:
...     return 3
>>> stock("tea")
3

The same policies come from a file (`hm.load("policies.toml")`), and `hormesis gameday FILE` stresses a real system to
show what it survives.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hormesis.context import answers, calling, check_deadline, criticality, deadline, remaining, request_id, serving
from hormesis.errors import (
    BulkheadFull,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    HormesisError,
    InjectedFault,
    MissingExtraError,
    Overloaded,
    RateLimited,
    Rejected,
    Throttled,
    TimedOut,
    WorkerCrashed,
    WorkerError,
)
from hormesis.events import Event, listen
from hormesis.outbound import failures as _failures  # noqa: F401  tells what kinds of failure httpx's exceptions are
from hormesis.outcome import FailureKind, UnwantedResult, classify, register_failures
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.cache import StaleCache
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.call import Opened
from hormesis.policy.expected import Expected
from hormesis.policy.policy import Policy
from hormesis.policy.registry import Registry
from hormesis.priority import Criticality
from hormesis.version import __version__ as __version__

if TYPE_CHECKING:
    from hormesis import flow, inbound, telemetry
    from hormesis.inbound import asgi, wsgi
    from hormesis.inbound.classification import Rule
    from hormesis.inbound.drain import Drain
    from hormesis.inbound.service import Service, ServiceSettings
    from hormesis.outbound.pools import ConnectionPools
    from hormesis.patterns.chaos import Chaos
    from hormesis.patterns.chaos_switch import ChaosSwitch, chaos_switch
    from hormesis.patterns.concurrency_limit import ConcurrencyLimit
    from hormesis.patterns.degradation import Degradation, DegradationSettings
    from hormesis.patterns.injection import Injection, injected
    from hormesis.patterns.load_shedder import LoadShedder
    from hormesis.patterns.rate_limit import RateLimit
    from hormesis.patterns.system_health import SystemHealth
    from hormesis.patterns.throttle import Throttle
    from hormesis.policy.files import Policies, load

__all__ = [
    "Bulkhead",
    "BulkheadFull",
    "Chaos",
    "ChaosSwitch",
    "CircuitBreaker",
    "CircuitOpen",
    "ConcurrencyLimit",
    "ConfigurationError",
    "ConnectionPools",
    "Criticality",
    "Deadline",
    "DeadlineExceeded",
    "Degradation",
    "DegradationSettings",
    "Drain",
    "Event",
    "Expected",
    "FailureKind",
    "Fallback",
    "Hedge",
    "HormesisError",
    "InjectedFault",
    "Injection",
    "LoadShedder",
    "MissingExtraError",
    "Opened",
    "Overloaded",
    "Policies",
    "Policy",
    "RateLimit",
    "RateLimited",
    "Registry",
    "Rejected",
    "Retry",
    "Rule",
    "Service",
    "ServiceSettings",
    "StaleCache",
    "SystemHealth",
    "Throttle",
    "Throttled",
    "TimedOut",
    "Timeout",
    "UnwantedResult",
    "WorkerCrashed",
    "WorkerError",
    "answers",
    "asgi",
    "calling",
    "chaos_switch",
    "check_deadline",
    "classify",
    "criticality",
    "deadline",
    "flow",
    "inbound",
    "injected",
    "listen",
    "load",
    "register_failures",
    "remaining",
    "request_id",
    "serving",
    "telemetry",
    "wsgi",
]

_WHEN_ASKED_FOR = {
    "Chaos": "hormesis.patterns.chaos",
    "ChaosSwitch": "hormesis.patterns.chaos_switch",
    "ConcurrencyLimit": "hormesis.patterns.concurrency_limit",
    "ConnectionPools": "hormesis.outbound.pools",
    "Degradation": "hormesis.patterns.degradation",
    "DegradationSettings": "hormesis.patterns.degradation",
    "Drain": "hormesis.inbound.drain",
    "Injection": "hormesis.patterns.injection",
    "LoadShedder": "hormesis.patterns.load_shedder",
    "Policies": "hormesis.policy.files",
    "RateLimit": "hormesis.patterns.rate_limit",
    "Rule": "hormesis.inbound.classification",
    "Service": "hormesis.inbound.service",
    "ServiceSettings": "hormesis.inbound.service",
    "SystemHealth": "hormesis.patterns.system_health",
    "Throttle": "hormesis.patterns.throttle",
    "chaos_switch": "hormesis.patterns.chaos_switch",
    "injected": "hormesis.patterns.injection",
    "load": "hormesis.policy.files",
}
"""Names that policies in code do without, and where they are: importing hormesis must not pay for them."""


_ROOMS = {
    "asgi": "hormesis.inbound.asgi",
    "flow": "hormesis.flow",
    "inbound": "hormesis.inbound",
    "telemetry": "hormesis.telemetry",
    "wsgi": "hormesis.inbound.wsgi",
}
"""Rooms of their own."""

_WITH_TABLES = ("hormesis.outbound.pools", "hormesis.inbound.service")
"""Rooms that have tables in policy files."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        room = globals()[name] = importlib.import_module(_ROOMS[name])
        return room
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Policies", "load"):
        for tables in _WITH_TABLES:
            importlib.import_module(tables)
    found = getattr(importlib.import_module(_WHEN_ASKED_FOR[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

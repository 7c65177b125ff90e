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

from hormesis import telemetry
from hormesis.context import check_deadline, deadline, remaining
from hormesis.errors import (
    BulkheadFull,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    HormesisError,
    MissingExtraError,
    Rejected,
    TimedOut,
)
from hormesis.events import Event, listen
from hormesis.outbound import failures as _failures  # noqa: F401  tells what kinds of failure httpx's exceptions are
from hormesis.outcome import FailureKind, classify, register_failures
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.files import Policies, load
from hormesis.policy.policy import Policy
from hormesis.policy.registry import Registry
from hormesis.version import __version__ as __version__

__all__ = [
    "Bulkhead",
    "BulkheadFull",
    "CircuitBreaker",
    "CircuitOpen",
    "ConfigurationError",
    "Deadline",
    "DeadlineExceeded",
    "Event",
    "FailureKind",
    "Fallback",
    "HormesisError",
    "MissingExtraError",
    "Policies",
    "Policy",
    "Registry",
    "Rejected",
    "Retry",
    "TimedOut",
    "Timeout",
    "check_deadline",
    "classify",
    "deadline",
    "listen",
    "load",
    "register_failures",
    "remaining",
    "telemetry",
]

"""What can go wrong, split by who has to act.

`ConfigurationError` is the author's: a setting that can't be meant. `Rejected` is the policy's own refusal, before the
protected function was touched; it says who refused and when to come back. `TimedOut` says that an answer did not come
in the time it had. Everything else that leaves a policy is the dependency's own exception, unchanged.

Every error pickles: workers, task queues and test runners send them between processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

__all__ = [
    "BulkheadFull",
    "CircuitOpen",
    "ConfigurationError",
    "DeadlineExceeded",
    "HormesisError",
    "InjectedFault",
    "MissingExtraError",
    "Overloaded",
    "RateLimited",
    "Rejected",
    "Throttled",
    "TimedOut",
    "WorkerCrashed",
    "WorkerError",
]


class HormesisError(Exception):
    """The root of every error that Hormesis itself raises."""


class ConfigurationError(HormesisError, ValueError):
    """A setting that can't be meant: the message shows the value and what would do.

    Args:
        message: The whole sentence.
        key: The setting, dotted where it is nested (`retry.attempts`); empty when the message says it all.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message, key)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return self.message

    @classmethod
    def bad_value(cls, key: str, value: object, accepted: str) -> ConfigurationError:
        """Name a setting, the value it was given and what would be accepted.

        >>> print(ConfigurationError.bad_value("attempts", 0, "a whole number from 1"))
        attempts is 0; it takes a whole number from 1
        """
        return cls(f"{key} is {value!r}; it takes {accepted}", key)

    @classmethod
    def unknown(cls, what: str, name: object, accepted: Iterable[str], key: str = "") -> ConfigurationError:
        """Name something unknown, the nearest thing that is known, and all that is known.

        >>> print(ConfigurationError.unknown("fault", "latncy", ["latency", "reset"]))
        unknown fault 'latncy' (did you mean 'latency'?); known are: latency, reset
        """
        import difflib  # noqa: PLC0415  only a mistake needs it

        known = list(accepted)
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return cls(f"unknown {what} {name!r}{hint}; known are: {', '.join(known) or 'none'}", key)


class MissingExtraError(HormesisError, ImportError):
    """A library that an optional part needs is not installed; the message names the extra that brings it."""

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(part, extra)
        self.part = part
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.part} needs the extra {self.extra!r}: pip install 'hormesis[{self.extra}]'"


class Rejected(HormesisError):
    """The policy refused the call before the protected function was touched.

    A rejection says nothing of the dependency's health: circuit breakers ignore it and retries don't repeat it.

    Args:
        policy: The name of the policy that refused.
        reason: Why, in a word or two ("open", "queue full"); stable, so that it can be a metric's label.
        retry_after: Seconds until it makes sense to come back; None when nobody knows.
    """

    # Being refused must cost next to nothing, and an __init__ of its own is half of what raising an exception costs. So
    # what it was given stays where BaseException keeps it, and is read from there.
    if TYPE_CHECKING:

        def __init__(self, policy: str, reason: str, retry_after: float | None = None) -> None: ...

    @property
    def policy(self) -> str:
        """The name of the policy that refused."""
        return str(self.args[0])

    @property
    def reason(self) -> str:
        """Why, in a word or two."""
        return str(self.args[1])

    @property
    def retry_after(self) -> float | None:
        """Seconds until it makes sense to come back, if anybody knows."""
        return self.args[2] if len(self.args) > 2 else None

    def __str__(self) -> str:
        again = "" if self.retry_after is None else f"; try again in {self.retry_after:.3g} s"
        return f"policy {self.policy!r} refused the call: {self.reason}{again}"


class CircuitOpen(Rejected):
    """The circuit breaker is open, isolated, or has no probe to spare while it is half-open."""


class BulkheadFull(Rejected):
    """All permits of the bulkhead are taken and its queue is full, or a wait in its queue came to nothing."""


class RateLimited(Rejected):
    """A rate limit is used up for now; what it would take to go in comes back with time alone."""


class Throttled(Rejected):
    """The dependency has been refusing calls, so this one was not sent at all."""


class Overloaded(Rejected):
    """A concurrency limit or a load shedder has no room for the call, or none for one of its priority."""


class TimedOut(HormesisError, TimeoutError):
    """An attempt did not answer within its timeout.

    Args:
        policy: The name of the policy whose timeout it was.
        limit: The seconds it had.
    """

    # OSError takes two arguments for a number and a text of the system; here they are neither.
    errno: int | None = None
    strerror: str | None = None

    def __init__(self, policy: str, limit: float) -> None:
        super().__init__(policy, limit)
        self.policy = policy
        self.limit = limit

    def __str__(self) -> str:
        return f"policy {self.policy!r}: no answer within the timeout of {self.limit:g} s"


class DeadlineExceeded(TimedOut):
    """The call's total deadline has passed, or was too near to begin (again)."""

    def __str__(self) -> str:
        return f"policy {self.policy!r}: the deadline has passed ({self.limit:g} s were left for it)"


class InjectedFault(HormesisError):
    """A failure that a `Chaos` part has injected, where no exception of a library's own would say the same.

    Args:
        policy: The name of the policy or service that it was injected into.
        kind: What kind of failure it stands for, such as "throttled".
        status: The status that it stands for; None where it stands for none.
        retry_after: Seconds after which the failure asks to be tried again, if it does.
    """

    def __init__(
        self, policy: str, kind: str = "error", status: int | str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(policy, kind, status, retry_after)
        self.policy = policy
        self.kind = kind
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        what = f"a failure of the kind {self.kind!r}" if self.status is None else f"the status {self.status}"
        return f"{what} was injected into {self.policy!r}"


class WorkerCrashed(HormesisError):
    """The worker process of a call ended in the middle of it; what the call has done by then nobody knows.

    Args:
        policy: The name of the policy.
        reason: How the process ended, such as "killed by SIGSEGV" or "exited with status 3".
    """

    def __init__(self, policy: str, reason: str) -> None:
        super().__init__(policy, reason)
        self.policy = policy
        self.reason = reason

    def __str__(self) -> str:
        return f"policy {self.policy!r}: the worker process of the call {self.reason}"


class WorkerError(HormesisError):
    """A function failed in a worker process with an exception that can't be sent between processes.

    Args:
        policy: The name of the policy.
        error: The exception and where it was raised, in words.
    """

    def __init__(self, policy: str, error: str) -> None:
        super().__init__(policy, error)
        self.policy = policy
        self.error = error

    def __str__(self) -> str:
        return f"policy {self.policy!r}: the function raised what can't be sent between processes: {self.error}"

"""What the integrations of HTTP clients share: a request on its way through a policy, and the answer until it was read.

**A request is opened.** Its attempts end when the head of an answer has come; its permits live on until the body was
read to its end, was closed, or broke off. Nothing is repeated once the head was handed out.

**An answer can be a failure.** A status that speaks of the server (408, 429, 5xx) travels through the policy as an
`UnwantedResult`, so that breaker, retry and fallback see it. When there is nothing better the caller gets it, with its
body, as the library would have handed it out. One that another attempt takes the place of is let go, once that attempt
was let in: what is small and comes at once is read, so that its connection can be used again; else the connection is
closed.

**Repeating** takes a method that may be repeated, and a body that can be sent again. A POST or PATCH may when it has an
`Idempotency-Key`, with which the server recognises the second one, or when the policy's `Retry` says so by
`unsafe_methods`. What may not be repeated is sent once, whatever the failure.

**Time.** What is left of an attempt goes out in the headers, and the timeouts of synchronous libraries are cut to it. A
`Timeout` ends with the head. A `Deadline` is for the whole call, and so for the body too: a stream that flows for as
long as it likes belongs under a policy without one.

**Forgotten answers.** When an answer that was neither read nor closed is collected as garbage, its permits end as
cancelled: nobody knows how it went. The collector may come at any moment, also while a lock is held that an ending
takes. So it only leaves word, and the next call that comes or ends through the same client acts on it.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Generic, NoReturn, TypeVar, cast

from hormesis.clock import MONOTONIC
from hormesis.context import (
    CallFacts,
    TravellingDeadline,
    calling,
    criticality,
    current_deadline,
    left,
    remaining,
    request_id,
)
from hormesis.errors import ConfigurationError, DeadlineExceeded
from hormesis.headers import DEADLINE, Headers, deadline_headers, request_id_headers, retry_after_of

# For what it registers, too.
from hormesis.outbound import http_failures as _http_failures  # noqa: F401
from hormesis.outbound.failures import kind_of_status
from hormesis.outcome import FailureKind, UnwantedResult, classify
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.injection import FAULT_HEADER
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline
from hormesis.policy.call import Opened
from hormesis.policy.injecting import handed_on
from hormesis.policy.policy import Policy
from hormesis.priority import priority_headers
from hormesis.units import seconds

__all__ = ["SMALL", "Guard", "Patience", "Reading", "Trip", "host_label"]

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, section 9.2.2."""

IDEMPOTENCY_KEY = "idempotency-key"
"""draft-ietf-httpapi-idempotency-key-header."""

SMALL = 65_536
"""Bytes of an unwanted answer that are read so that its connection can be used again; a new connection costs less than
reading more."""

_AT_ONCE = 0.2
"""Seconds that this may take."""

_SLACK = 0.005
"""Seconds by which the timer of a library may go off before ours."""

_LEAST = 0.001
"""The shortest timeout that is handed to a library: to many of them zero means none."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

ResponseT = TypeVar("ResponseT")


def host_label(scheme: str, host: str, port: int | None) -> str:
    """Return what a host is called: its name, and its port unless that is the scheme's own.

    >>> host_label("https", "api.example", 443), host_label("http", "::1", 8080)
    ('api.example', '[::1]:8080')
    """
    name = f"[{host}]" if ":" in host else host
    return name if port is None or port == _DEFAULT_PORTS.get(scheme) else f"{name}:{port}"


class Patience:
    """The time in which an unwanted answer may be read to its end."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = MONOTONIC.now() + _AT_ONCE

    def left(self) -> float:
        """Seconds that are left; negative when it is over."""
        return self._ends - MONOTONIC.now()


class Guard(Generic[ResponseT]):
    """A policy around an HTTP client.

    Args:
        policy: The policy.
        answer: The client's class of responses.
        synchronous: Whether its requests are made in threads.

    Raises:
        ConfigurationError: It is no policy, one that can't protect this client, or has parts without effect here.
    """

    __slots__ = ("_answer", "_forgotten", "policy")

    def __init__(self, policy: Policy, answer: type[ResponseT], *, synchronous: bool) -> None:
        if not isinstance(policy, Policy):
            raise ConfigurationError.bad_value("policy", policy, "a hormesis.Policy")
        _refuse_what_has_no_effect(policy)
        if synchronous:
            if any(isinstance(part, Bulkhead) and part.workers == "processes" for part in policy.parts):
                raise ConfigurationError.bad_value(
                    "workers", "processes", "'threads' around an HTTP client: connections stay in their process"
                )
            policy(_any_synchronous)  # refuses a policy that can't protect what is synchronous
        self.policy = policy
        self._answer = answer
        self._forgotten: deque[Opened[Any]] = deque()

    def trip(self) -> Trip[ResponseT]:
        """Begin a request."""
        self.settle()
        return Trip(self)

    def calling(
        self, method: str, host: str, names: Collection[str], *, replayable: bool
    ) -> contextlib.AbstractContextManager[CallFacts, None]:
        """Tell the policy what is known of a request.

        Args:
            method: In capitals.
            host: Its label.
            names: Of the request's headers, asked in lower case.
            replayable: Whether its body can be sent again.
        """
        safe = method in IDEMPOTENT or IDEMPOTENCY_KEY in names
        if not safe:
            retry = self.policy.part(Retry)
            safe = retry is not None and retry.unsafe_methods
        # A call that may be repeated is not said to be: an outer block may know better.
        facts = calling(repeatable=None if safe and replayable else False, host=host, method=method)
        return cast("contextlib.AbstractContextManager[CallFacts, None]", facts)

    def answered(self, value: object) -> ResponseT:
        """Check that what a fallback answers is something that the client knows."""
        if isinstance(value, self._answer):
            return value
        name = f"{self._answer.__module__.partition('.')[0]}.{self._answer.__name__}"
        raise ConfigurationError.bad_value("the fallback's answer", value, f"an object of the class {name}")

    def forget(self, opened: Opened[Any]) -> None:
        """Leave word of an answer that was collected as garbage; takes no lock."""
        self._forgotten.append(opened)

    def settle(self) -> None:
        """End the calls whose answers were forgotten."""
        while self._forgotten:
            with contextlib.suppress(IndexError):  # another thread may have taken it meanwhile
                self._forgotten.popleft().end(GeneratorExit())


def _refuse_what_has_no_effect(policy: Policy) -> None:
    """An answer that is still to be read can be neither raced nor kept."""
    fallback = policy.part(Fallback)
    for part, there in (("a Hedge", policy.part(Hedge)), ("a cache", fallback is not None and fallback.cache)):
        if there:
            raise ConfigurationError(
                f"{part} has no effect around an HTTP client, whose answers are still to be read: "
                "put it in a policy around the function that reads them"
            )


def _any_synchronous() -> None:
    """Stands for the function of a synchronous client."""


class Trip(Generic[ResponseT]):
    """One request: what its attempts brought, and the deadline that its body has too."""

    __slots__ = ("_attempts", "_came", "_deadline", "_guard", "_over")

    def __init__(self, guard: Guard[ResponseT]) -> None:
        self._guard = guard
        self._deadline = _whole(guard.policy)
        self._came: list[ResponseT] = []
        self._attempts = 0
        self._over = False

    # An attempt, ...

    def headers(self, names: Collection[str]) -> dict[str, str]:
        """Return what an attempt tells in its headers; what the user tells stays as it is.

        Args:
            names: Of the headers that the user has set, asked in lower case.
        """
        self._attempts += 1
        sent: dict[str, str] = {}
        time = remaining()
        if time is not None:
            told = deadline_headers(time)
            if not any(name in names for name in (DEADLINE, *told)):
                sent = told
        told = {**request_id_headers(request_id()), **priority_headers(criticality())}
        sent.update((name, value) for name, value in told.items() if name not in names)
        faults = handed_on(self._guard.policy.top)
        if faults and FAULT_HEADER not in names:
            sent[FAULT_HEADER] = faults
        return sent

    @property
    def again(self) -> bool:
        """Whether an attempt was made before this one."""
        return self._attempts > 1

    def came(self, response: ResponseT, status: int, headers: Headers, dispose: Callable[[], object]) -> None:
        """Judge the answer of an attempt.

        Args:
            response: The answer.
            status: Its status.
            headers: Its headers.
            dispose: Lets it go.

        Raises:
            UnwantedResult: It is a failure.
        """
        self._came.append(response)
        kind = kind_of_status(status)
        if kind is not FailureKind.INVALID:
            raise UnwantedResult(response, kind, retry_after=retry_after_of(headers), dispose=dispose)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for an answer any more, as when a thread was left behind."""
        return self._over

    def cut_short(self, error: Exception) -> None:
        """Raise what an attempt ended by whose library gave up because we had cut its timeout.

        Raises:
            TimedOut: The time of the attempt or of the call is over.
        """
        current = current_deadline.get()
        if current is None or left(current) > _SLACK or not _is_late(error):
            return
        _, _, limit, policy, kind = current
        # A deadline that came with the call is as much ours as our own.
        raise kind(self._guard.policy.name if kind is DeadlineExceeded else policy, limit) from error

    # ... the end of all attempts, ...

    def over(self, handed_out: object = None) -> list[ResponseT]:
        """Take note that the caller goes on; returns the answers that nobody will read."""
        self._over = True
        came, self._came = self._came, []
        return [response for response in came if response is not handed_out]

    def arrived(self, opened: Opened[Any]) -> ResponseT:
        """Return the answer that the policy came to."""
        try:
            return self._guard.answered(opened.value)
        except ConfigurationError as error:
            opened.end(error)
            raise

    # ... and the body.

    def reading(self, body: object, opened: Opened[Any]) -> Reading:
        """Keep the permits of a call until its answer was read, or the object that stands for the body is garbage."""
        return Reading(self._guard, body, opened)

    def left(self) -> float:
        """The seconds that are left for the body; infinite when nothing bounds it."""
        return math.inf if self._deadline is None else left(self._deadline)

    def late(self) -> DeadlineExceeded:
        """Make the error of a body that the deadline cut off."""
        return DeadlineExceeded(self._guard.policy.name, math.inf if self._deadline is None else self._deadline[2])

    def check(self) -> None:
        """Raise when the time for the body is over."""
        if self.left() <= 0:
            raise self.late()

    def broke(self, error: BaseException) -> BaseException:
        """Say what a body ended by that broke off: a timeout of the library may be our deadline."""
        if isinstance(error, Exception) and self.left() <= _SLACK and _is_late(error):
            late = self.late()
            late.__cause__ = error
            return late
        return error

    def failed(self, reading: Reading, error: BaseException) -> NoReturn:
        """End a call whose body broke off, and raise why."""
        broke = self.broke(error)
        reading.end(broke)
        raise broke


class Reading:
    """The permits of a call whose answer is being read; they end once, whoever ends them."""

    __slots__ = ("_finalizer", "_guard", "_opened")

    def __init__(self, guard: Guard[Any], body: object, opened: Opened[Any]) -> None:
        self._guard = guard
        self._opened = [opened]
        # Or whoever keeps the permits would keep the answer, and it would never be garbage.
        opened.value = None
        self._finalizer = weakref.finalize(body, guard.forget, opened)
        self._finalizer.atexit = False

    def end(self, error: BaseException | None = None) -> None:
        """End the call: by success, or by this exception."""
        opened = self._take()
        if opened is not None:
            opened.end(error)
            self._guard.settle()

    def forget(self) -> None:
        """Leave word that nobody will end it."""
        opened = self._take()
        if opened is not None:
            self._guard.forget(opened)

    def _take(self) -> Opened[Any] | None:
        self._finalizer.detach()
        try:
            return self._opened.pop()
        except IndexError:
            return None


class Timeouts(dict[str, float | None]):
    """The timeouts of a library, each cut, at the moment in which it is looked up, to what is left then.

    Args:
        own: What the user set; None is no timeout.
        left: Tells the seconds that are left; None or infinite when nothing bounds them.
    """

    def __init__(self, own: dict[str, float | None], left: Callable[[], float | None]) -> None:
        super().__init__(own)
        self.left = left

    def get(self, key: str, default: Any = None) -> Any:
        """Look one up."""
        return cut(super().get(key, default), self.left())

    def __getitem__(self, key: str) -> float | None:
        return cut(super().__getitem__(key), self.left())


def cut(own: float | None, time: float | None) -> float | None:
    """Return a timeout that is no longer than what is left.

    >>> cut(5.0, 2.0), cut(None, 2.0), cut(1.0, None)
    (2.0, 2.0, 1.0)
    """
    if time is None or time == math.inf:
        return own
    time = max(time, _LEAST)
    return time if own is None else min(own, time)


def _is_late(error: Exception) -> bool:
    return classify(error) in (FailureKind.TIMEOUT, FailureKind.CONNECT)


def _whole(policy: Policy) -> TravellingDeadline | None:
    """The deadline of a whole call: the policy's, or the one that it comes with, whichever is nearer."""
    outer = current_deadline.get()
    part = policy.part(Deadline)
    if part is None or policy.shadow:
        return outer
    limit = seconds(part.limit)
    if outer is not None and left(outer) < limit:
        return outer
    clock = policy.top.clock
    return clock.now() + limit, clock, limit, policy.name, DeadlineExceeded

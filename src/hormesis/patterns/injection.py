"""What can be injected into a call, and when: the faults of `Chaos`, as values.

Latency, an error, a status or a result in the place of the function's answer, and behaviour of one's own, alone or
latency with one of the others. Which calls meet with it is said by a share, by their numbers, by time, and by labels;
`hormesis.core.chaos` has the arithmetic.

`injected(…)` puts faults into the context of a block: whatever the block calls, here or in other tasks that it starts,
meets them at the places that they are for. So one test, or one request, can be made to see an outage that nobody else
sees.

Sources: the four strategies of Polly's Simmy; the fault filter of Envoy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, cast

from hormesis.clock import MONOTONIC
from hormesis.core.chaos import Terms, Trigger, fold
from hormesis.core.ordinals import ORDINALS_ACCEPTED, Ordinals
from hormesis.errors import ConfigurationError
from hormesis.outcome import FailureKind
from hormesis.patterns.part import is_async, normalise, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = [
    "FAULT_HEADER",
    "GRPC_STATUSES",
    "NO_RESULT",
    "Injection",
    "Scoped",
    "check_injections",
    "current_injections",
    "glob",
    "in_force",
    "injected",
]

FAULT_HEADER = "hormesis-fault"
"""The header that brings faults to a request, signed with the token of who heeds it; see `hormesis.core.signed`."""

INJECTIONS_MAX = 20
"""Faults that one place, or one block, has at most: each is asked at every call."""

_KINDS = tuple(kind.value for kind in FailureKind if kind is not FailureKind.REJECTED)
_ERROR_ACCEPTED = f"a failure kind ({', '.join(_KINDS)}), an exception class, or a function that returns an exception"
_STATUS_ACCEPTED = "a status of HTTP from 200 to 599, or the name of one of gRPC such as 'UNAVAILABLE'"
_WHERE_ACCEPTED = "a table of labels, each with what it must be ('*' stands for anything), such as { host = 'eu-*' }"

GRPC_STATUSES: Final = (
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""The names of gRPC's statuses but OK, in the order of their numbers, from 1."""

_LABELS_MAX = 20
_TEXT_MAX = 200


class _NoResult:
    """Stands for a result that was not given, since None is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "no result"

    def __reduce__(self) -> str:
        return "NO_RESULT"


NO_RESULT: Final = _NoResult()
"""What `Injection.result` is where none was given."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Injection(Settings):
    """A fault, and the calls that meet with it.

    Args:
        latency: How much later the call begins.
        jitter: The latency is drawn evenly from `latency ± jitter`.
        error: Raised in the place of the function's answer: a failure kind, which each integration turns into what its
            library would raise (`"connect"` is an `httpx.ConnectError`); an exception class; or a function that makes
            an exception.
        status: Answered instead, where the call is one of HTTP or gRPC.
        retry_after: What such a status, or the kind `"throttled"`, asks for.
        result: Returned instead; None is a result.
        behaviour: A function without arguments that is called before, for what no other setting can say. Where the call
            is asynchronous it may be, too. What it raises, the caller gets.
        share: The share of the calls.
        calls: Which of them, by their numbers since the fault came into force: `"1-2"` are the first two,
            `"1, every 5"` the first and each fifth. Those that `where` leaves out are not counted.
        every: One in so many.
        after, until: Only so long after it came into force, and no longer.
        where: Labels of the call, each with a pattern: what `calling(…)` has told and integrations tell (`host`,
            `method`), at a service also `path`, `client` and `tenant`, and everywhere `criticality`.

    Raises:
        ConfigurationError: A setting can't be meant, nothing is injected, or two answers are.

    >>> str(Injection(latency="2s", status=503, share=0.1, where={"host": "eu-*"}))
    'latency 2s and status 503 on 10 % of calls where host is eu-*'
    """

    latency: Duration | None = None
    jitter: Duration = 0.0
    error: str | type[Exception] | Callable[[], Exception] | None = dataclasses.field(
        default=None, metadata={ACCEPTED: _ERROR_ACCEPTED}
    )
    status: int | str | None = dataclasses.field(default=None, metadata={ACCEPTED: _STATUS_ACCEPTED})
    retry_after: Duration | None = None
    result: Any = NO_RESULT
    behaviour: Callable[[], object] | None = None
    # All of them: whoever writes a fault wants to see it, and how many calls are touched at all has a bound of its own.
    share: float = 1.0
    calls: int | str | None = dataclasses.field(default=None, metadata={ACCEPTED: ORDINALS_ACCEPTED})
    every: int | None = None
    after: Duration = 0.0
    until: Duration | None = None
    where: Mapping[str, str] = dataclasses.field(default_factory=dict, metadata={ACCEPTED: _WHERE_ACCEPTED})

    def __post_init__(self) -> None:
        self._check_what()
        normalise(
            self,
            latency=None if self.latency is None else seconds(self.latency, "latency"),
            jitter=seconds(self.jitter, "jitter", zero=True),
            retry_after=None if self.retry_after is None else seconds(self.retry_after, "retry_after", zero=True),
            share=share("share", self.share),
            after=seconds(self.after, "after", zero=True),
            until=None if self.until is None else seconds(self.until, "until"),
            where=_labels(self.where),
        )
        if self.calls is not None:
            normalise(self, calls=Ordinals(self.calls).text)
        if self.every is not None:
            whole("every", self.every, 1, 1_000_000_000)
        if self.until is not None and seconds(self.until) <= seconds(self.after, zero=True):
            raise ConfigurationError.bad_value("until", self.until, f"more than the {self.after} of after")
        if self.jitter and self.latency is None:
            raise ConfigurationError("jitter is set without a latency that it could spread", "jitter")

    def _check_what(self) -> None:
        _check_error(self.error)
        _check_status(self.status)
        behaviour: object = self.behaviour
        if behaviour is not None and (not callable(behaviour) or isinstance(behaviour, type)):
            raise ConfigurationError.bad_value("behaviour", behaviour, "a function without arguments")
        answers = [key for key in ("error", "status") if getattr(self, key) is not None]
        answers += ["result"] if self.result is not NO_RESULT else []
        if len(answers) > 1:
            raise ConfigurationError(f"a call has one answer, and here it has {' and '.join(answers)}", answers[1])
        if not answers and self.latency is None and self.behaviour is None:
            raise ConfigurationError("nothing is injected; a fault has latency, error, status, result or behaviour")
        if self.retry_after is not None and self.status is None and self.error != FailureKind.THROTTLED.value:
            raise ConfigurationError("retry_after is set without a status, or error='throttled', that says it")

    @classmethod
    def of(cls, table: object) -> Injection:
        """Make one of a table that came over a wire: what only code can say is no part of it.

        Raises:
            ConfigurationError: As when it is made; or a key is none of these settings.

        >>> Injection.of({"latency": "2s", "share": 0.1}).share
        0.1
        """
        if not isinstance(table, Mapping):
            raise ConfigurationError.bad_value("fault", table, "a table such as { latency = '2s', share = 0.1 }")
        known = [field.name for field in dataclasses.fields(cls) if field.name != "behaviour"]
        for key in table:
            if key not in known:
                raise ConfigurationError.unknown("setting of a fault", key, known, str(key))
        if not isinstance(table.get("error"), str | None):
            raise ConfigurationError.bad_value("error", table["error"], f"a failure kind: {', '.join(_KINDS)}")
        return cls(**cast("Mapping[str, Any]", table))

    def as_table(self) -> dict[str, Any]:
        """Return it as a table for a wire, which `of` reads.

        Raises:
            ConfigurationError: It has something that only code can say.
        """
        table = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default and value not in ({}, NO_RESULT)
        }
        for key in ("behaviour", "error"):
            if key in table and not isinstance(table[key], str):
                raise ConfigurationError.bad_value(key, table[key], "what can be sent to another process")
        return table

    @property
    def kind(self) -> str:
        """What it is, in a word: by the answer that it gives, if it gives one."""
        if self.result is not NO_RESULT:
            return "result"
        keys = ("error", "status", "behaviour")
        return next((key for key in keys if getattr(self, key) is not None), "latency")

    @property
    def answers(self) -> bool:
        """Whether it stands in the place of the function's answer."""
        return self.error is not None or self.status is not None or self.result is not NO_RESULT

    def terms(self) -> Terms:
        """When it acts, for the machine."""
        return Terms(
            share=self.share,
            calls=None if self.calls is None else Ordinals(self.calls),
            every=self.every,
            after=seconds(self.after, zero=True),
            until=None if self.until is None else seconds(self.until),
            where=[(label, glob(pattern)) for label, pattern in self.where.items()],
        )

    def delay(self, luck: float) -> float:
        """The seconds of latency that a call has whose luck, from 0 to 1, is this."""
        if self.latency is None:
            return 0.0
        jitter = seconds(self.jitter, zero=True)
        return max(0.0, seconds(self.latency) + jitter * (2 * luck - 1))

    def __str__(self) -> str:
        what = " and ".join(self._what())
        when = "".join(self._when())
        return what + when

    def _what(self) -> Iterator[str]:
        if self.latency is not None:
            jitter = seconds(self.jitter, zero=True)
            spread = f" ± {format_seconds(jitter)}" if jitter else ""
            yield f"latency {format_seconds(seconds(self.latency))}{spread}"
        if self.behaviour is not None:
            yield f"{getattr(self.behaviour, '__name__', 'a function')}()"
        if self.error is not None:
            yield f"error {getattr(self.error, '__name__', self.error)}"
        if self.status is not None:
            yield f"status {self.status}"
        if self.result is not NO_RESULT:
            yield f"result {self.result!r:.100}"

    def _when(self) -> Iterator[str]:
        if self.share < 1:
            yield f" on {100 * self.share:.3g} % of calls"
        if self.every is not None:
            yield f" on one call in {self.every}"
        if self.calls is not None:
            yield f" on calls {self.calls}"
        if self.after:
            yield f" after {format_seconds(seconds(self.after))}"
        if self.until is not None:
            yield f" until {format_seconds(seconds(self.until))}"
        if self.where:
            yield " where " + " and ".join(f"{label} is {pattern}" for label, pattern in self.where.items())


def glob(pattern: str) -> Callable[[str], object]:
    """Return what matches a pattern in which `*` stands for anything.

    >>> bool(glob("eu-*")("eu-1")), bool(glob("eu-*")("us-1"))
    (True, False)
    """
    return re.compile(fnmatch.translate(pattern)).match


def _check_error(error: object) -> None:
    if error is None:
        return
    if isinstance(error, str):
        if error not in _KINDS:
            raise ConfigurationError.unknown("failure kind", error, _KINDS, "error")
        return
    fits = issubclass(error, Exception) if isinstance(error, type) else callable(error) and not is_async(error)
    if not fits:
        raise ConfigurationError.bad_value("error", error, _ERROR_ACCEPTED)


def _check_status(status: object) -> None:
    number = isinstance(status, int) and not isinstance(status, bool) and 200 <= status <= 599
    if status is not None and not number and status not in GRPC_STATUSES:
        raise ConfigurationError.bad_value("status", status, _STATUS_ACCEPTED)


def _labels(where: object) -> dict[str, str]:
    fits = isinstance(where, Mapping) and len(where) <= _LABELS_MAX
    if not fits or not all(
        isinstance(text, str) and 0 < len(text) <= _TEXT_MAX
        for pair in cast("Mapping[Any, Any]", where).items()
        for text in pair
    ):
        raise ConfigurationError.bad_value("where", where, _WHERE_ACCEPTED)
    return dict(cast("Mapping[str, str]", where))


class Scoped(NamedTuple):
    """A fault in force, where it acts, and who wanted it."""

    injection: Injection
    trigger: Trigger
    at: Callable[[str], object]
    """Matches the names of policies and services that it is for."""
    source: str
    passed_on: str = ""
    """The signed header that brought it, to hand on."""


def in_force(
    injections: tuple[Injection, ...], *, at: str, source: str, now: float, stream: object = 0, passed_on: str = ""
) -> tuple[Scoped, ...]:
    """Put faults into force.

    Args:
        injections: The faults.
        at: A pattern of the names of the policies and services that they are for.
        source: Who wants it: `"settings"`, `"dose"`, `"context"` or `"header"`.
        now: The time, on the clock of the switch.
        stream: What their draws depend on besides themselves, such as a seed.
        passed_on: The signed header that brought them.
    """
    matches = glob(at)
    return tuple(
        Scoped(each, Trigger(each.terms(), fold(stream, at, number), now), matches, source, passed_on)
        for number, each in enumerate(injections)
    )


current_injections: ContextVar[tuple[Scoped, ...]] = ContextVar("hormesis_injections", default=())
"""The faults that whatever is called from here meets with."""


@contextlib.contextmanager
def injected(*injections: Injection, at: str = "*", **settings: Any) -> Iterator[None]:
    """Inject faults into the calls that are made inside of the block, and into none else.

    They act at policies and services that have a `Chaos` part, while the switch is on; the part's `share_max` holds.

    Args:
        *injections: The faults.
        at: The names of the policies and services that they are for; `*` stands for anything.
        **settings: Those of one `Injection`, in the place of it.

    Raises:
        ConfigurationError: A setting can't be meant, or there are none, or too many.

    >>> from hormesis import Chaos, ChaosSwitch, Policy
    >>> switch = ChaosSwitch("a token of sixteen")
    >>> stock = Policy(Chaos(switch=switch), name="stock")
    >>> with switch.enabled("1m"), injected(result=0, at="stock"):
    ...     stock.call(len, "tea")
    0
    """
    faults = (*injections, Injection(**settings)) if settings else injections
    check_injections(faults, least=1)
    where: object = at
    if not isinstance(where, str) or not 0 < len(where) <= _TEXT_MAX:
        raise ConfigurationError.bad_value("at", at, "names of policies, where '*' stands for anything")
    scoped = in_force(faults, at=at, source="context", now=MONOTONIC.now())
    token = current_injections.set((*current_injections.get(), *scoped)[-INJECTIONS_MAX:])
    try:
        yield
    finally:
        current_injections.reset(token)


def check_injections(injections: object, key: str = "injections", least: int = 0) -> tuple[Injection, ...]:
    """Check a list of faults.

    Raises:
        ConfigurationError: It is none, or too long.
    """
    given = (injections,) if isinstance(injections, Injection) else injections
    if not isinstance(given, list | tuple) or not all(isinstance(each, Injection) for each in given):
        raise ConfigurationError.bad_value(key, injections, "faults such as Injection(latency='2s', share=0.1)")
    if not least <= len(given) <= INJECTIONS_MAX:
        raise ConfigurationError(f"{len(given)} faults are given; it takes {least} to {INJECTIONS_MAX}", key)
    return tuple(given)

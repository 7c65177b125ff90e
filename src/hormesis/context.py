"""What travels with a call: its deadline, its request id, what is known of it, and where its answer came from.

The deadline is kept in a context variable, so it crosses function calls, tasks and (where we carry the context)
threads without being passed. Nested deadlines take the minimum: nobody further in can give a call more time than its
caller has.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TypeAlias

from hormesis.clock import MONOTONIC, Clock
from hormesis.errors import DeadlineExceeded, TimedOut
from hormesis.headers import Headers, remaining_of, request_id_of
from hormesis.priority import Criticality
from hormesis.units import Duration, seconds

__all__ = [
    "Answer",
    "Answers",
    "CallFacts",
    "TravellingDeadline",
    "answers",
    "calling",
    "check_deadline",
    "criticality",
    "current_call",
    "current_deadline",
    "deadline",
    "left",
    "note_answer",
    "remaining",
    "request_id",
    "serving",
]


TravellingDeadline: TypeAlias = tuple[float, Clock, float, str, type[TimedOut]]
"""A moment by which the answer is due.

The moment; the clock that it is on, since two clocks can't be compared; the seconds that were left when it was set, and
whose it is, for messages; and the error when it has passed, since a timeout is the deadline of one attempt.

A plain tuple, since one is made for every timed attempt: anything with a name costs several times as much.
"""


def left(deadline: TravellingDeadline) -> float:
    """Seconds until a deadline; negative once it has passed."""
    return deadline[0] - deadline[1].now()


current_deadline: ContextVar[TravellingDeadline | None] = ContextVar("hormesis_deadline", default=None)


def remaining() -> float | None:
    """Return the seconds that the current call has left, or None when it has no deadline.

    Synchronous functions under a cooperative timeout pass it to whatever they wait for.

    >>> remaining() is None
    True
    """
    current = current_deadline.get()
    return None if current is None else left(current)


def check_deadline() -> None:
    """Raise when the time of the current call or attempt is over; for long synchronous work.

    Raises:
        DeadlineExceeded: The call's deadline has passed.
        TimedOut: The attempt's cooperative timeout has.
    """
    current = current_deadline.get()
    if current is None:
        return
    at, clock, limit, policy, error = current
    if clock.now() >= at:
        raise error(policy, limit)


@contextlib.contextmanager
def deadline(limit: Duration, *, clock: Clock = MONOTONIC, policy: str = "deadline") -> Iterator[None]:
    """Give everything inside the block a deadline, `limit` from now or the one that is already set, if that is nearer.

    It interrupts nothing by itself: policies inside the block heed it, and `remaining()` tells it.

    >>> with deadline("2s"):
    ...     1.9 < remaining() <= 2.0
    True
    """
    limit = seconds(limit, "deadline", zero=True)
    outer = remaining()
    if outer is not None and outer <= limit:
        yield
        return
    token = current_deadline.set((clock.now() + limit, clock, limit, policy, DeadlineExceeded))
    try:
        yield
    finally:
        current_deadline.reset(token)


@dataclasses.dataclass(frozen=True, slots=True)
class CallFacts:
    """What whoever makes a call knows of it, and a policy can't see.

    Args:
        labels: Names for it, such as `host` or `tenant`; parts with `by="host"` have an instance for each value.
        repeatable: Whether making the call twice is harmless; a call that is not is neither retried nor hedged.
        request_id: The id of the request that it serves, for logs and for the wire.
        criticality: How much it matters; None when nobody said so.
    """

    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeatable: bool = True
    request_id: str | None = None
    criticality: Criticality | None = None


_NO_FACTS = CallFacts()
current_call: ContextVar[CallFacts] = ContextVar("hormesis_call", default=_NO_FACTS)


@contextlib.contextmanager
def calling(
    *,
    repeatable: bool | None = None,
    request_id: str | None = None,
    criticality: Criticality | str | None = None,
    **labels: str,
) -> Iterator[CallFacts]:
    """Tell what is known of the calls inside the block; what an outer block said holds where this one is silent.

    Raises:
        ConfigurationError: There is no criticality of that name.

    >>> with calling(tenant="acme"), calling(host="eu-1", repeatable=False) as facts:
    ...     facts.labels, facts.repeatable
    ({'tenant': 'acme', 'host': 'eu-1'}, False)
    """
    outer = current_call.get()
    facts = CallFacts(
        labels={**outer.labels, **labels},
        repeatable=outer.repeatable if repeatable is None else repeatable,
        request_id=outer.request_id if request_id is None else request_id,
        criticality=outer.criticality if criticality is None else Criticality.of(criticality),
    )
    token = current_call.set(facts)
    try:
        yield facts
    finally:
        current_call.reset(token)


@contextlib.contextmanager
def serving(headers: Headers) -> Iterator[None]:
    """Serve a request: the deadline and the request id that its headers bring hold for everything inside the block.

    A deadline that is nearer already wins. What is malformed says nothing.

    Args:
        headers: Of the request that came in, or its gRPC metadata; see `hormesis.headers`.

    >>> with serving({"Grpc-Timeout": "500m", "X-Request-ID": "r-1"}):
    ...     0.4 < remaining() <= 0.5, request_id()
    (True, 'r-1')
    """
    left_for_us = remaining_of(headers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(calling(request_id=request_id_of(headers)))
        if left_for_us is not None:
            stack.enter_context(deadline(left_for_us, policy="caller"))
        yield


def request_id() -> str | None:
    """Return the id of the request that is being served, or None when nobody set one with `calling(request_id=…)`.

    >>> with calling(request_id="r-1"): request_id()
    'r-1'
    """
    return current_call.get().request_id


def criticality() -> Criticality | None:
    """Return how much the request that is being served matters, or None when nobody said so.

    >>> with calling(criticality="background"): criticality()
    <Criticality.BACKGROUND: 3>
    """
    return current_call.get().criticality


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An answer that did not come straight from the function.

    Args:
        policy: The name of the policy that gave it.
        source: `"cache"` (fresh), `"stale"` (from the cache, past its time) or `"fallback"`.
        age: Seconds since a cached answer was true; None for others.
    """

    policy: str
    source: str
    age: float | None = None

    @property
    def degraded(self) -> bool:
        """Whether it is worth less than the function's own answer."""
        return self.source != "cache"


class Answers:
    """Where the answers of a block came from; see `answers`."""

    __slots__ = ("noted",)

    def __init__(self) -> None:
        self.noted: list[Answer] = []

    @property
    def degraded(self) -> bool:
        """Whether any answer was stale or a fallback's."""
        return any(answer.degraded for answer in self.noted)


_ANSWERS_MAX = 1000
"""Answers that a block takes note of; one that runs for ever must not collect them for ever."""

_current_answers: ContextVar[Answers | None] = ContextVar("hormesis_answers", default=None)


@contextlib.contextmanager
def answers() -> Iterator[Answers]:
    """Take note of every answer of a policy inside the block that did not come straight from the function.

    >>> from hormesis import Fallback, Policy
    >>> with answers() as seen:
    ...     Policy(Fallback(value=0), name="stock").call(int, "not a number")
    0
    >>> seen.degraded, seen.noted[0].source
    (True, 'fallback')
    """
    seen = Answers()
    token = _current_answers.set(seen)
    try:
        yield seen
    finally:
        _current_answers.reset(token)


def note_answer(answer: Answer) -> None:
    """Tell the `answers` block around this call, if there is one, where its answer came from."""
    seen = _current_answers.get()
    if seen is not None and len(seen.noted) < _ANSWERS_MAX:
        seen.noted.append(answer)

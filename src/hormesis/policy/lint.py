"""What is thoughtless in a policy: combinations that are valid one by one and can't work as meant together.

A rule looks at parts and yields sentences. Each says what happens and what would do. Most rules look at one layer of a
policy (parts that stand in the standard order), those of bounds at all of its parts, since another layer may bound it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from hormesis.outcome import FailureKind
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.part import Part
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.explain import first
from hormesis.policy.policy import Policy
from hormesis.units import format_seconds, seconds

__all__ = ["RULES", "Finding", "lint"]

Layer = Sequence[Part]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One objection.

    Args:
        policy: The policy's name.
        rule: A stable name, such as `timeout-beyond-deadline`.
        message: What happens, and what would do.
    """

    policy: str
    rule: str
    message: str


def lint(policy: Policy) -> list[Finding]:
    """Return what is thoughtless in a policy.

    >>> from hormesis import Deadline, Policy, Timeout
    >>> [finding.rule for finding in lint(Policy(Deadline("1s"), Timeout("2s"), name="stock"))]
    ['timeout-beyond-deadline']
    """
    found = [
        Finding(policy.name, name, message)
        for name, rule in RULES.items()
        for parts in ([policy.parts] if name in _OF_THE_WHOLE else policy.layers)
        for message in rule(parts)
    ]
    retries = sum(first(layer, Retry) is not None for layer in policy.layers)
    if retries > 1:
        attempts = " x ".join(str(retry.attempts) for layer in policy.layers if (retry := first(layer, Retry)))
        found.append(
            Finding(
                policy.name, "retry-in-retry", f"a retry inside a retry makes {attempts} attempts; keep the outer one"
            )
        )
    return found


def _timeout_beyond_deadline(layer: Layer) -> Iterator[str]:
    timeout, deadline = first(layer, Timeout), first(layer, Deadline)
    if timeout and deadline and seconds(timeout.limit) >= seconds(deadline.limit):
        yield (
            f"the timeout of {_s(timeout.limit)} never comes before the deadline of {_s(deadline.limit)}, so the "
            "breaker learns nothing and no retry has time; make the timeout shorter"
        )


def _retries_beyond_deadline(layer: Layer) -> Iterator[str]:
    timeout, deadline, retry = first(layer, Timeout), first(layer, Deadline), first(layer, Retry)
    if not (timeout and deadline and retry) or seconds(timeout.limit) >= seconds(deadline.limit):
        return
    fitting = int(seconds(deadline.limit) / seconds(timeout.limit))
    if fitting < 2 <= retry.attempts:
        yield (
            f"an attempt that times out ({_s(timeout.limit)}) leaves no time for a second within the deadline of "
            f"{_s(deadline.limit)}; shorten the timeout or drop the retry"
        )


def _unbounded_call(layer: Layer) -> Iterator[str]:
    if layer and first(layer, Timeout) is None and first(layer, Deadline) is None:
        yield "nothing bounds a call in time, so a silent dependency holds every caller; add a timeout or a deadline"


def _retry_without_timeout(layer: Layer) -> Iterator[str]:
    if first(layer, Retry) and first(layer, Deadline) and first(layer, Timeout) is None:
        yield "without a timeout the first attempt may use up the whole deadline, and no retry comes; add a timeout"


def _retry_what_is_no_use(layer: Layer) -> Iterator[str]:
    retry = first(layer, Retry)
    if retry is None:
        return
    named = (retry.on,) if isinstance(retry.on, str) else retry.on
    if isinstance(named, tuple | list) and FailureKind.INVALID.value in named:
        yield "a request that was wrong (invalid) is wrong again; take it out of the retry's `on`"
    if isinstance(named, tuple | list) and FailureKind.REJECTED.value in named:
        yield "rejections are never retried, so `rejected` in the retry's `on` does nothing; take it out"


def _retry_without_breaker(layer: Layer) -> Iterator[str]:
    retry = first(layer, Retry)
    if retry and retry.attempts > 1 and retry.budget is None and first(layer, CircuitBreaker) is None:
        yield (
            f"in an outage every call becomes {retry.attempts} attempts, and nothing ends that; give the retry a "
            "budget or add a circuit breaker"
        )


def _breaker_slow_after_beyond_timeout(layer: Layer) -> Iterator[str]:
    timeout, breaker = first(layer, Timeout), first(layer, CircuitBreaker)
    if timeout is None or breaker is None or breaker.slow_after is None:
        return
    if seconds(breaker.slow_after) >= seconds(timeout.limit):
        yield (
            f"no call is ever slow: slow_after ({_s(breaker.slow_after)}) is not below the timeout "
            f"({_s(timeout.limit)}), which fails it first"
        )


def _queue_beyond_deadline(layer: Layer) -> Iterator[str]:
    bulkhead, deadline = first(layer, Bulkhead), first(layer, Deadline)
    if bulkhead and deadline and bulkhead.max_queued and seconds(bulkhead.max_wait) >= seconds(deadline.limit):
        yield (
            f"a call may wait in the bulkhead's queue ({_s(bulkhead.max_wait)}) until its deadline "
            f"({_s(deadline.limit)}) is over; make max_wait shorter"
        )


def _breaker_below_bulkhead(layer: Layer) -> Iterator[str]:
    breaker, bulkhead = first(layer, CircuitBreaker), first(layer, Bulkhead)
    if breaker and bulkhead and breaker.probes > bulkhead.max_concurrent:
        yield (
            f"the breaker wants {breaker.probes} probes and the bulkhead lets {bulkhead.max_concurrent} in at a time; "
            "make probes smaller"
        )


def _s(value: float | str) -> str:
    return format_seconds(seconds(value))


RULES: dict[str, Callable[[Layer], Iterator[str]]] = {
    "timeout-beyond-deadline": _timeout_beyond_deadline,
    "retries-beyond-deadline": _retries_beyond_deadline,
    "unbounded-call": _unbounded_call,
    "retry-without-timeout": _retry_without_timeout,
    "retry-of-no-use": _retry_what_is_no_use,
    "retry-without-bound": _retry_without_breaker,
    "slow-after-beyond-timeout": _breaker_slow_after_beyond_timeout,
    "queue-beyond-deadline": _queue_beyond_deadline,
    "more-probes-than-places": _breaker_below_bulkhead,
}
"""Every rule by its name."""

_OF_THE_WHOLE = {"unbounded-call", "retry-without-timeout", "retry-without-bound"}
"""Rules that look at all parts of a policy at once."""

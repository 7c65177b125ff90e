"""A policy in words: its order, the reasons, and what the worst case costs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.part import Part
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.units import format_seconds, seconds

if TYPE_CHECKING:
    from hormesis.policy.policy import Policy

__all__ = ["Amplification", "WorstCase", "amplification", "chains", "explain", "first", "worst_case"]

PartOf = TypeVar("PartOf", bound=Part)
Layers = Sequence[Sequence[Part]]


class WorstCase(NamedTuple):
    """The most that one call can cost."""

    seconds: float
    """Until the caller has an answer or an error; infinite when nothing bounds it."""
    attempts: int
    unbounded_seconds: float
    """The same without the deadline."""
    asked: float = 0.0
    """What comes on top when the dependency asks to be left alone for as long as it may (`Retry-After`)."""


def worst_case(layers: Layers) -> WorstCase:
    """Add up the longest waits, attempts and back-offs of a policy's layers, from the inside out.

    It holds for asynchronous functions, and for synchronous ones as far as they heed `hormesis.remaining()` or run in
    workers: a thread can't be interrupted.

    >>> from hormesis.patterns.retry import Retry
    >>> from hormesis.patterns.timeout import Timeout
    >>> worst_case([[Retry(on="transient", attempts=2, delay="100ms"), Timeout("1s")]])
    WorstCase(seconds=2.1, attempts=2, unbounded_seconds=2.1, asked=60.0)
    """
    longest, unbounded, asked, attempts = math.inf, math.inf, 0.0, 1
    for layer in reversed(layers):
        timeout, retry = first(layer, Timeout), first(layer, Retry)
        deadline, bulkhead, hedge = first(layer, Deadline), first(layer, Bulkhead), first(layer, Hedge)
        if timeout is not None:
            longest, unbounded = min(longest, seconds(timeout.limit)), min(unbounded, seconds(timeout.limit))
        for queue in (bulkhead, first(layer, ConcurrencyLimit)):
            if queue is not None and queue.max_queued:
                longest, unbounded = longest + seconds(queue.max_wait), unbounded + seconds(queue.max_wait)
        rate_limit = first(layer, RateLimit)
        if rate_limit is not None:
            longest, unbounded = longest + rate_limit.longest_wait, unbounded + rate_limit.longest_wait
        if hedge is not None:
            # Each rival begins a delay after the one before, and may use its whole time; a delay that follows a
            # quantile is not above the timeout.
            wait = unbounded if hedge.delay is None else seconds(hedge.delay)
            longest, unbounded = longest + wait * hedge.max_hedges, unbounded + wait * hedge.max_hedges
            attempts *= 1 + hedge.max_hedges
        if retry is not None:
            delays = retry.longest_delays()
            longest, unbounded = longest * retry.attempts + delays, unbounded * retry.attempts + delays
            asked = asked * retry.attempts + (retry.attempts - 1) * seconds(retry.retry_after_max)
            attempts *= retry.attempts
        fallback = first(layer, Fallback)
        if fallback is not None and fallback.function is not None:
            longest = unbounded = math.inf  # nobody knows how long a function takes
        if deadline is not None:
            whole = min(longest + asked, seconds(deadline.limit))
            longest = min(longest, seconds(deadline.limit))
            asked = whole - longest
    return WorstCase(longest, attempts, unbounded, asked)


def first(parts: Iterable[Part], kind: type[PartOf]) -> PartOf | None:
    """Return the first part of a class, or None."""
    return next((part for part in parts if isinstance(part, kind)), None)


class Amplification(NamedTuple):
    """How much traffic a full outage of the innermost dependency makes out of one call.

    Args:
        path: The names of the policies, from the outside in.
        attempts: What retries and hedges allow, call by call.
        with_budgets: What is left of that over time, where budgets bound it.
    """

    path: tuple[str, ...]
    attempts: int
    with_budgets: float


def amplification(policies: Sequence[Policy]) -> Amplification:
    """Multiply the attempts along policies that are called inside each other.

    Three attempts in each of three layers make 27 calls of one; with budgets of 20 % it is 1.73.

    >>> from hormesis.patterns.retry import Retry
    >>> from hormesis.policy.policy import Policy
    >>> inner = Policy(Retry(on="transient"), name="inner")
    >>> found = amplification([Policy(Retry(on="transient"), name="outer"), inner])
    >>> found.attempts, round(found.with_budgets, 2)
    (9, 1.44)
    """
    attempts, with_budgets = 1, 1.0
    for policy in policies:
        for layer in policy.layers:
            retry, hedge = first(layer, Retry), first(layer, Hedge)
            if retry is not None:
                attempts *= retry.attempts
                with_budgets *= min(retry.attempts, retry.attempts if retry.budget is None else 1 + retry.budget)
            if hedge is not None:
                attempts *= 1 + hedge.max_hedges
                with_budgets *= 1 + (hedge.max_hedges if hedge.budget is None else hedge.budget)
    return Amplification(tuple(policy.name for policy in policies), attempts, with_budgets)


def chains(policy: Policy) -> Iterator[tuple[Policy, ...]]:
    """Every way from a policy through those that it says it calls, down to one that calls no other."""
    if not policy.calls:
        yield (policy,)
    for called in policy.calls:
        for chain in chains(called):
            yield (policy, *chain)


def explain(policy: Policy) -> str:
    """Write a policy for people."""
    parts = policy.parts
    if not parts:
        return f"policy {policy.name!r} has no parts: it calls the function as it is"
    shadow = " (a shadow: it watches, and does none of this)" if policy.shadow else ""
    lines = [f"policy {policy.name!r}, from the outside in{shadow}:"]
    for number, part in enumerate(parts, 1):
        lines.append(f"  {number}. {part.slot.key.replace('_', ' ')}: {part.describe()}")
        lines += textwrap.wrap(part.slot.reason, 100, initial_indent="       ", subsequent_indent="       ")
    lines.append(f"  {len(parts) + 1}. the function")
    cost = worst_case(policy.layers)
    lines.append(f"worst case: {_time(cost)}; {cost.attempts} attempt{'s' * (cost.attempts > 1)} a call")
    if policy.calls:
        for chain in chains(policy):
            found = amplification(chain)
            lines.append(
                f"in an outage at the end of {' > '.join(found.path)}: up to {found.attempts} attempts for one call, "
                f"{found.with_budgets:.3g} over time with the budgets"
            )
    return "\n".join(lines)


def _time(cost: WorstCase) -> str:
    if cost.seconds == math.inf:
        return "no bound in time (no deadline, and an attempt or a fallback without one)"
    asked = f", and {format_seconds(cost.asked)} more if the dependency asks for it" if cost.asked else ""
    if cost.seconds < cost.unbounded_seconds:
        without = "no bound" if cost.unbounded_seconds == math.inf else format_seconds(cost.unbounded_seconds)
        return f"an answer or an error after {format_seconds(cost.seconds)}{asked} (without the deadline: {without})"
    return f"an answer or an error after {format_seconds(cost.seconds)}{asked}"

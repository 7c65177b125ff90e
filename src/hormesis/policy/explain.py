"""A policy in words: its order, the reasons, and what the worst case costs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.part import Part
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.units import format_seconds, seconds

__all__ = ["WorstCase", "explain", "first", "worst_case"]

PartOf = TypeVar("PartOf", bound=Part)
Layers = Sequence[Sequence[Part]]


class WorstCase(NamedTuple):
    """The most that one call can cost."""

    seconds: float
    """Until the caller has an answer or an error; infinite when nothing bounds it."""
    attempts: int
    unbounded_seconds: float
    """The same without the deadline."""


def worst_case(layers: Layers) -> WorstCase:
    """Add up the longest waits, attempts and back-offs of a policy's layers, from the inside out.

    >>> from hormesis.patterns.retry import Retry
    >>> from hormesis.patterns.timeout import Timeout
    >>> worst_case([[Retry(on="transient", attempts=2, delay="100ms"), Timeout("1s")]])
    WorstCase(seconds=2.1, attempts=2, unbounded_seconds=2.1)
    """
    longest, unbounded, attempts = math.inf, math.inf, 1
    for layer in reversed(layers):
        timeout, retry = first(layer, Timeout), first(layer, Retry)
        deadline, bulkhead = first(layer, Deadline), first(layer, Bulkhead)
        if timeout is not None:
            longest, unbounded = min(longest, seconds(timeout.limit)), min(unbounded, seconds(timeout.limit))
        if bulkhead is not None and bulkhead.max_queued:
            longest, unbounded = longest + seconds(bulkhead.max_wait), unbounded + seconds(bulkhead.max_wait)
        if retry is not None:
            delays = retry.longest_delays()
            longest, unbounded = longest * retry.attempts + delays, unbounded * retry.attempts + delays
            attempts *= retry.attempts
        if deadline is not None:
            longest = min(longest, seconds(deadline.limit))
    return WorstCase(longest, attempts, unbounded)


def first(parts: Iterable[Part], kind: type[PartOf]) -> PartOf | None:
    """Return the first part of a class, or None."""
    return next((part for part in parts if isinstance(part, kind)), None)


def explain(name: str, layers: Layers) -> str:
    """Write a policy for people."""
    parts = [part for layer in layers for part in layer]
    if not parts:
        return f"policy {name!r} has no parts: it calls the function as it is"
    lines = [f"policy {name!r}, from the outside in:"]
    for number, part in enumerate(parts, 1):
        lines.append(f"  {number}. {part.slot.key.replace('_', ' ')}: {part.describe()}")
        lines += textwrap.wrap(part.slot.reason, 100, initial_indent="       ", subsequent_indent="       ")
    lines.append(f"  {len(parts) + 1}. the function")
    cost = worst_case(layers)
    lines.append(f"worst case: {_time(cost)}; {cost.attempts} attempt{'s' * (cost.attempts > 1)} a call")
    return "\n".join(lines)


def _time(cost: WorstCase) -> str:
    if cost.seconds == math.inf:
        return "no bound in time (no deadline, and an attempt without a timeout)"
    if cost.seconds < cost.unbounded_seconds:
        without = "no bound" if cost.unbounded_seconds == math.inf else format_seconds(cost.unbounded_seconds)
        return f"an answer or an error after {format_seconds(cost.seconds)} (without the deadline: {without})"
    return f"an answer or an error after {format_seconds(cost.seconds)}"

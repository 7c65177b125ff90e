"""What is thoughtless in a policy: combinations that are valid one by one and can't work as meant together.

A rule looks at parts and yields sentences. Each says what happens and what would do. Most rules look at one layer of a
policy (parts that stand in the standard order), those of bounds at all of its parts, since another layer may bound it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

from hormesis.outcome import FailureKind
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.chaos import Chaos
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.part import Part
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.retry import Retry
from hormesis.patterns.throttle import Throttle
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.explain import amplification, chains, first, worst_case
from hormesis.policy.policy import Policy
from hormesis.units import format_seconds, per_second, seconds

__all__ = ["RULES", "RULES_OF_POLICIES", "Finding", "lint"]

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
    found += [
        Finding(policy.name, name, message) for name, rule in RULES_OF_POLICIES.items() for message in rule(policy)
    ]
    return found


def _retry_in_retry(policy: Policy) -> Iterator[str]:
    for chain in chains(policy):
        retries = [
            (each.name, retry)
            for each in chain
            for layer in each.layers
            if (retry := first(layer, Retry)) is not None and retry.attempts > 1
        ]
        if len(retries) > 1:
            attempts = " x ".join(str(retry.attempts) for _, retry in retries)
            names = " > ".join(dict.fromkeys(name for name, _ in retries))
            worst = amplification(chain)
            yield (
                f"a retry inside a retry ({names}) makes {attempts} attempts ({worst.with_budgets:.3g} over time with "
                "the budgets); keep the one nearest to the user, or the one nearest to the dependency"
            )


def _called_takes_longer(policy: Policy) -> Iterator[str]:
    deadline = policy.part(Deadline)
    if deadline is None:
        return
    for called in policy.calls:
        inner = worst_case(called.layers).seconds
        if inner > seconds(deadline.limit):
            time = "without bound" if inner == math.inf else f"for {format_seconds(inner)}"
            yield (
                f"{called.name!r} further in may go on {time} after its caller's deadline of {_s(deadline.limit)} is "
                "over, unless the deadline travels to it; give it a shorter one of its own"
            )


def _fallback_on_itself(policy: Policy) -> Iterator[str]:
    fallback = policy.part(Fallback)
    protected_by = getattr(fallback and fallback.function, "__hormesis_policy__", None)
    if protected_by is not None and protected_by.name == policy.name:
        yield (
            "the fallback calls the dependency that has just failed, under the same policy; answer from elsewhere (a "
            "cache, a value, another service)"
        )


def _bulkhead_too_small(policy: Policy) -> Iterator[str]:
    bulkhead, expected = policy.part(Bulkhead), policy.expects
    if bulkhead is None or expected is None:
        return
    if bulkhead.max_concurrent < expected.concurrency:
        yield (
            f"{per_second(expected.rate):g} calls a second of {_s(expected.latency)} are {expected.concurrency:g} at a "
            f"time, and the bulkhead lets {bulkhead.max_concurrent} in: it refuses in calm times; make it larger"
        )


def _rate_limit_too_low(policy: Policy) -> Iterator[str]:
    limit, expected = policy.part(RateLimit), policy.expects
    if limit is None or expected is None or limit.by is not None or not isinstance(limit.cost, int):
        return
    calls, allowed = per_second(expected.rate), limit.rate / limit.cost
    # A day's limit is met late in the day, a second's at once: what is expected is a rate over time.
    if allowed < calls:
        yield (
            f"{calls:g} calls a second are expected, and the rate limit lets {allowed:.3g} in: it refuses in calm "
            "times; raise it"
        )
        return
    worst = amplification([policy])
    if allowed < calls * worst.with_budgets:
        yield (
            f"each attempt spends of the rate limit: {calls:g} calls a second become {calls * worst.with_budgets:.3g} "
            f"attempts in an outage, and it lets {allowed:.3g} in, so that retries use up what first attempts need; "
            "raise it, or make the budget smaller"
        )


def _timeout_too_short(policy: Policy) -> Iterator[str]:
    timeout, expected = policy.part(Timeout), policy.expects
    if timeout is not None and expected is not None and seconds(timeout.limit) <= seconds(expected.latency):
        yield (
            f"the timeout of {_s(timeout.limit)} cuts off calls that take the {_s(expected.latency)} that are expected "
            "in calm times; make it longer"
        )


def _breaker_never_trips(policy: Policy) -> Iterator[str]:
    breaker, expected = policy.part(CircuitBreaker), policy.expects
    if breaker is None or expected is None or not isinstance(breaker.window, str):
        return
    calls = per_second(expected.rate) * seconds(breaker.window)
    quick = breaker.consecutive is not None or (breaker.quiet is not None and breaker.quiet < breaker.minimum_calls)
    if calls < breaker.minimum_calls and not quick:
        yield (
            f"the breaker can never trip: {per_second(expected.rate):g} calls a second put {calls:g} into a window of "
            f"{_s(breaker.window)}, and it wants {breaker.minimum_calls}; make the window longer, or set consecutive"
        )


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


def _wait_beyond_deadline(layer: Layer) -> Iterator[str]:
    limit, deadline = first(layer, RateLimit), first(layer, Deadline)
    if limit and deadline and limit.longest_wait >= seconds(deadline.limit):
        yield (
            f"a call may wait for the rate limit ({_s(limit.longest_wait)}) until its deadline ({_s(deadline.limit)}) "
            "is over; make max_wait shorter"
        )


def _limit_never_acts(layer: Layer) -> Iterator[str]:
    limit = first(layer, RateLimit)
    if limit is None:
        return
    limits = sorted(limit.algorithms(), key=lambda each: each.window)
    for number, longer in enumerate(limits):
        for shorter in limits[:number]:
            fits = longer.window / shorter.window
            # A window may be met at both of its edges, a bucket with what it holds on top of its rate.
            most = shorter.capacity * (fits if limit.algorithm == "sliding window" else fits + 1)
            if most <= longer.capacity:
                yield (
                    f"the limit of {longer.name} never acts: {shorter.name} lets no more than {most:,.0f} through in "
                    "that time; take it out, or lower it"
                )
                break


def _throttle_behind_breaker(layer: Layer) -> Iterator[str]:
    throttle, breaker = first(layer, Throttle), first(layer, CircuitBreaker)
    if throttle is None or breaker is None:
        return
    begins = 1 - 1 / throttle.ratio
    named = (breaker.on,) if isinstance(breaker.on, str) else breaker.on
    counts = isinstance(named, tuple | list) and {"any", "transient", *_kinds(throttle.on)} & {
        name for name in named if isinstance(name, str)
    }
    if counts and breaker.failure_rate < begins:
        yield (
            f"the breaker opens when {breaker.failure_rate:.0%} of the calls fail, before the throttle does anything "
            f"(at {begins:.0%}); make the throttle's ratio smaller, or take what it acts on out of the breaker's `on`"
        )


def _kinds(on: object) -> tuple[object, ...]:
    return (on,) if isinstance(on, str) else tuple(on) if isinstance(on, tuple | list) else ()


def _limit_behind_bulkhead(layer: Layer) -> Iterator[str]:
    limit, bulkhead = first(layer, ConcurrencyLimit), first(layer, Bulkhead)
    if limit is None or bulkhead is None:
        return
    least = limit.limit_min if limit.limit is None else limit.limit
    if bulkhead.max_concurrent <= least:
        yield (
            f"the concurrency limit never acts: it is {least} at the least, and the bulkhead lets "
            f"{bulkhead.max_concurrent} in at a time; take one of them out"
        )


def _breaker_below_bulkhead(layer: Layer) -> Iterator[str]:
    breaker, bulkhead = first(layer, CircuitBreaker), first(layer, Bulkhead)
    if breaker and bulkhead and breaker.probes > bulkhead.max_concurrent:
        yield (
            f"the breaker wants {breaker.probes} probes and the bulkhead lets {bulkhead.max_concurrent} in at a time; "
            "make probes smaller"
        )


def _breaker_ignores_all(layer: Layer) -> Iterator[str]:
    breaker = first(layer, CircuitBreaker)
    if breaker is not None and breaker.on_result is None and breaker.on == FailureKind.REJECTED.value:
        yield (
            f"the breaker can never trip: it counts failures of the kind {breaker.on!r} alone, and those are never the "
            "dependency's; name others in its `on`"
        )


def _retry_of_unsafe_methods(layer: Layer) -> Iterator[str]:
    retry = first(layer, Retry)
    if retry is not None and retry.unsafe_methods:
        yield (
            "POST and PATCH are repeated without an idempotency key, so an order may be placed twice; send a key, and "
            "leave unsafe_methods out"
        )


def _hedge_without_budget(layer: Layer) -> Iterator[str]:
    hedge = first(layer, Hedge)
    if hedge is not None and hedge.budget is None:
        yield "a hedge without a budget doubles the load just when everything is slow; leave its budget on"


def _hedge_beyond_timeout(layer: Layer) -> Iterator[str]:
    hedge, timeout = first(layer, Hedge), first(layer, Timeout)
    if hedge and timeout and hedge.delay is not None and seconds(hedge.delay) >= seconds(timeout.limit):
        yield (
            f"the hedge never begins: its delay of {_s(hedge.delay)} is not below the timeout of {_s(timeout.limit)}, "
            "which ends the attempt first; make the delay shorter"
        )


def _workers_for_a_semaphore(layer: Layer) -> Iterator[str]:
    timeout, bulkhead = first(layer, Timeout), first(layer, Bulkhead)
    if timeout and bulkhead and timeout.threads and bulkhead.workers:
        yield (
            f"the bulkhead has workers of its own, so the timeout's {timeout.threads} threads are never used; take "
            "threads out of the timeout"
        )


def _chaos_without_bound(layer: Layer) -> Iterator[str]:
    chaos = first(layer, Chaos)
    if chaos is not None and chaos.share_max == 1:
        yield ("once chaos is switched on, every call may meet with a fault; set share_max to the share that may")


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
    "wait-beyond-deadline": _wait_beyond_deadline,
    "limit-never-acts": _limit_never_acts,
    "throttle-behind-breaker": _throttle_behind_breaker,
    "concurrency-limit-behind-bulkhead": _limit_behind_bulkhead,
    "more-probes-than-places": _breaker_below_bulkhead,
    "breaker-never-trips": _breaker_ignores_all,
    "retry-of-unsafe-methods": _retry_of_unsafe_methods,
    "hedge-without-budget": _hedge_without_budget,
    "hedge-beyond-timeout": _hedge_beyond_timeout,
    "threads-and-workers": _workers_for_a_semaphore,
    "chaos-without-bound": _chaos_without_bound,
}
"""Every rule about parts by its name."""

RULES_OF_POLICIES: dict[str, Callable[[Policy], Iterator[str]]] = {
    "retry-in-retry": _retry_in_retry,
    "called-takes-longer": _called_takes_longer,
    "fallback-on-itself": _fallback_on_itself,
    "bulkhead-too-small": _bulkhead_too_small,
    "rate-limit-too-low": _rate_limit_too_low,
    "timeout-too-short": _timeout_too_short,
    "breaker-never-trips": _breaker_never_trips,
}
"""Every rule about a whole policy, what it expects and what it calls, by its name."""

_OF_THE_WHOLE = {"unbounded-call", "retry-without-timeout", "retry-without-bound"}
"""Rules that look at all parts of a policy at once."""

"""Every rule of the lint fires on its smallest example, and not on the sound one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis import Bulkhead, CircuitBreaker, Deadline, Expected, Fallback, Hedge, Policy, Retry, Timeout
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.throttle import Throttle
from hormesis.policy.lint import RULES, RULES_OF_POLICIES, lint

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "policies.toml"


def retry(attempts: int = 2, **settings: Any) -> Retry:
    given: dict[str, Any] = {"on": "transient", "attempts": attempts, **settings}
    return Retry(**given)


# The rule, the parts on which it fires, those on which it does not, and a piece of what it says.
EXAMPLES: list[tuple[str, list[Any], list[Any], str]] = [
    (
        "wait-beyond-deadline",
        [Deadline("1s"), RateLimit("5/s", max_wait="1s"), Timeout("400ms")],
        [Deadline("1s"), RateLimit("5/s", max_wait="900ms"), Timeout("400ms")],
        "wait for the rate limit (1s) until its deadline (1s)",
    ),
    (
        "chaos-without-bound",
        [Timeout("1s"), hm.Chaos(latency="2s", share=0.1)],
        [Timeout("1s"), hm.Chaos(latency="2s", share=0.1, share_max=0.1)],
        "every call may meet with a fault; set share_max",
    ),
    (
        "limit-never-acts",
        [RateLimit("10/s", "700/min"), Timeout("1s")],
        [RateLimit("10/s", "600/min"), Timeout("1s")],
        "700/min never acts: 10/s lets no more than 610 through",
    ),
    (
        "limit-never-acts",
        [RateLimit("10/s", "600/min", algorithm="sliding window"), Timeout("1s")],
        [RateLimit("10/s", "609/min", algorithm="fixed window"), Timeout("1s")],
        "no more than 600",
    ),
    (
        "throttle-behind-breaker",
        [CircuitBreaker(failure_rate=0.4), Throttle(), Timeout("1s")],
        [CircuitBreaker(failure_rate=0.5), Throttle(), Timeout("1s")],
        "opens when 40% of the calls fail, before the throttle does anything (at 50%)",
    ),
    (
        "throttle-behind-breaker",
        [CircuitBreaker(failure_rate=0.4, on=["timeout", "throttled"]), Throttle(on="throttled"), Timeout("1s")],
        [CircuitBreaker(failure_rate=0.4, on=["timeout", KeyError]), Throttle(on="throttled"), Timeout("1s")],
        "make the throttle's ratio smaller",
    ),
    (
        "throttle-behind-breaker",
        [CircuitBreaker(failure_rate=0.4, on="throttled"), Throttle(), Timeout("1s")],
        [CircuitBreaker(failure_rate=0.4, on=lambda error: True), Throttle(on=lambda error: True), Timeout("1s")],
        "take what it acts on out of the breaker's `on`",
    ),
    (
        "concurrency-limit-behind-bulkhead",
        [ConcurrencyLimit(20), Bulkhead(20), Timeout("1s")],
        [ConcurrencyLimit(limit_min=5), Bulkhead(20), Timeout("1s")],
        "it is 20 at the least, and the bulkhead lets 20 in",
    ),
    (
        "timeout-beyond-deadline",
        [Deadline("1s"), Timeout("1s")],
        [Deadline("1s"), Timeout("999ms")],
        "the timeout of 1s never comes before the deadline of 1s",
    ),
    (
        "retries-beyond-deadline",
        [Deadline("1s"), retry(), Timeout("600ms")],
        [Deadline("1s"), retry(), Timeout("500ms")],
        "(600ms) leaves no time for a second within the deadline of 1s",
    ),
    (
        "retries-beyond-deadline",
        [Deadline("1s"), retry(), Timeout("600ms")],
        [Deadline("1s"), retry(attempts=1), Timeout("600ms")],
        "shorten the timeout or drop the retry",
    ),
    ("unbounded-call", [Bulkhead(1)], [Bulkhead(1), Timeout("1s")], "add a timeout or a deadline"),
    ("unbounded-call", [CircuitBreaker()], [CircuitBreaker(), Deadline("1s")], "a silent dependency holds every"),
    (
        "retry-without-timeout",
        [Deadline("1s"), retry()],
        [Deadline("1s"), retry(), Timeout("400ms")],
        "the first attempt may use up the whole deadline",
    ),
    ("retry-without-timeout", [Deadline("1s"), retry()], [Deadline("1s")], "add a timeout"),
    (
        "retry-of-no-use",
        [retry(on=["transient", "invalid"]), Timeout("1s")],
        [retry(on=["transient", "unavailable"]), Timeout("1s")],
        "is wrong again; take it out of the retry's `on`",
    ),
    ("retry-of-no-use", [retry(on="rejected"), Timeout("1s")], [retry(on=ValueError), Timeout("1s")], "never retried"),
    (
        "retry-without-bound",
        [retry(budget=None), Timeout("1s")],
        [retry(budget=0.1), Timeout("1s")],
        "every call becomes 2 attempts",
    ),
    (
        "retry-without-bound",
        [retry(budget=None), Timeout("1s")],
        [retry(budget=None), CircuitBreaker(), Timeout("1s")],
        "give the retry a budget or add a circuit breaker",
    ),
    (
        "retry-without-bound",
        [retry(budget=None), Timeout("1s")],
        [retry(attempts=1, budget=None), Timeout("1s")],
        "nothing ends that",
    ),
    (
        "slow-after-beyond-timeout",
        [CircuitBreaker(slow_after="1s"), Timeout("1s")],
        [CircuitBreaker(slow_after="999ms"), Timeout("1s")],
        "slow_after (1s) is not below the timeout (1s)",
    ),
    (
        "queue-beyond-deadline",
        [Deadline("1s"), Bulkhead(1, max_queued=1, max_wait="1s")],
        [Deadline("1s"), Bulkhead(1, max_queued=1, max_wait="900ms")],
        "a call may wait in the bulkhead's queue (1s) until its deadline (1s) is over",
    ),
    (
        "queue-beyond-deadline",
        [Deadline("1s"), Bulkhead(1, max_queued=1, max_wait="1s")],
        [Deadline("1s"), Bulkhead(1, max_wait="1s")],
        "make max_wait shorter",
    ),
    (
        "more-probes-than-places",
        [CircuitBreaker(probes=3), Bulkhead(2), Timeout("1s")],
        [CircuitBreaker(probes=2), Bulkhead(2), Timeout("1s")],
        "the breaker wants 3 probes and the bulkhead lets 2 in at a time",
    ),
    (
        "breaker-never-trips",
        [CircuitBreaker(on="rejected"), Timeout("1s")],
        [CircuitBreaker(on=["rejected", "timeout"]), Timeout("1s")],
        "it counts failures of the kind 'rejected' alone",
    ),
    (
        "breaker-never-trips",
        [CircuitBreaker(on="rejected"), Timeout("1s")],
        [CircuitBreaker(on="rejected", on_result=len), Timeout("1s")],
        "name others in its `on`",
    ),
    (
        "retry-of-unsafe-methods",
        [retry(unsafe_methods=True), Timeout("1s")],
        [retry(), Timeout("1s")],
        "an order may be placed twice",
    ),
    ("hedge-without-budget", [Hedge(budget=None), Timeout("1s")], [Hedge(), Timeout("1s")], "leave its budget on"),
    (
        "hedge-beyond-timeout",
        [Hedge("1s"), Timeout("1s")],
        [Hedge("500ms"), Timeout("1s")],
        "its delay of 1s is not below the timeout of 1s",
    ),
    (
        "threads-and-workers",
        [Bulkhead(5, workers="threads"), Timeout("1s", threads=3)],
        [Bulkhead(5, workers="threads"), Timeout("1s")],
        "the timeout's 3 threads are never used",
    ),
]


def found(*parts: Any) -> list[str]:
    return [finding.rule for finding in lint(Policy(*parts, name="stock"))]


@pytest.mark.parametrize(("rule", "thoughtless", "sound", "words"), EXAMPLES, ids=[each[0] for each in EXAMPLES])
def test_rules(rule: str, thoughtless: list[Any], sound: list[Any], words: str) -> None:
    """A rule fires on what it is about, alone, and tells what would do; the sound policy next to it is clean."""
    (finding,) = lint(Policy(*thoughtless, name="stock"))
    assert (finding.policy, finding.rule) == ("stock", rule)
    assert words in finding.message
    assert found(*sound) == []


def test_every_rule_has_an_example() -> None:
    """No rule is without an example here."""
    assert {rule for rule, *_ in EXAMPLES} == set(RULES)
    assert {rule for rule, *_ in EXAMPLES_OF_POLICIES} == set(RULES_OF_POLICIES)


def itself() -> Policy:
    """A policy whose fallback calls the same dependency again."""
    stock = Policy(Timeout("1s", cooperative=True), name="stock")

    @stock
    def another_try() -> int:
        return 0

    return stock.with_parts(Fallback(another_try))


def elsewhere() -> Policy:
    """A policy whose fallback calls another dependency."""

    @Policy(Timeout("1s", cooperative=True), name="archive")
    def from_the_archive() -> int:
        return 0

    return Policy(Fallback(from_the_archive), Timeout("1s"), name="stock")


def busy(*parts: Any, rate: Any = "200/s", latency: Any = "100ms") -> Policy:
    return Policy(*parts, name="stock", expects=Expected(rate=rate, latency=latency))


TIMEOUT = Timeout("1s")

# The rule, the policy on which it fires, one on which it does not, and a piece of what it says.
EXAMPLES_OF_POLICIES: list[tuple[str, Policy, Policy, str]] = [
    (
        "retry-in-retry",
        Policy(retry(3), Timeout("5s"), retry(2), TIMEOUT, name="stock", order="as given"),
        Policy(retry(3), Timeout("5s"), name="stock", order="as given"),
        "(stock) makes 3 x 2 attempts (1.44 over time",
    ),
    (
        "retry-in-retry",
        Policy(retry(3), TIMEOUT, name="stock", calls=[Policy(retry(4), TIMEOUT, name="rows")]),
        Policy(retry(3), TIMEOUT, name="stock", calls=[Policy(retry(1), TIMEOUT, name="rows")]),
        "(stock > rows) makes 3 x 4 attempts",
    ),
    (
        "called-takes-longer",
        Policy(Deadline("2s"), TIMEOUT, name="stock", calls=[Policy(Timeout("3s"), name="rows")]),
        Policy(Deadline("2s"), TIMEOUT, name="stock", calls=[Policy(Timeout("2s"), name="rows")]),
        "'rows' further in may go on for 3s after its caller's deadline of 2s",
    ),
    (
        "called-takes-longer",
        Policy(Deadline("2s"), TIMEOUT, name="stock", calls=[Policy(name="rows")]),
        Policy(TIMEOUT, name="stock", calls=[Policy(name="rows")]),
        "without bound",
    ),
    ("fallback-on-itself", itself(), elsewhere(), "calls the dependency that has just failed"),
    (
        "bulkhead-too-small",
        busy(Bulkhead(19), TIMEOUT),
        busy(Bulkhead(20), TIMEOUT),
        "200 calls a second of 100ms are 20 at a time, and the bulkhead lets 19 in",
    ),
    (
        "rate-limit-too-low",
        busy(RateLimit("199/s"), TIMEOUT),
        busy(RateLimit("200/s"), TIMEOUT),
        "200 calls a second are expected, and the rate limit lets 199 in",
    ),
    (
        "rate-limit-too-low",
        busy(RateLimit("300/s", "1000000/h", cost=2), TIMEOUT),
        busy(RateLimit("100/s", by="tenant"), TIMEOUT),
        "lets 139 in: it refuses in calm times; raise it",
    ),
    (
        "rate-limit-too-low",
        busy(RateLimit("230/s"), retry(3), TIMEOUT),
        busy(RateLimit("240/s"), retry(3), TIMEOUT),
        "200 calls a second become 240 attempts in an outage, and it lets 230 in",
    ),
    ("timeout-too-short", busy(Timeout("100ms")), busy(Timeout("101ms")), "make it longer"),
    (
        "breaker-never-trips",
        busy(CircuitBreaker(window="10s", quiet=None), TIMEOUT, rate="0.5/s"),
        busy(CircuitBreaker(window="10s"), TIMEOUT, rate="0.5/s"),
        "0.5 calls a second put 5 into a window of 10s, and it wants 10",
    ),
    (
        "breaker-never-trips",
        busy(CircuitBreaker(window="10s", quiet=None), TIMEOUT, rate="0.5/s"),
        busy(CircuitBreaker(window="20s", quiet=None), TIMEOUT, rate="0.5/s"),
        "make the window longer",
    ),
]


@pytest.mark.parametrize(
    ("rule", "thoughtless", "sound", "words"), EXAMPLES_OF_POLICIES, ids=[each[0] for each in EXAMPLES_OF_POLICIES]
)
def test_rules_of_policies(rule: str, thoughtless: Policy, sound: Policy, words: str) -> None:
    """A rule about a whole policy, its traffic and what it calls fires on its example, and not on the sound one."""
    (finding,) = lint(thoughtless)
    assert (finding.policy, finding.rule) == ("stock", rule)
    assert words in finding.message
    assert lint(sound) == []


def test_layers_are_looked_at_one_by_one() -> None:
    """In an order as given, each layer is a policy of its own to the rules."""
    layers = Policy(Deadline("2s"), Timeout("1s"), Deadline("1s"), Timeout("3s"), name="stock", order="as given")
    assert [finding.rule for finding in lint(layers)] == ["timeout-beyond-deadline"]


def test_several_findings() -> None:
    """A policy may be thoughtless in more than one way, and hears of each."""
    assert found(Deadline("1s"), retry(on="rejected", budget=None)) == [
        "retry-without-timeout",
        "retry-of-no-use",
        "retry-without-bound",
    ]


def test_nothing_to_object_to() -> None:
    """A policy without parts, and the policy of the README, are clean."""
    assert found() == []
    assert (
        found(
            Fallback(value=None),
            Deadline("2s"),
            retry(3),
            CircuitBreaker(failure_rate=0.5, slow_after="300ms", slow_rate=0.8),
            Bulkhead(20, max_queued=40),
            Timeout("500ms"),
        )
        == []
    )


def test_the_shop() -> None:
    """The shop's own policies are clean."""
    policies = hm.load(SHOP)
    assert policies
    assert [finding for policy in policies.values() for finding in lint(policy)] == []


def test_a_bound_may_come_from_another_layer() -> None:
    """In an order as given, a call is bounded when any of its layers bounds it."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Retry(on="transient"), hm.Timeout("1s"), order="as given", name="api")
    outside = hm.Policy(hm.Timeout("5s"), hm.Retry(on="transient"), order="as given", name="api")
    assert lint(policy) == lint(outside) == []

"""Every rule of the lint fires on its smallest example, and not on the sound one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis import Bulkhead, CircuitBreaker, Deadline, Fallback, Policy, Retry, Timeout
from hormesis.policy import files
from hormesis.policy.lint import RULES, lint

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "policies.toml"


def retry(attempts: int = 2, **settings: Any) -> Retry:
    given: dict[str, Any] = {"on": "transient", "attempts": attempts, **settings}
    return Retry(**given)


# The rule, the parts on which it fires, those on which it does not, and a piece of what it says.
EXAMPLES: list[tuple[str, list[Any], list[Any], str]] = [
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


def test_retry_in_retry() -> None:
    """A retry inside a retry multiplies; the message counts the attempts."""
    nested = Policy(retry(3), Timeout("5s"), retry(2), Timeout("1s"), name="stock", order="as given")
    (finding,) = lint(nested)
    assert (finding.policy, finding.rule) == ("stock", "retry-in-retry")
    assert "3 x 2 attempts" in finding.message
    assert lint(Policy(retry(3), Timeout("5s"), name="stock", order="as given")) == []


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
    policies = files.load(SHOP)
    assert policies
    assert [finding for policy in policies.values() for finding in lint(policy)] == []


def test_a_bound_may_come_from_another_layer() -> None:
    """In an order as given, a call is bounded when any of its layers bounds it."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Retry(on="transient"), hm.Timeout("1s"), order="as given", name="api")
    outside = hm.Policy(hm.Timeout("5s"), hm.Retry(on="transient"), order="as given", name="api")
    assert lint(policy) == lint(outside) == []

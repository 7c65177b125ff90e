"""Putting parts together: the order, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.slots import Slot
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.part import AdmissionPart, Part
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.throttle import Throttle

DEADLINE, RETRY, BREAKER = hm.Deadline(5), hm.Retry(on="any"), hm.CircuitBreaker()
FALLBACK, HEDGE, BULKHEAD, TIMEOUT = hm.Fallback(value=0), hm.Hedge("50ms", threads=2), hm.Bulkhead(5), hm.Timeout(1)
THROTTLE, RATE_LIMIT, CONCURRENCY_LIMIT = Throttle(), RateLimit("100/s"), ConcurrencyLimit(20)
STANDARD: tuple[Part, ...] = (
    *(DEADLINE, FALLBACK, RETRY, HEDGE),
    *(BREAKER, THROTTLE, RATE_LIMIT, CONCURRENCY_LIMIT, BULKHEAD, TIMEOUT),
    hm.Chaos(latency="1s", share=0.1, share_max=0.1),
)


def test_parts_are_arranged_whatever_order_they_come_in() -> None:
    """All orders of writing make the same policy; of eleven parts that is too many to try, so some are drawn."""
    draw = random.Random(1)
    for _ in range(2000):
        assert hm.Policy(*draw.sample(STANDARD, len(STANDARD))).parts == STANDARD


def test_every_slot_has_a_part_and_a_reason() -> None:
    """The standard order names all parts there are, each with the reason why it stands there."""
    assert [part.slot for part in STANDARD] == list(Slot)
    assert all(len(slot.reason) > 20 for slot in Slot)
    assert [slot.position for slot in Slot] == list(range(len(Slot)))
    for part in STANDARD:
        assert isinstance(part, AdmissionPart) == (part.slot.family.value == "admission")


def test_an_order_as_given_is_kept() -> None:
    """Parts in an order of one's own stay in it, cut into layers where the standard order begins anew."""
    policy = hm.Policy(BREAKER, RETRY, TIMEOUT, order="as given")
    assert policy.parts == (BREAKER, RETRY, TIMEOUT)
    assert policy.layers == ((BREAKER,), (RETRY, TIMEOUT))
    assert hm.Policy(*STANDARD, order="as given").layers == (STANDARD,)


def test_a_policy_without_parts_is_the_function() -> None:
    """No parts, in either order, change nothing."""
    assert hm.Policy().call(len, "tea") == 3
    assert hm.Policy(order="as given").call(len, "tea") == 3


@pytest.mark.parametrize("part", STANDARD, ids=lambda part: part.slot.key)
def test_a_part_stands_once(part: Any) -> None:
    """In the standard order a policy has one part of a kind; twice is refused, with the way out."""
    with pytest.raises(hm.ConfigurationError, match=f"{part.slot.key}.*order='as given'"):
        hm.Policy(part, part)


@pytest.mark.parametrize("judge", [RETRY, BREAKER], ids=["retry", "circuit_breaker"])
def test_a_fallback_that_would_hide_failures(judge: Any) -> None:
    """A fallback inside of a part that judges failures is refused: that part would never see one."""
    with pytest.raises(hm.ConfigurationError, match=f"{judge.slot.key}.*put it outside"):
        hm.Policy(judge, FALLBACK, order="as given")
    with pytest.raises(hm.ConfigurationError, match="put it outside"):
        hm.Policy(judge, TIMEOUT, FALLBACK, order="as given")
    hm.Policy(FALLBACK, judge, order="as given")


@pytest.mark.parametrize("thing", [3, "retry", None, hm.Bulkhead, hm.Timeout, hm.Retry, len], ids=repr)
def test_what_is_no_part(thing: Any) -> None:
    """What is no part, such as a class that was not called, is refused with the thing that it was."""
    with pytest.raises(hm.ConfigurationError, match="no part of a policy") as caught:
        hm.Policy(thing)
    assert repr(thing) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"name": ""}, "name"), ({"name": 3}, "name"), ({"order": "mine"}, "order"), ({"order": None}, "order")],
)
def test_bad_settings_of_a_policy(settings: dict[str, Any], key: str) -> None:
    """A policy's own settings are checked as well, and the message shows the value."""
    with pytest.raises(hm.ConfigurationError, match=key) as caught:
        hm.Policy(**settings)
    assert repr(settings[key]) in str(caught.value)


def test_parts_are_found_by_their_class() -> None:
    """`part` returns the outermost part of a class, or None."""
    outer, inner = hm.Retry(on="any"), hm.Retry(on="timeout")
    policy = hm.Policy(outer, inner, order="as given")
    assert policy.part(hm.Retry) is outer
    assert policy.part(hm.Bulkhead) is None


def test_a_policy_in_a_traceback() -> None:
    """A policy's representation names it and its parts."""
    assert repr(hm.Policy(TIMEOUT, RETRY, name="stock")) == "<Policy 'stock': retry, timeout>"
    assert repr(hm.Policy()) == "<Policy 'policy': no parts>"


def test_replaced_parts_take_their_place() -> None:
    """`with_parts` replaces parts of the same kind and adds the others."""
    policy = hm.Policy(RETRY, TIMEOUT)
    assert policy.with_parts(hm.Timeout(5), FALLBACK).parts == (FALLBACK, RETRY, hm.Timeout(5))
    assert policy.parts == (RETRY, TIMEOUT)

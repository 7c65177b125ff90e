"""Which calls a fault acts on: the arithmetic, and messages that only somebody with the token can have written."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.chaos import ChaosMachine, Terms, Trigger, draw, fold
from hormesis.core.ordinals import Ordinals
from hormesis.core.signed import MESSAGE_MAX, read_signed, sign
from hormesis.patterns.injection import glob

TOKEN = "a token of sixteen"
CALLS = 20_000


def acting(terms: Terms, *, share_max: float = 1.0, calls: int = CALLS, seed: int = 1) -> set[int]:
    """The numbers of the calls on which a rule acts, at a place of which so much may be touched."""
    machine, trigger = ChaosMachine(fold(seed, "place")), Trigger(terms, fold(seed, "rule"), 0.0)
    return {
        call
        for call in range(1, calls + 1)
        if machine.may_touch(share_max, None) and trigger.acts(1.0, {}, share_max, None) is not None
    }


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_draw_is_a_share(stream: int, index: int) -> None:
    """It is from 0 to below 1, and the same each time."""
    assert 0 <= draw(stream, index) < 1
    assert draw(stream, index) == draw(stream, index)


def test_draws_are_spread_evenly() -> None:
    """Each tenth gets a tenth, and what follows does not depend on what was before."""
    drawn = [draw(fold("place"), index) for index in range(CALLS)]
    for tenth in range(10):
        assert abs(sum(tenth / 10 <= each < (tenth + 1) / 10 for each in drawn) / CALLS - 0.1) < 0.01
    after_small = [second for first, second in itertools.pairwise(drawn) if first < 0.1]
    assert abs(sum(after_small) / len(after_small) - 0.5) < 0.03


@pytest.mark.parametrize("share_max", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 1.0])
def test_a_rule_has_its_share_as_far_as_the_place_lets_it(share: float, share_max: float) -> None:
    """It acts on the share that it asks for, and never on more than may be touched."""
    acted = len(acting(Terms(share=share), share_max=share_max))
    assert abs(acted / CALLS - min(share, share_max)) < 0.012


def test_all_rules_together_keep_to_the_place() -> None:
    """Whatever many rules ask for, no more calls are touched than may be."""
    machine = ChaosMachine(fold(1, "place"))
    rules = [Trigger(Terms(share=0.5), fold(1, name), 0.0) for name in range(5)]
    touched = 0
    for _ in range(CALLS):
        if machine.may_touch(0.2, None):
            touched += any(rule.acts(1.0, {}, 0.2, None) is not None for rule in rules)
    assert abs(touched / CALLS - 0.2) < 0.01


def test_a_larger_share_keeps_the_calls_of_a_smaller_one() -> None:
    """The same seed picks the same calls, and raising the share only adds some."""
    assert acting(Terms(share=0.2)) == acting(Terms(share=0.2))
    assert acting(Terms(share=0.2)) < acting(Terms(share=0.4))
    assert acting(Terms(share=0.2)) != acting(Terms(share=0.2), seed=2)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (Terms(calls=Ordinals("1-2")), {1, 2}),
        (Terms(calls=Ordinals("3, 5-6, 9-")), {3, 5, 6, 9, 10}),
        (Terms(every=4), {4, 8}),
        (Terms(calls=Ordinals("1-5"), every=2), {2, 4}),
    ],
)
def test_calls_by_their_numbers(terms: Terms, expected: set[int]) -> None:
    """The n-th call, ranges of them, and one in so many."""
    assert acting(terms, calls=10) == expected


def test_a_window_of_time() -> None:
    """A rule acts from a moment on and up to another; calls outside of it are not counted."""
    trigger = Trigger(Terms(calls=Ordinals("1"), after=10.0, until=20.0), fold(1), began=100.0)
    assert [trigger.acts(now, {}, 1.0, None) for now in (100.0, 109.9, 110.0, 111.0, 119.0, 120.0)] == [
        *(None, None, 1),
        *(None, None, None),
    ]


def test_labels() -> None:
    """Calls that a rule is not about are neither met nor counted; a label that nobody told matches nothing."""
    where = [("host", glob("eu-*")), ("method", glob("GET"))]
    trigger = Trigger(Terms(calls=Ordinals("2"), where=where), fold(1), 0.0)
    seen = [{"host": "eu-1", "method": "GET"}, {"host": "us-1", "method": "GET"}, {"method": "GET"}, {"host": "eu-1"}]
    assert [trigger.acts(1.0, labels, 1.0, None) for labels in (*seen, seen[0])] == [None] * 4 + [2]


def test_a_journey_has_one_fate() -> None:
    """What stands for a journey decides in the place of the call's number, at every attempt."""
    machine, trigger = ChaosMachine(fold(1)), Trigger(Terms(share=0.3), fold(2), 0.0)
    fates = {}
    for journey in range(300):
        stands = fold(f"r-{journey}")
        fates[journey] = {
            machine.may_touch(0.5, stands) and trigger.acts(1.0, {}, 0.5, stands) is not None for _ in range(3)
        }
    assert all(len(fate) == 1 for fate in fates.values())
    assert 60 < sum(fate == {True} for fate in fates.values()) < 120


def test_luck_is_another_draw() -> None:
    """How strong a fault is does not depend on whether it acts."""
    trigger = Trigger(Terms(share=0.1), fold(7), 0.0)
    lucks = [trigger.luck(index) for call in range(CALLS) if (index := trigger.acts(1.0, {}, 1.0, None)) is not None]
    assert abs(sum(lucks) / len(lucks) - 0.5) < 0.03
    assert max(lucks) > 0.95


# Signed messages.

NOW = 1_000_000.0


def message(**changed: Any) -> str:
    """A message whose content was signed as it stands, whatever it is."""
    said = {"exp": NOW + 30, "jti": "1", "aud": "test", "say": {"x": 1}, **changed}
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    signature = hmac.digest(TOKEN.encode(), payload.encode(), "sha256")
    return f"{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_a_message_is_read_until_it_is_stale() -> None:
    """With the same token it says what was written, up to its time, and not beyond."""
    text = sign(TOKEN, "test", {"x": [1, "ä"]}, expires=NOW + 30, number="1")
    assert read_signed(TOKEN, "test", text, NOW) == {"x": [1, "ä"]}
    assert read_signed(TOKEN, "test", text, NOW + 29.9) == {"x": [1, "ä"]}
    assert read_signed(TOKEN, "test", text, NOW + 30) == "stale"
    assert read_signed("another token of 16", "test", text, NOW) == "forged"
    assert read_signed(TOKEN, "something else", text, NOW) == "malformed"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": NOW + 86_401}, "stale"),
        ({"exp": math.inf}, "malformed"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": None}, "malformed"),
        ({"say": "x"}, "malformed"),
        ({"aud": 3}, "malformed"),
    ],
)
def test_what_can_not_be_meant_is_not_heeded(changed: dict[str, Any], why: str) -> None:
    """Not even from somebody with the token; nothing is good for ever."""
    assert isinstance(read_signed(TOKEN, "test", message(), NOW), dict)
    assert read_signed(TOKEN, "test", message(**changed), NOW) == why


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_makes_it_raise(text: str) -> None:
    """Whatever comes over a wire is told by a word."""
    assert read_signed(TOKEN, "test", text, NOW) in ("malformed", "forged")


@given(st.integers(0, 200), st.sampled_from("Ax-_.0"))
def test_no_letter_can_be_changed(place: int, letter: str) -> None:
    """A message of which one letter is another is none."""
    text = sign(TOKEN, "test", {"x": 1}, expires=NOW + 30, number="1")
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    assert changed == text or read_signed(TOKEN, "test", changed, NOW) in ("forged", "malformed")


def test_long_messages_are_not_read() -> None:
    """The bound holds before anything is computed."""
    assert read_signed(TOKEN, "test", "A" * MESSAGE_MAX + ".A", NOW) == "malformed"

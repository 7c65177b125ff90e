"""Which calls a fault acts on: arithmetic, and no dice.

Each rule draws a number for each call, a hash of the seed, of where it acts, and of the call's own number or of the
journey that it belongs to. So the same seed picks the same calls, a journey meets with the same in every attempt, and a
rule whose share grows keeps those that it had:

    a call may be touched      if   draw(place, call) < share_max
    and a rule acts on it      if   draw(rule, call) < share / share_max

The first line is the same for all rules of a place, whatever they ask for, so no more than `share_max` of its calls is
ever touched; the second makes the share of each rule what it asks for, as far as that lets it.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), for the mixing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from hormesis.core.ordinals import Ordinals

__all__ = ["ChaosMachine", "Terms", "Trigger", "draw", "fold"]

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_BELOW_ONE = 2.0**-53

Criteria: TypeAlias = Sequence[tuple[str, Callable[[str], object]]]
"""Labels of a call, each with what its value must match."""


def fold(*parts: object) -> int:
    """Make one number of what something is called; the same on every machine and in every process.

    >>> fold(7, "payments") == fold(7, "payments"), fold("ab", "c") == fold("a", "bc")
    (True, False)
    """
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def draw(stream: int, index: int) -> float:
    """Return the number of a call in a stream of them, from 0 to below 1; numbers that follow look independent.

    >>> all(0 <= draw(fold("payments"), call) < 1 for call in range(1000))
    True
    """
    mixed = (stream + (index + 1) * _GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) * _BELOW_ONE


class Terms(NamedTuple):
    """When a rule acts.

    Args:
        share: The share of the calls that are left after all else; 1 is all of them.
        calls: Which calls by their numbers; None: all. Counted are those that the rule is about, while it acts at all.
        every: One call in so many; None: all.
        after, until: Seconds since the rule came into force.
        where: What the labels of a call must be.
    """

    share: float = 1.0
    calls: Ordinals | None = None
    every: int | None = None
    after: float = 0.0
    until: float | None = None
    where: Criteria = ()


class Trigger:
    """A rule in force.

    Args:
        terms: When it acts.
        stream: Where its numbers come from; see `fold`.
        began: When it came into force.

    >>> second = Trigger(Terms(calls=Ordinals("2")), fold("payments"), began=10.0)
    >>> [second.acts(now=11.0, labels={}, share_max=1.0, journey=None) for _ in range(3)]
    [None, 2, None]
    """

    __slots__ = ("_began", "_numbers", "_stream", "_terms")

    def __init__(self, terms: Terms, stream: int, began: float) -> None:
        self._terms = terms
        self._stream = stream
        self._began = began
        # Its next is one step in C: two threads never get the same number.
        self._numbers: Iterator[int] = itertools.count(1)

    def acts(self, now: float, labels: Mapping[str, str], share_max: float, journey: int | None) -> int | None:
        """Say whether it acts on a call that may be touched: by the call's number, or None.

        Args:
            now: The time.
            labels: What is known of the call.
            share_max: The share of calls that may be touched.
            journey: What stands for the call in place of its number.
        """
        terms, elapsed = self._terms, now - self._began
        if elapsed < terms.after or (terms.until is not None and elapsed >= terms.until):
            return None
        for label, matches in terms.where:
            if not matches(labels.get(label, "")):
                return None
        number = next(self._numbers)
        if terms.calls is not None and number not in terms.calls:
            return None
        if terms.every is not None and number % terms.every:
            return None
        index = number if journey is None else journey
        if terms.share >= share_max or draw(self._stream, index) < terms.share / share_max:
            return index
        return None

    def luck(self, index: int) -> float:
        """Return another number of a call, for how strong the fault is this time.

        Args:
            index: What `acts` returned.
        """
        return draw(~self._stream & _MASK, index)


class ChaosMachine:
    """Says which calls of a place may be touched at all, whatever rules there are.

    Args:
        place: Where it is; see `fold`.

    >>> machine = ChaosMachine(fold(0, "payments"))
    >>> 80 < sum(machine.may_touch(0.1, None) for _ in range(1000)) < 120
    True
    """

    __slots__ = ("_numbers", "_place")

    def __init__(self, place: int) -> None:
        self._place = place
        self._numbers: Iterator[int] = itertools.count(1)

    def may_touch(self, share_max: float, journey: int | None) -> bool:
        """Count a call, and say whether it is among those that may be touched.

        Args:
            share_max: The share of calls that may be.
            journey: What stands for the call in place of its number.
        """
        number = next(self._numbers)
        return share_max >= 1 or draw(self._place, number if journey is None else journey) < share_max

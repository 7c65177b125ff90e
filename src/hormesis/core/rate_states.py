"""What a limit remembers of each key, for millions of keys.

A key costs its string, one number and a place in a dictionary. Keys lie in many small dictionaries, the *shards*, so
that whatever is done to more than one key at a time is done to a few hundred: no call pays for all of them, not even
for the growth of a dictionary. A table that holds few keys has one shard.

**Forgetting is free** where the state has become what a new key has. When a shard has doubled since it was looked
through, it is looked through again, and what is as good as new goes; now and then a newcomer takes the next shard's
turn, so that keys of yesterday do not stay because nobody new came into their shard. Both cost a newcomer a constant
amount, spread over many.

**At the bound** a newcomer takes the place of those that are nearest to new: forgetting one gives it a fresh
allowance, and there that is worth least. An eighth of the newcomer's shard goes at a time. So a flood of names that
nobody has seen pushes out its own: the client that has used up its limit is the last to be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

__all__ = ["State", "States", "Worth"]

State: TypeAlias = float
"""What a limit remembers of a key; whole numbers for the algorithms that count."""

_SHARD_KEYS = 512
"""Keys of a shard when the table is full: to look through them takes some tens of microseconds."""
_MARK_LEAST = 32
"""A shard that is smaller is not worth looking through."""
_LOOKED_AT = 8
"""Keys of other shards that a newcomer looks through, on average."""
_EVICTED = 8
"""One key in so many of a shard goes when the table is full."""


class Worth(Protocol):
    """What tells how much a state is worth remembering."""

    def living(self, states: dict[str, State], now: float) -> dict[str, State]:
        """Return those that differ from what a new key has."""
        ...

    def used(self, state: State, now: float) -> float:
        """Return how much of its limit a key has used up."""
        ...


class States:
    """States by key.

    The hot path looks into `shards` itself: `shards[hash(key) & mask]` is where a key is, if it is there. None of this
    takes a lock: whoever calls holds one.

    Args:
        worth: Tells what may be forgotten.
        most: Keys that are kept at most.

    >>> class Counts:
    ...     def living(self, states, now): return {key: state for key, state in states.items() if state}
    ...     def used(self, state, now): return state
    >>> states = States(Counts(), 2)
    >>> for key, used in {"heavy": 9, "a": 1, "b": 2, "c": 1}.items():
    ...     states.put(key, used, now=0.0)
    >>> states.get("heavy"), len(states)
    (9, 2)
    """

    __slots__ = ("_hand", "_looked_at", "_marks", "_size", "mask", "most", "shards", "worth")

    def __init__(self, worth: Worth, most: int) -> None:
        self.worth = worth
        self.most = most
        shards = 1 << (most // _SHARD_KEYS).bit_length()
        self.mask = shards - 1
        self.shards: list[dict[str, State]] = [{} for _ in range(shards)]
        self._marks = [_MARK_LEAST] * shards
        self._size = 0
        self._looked_at = 0
        self._hand = 0

    def __len__(self) -> int:
        return self._size

    def get(self, key: str) -> State | None:
        """Return what is remembered of a key, if anything is."""
        return self.shards[hash(key) & self.mask].get(key)

    def put(self, key: str, state: State, now: float) -> None:
        """Remember something of a key."""
        shard = self.shards[hash(key) & self.mask]
        if key in shard:
            shard[key] = state
        else:
            self.add(key, state, now)

    def add(self, key: str, state: State, now: float) -> None:
        """Remember something of a key that is not here yet."""
        at = hash(key) & self.mask
        self._looked_at += _LOOKED_AT
        if self._looked_at >= len(self.shards[self._hand]):
            self._look_through(self._hand, now)
            self._hand = (self._hand + 1) & self.mask
            self._looked_at = 0
        if len(self.shards[at]) >= self._marks[at]:
            self._look_through(at, now)
        if self._size >= self.most:
            self._evict(at, now)
        self.shards[at][key] = state
        self._size += 1

    def forget(self, key: str) -> None:
        """Forget a key that has become as good as new."""
        if self.shards[hash(key) & self.mask].pop(key, None) is not None:
            self._size -= 1

    def remade(self, worth: Worth, most: int, convert: Callable[[State], State]) -> States:
        """Return a table that remembers the same by another measure, and keeps fewer or more.

        Should they be too many for it, each newcomer makes them fewer.
        """
        other = States(worth, most)
        for shard in self.shards:
            for key, state in shard.items():
                other.shards[hash(key) & other.mask][key] = convert(state)
            other._size += len(shard)
        other._marks = [max(_MARK_LEAST, 2 * len(shard)) for shard in other.shards]
        return other

    def _look_through(self, at: int, now: float) -> None:
        before = self.shards[at]
        living = self.shards[at] = self.worth.living(before, now)
        self._size += len(living) - len(before)
        self._marks[at] = max(_MARK_LEAST, 2 * len(living))

    def _evict(self, at: int, now: float) -> None:
        """Make room for one key in a shard, at the expense of those that are nearest to new."""
        self._look_through(at, now)
        if self._size < self.most:
            return
        while not self.shards[at]:
            at = (at + 1) & self.mask
        shard, used = self.shards[at], self.worth.used
        nearest = sorted(shard, key=lambda key: used(shard[key], now))
        for key in nearest[: max(1, len(nearest) // _EVICTED)]:
            del shard[key]
            self._size -= 1

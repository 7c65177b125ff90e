"""What limits remember of each key, for millions of keys.

A key costs its string, one number for each limit, and a place in a dictionary. Keys lie in many small *shards*, so that
whatever is done to more than one key at a time is done to some hundreds: no call pays for all of them, not even for the
growth of a dictionary.

**One hand at a time.** A shard lies in a cell of its own, and whoever has taken it out has it alone: two atomic steps
that cost a fraction of a lock. Whoever finds the cell empty takes the owner's lock and waits, for some tens of
instructions of another thread. A thread that is interrupted (by Ctrl-C) with a shard in its hand has lost it, so there
is an end to waiting, and the shard begins anew.

**Forgetting is free** where the state has become what a new key has. Newcomers go round through the shards, eight keys
each, and what is as good as new goes. So what is remembered is little more than what differs from new.

**At the bound** a newcomer takes the place of those that are nearest to new: forgetting one gives it a fresh
allowance, and there that is worth least. An eighth of the newcomer's shard goes at a time. So a flood of names that
nobody has seen pushes out its own: the client that has used up its limit is the last to be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

__all__ = ["Shard", "State", "States", "Worth"]

State: TypeAlias = Any
"""What a limit remembers of a key: one number, whole for the algorithms that count."""

Shard: TypeAlias = list[dict[str, State]]
"""Some of the keys: for each limit their states."""

_SHARD_KEYS = 2048
"""Keys of a shard when all is full: to look through them takes some tens of microseconds."""
_LOOKED_AT = 8
"""Keys of other shards that a newcomer looks through, on average."""
_EVICTED = 8
"""One key in so many of a shard goes when there is no more room."""
_PAUSES = 1000
"""How often somebody waits for a shard that another has in hand, before it counts as lost."""


class Worth(Protocol):
    """What tells how much a state is worth remembering."""

    def living(self, states: dict[str, State], now: float) -> dict[str, State]:
        """Return those that differ from what a new key has."""
        ...

    def used(self, state: State, now: float) -> float:
        """Return how much of its limit a key has used up."""
        ...


class States:
    """The states of several limits, by key; all but what `cells` does wants its owner's lock held.

    Args:
        limits: What there are states of.
        most: Keys that are kept at most, of each limit.
        pause: Lets other threads go on, for a moment.

    Attributes:
        cells: Each holds one shard, or none while somebody has it in hand. `cells[hash(key) & mask].pop()` takes out
            the shard of a key, and `append` lays it back.

    >>> class Counts:
    ...     def living(self, states, now): return {key: state for key, state in states.items() if state}
    ...     def used(self, state, now): return state
    >>> states = States([Counts()], 2, pause=lambda: None)
    >>> shard = states.take_out(0)
    >>> for key, used in {"heavy": 9, "a": 1, "b": 2, "c": 1}.items():
    ...     states.put(0, shard, key, [used], now=0.0)
    >>> shard
    [{'heavy': 9, 'c': 1}]
    """

    __slots__ = ("_hand", "_lengths", "_limits", "_looked_at", "_most", "_pause", "_sizes", "cells", "mask")

    def __init__(self, limits: Sequence[Worth], most: int, *, pause: Callable[[], object]) -> None:
        self._limits = tuple(limits)
        self._most = most
        self._pause = pause
        shards = 1 << (most // _SHARD_KEYS).bit_length()
        self.mask = shards - 1
        self.cells: list[list[Shard]] = [[self._new_shard()] for _ in range(shards)]
        # How many keys there are of each limit: in all shards, and in each as it was laid back.
        self._sizes = [0] * len(self._limits)
        self._lengths = [[0] * len(self._limits) for _ in range(shards)]
        self._hand = 0
        self._looked_at = 0

    def __len__(self) -> int:
        """Keys that are remembered, of whichever limit remembers the most."""
        return max(self._sizes)

    def at(self, key: str) -> int:
        """Return which cell a key's shard lies in."""
        return hash(key) & self.mask

    def take_out(self, at: int) -> Shard:
        """Take a shard out of its cell; wait for it while another thread has it in hand."""
        for _ in range(_PAUSES):
            try:
                return self.cells[at].pop()
            except IndexError:
                self._pause()
        return self._new_shard()

    def lay_back(self, at: int, shard: Shard) -> None:
        """Lay a shard back into its cell."""
        for number, states in enumerate(shard):
            self._sizes[number] += len(states) - self._lengths[at][number]
            self._lengths[at][number] = len(states)
        # One that was given up as lost, and came back after all, goes.
        self.cells[at][:] = [shard]

    def put(self, at: int, shard: Shard, key: str, after: Sequence[State | None], now: float) -> None:
        """Remember something of a key, in the shard that is in hand; what is None is as good as new."""
        newcomer = False
        for number, state in enumerate(after):
            if state is None:
                shard[number].pop(key, None)
                continue
            if key not in shard[number]:
                self._make_room(at, shard, number, now)
                newcomer = True
            shard[number][key] = state
        if newcomer:
            self._go_round(at, shard, now)

    def remade(
        self, limits: Sequence[Worth], most: int, follow: Sequence[tuple[int, Callable[[State], State]] | None]
    ) -> States:
        """Return states of other limits, that keeps fewer or more; this one has lost its shards then.

        Should there be too many keys, each newcomer makes them fewer.

        Args:
            limits: What there are to be states of.
            most: Keys that are kept at most.
            follow: For each of them, whose place among these here it takes, and what makes its states of those.
        """
        other = States(limits, most, pause=self._pause)
        shards = [other.take_out(at) for at in range(len(other.cells))]
        for mine in (self.take_out(at) for at in range(len(self.cells))):
            for number, place in enumerate(follow):
                if place is not None:
                    old, convert = place
                    for key, state in mine[old].items():
                        shards[other.at(key)][number][key] = convert(state)
        for at, shard in enumerate(shards):
            other.lay_back(at, shard)
        return other

    def _new_shard(self) -> Shard:
        return [{} for _ in self._limits]

    def _go_round(self, at: int, shard: Shard, now: float) -> None:
        """Go a step further round through the shards, and forget what is as good as new."""
        self._looked_at += _LOOKED_AT
        if self._looked_at < max(self._lengths[self._hand]):
            return
        if self._hand == at:
            self._look_through(shard, now)
        else:
            other = self.take_out(self._hand)
            self._look_through(other, now)
            self.lay_back(self._hand, other)
        self._hand = (self._hand + 1) & self.mask
        self._looked_at = 0

    def _look_through(self, shard: Shard, now: float) -> None:
        for number, limit in enumerate(self._limits):
            if shard[number]:
                shard[number] = limit.living(shard[number], now)

    def _make_room(self, at: int, shard: Shard, number: int, now: float) -> None:
        """Make room for one more key of a limit, where there is none."""
        others = self._sizes[number] - self._lengths[at][number]
        if others + len(shard[number]) < self._most:
            return
        shard[number] = self._limits[number].living(shard[number], now)
        if others + len(shard[number]) < self._most:
            return
        if shard[number]:
            self._evict(shard[number], number, now)
            return
        # Whoever is the only one of its shard takes the place of somebody in the next that has keys.
        while not self._lengths[at := (at + 1) & self.mask][number]:
            pass
        other = self.take_out(at)
        self._evict(other[number], number, now)
        self.lay_back(at, other)

    def _evict(self, states: dict[str, State], number: int, now: float) -> None:
        used = self._limits[number].used
        nearest = sorted(states, key=lambda key: used(states[key], now))
        for key in nearest[: max(1, len(nearest) // _EVICTED)]:
            del states[key]

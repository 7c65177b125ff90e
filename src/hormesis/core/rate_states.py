"""What limits remember of each key, for millions of keys.

A key costs its string, one number for each limit, and a place in a dictionary. Keys lie in many small *shards*, so that
whatever is done to more than one key at a time is done to some thousand: no call pays for all of them, not even for the
growth of a dictionary.

**One hand at a time.** A shard lies in a cell of its own, and whoever has taken it out has it alone: two atomic steps
that cost a fraction of a lock. Whoever finds the cell empty takes the owner's lock and waits, for some tens of
instructions of another thread. A thread that is interrupted (by Ctrl-C) with a shard in its hand has lost it, so there
is an end to waiting, and the shard begins anew.

**Room.** All shards together have room for as many keys as are kept at most; each has a part of that, and gets more
when it is full. So newcomers are counted without anybody looking at the whole.

**Forgetting is free** where the state has become what a new key has: a shard that is full is looked through first, and
now and then a newcomer goes on through the others.

**At the bound** newcomers take the place of those that are nearest to new: forgetting one gives it a fresh allowance,
and there that is worth least. An eighth of a shard goes at a time. So a flood of names that nobody has seen pushes out
its own: the client that has used up its limit is the last to be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

__all__ = ["Shard", "State", "States", "Worth"]

State: TypeAlias = Any
"""What a limit remembers of a key: one number, whole for the algorithms that count."""

Shard: TypeAlias = list[Any]
"""Some of the keys: how many of them there is room for, and for each limit their states by key."""

_SHARD_KEYS = 2048
"""Keys of a shard when all is full: to look through them takes some tens of microseconds."""
_MORE_ROOM = 256
"""Keys that a shard gets more room for at a time, at the most."""
_PLENTY = 8
"""Keys that there is room for on average in each shard when room is no longer scarce, half of what is left."""
_STRIDE = 128
"""Keys of other shards that are looked through for one newcomer in sixteen, ..."""
_SHARD_COSTS = 8
"""... to which each shard adds so many, since it costs time as well when it is empty."""
_EVICTED = 8
"""One key in so many of a shard goes when there is no more room."""
_PAUSES = 5000
"""How often somebody pauses for a shard that another has in hand, before it counts as lost: for about a second."""


class Worth(Protocol):
    """What tells how much a state is worth remembering."""

    def living(self, states: dict[str, State], now: float) -> dict[str, State]:
        """Return those that differ from what a new key has."""
        ...

    def used(self, state: State, now: float) -> float:
        """Return how much of its limit a key has used up."""
        ...


class States:
    """The states of several limits, by key; all but what is done through `cells` wants its owner's lock held.

    Args:
        limits: What there are states of.
        most: Keys that are kept at most, of each limit.
        pause: Lets other threads go on, for a moment.

    Attributes:
        cells: Each holds one shard, or none while somebody has it in hand. `cells[hash(key) & mask].pop()` takes out
            the shard of a key, and `append` lays it back. Whoever has it in hand may put in keys while there is room;
            but one in sixteen, those for which `len(states) & 15` is 7, are to be put in by `put`.

    >>> class Counts:
    ...     def living(self, states, now): return {key: state for key, state in states.items() if state}
    ...     def used(self, state, now): return state
    >>> states = States([Counts()], 2, pause=lambda: None)
    >>> shard = states.take_out(0)
    >>> for key, used in {"heavy": 9, "a": 1, "b": 2, "c": 1}.items():
    ...     states.put(0, shard, key, [used], now=0.0)
    >>> shard
    [2, {'heavy': 9, 'c': 1}]
    """

    __slots__ = ("_hand", "_limits", "_looked_at", "_pause", "_room", "_rooms", "_scarce", "cells", "mask")

    def __init__(self, limits: Sequence[Worth], most: int, *, pause: Callable[[], object]) -> None:
        self._limits = tuple(limits)
        self._pause = pause
        shards = 1 << (most // _SHARD_KEYS).bit_length()
        self.mask = shards - 1
        self._room = most
        """Keys that no shard has room for yet."""
        self._scarce = False
        """Whether so little is left that no shard has room which it does not use."""
        self._rooms = [0] * shards
        """What each shard has room for."""
        self.cells: list[list[Shard]] = [[self._new_shard(at)] for at in range(shards)]
        self._hand = 0
        self._looked_at = 0

    def __len__(self) -> int:
        """Keys that are remembered, of whichever limit remembers the most."""
        shards = [self.take_out(at) for at in range(len(self.cells))]
        sizes = [[len(states) for states in shard[1:]] for shard in shards]
        for at, shard in enumerate(shards):
            self.lay_back(at, shard)
        return max(map(sum, zip(*sizes, strict=True)))

    def at(self, key: str) -> int:
        """Return which cell a key's shard lies in."""
        return hash(key) & self.mask

    def take_out(self, at: int) -> Shard:
        """Take a shard out of its cell; wait for it while another thread has it in hand."""
        cell = self.cells[at]
        for _ in range(_PAUSES):
            try:
                return cell.pop()
            except IndexError:
                self._pause()
        return self._new_shard(at)

    def lay_back(self, at: int, shard: Shard) -> None:
        """Lay a shard back into its cell; one that was given up as lost, and came back after all, goes."""
        self.cells[at][:] = [shard]

    def put(self, at: int, shard: Shard, key: str, after: Sequence[State | None], now: float) -> None:
        """Remember something of a key, in the shard that is in hand; what is None is as good as new."""
        for number, state in enumerate(after, 1):
            states = shard[number]
            if state is None:
                states.pop(key, None)
            elif key in states:
                states[key] = state
            else:
                if len(states) >= shard[0]:
                    self._make_room(at, shard, now)
                shard[number][key] = state
                if len(states) & 15 == 8:
                    self._go_round(at, now)

    def remade(
        self, limits: Sequence[Worth], most: int, follow: Sequence[tuple[int, Callable[[State], State]] | None]
    ) -> States:
        """Return states of other limits, that keep fewer or more; these here have lost their shards then.

        Should there be too many keys, those that are nearest to new go.

        Args:
            limits: What there are to be states of.
            most: Keys that are kept at most.
            follow: For each of them, whose place among these here it takes, and what makes its states of those.
        """
        other = States(limits, most, pause=self._pause)
        shards = [other.take_out(at) for at in range(len(other.cells))]
        for mine in [self.take_out(at) for at in range(len(self.cells))]:
            for number, place in enumerate(follow, 1):
                if place is not None:
                    old, convert = place
                    for key, state in mine[1 + old].items():
                        shards[other.at(key)][number][key] = convert(state)
        for at, shard in enumerate(shards):
            shard[0] = other._rooms[at] = _longest(shard)
            other.lay_back(at, shard)
        other._room -= sum(other._rooms)
        other._scarce = other._room <= 0
        return other

    def _new_shard(self, at: int) -> Shard:
        return [self._rooms[at], *({} for _ in self._limits)]

    def _make_room(self, at: int, shard: Shard, now: float) -> None:
        """Make room for one more key in a shard that is full, or for some."""
        share = self._room // (2 * len(self.cells))
        if not self._scarce:
            self._look_through(shard, now)
            if _longest(shard) < shard[0] - shard[0] // 2:
                return
            if share > 0:
                self._give_room(at, shard, min(_MORE_ROOM, share))
                return
            self._take_back_all(at, shard)
        if self._room <= 0:
            self._free(at, shard, now)
        self._give_room(at, shard, 1)
        self._scarce = share <= _PLENTY

    def _give_room(self, at: int, shard: Shard, more: int) -> None:
        self._room -= more
        self._rooms[at] = shard[0] = shard[0] + more

    def _take_back_all(self, at: int, shard: Shard) -> None:
        """Take back the room that is not used. From now on it is given out for one key at a time."""
        self._scarce = True
        self._take_back(at, shard)
        for other in range(len(self.cells)):
            if other != at:
                unused = self.take_out(other)
                self._take_back(other, unused)
                self.lay_back(other, unused)

    def _free(self, at: int, shard: Shard, now: float) -> None:
        """Forget an eighth of a shard, or more if that is as good as new."""
        # Whoever is nearest to new among as many as possible goes, so a shard of few keys takes room from a large one.
        largest = max(range(len(self._rooms)), key=self._rooms.__getitem__)
        if self._rooms[largest] <= 2 * shard[0]:
            self._evict(shard, now)
            self._take_back(at, shard)
            return
        other = self.take_out(largest)
        self._evict(other, now)
        self._take_back(largest, other)
        self.lay_back(largest, other)

    def _take_back(self, at: int, shard: Shard) -> None:
        room = _longest(shard)
        self._room += shard[0] - room
        self._rooms[at] = shard[0] = room

    def _evict(self, shard: Shard, now: float) -> None:
        keep = shard[0] - max(1, shard[0] // _EVICTED)
        self._look_through(shard, now)
        for states, limit in zip(shard[1:], self._limits, strict=True):
            if len(states) > keep:
                nearest = sorted(states, key=lambda key: limit.used(states[key], now))
                for key in nearest[: len(states) - keep]:
                    del states[key]

    def _go_round(self, at: int, now: float) -> None:
        """Go a step further round through the other shards, and forget what is as good as new."""
        self._looked_at += _STRIDE
        while self._looked_at > 0:
            self._hand = (self._hand + 1) & self.mask
            self._looked_at -= _SHARD_COSTS
            if self._hand != at:
                shard = self.take_out(self._hand)
                self._looked_at -= _longest(shard)
                self._look_through(shard, now)
                if self._scarce:
                    self._take_back(self._hand, shard)
                self.lay_back(self._hand, shard)

    def _look_through(self, shard: Shard, now: float) -> None:
        """Forget what is as good as new."""
        for number, limit in enumerate(self._limits, 1):
            if shard[number]:
                shard[number] = limit.living(shard[number], now)


def _longest(shard: Shard) -> int:
    return max(len(states) for states in shard[1:])

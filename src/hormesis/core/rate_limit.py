"""How often something may happen: token buckets, sliding windows, fixed windows, alone or several at once.

**Token bucket.** A bucket of `capacity` tokens that fills at `count` a window; a call takes as many as it costs, and
in any stretch of w seconds at most `capacity + rate * w` are spent. It is kept as GCRA keeps it (ITU-T I.371): one
number for each key, the *theoretical arrival time*, by which the bucket would be full again.

    tat = max(tat, now) + cost        granted if tat - now ≤ capacity

Time is measured in tokens here (seconds times rate), so that a token is 1 and adding one is exact in floating point,
however long the process runs: a rounding is made when the clock is read, and never adds up. Where seconds, or whole
microseconds, are added up instead, each sum is off by the same little bit, and the rate with it.

**Sliding window.** At most `count` in *any* stretch of one window, whenever it begins. The window is cut into twenty
steps; what is counted in a step is forgotten when twenty more are over. So the bound is never exceeded, and what was
spent comes back up to a twentieth of the window late: a caller who always asks gets 95 % of the limit at the least.
(The well-known form with two counters weighs the last window by how much of it is still in view. It is smaller, and
lets almost twice the limit through in a window when calls come at the end of one and at the beginning of the next.)

**Fixed window.** At most `count` between two marks on our clock, and twice that around a mark. It is for limits that
somebody else counts like that. The first mark is the first call, for each limiter a moment of its own.

Several limits hold at once: a call is granted by all of them, or spends none.

**Waiting.** `reserve` grants a call now for a moment in the future, and that moment is the caller's alone: callers go
in the order in which they came, nobody is woken in vain, and there is no queue, no timer and no thread here. A caller
that gives up gives its moment back, and the next that comes takes it over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from hormesis.core.admission import Lock, Refusal
from hormesis.core.rate_moments import Moment, Moments
from hormesis.core.rate_states import Shard, State, States

__all__ = ["Algorithm", "Limiter", "RateLimiter", "Standing", "TokenBucket", "WindowCounter"]

STEPS = 20
"""Steps of a sliding window: a twentieth late is little, and the counters of a key are a number of some 20 digits."""

RATE_MAX = 1e6
"""Tokens a second at most. Up to here a float tells tokens apart for longer than machines run."""

_ROUNDING = 2.0**-50
"""What times may be off by, as a share of them: a reading, a sum and a product, each off by half of a last digit."""
_TURN = 1e-6
"""The share of a step by which windows turn early, so that whoever comes back when it was told to finds it turned."""


class Standing(NamedTuple):
    """One limit as it stands for a key, as the RateLimit headers of the IETF draft tell it.

    Args:
        name: The limit's name.
        quota: What may be spent in a window.
        window: Seconds.
        remaining: What may be spent right now.
        reset: Seconds until it is as good as new, if nothing more is spent; 0 when it is.
    """

    name: str
    quota: int
    window: float
    remaining: int
    reset: float


_Take: TypeAlias = Callable[[str, int, float], "Refusal | None"]


class Limiter(Protocol):
    """Limits how often each key may come.

    Whoever decides may be far away, and this interface leaves room for it. All that goes in and out is plain data. All
    answers are seconds from now, never moments, since two machines' clocks can't be compared; one that goes by a
    store's clock ignores `now`. No verb waits. A limiter that shares a limit with other machines spends locally what it
    has *leased* from the store, and renews the lease in the background; when that is spent, `take` refuses with the
    seconds until more may have come. One that has to be exact, and asks the store each time, has the same verbs as
    coroutines. `refusal` may say None for want of better knowledge: it spends nothing and promises nothing.
    """

    def take(self, key: str, cost: int, now: float) -> Refusal | None:
        """Spend so much of a key's limits; None when it is granted."""
        ...

    def refusal(self, key: str, cost: int, now: float) -> Refusal | None:
        """Say what `take` would, without spending anything."""
        ...

    def put_back(self, key: str, cost: int, now: float) -> None:
        """Return what was taken, and not used, just now."""
        ...

    def reserve(self, key: str, cost: int, now: float, max_wait: float) -> float | Refusal:
        """Spend it for a moment that is at most so many seconds away; returns the seconds until then."""
        ...

    def cancel(self, key: str, cost: int, now: float, due: float) -> None:
        """Give back what was reserved for a moment `due` seconds from now, or as many ago when it is negative."""
        ...

    def standings(self, key: str, now: float) -> tuple[Standing, ...]:
        """Tell how each limit stands for a key."""
        ...


class Algorithm(Protocol):
    """One limit: arithmetic on the state of a key, which it does not keep. A key without a state is None."""

    name: str
    window: float
    capacity: int
    """What can be spent at once at the most."""

    def spend(self, state: State | None, cost: int, now: float) -> State | None:
        """Return the state after spending, or None when that is not granted now."""
        ...

    def wait(self, state: State | None, cost: int, now: float) -> float:
        """Return the seconds until that would be granted, if nobody else comes."""
        ...

    def spend_at(self, state: State | None, cost: int, at: float) -> State:
        """Return the state after spending at a moment at which it is granted."""
        ...

    def lasts(self, cost: int, due: float) -> float:
        """Return until when a moment that was reserved, and is not used, may be used by somebody else."""
        ...

    def give(self, state: State | None, cost: int, at: float, now: float) -> State | None:
        """Return the state after giving back what was spent at a moment; None when it is as good as new now."""
        ...

    def is_ahead(self, state: State | None, now: float) -> bool:
        """Whether somebody has reserved a moment after `now`."""
        ...

    def living(self, states: dict[str, State], now: float) -> dict[str, State]:
        """Return those states that differ from what a new key has."""
        ...

    def used(self, state: State, now: float) -> float:
        """Return how much a key has used up."""
        ...

    def standing(self, state: State | None, now: float) -> Standing:
        """Tell how it stands."""
        ...

    def follows(self, other: Algorithm) -> Callable[[State], State] | None:
        """Return what makes a state of this limit of one of another, or None when that can't be."""
        ...


class TokenBucket:
    """A bucket that fills at `count` a window; the state of a key is its theoretical arrival time, in tokens.

    Args:
        name: What answers and metrics call it.
        count: Tokens that come in a window.
        window: Seconds.
        capacity: Tokens that the bucket holds.

    >>> bucket = TokenBucket("2/s", 2, 1.0, 2)
    >>> state = bucket.spend(None, 2, 10.0)
    >>> bucket.spend(state, 1, 10.0), bucket.wait(state, 1, 10.0)
    (None, 0.5)
    """

    __slots__ = ("capacity", "count", "name", "rate", "window")

    def __init__(self, name: str, count: int, window: float, capacity: int) -> None:
        self.name = name
        self.count = count
        self.window = window
        self.capacity = capacity
        self.rate = count / window

    def spend(self, state: State | None, cost: int, now: float) -> State | None:
        """Return the state after spending, or None when too few tokens are there."""
        at = now * self.rate
        after = (at if state is None or state < at else state) + cost
        return after if after - at <= self.capacity + at * _ROUNDING else None

    def wait(self, state: State | None, cost: int, now: float) -> float:
        """Return the seconds until so many tokens are there."""
        at = now * self.rate
        after = (at if state is None or state < at else state) + cost
        return (after - at - self.capacity) / self.rate if after - at > self.capacity + at * _ROUNDING else 0.0

    def spend_at(self, state: State | None, cost: int, at: float) -> State:
        """Return the state after spending at a moment at which there are enough."""
        return max(at * self.rate, -math.inf if state is None else state) + cost

    def lasts(self, cost: int, due: float) -> float:
        """Return until when unused tokens that were reserved may be spent by somebody else."""
        return due + (self.capacity - cost) / self.rate

    def give(self, state: State | None, cost: int, at: float, now: float) -> State | None:
        """Return the state after giving back; None when the bucket is full."""
        if state is None or state - cost <= now * self.rate:
            return None
        return state - cost

    def is_ahead(self, state: State | None, now: float) -> bool:
        """Whether more is spent than the bucket holds."""
        return state is not None and state > now * self.rate * (1 + _ROUNDING) + self.capacity

    def living(self, states: dict[str, State], now: float) -> dict[str, State]:
        """Return those whose bucket is not full."""
        at = now * self.rate
        return {key: state for key, state in states.items() if state > at}

    def used(self, state: State, now: float) -> float:
        """Return the tokens that are missing from the bucket."""
        used: float = state - now * self.rate
        return max(0.0, used)

    def standing(self, state: State | None, now: float) -> Standing:
        """Tell how it stands."""
        used = 0.0 if state is None else self.used(state, now)
        left = max(0, math.floor(self.capacity - used + now * self.rate * _ROUNDING))
        return Standing(self.name, self.count, self.window, left, used / self.rate)

    def follows(self, other: Algorithm) -> Callable[[State], State] | None:
        """A bucket of another rate is full at the same time as it would have been."""
        if not isinstance(other, TokenBucket):
            return None
        faster = self.rate / other.rate
        return lambda state: state * faster


class WindowCounter:
    """Counts in steps, and looks at the last few; the state of a key is one whole number.

    Its digits, in a base that is larger than any count, are the counts of the steps, the latest last; before them
    stands the number of the latest step. The sum of the counts is what is left after division by the base less one, as
    with casting out nines.

    Args:
        name: What answers and metrics call it.
        count: What may be spent in a window.
        window: Seconds.
        steps: Steps of a window that slides; 0 for one that is fixed.

    >>> minute = WindowCounter("2/min", 2, 60.0, 0)
    >>> state = minute.spend(None, 2, 10.0)
    >>> minute.spend(state, 1, 30.0), minute.wait(state, 1, 30.0), minute.spend(state, 1, 70.0) is None
    (None, 40.0, False)
    """

    __slots__ = ("_bits", "_counts", "_nines", "_origin", "_step", "_steps", "_width", "capacity", "name", "window")

    def __init__(self, name: str, count: int, window: float, steps: int) -> None:
        self.name = name
        self.capacity = count
        self.window = window
        # What was spent in the step that begins a stretch is in it wholly, partly or not at all: one more is looked at.
        self._steps = steps + 1
        self._step = window / max(1, steps)
        self._bits = (count + 1).bit_length()
        self._nines = (1 << self._bits) - 1
        self._width = self._bits * self._steps
        self._counts = (1 << self._width) - 1
        self._origin: float | None = None

    def spend(self, state: State | None, cost: int, now: float) -> State | None:
        """Return the state after spending, or None when too much was spent in the last window."""
        index, counts = self._index(now), 0
        if state is not None:
            passed = index - (state >> self._width)
            if passed < 0:
                return None
            counts = 0 if passed >= self._steps else state << self._bits * passed & self._counts
        return index << self._width | counts + cost if counts % self._nines + cost <= self.capacity else None

    def wait(self, state: State | None, cost: int, now: float) -> float:
        """Return the seconds until enough of what was spent is out of view."""
        first = self._index(now)
        index = first if state is None else max(first, self._latest(state))
        while self._seen(state, index) % self._nines + cost > self.capacity and cost <= self.capacity:
            index += 1
        return 0.0 if index == first else self._begins(index) - now

    def spend_at(self, state: State | None, cost: int, at: float) -> State:
        """Return the state after spending at a moment at which that is granted."""
        index = self._index(at)
        return self._state(index, self._seen(state, index) + cost)

    def lasts(self, cost: int, due: float) -> float:
        """Return the end of the step of a moment."""
        return self._begins(self._index(due) + 1)

    def give(self, state: State | None, cost: int, at: float, now: float) -> State | None:
        """Return the state after giving back to the latest step; what was spent in one before stays spent."""
        if state is None or self._latest(state) != self._index(at):
            return state
        after = state - min(cost, state & self._nines)
        while not after & self._nines and self.is_ahead(after, now):
            after = self._before(after)
        return after if after & self._counts else None

    def is_ahead(self, state: State | None, now: float) -> bool:
        """Whether the latest step is yet to come."""
        return state is not None and self._latest(state) > self._index(now)

    def living(self, states: dict[str, State], now: float) -> dict[str, State]:
        """Return those whose latest step is in view."""
        out_of_view, width = self._index(now) - self._steps, self._width
        return {key: state for key, state in states.items() if state >> width > out_of_view}

    def used(self, state: State, now: float) -> float:
        """Return what was spent, as far as it is in view."""
        return self._seen(state, max(self._index(now), self._latest(state))) % self._nines

    def standing(self, state: State | None, now: float) -> Standing:
        """Tell how it stands."""
        used, reset = 0, 0.0
        if state is not None:
            used = int(self.used(state, now))
            if used:
                counts, latest = state & self._counts, self._latest(state)
                newest = next(age for age in range(self._steps) if counts >> self._bits * age & self._nines)
                reset = self._begins(latest - newest + self._steps) - now
            if self.is_ahead(state, now):
                used = self.capacity
        return Standing(self.name, self.capacity, self.window, self.capacity - used, reset)

    def follows(self, other: Algorithm) -> Callable[[State], State] | None:
        """A window of the same length and kind goes on with what was spent, as far as that fits into its count."""
        if not isinstance(other, WindowCounter) or (other.window, other._steps) != (self.window, self._steps):
            return None
        self._origin = other._origin

        def follow(state: State) -> State:
            counts, left, latest = 0, self.capacity, other._latest(state)
            for age in range(self._steps):  # the latest first: they are in view the longest
                spent = min(left, state >> other._bits * age & other._nines)
                counts |= spent << self._bits * age
                left -= spent
            return self._state(latest, counts)

        return follow

    def _index(self, now: float) -> int:
        if self._origin is None:
            self._origin = now
        return math.floor((now - self._origin) / self._step + _TURN)

    def _begins(self, index: int) -> float:
        return (self._origin or 0.0) + index * self._step

    def _latest(self, state: State) -> int:
        latest: int = state >> self._width
        return latest

    def _state(self, index: int, counts: int) -> int:
        return index << self._width | counts

    def _before(self, state: int) -> int:
        """The state when the latest step was the one before.

        What had gone out of view by then is not known any more. It filled the limit, or nobody would have gone on.
        """
        counts = (state & self._counts) >> self._bits
        forgotten = self.capacity - counts % self._nines
        return self._state(self._latest(state) - 1, counts | forgotten << self._bits * (self._steps - 1))

    def _seen(self, state: State | None, index: int) -> int:
        """The counts that are in view from a step that is not before the latest."""
        if state is None:
            return 0
        passed = index - self._latest(state)
        return 0 if passed >= self._steps else state << self._bits * passed & self._counts


class RateLimiter:
    """Several limits at once: for each key, or for all.

    Args:
        limits: The limits; a call is granted by all of them, or by none.
        max_keys: Keys that each limit remembers at most; see `hormesis.core.rate_states` for who is forgotten then.
            None: the limits are the same for all, whatever the key.
        lock: Guards all but the common case, in which the states of a key are at hand and grant what is asked.
        pause: Lets other threads go on, for a moment.

    Attributes:
        take: Spends so much of a key's limits at a moment, `take(key, cost, now)`; None when all of them grant it, and
            nothing is spent when one does not.

    >>> from hormesis.core.admission import NullLock
    >>> limiter = RateLimiter([TokenBucket("2/s", 2, 1.0, 2)], max_keys=1000, lock=NullLock())
    >>> [limiter.take("acme", 1, 10.0) for _ in range(3)]
    [None, None, Refusal(reason='2/s used up', retry_after=0.5, waitable=False)]
    >>> limiter.reserve("acme", 1, 10.0, max_wait=1.0)
    0.5
    """

    __slots__ = ("_given_back", "_keyed", "_lock", "_states", "limits", "take")

    def __init__(
        self,
        limits: Sequence[Algorithm],
        *,
        max_keys: int | None,
        lock: Lock,
        pause: Callable[[], object] = lambda: None,
    ) -> None:
        self._lock = lock
        self._keyed = max_keys is not None
        self._given_back = Moments()
        self._arrange(limits, States(limits, max_keys or 1, pause=pause))

    def _arrange(self, limits: Sequence[Algorithm], states: States) -> None:
        self.limits = tuple(limits)
        """The limits, in the order in which they are asked."""
        self._states = states
        self.take: _Take = _taker(self.limits, states, self._given_back, self._take, keyed=self._keyed)

    def __len__(self) -> int:
        """Keys that are remembered, by whichever limit remembers the most."""
        with self._lock:
            return len(self._states)

    def refusal(self, key: str, cost: int, now: float) -> Refusal | None:
        """Say what `take` would, without spending anything."""
        with self._in_hand(key) as hand:
            return None if self._given_back.find(hand.key, cost, now, now) else self._why(hand.states, cost, now)

    def put_back(self, key: str, cost: int, now: float) -> None:
        """Return what was taken just now, and not used."""
        self.cancel(key, cost, now, 0.0)

    def reserve(self, key: str, cost: int, now: float, max_wait: float) -> float | Refusal:
        """Spend it for a moment that is at most so many seconds away; returns the seconds until then."""
        with self._in_hand(key) as hand:
            refusal = self._why(hand.states, cost, now)
            wait = 0.0 if refusal is None else refusal.retry_after
            if refusal is not None and wait is None:
                return refusal
            assert wait is not None  # noqa: S101  for type checkers
            due = self._given_back.take(hand.key, cost, now, now + min(wait, max_wait))
            if due is not None:
                return max(0.0, due - now)
            if refusal is not None and wait > max_wait:
                return refusal
            after = [
                limit.spend_at(state, cost, now + wait) for limit, state in zip(self.limits, hand.states, strict=True)
            ]
            hand.put(after, now)
            return wait

    def cancel(self, key: str, cost: int, now: float, due: float) -> None:
        """Give back what was reserved for a moment `due` seconds from now, or as many ago when it is negative."""
        at = now + due
        with self._in_hand(key) as hand:
            if self._is_followed(hand.states, at):
                until = min(limit.lasts(cost, at) for limit in self.limits)
                self._given_back.add(hand.key, Moment(at, until, cost))
                return
            self._give(hand, cost, at, now)
            # What was given back before may now be the last.
            while (last := self._given_back.last(hand.key)) is not None and not self._is_followed(
                hand.states, last.due
            ):
                self._given_back.drop_last(hand.key)
                self._give(hand, last.cost, last.due, now)

    def standings(self, key: str, now: float) -> tuple[Standing, ...]:
        """Tell how each limit stands for a key."""
        name, states = key if self._keyed else "", self._states
        try:
            # Looked at where it lies, without taking it out: every answer of a service tells of it.
            _, *tables = states.cells[hash(name) & states.mask][0]
        except IndexError:
            with self._in_hand(key) as hand:  # somebody else has it
                return tuple(limit.standing(state, now) for limit, state in zip(self.limits, hand.states, strict=True))
        return tuple(limit.standing(table.get(name), now) for limit, table in zip(self.limits, tables, strict=True))

    def reconfigure(self, limits: Sequence[Algorithm], max_keys: int | None) -> bool:
        """Go on with other limits, and with what was spent of those whose place they take.

        A limit takes the place of one of the same kind and window; a bucket that of the only bucket, whatever its
        window. This goes through all keys, with the lock held.

        Returns:
            False, and nothing has changed, where limits for each key would become limits for all, or the other way.
        """
        if self._keyed is not (max_keys is not None):
            return False
        with self._lock:
            alone = len(limits) == len(self.limits) == 1
            follow = [_place_taken(limit, self.limits, alone=alone) for limit in limits]
            self._arrange(limits, self._states.remade(limits, max_keys or 1, follow))
            self._given_back.clear()
        return True

    def _take(self, key: str, cost: int, now: float) -> Refusal | None:
        with self._in_hand(key) as hand:
            after = [limit.spend(state, cost, now) for limit, state in zip(self.limits, hand.states, strict=True)]
            if None not in after:
                hand.put(after, now)
                return None
            if self._given_back.take(hand.key, cost, now, now) is not None:
                return None
            return self._why(hand.states, cost, now)

    def _in_hand(self, key: str) -> _Hand:
        return _Hand(self._lock, self._states, key if self._keyed else "")

    # What follows wants the lock held.

    def _why(self, states: Sequence[State | None], cost: int, now: float) -> Refusal | None:
        """Say for which limit a call would have to wait the longest, and how long."""
        longest, reason = 0.0, ""
        for limit, state in zip(self.limits, states, strict=True):
            if cost > limit.capacity:
                return Refusal(f"costs more than {limit.name} allows")
            wait = limit.wait(state, cost, now)
            if wait > longest:
                longest, reason = wait, _used_up(limit)
        return Refusal(reason, longest) if reason else None

    def _is_followed(self, states: Sequence[State | None], at: float) -> bool:
        """Whether others have reserved moments after this one, and rely on them."""
        return any(limit.is_ahead(state, at) for limit, state in zip(self.limits, states, strict=True))

    def _give(self, hand: _Hand, cost: int, at: float, now: float) -> None:
        hand.put([limit.give(state, cost, at, now) for limit, state in zip(self.limits, hand.states, strict=True)], now)


class _Hand:
    """The states of a key, for whoever holds the lock and the key's shard."""

    __slots__ = ("_at", "_lock", "_shard", "_table", "key")

    def __init__(self, lock: Lock, table: States, key: str) -> None:
        self.key = key
        self._lock = lock
        self._table = table
        self._at = table.at(key)
        self._shard: Shard = []

    def __enter__(self) -> _Hand:
        self._lock.__enter__()
        self._shard = self._table.take_out(self._at)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> None:
        self._table.lay_back(self._at, self._shard)
        self._lock.__exit__(kind, error, traceback)

    @property
    def states(self) -> list[State | None]:
        """What each limit remembers of the key."""
        return [states.get(self.key) for states in self._shard[1:]]

    def put(self, after: Sequence[State | None], now: float) -> None:
        """Let each limit remember something else; what is None is as good as new."""
        self._table.put(self._at, self._shard, self.key, after, now)


def _place_taken(
    limit: Algorithm, before: Sequence[Algorithm], *, alone: bool
) -> tuple[int, Callable[[State], State]] | None:
    """Which of other limits a new one takes the place of, and what makes its states of theirs."""
    for number, old in enumerate(before):
        follow = limit.follows(old)
        if follow is not None and (alone or old.window == limit.window):
            return number, follow
    return None


def _taker(limits: Sequence[Algorithm], states: States, given_back: Moments, otherwise: _Take, *, keyed: bool) -> _Take:
    """Return what takes when all limits know the key and grant what is asked; whatever else there is, is otherwise."""
    first, *others = limits
    if isinstance(first, TokenBucket) and not others:
        make = _taker_by_key if keyed else _taker_for_all
        return make(first, states, given_back, otherwise)
    cells, mask = states.cells, states.mask
    spends = [limit.spend for limit in limits]

    def take(key: str, cost: int, now: float) -> Refusal | None:
        if not keyed:
            key = ""
        cell = cells[hash(key) & mask]
        try:
            shard = cell.pop()
        except IndexError:
            return otherwise(key, cost, now)
        room, *tables = shard
        after = []
        for spend, table in zip(spends, tables):  # noqa: B905  to be strict would cost as much as all the rest
            if key not in table and (len(table) >= room or len(table) & 15 == 7):
                break
            state = spend(table.get(key), cost, now)
            if state is None:
                break
            after.append(state)
        else:
            for table, state in zip(tables, after):  # noqa: B905
                table[key] = state
            cell.append(shard)
            return None
        cell.append(shard)
        return otherwise(key, cost, now)

    return take


def _taker_for_all(bucket: TokenBucket, states: States, given_back: Moments, otherwise: _Take) -> _Take:
    """What takes from one bucket that is the same for all, or refuses: its arithmetic, written out."""
    (cell,) = states.cells
    take_out, lay_back = cell.pop, cell.append
    rate, capacity, used_up = bucket.rate, bucket.capacity, _used_up(bucket)

    def take(key: str, cost: int, now: float) -> Refusal | None:
        try:
            shard = take_out()
        except IndexError:
            return otherwise(key, cost, now)
        table = shard[1]
        at = now * rate
        if "" in table:
            state = table[""]
            state = (at if state < at else state) + cost
            if state - at <= capacity:
                table[""] = state
                lay_back(shard)
                return None
            missing = state - at - capacity
            if missing > at * _ROUNDING and cost <= capacity and "" not in given_back.by_key:
                lay_back(shard)
                return Refusal(used_up, missing / rate)
        lay_back(shard)
        return otherwise(key, cost, now)

    return take


def _taker_by_key(bucket: TokenBucket, states: States, given_back: Moments, otherwise: _Take) -> _Take:
    """What takes from one bucket of a key, or refuses."""
    cells, mask = states.cells, states.mask
    rate, capacity, used_up = bucket.rate, bucket.capacity, _used_up(bucket)

    def take(key: str, cost: int, now: float) -> Refusal | None:
        cell = cells[hash(key) & mask]
        try:
            shard = cell.pop()
        except IndexError:
            return otherwise(key, cost, now)
        table = shard[1]
        at = now * rate
        if key in table:
            state = table[key]
            state = (at if state < at else state) + cost
            if state - at <= capacity:
                table[key] = state
                cell.append(shard)
                return None
            missing = state - at - capacity
            if missing > at * _ROUNDING and cost <= capacity and key not in given_back.by_key:
                cell.append(shard)
                return Refusal(used_up, missing / rate)
        elif cost <= capacity and len(table) < shard[0] and len(table) & 15 != 7:
            table[key] = at + cost
            cell.append(shard)
            return None
        cell.append(shard)
        return otherwise(key, cost, now)

    return take


def _used_up(limit: Algorithm) -> str:
    return f"{limit.name} used up"

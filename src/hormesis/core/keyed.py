"""A machine for each key, in a bounded space.

A policy that serves many hosts or tenants wants a breaker or bulkhead for each, made when a key is first seen. The
space is bounded: names that come from outside must not fill the memory. When it is full, a machine that has nothing to
remember goes first, and among those one that was not used for long.

Recency costs nothing per hit. Keys live in two generations. A hit in the *young* one is a plain lookup, without a lock;
a hit in the *old* one moves the key into the young. What is evicted comes from the old generation, oldest first, so it
was not used since the generations last turned; when the old one is used up, the young becomes the old. That is the
second chance of the CLOCK algorithm (Corbató, 1968), with dictionaries in the place of its reference bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from hormesis.core.admission import Lock

__all__ = ["Instance", "Keyed"]

_CANDIDATES = 8
"""Machines that are asked whether they have nothing to remember, before the longest unused goes all the same."""


class Instance(Protocol):
    """What a machine must tell to live under a key."""

    def idle(self, now: float) -> bool:
        """Whether it would be no loss to forget it: a new one would act the same."""
        ...


M = TypeVar("M", bound=Instance)


class Keyed(Generic[M]):
    """Machines by key.

    Args:
        make: Makes a machine; called with the lock held.
        most: Keys that are kept at most.
        lock: Guards everything but lookups of keys that were used lately; none of the machines may use it.
        by: What the keys are of. State can be handed on only between settings that agree on it.

    >>> from hormesis.core.admission import NullLock
    >>> class Machine:
    ...     def idle(self, now: float) -> bool: return True
    >>> machines = Keyed(Machine, 2, lock=NullLock())
    >>> first = machines.get("a", lambda: 0.0)
    >>> machines.get("a", lambda: 0.0) is first
    True
    >>> _ = [machines.get(key, lambda: 0.0) for key in "bcd"]
    >>> [key for key, _ in machines.items()]
    ['c', 'd']
    """

    __slots__ = ("_lock", "_make", "_most", "_old", "_turned", "_young", "by")

    def __init__(self, make: Callable[[], M], most: int, *, lock: Lock, by: object = None) -> None:
        self.by = by
        self._make = make
        self._most = most
        self._lock = lock
        self._young: dict[str, M] = {}
        self._old: dict[str, M] = {}
        # The keys of the old generation in their order, since the front of a dictionary is dear to find again and again
        # once much of it has been deleted. Keys that have become young meanwhile are passed over.
        self._turned: deque[str] = deque()

    def get(self, key: str, now: Callable[[], float]) -> M:
        """Return the machine of a key; make it when there is none.

        Args:
            key: Whose.
            now: The clock, read only when a machine has to go.
        """
        machine = self._young.get(key)
        return machine if machine is not None else self._fetch(key, now)

    def items(self) -> list[tuple[str, M]]:
        """Every key with its machine, as they are at this moment, the longest unused first."""
        with self._lock:
            return [*self._old.items(), *self._young.items()]

    def values(self) -> list[M]:
        """Every machine, as they are at this moment."""
        return [machine for _, machine in self.items()]

    def __len__(self) -> int:
        with self._lock:
            return self._size()

    def remake(self, make: Callable[[], M], most: int) -> None:
        """Make machines differently from now on, and keep fewer or more; those that there are stay as they are.

        Should they be too many now, the next new key makes them fewer.
        """
        with self._lock:
            self._make = make
            self._most = most

    def _fetch(self, key: str, now: Callable[[], float]) -> M:
        with self._lock:
            # Another thread may have made it, or made it young, between the look and the lock.
            machine = self._young.get(key)
            if machine is None:
                machine = self._old.pop(key, None)
                if machine is None:
                    while self._size() >= self._most:
                        self._evict(now())
                    machine = self._make()
                self._young[key] = machine
                if not self._old and 2 * len(self._young) >= self._most:
                    # Now rather than when a machine has to go: keys in use have until then to become young again.
                    self._turn()
            return machine

    def _size(self) -> int:
        return len(self._old) + len(self._young)

    def _evict(self, now: float) -> None:
        """Forget one machine: the first idle one of the candidates, or else the first of them."""
        passed: list[str] = []
        while len(passed) < _CANDIDATES:
            if not self._old:
                self._turn()
            key = self._turned.popleft()
            machine = self._old.pop(key, None)
            if machine is None:
                continue
            if machine.idle(now):
                return
            # To have something to remember is as good as having been used.
            self._young[key] = machine
            passed.append(key)
        del (self._young if passed[0] in self._young else self._old)[passed[0]]

    def _turn(self) -> None:
        # Whoever still looks into what was the young generation finds the same machines there.
        self._old, self._young = self._young, {}
        self._turned = deque(self._old)

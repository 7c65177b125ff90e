"""State has an address: (policy, part, key).

Settings are values and may be copied; the machines with the state live here. Two policies share state only when they
are given the same registry *and* the same name. A part whose settings differ gets a machine of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from hormesis.core.admission import Lock

__all__ = ["Address", "Adopting", "Registry"]

M = TypeVar("M")


@runtime_checkable
class Adopting(Protocol):
    """Settings that a machine can go on with which was made from others."""

    def adopt(self, machine: Any) -> bool:
        """Give these settings to a machine; False when it can't go on with them."""
        ...


class Address(NamedTuple):
    """Where a machine lives."""

    policy: str
    part: str
    key: str = ""


class Registry:
    """Holds the machines of policies, by address.

    >>> from hormesis.patterns.bulkhead import Bulkhead
    >>> registry, address, settings = Registry(), Address("inventory", "bulkhead"), Bulkhead(5)
    >>> registry.get(address, settings, settings.machine) is registry.get(address, settings, settings.machine)
    True
    """

    __slots__ = ("_entries", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Address, tuple[object, Any]] = {}

    def get(self, address: Address, settings: object, make: Callable[[Lock], M]) -> M:
        """Return the machine at an address; make it when there is none, or when its settings are others.

        Args:
            address: Where it lives.
            settings: What it is made from, compared by value.
            make: Makes it, given a lock of its own.
        """
        with self._lock:
            known = self._entries.get(address)
            if known is None or known[0] != settings:
                known = (settings, make(threading.Lock()))
                self._entries[address] = known
            machine: M = known[1]
            return machine

    def hand_on(self, address: Address, settings: Adopting) -> None:
        """Let the machine at an address go on with other settings, if it can; else the next `get` makes a new one."""
        with self._lock:
            known = self._entries.get(address)
            if known is not None and settings.adopt(known[1]):
                self._entries[address] = (settings, known[1])

    def start_clean(self) -> None:
        """Forget all state and every lock, as a process must that was forked while others held them."""
        self._lock = threading.Lock()
        self._entries = {}

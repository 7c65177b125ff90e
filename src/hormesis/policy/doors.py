"""The admission parts of a layer, with the machine of each, or with one for each key.

A part with `by` has an instance for each host, tenant, or whatever the call is about. Which instances admit a call is
decided once, when it comes: `gate` puts them together. Where no part has keys, that is always the same gate.

A rate limit has no instances: one limiter knows all keys, and what stands at the door is that limiter with the key and
the cost of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hormesis.core.admission import Admission
from hormesis.core.breaker import BreakerMachine
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.keyed import Keyed
from hormesis.core.rate_gate import RateGates
from hormesis.core.slots import Slot
from hormesis.patterns.keys import KeyOf
from hormesis.patterns.part import AdmissionPart
from hormesis.policy.gate import Entry, Gate

__all__ = ["Door", "Doors"]

_PLAIN = {Slot.CIRCUIT_BREAKER, Slot.RATE_LIMIT, Slot.BULKHEAD}
"""The parts that the express lane knows."""


class Door(NamedTuple):
    """One admission part: its settings and its machine, its machines by key, or what makes the gate of a call."""

    part: AdmissionPart
    machine: Admission | Keyed[Any] | RateGates
    key_of: KeyOf | None = None

    @property
    def by_key(self) -> bool:
        """Whether it has an instance for each key."""
        return isinstance(self.machine, Keyed)

    def keyed(self, key: str, now: Callable[[], float]) -> Any:
        """Return the instance of a key."""
        return self.machine.get(key, now) if isinstance(self.machine, Keyed) else self.machine

    def entry(self, args: Sequence[Any], kwargs: Mapping[str, Any], now: Callable[[], float]) -> Entry:
        """Return the instance that admits a call."""
        if isinstance(self.machine, RateGates):
            gate = self.machine.gate(args, kwargs)
            return Entry(self.part, gate, gate.key)
        key = self.key_of(args, kwargs) if self.key_of is not None else ""
        return Entry(self.part, self.keyed(key, now), key)

    @property
    def fixed(self) -> bool:
        """Whether it is the same instance that admits every call."""
        return self.machine.fixed is not None if isinstance(self.machine, RateGates) else not self.by_key

    def instances(self) -> Iterator[tuple[str, Any]]:
        """Every instance there is, with its key."""
        if isinstance(self.machine, Keyed):
            yield from self.machine.items()
        else:
            yield "", self.machine


class Doors:
    """The admission parts of a layer, in their order.

    Args:
        doors: Each part with what decides.
        now: The policy's clock.
    """

    __slots__ = ("_fixed", "_now", "doors")

    def __init__(self, doors: Sequence[Door], now: Callable[[], float]) -> None:
        self.doors = tuple(doors)
        self._now = now
        fixed = all(door.fixed for door in doors)
        self._fixed = Gate([door.entry((), {}, now) for door in doors]) if fixed else None

    def gate(self, args: Sequence[Any], kwargs: Mapping[str, Any], chosen: Sequence[Admission | None] = ()) -> Gate:
        """Return who admits a call with these arguments.

        Args:
            args: The call's.
            kwargs: The call's.
            chosen: What `pick` has returned for it already.
        """
        if self._fixed is not None:
            return self._fixed
        entries = [door.entry(args, kwargs, self._now) for door in self.doors]
        by_kind = {type(machine): machine for machine in chosen if machine is not None}
        return Gate([entry._replace(machine=by_kind.get(type(entry.machine), entry.machine)) for entry in entries])

    def pick(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[BreakerMachine | None, BulkheadMachine | None]:
        """Return the breaker and the bulkhead that admit a call, where there is nothing else here but a rate limit."""
        breaker: Any = None
        bulkhead: Any = None
        for part, machine, key_of in self.doors:
            if key_of is not None and isinstance(machine, Keyed):
                machine = machine.get(key_of(args, kwargs), self._now)  # noqa: PLW2901  this call's instance
            if part.slot is Slot.CIRCUIT_BREAKER:
                breaker = machine
            elif part.slot is Slot.BULKHEAD:
                bulkhead = machine
        return breaker, bulkhead

    @property
    def gates(self) -> RateGates | None:
        """The rate limit, if there is one."""
        return next((door.machine for door in self.doors if isinstance(door.machine, RateGates)), None)

    @property
    def timed(self) -> bool:
        """Whether ending a success may need the time; of instances that are yet to come, nobody knows."""
        return any(
            door.by_key or (isinstance(door.machine, BreakerMachine) and door.machine.timed) for door in self.doors
        )

    @property
    def keyed(self) -> bool:
        """Whether any part has an instance for each key."""
        return any(door.by_key for door in self.doors)

    @property
    def plain(self) -> bool:
        """Whether there is nothing here but what the express lane knows, each once at most."""
        slots = [door.part.slot for door in self.doors]
        return set(slots) <= _PLAIN and len(set(slots)) == len(slots)

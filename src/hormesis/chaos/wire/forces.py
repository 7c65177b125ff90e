"""The faults in force on an edge, and whom each of them strikes; pure, so it is handed the time.

A fault keeps its counters from when it is put under its name until it is lifted, whatever its settings become. What
luck a connection or a request has is drawn once, from a hash of (seed, edge, name, number); settings only decide which
luck is bad. So changing one fault redraws nothing, neither its own luck nor that of others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hormesis.chaos.faults import Loss, Refuse, Reset, WireFault
from hormesis.chaos.faults.aim import ByConnection, ByRequest, Head
from hormesis.chaos.wire.luck import luck
from hormesis.errors import ConfigurationError

__all__ = ["Force", "Forces", "Place", "Standing", "Strike"]

_FORCES_MAX = 100


class Place(NamedTuple):
    """What a connection is to a fault.

    Args:
        number: As counted since the fault is in force; None if it was open before, or is not one that is counted.
        luck: In [0, 1).
    """

    number: int | None
    luck: float


class Standing:
    """What a connection is to the faults in force.

    Args:
        address: Where the client is.
    """

    __slots__ = ("address", "places", "struck")

    def __init__(self, address: object) -> None:
        self.address = address
        self.places: dict[Force, Place] = {}
        self.struck: set[Force] = set()

    def forget(self, forces: Iterable[Force]) -> None:
        """Drop what it was to faults that are in force no more."""
        for force in forces:
            self.places.pop(force, None)
            self.struck.discard(force)


class Strike(NamedTuple):
    """What strikes a request: the names of the faults, and the faults."""

    names: frozenset[str]
    faults: Sequence[WireFault]


class Force:
    """A fault in force.

    Args:
        key: What its luck is drawn from.
        name: Its name.
        fault: The fault.
        began: When it was put into force.
    """

    def __init__(self, key: str, name: str, fault: WireFault, began: float) -> None:
        self.name = name
        self.fault = fault
        self.began = began
        self.acting = False
        """Whether the moment is inside its window."""
        self.struck = 0
        """Connections, or requests where it picks requests, that it has struck."""
        self._key = key
        self._connections = 0
        self._requests = 0
        self._found = 0

    @property
    def picks_requests(self) -> bool:
        """Whether it strikes single requests."""
        return isinstance(self.fault, ByConnection) and self.fault.picks_requests

    @property
    def reads_http(self) -> bool:
        """Whether it needs to know HTTP requests."""
        return isinstance(self.fault, ByRequest) and self.fault.reads_http

    def moments(self) -> tuple[float, float]:
        """Return from when until when it acts."""
        if isinstance(self.fault, Loss):
            return self.began, math.inf
        after, until = self.fault.window
        return self.began + after, math.inf if until is None else self.began + until

    def admit(self, standing: Standing) -> None:
        """Count a new connection."""
        if self.acting and isinstance(self.fault, ByConnection) and self.fault.counts_connection(standing.address):
            self._connections += 1
            standing.places[self] = Place(self._connections, luck(self._key, self._connections))

    def place(self, standing: Standing) -> Place:
        """Return what a connection is to it; one that it did not count was open before."""
        place = standing.places.get(self)
        if place is None:
            self._found += 1
            place = standing.places[self] = Place(None, luck(self._key, "open", self._found))
        return place

    def strikes(self, standing: Standing) -> bool:
        """Whether it acts on a connection, or on requests of it."""
        fault = self.fault
        if not self.acting or not isinstance(fault, ByConnection) or not fault.counts_connection(standing.address):
            return False
        return fault.strikes_connection(*self.place(standing))

    def breaks(self, standing: Standing) -> bool:
        """Whether it breaks a connection that is open: a reset does, unless it waits for certain requests."""
        fault = self.fault
        if not isinstance(fault, Reset) or not self.strikes(standing):
            return False
        waits = fault.requests is not None or fault.reads_http
        return not waits and self.place(standing).luck < fault.share

    def breaks_new(self, standing: Standing) -> bool:
        """Whether it breaks a connection as soon as it is opened."""
        return isinstance(self.fault, Reset) and self.fault.reset == "connect" and self.strikes(standing)

    def strikes_request(self, head: Head | None) -> bool:
        """Count a request of a connection that it strikes, and say whether it strikes the request."""
        fault = self.fault
        if not isinstance(fault, ByRequest) or not fault.counts_request(head):
            return False
        self._requests += 1
        struck = fault.strikes_request(self._requests, luck(self._key, "request", self._requests))
        self.struck += struck
        return struck


class Forces:
    """All faults in force on an edge, in the order they were put.

    Args:
        seed: What decides luck.
        edge: The edge's name, which does too.
    """

    def __init__(self, seed: int, edge: str) -> None:
        self.key = f"{seed}/{edge}"
        self._all: dict[str, Force] = {}

    @property
    def faults(self) -> Mapping[str, WireFault]:
        """The faults by their names, in order."""
        return {name: force.fault for name, force in self._all.items()}

    @property
    def refusing(self) -> bool:
        """Whether nobody listens."""
        return any(force.acting and isinstance(force.fault, Refuse) for force in self._all.values())

    def refused(self, connections: int) -> None:
        """Count connections that were reset because nobody listens any more."""
        for force in self._all.values():
            if force.acting and isinstance(force.fault, Refuse):
                force.struck += connections

    def __iter__(self) -> Iterator[Force]:
        return iter(self._all.values())

    def get(self, name: str) -> Force | None:
        """Return what is in force under a name."""
        return self._all.get(name)

    def put(self, name: str, fault: WireFault, now: float) -> Force:
        """Put a fault into force, or give the one of this name other settings.

        Raises:
            ConfigurationError: There are too many, or it is no fault that a proxy can put into force.
        """
        if isinstance(fault, Loss):
            raise ConfigurationError("a proxy can't lose packets; the firewall of its host can", "loss")
        force = self._all.get(name)
        if force is None:
            if len(self._all) >= _FORCES_MAX:
                raise ConfigurationError.bad_value("name", name, f"at most {_FORCES_MAX} faults at once on an edge")
            force = self._all[name] = Force(f"{self.key}/{name}", name, fault, now)
        force.fault = fault
        self.tick(now)
        return force

    def drop(self, name: str) -> Force | None:
        """Lift the fault of a name."""
        return self._all.pop(name, None)

    def clear(self) -> None:
        """Lift all."""
        self._all.clear()

    def tick(self, now: float) -> list[Force]:
        """Take the time, and return the faults that begin to act at it."""
        begun = []
        for force in self._all.values():
            start, end = force.moments()
            acting = start <= now < end
            if acting and not force.acting:
                begun.append(force)
            force.acting = acting
        return begun

    def next_change(self, now: float) -> float:
        """Return when the next window opens or closes; infinity if none does."""
        moments = (moment for force in self._all.values() for moment in force.moments())
        return min((moment for moment in moments if moment > now), default=math.inf)

    def admit(self, address: object) -> Standing:
        """Count a new connection."""
        standing = Standing(address)
        for force in self._all.values():
            force.admit(standing)
        return standing

    def acting_on(self, standing: Standing) -> tuple[list[Force], int]:
        """Return the faults that act on a connection, in order, and how many of them did not before."""
        acting = [force for force in self._all.values() if force.strikes(standing)]
        fresh = [force for force in acting if force not in standing.struck]
        for force in fresh:
            standing.struck.add(force)
            force.struck += not force.picks_requests
        return acting, len(fresh)

"""Making the layers of a policy from its settings, with the state that the registry has for them.

Everything that outlives a call and a change of settings has an address here: machines, budgets, caches, and the pools
of threads and processes, which know who still works. So a policy that gets other settings makes new layers, and they go
on where the old ones were. What few policies have is imported when one has it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from hormesis.clock import Clock, Random
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.slots import Slot
from hormesis.events import EventBus, LeftWorkEnded, WorkerReplaced, WorkLeftBehind
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.keys import key_of
from hormesis.patterns.part import AdmissionPart, Part
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.arrangement import Layers
from hormesis.policy.doors import Door, Doors
from hormesis.policy.ground import Stations
from hormesis.policy.journey import Layer
from hormesis.policy.registry import Address, Adopting, Registry
from hormesis.policy.telling import Teller
from hormesis.policy.threads import Threads
from hormesis.units import seconds

if TYPE_CHECKING:
    from hormesis.patterns.chaos import Chaos

__all__ = ["Assembly"]


class Assembly:
    """Makes layers.

    Args:
        name: The policy's.
        registry: Where its state lives.
        shadow: Whether it only watches.
        clock, random, bus: What the world hands in.
    """

    __slots__ = ("bus", "clock", "name", "random", "registry", "shadow")

    def __init__(
        self, name: str, registry: Registry, *, shadow: bool, clock: Clock, random: Random, bus: EventBus
    ) -> None:
        self.name = name
        self.registry = registry
        self.shadow = shadow
        self.clock = clock
        self.random = random
        self.bus = bus

    def top(self, layers: Layers) -> Layer:
        """Make the layers of a policy, and return the outermost."""
        inner: Layer | None = None
        for depth in range(len(layers) - 1, -1, -1):
            inner = self._layer(layers, depth, inner)
        return inner if inner is not None else self._layer(layers, 0, None)

    def hand_on(self, layers: Layers, changed: Sequence[Part]) -> None:
        """Let the machines of parts that got other settings go on with those."""
        for depth, layer in enumerate(layers):
            for part in layer:
                if part in changed and isinstance(part, Adopting):
                    self.registry.hand_on(self._address(depth, part.slot.key), part)
                if isinstance(part, Fallback) and part.cache is not None:
                    self.registry.hand_on(self._address(depth, "cache"), part.cache)

    def _layer(self, layers: Layers, depth: int, inner: Layer | None) -> Layer:
        parts: dict[Slot, Part] = {part.slot: part for part in layers[depth]} if layers else {}
        retry, fallback = cast("Retry | None", parts.get(Slot.RETRY)), cast("Fallback | None", parts.get(Slot.FALLBACK))
        timeout, hedge = cast("Timeout | None", parts.get(Slot.TIMEOUT)), cast("Hedge | None", parts.get(Slot.HEDGE))
        deadline = cast("Deadline | None", parts.get(Slot.DEADLINE))
        teller = Teller(self.name, self.clock, self.bus, shadow=self.shadow)
        budget = None
        if retry is not None:
            budget = self.registry.get(self._address(depth, retry.slot.key), retry, retry.retry_budget)
        doors = Doors([self._door(depth, p) for p in parts.values() if isinstance(p, AdmissionPart)], self.clock.now)
        stations = Stations(
            deadline=deadline,
            fallback=fallback,
            fallback_places=None if fallback is None or fallback.function is None else self._places(depth, fallback),
            caching=None
            if fallback is None or fallback.cache is None
            else self._caching(depth, fallback, deadline, teller),
            retry=retry,
            budget=budget,
            hedging=self._hedging(depth, hedge, budget, teller),
            doors=doors,
            timeout=timeout,
            workers=self._workers(depth, timeout, cast("Bulkhead | None", parts.get(Slot.BULKHEAD)), teller),
            judges=tuple(
                on_result
                for part in parts.values()
                if isinstance(part, CircuitBreaker | Fallback | Retry)
                if (on_result := part.on_result) is not None
            ),
            chaos=self._chaos(parts.get(Slot.CHAOS), teller),
            inner=inner,
        )
        return self._kind_of_layer(
            self.name,
            stations,
            outermost=depth == 0,
            clock=self.clock,
            random=self.random,
            teller=teller,
            bus=self.bus,
        )

    @property
    def _kind_of_layer(self) -> type[Layer]:
        if not self.shadow:
            return Layer
        from hormesis.policy.shadow import ShadowLayer  # noqa: PLC0415  most policies act

        return ShadowLayer

    def _door(self, depth: int, part: AdmissionPart) -> Door:
        make = functools.partial(part.machine, random=self.random)
        machine = self.registry.get(self._address(depth, part.slot.key), part, make)
        return Door(part, machine, key_of(getattr(part, "by", None)))

    def _caching(self, depth: int, fallback: Fallback | None, deadline: Deadline | None, teller: Teller) -> Any:
        if fallback is None or fallback.cache is None:
            return None
        from hormesis.policy.caching import Caching  # noqa: PLC0415  most policies have no cache

        machine = self.registry.get(self._address(depth, "cache"), fallback.cache, fallback.cache.machine)
        limit = math.inf if deadline is None else seconds(deadline.limit)
        return Caching(self.name, machine, fallback, self.clock, self.random, teller, limit=limit)

    def _places(self, depth: int, fallback: Fallback | None) -> BulkheadMachine | None:
        if fallback is None or fallback.function is None:
            return None
        most = fallback.max_concurrent
        return self.registry.get(
            self._address(depth, "fallback"),
            most,
            lambda lock: BulkheadMachine(max_concurrent=most, max_queued=0, max_wait=1.0, lock=lock),
        )

    def _workers(self, depth: int, timeout: Timeout | None, bulkhead: Bulkhead | None, teller: Teller) -> Any:
        """Where synchronous functions run: in the bulkhead's workers, in the timeout's threads, or in their callers'.

        They are state, like permits: a pool that a new layer made for itself would know nothing of who still works.
        """
        address = self._address(depth, "workers")
        if bulkhead is not None and bulkhead.workers == "processes":
            return self.registry.get(
                address,
                ("processes", bulkhead.max_concurrent, bulkhead.memory_bytes, bulkhead.calls_max),
                lambda _: _processes(self.name, bulkhead, teller),
            )
        if bulkhead is not None and bulkhead.workers == "threads":
            part, most = Slot.BULKHEAD.key, bulkhead.max_concurrent
        elif timeout is not None and timeout.threads:
            part, most = Slot.TIMEOUT.key, timeout.threads
        else:
            return None
        zombies = functools.partial(_tell_zombies, teller, part)
        return self.registry.get(address, ("threads", part, most), lambda _: Threads(self.name, most, zombies))

    def _hedging(self, depth: int, hedge: Hedge | None, budget: Any, teller: Teller) -> Any:
        if hedge is None:
            return None
        from hormesis.policy.hedging import Hedging  # noqa: PLC0415  most policies don't hedge

        machine = self.registry.get(self._address(depth, hedge.slot.key), hedge, hedge.machine)
        return self.registry.get(
            self._address(depth, "races"),
            (hedge, id(machine), id(budget)),
            lambda _: Hedging(self.name, hedge, machine, budget, self.clock, teller),
        )

    def _chaos(self, chaos: Part | None, teller: Teller) -> Any:
        if chaos is None:
            return None
        from hormesis.policy.injecting import Point  # noqa: PLC0415  few policies are places for faults

        return Point(self.name, cast("Chaos", chaos), self.clock, teller)

    def _address(self, depth: int, what: str) -> Address:
        return Address(self.name, what, str(depth) if depth else "")


def _processes(name: str, bulkhead: Bulkhead, teller: Teller) -> Any:
    from hormesis.policy.processes import Processes  # noqa: PLC0415  few policies have processes

    return Processes(
        name,
        bulkhead.max_concurrent,
        memory_max=bulkhead.memory_bytes,
        calls_max=bulkhead.calls_max,
        on_replaced=lambda reason: teller.tell(WorkerReplaced, Slot.BULKHEAD.key, reason=reason),
    )


def _tell_zombies(teller: Teller, part: str, zombies: int, more: bool) -> None:
    teller.tell(WorkLeftBehind if more else LeftWorkEnded, part, zombies=zombies)

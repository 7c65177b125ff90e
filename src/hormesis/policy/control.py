"""The switches of a circuit breaker, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hormesis.core.breaker import BreakerMachine
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.policy.doors import Door
from hormesis.policy.gate import Entry, Gate

if TYPE_CHECKING:
    from hormesis.policy.journey import Layer

__all__ = ["BreakerControl"]


class BreakerControl:
    """Isolates, closes or disables the outermost breaker of a policy by hand; see `Policy.breaker`."""

    __slots__ = ("_layer", "_machine", "_tell")

    def __init__(self, policy: str, layer: Layer | None, key: str | None) -> None:
        door = None
        while layer is not None and door is None:
            door = next((door for door in layer.doors.doors if door.part.slot is Slot.CIRCUIT_BREAKER), None)
            if door is None:
                layer = layer.inner
        if door is None or layer is None:
            raise ConfigurationError(f"policy {policy!r} has no circuit breaker")
        self._layer = layer
        self._machine = _machine(policy, door, key, layer.clock.now)
        gate = Gate([Entry(door.part, self._machine, key or "")])
        teller = layer.teller
        self._tell: Callable[[], None] = lambda: teller.tell_news(gate)

    @property
    def state(self) -> str:
        """The state as it was last decided: an open circuit becomes half-open when somebody asks."""
        return self._machine.state.value

    def isolate(self) -> None:
        """Refuse every call until `close`, whatever the dependency does."""
        self._machine.isolate(self._layer.clock.now())
        self._tell()

    def close(self) -> None:
        """Close the circuit and forget what was counted; also ends `isolate` and `disable`."""
        self._machine.close(self._layer.clock.now())
        self._tell()

    def disable(self) -> None:
        """Let every call in until `close`, and go on counting."""
        self._machine.disable(self._layer.clock.now())
        self._tell()


def _machine(policy: str, door: Door, key: str | None, now: Callable[[], float]) -> BreakerMachine:
    if isinstance(door.machine, BreakerMachine):
        if key is not None:
            raise ConfigurationError(f"the breaker of policy {policy!r} has no keys; it was given {key!r}")
        return door.machine
    if key is None:
        raise ConfigurationError(f"the breaker of policy {policy!r} has an instance for each key; name one")
    machine: BreakerMachine = door.keyed(key, now)
    return machine

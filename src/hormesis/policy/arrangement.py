"""In what order parts stand, and what can't stand together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.part import Part, is_async
from hormesis.patterns.timeout import Timeout

__all__ = ["Layers", "Order", "arranged", "check_parts", "name_of", "sync_problem"]

Order = Literal["standard", "as given"]

Layers = tuple[tuple[Part, ...], ...]
"""Runs of parts that each stand in the standard order, from the outside in."""


def check_parts(parts: Sequence[object]) -> None:
    """Refuse what is no part.

    Raises:
        ConfigurationError: Something else is among them.
    """
    for part in parts:
        if isinstance(part, type) or not isinstance(part, Part):
            raise ConfigurationError(f"{part!r} is no part of a policy; parts are such as Retry(...) or Timeout(...)")


def arranged(parts: Sequence[Part], order: Order) -> Layers:
    """Put parts into their order.

    Raises:
        ConfigurationError: A part stands twice, or in an order that can't work.
    """
    layers = _one_layer(parts) if order == "standard" else _layers_as_given(parts)
    _check_chaos([part for layer in layers for part in layer])
    return layers


def _one_layer(parts: Sequence[Part]) -> Layers:
    """The parts in the standard order."""
    seen: set[Slot] = set()
    for part in parts:
        if part.slot in seen:
            raise ConfigurationError(
                f"two parts of the kind {part.slot.key!r}: a policy has one; nest policies, or use order='as given'"
            )
        seen.add(part.slot)
    return (tuple(sorted(parts, key=lambda part: part.slot.position)),)


def _layers_as_given(parts: Sequence[Part]) -> Layers:
    """Cut the parts into runs that each stand in the standard order."""
    layers: list[list[Part]] = []
    for part in parts:
        if not layers or part.slot.position <= layers[-1][-1].slot.position:
            layers.append([])
        layers[-1].append(part)
    judges: list[str] = []
    for layer in layers:
        for part in layer:
            if part.slot is Slot.FALLBACK and judges:
                raise ConfigurationError(
                    f"a fallback inside of {' and '.join(judges)}: they would never see a failure; put it outside"
                )
        judges += [part.slot.key for part in layer if part.slot in (Slot.RETRY, Slot.CIRCUIT_BREAKER)]
    return tuple(tuple(layer) for layer in layers)


def _check_chaos(parts: Sequence[Part]) -> None:
    """Refuse injected faults where they could not be met with as real ones."""
    if any(part.slot is Slot.CHAOS for part in parts[:-1]):
        raise ConfigurationError("chaos stands in the place of the function: no part can stand inside of it")
    if any(part.slot is Slot.CHAOS for part in parts):
        for part in parts:
            if isinstance(part, Bulkhead) and part.workers == "processes":
                raise ConfigurationError(
                    "chaos and a bulkhead with workers='processes': faults are injected in this process, and the "
                    "function runs in another; take one of them out"
                )


def sync_problem(parts: Sequence[Part]) -> str | None:
    """Why these parts can't protect a synchronous function, or None."""
    workers = any(isinstance(part, Bulkhead) and part.workers for part in parts)
    for part in parts:
        if isinstance(part, Timeout) and not (part.threads or part.cooperative or workers):
            return (
                "a thread can't be interrupted, so on a synchronous function a Timeout needs threads=N or a bulkhead "
                "with workers (the caller stops waiting, and the thread ends by itself), or cooperative=True (the "
                "function heeds hormesis.remaining())"
            )
        if isinstance(part, Hedge) and not part.threads:
            return "a second attempt at the same time needs a thread: give the Hedge threads=N"
        if isinstance(part, Fallback) and part.function and is_async(part.function):
            return f"the fallback {name_of(part.function)} is asynchronous"
    return None


def name_of(function: object) -> str:
    """What to call a function in a message."""
    return str(getattr(function, "__qualname__", function))

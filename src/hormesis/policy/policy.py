"""`Policy`: patterns combined in the right order, around any function.

A policy arranges its parts in the standard order of `hormesis.core.slots`, whatever order they are written in, and
explains itself. Settings are values; the state is in a registry, so a policy that derives from another (`with_parts`)
goes on with its state.
"""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, cast

from hormesis.clock import MONOTONIC, Clock, Random, system_random
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, bus
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.part import AdmissionPart, Part
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.explain import explain, first
from hormesis.policy.gate import Gate
from hormesis.policy.journey import Layer
from hormesis.policy.registry import Address, Registry

__all__ = ["Order", "Policy"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
PartOf = TypeVar("PartOf", bound=Part)

Order = Literal["standard", "as given"]


class Policy:
    """Patterns around a call.

    Args:
        *parts: Settings of patterns, each at most once.
        name: What events, errors and the registry call it.
        order: `"standard"` arranges the parts itself; `"as given"` keeps their order, outermost first, and allows a
            part more than once, but refuses what can't work.
        registry: Where the state lives. By default each policy has a registry of its own; policies that are given the
            same one and have the same name share their state.
        clock, random, events: Time, randomness and the event bus; for tests and simulations.

    Raises:
        ConfigurationError: A part stands twice, is no part, or the order can't work.

    A policy is a decorator for synchronous and asynchronous functions, and can be shared by threads and tasks:

    >>> from hormesis import Bulkhead, Policy, Retry
    >>> stock = Policy(Retry(on="transient"), Bulkhead(20), name="stock")
    >>> @stock
    ... def in_stock(sku: str) -> int:
    ...     return 3
    >>> in_stock("tea"), stock.call(len, "tea")
    (3, 3)
    """

    __slots__ = (
        "__weakref__",
        "_bus",
        "_clock",
        "_random",
        "_registry",
        "_sync_problem",
        "_top",
        "layers",
        "name",
        "order",
    )

    def __init__(
        self,
        *parts: Part,
        name: str = "policy",
        order: Order = "standard",
        registry: Registry | None = None,
        clock: Clock = MONOTONIC,
        random: Random | None = None,
        events: EventBus = bus,
    ) -> None:
        for part in parts:
            if isinstance(part, type) or not isinstance(part, Part):
                raise ConfigurationError(
                    f"{part!r} is no part of a policy; parts are such as Retry(...) or Timeout(...)"
                )
        if order not in ("standard", "as given"):
            raise ConfigurationError.unknown("order", order, ("standard", "as given"))
        if not name or not isinstance(name, str):
            raise ConfigurationError.bad_value("name", name, "a non-empty string")
        self.name = name
        self.order: Order = order
        self.layers = _one_layer(parts) if order == "standard" else _layers_as_given(parts)
        self._registry = registry if registry is not None else Registry()
        self._clock = clock
        self._random = random if random is not None else system_random()
        self._bus = events
        self._sync_problem = _sync_problem(parts)
        self._build()
        _policies.add(self)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts, from the outermost in."""
        return tuple(part for layer in self.layers for part in layer)

    def part(self, kind: type[PartOf]) -> PartOf | None:
        """Return the outermost part of a class, such as `Retry`, or None."""
        return first(self.parts, kind)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a synchronous function under this policy.

        Raises:
            Rejected: A part refused the call.
            TimedOut: An attempt or the whole call took too long.
            ConfigurationError: The function is asynchronous, or the policy can't protect a synchronous one.
            Exception: Whatever the function raised last.
        """
        if self._sync_problem is not None:
            raise ConfigurationError(self._sync_problem)
        return cast("R", self._top.run(function, args, kwargs))

    async def acall(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an asynchronous function under this policy; raises as `call` does."""
        return cast("R", await self._top.run_async(function, args, kwargs))

    def __call__(self, function: F) -> F:
        """Decorate a function; its type and signature are kept.

        Raises:
            ConfigurationError: It is a generator (a stream is no single answer), or it is synchronous and the policy
                can't protect that.
        """
        if not callable(function):
            raise ConfigurationError.bad_value("the decorated object", function, "a function")
        if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
            raise ConfigurationError(f"{_name(function)} is a generator; a policy protects calls with one answer")
        if _is(inspect.iscoroutinefunction, function):

            async def protected_async(*args: Any, **kwargs: Any) -> Any:
                return await self._top.run_async(function, args, kwargs)

            return cast("F", functools.update_wrapper(protected_async, function))
        if self._sync_problem is not None:
            raise ConfigurationError(f"{_name(function)} is synchronous: {self._sync_problem}")

        def protected(*args: Any, **kwargs: Any) -> Any:
            return self._top.run(function, args, kwargs)

        return cast("F", functools.update_wrapper(protected, function))

    def with_parts(self, *parts: Part) -> Policy:
        """Return a policy with these parts added, or put in the place of those of the same kind.

        The state of the parts that stay is shared with this policy.

        >>> from hormesis import Fallback, Policy, Timeout
        >>> Policy(Timeout("1s")).with_parts(Fallback(value=[])).parts[0].describe()
        'answers [] on any, rejected'
        """
        if self.order != "standard":
            raise ConfigurationError("with_parts() does not know where to put a part in an order as given")
        replaced = {part.slot for part in parts}
        kept = [part for part in self.parts if part.slot not in replaced]
        return Policy(
            *kept,
            *parts,
            name=self.name,
            registry=self._registry,
            clock=self._clock,
            random=self._random,
            events=self._bus,
        )

    def explain(self) -> str:
        """Return the order, its reasons, and the worst case in time and attempts, for people."""
        return explain(self.name, self.layers)

    def __repr__(self) -> str:
        return f"<Policy {self.name!r}: {', '.join(part.slot.key for part in self.parts) or 'no parts'}>"

    def _build(self) -> None:
        """Make the journey from the settings, with the state that the registry has for them."""
        inner: Layer | None = None
        for depth in range(len(self.layers) - 1, -1, -1):
            inner = self._layer(depth, inner)
        self._top = inner if inner is not None else self._layer(0, None)

    def _layer(self, depth: int, inner: Layer | None) -> Layer:
        parts: dict[Slot, Part] = {part.slot: part for part in self.layers[depth]} if self.layers else {}
        retry = cast("Retry | None", parts.get(Slot.RETRY))
        budget = None
        if retry is not None:
            budget = self._registry.get(self._address(depth, retry), retry, retry.retry_budget)
        admission = [part for part in parts.values() if isinstance(part, AdmissionPart)]
        gate = Gate([(part, self._registry.get(self._address(depth, part), part, part.machine)) for part in admission])
        return Layer(
            self.name,
            deadline=cast("Deadline | None", parts.get(Slot.DEADLINE)),
            fallback=cast("Fallback | None", parts.get(Slot.FALLBACK)),
            retry=retry,
            budget=budget,
            gate=gate,
            timeout=cast("Timeout | None", parts.get(Slot.TIMEOUT)),
            inner=inner,
            clock=self._clock,
            random=self._random,
            bus=self._bus,
        )

    def _address(self, depth: int, part: Part) -> Address:
        return Address(self.name, part.slot.key, str(depth) if depth else "")


_policies: weakref.WeakSet[Policy] = weakref.WeakSet()


def _start_clean_after_fork() -> None:
    """Give every policy new machines and locks: the parent's may be held by threads that don't exist here."""
    policies = list(_policies)
    for policy in policies:
        policy._registry.start_clean()
    for policy in policies:
        policy._build()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_clean_after_fork)


def _one_layer(parts: Sequence[Part]) -> tuple[tuple[Part, ...], ...]:
    """The parts in the standard order."""
    seen: set[Slot] = set()
    for part in parts:
        if part.slot in seen:
            raise ConfigurationError(
                f"two parts of the kind {part.slot.key!r}: a policy has one; nest policies, or use order='as given'"
            )
        seen.add(part.slot)
    return (tuple(sorted(parts, key=lambda part: part.slot.position)),)


def _layers_as_given(parts: Sequence[Part]) -> tuple[tuple[Part, ...], ...]:
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


def _sync_problem(parts: Sequence[Part]) -> str | None:
    """Why these parts can't protect a synchronous function, or None."""
    for part in parts:
        if isinstance(part, Timeout) and not part.threads and not part.cooperative:
            return (
                "a thread can't be interrupted, so on a synchronous function a Timeout needs threads=N (the caller "
                "stops waiting, and the thread ends by itself) or cooperative=True (the function heeds "
                "hormesis.remaining())"
            )
        if isinstance(part, Fallback) and part.function and _is(inspect.iscoroutinefunction, part.function):
            return f"the fallback {_name(part.function)} is asynchronous"
    return None


def _is(test: Callable[[object], bool], function: object) -> bool:
    """Ask about a function, a partial of one, or an object that is called."""
    while isinstance(function, functools.partial):
        function = function.func
    return test(function) or test(getattr(function, "__call__", None))  # noqa: B004  not whether, but of which kind


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", function))

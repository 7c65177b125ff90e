"""`Policy`: patterns combined in the right order, around any function.

A policy arranges its parts in the standard order of `hormesis.core.slots`, whatever order they are written in, and
explains itself. Settings are values; the state is in a registry, so a policy that derives from another (`with_parts`)
goes on with its state, and one that gets other settings while it is in use (`reconfigure`) keeps it.
"""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from hormesis.clock import MONOTONIC, Clock, Random, system_random
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, Reconfigured, bus
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.part import Part, flag, is_a, is_async
from hormesis.policy.arrangement import Order, arranged, check_parts, name_of, sync_problem
from hormesis.policy.assembly import Assembly
from hormesis.policy.call import Opened
from hormesis.policy.expected import Expected
from hormesis.policy.explain import explain, first
from hormesis.policy.express import protect, protect_async
from hormesis.policy.journey import Layer
from hormesis.policy.registry import Registry
from hormesis.policy.telling import Teller

if TYPE_CHECKING:
    from hormesis.policy.block import Attempts
    from hormesis.policy.control import BreakerControl

__all__ = ["Policy"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
PartOf = TypeVar("PartOf", bound=Part)


class Policy:
    """Patterns around a call.

    Args:
        *parts: Settings of patterns, each at most once.
        name: What events, errors and the registry call it.
        order: `"standard"` arranges the parts itself; `"as given"` keeps their order, outermost first, and allows a
            part more than once, but refuses what can't work.
        shadow: Whether it only watches: it decides and reports what it would do, and calls the function as it is.
        calls: The policies that the function is protected by further in, here or in the service that it calls;
            `explain()` and lint multiply attempts and compare deadlines along them.
        expects: The traffic that the author expects, for lint to check the settings against.
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
        "calls",
        "expects",
        "layers",
        "name",
        "order",
        "shadow",
        "top",
    )

    def __init__(
        self,
        *parts: Part,
        name: str = "policy",
        order: Order = "standard",
        shadow: bool = False,
        calls: Sequence[Policy] = (),
        expects: Expected | None = None,
        registry: Registry | None = None,
        clock: Clock = MONOTONIC,
        random: Random | None = None,
        events: EventBus = bus,
    ) -> None:
        check_parts(parts)
        if order not in ("standard", "as given"):
            raise ConfigurationError.unknown("order", order, ("standard", "as given"))
        if not name or not isinstance(name, str):
            raise ConfigurationError.bad_value("name", name, "a non-empty string")
        self.name = name
        self.order: Order = order
        self.shadow = flag("shadow", shadow)
        _check_surroundings(calls, expects)
        self.calls = tuple(calls)
        self.expects = expects
        self.layers = arranged(parts, order)
        self._registry = registry if registry is not None else Registry()
        self._clock = clock
        self._random = random if random is not None else system_random()
        self._bus = events
        self._sync_problem = sync_problem(parts)
        self._build()
        _policies.add(self)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts, from the outermost in."""
        return tuple(part for layer in self.layers for part in layer)

    @property
    def events(self) -> EventBus:
        """Where its events are published."""
        return self._bus

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
        if _code_flags(function) & _GENERATOR:
            raise ConfigurationError(
                f"{name_of(function)} is a generator; a policy protects calls with one answer, and streams with open()"
            )
        return cast("R", protect(self, function)(*args, **kwargs))

    async def acall(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an asynchronous function under this policy; raises as `call` does."""
        return cast("R", await protect_async(self, function)(*args, **kwargs))

    async def acall_in_worker(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a synchronous function in one of this policy's workers, while the event loop goes on.

        Raises:
            ConfigurationError: The policy has no workers, and the function would block the loop; or a process can't be
                sent the function.
            Exception: As `call` does.
        """
        if self.top.workers is None:
            raise ConfigurationError(
                f"policy {self.name!r} has no workers, so {name_of(function)} would block the event loop; give its "
                "bulkhead workers='threads' or 'processes'"
            )
        if is_async(function):
            raise ConfigurationError(f"{name_of(function)} is asynchronous, and needs no worker: use acall()")
        return cast("R", await protect_async(self, cast("Any", function))(*args, **kwargs))

    def open(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Opened[R]:
        """Call a synchronous function whose work goes on when it has returned, such as one that opens a stream.

        What is admitted stays admitted until the `Opened` ends. Raises as `call` does.

        >>> from hormesis import Bulkhead, Policy
        >>> lines = Policy(Bulkhead(1), name="lines")
        >>> with lines.open(iter, ["a", "b"]) as opened:
        ...     [line for line in opened.value]
        ['a', 'b']
        """
        if self._sync_problem is not None:
            raise ConfigurationError(self._sync_problem)
        return self.top.open(function, args, kwargs)

    async def aopen(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> Opened[R]:
        """Call an asynchronous function whose work goes on when it has returned; otherwise as `open`."""
        return await self.top.open_async(function, args, kwargs)

    def attempts(self) -> Attempts:
        """Return the attempts of this policy for a block of code, instead of a function.

        Raises:
            ConfigurationError: A part can't act on a block: a fallback has no place to put its answer, and a hedge or a
                worker can't run a block that stands in somebody's function.

        >>> from hormesis import Policy, Retry
        >>> answers = iter([ConnectionRefusedError(), 3])
        >>> for attempt in Policy(Retry(on="transient", delay=0)).attempts():
        ...     with attempt:
        ...         if isinstance(answer := next(answers), Exception):
        ...             raise answer
        >>> attempt.number, answer
        (2, 3)
        """
        from hormesis.policy.block import Attempts  # noqa: PLC0415  most policies stand around functions

        return Attempts(self.name, self.layers, self.top, self._sync_problem)

    def __call__(self, function: F) -> F:
        """Decorate a function; its type and signature are kept.

        Raises:
            ConfigurationError: It is a generator (a stream is no single answer), or it is synchronous and the policy
                can't protect that.
        """
        if not callable(function):
            raise ConfigurationError.bad_value("the decorated object", function, "a function")
        if is_a(inspect.isgeneratorfunction, function) or is_a(inspect.isasyncgenfunction, function):
            raise ConfigurationError(
                f"{name_of(function)} is a generator; a policy protects calls with one answer, and streams with open()"
            )
        if is_async(function):
            return cast("F", self._mark(functools.update_wrapper(protect_async(self, function), function)))
        if self._sync_problem is not None:
            raise ConfigurationError(f"{name_of(function)} is synchronous: {self._sync_problem}")
        if any(isinstance(part, Bulkhead) and part.workers == "processes" for part in self.parts):
            from hormesis.policy.processes import check_function  # noqa: PLC0415  few policies have processes

            check_function(function)
        return cast("F", self._mark(functools.update_wrapper(protect(self, function), function)))

    def _mark(self, function: Any) -> Any:
        """Let lint see which policy protects a function."""
        function.__hormesis_policy__ = self
        return function

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
            shadow=self.shadow,
            calls=self.calls,
            expects=self.expects,
            registry=self._registry,
            clock=self._clock,
            random=self._random,
            events=self._bus,
        )

    def reconfigure(self, *parts: Part, shadow: bool | None = None) -> None:
        """Give this policy other settings while it is in use; its state is kept.

        The parts replace those of the same kind; others stay. Calls that are under way end as they began. A breaker
        stays open, a bulkhead keeps count of who is inside, a budget keeps its stock.

        Args:
            *parts: The new settings.
            shadow: Whether it only watches from now on; None leaves that as it is.

        Raises:
            ConfigurationError: As when a policy is made; then nothing has changed.

        >>> from hormesis import Bulkhead, Policy
        >>> policy = Policy(Bulkhead(5), name="stock")
        >>> policy.reconfigure(Bulkhead(50))
        >>> policy.snapshot()["parts"]["bulkhead"]["max_concurrent"]
        50
        """
        if self.order != "standard":
            raise ConfigurationError("reconfigure() does not know where to put a part in an order as given")
        check_parts(parts)
        replaced = {part.slot for part in parts}
        kept = [part for part in self.parts if part.slot not in replaced]
        self.take_over(
            [*kept, *parts],
            self.order,
            shadow=self.shadow if shadow is None else shadow,
            calls=self.calls,
            expects=self.expects,
        )

    def take_over(
        self,
        parts: Sequence[Part],
        order: Order,
        *,
        shadow: bool,
        calls: Sequence[Policy],
        expects: Expected | None,
    ) -> None:
        """Become a policy of these parts, with the state that this one has; for files that are read again."""
        check_parts(parts)
        layers = arranged(parts, order)
        changed = [part for part in parts if part not in self.parts]
        self._assembly(shadow=shadow).hand_on(layers, changed)
        self.order, self.layers, self.shadow = order, layers, flag("shadow", shadow)
        self.calls, self.expects = tuple(calls), expects
        self._sync_problem = sync_problem(parts)
        self._build()
        teller = Teller(self.name, self._clock, self._bus)
        for part in changed:
            teller.tell(Reconfigured, part.slot.key, settings=part.describe())

    def breaker(self, key: str | None = None) -> BreakerControl:
        """Return the switches of this policy's circuit breaker: isolate, close, disable.

        Args:
            key: Whose, where the breaker has an instance for each key.

        Raises:
            ConfigurationError: There is no breaker, or a key is missing or makes no sense.

        >>> from hormesis import CircuitBreaker, Policy
        >>> policy = Policy(CircuitBreaker(), name="payments")
        >>> policy.breaker().isolate(); policy.breaker().state
        'isolated'
        >>> policy.breaker().close(); policy.breaker().state
        'closed'
        """
        from hormesis.policy.control import BreakerControl  # noqa: PLC0415  for people, who are slow

        return BreakerControl(self.name, self.top, key)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of this policy as plain data, for a dashboard or a log.

        Returns:
            `policy`, `shadow`, `zombies` (threads that were left behind and still go on), and `parts`: what each part
            holds, by its key in a policy file. Parts with an instance for each key have them under `keys`.

        >>> from hormesis import CircuitBreaker, Policy
        >>> Policy(CircuitBreaker(), name="stock").snapshot()["parts"]["circuit_breaker"]["state"]
        'closed'
        """
        found: dict[str, Any] = {}
        layer: Layer | None = self.top
        zombies = 0
        for depth in range(max(1, len(self.layers))):
            assert layer is not None  # noqa: S101  there are as many as that
            found |= {f"{key}#{depth}" if key in found else key: state for key, state in layer.snapshot().items()}
            zombies += layer.zombies
            layer = layer.inner
        return {"policy": self.name, "shadow": self.shadow, "zombies": zombies, "parts": found}

    def explain(self) -> str:
        """Return the order, its reasons, and the worst case in time and attempts, for people."""
        return explain(self)

    def __repr__(self) -> str:
        return f"<Policy {self.name!r}: {', '.join(part.slot.key for part in self.parts) or 'no parts'}>"

    def _build(self) -> None:
        """Make the journey from the settings, with the state that the registry has for them."""
        self.top = self._assembly(shadow=self.shadow).top(self.layers)

    def _assembly(self, *, shadow: bool) -> Assembly:
        return Assembly(self.name, self._registry, shadow=shadow, clock=self._clock, random=self._random, bus=self._bus)


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


def _check_surroundings(calls: object, expects: object) -> None:
    if not isinstance(calls, list | tuple) or not all(isinstance(called, Policy) for called in calls):
        raise ConfigurationError.bad_value("calls", calls, "a list of policies")
    if expects is not None and not isinstance(expects, Expected):
        raise ConfigurationError.bad_value("expects", expects, "an Expected(...), or None")


_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def _code_flags(function: object) -> int:
    """What kind of function it is, as its code says; a quick look for the hot path."""
    flags: int = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return flags

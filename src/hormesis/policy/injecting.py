"""A place in a journey where faults are injected: what a call meets with there, and how it comes to feel it.

`plan` decides, by the machine; the rest carries it out, once for each colour. Latency is waited in short steps, so that
it ends with the attempt's time, with a cancellation, and soon after whoever wanted it has ended it.

**What it looks like.** A failure that is injected must be what a real one would be, or what is tested is not what will
happen. So an integration marks the function that it puts under a policy with a `Forge`, which makes of a fault what its
library would come up with. Where there is none, failure kinds become exceptions of the standard library, and what that
has no word for is an `InjectedFault`.
"""

from __future__ import annotations

import errno
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from hormesis.clock import MONOTONIC, Clock
from hormesis.context import check_deadline, criticality, current_call, remaining, request_id
from hormesis.core.chaos import fold
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, InjectedFault
from hormesis.events import ChaosInjected
from hormesis.outcome import FailureKind, classify
from hormesis.patterns.chaos import Chaos
from hormesis.patterns.injection import NO_RESULT, Injection, Scoped, current_injections
from hormesis.policy.chaos_control import listen_if_asked
from hormesis.policy.telling import Teller
from hormesis.units import seconds

if TYPE_CHECKING:
    from hormesis.policy.journey import Layer

__all__ = ["Forge", "Plan", "Point", "forged", "grpc_status_of", "handed_on", "http_status_of", "retry_after_headers"]

_STEP_SECONDS = 0.2
"""How long an injected latency goes on at most when whoever wanted it has ended it."""

_FORGE = "__hormesis_forge__"
"""The attribute of a function that holds its forge."""

Forge: TypeAlias = Callable[[InjectedFault, Sequence[Any]], Any]
"""Makes of a fault, and the arguments of the call, what the call comes to: returns what the function would have
returned, or raises what it would have raised."""


_HTTP = {
    FailureKind.THROTTLED: 429,
    FailureKind.TIMEOUT: 504,
    FailureKind.ERROR: 500,
    FailureKind.INVALID: 400,
}
_GRPC = {
    FailureKind.THROTTLED: "RESOURCE_EXHAUSTED",
    FailureKind.TIMEOUT: "DEADLINE_EXCEEDED",
    FailureKind.ERROR: "INTERNAL",
    FailureKind.INVALID: "INVALID_ARGUMENT",
}


def http_status_of(fault: InjectedFault) -> int:
    """Return the status of HTTP that a fault is: its own, or that of its kind.

    >>> http_status_of(InjectedFault("stock", status=404)), http_status_of(InjectedFault("stock", "connect"))
    (404, 503)
    """
    return fault.status if isinstance(fault.status, int) else _HTTP.get(classify(fault), 503)


def grpc_status_of(fault: InjectedFault) -> str:
    """Return the name of the status of gRPC that a fault is: its own, or that of its kind.

    >>> grpc_status_of(InjectedFault("stock", status="ABORTED")), grpc_status_of(InjectedFault("stock", status=503))
    ('ABORTED', 'UNAVAILABLE')
    """
    return fault.status if isinstance(fault.status, str) else _GRPC.get(classify(fault), "UNAVAILABLE")


def retry_after_headers(after: float | None) -> dict[str, str]:
    """Return the header that asks to come back after so many seconds, if a fault does."""
    return {} if after is None else {"retry-after": str(math.ceil(after))}


def forged(function: Any, forge: Forge) -> Any:
    """Mark a function with what makes its failures; returns the function."""
    setattr(function, _FORGE, forge)
    return function


def _plain(fault: InjectedFault, args: Sequence[Any]) -> Any:  # noqa: ARG001  as a `Forge`
    """Raise what calls of no library that we know would."""
    if fault.status is None:
        if fault.kind == FailureKind.CONNECT:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if fault.kind == FailureKind.TIMEOUT:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        if fault.kind == FailureKind.UNAVAILABLE:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    raise fault


def handed_on(layer: Layer) -> str:
    """Return the signed header that a call goes on with which a policy makes now; empty when it has none.

    Only policies that are places for faults themselves hand it on: others may call anybody.

    Args:
        layer: The policy's outermost.
    """
    faults = current_injections.get()
    if not faults:
        return ""
    while layer.inner is not None:
        layer = layer.inner
    if layer.chaos is None or not layer.chaos.on:
        return ""
    return next((fault.passed_on for fault in faults if fault.passed_on), "")


class Plan(NamedTuple):
    """What one call meets with.

    Args:
        delay: Seconds of latency.
        faults: All that act.
        answer: The fault that stands in the place of the function's answer; None: there is none.
    """

    delay: float
    faults: tuple[Scoped, ...]
    answer: Injection | None


class Point:
    """A place where faults are injected.

    Args:
        name: The name of its policy or service.
        settings: The part.
        clock: What latency is waited by.
        teller: Tells what was injected.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_era",
        "_injected",
        "_lock",
        "_machine",
        "_own",
        "_switch",
        "_teller",
        "_turned",
        "name",
        "on",
        "settings",
    )

    def __init__(self, name: str, settings: Chaos, clock: Clock, teller: Teller) -> None:
        self.name = name
        self.settings = settings
        self._switch = settings.switched_by
        self._clock = clock
        self._teller = teller
        self._lock = threading.Lock()
        self._era = -1
        self._machine = settings.machine(name)
        self._own: tuple[Scoped, ...] = ()
        self._injected: Counter[str] = Counter()
        self._turned: Callable[[bool], object] | None = None
        self.on = False
        """Whether anything may be injected; where it is false, nobody need ask for a plan."""

    @property
    def token(self) -> str | None:
        """What headers must be signed with."""
        return self._switch.token

    def watch(self, turned: Callable[[bool], object] | None = None) -> None:
        """Begin to look at the switch.

        Args:
            turned: Told whether anything may be injected, whenever that may have changed.
        """
        self._turned = turned
        self._switch.join(self)
        listen_if_asked(self._switch)

    def turn(self, on: bool) -> None:
        """Look at the switch, or do so no more; the switch calls it."""
        self.on = on
        if self._turned is not None:
            self._turned(on)

    def plan(self, labels: Mapping[str, str] | None = None) -> Plan | None:
        """Say what a call meets with that is made now; None: nothing.

        Args:
            labels: What is known of it besides what `calling` has told.
        """
        state, now = self._switch.state, self._switch.now()
        if now >= state.ends:
            self._switch.settle()
            return None
        if self._era != state.era:
            self._begin(state.era, state.began)
        share_max = self.settings.share_max
        faults = [(fault, now) for dose in state.doses if now < dose.until for fault in dose.faults]
        if now < state.until:
            share_max = min(share_max, state.share_max)
            faults += [(fault, now) for fault in self._own]
            faults += [(fault, MONOTONIC.now()) for fault in current_injections.get()]
        journey = self._journey()
        if not self._machine.may_touch(share_max, journey):
            return None
        known = _known(labels) if any(fault.injection.where for fault, _ in faults) else {}
        acting: list[Scoped] = []
        delay = 0.0
        for fault, at in faults:
            if fault.at(self.name):
                index = fault.trigger.acts(at, known, share_max, journey)
                if index is not None:
                    acting.append(fault)
                    delay += self._tell(fault, index)
        if not acting:
            return None
        answer = next((fault.injection for fault in acting if fault.injection.answers), None)
        return Plan(delay, tuple(acting), answer)

    def perform(self, plan: Plan, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a synchronous function as planned."""
        self.before(plan)
        if plan.answer is not None:
            return self.answer(plan.answer, function, args)
        return function(*args, **kwargs)

    def before(self, plan: Plan) -> None:
        """Let a synchronous call meet with what comes before its answer.

        Raises:
            TimedOut: Its time was over meanwhile.
        """
        for fault in plan.faults:
            if fault.injection.behaviour is not None:
                fault.injection.behaviour()
        began = self._clock.now()
        while (left := began + plan.delay - self._clock.now()) > 0 and self._goes_on(plan):
            time = remaining()
            if time is not None and time <= 0:
                break
            self._clock.sleep(min(left, _STEP_SECONDS, left if time is None else time))
        if plan.delay:
            check_deadline()

    async def before_async(self, plan: Plan, *, heeds_deadline: bool = False) -> None:
        """Let an asynchronous call meet with what comes before its answer.

        Args:
            plan: What that is.
            heeds_deadline: Whether nobody else cuts it short when its time is over.

        Raises:
            TimedOut: Its time was over meanwhile, and it was to heed that.
        """
        import inspect  # noqa: PLC0415  few calls meet with anything

        for fault in plan.faults:
            if fault.injection.behaviour is not None:
                done = fault.injection.behaviour()
                if inspect.isawaitable(done):
                    await done
        began = self._clock.now()
        while (left := began + plan.delay - self._clock.now()) > 0 and self._goes_on(plan):
            await self._clock.sleep_async(min(left, _STEP_SECONDS))
            if heeds_deadline:
                check_deadline()

    def answer(self, injection: Injection, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Return or raise what stands in the place of a function's answer."""
        if injection.result is not NO_RESULT:
            return injection.result
        try:
            return self._come_to(injection, getattr(function, _FORGE, _plain), args)
        except Exception as error:
            error.add_note(f"hormesis: injected into {self.name!r}: {injection}")
            raise

    def fault(self, injection: Injection) -> InjectedFault:
        """Put what a fault stands for into the words of an exception."""
        after = None if injection.retry_after is None else seconds(injection.retry_after, zero=True)
        kind = injection.error if isinstance(injection.error, str) else FailureKind.ERROR.value
        return InjectedFault(self.name, kind, injection.status, after)

    def error(self, injection: Injection) -> Exception:
        """Make the exception of a fault whose author has said which.

        Raises:
            ConfigurationError: What the author's function returns is none.
        """
        made: object = cast("Callable[[], Exception]", injection.error)()
        if not isinstance(made, Exception):
            raise ConfigurationError.bad_value("error", injection.error, "a function that returns an exception")
        return made

    def snapshot(self) -> dict[str, Any]:
        """Return its state as plain data."""
        with self._lock:
            injected = dict(self._injected)
        found = {**self._switch.snapshot(), "injected": injected}
        found["share_max"] = min(found["share_max"], self.settings.share_max)
        return found

    def _come_to(self, injection: Injection, forge: Forge, args: Sequence[Any]) -> Any:
        if injection.error is None or isinstance(injection.error, str):
            return forge(self.fault(injection), args)
        raise self.error(injection)

    def _begin(self, era: int, began: float) -> None:
        """Begin to count anew, as whenever it was enabled."""
        with self._lock:
            if self._era != era:
                self._machine = self.settings.machine(self.name)
                self._own = self.settings.own(self.name, began)
                self._era = era

    def _journey(self) -> int | None:
        current = request_id() if self.settings.per == "journey" else None
        return None if current is None else fold(current)

    def _tell(self, fault: Scoped, index: int) -> float:
        """Tell that a fault acts, and return its latency."""
        injection = fault.injection
        delay, kind = injection.delay(fault.trigger.luck(index)), injection.kind
        with self._lock:
            self._injected[kind] += 1
        self._teller.tell(
            ChaosInjected, Slot.CHAOS.key, fault=str(injection), kind=kind, source=fault.source, delay=delay
        )
        return delay

    def _goes_on(self, plan: Plan) -> bool:
        """Whether somebody still wants the faults that a call is meeting with."""
        state, now = self._switch.state, self._switch.now()
        if now < state.until and any(fault.source != "dose" for fault in plan.faults):
            return True
        return any(fault in dose.faults for dose in state.doses if now < dose.until for fault in plan.faults)


def _known(labels: Mapping[str, str] | None) -> dict[str, str]:
    """All labels of a call."""
    known = {**current_call.get().labels, **(labels or {})}
    current = criticality()
    if current is not None:
        known.setdefault("criticality", current.word)
    return known

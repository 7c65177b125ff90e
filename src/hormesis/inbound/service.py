"""`Service`: what comes in is identified, counted, let in and let out by these settings.

A `Service` is to requests what a `Policy` is to calls: settings are values, state has an address in a registry, other
settings may be given to it while it is in use, and a process that is forked starts clean. One service may stand before
several applications, also of different kinds; then they share its limits.

Its limits are those of one process. Where a server has several (uvicorn's or gunicorn's workers), the machine lets in
as many times what is set here; `processes` divides the rate limits by their number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from hormesis import tables
from hormesis.clock import MONOTONIC, Clock, Random, system_random
from hormesis.core.rate_gate import RateGates
from hormesis.core.rate_limit import Limiter
from hormesis.core.shedder import ShedderMachine
from hormesis.core.slots import Inbound
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, Reconfigured, bus
from hormesis.inbound.classification import Classifier, Rule
from hormesis.inbound.drain import Drain, Leaving, watch_signals
from hormesis.inbound.explain import explain
from hormesis.inbound.ground import Before, Ground, Limit, Whose
from hormesis.inbound.identification import Identifier
from hormesis.inbound.limits import PRINCIPAL, addressed, cost_of, divided, key_of
from hormesis.inbound.limits import check as check_limits
from hormesis.inbound.origin import ADDRESSES, AddressHeader, Trust, networks
from hormesis.inbound.signals.health import HealthMonitor
from hormesis.inbound.signals.request_start import RequestStart
from hormesis.patterns.chaos import Chaos
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.part import flag, normalise, whole
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.system_health import SystemHealth
from hormesis.policy.files import Policies, load, register_section
from hormesis.policy.registry import Address, Registry
from hormesis.priority import Criticality
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, seconds

if TYPE_CHECKING:
    from hormesis.inbound.injecting import ServicePoint
    from hormesis.patterns.degradation import Degradation

__all__ = ["Given", "Service", "ServiceSettings", "service_of"]

Part: TypeAlias = Rule | RateLimit | LoadShedder | SystemHealth | Drain | Chaos
Given: TypeAlias = "Service | ServiceSettings | Policies | str | os.PathLike[str]"
"""What stands for a service where one is needed: itself, its settings, or the file that holds them."""

_ONE_EACH: dict[str, type[Any]] = {
    "load_shedder": LoadShedder,
    "health": SystemHealth,
    "drain": Drain,
    "chaos": Chaos,
}
"""The settings that are parts of which a service has one."""

_PEER = "peer"
_RULES_MAX = 1000
_LIMITS_MAX = 20
_PROCESSES_MAX = 10_000
_ADDRESSES_ACCEPTED = f"{' or '.join(map(repr, ADDRESSES))}, or 'peer' for the other end of the socket"
_STRANGERS_ACCEPTED = "the best and the worst class that they may have, such as ['default', 'background']"
_CLASSES = "'critical', 'default', 'sheddable' or 'background'"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings(Settings):
    """The settings of a `Service`, which describes them; this is what a file holds.

    >>> ServiceSettings(deadline="2s", trusted=("10.0.0.0/8",)).deadline
    2.0
    """

    name: str = "service"
    # Who is asked for what is said of a request, in this order.
    rules: tuple[Rule, ...] = ()
    # Nobody is believed unless it is said: a header is written in no time.
    trusted: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    # What nearly every proxy writes. Only one is read, since a proxy passes on the other as it came.
    addresses: str = dataclasses.field(default=ADDRESSES[0], metadata={ACCEPTED: _ADDRESSES_ACCEPTED})
    api_key_header: str = "x-api-key"
    tenant_header: str | None = None
    strangers: tuple[str, str] | None = dataclasses.field(default=None, metadata={ACCEPTED: _STRANGERS_ACCEPTED})
    # Ids tie logs together across companies, and what they can do is bounded: see the docs on cohorts.
    foreign_ids: bool = True
    # How long somebody waits only they know.
    deadline: Duration | None = None
    # A minute: browsers and balancers have given up by then.
    deadline_max: Duration = 60.0
    # Frameworks differ in what they make of a cancellation; policies inside heed the deadline without one.
    cancel_late: bool = False
    rate_limits: tuple[RateLimit, ...] = ()
    # A client that knows its limits does not have to run into them.
    rate_limit_headers: bool = True
    load_shedder: LoadShedder | None = None
    # What queues don't show: memory that runs out, neighbours on the same machine.
    health: SystemHealth | None = None
    drain: Drain | None = None
    chaos: Chaos | None = None
    # What our own policies refuse is no error of the application's.
    answer_errors: bool = True
    # A client that takes nothing for so long does not read any more, or wants to do harm.
    send_timeout: Duration | None = 30.0
    processes: int = 1
    shadow: bool = False

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ConfigurationError.bad_value("name", self.name, "a non-empty string")
        self._check_classification()
        self._check_parts()
        normalise(
            self,
            deadline_max=seconds(self.deadline_max, "deadline_max"),
            deadline=None if self.deadline is None else seconds(self.deadline, "deadline"),
            send_timeout=None if self.send_timeout is None else seconds(self.send_timeout, "send_timeout"),
        )
        for key in ("foreign_ids", "cancel_late", "rate_limit_headers", "answer_errors", "shadow"):
            flag(key, getattr(self, key))
        whole("processes", self.processes, 1, _PROCESSES_MAX)
        check_limits([divided(limit, self.processes) for limit in self.rate_limits])

    def _check_classification(self) -> None:
        normalise(self, rules=_each("rules", self.rules, Rule, _RULES_MAX))
        for key in ("trusted", "proxies"):
            value = getattr(self, key)
            if isinstance(value, str) or not isinstance(value, list | tuple):
                raise ConfigurationError.bad_value(key, value, "a list of networks such as ['10.0.0.0/8']")
            networks(value, key)
            normalise(self, **{key: tuple(value)})
        if self.addresses not in (*ADDRESSES, _PEER):
            raise ConfigurationError.bad_value("addresses", self.addresses, _ADDRESSES_ACCEPTED)
        for key in ("api_key_header", "tenant_header"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not value.replace("-", "").isalnum()):
                raise ConfigurationError.bad_value(key, value, "the name of a header, such as 'x-api-key'")
        if self.strangers is not None:
            if len(self.strangers) != 2:
                raise ConfigurationError.bad_value("strangers", self.strangers, _STRANGERS_ACCEPTED)
            best, worst = (Criticality.of(each, "strangers") for each in self.strangers)
            if best > worst:
                raise ConfigurationError.bad_value("strangers", self.strangers, _STRANGERS_ACCEPTED)
            normalise(self, strangers=(best.word, worst.word))

    def _check_parts(self) -> None:
        normalise(self, rate_limits=_each("rate_limits", self.rate_limits, RateLimit, _LIMITS_MAX))
        check_limits(self.rate_limits)
        for key, kind in _ONE_EACH.items():
            value = getattr(self, key)
            if value is not None and not isinstance(value, kind):
                raise ConfigurationError.bad_value(key, value, f"{kind.__name__}(...), or None")
        if self.health is not None and self.load_shedder is None:
            raise ConfigurationError(
                "health is set, and there is no load shedder: it multiplies the limit of one, so add load_shedder "
                "(LoadShedder()), or leave health out",
                "health",
            )


def _each(key: str, values: object, kind: type[Any], most: int) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple) or len(values) > most or not all(isinstance(v, kind) for v in values):
        raise ConfigurationError.bad_value(key, values, f"up to {most} of {kind.__name__}(...)")
    return tuple(values)


class Pulse(Protocol):
    """What a shell keeps for the requests that it has in flight."""

    @property
    def flights(self) -> Sized:
        """They."""
        ...


class Service:
    """What stands before an application.

    Args:
        *parts: `Rule`, `RateLimit`, `LoadShedder`, `SystemHealth`, `Drain` and `Chaos`, in any order; of rules and rate
            limits as many as you like.
        name: What events, errors and the registry call it.
        trusted: Networks of hops that are believed in all that they say: `"10.0.0.0/8"`, an address, or `"unix"` for a
            socket of this machine.
        proxies: Networks of hops that are believed only in whom they name as the client.
        addresses: The header in which they do that: `"x-forwarded-for"` or `"forwarded"`; `"peer"`: none, the client
            is the other end of the socket.
        api_key_header: The header that holds API keys, for rules that know some.
        tenant_header: The header in which trusted hops tell the tenant.
        strangers: The best and the worst class that the priority of somebody who is not trusted can make of its
            request. None: it can lower what the rules say, and not raise it.
        foreign_ids: Whether somebody who is not trusted may bring the id of its request.
        deadline: The time that a request has which brings none; None: without end.
        deadline_max: What one has at most that brings its own.
        cancel_late: Whether an asynchronous application is cancelled when the deadline has passed.
        rate_limit_headers: Whether each answer says how the rate limits stand.
        answer_errors: Whether `Rejected` and `TimedOut` that leave the application become 503 and 504.
        send_timeout: How long an asynchronous server may stand with a part of an answer that the client does not take;
            None: for ever.
        processes: How many processes serve together, to divide the rate limits among them.
        shadow: Whether it only watches: it tells what it would refuse, and lets everything in.
        degradation: The levels that the application goes by; the load on this service is one of their sources.
        principal: Tells who was authenticated before this service, from an ASGI scope, a WSGI environment or the
            context of an RPC; None for nobody.
        registry: Where the state lives; a registry of its own by default.
        clock, random, events: Time, randomness and the event bus; for tests and simulations.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> from hormesis.patterns.rate_limit import RateLimit
    >>> shop = Service(
    ...     Rule("/checkout/*", criticality="critical"),
    ...     RateLimit("100/s", by="client"),
    ...     LoadShedder(objective="250ms"),
    ...     name="shop",
    ... )
    >>> shop
    <Service 'shop': 1 rule, rate limit, load shedder>
    """

    __slots__ = (
        "__weakref__",
        "_bus",
        "_chaos",
        "_ground",
        "_lock",
        "_policies",
        "_principal",
        "_pulses",
        "_random",
        "_registry",
        "_sections",
        "_stop_watching",
        "clock",
        "degradation",
        "leaving",
        "settings",
        "watches_signals",
    )

    def __init__(
        self,
        *parts: Part,
        degradation: Degradation | None = None,
        principal: Whose | None = None,
        registry: Registry | None = None,
        clock: Clock = MONOTONIC,
        random: Random | None = None,
        events: EventBus = bus,
        **settings: Any,
    ) -> None:
        made = _with_parts(ServiceSettings, parts, settings)
        self._begin(made, degradation, principal, registry, clock, random, events)

    @classmethod
    def of(
        cls,
        settings: ServiceSettings,
        *,
        degradation: Degradation | None = None,
        principal: Whose | None = None,
        registry: Registry | None = None,
        clock: Clock = MONOTONIC,
        random: Random | None = None,
        events: EventBus = bus,
    ) -> Service:
        """Make one of settings, such as a file holds.

        >>> Service.of(ServiceSettings(name="shop")).name
        'shop'
        """
        made = cls.__new__(cls)
        made._begin(settings, degradation, principal, registry, clock, random, events)
        return made

    @classmethod
    def of_file(cls, policies: Policies, name: str | None = None, **surroundings: Any) -> Service:
        """Make the service of a policy file; when the file is read again, it goes on with what that says then.

        Its `[degradation]`, if it has that table, is the service's.

        Args:
            policies: What `hormesis.load` returned.
            name: Which, where the file has several.
            **surroundings: As `of` takes them.

        Raises:
            ConfigurationError: The file has no service, or none of that name, or several and no name was given.
        """
        settings = _service_in(policies, name)
        levels = policies.sections.get("degradation")
        if levels is not None and "degradation" not in surroundings:
            from hormesis.patterns.degradation import Degradation  # noqa: PLC0415  few files have levels

            known = {key: surroundings[key] for key in ("clock", "events") if key in surroundings}
            surroundings["degradation"] = Degradation.of(cast("Any", levels), **known)
        made = cls.of(settings, **surroundings)
        made._policies = policies
        made._sections = policies.sections
        return made

    def _begin(
        self,
        settings: ServiceSettings,
        degradation: Degradation | None,
        principal: Whose | None,
        registry: Registry | None,
        clock: Clock,
        random: Random | None,
        events: EventBus,
    ) -> None:
        self.settings = settings
        self.degradation = degradation
        self._principal = principal
        self._registry = registry if registry is not None else Registry()
        self.clock = clock
        self._random = random if random is not None else system_random()
        self._bus = events
        self._lock = threading.Lock()
        self._policies: Policies | None = None
        self._sections: Mapping[str, object] | None = None
        self._pulses: weakref.WeakSet[Pulse] = weakref.WeakSet()
        self._chaos = self._place()
        self.leaving = Leaving(settings.drain, clock)
        self._stop_watching: Callable[[], None] | None = None
        self.watches_signals = settings.drain is None
        """Whether nothing is left to be done by `watch_signals`."""
        # Made by the first request, as it reads the clock: that of a loop can be read only there.
        self._ground: Ground | None = None
        self._watch_load()
        _services.add(self)

    @property
    def name(self) -> str:
        """What events, errors and the registry call it."""
        return self.settings.name

    @property
    def events(self) -> EventBus:
        """Where its events are published."""
        return self._bus

    @property
    def ground(self) -> Ground:
        """What requests meet now; shells ask for it once for each."""
        if self._policies is not None and self._policies.sections is not self._sections:
            self._reread(self._policies)
        ground = self._ground
        return self._make_ground() if ground is None else ground

    def _make_ground(self) -> Ground:
        with self._lock:
            if self._ground is None:
                self._ground = self._built()
            return self._ground

    @property
    def ready(self) -> bool:
        """Whether balancers should send requests."""
        return self.leaving.ready

    def counts(self, pulse: Pulse) -> None:
        """Count what a shell has in flight, for as long as its pulse is there."""
        self._pulses.add(pulse)

    def busy(self) -> int:
        """How many requests are in flight."""
        return sum(len(pulse.flights) for pulse in list(self._pulses))

    def watch_signals(self) -> None:
        """Let this process leave on the signals of `Drain`, once; shells call it.

        It must be called after the server has installed its own handlers of signals, and in the main thread: elsewhere
        it does nothing. A gunicorn that loads applications before it forks, and serves in threads, needs
        `hormesis.inbound.gunicorn`.
        """
        if not self.watches_signals and threading.current_thread() is threading.main_thread():
            self.watches_signals = True
            self._stop_watching = watch_signals(self.leaving, self.busy)

    def stop_watching_signals(self) -> None:
        """Give the server's handlers their places back."""
        stop, self._stop_watching = self._stop_watching, None
        if stop is not None:
            stop()
            self.watches_signals = False

    def drain(self) -> None:
        """Begin to leave, as a signal would have it; the process itself is yours to end. See `Drain`."""
        self.leaving.begin()

    def pressure(self) -> float:
        """How near the service is to what it can do, from 0 to 1; 0 without a load shedder."""
        machine = self.ground.machine
        if machine is None:
            return 0.0
        # Nobody else looks at the time while nothing comes.
        now = self.clock.now()
        if now >= machine.due:
            machine.tick(now)
        return machine.pressure

    def reconfigure(self, *parts: Part, **settings: Any) -> None:
        """Give it other settings while it is in use; its state is kept, and who is in stays in.

        Args:
            *parts: Rules in the place of all rules, rate limits in the place of all rate limits, and so on.
            **settings: Any of its settings but the name.

        Raises:
            ConfigurationError: As when it was made; then nothing has changed.

        >>> service = Service(LoadShedder(limit=5), name="shop")
        >>> service.reconfigure(LoadShedder(limit=50), deadline="2s")
        >>> service.snapshot()["parts"]["load_shedder"]["limit"]
        50.0
        """
        kept = {field.name: getattr(self.settings, field.name) for field in dataclasses.fields(self.settings)}
        if settings.get("name", self.name) != self.name:
            raise ConfigurationError("a service keeps its name, which is the address of its state", "name")
        self.take_over(_with_parts(ServiceSettings, parts, {**kept, **settings}))

    def take_over(self, settings: ServiceSettings) -> None:
        """Become a service of these settings, with the state that this one has."""
        settings = dataclasses.replace(settings, name=self.name)
        with self._lock:
            if settings == self.settings:
                return
            before, self.settings = self.settings, settings
            had = _limits(before)
            for address, limit in _limits(settings).items():
                if limit != had.get(address):
                    self._registry.hand_on(self._address(Inbound.RATE_LIMIT, address), limit)
            shedder = settings.load_shedder
            if shedder is not None and shedder != before.load_shedder:
                self._registry.hand_on(self._address(Inbound.LOAD_SHEDDER), shedder)
            self.leaving.settings = settings.drain
            if (settings.chaos, settings.shadow) != (before.chaos, before.shadow):
                self._chaos = self._place()
            self._ground = None
        if self._bus.listeners:
            self._bus.publish(
                Reconfigured(
                    at=self.clock.now(),
                    policy=self.name,
                    part="service",
                    settings=", ".join(_changes(before, settings)),
                )
            )

    def explain(self) -> str:
        """Return the way of a request, and why it goes that way, for people."""
        return explain(self.settings, None if self.degradation is None else self.degradation.settings.describe())

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data, for a dashboard or a log.

        Returns:
            `policy` (its name), `shadow`, `phase` (of leaving), `in_flight`, `pressure`, `level` (of degradation), and
            `parts`: what the load shedder and each of the rate limits hold.
        """
        ground = self.ground
        now = self.clock.now()
        parts: dict[str, Any] = {}
        if self.settings.rate_limits:
            gates = {address: self._gates(address, limit) for address, limit in _limits(self.settings).items()}
            parts[Inbound.RATE_LIMIT.key] = {address: each.snapshot(now) for address, each in gates.items()}
        if ground.machine is not None:
            parts[Inbound.LOAD_SHEDDER.key] = ground.machine.snapshot(now)
        if ground.chaos is not None:
            parts[Inbound.CHAOS.key] = ground.chaos.snapshot()
        return {
            "policy": self.name,
            "shadow": self.settings.shadow,
            "zombies": 0,
            "phase": self.leaving.phase,
            "in_flight": self.busy(),
            "pressure": self.pressure(),
            "level": ground.level(),
            "parts": parts,
        }

    def __repr__(self) -> str:
        settings = self.settings
        rules = f"{len(settings.rules)} rule{'s' * (len(settings.rules) != 1)}" if settings.rules else ""
        limits = ["rate limit"] * len(settings.rate_limits)
        others = ["load shedder"] * (settings.load_shedder is not None) + ["drain"] * (settings.drain is not None)
        others += ["chaos"] * (settings.chaos is not None)
        return f"<Service {self.name!r}: {', '.join(filter(None, [rules, *limits, *others])) or 'no parts'}>"

    def _reread(self, policies: Policies) -> None:
        sections = policies.sections
        self._sections = sections
        with contextlib.suppress(ConfigurationError):  # one that the file no longer has goes on as it was
            self.take_over(_service_in(policies, self.name))
        levels = sections.get("degradation")
        if self.degradation is not None and levels is not None and levels != self.degradation.settings:
            self.degradation.reconfigure(cast("Any", levels))

    def _built(self) -> Ground:
        """Make what requests meet from the settings, with the state that the registry has for them."""
        settings = self.settings
        machine = self._machine(settings.load_shedder)
        before = Before(None if machine is None else machine.observe)
        trusting = bool(settings.trusted or settings.proxies)
        return Ground(
            settings.name,
            identifier=Identifier(
                trust=Trust(
                    trusted=networks(settings.trusted, "trusted"),
                    proxies=networks(settings.proxies, "proxies"),
                    header=None if settings.addresses == _PEER else cast("AddressHeader", settings.addresses),
                ),
                classifier=Classifier(settings.rules, key_header=settings.api_key_header.lower()),
                strangers=None if settings.strangers is None else _classes(settings.strangers),
                foreign_ids=settings.foreign_ids,
                tenant_header=None if settings.tenant_header is None else settings.tenant_header.lower(),
                deadline=math.inf if settings.deadline is None else seconds(settings.deadline),
                deadline_max=seconds(settings.deadline_max),
                start=RequestStart(before) if trusting else None,
            ),
            principal=self._principal,
            limits=[
                Limit(
                    cast("Limiter", self._gates(address, limit).limiter),
                    key_of(limit),
                    cost_of(limit),
                    limit.by == PRINCIPAL,
                )
                for address, limit in _limits(settings).items()
            ],
            machine=machine,
            before=before,
            health=None if settings.health is None else HealthMonitor(settings.health, clock=self.clock),
            chaos=self._chaos,
            degradation=self.degradation,
            leaving=self.leaving,
            shadow=settings.shadow,
            tells_limits=settings.rate_limit_headers,
            answers_errors=settings.answer_errors,
            cancels_late=settings.cancel_late,
            clock=self.clock,
            random=self._random,
            events=self._bus,
        )

    def _place(self) -> ServicePoint | None:
        """Make the place for faults, which game days must find before the first request has come."""
        settings = self.settings
        if settings.chaos is None:
            return None
        from hormesis.inbound.injecting import ServicePoint  # noqa: PLC0415  few services are places for faults

        return ServicePoint(settings.chaos, self.name, self.clock, self._bus, shadow=settings.shadow)

    def _gates(self, address: str, limit: RateLimit) -> RateGates:
        machine: RateGates = self._registry.get(self._address(Inbound.RATE_LIMIT, address), limit, limit.machine)
        return machine

    def _machine(self, shedder: LoadShedder | None) -> ShedderMachine | None:
        if shedder is None:
            return None
        make = functools.partial(shedder.machine, now=self.clock.now())
        return self._registry.get(self._address(Inbound.LOAD_SHEDDER), shedder, make)

    def _address(self, stop: Inbound, key: str = "") -> Address:
        return Address(f"service {self.name}", stop.key, key)

    def _watch_load(self) -> None:
        """Let the load be a source of the levels."""
        if self.degradation is not None:
            mine = weakref.ref(self)

            def health() -> float | None:
                service = mine()
                return None if service is None else 1.0 - service.pressure()

            self.degradation.watch(f"load of {self.name}", health, every=0.5)

    def start_clean(self) -> None:
        """Forget all state and every lock, as a process must that was forked while others held them."""
        self._registry.start_clean()
        self._lock = threading.Lock()
        self._pulses = weakref.WeakSet()
        self.leaving.stay()
        self._stop_watching, self.watches_signals = None, self.settings.drain is None
        self._chaos = self._place()
        self._ground = None


_services: weakref.WeakSet[Service] = weakref.WeakSet()


def services() -> list[Service]:
    """Return the services of this process."""
    return list(_services)


def _start_clean_after_fork() -> None:
    for service in list(_services):
        service.start_clean()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_clean_after_fork)


def service_of(given: Given, name: str | None = None) -> Service:
    """Return the service that something stands for.

    Args:
        given: A service, its settings, a policy file that was loaded, or its path.
        name: Which, where a file has several.

    Raises:
        ConfigurationError: It is none of them, or the file has no such service.
    """
    if isinstance(given, Service):
        return given
    if isinstance(given, ServiceSettings):
        return Service.of(given)
    if isinstance(given, str | os.PathLike):
        given = load(Path(given))
    if isinstance(given, Policies):
        return Service.of_file(given, name)
    raise ConfigurationError.bad_value("service", given, "a Service(...), or the path of a policy file")


def _with_parts(cls: type[ServiceSettings], parts: tuple[Part, ...], settings: Mapping[str, Any]) -> ServiceSettings:
    """Sort parts into the settings that they are for."""
    sorted_in: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Rule):
            sorted_in.setdefault("rules", []).append(part)
        elif isinstance(part, RateLimit):
            sorted_in.setdefault("rate_limits", []).append(part)
        else:
            key = next((key for key, kind in _ONE_EACH.items() if isinstance(part, kind)), None)
            if key is None:
                accepted = "a Rule, RateLimit, LoadShedder, SystemHealth, Drain or Chaos"
                raise ConfigurationError.bad_value("a part of a service", part, accepted)
            if key in sorted_in:
                raise ConfigurationError(f"two parts are a {type(part).__name__}; a service has one", key)
            sorted_in[key] = part
    known = {field.name for field in dataclasses.fields(cls)}
    for key in settings:
        if key not in known:
            raise ConfigurationError.unknown("setting of a service", key, sorted(known), key)
    return cls(**{**settings, **sorted_in})


def _limits(settings: ServiceSettings) -> dict[str, RateLimit]:
    """The rate limits that this process has, by where their state lives."""
    shares = [divided(limit, settings.processes) for limit in settings.rate_limits]
    return addressed(shares)


def _classes(words: tuple[str, str]) -> tuple[Criticality, Criticality]:
    return Criticality.of(words[0]), Criticality.of(words[1])


def _changes(before: ServiceSettings, after: ServiceSettings) -> Iterator[str]:
    for field in dataclasses.fields(after):
        if getattr(before, field.name) != getattr(after, field.name):
            yield field.name


def _read_section(table: object, key: str) -> dict[str, ServiceSettings]:
    """Read `[service]`, or several as `[service.NAME]`."""
    known = {field.name for field in dataclasses.fields(ServiceSettings)}
    if not isinstance(table, Mapping):
        raise ConfigurationError.bad_value(key, table, "a table such as [service]")
    if not table or set(table) & known or not all(isinstance(value, Mapping) for value in table.values()):
        settings = tables.read(ServiceSettings, table, key)
        return {settings.name: settings}
    return {
        name: tables.read(ServiceSettings, {"name": name, **value}, f"{key}.{name}") for name, value in table.items()
    }


def _schema() -> dict[str, Any]:
    one = tables.schema(ServiceSettings)
    return {"anyOf": [one, {"type": "object", "additionalProperties": one}]}


register_section("service", _read_section, _schema)


def _service_in(policies: Policies, name: str | None) -> ServiceSettings:
    found = cast("dict[str, ServiceSettings]", policies.sections.get("service", {}))
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ConfigurationError(f"{policies.path}: has no service; it is a table such as [service]", "service")
    if name is None:
        raise ConfigurationError(f"{policies.path}: has several services; say which: {', '.join(found)}", "service")
    if name not in found:
        raise ConfigurationError.unknown("service", name, found, "service")
    return found[name]

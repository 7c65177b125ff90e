"""What is decided about a request that comes in, once for ASGI, WSGI and gRPC.

A shell has the request's headers and its colour's way to wait; all else is here, in the order of
`hormesis.core.slots.Inbound`:

    request = ground.arrive(...)            identify
    refused = ground.examine(request)       expired? rate limits
    refused = ground.admit(request)         load shedder; a refusal that is `waitable` may become a permit:
    waiter = ground.stand(request, wake)        stand in its queue, wait for `wake`, and then
    refused = ground.served(request, waiter)    see what came of it;
    ground.leave(waiter)                        in any case, in the end
    plan = ground.plan(request)             faults that it meets with in the place of the application, or before
    ...                                     the application
    ground.ended(request, good=...)         when the answer has been sent whole, or will never be

A `Refused` says why; in a shadow there is none, and all is let in: the stops that come after the one which would have
refused are not asked. No verb raises, waits, or holds a lock when it
returns. A request ends where it was let in: other settings make another ground.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hormesis.clock import Clock, Random
from hormesis.context import CallFacts, TravellingDeadline, current_deadline, left
from hormesis.core.admission import Refusal
from hormesis.core.rate_limit import Limiter, Standing
from hormesis.core.shedder import ShedderMachine, ShedWaiter
from hormesis.core.slots import Inbound
from hormesis.errors import DeadlineExceeded, RateLimited
from hormesis.events import CallEnded, CallRejected, Event, EventBus, LimitChanged, Waited
from hormesis.inbound.answers import Answer, Refused, answer_to, of_error, policy_header, standing_header
from hormesis.inbound.drain import Leaving
from hormesis.inbound.identification import Identifier
from hormesis.inbound.request import NAME_MAX, Request

if TYPE_CHECKING:
    from hormesis.inbound.injecting import ServicePoint
    from hormesis.patterns.degradation import Degradation
    from hormesis.policy.injecting import Plan

__all__ = ["Before", "Ground", "Limit", "Whose"]

Whose = Callable[[Any], object]
"""Tells the principal of a request from what the shell has of it, such as an ASGI scope; None: nobody yet."""

_TOO_LATE = Refused(Inbound.DEADLINE, Refusal("too late"))
_WAITED = Refusal("waited too long")
_LEAVING = Refused(Inbound.LOAD_SHEDDER, Refusal("leaving"), leaving=True)


class Limit(NamedTuple):
    """A rate limit, and whose a request is for it."""

    limiter: Limiter
    key_of: Callable[[Request], str]
    cost_of: Callable[[Request], int] | None
    """Tells what it costs; None: what the rules say."""
    by_principal: bool
    """Whether it is asked only once somebody has been authenticated."""


class Before:
    """Takes the seconds that requests stood in queues before ours.

    A pulse that measures other delays as well brings them together: then it says who takes them.
    """

    __slots__ = ("observe",)

    def __init__(self, observe: Callable[[float], object] | None) -> None:
        self.observe = observe

    def __call__(self, seconds: float) -> None:
        """Hand a delay on."""
        if self.observe is not None:
            self.observe(seconds)


class Ground:
    """A service as its requests meet it.

    Args:
        name: The service's name.
        identifier: Makes requests of what comes in.
        principal: Tells who was authenticated before us; None: nobody is.
        limits: Its rate limits, in the order in which they are asked.
        machine: Its load shedder's; None: everybody comes in.
        before: Takes the seconds that requests stood in queues before ours.
        health: Tells how much of the shedder's limit is open, from 0 to 1; None: all of it.
        chaos: Where faults are injected; None: nowhere.
        degradation: Its levels.
        leaving: How it leaves.
        shadow: Whether it only tells what it would do.
        tells_limits: Whether all answers say how the rate limits stand.
        answers_errors: Whether exceptions of ours that leave the application are answered.
        cancels_late: Whether an application is cancelled whose deadline has passed.
        clock, random, events: Time, randomness and the event bus.
    """

    __slots__ = (
        "_answers_errors",
        "_bus",
        "_clock",
        "_degradation",
        "_health",
        "_identifier",
        "_limits",
        "_log",
        "_name",
        "_policy_headers",
        "_principal",
        "_random",
        "_shadow",
        "before",
        "cancels_late",
        "chaos",
        "headers",
        "leaving",
        "machine",
        "now",
        "ready_path",
        "tells_limits",
    )

    def __init__(
        self,
        name: str,
        *,
        identifier: Identifier,
        principal: Whose | None,
        limits: Sequence[Limit],
        machine: ShedderMachine | None,
        before: Before,
        health: Callable[[], float] | None,
        chaos: ServicePoint | None,
        degradation: Degradation | None,
        leaving: Leaving,
        shadow: bool,
        tells_limits: bool,
        answers_errors: bool,
        cancels_late: bool,
        clock: Clock,
        random: Random,
        events: EventBus,
    ) -> None:
        self._name = name
        self._identifier = identifier
        self._principal = principal
        self._limits = tuple(limits)
        self.machine = machine
        self._health = health
        self.chaos = chaos
        self._degradation = degradation
        self.leaving = leaving
        self._shadow = shadow
        self.tells_limits = tells_limits and bool(limits) and not shadow
        """Whether `standing` has anything to say."""
        self._answers_errors = answers_errors and not shadow
        self.cancels_late = cancels_late and not shadow
        self._clock = clock
        self.now = clock.now
        self._random = random
        self._bus = events
        self.headers = identifier.headers if chaos is None else identifier.headers | chaos.headers
        """The headers that `arrive` wants to see, in lower case."""
        self.ready_path = None if leaving.settings is None else leaving.settings.ready
        self.before = before
        self._policy_headers: dict[int, str] = {}
        self._log = False

    # Coming in.

    def arrive(self, method: str, path: str, peer: str, found: Mapping[str, str], source: object = None) -> Request:
        """Say what is known of a request.

        Args:
            method: In capitals; `"RPC"` of a remote call.
            path: Without the query.
            peer: The address of the socket's other end; empty when it has none.
            found: Those of `headers` that are there, by name in lower case; several of a name joined by commas.
            source: What tells the principal.
        """
        request = self._identifier.identify(method, path, peer, found, self.now())
        request.service = self
        if self.chaos is not None and self.chaos.on:
            request.faults = self.chaos.brought(found, request.request_id, believed=request.believed)
        if self._principal is not None:
            self._ask_principal(self._principal, request, source)
        return request

    def examine(self, request: Request) -> Refused | None:
        """Say whether nobody waits for the answer any more, or a rate limit is used up."""
        if self.leaving.began is not None and self.leaving.refuses:
            self._tell_refused(request, _LEAVING, shadow=False)
            return _LEAVING
        if request.expires <= request.arrived:
            return self._refused(request, _TOO_LATE)
        if self._limits and request.cost:
            refused = self._limited(request, self._limits, request.arrived)
            if refused is not None:
                return self._refused(request, refused)
        return None

    def admit(self, request: Request) -> Refused | None:
        """Take a permit, or say why not; if the refusal is waitable, `stand` may do."""
        machine = self.machine
        if machine is None or request.refused:
            return None
        now = self.now()
        permit = machine.admit(request.criticality, request.cohort, request.client, now, request.expires - now)
        if isinstance(permit, Refusal):
            if permit.waitable:
                return None if self._shadow else Refused(Inbound.LOAD_SHEDDER, permit)
            return self._shed(request, permit)
        request.permit = permit
        return None

    def stand(self, request: Request, wake: Callable[[], None]) -> ShedWaiter | Refused:
        """Stand in the queue; `wake` is called when the wait is over, by any thread, perhaps before this returns."""
        machine, now = self._shedder(), self.now()
        waiter = ShedWaiter(
            request.criticality,
            request.cohort,
            request.client,
            wake,
            now=now,
            patience=min(machine.patience(request.criticality), request.expires - now),
        )
        refusal = machine.enqueue(waiter, now)
        if refusal is None:
            return waiter
        return self._shed(request, refusal) or waiter

    def patience(self, waiter: ShedWaiter) -> float:
        """Seconds that waiting makes sense for; not below zero."""
        return max(0.0, waiter.expires - self.now())

    def served(self, request: Request, waiter: ShedWaiter) -> Refused | None:
        """Take what the wait has brought, or say why it came to nothing."""
        now = self.now()
        request.queued = now - waiter.arrived
        permit = waiter.permit
        if permit is None:
            return self._shed(request, waiter.refusal or _WAITED)
        waiter.permit = None
        request.permit = permit
        if self._bus.listeners:
            self._tell(Waited, request, Inbound.LOAD_SHEDDER, seconds=request.queued)
        return None

    def leave(self, waiter: ShedWaiter) -> None:
        """Give up waiting, wherever that stands; a permit that comes too late goes to the next."""
        if waiter.place is not None or waiter.permit is not None:
            self._shedder().leave(waiter, self.now())

    # Being in.

    def facts(self, request: Request) -> CallFacts:
        """What calls that are made on behalf of a request know of it."""
        labels = {"client": request.client}
        if request.tenant is not None:
            labels["tenant"] = request.tenant
        if request.principal is not None:
            labels["principal"] = request.principal
        return CallFacts(labels, True, request.request_id, request.told)

    def deadline(self, request: Request) -> TravellingDeadline | None:
        """The deadline that they have; None when there is none, or one that is nearer holds already."""
        if request.expires == math.inf or self._shadow:
            return None
        outer = current_deadline.get()
        if outer is not None and left(outer) <= request.expires - self.now():
            return None
        return request.expires, self._clock, request.expires - request.arrived, self._name, DeadlineExceeded

    def plan(self, request: Request) -> Plan | None:
        """Say what a request meets with in the place of the application, or before; None: nothing.

        What its headers brought is to be in the context by now.
        """
        chaos = self.chaos
        if chaos is None or not chaos.on:
            return None
        labels = {"method": request.method, "path": request.path, "criticality": request.criticality.word}
        plan = chaos.plan(labels)
        return None if self._shadow else plan

    def level(self) -> str | None:
        """The degradation level; None when the service has none."""
        return None if self._degradation is None else self._degradation.level

    def allows(self, feature: str) -> bool:
        """Whether a feature is on."""
        return self._degradation is None or self._degradation.allows(feature)

    def principal_told(self, request: Request) -> None:
        """Ask the rate limits by principal, now that it is known.

        Raises:
            RateLimited: One of them is used up.
        """
        late = [limit for limit in self._limits if limit.by_principal]
        # Not when it arrived: a WebSocket may have been open for hours, and others of its principal have spent since.
        refused = self._limited(request, late, self.now()) if late and request.cost else None
        if refused is not None and self._refused(request, refused) is not None:
            raise RateLimited(self._name, refused.refusal.reason, refused.refusal.retry_after)

    # Going out.

    def ended(self, request: Request, *, good: bool | None, ending: str = "") -> None:
        """End a request: its answer has been sent whole, or never will be.

        Args:
            request: Which.
            good: Whether it was answered, and not by an error of the server's. None: it went well, and how long it took
                says nothing, as with a WebSocket.
            ending: `"cancelled"` if somebody gave it up; else it follows from `good`.
        """
        permit, request.permit = request.permit, None
        if permit is None and not self._bus.callers:
            return
        now = self.now()
        if permit is not None:
            self._shedder().end(permit, now, good=None if ending == "cancelled" else good)
        if self._bus.callers:
            self._tell_ended(request, now, ending or ("failure" if good is False else "success"))

    def answer(self, request: Request, refused: Refused) -> Answer:
        """Make the answer to a request that was turned away."""
        if self._bus.callers:
            self._tell_ended(request, self.now(), "rejected")
        standings = self.standings(request) if refused.stop is Inbound.RATE_LIMIT else ()
        return answer_to(refused, request.request_id, standings, self._random)

    def answer_error(self, request: Request, error: BaseException) -> Answer | None:
        """Make the answer to a request that ended by an exception of ours; None for all others."""
        if not self._answers_errors:
            return None
        standings, violated = self._refused_late(request, error)
        return of_error(error, self._name, request.request_id, self._random, standings, violated)

    def _refused_late(self, request: Request, error: BaseException) -> tuple[Sequence[Standing], tuple[str, ...]]:
        """Tell how the limits stand of somebody whom `principal_told` refused, and which of them are used up."""
        if not (isinstance(error, RateLimited) and error.policy == self._name and request.refused and request.taken):
            return (), ()
        limiter, key, cost = request.taken[-1]  # the one that refused
        violated = tuple(each.name for each in limiter.standings(key, self.now()) if each.remaining < cost)
        return self.standings(request), violated

    def standings(self, request: Request) -> list[Standing]:
        """Tell how the rate limits stand by which a request was counted."""
        now = self.now()
        return [standing for limiter, key, _ in request.taken for standing in limiter.standings(key, now)]

    def standing(self, request: Request) -> tuple[str, str] | None:
        """What the headers `RateLimit-Policy` and `RateLimit` say to a request that was let in."""
        taken = request.taken
        if not taken:
            return None
        now = self.now()
        standings: Sequence[Standing]
        if len(taken) == 1:
            limiter, key, _ = taken[0]
            standings = limiter.standings(key, now)
        else:
            standings = self.standings(request)
        # The limits are the same each time, and which of them count is told by how many.
        policy = self._policy_headers.get(len(standings))
        if policy is None:
            policy = self._policy_headers[len(standings)] = policy_header(standings)
        return policy, standing_header(standings)

    def answer_cut(self, request: Request, why: str) -> Answer:
        """Make the answer to a request whose application was cut off: `"late"`, `"slow"` or `"leaving"`."""
        refused = _TOO_LATE if why == "late" else Refused(Inbound.LOAD_SHEDDER, Refusal(why), leaving=why == "leaving")
        return answer_to(refused, request.request_id, (), self._random)

    def readiness(self) -> Answer:
        """Make the answer to a balancer that asks whether it should send requests."""
        ready = self.leaving.ready
        body = b'{"status": "ready"}' if ready else b'{"status": "leaving"}'
        headers = [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("content-length", str(len(body))),
        ]
        return Answer(200 if ready else 503, headers, body)

    def tick(self, late: float = 0.0) -> None:
        """Do what time brings, while requests are in flight: some ten times a second or more often."""
        machine = self.machine
        if machine is None:
            return
        now = self.now()
        if self._health is not None:
            machine.factor = self._health()
        if now >= machine.due:
            machine.tick(now)
        if machine.outbox:
            moves, machine.outbox[:] = list(machine.outbox), []
            if self._bus.listeners:
                for move in moves:
                    self._bus.publish(
                        LimitChanged(
                            at=now,
                            policy=self._name,
                            part=Inbound.LOAD_SHEDDER.key,
                            shadow=self._shadow,
                            before=move.before,
                            after=move.after,
                            reason=move.reason,
                        )
                    )

    # Within.

    def _ask_principal(self, principal: Whose, request: Request, source: object) -> None:
        try:
            found = principal(source)
        except Exception:
            # The author's function, and the client's request: neither a refusal nor an error is an answer to it.
            if not self._log:
                self._log = True
                logging.getLogger("hormesis.inbound").exception(
                    "principal=%r raised; such requests count as nobody's", principal
                )
            return
        if found is not None:
            request.principal = str(found)[:NAME_MAX]
            if not request.label:
                request.client = f"principal:{request.principal}"

    def _limited(self, request: Request, limits: Collection[Limit], now: float) -> Refused | None:
        """Spend of all limits, or of none."""
        taken: list[tuple[Limiter, str, int]] = []
        for limiter, key_of, cost_of, by_principal in limits:
            if by_principal and request.principal is None:
                continue
            key = key_of(request)
            cost = request.cost if cost_of is None else cost_of(request)
            refusal = limiter.take(key, cost, now) if cost else None
            if refusal is not None:
                _put_back(taken, now)
                standings = limiter.standings(key, now)
                violated = tuple(standing.name for standing in standings if standing.remaining < cost)
                request.taken = [*request.taken, *taken, (limiter, key, cost)]
                return Refused(Inbound.RATE_LIMIT, refusal, violated)
            taken.append((limiter, key, cost))
        request.taken = [*request.taken, *taken] if request.taken else taken
        return None

    def _shed(self, request: Request, refusal: Refusal) -> Refused | None:
        # What the rate limits granted was not used.
        if request.taken and not self._shadow:
            _put_back(request.taken, request.arrived)
        return self._refused(request, Refused(Inbound.LOAD_SHEDDER, refusal))

    def _refused(self, request: Request, refused: Refused) -> Refused | None:
        request.refused = True
        self._tell_refused(request, refused, shadow=self._shadow)
        return None if self._shadow else refused

    def _shedder(self) -> ShedderMachine:
        assert self.machine is not None  # noqa: S101  it let somebody in, or had somebody wait
        return self.machine

    def _tell_refused(self, request: Request, refused: Refused, *, shadow: bool) -> None:
        if self._bus.listeners:
            refusal = refused.refusal
            self._bus.publish(
                CallRejected(
                    at=self.now(),
                    policy=self._name,
                    part=refused.stop.key,
                    key=request.label,
                    shadow=shadow,
                    reason=refusal.reason,
                    retry_after=refusal.retry_after,
                )
            )

    def _tell_ended(self, request: Request, now: float, ending: str) -> None:
        source = "function" if ending in ("success", "failure") else ""
        self._bus.publish(
            CallEnded(
                at=now,
                policy=self._name,
                part="service",
                key=request.label,
                shadow=self._shadow,
                seconds=now - request.arrived,
                attempts=1,
                ending=ending,
                source=source,
            )
        )

    def _tell(self, event: Callable[..., Event], request: Request, stop: Inbound, **facts: object) -> None:
        self._bus.publish(
            event(at=self.now(), policy=self._name, part=stop.key, key=request.label, shadow=self._shadow, **facts)
        )


def _put_back(taken: Iterable[tuple[Limiter, str, int]], now: float) -> None:
    for limiter, key, cost in taken:
        if cost:
            limiter.put_back(key, cost, now)

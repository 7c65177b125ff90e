"""What is known of a request that is being served, for the application inside.

`current()` returns it anywhere below the middleware. A principal is known only once somebody has authenticated it, and
that is often further in: the application then says so with `identified(…)`, and what is limited by principal is limited
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from hormesis.context import CallFacts, current_call
from hormesis.errors import HormesisError
from hormesis.priority import Criticality, cohort_of

if TYPE_CHECKING:
    from hormesis.core.shedder import ShedPermit

__all__ = ["Request", "current", "current_request", "identified"]

NAME_MAX = 200
"""Characters of a name that comes from outside, such as a principal's; longer ones are cut."""


class Request:
    """A request that is being served.

    Attributes:
        method, path: Of the request line; of an RPC `"RPC"` and its full name.
        request_id: The id that it came with, or one that was made for it.
        address: The client's address, as far as hops that are believed tell; empty when nobody knows it.
        believed: Whether what it says of itself is believed.
        client: Who asks, where clients are counted: what a rule says, else the tenant, the principal that
            was known when it came, or the address.
        tenant: Whom it is for; None when nobody said so.
        principal: Who was authenticated; None before that.
        criticality: How much it matters.
        told: The same; None when neither a rule nor the request said so.
        cost: What it takes out of rate limits.
        arrived: When it came, in seconds on the service's clock.
        expires: When nobody waits for its answer any more; infinity when that was not said.
        queued: Seconds that it stood in our queue.
        before: Seconds that it stood in queues before ours, as a trusted hop tells; None when none does.
    """

    # What most requests have in common stands in the class, so that making one costs no more than what it differs in.

    address: str = ""
    believed: bool = False
    client: str = ""
    label: str = ""
    """The client's name, if its author was the service's: fit for events and metrics."""
    tenant: str | None = None
    principal: str | None = None
    criticality: Criticality = Criticality.DEFAULT
    told: Criticality | None = None
    cost: int = 1
    expires: float = math.inf
    queued: float = 0.0
    before: float | None = None

    # What the journey holds for it.
    service: Serving | None = None
    refused: bool = False
    """Whether a stop has refused it; a shadow lets it in all the same."""
    permit: ShedPermit | None = None
    faults: tuple[Any, ...] = ()
    """The faults that its headers have brought, for whatever is called on its behalf."""
    taken: Sequence[tuple[Any, str, int]] = ()
    """The rate limits that it was counted by, under which keys, and what it has spent of them."""

    def __init__(self, method: str, path: str, request_id: str, arrived: float) -> None:
        self.method = method
        self.path = path
        self.request_id = request_id
        self.arrived = arrived

    @property
    def cohort(self) -> float:
        """The place of its journey in its class, from 0 to 1."""
        return cohort_of(self.request_id)

    @property
    def level(self) -> str | None:
        """The service's degradation level at this moment; None when it has none."""
        return None if self.service is None else self.service.level()

    def allows(self, feature: str) -> bool:
        """Whether a feature is on at the service's degradation level; without a `Degradation` all are.

        Raises:
            ConfigurationError: The service's `Degradation` has no such feature.
        """
        return self.service is None or self.service.allows(feature)

    def remaining(self) -> float | None:
        """The seconds that are left for the answer, or None when nobody waits for a certain time."""
        if self.service is None or self.expires == math.inf:
            return None
        return self.expires - self.service.now()

    def identified(self, principal: str) -> None:
        """Say who was authenticated; from now on it is what `principal` says, and rate limits by principal are asked.

        Raises:
            RateLimited: This principal has used up one of them; the middleware answers 429 for it.
        """
        name = str(principal)[:NAME_MAX]
        if name == self.principal:
            return  # it was counted when it was told first
        self.principal = name
        if current_request.get() is self:
            facts = current_call.get()
            labels = {**facts.labels, "principal": name}
            current_call.set(CallFacts(labels, facts.repeatable, facts.request_id, facts.criticality))
        if self.service is not None:
            self.service.principal_told(self)

    def __repr__(self) -> str:
        return f"<Request {self.request_id}: {self.method} {self.path[:100]!r}, {self.criticality.word}>"


class Serving(Protocol):
    """What a request asks of the service that serves it; `hormesis.inbound.ground` has the rest."""

    @property
    def now(self) -> Callable[[], float]:
        """The service's clock."""
        ...

    def level(self) -> str | None:
        """The degradation level."""
        ...

    def allows(self, feature: str) -> bool:
        """Whether a feature is on."""
        ...

    def principal_told(self, request: Request) -> None:
        """Ask the rate limits by principal."""
        ...


current_request: ContextVar[Request | None] = ContextVar("hormesis_request", default=None)


def current() -> Request:
    """Return the request that is being served.

    Raises:
        HormesisError: None is: this code does not run inside of a `Protect`.
    """
    request = current_request.get()
    if request is None:
        raise HormesisError("no request is being served here; hormesis.inbound.current() works inside of a Protect(…)")
    return request


def identified(principal: str) -> None:
    """Say who was authenticated for the request that is being served; see `Request.identified`.

    Outside of a `Protect` it does nothing, so that authentication works in scripts and tests as well.

    Raises:
        RateLimited: This principal has used up a rate limit.
    """
    request = current_request.get()
    if request is not None:
        request.identified(principal)

"""Who asks, for whom, how urgently and until when: the first stop of a request.

What a request says of itself is read in bounded time, and what can't be read says nothing. Whether it is believed
depends on where it comes from (`hormesis.inbound.origin`):

                        a trusted hop's                      a stranger's
    priority            is taken                             can lower what the rules say, and not raise it
    deadline            is taken, up to the longest          can shorten the service's own
    tenant              is taken                             is not read
    X-Request-Start     is taken                             is not read
    X-Request-ID        is taken                             is taken, unless that is switched off

Sources: RFC 9218 (Priority); `hormesis.headers` for deadlines and ids.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping

from hormesis.headers import REQUEST_ID, deadline_headers, is_request_id, remaining_of, request_id_of
from hormesis.inbound.classification import Classifier
from hormesis.inbound.origin import Trust
from hormesis.inbound.request import NAME_MAX, Request
from hormesis.inbound.signals.request_start import HEADERS as STARTS
from hormesis.inbound.signals.request_start import RequestStart
from hormesis.priority import PRIORITY, Criticality, urgency_in

__all__ = ["Identifier", "add_header"]

_DEADLINES = tuple(deadline_headers(1.0))
_TRACE = "traceparent"

_VALUES_MAX = 4096
"""Characters of one header that are kept, when it comes more than once; the last ones stand nearest to us."""

_REAL = re.compile(r"[!-~]+")


def add_header(found: dict[str, str], name: str, value: str) -> None:
    """Add one of several headers of a name to what was found of it, as a proxy would join them.

    >>> found = {"x-forwarded-for": "203.0.113.9"}
    >>> add_header(found, "x-forwarded-for", "10.0.0.7"); found
    {'x-forwarded-for': '203.0.113.9, 10.0.0.7'}
    """
    if name in found and len(found[name]) <= _VALUES_MAX:
        # Beyond that it begins anew: names that come a thousand times must not be copied as often.
        value = f"{found[name]}, {value}"
    found[name] = value


class Identifier:
    """Makes a `Request` of what came in.

    Args:
        trust: Tells where it comes from.
        classifier: Knows the rules.
        strangers: The best and the worst class that a stranger's own priority can make of its request; None: nothing
            better than what the rules say.
        foreign_ids: Whether strangers may bring the id of their request.
        tenant_header: Where trusted hops tell the tenant, in lower case.
        deadline: Seconds that a request has which brings none; infinity for no end.
        deadline_max: Seconds that one has at most which brings its own.
        start: Reads when a request came to the hop before us; None: nobody is asked.
        new_id: Makes an id.
    """

    __slots__ = (
        "_classifier",
        "_deadline",
        "_deadline_max",
        "_foreign_ids",
        "_new_id",
        "_start",
        "_strangers",
        "_tenant_header",
        "_told_by",
        "_trust",
        "headers",
    )

    def __init__(
        self,
        *,
        trust: Trust,
        classifier: Classifier,
        strangers: tuple[Criticality, Criticality] | None,
        foreign_ids: bool,
        tenant_header: str | None,
        deadline: float,
        deadline_max: float,
        start: RequestStart | None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._trust = trust
        self._told_by = trust.header
        self._classifier = classifier
        self._strangers = strangers
        self._foreign_ids = foreign_ids
        self._tenant_header = tenant_header
        self._deadline = deadline
        self._deadline_max = deadline_max
        self._start = start
        self._new_id = new_id or _new_id
        names = {REQUEST_ID, _TRACE, PRIORITY, *_DEADLINES, *classifier.headers}
        names |= {name for name in (trust.header, tenant_header) if name is not None}
        if start is not None:
            names.update(STARTS)
        self.headers = frozenset(names)
        """The headers that it wants to see, in lower case."""

    def identify(self, method: str, path: str, peer: str, found: Mapping[str, str], now: float) -> Request:
        """Say what is known of a request.

        Args:
            method: In capitals.
            path: Without the query.
            peer: The address of the socket's other end; empty when it has none.
            found: Those of `headers` that are there, by name in lower case; several of a name joined by commas.
            now: The time.
        """
        told_by = self._told_by
        origin = self._trust.origin(peer, None if told_by is None else found.get(told_by))
        believed = origin.believed
        request_id = None
        if found and (believed or self._foreign_ids) and (REQUEST_ID in found or _TRACE in found):
            own = found.get(REQUEST_ID, "")
            request_id = own if is_request_id(own) else request_id_of(found)
        request = Request(method, path, request_id or self._new_id(), now)
        request.address = origin.address
        tenant = None
        if believed:
            request.believed = True
            if self._tenant_header is not None:
                tenant = _name(found.get(self._tenant_header))
            if self._start is not None:
                self._read_start(request, found, self._start)
        told, tenant, client, cost = self._classifier.ask(method, path, found, origin, tenant)
        if client is not None or tenant is not None:
            request.tenant = tenant
            request.label = client or tenant or ""
            request.client = client or f"tenant:{tenant}"
        else:
            request.client = origin.key
        if cost is not None:
            request.cost = cost
        priority = found.get(PRIORITY)
        if priority is not None:
            told = self._told(told, priority, believed=believed)
        if told is not None:
            request.told = request.criticality = told
        left = self._deadline
        for name in _DEADLINES:
            if name in found:
                left = self._left(found, believed=believed)
                break
        if left != math.inf:
            request.expires = now + left - (request.before or 0.0)
        return request

    def _read_start(self, request: Request, found: Mapping[str, str], start: RequestStart) -> None:
        for name in STARTS:
            if name in found:
                request.before = start.heard(found[name])
                return

    def _told(self, ruled: Criticality | None, priority: str, *, believed: bool) -> Criticality | None:
        urgency = urgency_in(priority)
        if urgency is None:
            return ruled
        asked = Criticality.of_urgency(urgency)
        if believed:
            return asked
        base = Criticality.DEFAULT if ruled is None else ruled
        if self._strangers is None:
            return max(base, asked)
        best, worst = self._strangers
        return min(max(asked, best), worst)

    def _left(self, found: Mapping[str, str], *, believed: bool) -> float:
        # A proxy that joins headers of a name says several things; the smallest counts.
        asked = remaining_of([(name, part) for name in _DEADLINES if name in found for part in _parts(found[name])])
        if asked is None:
            return self._deadline
        most = self._deadline_max if believed else min(self._deadline, self._deadline_max)
        return min(asked, most)


def _parts(value: str) -> list[str]:
    return value.split(",") if len(value) <= _VALUES_MAX else []


def _name(text: str | None) -> str | None:
    return text if text is not None and len(text) <= NAME_MAX and _REAL.fullmatch(text) else None


def _new_id() -> str:
    # From the system, so that processes which were forked don't draw alike.
    return os.urandom(16).hex()

"""Rate limits as a service has them: whose a request is for one, what it costs, and what one process has of it."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from hormesis.errors import ConfigurationError
from hormesis.patterns.part import is_async
from hormesis.patterns.rate_limit import RateLimit
from hormesis.units import quota

if TYPE_CHECKING:
    from hormesis.inbound.request import Request

T = TypeVar("T")

__all__ = ["PRINCIPAL", "addressed", "check", "cost_of", "divided", "key_of"]

PRINCIPAL = "principal"
_KEY_MAX = 200
_FACTS: dict[str, Callable[[Request], str]] = {
    "client": lambda request: request.client,
    "tenant": lambda request: request.tenant or "",
    PRINCIPAL: lambda request: request.principal or "",
    "address": lambda request: request.address,
    "method": lambda request: request.method[:_KEY_MAX],
    "path": lambda request: request.path[:_KEY_MAX],
    "criticality": lambda request: request.criticality.word,
}
_BY_ACCEPTED = f"{', '.join(map(repr, _FACTS))}, or a function of a hormesis.inbound.Request"


def check(limits: Iterable[RateLimit]) -> None:
    """Check that limits can be those of a service.

    Raises:
        ConfigurationError: Two of them can't be told apart by clients, or one makes no sense for what comes in.
    """
    names: set[str] = set()
    for limit in limits:
        key_of(limit)
        if limit.longest_wait:
            raise ConfigurationError(
                f"max_wait is {limit.max_wait!r}; a service refuses at once, and tells clients when to come back: "
                "leave it out",
                "max_wait",
            )
        for each in limit.algorithms():
            if each.name in names:
                raise ConfigurationError(f"two rate limits are called {each.name!r}: name='…' tells them apart", "name")
            names.add(each.name)


def key_of(limit: RateLimit) -> Callable[[Request], str]:
    """Return what tells whose a request is for a limit: the `by` of the limit, of a request's facts.

    Raises:
        ConfigurationError: It is no fact of a request.
    """
    by = limit.by
    if by is None:
        return lambda request: ""  # noqa: ARG005
    if isinstance(by, str):
        if by not in _FACTS:
            raise ConfigurationError.bad_value("by", by, _BY_ACCEPTED)
        return _FACTS[by]
    if is_async(by):
        raise ConfigurationError.bad_value("by", by, _BY_ACCEPTED)
    return _heard(lambda request: str(by(request))[:_KEY_MAX], lambda request: "", f"by={by!r}", "share one limit")  # noqa: ARG005


def cost_of(limit: RateLimit) -> Callable[[Request], int] | None:
    """Return what tells the cost of a request; None where that is what the rules say."""
    cost = limit.cost
    if isinstance(cost, int):
        return None if cost == 1 else lambda request: cost * request.cost
    return _heard(
        lambda request: max(0, int(cost(request))),
        lambda request: request.cost,
        f"cost={cost!r}",
        "cost what the rules say",
    )


def _heard(
    ask: Callable[[Request], T], otherwise: Callable[[Request], T], setting: str, so: str
) -> Callable[[Request], T]:
    """Ask a function of the author's about what a client has sent: where it raises, the client gets no error for it."""
    logged = False

    def heard(request: Request) -> T:
        nonlocal logged
        try:
            return ask(request)
        except Exception:
            if not logged:
                logged = True
                logging.getLogger("hormesis.inbound").exception("%s raised; such requests %s", setting, so)
            return otherwise(request)

    return heard


def addressed(limits: Iterable[RateLimit]) -> dict[str, RateLimit]:
    """Return limits by where their state lives: under their names, or whose they are.

    >>> list(addressed([RateLimit("1/s", by="client"), RateLimit("5/s"), RateLimit("9/d", by="client")]))
    ['by client', 'by nothing', 'by client 2']
    """
    found: dict[str, RateLimit] = {}
    for limit in limits:
        by = limit.by if isinstance(limit.by, str) else getattr(limit.by, "__qualname__", "nothing")
        name = f"by {by}" if limit.name is None else limit.name
        number = 1 + sum(each == name or each.startswith(f"{name} ") for each in found)
        found[name if number == 1 else f"{name} {number}"] = limit
    return found


def divided(limit: RateLimit, processes: int) -> RateLimit:
    """Return what one of so many processes has of a limit: together they have no more than all of it.

    >>> divided(RateLimit("100/s", "1/min", burst=10), 4).limits
    ('25/s', '1/240s')
    """
    if processes == 1:
        return limit
    rates = limit.limits if isinstance(limit.limits, tuple) else (limit.limits,)
    shares = [_share(str(rate), processes) for rate in rates]
    burst = None if limit.burst is None else max(1, limit.burst // processes)
    kept = {field.name: getattr(limit, field.name) for field in dataclasses.fields(limit) if field.init}
    del kept["limits"]
    return RateLimit(*shares, **{**kept, "burst": burst})


def _share(rate: str, processes: int) -> str:
    whole = quota(rate)
    if "." not in whole.text and whole.number >= processes:
        return f"{whole.number // processes}/{whole.text.partition('/')[2]}"
    # Less than one in a window for each: so one in a longer window.
    longer = math.ceil(processes / whole.number)
    window = whole.window * longer
    written = f"{round(window)}s" if window == round(window) else f"{round(window * 1e6)}us"
    return f"{whole.number * longer // processes}/{written}"

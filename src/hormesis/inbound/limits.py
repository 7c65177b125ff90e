"""Rate limits as a service has them: whose a request is for one, and how much of it one process has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hormesis.errors import ConfigurationError
from hormesis.patterns.part import is_async

if TYPE_CHECKING:
    from hormesis.inbound.request import Request
    from hormesis.patterns.rate_limit import RateLimit

__all__ = ["PRINCIPAL", "divided", "key_of", "limit_name"]

PRINCIPAL = "principal"
_KEY_MAX = 200
_NAMES = ("client", "tenant", PRINCIPAL, "address", "method", "path", "criticality")
_ACCEPTED = f"{', '.join(map(repr, _NAMES))}, or a function of a hormesis.inbound.Request"


def key_of(limit: RateLimit) -> Callable[[Request], str]:
    """Return what tells whose a request is for a limit: the `by` of the limit, of a request's facts.

    Raises:
        ConfigurationError: It is no fact of a request.
    """
    by = limit.by
    if by is None:
        return _everybody
    if isinstance(by, str):
        if by not in _NAMES:
            raise ConfigurationError.bad_value("by", by, _ACCEPTED)
        return _FACTS[by]
    if not callable(by) or is_async(by):
        raise ConfigurationError.bad_value("by", by, _ACCEPTED)
    return lambda request: str(by(request))[:_KEY_MAX]


def _everybody(request: Request) -> str:  # noqa: ARG001
    return ""


_FACTS: dict[str, Callable[[Request], str]] = {
    "client": lambda request: request.client,
    "tenant": lambda request: request.tenant or "",
    PRINCIPAL: lambda request: request.principal or "",
    "address": lambda request: request.address,
    "method": lambda request: request.method,
    "path": lambda request: request.path[:_KEY_MAX],
    "criticality": lambda request: request.criticality.word,
}


def limit_name(limit: RateLimit) -> str:
    return limit.name or f"{limit.rate}"


def divided(limit: RateLimit, processes: int) -> RateLimit:
    return limit

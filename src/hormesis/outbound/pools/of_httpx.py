"""httpx: a client for each class, each with a transport of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.outbound.pools.classes import AsyncPools, Pools, PoolSnapshot, Verbs, patience
from hormesis.outbound.pools.declaration import refuse
from hormesis.units import seconds

try:
    from httpx import (
        AsyncBaseTransport,
        AsyncClient,
        BaseTransport,
        Client,
        Limits,
        Request,
        Response,
        Timeout,
    )
except ImportError as error:
    raise MissingExtraError("a connection pool of httpx", "httpx") from error

if TYPE_CHECKING:
    from hormesis.outbound.pools.declaration import ConnectionPools

__all__ = ["async_clients", "clients"]

_OWN = ("limits", "mounts", "app")

_TIMEOUT = 5.0
"""httpx's own default for connecting, writing, and each read."""


class _Client(Client):
    """A client whose requests wait for a connection no longer than their deadline lets them."""

    def __init__(self, longest: float, **options: Any) -> None:
        super().__init__(**options)
        self._longest = longest

    def send(self, request: Request, **options: Any) -> Response:
        _bound(request, self._longest)
        return super().send(request, **options)


class _AsyncClient(AsyncClient):
    """The same, asynchronous."""

    def __init__(self, longest: float, **options: Any) -> None:
        super().__init__(**options)
        self._longest = longest

    async def send(self, request: Request, **options: Any) -> Response:
        _bound(request, self._longest)
        return await super().send(request, **options)


def _bound(request: Request, longest: float) -> None:
    asked: Mapping[str, float | None] = request.extensions.get("timeout", {})
    own = asked.get("pool")
    request.extensions["timeout"] = {**asked, "pool": patience(longest if own is None else min(own, longest))}


def clients(
    settings: ConnectionPools, transport: Callable[[Limits], BaseTransport] | None, options: Mapping[str, Any]
) -> Pools[Client]:
    """Make the clients."""
    made: dict[str, Client] = {
        name: _Client(**_pool(size, settings, transport, options)) for name, size in settings.classes.items()
    }
    sizes = {id(client): settings.classes[name] for name, client in made.items()}
    verbs: Verbs[Client] = Verbs(snapshot=lambda client: PoolSnapshot(size=sizes[id(client)]), close=Client.close)
    return Pools(made, settings.default, verbs)


def async_clients(
    settings: ConnectionPools, transport: Callable[[Limits], AsyncBaseTransport] | None, options: Mapping[str, Any]
) -> AsyncPools[AsyncClient]:
    """Make the asynchronous clients."""
    made: dict[str, AsyncClient] = {
        name: _AsyncClient(**_pool(size, settings, transport, options)) for name, size in settings.classes.items()
    }
    sizes = {id(client): settings.classes[name] for name, client in made.items()}
    verbs: Verbs[AsyncClient] = Verbs(
        snapshot=lambda client: PoolSnapshot(size=sizes[id(client)]), close=AsyncClient.aclose
    )
    return AsyncPools(made, settings.default, verbs)


def _pool(
    size: int, settings: ConnectionPools, transport: Callable[[Limits], Any] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    refuse(options, *_OWN)
    if transport is not None and not callable(transport):
        raise ConfigurationError.bad_value(
            "transport", transport, "a function of httpx.Limits that returns a transport, since each class has its own"
        )
    # Every connection may stay open: one that has to be made anew is not reserved.
    limits = Limits(max_connections=size, max_keepalive_connections=size)
    longest = seconds(settings.wait, zero=True)
    given = Timeout(options.get("timeout", _TIMEOUT))
    timeout = Timeout(connect=given.connect, read=given.read, write=given.write, pool=longest)
    own = {} if transport is None else {"transport": transport(limits)}
    return {**options, **own, "limits": limits, "timeout": timeout, "longest": longest}

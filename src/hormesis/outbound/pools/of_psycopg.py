"""psycopg 3: a `ConnectionPool` for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hormesis.errors import MissingExtraError
from hormesis.outbound.pools.classes import AsyncPools, Pools, PoolSnapshot, Verbs, patience
from hormesis.outbound.pools.declaration import refuse

try:
    from psycopg import AsyncConnection, Connection
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
except ImportError as error:
    raise MissingExtraError("a connection pool of psycopg", "postgres") from error

if TYPE_CHECKING:
    from hormesis.outbound.pools.declaration import ConnectionPools

__all__ = ["async_pools", "pools"]

_OWN = ("max_size", "timeout", "open")


class _Pool(ConnectionPool[Connection[Any]]):
    """A pool whose wait ends with the deadline of whoever waits."""

    def getconn(self, timeout: float | None = None) -> Connection[Any]:
        return super().getconn(patience(self.timeout if timeout is None else timeout))


class _AsyncPool(AsyncConnectionPool[AsyncConnection[Any]]):
    """The same, asynchronous."""

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[Any]:
        return await super().getconn(patience(self.timeout if timeout is None else timeout))


def pools(
    settings: ConnectionPools, conninfo: str, options: Mapping[str, Any]
) -> Pools[ConnectionPool[Connection[Any]]]:
    """Make the pools, closed."""
    made: dict[str, ConnectionPool[Connection[Any]]] = {
        name: _Pool(conninfo, **_sizes(name, size, settings, options)) for name, size in settings.classes.items()
    }
    verbs: Verbs[ConnectionPool[Connection[Any]]] = Verbs(
        snapshot=_snapshot, open=lambda pool: pool.open(), close=lambda pool: pool.close()
    )
    return Pools(made, settings.default, verbs)


def async_pools(
    settings: ConnectionPools, conninfo: str, options: Mapping[str, Any]
) -> AsyncPools[AsyncConnectionPool[AsyncConnection[Any]]]:
    """Make the asynchronous pools, closed; they bind to the loop that opens them."""
    made: dict[str, AsyncConnectionPool[AsyncConnection[Any]]] = {
        name: _AsyncPool(conninfo, **_sizes(name, size, settings, options)) for name, size in settings.classes.items()
    }
    verbs: Verbs[AsyncConnectionPool[AsyncConnection[Any]]] = Verbs(
        snapshot=_snapshot, open=lambda pool: pool.open(), close=lambda pool: pool.close()
    )
    return AsyncPools(made, settings.default, verbs)


def _sizes(name: str, size: int, settings: ConnectionPools, options: Mapping[str, Any]) -> dict[str, Any]:
    refuse(options, *_OWN)
    return {"name": name, "min_size": size, **options, "max_size": size, "timeout": settings.wait, "open": False}


def _snapshot(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> PoolSnapshot:
    told = pool.get_stats()
    return PoolSnapshot(
        size=told["pool_max"],
        in_use=told["pool_size"] - told["pool_available"],
        waiting=told.get("requests_waiting", 0),
    )

"""redis-py: a client for each class, each over a blocking pool of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.outbound.pools.classes import AsyncPools, Pools, PoolSnapshot, Verbs, patience
from hormesis.outbound.pools.declaration import refuse
from hormesis.units import seconds

try:
    from redis import BlockingConnectionPool, Redis
    from redis.asyncio import BlockingConnectionPool as AsyncBlockingConnectionPool
    from redis.asyncio import Redis as AsyncRedis
except ImportError as error:
    raise MissingExtraError("a connection pool of redis-py", "redis") from error

if TYPE_CHECKING:
    from hormesis.outbound.pools.declaration import ConnectionPools

__all__ = ["async_clients", "clients"]

_OWN = ("max_connections", "timeout", "connection_pool")


class _Impatient:
    """Mixed into a pool, makes its wait end with the deadline of whoever waits: the pool asks for each wait."""

    longest: float

    @property
    def timeout(self) -> float:
        """How long this call may wait."""
        return patience(self.longest)

    @timeout.setter
    def timeout(self, longest: float) -> None:
        self.longest = longest


class _Pool(_Impatient, BlockingConnectionPool):
    pass


class _AsyncPool(_Impatient, AsyncBlockingConnectionPool):  # type: ignore[misc]  # an attribute there
    pass


def clients(settings: ConnectionPools, url: str, options: Mapping[str, Any]) -> Pools[Redis]:
    """Make the clients; no connection is opened."""
    refuse(options, *_OWN)
    made = {}
    for name, size in settings.classes.items():
        wait = seconds(settings.wait, zero=True)
        pool = _Pool.from_url(url, max_connections=size, timeout=wait, **options)
        _refuse_url(pool, size, wait)
        made[name] = Redis.from_pool(pool)
    return Pools(made, settings.default, Verbs(snapshot=_snapshot, close=Redis.close))


def async_clients(settings: ConnectionPools, url: str, options: Mapping[str, Any]) -> AsyncPools[AsyncRedis]:
    """Make the asynchronous clients; no connection is opened, and nothing binds to a loop."""
    refuse(options, *_OWN)
    made = {}
    for name, size in settings.classes.items():
        wait = seconds(settings.wait, zero=True)
        pool = _AsyncPool.from_url(url, max_connections=size, timeout=wait, **options)
        _refuse_url(pool, size, wait)
        made[name] = AsyncRedis.from_pool(pool)
    return AsyncPools(made, settings.default, Verbs(snapshot=_snapshot_async, close=AsyncRedis.aclose))


def _refuse_url(pool: _Pool | _AsyncPool, size: int, wait: float) -> None:
    """What stands in the URL wins over what is said beside it; so it must not speak of sizes and waits."""
    if pool.max_connections != size or pool.longest != wait:
        raise ConfigurationError(
            "the URL says max_connections or timeout; both are said by ConnectionPools(...) alone", "url"
        )


def _snapshot(client: Redis) -> PoolSnapshot:
    pool: Any = client.connection_pool
    # The queue holds a place for each connection that is free, opened or not.
    return PoolSnapshot(size=pool.max_connections, in_use=pool.max_connections - pool.pool.qsize())


def _snapshot_async(client: AsyncRedis) -> PoolSnapshot:
    pool: Any = client.connection_pool
    return PoolSnapshot(size=pool.max_connections, in_use=len(pool._in_use_connections))

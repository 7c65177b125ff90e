"""SQLAlchemy: an engine for each class, each with a queue pool of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hormesis.errors import MissingExtraError
from hormesis.outbound.pools.classes import AsyncPools, Pools, PoolSnapshot, Verbs, patience
from hormesis.outbound.pools.declaration import refuse

try:
    from sqlalchemy import URL, Engine, create_engine
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
except ImportError as error:
    raise MissingExtraError("a connection pool of SQLAlchemy", "sqlalchemy") from error

if TYPE_CHECKING:
    from hormesis.outbound.pools.declaration import ConnectionPools

__all__ = ["async_engines", "engines"]

_OWN = ("pool", "poolclass", "pool_size", "max_overflow", "pool_timeout")


class _Impatient:
    """Mixed into a pool, makes its wait end with the deadline of whoever waits.

    SQLAlchemy reads the attribute `_timeout` at the start of each wait. A pool that stopped doing so would wait its
    full time again, which a test would see.
    """

    _longest: float

    @property
    def _timeout(self) -> float:
        return patience(self._longest)

    @_timeout.setter
    def _timeout(self, longest: float) -> None:
        self._longest = longest


class _Pool(_Impatient, QueuePool):
    def recreate(self) -> QueuePool:
        again = super().recreate()
        again._timeout = self._longest
        return again


class _AsyncPool(_Impatient, AsyncAdaptedQueuePool):
    def recreate(self) -> QueuePool:
        again = super().recreate()
        again._timeout = self._longest
        return again


def engines(settings: ConnectionPools, url: str | URL, options: Mapping[str, Any]) -> Pools[Engine]:
    """Make the engines; no connection is opened."""
    refuse(options, *_OWN)
    made = {
        name: create_engine(url, **_pool(_Pool, size, settings), **options) for name, size in settings.classes.items()
    }
    return Pools(made, settings.default, Verbs(snapshot=_snapshot, close=Engine.dispose))


def async_engines(settings: ConnectionPools, url: str | URL, options: Mapping[str, Any]) -> AsyncPools[AsyncEngine]:
    """Make the asynchronous engines; no connection is opened, and nothing binds to a loop."""
    refuse(options, *_OWN)
    made = {
        name: create_async_engine(url, **_pool(_AsyncPool, size, settings), **options)
        for name, size in settings.classes.items()
    }
    verbs: Verbs[AsyncEngine] = Verbs(snapshot=lambda engine: _snapshot(engine.sync_engine), close=AsyncEngine.dispose)
    return AsyncPools(made, settings.default, verbs)


def _pool(kind: type[QueuePool], size: int, settings: ConnectionPools) -> dict[str, Any]:
    return {"poolclass": kind, "pool_size": size, "max_overflow": 0, "pool_timeout": settings.wait}


def _snapshot(engine: Engine) -> PoolSnapshot:
    pool = engine.pool
    assert isinstance(pool, QueuePool)  # noqa: S101  we made it
    return PoolSnapshot(size=pool.size(), in_use=pool.checkedout())

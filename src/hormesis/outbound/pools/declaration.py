"""The one declaration that all pools come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from hormesis import tables
from hormesis.errors import ConfigurationError
from hormesis.outbound.pools.classes import AsyncPools, Pools
from hormesis.patterns.part import normalise, whole
from hormesis.policy.files import register_section
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, seconds

if TYPE_CHECKING:
    from httpx import AsyncBaseTransport, AsyncClient, BaseTransport, Client, Limits
    from psycopg import AsyncConnection, Connection
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["ConnectionPools"]

_CLASSES_ACCEPTED = "names of traffic classes with their connections, such as {critical = 15, reporting = 5}"
_CLASSES_MAX = 100
"""Each class is a pool, and its name a metric's label; what needs more wants a limit by key, not pools."""

_SIZE_MAX = 10_000
"""More connections than any server bears; a larger number is a slip of the pen."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionPools(Settings):
    """Separate connection pools for separate classes of traffic.

    A pool has exactly as many connections as its class, and no overflow: what one class could borrow, it could take
    from the other. Add up what all processes of all services may open, and keep that below what the server allows
    (PostgreSQL's `max_connections` less `superuser_reserved_connections`); `total_max` checks this process's share.

    Args:
        classes: Connections of each class, by name.
        wait: How long a call waits for a connection at most; its deadline may cut that short.
        default: The class of calls that name none; by default the first.
        total_max: Connections that all classes together may have; None checks nothing.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> pools = ConnectionPools({"critical": 15, "reporting": 5}, wait="500ms")
    >>> pools.total, pools.default
    (20, 'critical')
    """

    classes: Mapping[str, int] = dataclasses.field(hash=False, metadata={ACCEPTED: _CLASSES_ACCEPTED})
    _: dataclasses.KW_ONLY
    # Whoever waits longer than this for a connection is better told so: a second wait is a queue in front of the queue.
    wait: Duration = 0.5
    # The critical path is there first; what is set apart from it gets the label.
    default: str = ""
    total_max: int | None = None

    def __post_init__(self) -> None:
        classes: object = self.classes
        if not isinstance(classes, Mapping) or not 0 < len(classes) <= _CLASSES_MAX:
            raise ConfigurationError.bad_value("classes", classes, f"1 to {_CLASSES_MAX} {_CLASSES_ACCEPTED}")
        for name, size in cast("Mapping[object, object]", classes).items():
            if not isinstance(name, str) or not name:
                raise ConfigurationError.bad_value("classes", name, "non-empty names of traffic classes")
            whole(f"classes.{name}", size, 1, _SIZE_MAX)
        default = self.default if self.default != "" else next(iter(classes))
        if default not in classes:
            raise ConfigurationError.unknown("traffic class", default, classes, "default")
        total = sum(classes.values())
        if self.total_max is not None and total > whole("total_max", self.total_max, 1):
            raise ConfigurationError(
                f"the classes have {total} connections together, more than total_max allows, which is {self.total_max}",
                "total_max",
            )
        wait = seconds(self.wait, "wait", zero=True)
        normalise(self, classes=MappingProxyType(dict(classes)), wait=wait, default=default)

    @property
    def total(self) -> int:
        """The connections of all classes together."""
        return sum(self.classes.values())

    def describe(self) -> str:
        """The settings in words."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.classes.items())
        return f"{self.total} connections ({sizes}), a call waits up to {self.wait:g} s for one"

    def sqlalchemy(self, url: str | URL, **options: Any) -> Pools[Engine]:
        """Make an engine of SQLAlchemy for each class.

        Args:
            url: Where the database is.
            **options: For `sqlalchemy.create_engine`, all but those that say how large the pool is.

        Raises:
            ConfigurationError: An option is the pools' own business.
            MissingExtraError: SQLAlchemy is not installed.
        """
        from hormesis.outbound.pools import of_sqlalchemy  # noqa: PLC0415  the library is imported when it is used

        return of_sqlalchemy.engines(self, url, options)

    def sqlalchemy_async(self, url: str | URL, **options: Any) -> AsyncPools[AsyncEngine]:
        """Make an asynchronous engine of SQLAlchemy for each class; otherwise as `sqlalchemy`."""
        from hormesis.outbound.pools import of_sqlalchemy  # noqa: PLC0415

        return of_sqlalchemy.async_engines(self, url, options)

    def psycopg(self, conninfo: str = "", **options: Any) -> Pools[ConnectionPool[Connection[Any]]]:
        """Make a pool of psycopg for each class, still closed: `with` or `open()` opens all of them.

        Args:
            conninfo: What `psycopg.connect` takes.
            **options: For `psycopg_pool.ConnectionPool`, all but its largest size and its timeout. `min_size` is the
                class's size if not given, so that reserved connections are really there when the server is full.

        Raises:
            ConfigurationError: An option is the pools' own business.
            MissingExtraError: psycopg or psycopg_pool is not installed.
        """
        from hormesis.outbound.pools import of_psycopg  # noqa: PLC0415

        return of_psycopg.pools(self, conninfo, options)

    def psycopg_async(
        self, conninfo: str = "", **options: Any
    ) -> AsyncPools[AsyncConnectionPool[AsyncConnection[Any]]]:
        """Make an asynchronous pool of psycopg for each class; otherwise as `psycopg`."""
        from hormesis.outbound.pools import of_psycopg  # noqa: PLC0415

        return of_psycopg.async_pools(self, conninfo, options)

    def httpx(self, *, transport: Callable[[Limits], BaseTransport] | None = None, **options: Any) -> Pools[Client]:
        """Make a client of httpx for each class.

        Args:
            transport: Makes a class's transport from its limits, where one of your own is wanted, such as
                `lambda limits: MyTransport(httpx.HTTPTransport(limits=limits))`.
            **options: For `httpx.Client`, all but `limits`.

        Raises:
            ConfigurationError: An option is the pools' own business.
            MissingExtraError: httpx is not installed.
        """
        from hormesis.outbound.pools import of_httpx  # noqa: PLC0415

        return of_httpx.clients(self, transport, options)

    def httpx_async(
        self, *, transport: Callable[[Limits], AsyncBaseTransport] | None = None, **options: Any
    ) -> AsyncPools[AsyncClient]:
        """Make an asynchronous client of httpx for each class; otherwise as `httpx`."""
        from hormesis.outbound.pools import of_httpx  # noqa: PLC0415

        return of_httpx.async_clients(self, transport, options)

    def redis(self, url: str, **options: Any) -> Pools[Redis]:
        """Make a client of redis-py for each class, over a blocking pool.

        Args:
            url: Where the server is.
            **options: For the connections, as `redis.Redis.from_url` takes them.

        Raises:
            ConfigurationError: An option, here or in the URL, is the pools' own business.
            MissingExtraError: redis-py is not installed.
        """
        from hormesis.outbound.pools import of_redis  # noqa: PLC0415

        return of_redis.clients(self, url, options)

    def redis_async(self, url: str, **options: Any) -> AsyncPools[AsyncRedis]:
        """Make an asynchronous client of redis-py for each class; otherwise as `redis`."""
        from hormesis.outbound.pools import of_redis  # noqa: PLC0415

        return of_redis.async_clients(self, url, options)


def refuse(options: Mapping[str, object], *own: str) -> None:
    """Refuse options that would contradict the declaration."""
    for name in own:
        if name in options:
            raise ConfigurationError(
                f"{name} is {options[name]!r}; how many connections a class has, and how long a call waits for one, is "
                "said by ConnectionPools(...) alone",
                name,
            )


def _read(value: object, name: str) -> dict[str, ConnectionPools]:
    """Read the table `[pools]` of a file: declarations by name."""
    if not isinstance(value, Mapping):
        raise ConfigurationError.bad_value(name, value, f"tables such as [{name}.orders]")
    return {key: tables.read(ConnectionPools, table, f"{name}.{key}") for key, table in value.items()}


register_section("pools", _read)

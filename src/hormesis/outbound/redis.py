"""A redis-py client whose commands go through a policy.

`protect` returns a client of the same class over the same connections. Each command, and each pipeline as a whole, is
one call of the policy. redis-py retries by itself, any command, also `INCR` after a lost answer: where the policy
retries, that is switched off, so that there is one place which decides.

Only what is *repeatable* is retried or hedged: a command that leaves the same state when it is sent twice, and answers
the same. `SET key value` is; `INCR`, `LPUSH` and `SET ... NX` are not, and neither is a command that we don't know. A
pipeline is when all of its commands are. `repeatable` adds commands where you know better, such as `DEL` where nobody
looks at its answer, or the reads of a module.

Connections that a pipeline watches keys on, pub/sub and `monitor()` are conversations, not calls, and stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from hormesis.context import calling
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.policy.policy import Policy

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    Client = TypeVar("Client", Redis, AsyncRedis)

__all__ = ["REPEATABLE", "is_repeatable", "protect"]

_REPEATABLE_BY_KIND = {
    "connection and server": """
        PING ECHO TIME INFO DBSIZE TYPE LASTSAVE ROLE COMMAND OBJECT MEMORY|USAGE CONFIG|GET CLIENT|ID
        CLIENT|INFO CLIENT|LIST SCRIPT|EXISTS SCRIPT|LOAD SLOWLOG|GET LATENCY|LATEST CLUSTER|INFO CLUSTER|SLOTS
        CLUSTER|NODES
    """,
    "keys: reads, and expiry at or after a time, which is set anew": """
        EXISTS KEYS SCAN TTL PTTL EXPIRETIME PEXPIRETIME DUMP RANDOMKEY TOUCH SORT_RO EXPIRE PEXPIRE EXPIREAT
        PEXPIREAT
    """,
    "strings and bits": """
        GET MGET GETRANGE SUBSTR STRLEN GETEX LCS SET SETEX PSETEX MSET SETRANGE GETBIT BITCOUNT BITPOS
        BITFIELD_RO
    """,
    "hashes": """
        HGET HMGET HGETALL HEXISTS HLEN HKEYS HVALS HSTRLEN HSCAN HRANDFIELD HTTL HPTTL HMSET
    """,
    "lists": """
        LRANGE LLEN LINDEX LPOS LSET
    """,
    "sets": """
        SMEMBERS SISMEMBER SMISMEMBER SCARD SRANDMEMBER SINTER SUNION SDIFF SINTERCARD SSCAN SINTERSTORE
        SUNIONSTORE SDIFFSTORE
    """,
    "sorted sets": """
        ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX ZRANK ZREVRANK ZSCORE ZMSCORE
        ZCARD ZCOUNT ZLEXCOUNT ZRANDMEMBER ZSCAN ZINTER ZUNION ZDIFF ZINTERCARD
    """,
    "streams, places, sketches": """
        XRANGE XREVRANGE XLEN XREAD XPENDING XINFO|STREAM XINFO|GROUPS XINFO|CONSUMERS GEODIST GEOHASH GEOPOS
        GEOSEARCH GEORADIUS_RO GEORADIUSBYMEMBER_RO PFCOUNT
    """,
    "scripts that promise to write nothing": """
        EVAL_RO EVALSHA_RO FCALL_RO
    """,
}
REPEATABLE = frozenset(name for names in _REPEATABLE_BY_KIND.values() for name in names.split())
"""Commands that may be sent twice: the same state after it, and the same answer."""

_CONDITIONS = frozenset({"NX", "XX", "GT", "LT", "GET", "IFEQ", "IFNE", "IFDEQ", "IFDNE"})
"""Options that make the answer of `SET` and `EXPIRE` depend on what was there before."""
_CONDITIONAL = frozenset({"SET", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"})


def is_repeatable(command: Iterable[object], further: Collection[str] = ()) -> bool:
    """Say whether a command may be sent twice.

    Args:
        command: Its name and arguments.
        further: Names of commands that count as repeatable besides `REPEATABLE`, in capitals.

    >>> is_repeatable(["SET", "k", "v"]), is_repeatable(["SET", "k", "v", "NX"]), is_repeatable(["INCR", "k"])
    (True, False, False)
    """
    name, *arguments = command
    # redis-py sends the two words of a subcommand as one argument.
    name = _word(name).replace(" ", "|")
    if name in further:
        return True
    if name not in REPEATABLE:
        return False
    # The first two arguments are a key and its value or time, whatever they look like.
    return name not in _CONDITIONAL or not any(_word(option) in _CONDITIONS for option in arguments[2:])


def _word(argument: object) -> str:
    return (argument.decode(errors="replace") if isinstance(argument, bytes) else str(argument)).upper()


def protect(client: Client, policy: Policy, *, repeatable: Iterable[str] = ()) -> Client:
    """Return a client whose commands and pipelines go through a policy.

    It uses the connections of the given client, which stays their owner: close that one.

    Args:
        client: A `redis.Redis` or a `redis.asyncio.Redis`. Where the policy retries, redis-py's own retries are
            switched off on its connections.
        policy: Around each command, and around each pipeline.
        repeatable: Further commands that may be sent twice, such as `{"DEL"}`, by the names that are sent: redis-py's
            `incr()` sends `INCRBY`.

    Raises:
        ConfigurationError: It is no such client (that of a cluster is none), or the policy can't protect it.
        MissingExtraError: redis-py is not installed.
    """
    try:
        from redis import Redis  # noqa: PLC0415  only this needs it
        from redis.asyncio import Redis as AsyncRedis  # noqa: PLC0415
        from redis.asyncio.retry import Retry as AsyncRetry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("protecting a client of redis-py", "redis") from error
    given: object = client
    if not isinstance(given, Redis | AsyncRedis) or hasattr(given, "command_stack"):
        raise ConfigurationError.bad_value("client", client, "a redis.Redis or a redis.asyncio.Redis")
    if isinstance(repeatable, str):
        raise ConfigurationError.bad_value("repeatable", repeatable, f"names of commands, such as {{{repeatable!r}}}")
    names = frozenset(name.upper().replace(" ", "|") for name in repeatable)
    retries = any(part.slot is Slot.RETRY for part in policy.parts)
    made: Any
    if isinstance(client, Redis):
        policy(client.execute_command)  # refuses a policy that can't protect what is synchronous
        made = _protected(type(client))(connection_pool=client.connection_pool)
        if retries:
            client.set_retry(Retry(NoBackoff(), 0))
    else:
        made = _protected_async(type(client))(connection_pool=client.connection_pool)
        if retries:
            client.set_retry(AsyncRetry(NoBackoff(), 0))
    made.response_callbacks = client.response_callbacks
    made._hormesis = _Guard(policy, names)
    return made  # type: ignore[no-any-return]


class _Guard:
    """What a protected client knows beyond what every client does."""

    __slots__ = ("_further", "policy")

    def __init__(self, policy: Policy, further: frozenset[str]) -> None:
        self.policy = policy
        self._further = further

    def facts(self, *commands: Iterable[object]) -> contextlib.AbstractContextManager[object]:
        """Tell the policy of a call that must not be made twice."""
        if all(is_repeatable(command, self._further) for command in commands):
            return contextlib.nullcontext()
        return calling(repeatable=False)


@functools.cache
def _protected(base: type[Any]) -> type[Any]:
    """Make the protected class of a synchronous client's class."""
    pipeline_class = _protected_pipeline()

    class Protected(base):  # type: ignore[misc]
        _hormesis: _Guard

        def execute_command(self, *args: Any, **options: Any) -> Any:
            with self._hormesis.facts(args):
                return self._hormesis.policy.call(super().execute_command, *args, **options)

        def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
            made = pipeline_class(self.connection_pool, self.response_callbacks, transaction, shard_hint)
            made._hormesis = self._hormesis
            return made

    return _renamed(Protected, base)


@functools.cache
def _protected_async(base: type[Any]) -> type[Any]:
    """Make the protected class of an asynchronous client's class."""
    pipeline_class = _protected_pipeline_async()

    class Protected(base):  # type: ignore[misc]
        _hormesis: _Guard

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            with self._hormesis.facts(args):
                return await self._hormesis.policy.acall(super().execute_command, *args, **options)

        def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
            made = pipeline_class(self.connection_pool, self.response_callbacks, transaction, shard_hint)
            made._hormesis = self._hormesis
            return made

    return _renamed(Protected, base)


@functools.cache
def _protected_pipeline() -> type[Any]:
    from redis.client import Pipeline  # noqa: PLC0415

    class Protected(Pipeline):
        _hormesis: _Guard

        def execute(self, raise_on_error: bool = True) -> list[Any]:
            if self.watching:
                return super().execute(raise_on_error)
            stack, scripts, explicit = list(self.command_stack), set(self.scripts), self.explicit_transaction

            def attempt() -> list[Any]:
                # Each execution leaves the pipeline empty.
                self.command_stack, self.scripts, self.explicit_transaction = list(stack), set(scripts), explicit
                return super(Protected, self).execute(raise_on_error)

            with self._hormesis.facts(*(args for args, _ in stack)):
                return self._hormesis.policy.call(attempt)

    return _renamed(Protected, Pipeline)


@functools.cache
def _protected_pipeline_async() -> type[Any]:
    from redis.asyncio.client import Pipeline  # noqa: PLC0415

    class Protected(Pipeline):
        _hormesis: _Guard

        async def execute(self, raise_on_error: bool = True) -> list[Any]:
            if self.watching:
                return await super().execute(raise_on_error)
            stack, scripts, explicit = list(self.command_stack), set(self.scripts), self.explicit_transaction

            async def attempt() -> list[Any]:
                self.command_stack, self.scripts, self.explicit_transaction = list(stack), set(scripts), explicit
                return await super(Protected, self).execute(raise_on_error)

            with self._hormesis.facts(*(args for args, _ in stack)):
                return await self._hormesis.policy.acall(attempt)

    return _renamed(Protected, Pipeline)


def _renamed(made: type[Any], base: type[Any]) -> type[Any]:
    made.__name__ = made.__qualname__ = f"Protected{base.__name__}"
    return made

"""What kinds of failure the exceptions of redis-py are.

redis-py has one class for all that can befall a connection, and tells by its message what did: never made, none free
in our own pool, or lost. An error reply begins with a code in capitals; most mean that the command was wrong, and a few
that the server can't serve now.

Names only: nothing is imported.
"""

from __future__ import annotations

import re

from hormesis.outcome import FailureKind, register_failures

__all__: list[str] = []

_NEVER_MADE = re.compile(r"Error .{0,20}connecting to |Timeout connecting")
_NONE_FREE = "No connection available"
_CANNOT_NOW = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"}
)
"""Codes of replies: a script holds the server, it starts up, it can't write its snapshot, it is full, or no primary."""


def _connection(error: BaseException) -> FailureKind:
    said = str(error)
    if said.startswith(_NONE_FREE):
        # Nothing came free in our own pool, which says nothing of the server: as with a full bulkhead.
        return FailureKind.REJECTED
    return FailureKind.CONNECT if _NEVER_MADE.match(said) else FailureKind.UNAVAILABLE


def _timeout(error: BaseException) -> FailureKind:
    return FailureKind.CONNECT if _NEVER_MADE.match(str(error)) else FailureKind.TIMEOUT


def _reply(error: BaseException) -> FailureKind:
    code = str(error).partition(" ")[0]
    return FailureKind.UNAVAILABLE if code in _CANNOT_NOW else FailureKind.INVALID


register_failures(
    {
        "redis.exceptions.ConnectionError": _connection,
        "redis.exceptions.MaxConnectionsError": FailureKind.REJECTED,
        "redis.exceptions.TimeoutError": _timeout,
        "redis.exceptions.BusyLoadingError": FailureKind.UNAVAILABLE,
        "redis.exceptions.AuthenticationError": FailureKind.INVALID,
        "redis.exceptions.AuthorizationError": FailureKind.INVALID,
        "redis.exceptions.ResponseError": _reply,
        "redis.exceptions.ReadOnlyError": FailureKind.UNAVAILABLE,
        "redis.exceptions.OutOfMemoryError": FailureKind.UNAVAILABLE,
        "redis.exceptions.ClusterDownError": FailureKind.UNAVAILABLE,
        "redis.exceptions.ClusterError": FailureKind.UNAVAILABLE,
        "redis.exceptions.TryAgainError": FailureKind.UNAVAILABLE,
        "redis.exceptions.DataError": FailureKind.INVALID,
        "redis.exceptions.PubSubError": FailureKind.INVALID,
        # Somebody else was faster; repeating the same writes without reading again can only fail again.
        "redis.exceptions.WatchError": FailureKind.INVALID,
        "redis.exceptions.LockError": FailureKind.INVALID,
    }
)

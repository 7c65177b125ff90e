"""What kinds of failure the exceptions of SQLAlchemy, psycopg and sqlite3 are.

A database that answers with an error says what happened in five characters, its *SQLSTATE* (SQL:2023 part 2, clause 24;
PostgreSQL appendix A): the first two are a class. An error without one did not come from the server: the connection
could not be made, or was lost. SQLAlchemy wraps the driver's exception, so the driver's is the one that is asked.

A connection that did not come free in our own pool says nothing of the database: it is a rejection, as a full
bulkhead is. Deadlocks and serialization failures have been rolled back by the server, which asks for a repetition of
the *transaction*: they are `unavailable`, and so transient.

Names only: nothing is imported.
"""

from __future__ import annotations

import re
from typing import Any

from hormesis.outcome import FailureKind, classify, register_failures

__all__ = ["kind_of_sqlstate", "sqlstate_of"]

_STATES = {
    "08001": FailureKind.CONNECT,  # the client could not establish the connection
    "08004": FailureKind.CONNECT,  # the server refused to
    "25006": FailureKind.UNAVAILABLE,  # a write on a server that only reads: after a failover, this is not the primary
    "25P03": FailureKind.ERROR,  # we held a transaction open and did nothing
    "25P04": FailureKind.TIMEOUT,  # transaction_timeout
    "40002": FailureKind.INVALID,  # rolled back for a constraint, which the next attempt would violate as well
    "57014": FailureKind.TIMEOUT,  # statement_timeout, or somebody cancelled it
    "55P03": FailureKind.UNAVAILABLE,  # lock_timeout, or NOWAIT
}
_CLASSES = {
    "08": FailureKind.UNAVAILABLE,  # connection
    "0A": FailureKind.INVALID,  # not supported
    "21": FailureKind.INVALID,  # cardinality
    "22": FailureKind.INVALID,  # data
    "23": FailureKind.INVALID,  # integrity
    "25": FailureKind.INVALID,  # transaction state
    "26": FailureKind.INVALID,  # no such prepared statement
    "28": FailureKind.INVALID,  # authorization
    "3D": FailureKind.INVALID,  # no such database
    "3F": FailureKind.INVALID,  # no such schema
    "40": FailureKind.UNAVAILABLE,  # rolled back: serialization failure, deadlock
    "42": FailureKind.INVALID,  # syntax, access
    "44": FailureKind.INVALID,  # WITH CHECK OPTION
    "53": FailureKind.UNAVAILABLE,  # out of connections, memory, disk
    "57": FailureKind.UNAVAILABLE,  # shut down, starting up
}
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")


def kind_of_sqlstate(state: str) -> FailureKind:
    """Return the kind of failure that a SQLSTATE is.

    >>> kind_of_sqlstate("40P01"), kind_of_sqlstate("23505")
    (<FailureKind.UNAVAILABLE: 'unavailable'>, <FailureKind.INVALID: 'invalid'>)
    """
    return _STATES.get(state) or _CLASSES.get(state[:2], FailureKind.ERROR)


def sqlstate_of(error: object) -> str | None:
    """Return what the server said of a driver's exception; None if it never came to that."""
    for name in ("sqlstate", "pgcode"):  # psycopg and asyncpg; psycopg2
        state = getattr(error, name, None)
        if isinstance(state, str) and _SQLSTATE.fullmatch(state):
            return state
    return None


def _psycopg(error: Any) -> FailureKind:
    state = sqlstate_of(error)
    return FailureKind.ERROR if state is None else kind_of_sqlstate(state)


def _psycopg_operational(error: Any) -> FailureKind:
    if sqlstate_of(error) is not None:
        return _psycopg(error)
    # psycopg attaches the unfinished connection to the failure of an attempt to connect, and to nothing else. A name
    # that can't be resolved has none.
    never_made = error.pgconn is not None or str(error).startswith("failed to resolve host")
    return FailureKind.CONNECT if never_made else FailureKind.UNAVAILABLE


def _sqlalchemy_driver(error: Any) -> FailureKind:
    state = sqlstate_of(error.orig)
    kind = classify(error.orig) if state is None else kind_of_sqlstate(state)
    return FailureKind.UNAVAILABLE if kind is FailureKind.ERROR and error.connection_invalidated else kind


_SQLITE_BUSY = frozenset({5, 6})
"""SQLITE_BUSY, SQLITE_LOCKED: another connection writes."""


def _sqlite_operational(error: Any) -> FailureKind:
    # The low byte is the primary code. An error of the module itself has none.
    busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_BUSY
    return FailureKind.UNAVAILABLE if busy else FailureKind.ERROR


register_failures(
    {
        "sqlalchemy.exc.TimeoutError": FailureKind.REJECTED,
        "sqlalchemy.exc.DisconnectionError": FailureKind.UNAVAILABLE,
        "sqlalchemy.exc.DBAPIError": _sqlalchemy_driver,
        # What SQLAlchemy itself finds wrong with a request, before it is sent.
        "sqlalchemy.exc.StatementError": FailureKind.INVALID,
        "sqlalchemy.exc.InvalidRequestError": FailureKind.INVALID,
        "sqlalchemy.exc.ArgumentError": FailureKind.INVALID,
        "sqlalchemy.exc.CompileError": FailureKind.INVALID,
        "psycopg.Error": _psycopg,
        "psycopg.OperationalError": _psycopg_operational,
        "psycopg.errors.ConnectionTimeout": FailureKind.CONNECT,
        "psycopg.errors.CancellationTimeout": FailureKind.TIMEOUT,
        "psycopg_pool.PoolTimeout": FailureKind.REJECTED,
        "psycopg_pool.TooManyRequests": FailureKind.REJECTED,
        "psycopg_pool.PoolClosed": FailureKind.REJECTED,
        "sqlite3.OperationalError": _sqlite_operational,
        "sqlite3.IntegrityError": FailureKind.INVALID,
        "sqlite3.DataError": FailureKind.INVALID,
        "sqlite3.ProgrammingError": FailureKind.INVALID,
        "sqlite3.NotSupportedError": FailureKind.INVALID,
    }
)

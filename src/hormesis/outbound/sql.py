"""A whole SQLAlchemy transaction under a policy.

What can be repeated of a database is the *transaction*: when one statement fails, the server has given up all of it,
and the same statement again would run outside of what it belonged to. So the policy goes around the transaction: each
attempt gets a connection, begins anew, calls your function, and commits. A deadlock or a serialization failure is then
just a transient failure.

**Commit is where repeating stops being safe.** When the connection is lost, or the time is over, after COMMIT was sent
and before its answer came, nobody here can know whether it happened. Then `CommitUncertain` is raised, and no further
attempt is made, whatever the policy's retry says. An attempt that was given up (its thread timed out and goes on by
itself) can no longer commit once the next one has begun.

On PostgreSQL, what is left of the deadline goes along as `statement_timeout` for the length of the transaction (`SET
LOCAL`), so the server does not go on working for a caller who has left.

The bind is anything with SQLAlchemy's `begin()`: an `Engine` or a `sessionmaker`, an `AsyncEngine` or an
`async_sessionmaker`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar

from hormesis.context import check_deadline, remaining
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, HormesisError, MissingExtraError
from hormesis.policy.policy import Policy

__all__ = ["AsyncBegins", "Begins", "CommitUncertain", "run_transaction", "run_transaction_async"]

R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Begins(Protocol[T_co]):
    """What begins a transaction, and commits it at the end of the block: `Engine`, `sessionmaker`."""

    def begin(self) -> AbstractContextManager[T_co]:
        """Begin a transaction."""
        ...


class AsyncBegins(Protocol[T_co]):
    """The same, asynchronous: `AsyncEngine`, `async_sessionmaker`."""

    def begin(self) -> AbstractAsyncContextManager[T_co]:
        """Begin a transaction."""
        ...


class CommitUncertain(HormesisError):
    """Whether the transaction happened is unknown: its COMMIT was sent, and no answer came.

    Args:
        policy: The name of the policy under which it ran.
    """

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.policy = policy

    def __str__(self) -> str:
        return f"policy {self.policy!r}: COMMIT was sent and no answer came; whether it happened is unknown"


class _SupersededError(HormesisError):
    """Ends an attempt that nobody waits for any more, before it commits."""


def run_transaction(bind: Begins[T], function: Callable[[T], R], policy: Policy, *, repeatable: bool = False) -> R:
    """Run a function in a transaction of its own for each attempt, and commit.

    Args:
        bind: An `Engine` or a `sessionmaker`, such as `engines.current` of `ConnectionPools`.
        function: Called with the connection or session, once for each attempt; what it does elsewhere is not undone.
        policy: Around each whole transaction.
        repeatable: Whether committing twice is harmless, so that an uncertain commit may be repeated too.

    Raises:
        CommitUncertain: COMMIT was sent, and no answer came.
        ConfigurationError: The policy hedges, and committing twice is not harmless.
        Exception: Whatever policy, SQLAlchemy or function raise.

    >>> import sqlalchemy as sa
    >>> from hormesis import Policy, Retry
    >>> engine = sa.create_engine("sqlite://")
    >>> run_transaction(engine, lambda tx: tx.scalar(sa.text("SELECT 1 + 1")), Policy(Retry(on="transient")))
    2
    >>> engine.dispose()
    """
    course = _Course(policy, repeatable=repeatable)

    def attempt() -> R:
        number = course.begins()
        try:
            with bind.begin() as transaction:
                limit = _limit(transaction)
                if limit is not None:
                    _execute(transaction, limit)
                result = function(transaction)
                flush = getattr(transaction, "flush", None)
                if flush is not None:
                    # A session writes as late as it can; what fails of that has failed before COMMIT.
                    flush()
                course.commits(number)
        except Exception as error:
            course.failed(number, error)
            raise
        return result

    return policy.call(attempt)


async def run_transaction_async(
    bind: AsyncBegins[T], function: Callable[[T], Awaitable[R]], policy: Policy, *, repeatable: bool = False
) -> R:
    """Do as `run_transaction` does, with an `AsyncEngine` or an `async_sessionmaker`."""
    course = _Course(policy, repeatable=repeatable)

    async def attempt() -> R:
        number = course.begins()
        try:
            async with bind.begin() as transaction:
                limit = _limit(transaction)
                if limit is not None:
                    await _execute(transaction, limit)
                result = await function(transaction)
                flush = getattr(transaction, "flush", None)
                if flush is not None:
                    await flush()
                course.commits(number)
        except Exception as error:
            course.failed(number, error)
            raise
        return result

    return await policy.acall(attempt)


class _Course:
    """What the attempts of one call must know of each other: whether one may have committed."""

    __slots__ = ("_committing", "_lock", "_newest", "_policy", "_repeatable")

    def __init__(self, policy: Policy, *, repeatable: bool) -> None:
        if not repeatable and any(part.slot is Slot.HEDGE for part in policy.parts):
            raise ConfigurationError(
                f"policy {policy.name!r} hedges, so a transaction could be committed twice; take the hedge out, or say "
                "repeatable=True if that is harmless"
            )
        self._policy = policy.name
        self._repeatable = repeatable
        self._lock = threading.Lock()
        self._newest = 0
        self._committing: int | None = None

    def begins(self) -> int:
        """Count an attempt; refuse it when an earlier one may have committed."""
        check_deadline()
        with self._lock:
            if self._committing is not None and not self._repeatable:
                raise CommitUncertain(self._policy)
            self._newest += 1
            return self._newest

    def commits(self, number: int) -> None:
        """Take note that the block ends now, and COMMIT is sent; refuse that to an attempt that was given up."""
        with self._lock:
            if number != self._newest and not self._repeatable:
                raise _SupersededError
            self._committing = number

    def failed(self, number: int, error: Exception) -> None:
        """Make of a failure at COMMIT what is known of it: refused by the server, or uncertain."""
        with self._lock:
            if self._committing != number or self._repeatable:
                return
            # A driver's error on a connection that still works is the server's answer to COMMIT: it did not happen.
            if getattr(error, "connection_invalidated", True):
                raise CommitUncertain(self._policy) from error
            self._committing = None


def _limit(transaction: Any) -> int | None:
    """Return the milliseconds that each statement may take, where the server can be told."""
    left = remaining()
    if left is None:
        return None
    find = getattr(transaction, "get_bind", None)
    if (transaction if find is None else find()).dialect.name != "postgresql":
        return None
    # Zero would mean no limit at all.
    return max(1, math.ceil(left * 1000))


def _execute(transaction: Any, limit: int) -> Any:
    """Tell the server; of an asynchronous transaction, what is returned has to be awaited."""
    try:
        from sqlalchemy import text  # noqa: PLC0415  whoever is here has it
    except ImportError as error:
        raise MissingExtraError("run_transaction", "sqlalchemy") from error
    return transaction.execute(text(f"SET LOCAL statement_timeout = {limit}"))

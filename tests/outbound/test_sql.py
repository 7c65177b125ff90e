"""SQL under a policy: kinds of failure, and whole transactions that are repeated only when that is safe."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import hormesis as hm
from hormesis.outbound.sql import CommitUncertain, run_transaction, run_transaction_async
from hormesis.outbound.sql_failures import kind_of_sqlstate, sqlstate_of
from hormesis.outcome import FailureKind, classify
from hormesis.testing import ManualClock

RETRY = hm.Retry(on="transient", delay=0, attempts=3)


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE item (id int PRIMARY KEY, stock int NOT NULL)"))
        connection.execute(sa.text("INSERT INTO item VALUES (1, 10), (2, 10)"))
    yield engine
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE item"))
    engine.dispose()


@contextlib.contextmanager
def ended_by_the_server(postgresql: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose backend was terminated."""
    with psycopg.connect(postgresql) as connection, psycopg.connect(postgresql, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        yield connection


def raised_by(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08001", FailureKind.CONNECT),
        ("08004", FailureKind.CONNECT),
        ("08006", FailureKind.UNAVAILABLE),
        ("22003", FailureKind.INVALID),
        ("23505", FailureKind.INVALID),
        ("25006", FailureKind.UNAVAILABLE),
        ("25P01", FailureKind.INVALID),
        ("25P04", FailureKind.TIMEOUT),
        ("40001", FailureKind.UNAVAILABLE),
        ("40P01", FailureKind.UNAVAILABLE),
        ("40002", FailureKind.INVALID),
        ("42601", FailureKind.INVALID),
        ("53300", FailureKind.UNAVAILABLE),
        ("55P03", FailureKind.UNAVAILABLE),
        ("57014", FailureKind.TIMEOUT),
        ("57P01", FailureKind.UNAVAILABLE),
        ("57P03", FailureKind.UNAVAILABLE),
        ("58030", FailureKind.ERROR),
        ("XX000", FailureKind.ERROR),
    ],
)
def test_kinds_of_sqlstates(state: str, kind: FailureKind) -> None:
    """What a server says in five characters is a kind of failure, by code or by class."""
    assert kind_of_sqlstate(state) is kind
    assert classify(psycopg.errors.lookup(state)()) is kind


def test_only_a_sqlstate_is_one() -> None:
    """Drivers also put other things where a SQLSTATE would be."""

    class OfAnotherDriver(Exception):
        pgcode = "40001"

    class OfNone(Exception):
        sqlstate = 1205

    assert sqlstate_of(OfAnotherDriver()) == "40001"
    assert sqlstate_of(OfNone()) is None
    assert sqlstate_of(None) is None


STATEMENTS = {
    "SELECT 1/0": FailureKind.INVALID,
    "SELECT nothing": FailureKind.INVALID,
    "INSERT INTO item VALUES (1, 1)": FailureKind.INVALID,
    "SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)": FailureKind.TIMEOUT,
    "SET TRANSACTION READ ONLY; DELETE FROM item": FailureKind.UNAVAILABLE,
    "DO $$ BEGIN RAISE EXCEPTION SQLSTATE '53300'; END $$": FailureKind.UNAVAILABLE,
    "DO $$ BEGIN RAISE EXCEPTION 'of our own'; END $$": FailureKind.ERROR,
}


@pytest.mark.parametrize(("statement", "kind"), STATEMENTS.items())
def test_kinds_of_what_postgresql_answers(
    statement: str, kind: FailureKind, engine: sa.Engine, postgresql: str
) -> None:
    """An error of a real server is the same kind, through psycopg and through SQLAlchemy."""
    with engine.connect() as connection:
        wrapped = raised_by(lambda: connection.exec_driver_sql(statement))
    assert isinstance(wrapped, sa.exc.DBAPIError)
    assert classify(wrapped) is kind
    with psycopg.connect(postgresql) as raw:
        plain = raised_by(lambda: raw.execute(statement.encode()))
        raw.rollback()
    assert classify(plain) is kind


@pytest.mark.parametrize("conninfo", ["host=127.0.0.1 port=1", "host=/nowhere", "host=nowhere.invalid"])
def test_a_server_that_is_not_there_was_not_reached(conninfo: str) -> None:
    """Failing to connect is `connect`: nothing can have happened."""
    assert classify(raised_by(lambda: psycopg.connect(conninfo))) is FailureKind.CONNECT
    query = dict(word.split("=", 1) for word in conninfo.split())
    engine = sa.create_engine(sa.URL.create("postgresql+psycopg", query=query))
    assert classify(raised_by(engine.connect)) is FailureKind.CONNECT


def test_a_server_that_has_no_place_was_not_reached(postgresql: str) -> None:
    """A server that refuses the connection was not reached either."""
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
        try:
            refused = raised_by(lambda: psycopg.connect(postgresql, user="crowded"))
        finally:
            connection.execute("DROP ROLE crowded")
    assert classify(refused) is FailureKind.CONNECT


def test_a_connection_that_was_lost_is_unavailable(postgresql: str, engine: sa.Engine) -> None:
    """A server that shuts down under a statement, and a connection that is found closed, are `unavailable`."""
    with ended_by_the_server(postgresql) as connection:
        assert classify(raised_by(lambda: connection.execute("SELECT 1"))) is FailureKind.UNAVAILABLE
        assert classify(raised_by(lambda: connection.execute("SELECT 1"))) is FailureKind.UNAVAILABLE
    with engine.connect() as ours:
        kill = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")
        assert classify(raised_by(lambda: ours.execute(kill))) is FailureKind.UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.InterfaceError("the cursor is closed"), FailureKind.ERROR),
        (psycopg.errors.ConnectionTimeout(), FailureKind.CONNECT),
        (psycopg.errors.CancellationTimeout(), FailureKind.TIMEOUT),
        (psycopg_pool.PoolTimeout(), FailureKind.REJECTED),
        (psycopg_pool.TooManyRequests(), FailureKind.REJECTED),
        (psycopg_pool.PoolClosed(), FailureKind.REJECTED),
        (sa.exc.TimeoutError(), FailureKind.REJECTED),
        (sa.exc.DisconnectionError(), FailureKind.UNAVAILABLE),
        (sa.exc.NoResultFound(), FailureKind.INVALID),
        (sa.exc.ArgumentError(), FailureKind.INVALID),
        (sa.exc.StatementError("a bad parameter", "SELECT :a", {}, ValueError()), FailureKind.INVALID),
        (sa.exc.OperationalError("", {}, RuntimeError(), connection_invalidated=True), FailureKind.UNAVAILABLE),
        (sa.exc.OperationalError("", {}, RuntimeError()), FailureKind.ERROR),
        (sa.exc.IntegrityError("", {}, sqlite3.IntegrityError()), FailureKind.INVALID),
        (sqlite3.ProgrammingError(), FailureKind.INVALID),
        (sqlite3.OperationalError("no such table"), FailureKind.ERROR),
    ],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
def test_kinds_of_what_libraries_raise_themselves(error: Exception, kind: FailureKind) -> None:
    """What never came from a server is classified by its class."""
    assert classify(error) is kind


def test_a_busy_sqlite_is_unavailable(tmp_path: Path) -> None:
    """A SQLite that another connection writes to can't serve now."""
    path = str(tmp_path / "db")
    with (
        contextlib.closing(sqlite3.connect(path)) as first,
        contextlib.closing(sqlite3.connect(path, timeout=0)) as other,
    ):
        first.execute("BEGIN IMMEDIATE")
        assert classify(raised_by(lambda: other.execute("BEGIN IMMEDIATE"))) is FailureKind.UNAVAILABLE


def stock(engine: sa.Engine, item: int = 1) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT stock FROM item WHERE id = :id"), {"id": item}) or 0


TAKE = sa.text("UPDATE item SET stock = stock - 1 WHERE id = 1")


def test_a_transaction_is_committed(engine: sa.Engine) -> None:
    """What the function did is there, and what it returned comes back."""
    assert run_transaction(engine, lambda tx: tx.execute(TAKE).rowcount, hm.Policy(RETRY)) == 1
    assert stock(engine) == 9


def test_each_attempt_is_a_transaction_of_its_own(engine: sa.Engine) -> None:
    """A failed attempt leaves nothing behind, and the next begins anew."""
    attempts = []

    def take(tx: sa.Connection) -> None:
        tx.execute(TAKE)
        attempts.append(tx)
        if len(attempts) < 3:
            tx.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$")

    run_transaction(engine, take, hm.Policy(RETRY))
    assert len(set(attempts)) == 3
    assert stock(engine) == 9


def test_a_deadlock_is_survived(engine: sa.Engine) -> None:
    """Two transactions that lock each other out both happen in the end."""
    meet = threading.Barrier(2)

    def move(first: int, second: int) -> None:
        met = False

        def function(tx: sa.Connection) -> None:
            nonlocal met
            tx.execute(sa.text("SET LOCAL deadlock_timeout = 20"))
            tx.execute(sa.text("UPDATE item SET stock = stock - 1 WHERE id = :id"), {"id": first})
            if not met:
                met = True
                meet.wait(10)
            tx.execute(sa.text("UPDATE item SET stock = stock + 1 WHERE id = :id"), {"id": second})

        run_transaction(engine, function, hm.Policy(RETRY))

    threads = [threading.Thread(target=move, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (stock(engine, 1), stock(engine, 2)) == (10, 10)


def test_what_is_wrong_is_not_repeated(engine: sa.Engine) -> None:
    """A violated constraint comes at once, and nothing is left of the transaction."""
    attempts = []

    def take(tx: sa.Connection) -> None:
        attempts.append(1)
        tx.execute(TAKE)
        tx.execute(sa.text("INSERT INTO item VALUES (1, 1)"))

    with pytest.raises(sa.exc.IntegrityError):
        run_transaction(engine, take, hm.Policy(RETRY))
    assert attempts == [1]
    assert stock(engine) == 10


def test_the_deadline_goes_to_the_server(engine: sa.Engine) -> None:
    """A statement is cancelled by the server when the caller's time is over; the setting ends with the transaction."""
    slow = sa.text("SELECT pg_sleep(30)")
    with pytest.raises(sa.exc.OperationalError) as caught:
        run_transaction(engine, lambda tx: tx.execute(slow), hm.Policy(hm.Deadline("50ms")))
    assert classify(caught.value) is FailureKind.TIMEOUT
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "0"


def test_without_a_deadline_the_server_is_told_nothing(engine: sa.Engine) -> None:
    """No deadline, no limit; and no statement that sets one."""
    show = sa.text("SHOW statement_timeout")
    assert run_transaction(engine, lambda tx: tx.scalar(show), hm.Policy()) == "0"
    with hm.deadline("10s"):
        assert run_transaction(engine, lambda tx: tx.scalar(show), hm.Policy()) in ("10s", "9999ms", "9998ms")


def test_no_time_left_begins_nothing(engine: sa.Engine) -> None:
    """A transaction whose deadline has passed is not begun."""
    clock = ManualClock()
    with hm.deadline("1s", clock=clock):
        clock.advance("2s")
        with pytest.raises(hm.DeadlineExceeded):
            run_transaction(engine, lambda tx: tx.execute(TAKE), hm.Policy())
    assert stock(engine) == 10


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    stock: Mapped[int]


def test_a_session_works_as_well(engine: sa.Engine) -> None:
    """A `sessionmaker` begins a session for each attempt, which learns of the deadline too."""

    def take(session: Session) -> str:
        session.get_one(Item, 1).stock -= 1
        return str(session.scalar(sa.text("SHOW statement_timeout")))

    assert run_transaction(sessionmaker(engine), take, hm.Policy(hm.Deadline("10s"))) != "0"
    assert stock(engine) == 9


def test_what_a_session_writes_at_the_end_fails_as_a_statement(engine: sa.Engine) -> None:
    """What a session has kept for the end is written before COMMIT, so its failure leaves no doubt."""
    with pytest.raises(sa.exc.IntegrityError):
        run_transaction(sessionmaker(engine), lambda session: session.add(Item(id=1, stock=1)), hm.Policy(RETRY))


def test_databases_without_such_a_limit_are_left_alone() -> None:
    """On SQLite a deadline is no statement."""
    engine = sa.create_engine("sqlite://")
    one = sa.text("SELECT 1")
    assert run_transaction(engine, lambda tx: tx.scalar(one), hm.Policy(hm.Deadline("10s"))) == 1
    engine.dispose()


DEFERRED = """
    CREATE FUNCTION pg_temp.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON item DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION pg_temp.at_commit()
"""
"""Makes COMMIT itself do something."""
LOSE_CONNECTION = "PERFORM pg_terminate_backend(pg_backend_pid());"
SERIALIZE = "RAISE EXCEPTION SQLSTATE '40001';"


def at_commit(attempts: list[int], what: str) -> Callable[[sa.Connection], None]:
    def take(tx: sa.Connection) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            tx.exec_driver_sql(DEFERRED.format(what))
        tx.execute(TAKE)

    return take


@pytest.mark.parametrize("on", ["transient", "any", Exception])
def test_an_uncertain_commit_is_not_repeated(engine: sa.Engine, on: Any) -> None:
    """When the connection is lost at COMMIT, nobody knows whether it happened; whatever the retry would like."""
    attempts: list[int] = []
    policy = hm.Policy(hm.Retry(on=on, delay=0), name="orders")
    with pytest.raises(CommitUncertain, match="policy 'orders': COMMIT was sent") as caught:
        run_transaction(engine, at_commit(attempts, LOSE_CONNECTION), policy)
    assert attempts == [1]
    assert pickle.loads(pickle.dumps(caught.value)).policy == "orders"


def test_an_uncertain_commit_is_repeated_where_that_is_harmless(engine: sa.Engine) -> None:
    """Whoever says that committing twice is harmless gets the retry."""
    attempts: list[int] = []
    run_transaction(engine, at_commit(attempts, LOSE_CONNECTION), hm.Policy(RETRY), repeatable=True)
    assert attempts == [1, 1]
    assert stock(engine) == 9


def test_a_commit_that_the_server_refused_is_repeated(engine: sa.Engine) -> None:
    """An error in answer to COMMIT means that it did not happen."""
    attempts: list[int] = []
    run_transaction(engine, at_commit(attempts, SERIALIZE), hm.Policy(RETRY))
    assert attempts == [1, 1]
    assert stock(engine) == 9


def test_a_thread_that_was_given_up_does_not_commit(engine: sa.Engine) -> None:
    """When a timeout gave up an attempt and the next has begun, the first can no longer commit."""
    go_on, ended = threading.Event(), threading.Event()
    attempts = []

    def take(tx: sa.Connection) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            tx.execute(sa.text("UPDATE item SET stock = stock - 5 WHERE id = 2"))
            sa.event.listen(tx, "rollback", lambda _: ended.set())
            go_on.wait(10)
        else:
            tx.execute(TAKE)

    policy = hm.Policy(RETRY, hm.Timeout("500ms", threads=2))
    run_transaction(engine, take, policy)
    go_on.set()
    assert ended.wait(10)
    assert (stock(engine, 1), stock(engine, 2)) == (9, 10)


def test_a_policy_with_a_breaker_rejects_before_the_pool_is_asked(engine: sa.Engine) -> None:
    """An open breaker costs no connection."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1))
    refused = sa.create_engine("postgresql+psycopg://127.0.0.1:1/x")
    with pytest.raises(sa.exc.OperationalError):
        run_transaction(refused, lambda _: None, policy)
    with pytest.raises(hm.CircuitOpen):
        run_transaction(engine, lambda _: None, policy)


@pytest.fixture
def async_engine(engine: sa.Engine) -> AsyncEngine:
    return create_async_engine(engine.url)


def run_async(engine: AsyncEngine, scenario: Callable[[], Any]) -> Any:
    async def run() -> Any:
        try:
            return await scenario()
        finally:
            await engine.dispose()

    return asyncio.run(run())


def test_asynchronous_transactions_are_repeated_and_committed(async_engine: AsyncEngine, engine: sa.Engine) -> None:
    """The same with an `AsyncEngine`: fresh attempts, the deadline on the server, one commit."""
    attempts = []

    async def take(tx: AsyncConnection) -> str:
        attempts.append(1)
        await tx.execute(TAKE)
        if len(attempts) < 2:
            await tx.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$")
        return str(await tx.scalar(sa.text("SHOW statement_timeout")))

    policy = hm.Policy(hm.Deadline("10s"), RETRY)
    assert run_async(async_engine, lambda: run_transaction_async(async_engine, take, policy)) != "0"
    assert stock(engine) == 9


def test_asynchronous_sessions_work_as_well(async_engine: AsyncEngine, engine: sa.Engine) -> None:
    """The same with an `async_sessionmaker`."""

    async def take(session: AsyncSession) -> None:
        (await session.get_one(Item, 1)).stock -= 1

    bind = async_sessionmaker(async_engine)
    run_async(async_engine, lambda: run_transaction_async(bind, take, hm.Policy(hm.Deadline("10s"))))
    assert stock(engine) == 9


def test_an_asynchronous_uncertain_commit_is_not_repeated(async_engine: AsyncEngine) -> None:
    """Losing the connection at COMMIT is uncertain here too."""
    attempts = []

    async def take(tx: AsyncConnection) -> None:
        attempts.append(1)
        await tx.exec_driver_sql(DEFERRED.format(LOSE_CONNECTION))
        await tx.execute(TAKE)

    policy = hm.Policy(hm.Retry(on="any", delay=0))
    with pytest.raises(CommitUncertain):
        run_async(async_engine, lambda: run_transaction_async(async_engine, take, policy))
    assert attempts == [1]


def test_a_timeout_within_commit_is_uncertain(async_engine: AsyncEngine) -> None:
    """An attempt that is cut off while COMMIT is on its way is not made again."""
    attempts = []

    async def take(tx: AsyncConnection) -> None:
        attempts.append(1)
        # The server would give up at the same time, and then it would be certain.
        await tx.exec_driver_sql("SET LOCAL statement_timeout = 0")
        await tx.exec_driver_sql(DEFERRED.format("PERFORM pg_sleep(10);"))
        await tx.execute(TAKE)

    policy = hm.Policy(RETRY, hm.Timeout("300ms"))
    with pytest.raises(CommitUncertain):
        run_async(async_engine, lambda: run_transaction_async(async_engine, take, policy))
    assert attempts == [1]

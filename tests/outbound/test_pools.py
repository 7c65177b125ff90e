"""Connection pools by traffic class: what is declared is what each library gets, and classes have nothing in common."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import redis
import sqlalchemy as sa

import hormesis as hm
from hormesis.context import calling
from hormesis.outbound.pools import AsyncPools, ConnectionPools, Pools, PoolSnapshot
from hormesis.outcome import FailureKind, classify

DECLARED = ConnectionPools({"critical": 2, "reporting": 1}, wait="50ms")
PATIENT = dataclasses.replace(DECLARED, wait="20s")
AT_ONCE = 5.0
"""Seconds that are far less than a patient pool waits, and far more than a slow machine needs."""


def test_the_first_class_is_the_default() -> None:
    """Who says nothing of traffic gets the first class's connections."""
    assert ConnectionPools({"critical": 15, "reporting": 5}).default == "critical"
    assert ConnectionPools({"critical": 15, "reporting": 5}, default="reporting").default == "reporting"


def test_a_declaration_says_itself_in_words() -> None:
    """An operator reads sizes and wait."""
    assert DECLARED.describe() == "3 connections (critical 2, reporting 1), a call waits up to 0.05 s for one"


def test_a_declaration_does_not_change() -> None:
    """Neither a field nor a class can be changed, also not through the table that was handed in."""
    table = {"critical": 1}
    pools = ConnectionPools(table)
    table["critical"] = 99
    assert pools.total == 1
    with pytest.raises(TypeError):
        pools.classes["critical"] = 2  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pools.default = "reporting"  # type: ignore[misc]
    assert hash(pools) == hash(ConnectionPools({"critical": 1}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": {}}, "classes is {}; it takes 1 to 100 names"),
        ({"classes": 3}, "classes is 3; it takes 1 to 100 names"),
        ({"classes": {str(n): 1 for n in range(101)}}, "it takes 1 to 100 names"),
        ({"classes": {"": 1}}, "classes is ''; it takes non-empty names"),
        ({"classes": {3: 1}}, "classes is 3; it takes non-empty names"),
        ({"classes": {"critical": 0}}, "classes.critical is 0; it takes a whole number from 1"),
        ({"classes": {"critical": 1.5}}, "classes.critical is 1.5; it takes a whole number"),
        ({"classes": {"critical": True}}, "classes.critical is True; it takes a whole number"),
        ({"classes": {"critical": 10_001}}, "classes.critical is 10001; it takes a whole number from 1 to 10,000"),
        ({"wait": "soon"}, "wait is 'soon'; it takes seconds"),
        ({"wait": -1}, "wait is -1; it takes seconds"),
        ({"default": "reportin"}, "unknown traffic class 'reportin' (did you mean 'reporting'?)"),
        ({"default": None}, "unknown traffic class None"),
        ({"total_max": 0}, "total_max is 0; it takes a whole number"),
        ({"total_max": 2}, "the classes have 3 connections together, more than total_max allows, which is 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    """A bad setting is refused when made, with the value and what would do."""
    with pytest.raises(hm.ConfigurationError) as caught:
        ConnectionPools(**{"classes": {"critical": 2, "reporting": 1}, **settings})
    assert message in str(caught.value)


def test_pools_come_from_a_file(tmp_path: Path) -> None:
    """The table `[pools.NAME]` of a policy file is a declaration."""
    path = tmp_path / "policies.toml"
    path.write_text('[pools.orders]\nclasses = { critical = 15, reporting = 5 }\nwait = "250ms"\n')
    loaded = hm.load(path).sections["pools"]
    assert loaded == {"orders": ConnectionPools({"critical": 15, "reporting": 5}, wait=0.25)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pools]\norders = 3\n", "pools.orders"),
        ("pools = 3\n", "pools is 3; it takes tables such as [pools.orders]"),
        ("[pools.orders]\nclasses = { critical = 0 }\n", "pools.orders.classes.critical is 0"),
        ("[pools.orders]\nclasses = { critical = 1 }\nwaits = 3\n", "unknown key 'waits' (did you mean 'wait'?)"),
        ("[pools.orders]\nwait = 3\n", "pools.orders.classes is missing"),
    ],
)
def test_a_bad_file_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    """The error names file, key and what would do."""
    path = tmp_path / "policies.toml"
    path.write_text(text)
    with pytest.raises(hm.ConfigurationError) as caught:
        hm.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Pools[sa.Engine]]:
    with DECLARED.sqlalchemy(f"sqlite:///{tmp_path}/db") as pools:
        yield pools


def test_the_label_of_the_call_chooses(engines: Pools[sa.Engine]) -> None:
    """`current` is the client of the call's traffic class, however far up that was said."""
    assert engines.current is engines["critical"]
    with calling(traffic="reporting"), calling(tenant="acme"):
        assert engines.current is engines["reporting"]
    assert engines["critical"] is not engines["reporting"]


def test_an_unknown_class_is_named(engines: Pools[sa.Engine]) -> None:
    """A class that was not declared is a mistake of the author's, and the message names those that were."""
    with (
        calling(traffic="reportin"),
        pytest.raises(hm.ConfigurationError, match=r"did you mean 'reporting'.*known are: critical, reporting"),
    ):
        _ = engines.current
    with pytest.raises(KeyError, match="known are: critical, reporting"):
        engines["batch"]
    assert "batch" not in engines


def test_pools_are_a_mapping(engines: Pools[sa.Engine]) -> None:
    """All classes can be gone through, as for setting up each engine."""
    assert list(engines) == ["critical", "reporting"]
    assert len(engines) == 2
    assert repr(engines) == "<Pools of Engine: critical, reporting>"


def test_a_snapshot_tells_what_the_library_tells(engines: Pools[sa.Engine]) -> None:
    """Size and connections in use are seen by class."""
    with engines["reporting"].connect():
        assert engines.snapshot() == {
            "critical": PoolSnapshot(size=2, in_use=0),
            "reporting": PoolSnapshot(size=1, in_use=1),
        }
    assert engines.snapshot()["reporting"].in_use == 0


def test_disposing_keeps_the_bounds(engines: Pools[sa.Engine]) -> None:
    """An engine that was disposed of is used again with the same size and the same wait."""
    engines.close()
    with engines["reporting"].connect(), pytest.raises(sa.exc.TimeoutError), engines["reporting"].connect():
        pass


def test_closing_goes_on_after_a_failure() -> None:
    """When one pool can't be closed, the others are, and the error is seen."""
    from hormesis.outbound.pools.classes import Verbs

    closed = []

    def close(name: str) -> None:
        closed.append(name)
        if name == "b":
            raise RuntimeError("b")

    pools = Pools({name: name for name in "abc"}, "a", Verbs(snapshot=lambda _: PoolSnapshot(size=1), close=close))
    with pytest.raises(RuntimeError, match="b"):
        pools.close()
    assert sorted(closed) == ["a", "b", "c"]


def test_a_pool_that_does_not_open_closes_the_others() -> None:
    """What was opened before the failure does not stay open."""
    from hormesis.outbound.pools.classes import Verbs

    closed = []

    def refuse_b(name: str) -> None:
        if name == "b":
            raise RuntimeError("b")

    async def refuse_b_async(name: str) -> None:
        refuse_b(name)

    async def close(name: str) -> None:
        closed.append(name)

    verbs: Verbs[str] = Verbs(snapshot=lambda _: PoolSnapshot(size=1), close=closed.append, open=refuse_b)
    with pytest.raises(RuntimeError), Pools({"a": "a", "b": "b"}, "a", verbs):
        pass
    assert sorted(closed) == ["a", "b"]
    closed.clear()

    async def enter() -> None:
        verbs: Verbs[str] = Verbs(snapshot=lambda _: PoolSnapshot(size=1), close=close, open=refuse_b_async)
        async with AsyncPools({"a": "a", "b": "b"}, "a", verbs):
            pass

    with pytest.raises(RuntimeError):
        asyncio.run(enter())
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda **options: DECLARED.sqlalchemy("sqlite://", **options), "pool_size"),
        (lambda **options: DECLARED.sqlalchemy("sqlite://", **options), "max_overflow"),
        (lambda **options: DECLARED.sqlalchemy_async("sqlite+aiosqlite://", **options), "pool_timeout"),
        (DECLARED.psycopg, "max_size"),
        (DECLARED.psycopg_async, "timeout"),
        (DECLARED.httpx, "limits"),
        (DECLARED.httpx_async, "mounts"),
        (lambda **options: DECLARED.redis("redis://", **options), "max_connections"),
        (lambda **options: DECLARED.redis_async("redis://", **options), "timeout"),
    ],
)
def test_sizes_are_said_in_one_place(make: Callable[..., object], option: str) -> None:
    """An option of the library that would contradict the declaration is refused, with its value."""
    with pytest.raises(hm.ConfigurationError, match=f"{option} is 99; .*ConnectionPools"):
        make(**{option: 99})


@pytest.mark.parametrize("query", ["max_connections=50", "timeout=60"])
def test_sizes_are_not_said_in_a_url(query: str) -> None:
    """A URL's own size or wait would win over the declaration, so it is refused."""
    with pytest.raises(hm.ConfigurationError, match="the URL says max_connections or timeout"):
        DECLARED.redis(f"redis://localhost?{query}")
    with pytest.raises(hm.ConfigurationError, match="the URL says max_connections or timeout"):
        DECLARED.redis_async(f"redis://localhost?{query}")


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("sqlalchemy", "sqlalchemy('sqlite://')", "sqlalchemy"),
        ("psycopg_pool", "psycopg()", "postgres"),
        ("httpx", "httpx()", "httpx"),
        ("redis", "redis('redis://')", "redis"),
    ],
)
def test_a_missing_library_is_named(module: str, call: str, extra: str) -> None:
    """Declaring needs none of the libraries; what needs one that is missing says which extra brings it."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from hormesis.outbound.pools import ConnectionPools\n"
        "import hormesis as hm\n"
        "pools = ConnectionPools({'critical': 1})\n"
        "assert not {'sqlalchemy', 'psycopg', 'redis'} & {name for name, found in sys.modules.items() if found}\n"
        f"try: pools.{call}\n"
        "except hm.MissingExtraError as error: print(error.extra)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == extra, done.stderr


# What holds a connection of the current class until the block ends, for each library.


@contextlib.contextmanager
def holding_sqlalchemy(pools: ConnectionPools, servers: dict[str, str]) -> Iterator[Any]:
    with pools.sqlalchemy(servers["postgresql_url"]) as engines:

        def hold() -> Any:
            return engines.current.connect()

        yield engines, hold


@contextlib.contextmanager
def holding_psycopg(pools: ConnectionPools, servers: dict[str, str]) -> Iterator[Any]:
    with pools.psycopg(servers["postgresql"]) as by_class:
        for pool in by_class.values():
            pool.wait()

        def hold() -> Any:
            return by_class.current.connection()

        yield by_class, hold


@contextlib.contextmanager
def holding_redis(pools: ConnectionPools, servers: dict[str, str]) -> Iterator[Any]:
    with pools.redis(servers["redis_url"]) as clients:

        @contextlib.contextmanager
        def hold() -> Iterator[None]:
            pool = clients.current.connection_pool
            connection = pool.get_connection()
            try:
                yield
            finally:
                pool.release(connection)

        yield clients, hold


@contextlib.contextmanager
def holding_httpx(pools: ConnectionPools, servers: dict[str, str]) -> Iterator[Any]:
    with pools.httpx() as clients:
        yield clients, lambda: clients.current.stream("GET", servers["http_url"])


SYNC = {
    "sqlalchemy": holding_sqlalchemy,
    "psycopg": holding_psycopg,
    "redis": holding_redis,
    "httpx": holding_httpx,
}


@contextlib.asynccontextmanager
async def holding_sqlalchemy_async(pools: ConnectionPools, servers: dict[str, str]) -> Any:
    async with pools.sqlalchemy_async(servers["postgresql_url"]) as engines:

        def hold() -> Any:
            return engines.current.connect()

        yield engines, hold


@contextlib.asynccontextmanager
async def holding_psycopg_async(pools: ConnectionPools, servers: dict[str, str]) -> Any:
    async with pools.psycopg_async(servers["postgresql"]) as by_class:
        for pool in by_class.values():
            await pool.wait()

        def hold() -> Any:
            return by_class.current.connection()

        yield by_class, hold


@contextlib.asynccontextmanager
async def holding_redis_async(pools: ConnectionPools, servers: dict[str, str]) -> Any:
    async with pools.redis_async(servers["redis_url"]) as clients:

        @contextlib.asynccontextmanager
        async def hold() -> Any:
            pool = clients.current.connection_pool
            connection = await pool.get_connection()
            try:
                yield
            finally:
                await pool.release(connection)

        yield clients, hold


@contextlib.asynccontextmanager
async def holding_httpx_async(pools: ConnectionPools, servers: dict[str, str]) -> Any:
    async with pools.httpx_async() as clients:
        yield clients, lambda: clients.current.stream("GET", servers["http_url"])


ASYNC = {
    "sqlalchemy": holding_sqlalchemy_async,
    "psycopg": holding_psycopg_async,
    "redis": holding_redis_async,
    "httpx": holding_httpx_async,
}


@pytest.fixture(scope="module")
def http_url() -> Iterator[str]:
    """A server whose answers never end while somebody reads them: a stream holds its connection."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def servers(postgresql: str, postgresql_url: str, redis_url: str, http_url: str) -> dict[str, str]:
    return {"postgresql": postgresql, "postgresql_url": postgresql_url, "redis_url": redis_url, "http_url": http_url}


@pytest.mark.parametrize("library", SYNC)
def test_a_full_class_refuses_its_own_and_nobody_else(library: str, servers: dict[str, str]) -> None:
    """With all of reporting's connections held, the next report is rejected, and critical calls go in."""
    with SYNC[library](DECLARED, servers) as (pools, hold), calling(traffic="reporting"), hold():
        with pytest.raises(Exception) as caught, hold():  # noqa: PT011  each library has its own; the kind is what counts
            pass
        assert classify(caught.value) is FailureKind.REJECTED
        with calling(traffic="critical"), hold(), hold():
            if library != "httpx":
                assert pools.snapshot()["critical"].in_use == 2
                assert pools.snapshot()["reporting"].in_use == 1
            assert pools.snapshot()["critical"].size == 2


@pytest.mark.parametrize("library", ASYNC)
def test_a_full_class_refuses_its_own_and_nobody_else_async(library: str, servers: dict[str, str]) -> None:
    """The same for the asynchronous client, which was made before there was a loop."""

    async def scenario() -> None:
        async with ASYNC[library](DECLARED, servers) as (pools, hold):
            with calling(traffic="reporting"):
                async with hold():
                    with pytest.raises(Exception) as caught:  # noqa: PT011
                        async with hold():
                            pass
                    assert classify(caught.value) is FailureKind.REJECTED
                    with calling(traffic="critical"):
                        async with hold(), hold():
                            if library != "httpx":
                                assert pools.snapshot()["critical"].in_use == 2
                            assert pools.snapshot()["critical"].size == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("library", SYNC)
@pytest.mark.parametrize("left", [0.05, 0])
def test_the_deadline_ends_the_wait(library: str, left: float, servers: dict[str, str]) -> None:
    """A call does not wait longer for a connection than it has time, also when it has none left."""
    with SYNC[library](PATIENT, servers) as (_, hold), calling(traffic="reporting"), hold():
        began = time.monotonic()
        with hm.deadline(left), pytest.raises(Exception) as caught, hold():  # noqa: PT011
            pass
        assert time.monotonic() - began < AT_ONCE
        assert classify(caught.value) is FailureKind.REJECTED


@pytest.mark.parametrize("library", ASYNC)
@pytest.mark.parametrize("left", [0.05, 0])
def test_the_deadline_ends_the_wait_async(library: str, left: float, servers: dict[str, str]) -> None:
    """The same for the asynchronous client."""

    async def scenario() -> None:
        async with ASYNC[library](PATIENT, servers) as (_, hold):
            with calling(traffic="reporting"):
                async with hold():
                    began = time.monotonic()
                    with hm.deadline(left), pytest.raises(Exception) as caught:  # noqa: PT011
                        async with hold():
                            pass
                    assert time.monotonic() - began < AT_ONCE
                    assert classify(caught.value) is FailureKind.REJECTED

    asyncio.run(scenario())


@pytest.mark.parametrize("library", SYNC)
def test_a_wait_ends_when_a_connection_comes_free(library: str, servers: dict[str, str]) -> None:
    """Who waits gets the connection that another returns."""
    entered = threading.Event()
    with SYNC[library](PATIENT, servers) as (_, hold):

        def second() -> None:
            with calling(traffic="reporting"), hold():
                entered.set()

        with calling(traffic="reporting"), hold():
            thread = threading.Thread(target=second)
            thread.start()
            assert not entered.wait(0.05)
        thread.join(AT_ONCE)
        assert entered.is_set()


def test_psycopg_tells_who_waits(servers: dict[str, str], until: Callable[[Callable[[], object]], None]) -> None:
    """Where a library counts its waiters, a snapshot has them."""
    with PATIENT.psycopg(servers["postgresql"]) as pools:
        pool = pools["reporting"]
        with pool.connection():
            thread = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
            thread.start()
            until(lambda: pools.snapshot()["reporting"].waiting == 1)
        thread.join()
        assert pools.snapshot()["reporting"].waiting == 0


def test_a_breaker_ignores_a_full_pool(engines: Pools[sa.Engine]) -> None:
    """A pool of ours that is full says nothing of the database, so no breaker opens and no retry repeats it."""
    policy = hm.Policy(hm.Retry(on="any", delay=0), hm.CircuitBreaker(minimum_calls=1))
    tried = []

    def query() -> None:
        tried.append(1)
        with engines["reporting"].connect():
            pass

    with engines["reporting"].connect():
        for _ in range(3):
            with pytest.raises(sa.exc.TimeoutError):
                policy.call(query)
    assert len(tried) == 3
    policy.call(query)


def test_a_request_says_its_own_wait() -> None:
    """A request of httpx may wait for a shorter time than declared, and not for a longer one; its timeouts stay."""
    seen: list[dict[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200)

    def transport(limits: httpx.Limits) -> httpx.BaseTransport:
        assert limits.max_connections in (1, 2)
        return httpx.MockTransport(answer)

    with ConnectionPools({"critical": 2, "reporting": 1}, wait=1).httpx(transport=transport, timeout=7) as clients:
        clients.current.get("http://stock")
        clients.current.get("http://stock", timeout=0.5)
        clients.current.get("http://stock", timeout=60)
        clients.current.get("http://stock", timeout=None)
    assert [(each["read"], each["pool"]) for each in seen] == [(7, 1), (0.5, 0.5), (60, 1), (None, 1)]


def test_each_class_has_its_own_transport() -> None:
    """One transport for all classes would be one pool, so a function that makes them is wanted."""
    with pytest.raises(hm.ConfigurationError, match=r"a function of httpx\.Limits"):
        DECLARED.httpx(transport=httpx.MockTransport(lambda _: httpx.Response(200)))  # type: ignore[arg-type]


@pytest.mark.system
def test_reporting_cannot_starve_the_critical_path(pools_benchmark: ModuleType, postgresql: str) -> None:
    """On PostgreSQL: p99 stays within 20 % of calm with separate pools; with a shared one it is ten times calm's."""
    measured = pools_benchmark.measure(postgresql, "sqlalchemy", rounds=2, seconds=0.5)
    assert measured.separate_ratio <= 1.2
    assert measured.shared_ratio >= 10


def test_redis_errors_are_redis_own(servers: dict[str, str]) -> None:
    """The library's own exceptions reach the caller."""
    with DECLARED.redis(servers["redis_url"]) as clients:
        pool = clients["reporting"].connection_pool
        connection = pool.get_connection()
        with pytest.raises(redis.ConnectionError, match="No connection available"):
            clients["reporting"].ping()
        pool.release(connection)
        assert clients["reporting"].ping()

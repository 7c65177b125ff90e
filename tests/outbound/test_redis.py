"""redis-py under a policy: each command is a call, and only what may be sent twice is retried."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import redis.asyncio

import hormesis as hm
from hormesis.context import current_call
from hormesis.outbound.redis import REPEATABLE, is_repeatable, protect
from hormesis.outcome import FailureKind, classify

RETRY = hm.Retry(on="transient", delay=0, attempts=3)


def raised_by(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.flushall()
        yield client


@contextmanager
def losing_answers(client: redis.Redis, times: int) -> Iterator[list[bytes]]:
    """A way to the server that passes commands on and, so many times, loses the answer together with the connection.

    It gives the commands that went through, whole as they were sent; the client's own address is changed to it.
    """
    path = client.connection_pool.connection_kwargs["path"]
    passed: list[bytes] = []
    left = times

    def serve(ours: socket.socket) -> None:
        nonlocal left
        with ours, socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            while data := ours.recv(65536):
                passed.append(data)
                server.sendall(data)
                answer = server.recv(65536)
                if b"CLIENT" not in data and b"HELLO" not in data and left > 0:
                    left -= 1
                    return
                ours.sendall(answer)

    def accept() -> None:
        while True:
            try:
                ours, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(ours,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        passed.append(str(listener.getsockname()[1]).encode())
        yield passed
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def port_of(passed: list[bytes]) -> int:
    return int(passed.pop(0))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("GET", "k"), True),
        ((b"get", b"k"), True),
        (("SET", "k", "v"), True),
        (("SET", "k", "NX"), True),
        (("SET", "NX", "v", "EX", 10), True),
        (("SET", "k", "v", "NX"), False),
        (("SET", "k", "v", b"get"), False),
        (("EXPIRE", "k", 10), True),
        (("EXPIRE", "k", 10, "GT"), False),
        (("INCR", "k"), False),
        (("LPUSH", "k", "v"), False),
        (("DEL", "k"), False),
        (("SETNX", "k", "v"), False),
        (("LTRIM", "k", 1, -1), False),
        (("EVALSHA", "sha", 0), False),
        (("XINFO STREAM", "k"), True),
        (("CLIENT KILL", "x"), False),
        (("OF.A.MODULE", "k"), False),
    ],
)
def test_what_may_be_sent_twice(command: tuple[object, ...], expected: bool) -> None:
    """A command may be sent twice if the state and the answer are the same; one that is not known may not."""
    assert is_repeatable(command) is expected


def test_further_commands_may_be_sent_twice() -> None:
    """Where the user knows better, a command counts as repeatable."""
    assert is_repeatable(("del", "k"), {"DEL"})


def test_repeatable_commands_change_nothing_when_repeated(client: redis.Redis) -> None:
    """What is called repeatable and writes: a second time leaves the same state and gives the same answer."""
    writes: list[tuple[Any, ...]] = [
        ("SET", "s", "v"),
        ("SETEX", "s2", 100, "v"),
        ("PSETEX", "s3", 100_000, "v"),
        ("MSET", "a", 1, "b", 2),
        ("SETRANGE", "s", 1, "x"),
        ("GETEX", "s", "EX", 100),
        ("EXPIRE", "s", 100),
        ("PEXPIRE", "s", 100_000),
        ("EXPIREAT", "s", 4_000_000_000),
        ("PEXPIREAT", "s", 4_000_000_000_000),
        ("HMSET", "h", "f", 1),
        ("LSET", "l", 0, "x"),
        ("SINTERSTORE", "one", "one", "two"),
        ("SUNIONSTORE", "one", "one", "two"),
        ("SDIFFSTORE", "one", "one", "two"),
    ]
    assert {command[0] for command in writes} <= REPEATABLE
    client.rpush("l", "a", "b")
    client.sadd("one", 1, 2, 3)
    client.sadd("two", 2)
    for command in writes:
        answer = client.execute_command(*command)
        state = {key: client.dump(key) for key in client.scan_iter()}
        assert client.execute_command(*command) == answer, command
        assert {key: client.dump(key) for key in client.scan_iter()} == state, command


def test_kinds_of_what_redis_answers(client: redis.Redis) -> None:
    """An error of a real server is the kind that it means."""
    client.set("text", "x")
    assert classify(raised_by(lambda: client.lpush("text", 1))) is FailureKind.INVALID
    assert classify(raised_by(lambda: client.execute_command("NOTHING"))) is FailureKind.INVALID
    client.config_set("maxmemory", 1)
    try:
        assert classify(raised_by(lambda: client.set("text", "y"))) is FailureKind.UNAVAILABLE
    finally:
        client.config_set("maxmemory", 0)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert classify(raised_by(lambda: client.set("text", "y"))) is FailureKind.UNAVAILABLE
        client.config_set("replica-serve-stale-data", "no")
        assert classify(raised_by(lambda: client.get("text"))) is FailureKind.UNAVAILABLE
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("where", [{"host": "127.0.0.1", "port": 1}, {"host": "nowhere.invalid"}])
def test_a_server_that_is_not_there_was_not_reached(where: dict[str, Any]) -> None:
    """Failing to connect is `connect`, in both colours."""
    client = redis.Redis(**where, retry=None)
    assert classify(raised_by(client.ping)) is FailureKind.CONNECT
    from redis.backoff import NoBackoff

    async def ping() -> None:
        async with redis.asyncio.Redis(**where, retry=redis.asyncio.retry.Retry(NoBackoff(), 0)) as client:
            await client.ping()

    assert classify(raised_by(lambda: asyncio.run(ping()))) is FailureKind.CONNECT


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.ConnectionError("No connection available."), FailureKind.REJECTED),
        (redis.exceptions.MaxConnectionsError("Too many connections"), FailureKind.REJECTED),
        (redis.ConnectionError("Connection closed by server."), FailureKind.UNAVAILABLE),
        (redis.TimeoutError("Timeout reading from stock:6379"), FailureKind.TIMEOUT),
        (redis.TimeoutError("Timeout connecting to server"), FailureKind.CONNECT),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), FailureKind.UNAVAILABLE),
        (redis.AuthenticationError("invalid password"), FailureKind.INVALID),
        (redis.exceptions.NoPermissionError("not for you"), FailureKind.INVALID),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), FailureKind.UNAVAILABLE),
        (redis.ResponseError("BUSY Redis is busy running a script"), FailureKind.UNAVAILABLE),
        (redis.exceptions.TryAgainError(), FailureKind.UNAVAILABLE),
        (redis.exceptions.ClusterDownError("CLUSTERDOWN"), FailureKind.UNAVAILABLE),
        (redis.WatchError("Watched variable changed"), FailureKind.INVALID),
        (redis.DataError("no such type"), FailureKind.INVALID),
        (redis.exceptions.LockError("not owned"), FailureKind.INVALID),
        (redis.exceptions.InvalidResponse("?"), FailureKind.ERROR),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_redis_pys_exceptions(error: Exception, kind: FailureKind) -> None:
    """redis-py's exceptions are classified with no registration by the user."""
    assert classify(error) is kind


def test_a_protected_client_is_a_client(client: redis.Redis) -> None:
    """It is of the same class, on the same connections, and answers as before."""
    protected = protect(client, hm.Policy(RETRY, hm.CircuitBreaker()))
    assert isinstance(protected, redis.Redis)
    assert protected.connection_pool is client.connection_pool
    assert protected.set("k", 1)
    assert protected.incr("k") == 2
    assert protected.pipeline().get("k").incr("k").execute() == ["2", 3]
    assert type(protected).__name__ == "ProtectedRedis"


def test_an_open_breaker_rejects_commands(redis_url: str) -> None:
    """Commands and pipelines are calls of the policy."""
    client = redis.Redis(host="127.0.0.1", port=1, retry=None)
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1), name="cache")
    protected = protect(client, policy)
    with pytest.raises(redis.ConnectionError):
        protected.get("k")
    with pytest.raises(hm.CircuitOpen):
        protected.get("k")
    with pytest.raises(hm.CircuitOpen):
        protected.pipeline().get("k").execute()


def protected_over(passed: list[bytes], policy: hm.Policy, **options: Any) -> redis.Redis:
    client = redis.Redis(host="127.0.0.1", port=port_of(passed), protocol=2, decode_responses=True)
    return protect(client, policy, **options)


def test_a_read_whose_answer_was_lost_is_sent_again(client: redis.Redis) -> None:
    """Reading twice is harmless."""
    client.set("k", "v")
    with losing_answers(client, 1) as passed:
        protected = protected_over(passed, hm.Policy(RETRY))
        assert protected.get("k") == "v"
        protected.connection_pool.disconnect()
    assert sum(b"GET" in data for data in passed) == 2


def test_an_increment_whose_answer_was_lost_is_not_sent_again(client: redis.Redis) -> None:
    """Neither the policy nor redis-py itself increments twice."""
    with losing_answers(client, 1) as passed:
        protected = protected_over(passed, hm.Policy(RETRY))
        with pytest.raises(redis.ConnectionError):
            protected.incr("k")
        protected.connection_pool.disconnect()
    assert client.get("k") == "1"


def test_without_a_policy_redis_py_increments_twice(client: redis.Redis) -> None:
    """What its own retries do, which is why they are switched off."""
    with losing_answers(client, 1) as passed:
        bare = redis.Redis(host="127.0.0.1", port=port_of(passed), protocol=2)
        assert bare.incr("k") == 2
        bare.close()


def test_a_command_that_the_user_knows_is_sent_again(client: redis.Redis) -> None:
    """With `repeatable={"INCRBY"}`, which is what `incr()` sends, it is the user's decision."""
    with losing_answers(client, 1) as passed:
        protected = protected_over(passed, hm.Policy(RETRY), repeatable={"incrby"})
        assert protected.incr("k") == 2
        protected.connection_pool.disconnect()


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_is_sent_again_as_a_whole(client: redis.Redis, transaction: bool) -> None:
    """A pipeline of repeatable commands is repeated with all of them."""
    with losing_answers(client, 1) as passed:
        protected = protected_over(passed, hm.Policy(RETRY))
        assert protected.pipeline(transaction).set("a", 1).set("b", 2).get("a").execute() == [True, True, "1"]
        protected.connection_pool.disconnect()


def test_a_pipeline_with_one_increment_is_not_sent_again(client: redis.Redis) -> None:
    """One command that may not be sent twice decides for its pipeline."""
    with losing_answers(client, 1) as passed:
        protected = protected_over(passed, hm.Policy(RETRY))
        pipeline = protected.pipeline(transaction=True).get("a").incr("k")
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
        protected.connection_pool.disconnect()
    assert client.get("k") == "1"


def test_watching_works_as_before(client: redis.Redis) -> None:
    """A transaction that watches keys is redis-py's own loop: who was overtaken reads again."""
    protected = protect(client, hm.Policy(RETRY))
    client.set("k", 1)
    overtaken = []

    def double(pipeline: Any) -> None:
        value = int(pipeline.get("k"))
        if not overtaken:
            overtaken.append(client.set("k", 5))
        pipeline.multi()
        pipeline.set("k", 2 * value)

    protected.transaction(double, "k")
    assert client.get("k") == "10"


def test_locks_and_scripts_work(client: redis.Redis) -> None:
    """What redis-py builds of commands works on a protected client."""
    protected = protect(client, hm.Policy(RETRY))
    with protected.lock("lock", timeout=10):
        assert client.exists("lock")
    assert protected.register_script("return ARGV[1]")(args=["x"]) == "x"
    with protected.pipeline() as pipeline:
        protected.register_script("return 7")(client=pipeline)
        assert pipeline.execute() == [7]


def test_what_the_caller_said_of_the_call_is_kept(client: redis.Redis) -> None:
    """A caller who said that a call must not be repeated is heeded for reads as well."""
    seen = []

    class Looking(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            seen.append(current_call.get().repeatable)
            return super().execute_command(*args, **options)

    looking = Looking(connection_pool=client.connection_pool)
    protected = protect(looking, hm.Policy())
    protected.get("k")
    protected.incr("k")
    from hormesis.context import calling

    with calling(repeatable=False):
        protected.get("k")
    assert seen == [True, False, False]


def test_a_policy_that_does_not_retry_leaves_redis_py_its_own(client: redis.Redis) -> None:
    """redis-py's retries are switched off only where there is something in their place."""
    before = client.get_retry()
    protect(client, hm.Policy(hm.CircuitBreaker()))
    assert client.get_retry() is before
    protect(client, hm.Policy(RETRY))
    assert client.get_retry().get_retries() == 0


@pytest.mark.parametrize("what", [None, "redis://", redis.Redis, redis.Redis(retry=None).pipeline()])
def test_only_clients_can_be_protected(what: Any) -> None:
    """Anything but a client is refused, with the value."""
    with pytest.raises(hm.ConfigurationError, match=r"client is .*; it takes a redis\.Redis"):
        protect(what, hm.Policy())


def test_bad_settings_are_refused_when_made(client: redis.Redis) -> None:
    """A word for `repeatable`, and a policy that can't protect what is synchronous, are refused at once."""
    with pytest.raises(hm.ConfigurationError, match="repeatable is 'DEL'"):
        protect(client, hm.Policy(), repeatable="DEL")
    with pytest.raises(hm.ConfigurationError, match="a thread can't be interrupted"):
        protect(client, hm.Policy(hm.Timeout("1s")))


def test_an_asynchronous_client_is_protected_too(client: redis.Redis, redis_url: str) -> None:
    """Commands, pipelines and rejections of the asynchronous client; increments are not repeated, reads are."""

    async def scenario(port: int) -> None:
        breaker = hm.Policy(RETRY, hm.Timeout("5s"), hm.CircuitBreaker(consecutive=99))
        async with redis.asyncio.Redis(host="127.0.0.1", port=port, protocol=2, decode_responses=True) as ours:
            protected = protect(ours, breaker)
            assert isinstance(protected, redis.asyncio.Redis)
            assert await protected.get("k") == "v"
            assert await protected.pipeline().set("a", 1).get("a").execute() == [True, "1"]
            assert await protected.incr("n") == 1

    client.set("k", "v")
    with losing_answers(client, 2) as passed:
        asyncio.run(scenario(port_of(passed)))

    async def increment(port: int) -> None:
        async with redis.asyncio.Redis(host="127.0.0.1", port=port, protocol=2) as ours:
            with pytest.raises(redis.ConnectionError):
                await protect(ours, hm.Policy(RETRY)).incr("once")
            with pytest.raises(redis.ConnectionError):
                await protect(ours, hm.Policy(RETRY)).pipeline().incr("once").execute()

    with losing_answers(client, 2) as passed:
        asyncio.run(increment(port_of(passed)))
    assert client.get("once") == "2"


def test_asynchronous_watching_works_as_before(redis_url: str, client: redis.Redis) -> None:
    """A transaction that watches keys is not repeated by the policy."""

    async def scenario() -> None:
        async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as ours:
            protected = protect(ours, hm.Policy(RETRY))
            async with protected.pipeline() as pipeline:
                await pipeline.watch("k")
                pipeline.multi()
                pipeline.set("k", 1)
                await ours.set("k", 2)
                with pytest.raises(redis.WatchError):
                    await pipeline.execute()

    asyncio.run(scenario())

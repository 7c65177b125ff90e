"""What only the asynchronous API of gRPC has: tasks that are cancelled, and requests that are written one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import pytest

import hormesis as hm
from hormesis.outbound.grpc import policy_interceptors

RETRY = hm.Retry(on="transient", delay=0, attempts=3)


def breaker() -> hm.CircuitBreaker:
    return hm.CircuitBreaker(consecutive=1, open_for=60)


def state(policy: hm.Policy) -> Any:
    return policy.snapshot()["parts"]["circuit_breaker"]["state"]


def inside(policy: hm.Policy) -> Any:
    return policy.snapshot()["parts"]["bulkhead"]["in_flight"]


def run(
    server: Any, policy: hm.Policy, main: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    async def within() -> None:
        interceptors = policy_interceptors(policy, **settings)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            await main(channel)

    asyncio.run(within())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  other threads bring it about
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_a_cancelled_task_cancels_its_call(server: Any, kind: str) -> None:
    """Whoever is cancelled while waiting ends the call at the server too; nothing has failed, nothing is repeated."""
    policy = hm.Policy(RETRY, breaker(), hm.Bulkhead(1))
    server.plan.append(server.hangs())

    async def main(channel: grpc.aio.Channel) -> None:
        async def call() -> None:
            method = getattr(channel, kind)(f"/t.T/{kind}")
            made = method(_sent() if kind.startswith("stream") else b"a")
            if kind.endswith("stream"):
                await made.read()
            else:
                await made

        task = asyncio.create_task(call())
        await until(lambda: server.seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(server.seen[0].ended.is_set)
        assert (len(server.seen), state(policy), inside(policy)) == (1, "closed", 0)

    run(server, policy, main, repeatable=True)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_cancelled_call_has_not_failed(server: Any, kind: str) -> None:
    """`cancel()` of a call that is under way frees its place, and leaves the breaker as it was."""
    policy = hm.Policy(breaker(), hm.Bulkhead(1))
    server.plan.append(server.hangs())

    async def main(channel: grpc.aio.Channel) -> None:
        call = getattr(channel, kind)(f"/t.T/{kind}")(b"a")
        await until(lambda: server.seen)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await (call.read() if kind == "unary_stream" else call)
        assert call.cancelled()
        assert (state(policy), inside(policy)) == ("closed", 0)

    run(server, policy, main)


def test_a_reader_who_breaks_off_ends_the_stream(server: Any) -> None:
    """A stream that is closed early ends at the server, and has not failed."""
    policy = hm.Policy(breaker(), hm.Bulkhead(1))
    server.plan.append(server.hangs(after=1))

    async def main(channel: grpc.aio.Channel) -> None:
        call = channel.unary_stream("/t.T/unary_stream")(b"a")
        messages: Any = aiter(call)
        assert await anext(messages) == b"0"
        call.cancel()
        await until(lambda: not inside(policy))
        assert state(policy) == "closed"

    run(server, policy, main)
    assert server.seen[0].ended.wait(10)


def test_requests_are_written_one_by_one(server: Any) -> None:
    """Calls whose requests are written later work as they do without a policy, and hold their place meanwhile."""
    policy = hm.Policy(RETRY, breaker(), hm.Bulkhead(1), hm.Timeout("10s"))

    async def main(channel: grpc.aio.Channel) -> None:
        chat: Any = channel.stream_stream("/t.T/stream_stream")()
        for message in (b"a", b"b"):
            await chat.write(message)
            assert await chat.read() == message
        assert inside(policy) == 1
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        upload: Any = channel.stream_unary("/t.T/stream_unary")()
        await upload.write(b"a")
        await upload.write(b"b")
        assert inside(policy) == 1
        await upload.done_writing()
        assert await upload == b"b"
        assert (state(policy), inside(policy)) == ("closed", 0)

    run(server, policy, main)


def test_a_write_to_a_call_that_is_refused(server: Any) -> None:
    """Who writes to a call that was not let in learns why."""
    policy = hm.Policy(breaker())
    policy.breaker().isolate()

    async def main(channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_unary("/t.T/stream_unary")()
        with pytest.raises(hm.CircuitOpen):
            await call.write(b"a")
        with pytest.raises(hm.CircuitOpen):
            await call

    run(server, policy, main)
    assert server.seen == []


def test_what_a_call_tells_besides(server: Any) -> None:
    """Status and metadata of a call are those of its last attempt, also of one that streams."""

    def with_metadata(requests: Any, context: Any) -> Any:
        context.set_trailing_metadata((("left", "3"),))
        yield from requests

    async def main(channel: grpc.aio.Channel) -> None:
        server.plan.extend([server.fails(grpc.StatusCode.UNAVAILABLE), with_metadata] * 2)
        call: Any = channel.unary_unary("/t.T/unary_unary")(b"a")
        assert await call == b"a"
        assert (await call.code(), (await call.trailing_metadata())["left"]) == (grpc.StatusCode.OK, "3")
        call = channel.unary_stream("/t.T/unary_stream")(b"a")
        assert [message async for message in call] == [b"a"]
        assert (await call.code(), (await call.trailing_metadata())["left"]) == (grpc.StatusCode.OK, "3")

    run(server, hm.Policy(RETRY), main, repeatable=True)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_what_an_answer_from_elsewhere_tells(server: Any, kind: str) -> None:
    """A fallback's answer is a call that has gone well, without metadata."""
    policy = hm.Policy(hm.Fallback(value=[b"x"] if kind.endswith("stream") else b"x"), breaker())
    policy.breaker().isolate()

    async def main(channel: grpc.aio.Channel) -> None:
        call: Any = getattr(channel, kind)(f"/t.T/{kind}")(*([] if kind.startswith("stream") else [b"a"]))
        told: list[Any] = []
        call.add_done_callback(told.append)
        await call.wait_for_connection()
        if kind.startswith("stream"):
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"a")
            await call.done_writing()
        if kind.endswith("stream"):
            assert [await call.read(), await call.read()] == [b"x", grpc.aio.EOF]
        else:
            assert await call == b"x"
        assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
        assert [list(await call.initial_metadata()), list(await call.trailing_metadata())] == [[], []]
        assert (call.done(), call.cancelled(), call.cancel(), told) == (True, False, False, [call])

    run(server, policy, main)


def test_a_policy_within_a_policy(server: Any) -> None:
    """Interceptors of two policies go around each other, for all kinds of calls."""
    inner, outer = hm.Policy(breaker(), hm.Bulkhead(1), name="inner"), hm.Policy(RETRY, hm.Bulkhead(1), name="outer")

    async def main() -> None:
        interceptors = [*policy_interceptors(outer), *policy_interceptors(inner)]
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
                method = getattr(channel, kind)(f"/t.T/{kind}")
                call = method(_sent() if kind.startswith("stream") else b"a")
                answers = [message async for message in call] if kind.endswith("stream") else [await call]
                assert answers == [b"a"]
                assert (inside(inner), inside(outer)) == (0, 0)

    asyncio.run(main())


async def _sent() -> AsyncIterator[bytes]:
    yield b"a"

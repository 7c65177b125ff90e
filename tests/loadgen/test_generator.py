"""The generator against real servers: what it sends, what it counts, and from when."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from hormesis.loadgen import Answer, Histogram, LoadDriver, LoadSpec, Request, Retries, RunResult, Segment, Stream

pytestmark = pytest.mark.system


def load(base_url: str, *requests: Request, rate: float = 100, length: float = 0.2, **settings: Any) -> LoadSpec:
    defaults: dict[str, Any] = {"seed": 1, "process": "constant", "grace": 2, "timeout": 2}
    return LoadSpec(base_url=base_url, segments=[Segment(length, rate)], requests=requests, **(defaults | settings))


async def run(spec: LoadSpec) -> RunResult:
    async with LoadDriver() as driver:
        return await driver.run(spec)


def kinds(result: RunResult) -> dict[int, set[tuple[Answer, str]]]:
    found: dict[int, set[tuple[Answer, str]]] = {}
    for sample in result.samples:
        found.setdefault(sample.request, set()).add((sample.answer, sample.error))
    return found


def test_a_stall_can_not_hide_the_requests_that_it_delayed(serve: Any, ok: Callable[..., bytes]) -> None:
    """Of a server frozen 0.6 s of 2 s, p90 and p99 are those of callers who don't wait for each other."""

    async def main() -> None:
        open_again = asyncio.Event()
        frozen = thawed = math.inf

        async def handle(call: Any) -> bytes:
            if frozen <= monotonic() < thawed:
                await open_again.wait()
            return ok()

        async def thaw() -> None:
            nonlocal thawed
            await asyncio.sleep(frozen + 0.6 - monotonic())
            thawed = monotonic()
            open_again.set()

        async with serve(handle) as url, LoadDriver() as driver, asyncio.TaskGroup() as group:
            start_at = monotonic() + 0.2
            frozen = start_at + 0.6
            group.create_task(thaw())
            result = await driver.run(load(url, Request("r", path="/"), rate=200, length=2), start_at=start_at)

        truth = sorted(max(0.0, thawed - due) if due >= frozen else 0.0 for due in result.samples.intended)
        latencies = Histogram(result.samples.latencies())
        assert len(truth) == 400
        assert {sample.answer for sample in result.samples} == {Answer.FULL}
        for q in (0.9, 0.99):
            assert latencies.quantile(q) == pytest.approx(truth[math.ceil(q * 400) - 1], rel=0.15)
        assert latencies.quantile(0.5) < 0.1

    asyncio.run(main())


def test_each_way_to_end_has_its_name(serve: Any, ok: Callable[..., bytes]) -> None:
    """Statuses, resets, silence, closed and garbled connections are told apart, and degraded answers from full ones."""

    async def handle(call: Any) -> bytes | None:
        match call.target:
            case "/full":
                return ok(201)
            case "/degraded":
                return ok(headers="X-Degraded: stale\r\n")
            case "/500":
                return ok(500)
            case "/redirect":
                return ok(302, headers="Location: /full\r\n")
            case "/slow":
                await asyncio.sleep(60)
            case "/reset":
                linger = struct.pack("ii", 1, 0)
                call.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case "/garbage":
                return b"no HTTP at all\r\n\r\n"
            case "/half":
                call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        return None

    async def main() -> None:
        paths = ["/full", "/degraded", "/500", "/redirect", "/slow", "/reset", "/garbage", "/half", "/close"]
        async with serve(handle) as url:
            mix = [Request(path[1:], path=path) for path in paths]
            result = await run(load(url, *mix, rate=500, length=0.4, timeout=0.4))
        found = kinds(result)
        assert len(result.samples) == 200
        assert {path: found[i] for i, path in enumerate(paths)} == {
            "/full": {(Answer.FULL, "")},
            "/degraded": {(Answer.DEGRADED, "")},
            "/500": {(Answer.FAILED, "status 500")},
            "/redirect": {(Answer.FAILED, "status 302")},
            "/slow": {(Answer.FAILED, "timeout")},
            "/reset": {(Answer.FAILED, "reset")},
            "/garbage": {(Answer.FAILED, "malformed")},
            "/half": {(Answer.FAILED, "disconnected")},
            "/close": {(Answer.FAILED, "disconnected")},
        }
        waited = [sample.latency for sample in result.samples if sample.error == "timeout"]
        assert all(0.4 <= latency < 1.5 for latency in waited)
        assert {s.status for s in result.samples if s.request == 0} == {201}

    asyncio.run(main())


def test_a_closed_port_is_refused() -> None:
    """Where nobody listens, every arrival fails as refused."""

    async def main() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            result = await run(load(f"http://127.0.0.1:{reserved.getsockname()[1]}", Request("r", path="/")))
        assert kinds(result) == {0: {(Answer.FAILED, "refused")}}

    asyncio.run(main())


def test_no_answer_by_the_end_is_unfinished(serve: Any) -> None:
    """What is still waiting when the grace is over fails as unfinished, and the run ends then."""

    async def handle(call: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with serve(handle) as url:
            result = await run(load(url, Request("r", path="/"), grace=0.1, timeout=30))
        assert kinds(result) == {0: {(Answer.FAILED, "unfinished")}}
        assert len(result.samples) == 20
        assert not result.cancelled

    asyncio.run(main())


def test_a_full_client_says_so(serve: Any) -> None:
    """Arrivals beyond the bound on requests under way fail at once, are counted, and mark the run as saturated."""

    async def handle(call: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with serve(handle) as url:
            result = await run(load(url, Request("r", path="/"), grace=0, in_flight_max=5))
        assert Counter(sample.error for sample in result.samples) == {"unfinished": 5, "client full": 15}
        assert result.dropped == 15
        assert result.saturated

    asyncio.run(main())


def test_one_arrival_is_one_request_on_the_wire(serve: Any, ok: Callable[..., bytes]) -> None:
    """A kept connection that breaks is a failure of its arrival; nothing is sent a second time."""
    seen: list[str] = []

    async def handle(call: Any) -> bytes | None:
        seen.append(call.target)
        # The first request on a connection is answered, the second one finds it closed: that is when clients repeat.
        first = not getattr(call.writer, "used", False)
        call.writer.used = True
        return ok() if first else None

    async def main() -> None:
        async with serve(handle) as url:
            result = await run(load(url, Request("r", path="/{n}"), keep_alive=True))
        assert sorted(seen, key=lambda target: int(target[1:])) == [f"/{n}" for n in range(20)]
        assert {sample.error for sample in result.samples} == {"", "disconnected"}

    asyncio.run(main())


def test_templates_reach_the_wire(serve: Any, ok: Callable[..., bytes]) -> None:
    """The server reads each arrival's own id in header and body, and each comes on a connection of its own."""
    calls: list[Any] = []

    async def handle(call: Any) -> bytes:
        calls.append(call)
        return ok(201)

    async def main() -> None:
        buy = Request(
            "buy", method="POST", path="/orders", headers={"Idempotency-Key": "{uuid}"}, json={"id": "{uuid}", "n": 1}
        )
        async with serve(handle) as url:
            result = await run(load(url, buy, rate=75))
        bodies = [json.loads(call.body) for call in calls]
        assert len({body["id"] for body in bodies}) == len(result.samples) == 15
        assert all(f"Idempotency-Key: {body['id']}" in call.head for call, body in zip(calls, bodies, strict=True))
        assert all("Content-Type: application/json" in call.head for call in calls)
        assert len({id(call.writer) for call in calls}) == 15

    asyncio.run(main())


def test_callers_repeat_what_fails(serve: Any, ok: Callable[..., bytes]) -> None:
    """Each attempt is sent at once and measured by itself; the request is worth its last one, from when it was due."""
    seen: Counter[str] = Counter()

    async def handle(call: Any) -> bytes | None:
        seen[call.target] += 1
        match call.target.split("/")[1:]:
            case ["third", _]:
                return ok(200 if seen[call.target] == 3 else 503, headers="Retry-After: 60\r\n")
            case ["slow", _]:
                await asyncio.sleep(60)
            case ["missing", _]:
                return ok(404)
            case ["never", _]:
                return ok(500)
        return ok()

    async def main() -> None:
        retry = Retries(3, timeout="200ms")
        names = ["third", "slow", "missing", "never"]
        mix = [Request(name, path=f"/{name}/{{uuid}}", retry=retry) for name in names]
        async with serve(handle) as url:
            result = await run(load(url, *mix, Request("once", path="/once/{uuid}"), rate=100, length=0.4))
        assert len(result.samples) == 40
        assert kinds(result) == {
            0: {(Answer.FULL, "")},
            1: {(Answer.FAILED, "timeout")},
            2: {(Answer.FAILED, "status 404")},
            3: {(Answer.FAILED, "status 500")},
            4: {(Answer.FULL, "")},
        }
        arrived = Counter(result.samples.request)
        attempts = Counter(result.attempts.request)
        assert attempts == {0: 3 * arrived[0], 1: 3 * arrived[1], 2: arrived[2], 3: 3 * arrived[3]}
        on_the_wire = Counter(target.split("/")[1] for target in seen.elements())
        assert [on_the_wire[name] for name in names] == [attempts[i] for i in range(4)]
        first = {(attempt.answer, attempt.error) for attempt in result.attempts if attempt.request == 0}
        assert first == {(Answer.DECLINED, "declined 503"), (Answer.FULL, "")}
        assert all(0.6 <= sample.latency < 1.5 for sample in result.samples if sample.request == 1)
        assert all(0.2 <= attempt.latency < 0.6 for attempt in result.attempts if attempt.request == 1)
        firsts = {attempt.intended for attempt in result.attempts}
        assert all(sample.intended in firsts for sample in result.samples if sample.request != 4)

    asyncio.run(main())


def test_patience_ends_what_callers_repeat(serve: Any, ok: Callable[..., bytes]) -> None:
    """A request's own patience is for all of its attempts, pauses included; a pause that exceeds it is not begun."""

    async def handle(call: Any) -> bytes:
        if call.target == "/slow":
            await asyncio.sleep(60)
        return ok(500)

    async def main() -> None:
        slow = Request("slow", path="/slow", timeout=0.3, retry=Retries(9, timeout=0.2))
        paused = Request("paused", path="/", timeout=0.3, retry=Retries(9, delay=0.12))
        async with serve(handle) as url:
            result = await run(load(url, slow, paused, rate=50))
        assert kinds(result) == {0: {(Answer.FAILED, "timeout")}, 1: {(Answer.FAILED, "status 500")}}
        arrived, attempts = Counter(result.samples.request), Counter(result.attempts.request)
        assert attempts[0] == 2 * arrived[0]
        assert arrived[1] < attempts[1] <= 3 * arrived[1]
        assert all(sample.latency < 0.9 for sample in result.samples)

    asyncio.run(main())


def test_the_end_of_a_run_ends_what_callers_repeat(serve: Any) -> None:
    """When the run is over no attempt follows, and the request is unfinished, as its last attempt is."""

    async def handle(call: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with serve(handle) as url:
            request = Request("r", path="/", retry=Retries(20, timeout=0.15))
            result = await run(load(url, request, grace=0.2, timeout=30))
        assert kinds(result) == {0: {(Answer.FAILED, "unfinished")}}
        assert len(result.samples) < len(result.attempts) < 4 * len(result.samples)
        assert {attempt.error for attempt in result.attempts} == {"timeout", "unfinished"}

    asyncio.run(main())


def test_streams_arrive_side_by_side(serve: Any, ok: Callable[..., bytes]) -> None:
    """Several sources send at their own rates, one of them in the middle only."""

    async def handle(call: Any) -> bytes:
        return ok()

    async def main() -> None:
        streams = [
            Stream([Segment(0.6, 50)], requests=["main"], process="constant"),
            Stream([Segment(0.2, 0), Segment(0.2, 100)], name="extra", requests=["extra"], process="constant"),
        ]
        mix = [Request("main", path="/"), Request("extra", path="/{n}")]
        async with serve(handle) as url:
            result = await run(LoadSpec(base_url=url, streams=streams, requests=mix, seed=1, grace=1))
        assert Counter(result.samples.request) == {0: 30, 1: 20}
        due = [sample.intended - result.start_at for sample in result.samples if sample.request == 1]
        assert 0.2 < min(due) < max(due) < 0.4
        assert not len(result.attempts)

    asyncio.run(main())

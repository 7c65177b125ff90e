"""The driver: one run at a time, ended early or by force, and nothing left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hormesis.errors import HormesisError
from hormesis.loadgen import LoadDriver, LoadSpec, Request, Retries, Samples, Segment, Users
from hormesis.loadgen.fleet import Fleet

pytestmark = pytest.mark.system

RUNNER = """
import asyncio, sys
from hormesis.loadgen import LoadDriver, LoadSpec, Request, Segment

async def main():
    spec = LoadSpec(base_url=sys.argv[1], segments=[Segment(60, 20)], requests=[Request("r", path="/")], seed=1)
    driver = LoadDriver(on_spawn=lambda pid: print(pid, flush=True))
    await driver.start()
    await driver.run(spec, lambda samples: print("under way", flush=True))

asyncio.run(main())
"""


def spec(base_url: str, length: float = 0.2, **settings: Any) -> LoadSpec:
    return LoadSpec(
        **({"seed": 1, "grace": 0.1} | settings),
        base_url=base_url,
        segments=[Segment(length, 100)],
        requests=[Request("r", path="/")],
    )


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended, but that nobody has reaped, doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(pid: int) -> None:
    give_up = time.monotonic() + 10
    while alive(pid) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not alive(pid)


async def silence(call: Any) -> None:
    await asyncio.sleep(60)


def test_batches_arrive_during_the_run_and_add_up(serve: Any, ok: Any) -> None:
    """What the callback sees, batch by batch, is what the result holds; the process serves several runs."""

    async def handle(call: Any) -> bytes:
        return bytes(ok())

    async def main() -> None:
        pids: list[int] = []
        async with serve(handle) as url, LoadDriver(on_spawn=pids.append) as driver:
            assert os.getpgid(pids[0]) == os.getsid(pids[0]) == pids[0] != os.getpgid(0)
            batches: list[Samples] = []
            start_at = time.monotonic() + 0.2
            first = await driver.run(spec(url, 0.5), batches.append, start_at=start_at)
            second = await driver.run(spec(url))
        assert len(batches) > 1
        assert [sample for batch in batches for sample in batch] == list(first.samples)
        assert first.start_at == start_at
        assert all(start_at <= sample.intended <= sample.sent + 1e-6 <= sample.done + 2e-6 for sample in first.samples)
        assert 0 <= first.lag_p50 <= first.lag_p99 <= first.lag_max
        assert len(second.samples) > 0
        assert_gone(pids[0])

    asyncio.run(main())


def test_a_generator_that_falls_behind_says_so(serve: Any, ok: Any) -> None:
    """When the generator itself was held up, the send lag shows it, latencies contain it, and the run is saturated."""

    async def handle(call: Any) -> bytes:
        return bytes(ok())

    async def main() -> None:
        pids: list[int] = []
        async with serve(handle) as url, LoadDriver(on_spawn=pids.append) as driver:
            run = asyncio.create_task(driver.run(spec(url, 0.8), start_at=time.monotonic() + 0.1))
            await asyncio.sleep(0.2)
            os.kill(pids[0], signal.SIGSTOP)
            await asyncio.sleep(0.3)
            os.kill(pids[0], signal.SIGCONT)
            result = await run
        assert result.saturated
        assert result.dropped == 0
        assert max(result.samples.latencies()) >= max(result.samples.lags()) > 0.15

    asyncio.run(main())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_generator_of_a_closed_loop_that_falls_behind_says_so(
    serve: Any, ok: Any, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Its users wait for it as for the service, so hardly any request is late; the clock tells all the same."""
    pids: list[int] = []
    monkeypatch.setattr("hormesis.loadgen.fleet.LoadDriver", lambda: LoadDriver(on_spawn=pids.append))
    load = LoadSpec(
        base_url="http://127.0.0.1:1",
        users=Users(4, 1.5, think="2ms"),
        requests=[Request("home", path="/")],
        process="constant",
        seed=1,
    )

    async def handle(call: Any) -> bytes:
        return bytes(ok())

    async def main() -> None:
        async with serve(handle) as url, Fleet(processes) as fleet:
            run = asyncio.create_task(fleet.run(dataclasses.replace(load, base_url=url)))
            await asyncio.sleep(0.9)
            os.kill(pids[0], signal.SIGSTOP)
            await asyncio.sleep(0.4)
            os.kill(pids[0], signal.SIGCONT)
            result = await run
        assert result.saturated
        assert 0.2 < result.lag_p99 <= result.lag_max

    asyncio.run(main())


def test_nothing_is_sent_before_it_is_due(serve: Any, ok: Any) -> None:
    """Users' pauses and callers' delays end by timers that may be early; no latency is below zero for that."""

    async def handle(call: Any) -> bytes:
        return bytes(ok(200 if call.target == "/" else 500))

    load = LoadSpec(
        base_url="http://127.0.0.1:1",
        users=Users(8, 0.6, think="3ms"),
        requests=[Request("home", path="/"), Request("again", path="/x", retry=Retries(2, delay="2.5ms"))],
        seed=1,
    )

    async def main() -> None:
        async with serve(handle) as url, LoadDriver() as driver:
            result = await driver.run(dataclasses.replace(load, base_url=url))
        assert len(result.samples) > 100
        for rows in (result.samples, result.attempts):
            assert [row for row in rows if not row.intended <= row.sent <= row.done] == []

    asyncio.run(main())


def test_cancel_ends_a_run_and_keeps_the_process(serve: Any) -> None:
    """A cancelled run returns at once with what it has, and the next run works; cancelling nothing does nothing."""

    async def main() -> None:
        async with serve(silence) as url, LoadDriver() as driver:
            await driver.cancel()
            run = asyncio.create_task(driver.run(spec(url, 60)))
            await asyncio.sleep(0.2)
            await driver.cancel()
            result = await run
            assert result.cancelled
            assert {sample.error for sample in result.samples} == {"unfinished"}
            again = await driver.run(spec(url))
            assert not again.cancelled

    asyncio.run(main())


def test_a_run_may_be_cancelled_before_it_begins(serve: Any) -> None:
    """A stop right behind the run's command, in the same breath, still ends it with a result."""

    async def main() -> None:
        async with serve(silence) as url, LoadDriver() as driver:
            run = asyncio.create_task(driver.run(spec(url, 60)))
            await asyncio.sleep(0)
            await driver.cancel()
            assert (await run).cancelled

    asyncio.run(main())


def test_a_generator_that_does_not_obey_is_killed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the generator is paused, cancelling still ends the run, as an error."""
    monkeypatch.setattr("hormesis.loadgen.driver._CANCEL_WITHIN", 0.2)

    async def main() -> None:
        pids: list[int] = []
        async with serve(silence) as url, LoadDriver(on_spawn=pids.append) as driver:
            run = asyncio.create_task(driver.run(spec(url, 60)))
            await asyncio.sleep(0.2)
            os.kill(pids[0], signal.SIGSTOP)
            await driver.cancel()
            with pytest.raises(HormesisError, match="SIGKILL"):
                await run
        assert_gone(pids[0])

    asyncio.run(main())


def test_cancelling_the_task_leaves_no_process(serve: Any) -> None:
    """When the task that awaits a run is cancelled, the generator is gone, and can be started anew."""

    async def main() -> None:
        pids: list[int] = []
        async with serve(silence) as url:
            driver = LoadDriver(on_spawn=pids.append)
            await driver.start()
            run = asyncio.create_task(driver.run(spec(url, 60)))
            await asyncio.sleep(0.2)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert_gone(pids[0])
            with pytest.raises(HormesisError, match="not running"):
                await driver.run(spec(url))
            start = asyncio.create_task(driver.start())
            await asyncio.sleep(0.05)
            start.cancel()
            with pytest.raises(asyncio.CancelledError):
                await start
            await driver.stop()
            await driver.stop()
        assert not any(alive(pid) for pid in pids)

    asyncio.run(main())


def test_stopping_ends_a_run_in_another_task(serve: Any) -> None:
    """When the driver is stopped in the middle of a run, the run raises and the process is gone."""

    async def main() -> None:
        pids: list[int] = []
        async with serve(silence) as url:
            driver = LoadDriver(on_spawn=pids.append)
            await driver.start()
            run = asyncio.create_task(driver.run(spec(url, 60)))
            await asyncio.sleep(0.1)
            await asyncio.gather(driver.stop(), driver.stop())
            assert not alive(pids[0])
            with pytest.raises(HormesisError, match="SIGKILL"):
                await run

    asyncio.run(main())


def test_a_crash_is_told_with_its_last_lines(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that dies, at its start or in a run, raises an error that says how and shows its last words."""

    async def main() -> None:
        pids: list[int] = []
        async with serve(silence) as url, LoadDriver(on_spawn=pids.append) as driver:
            with pytest.raises(HormesisError, match="already running"):
                await driver.start()
            run = asyncio.create_task(driver.run(spec(url, 60)))
            await asyncio.sleep(0.2)
            with pytest.raises(HormesisError, match="one at a time"):
                await driver.run(spec(url))
            os.kill(pids[0], signal.SIGSEGV)
            with pytest.raises(HormesisError, match=r"ended unexpectedly \(killed by SIGSEGV\)"):
                await run
        monkeypatch.setenv("PYTHONPATH", "/nowhere")
        monkeypatch.setattr(sys, "executable", "/bin/sh")
        with pytest.raises(HormesisError, match=r"exit status \d+\)\n  .*hormesis"):
            await LoadDriver().start()

    asyncio.run(main())


def test_an_error_in_the_callback_stops_the_run(serve: Any, ok: Any) -> None:
    """What the callback raises leaves `run`, and the generator is gone."""

    async def handle(call: Any) -> bytes:
        return bytes(ok())

    def refuse(samples: Samples) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        pids: list[int] = []
        async with serve(handle) as url, LoadDriver(on_spawn=pids.append) as driver:
            with pytest.raises(ZeroDivisionError):
                await driver.run(spec(url, 60), refuse)
            assert_gone(pids[0])

    asyncio.run(main())


def test_the_generator_dies_with_its_runner(serve: Any) -> None:
    """When the runner is killed in the middle of a run, the generator ends by itself."""

    async def main() -> None:
        async with serve(silence) as url:
            runner = await asyncio.create_subprocess_exec(
                sys.executable, "-c", RUNNER, url, stdout=subprocess.PIPE, start_new_session=True
            )
            assert runner.stdout is not None
            pid = int(await runner.stdout.readline())
            await asyncio.sleep(0.5)
            assert alive(pid)
            runner.kill()
            await runner.communicate()
            await asyncio.to_thread(assert_gone, pid)

    asyncio.run(main())

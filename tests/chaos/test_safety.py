"""Faults by the rules: the undo is on disk first, the lease holds, and whatever happens nothing stays in force."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hormesis.chaos import BlackHole, FaultProxy, Keeper, Latency, Refuse, Reset, WireFault, safety
from hormesis.chaos.host import Act, BlockingAct, FaultFailed
from hormesis.chaos.journal import history
from hormesis.chaos.safety import Safety
from hormesis.chaos.undo import Remove, Run, Undo
from hormesis.errors import HormesisError

PATIENCE = 10.0

RUNNER = """
import asyncio, sys, time
from pathlib import Path
from hormesis.chaos import Keeper
from hormesis.chaos.host import BlockingAct
from hormesis.chaos.safety import Safety
from hormesis.chaos.undo import Remove

class Flag(BlockingAct):
    def __init__(self, path):
        self.what, self.path = f"the flag {path.name}", path
    def undo(self):
        return [Remove(str(self.path))]
    def apply(self):
        self.path.touch()

async def main(folder):
    with Keeper(folder / "undo.jsonl") as keeper:
        async with Safety(keeper) as safe:
            for name in ("one", "two"):
                await safe.apply(Flag(folder / name))
            print("up", flush=True)
            HANG
            await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1])))
"""


class Flag(BlockingAct):
    """A fault that is a file."""

    def __init__(self, path: Path, *, possible: str | None = None, fails: bool = False) -> None:
        self.what = f"the flag {path.name}"
        self.path = path
        self.reason = possible
        self.fails = fails
        self.released = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.begun = threading.Event()

    def possible(self) -> str | None:
        return self.reason

    def undo(self) -> list[Undo]:
        return [Remove(str(self.path))]

    def apply(self) -> None:
        self.begun.set()
        assert self.may_go_on.wait(PATIENCE)
        self.path.touch()
        if self.fails:
            raise FaultFailed(self.what, "it broke")

    def release(self) -> None:
        self.released += 1


def run(folder: Path, scenario: Callable[[Safety], Awaitable[None]], *, arm: str = "") -> list[dict[str, Any]]:
    """Run a scenario with a real watchdog; returns what the journal says in the end, besides the processes."""

    async def main() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            with Keeper(folder / "undo.jsonl") as keeper:
                async with Safety(keeper, arm) as safe:
                    await scenario(safe)
                assert safe.in_force == []

    asyncio.run(main())
    records = [json.loads(line) for line in (folder / "undo.jsonl").read_text().splitlines()]
    return [record for record in records if record.get("id", 1) != 1]


def test_whose_fault_it_is(tmp_path: Path) -> None:
    """Of two systems side by side, whoever undoes a fault and whoever looks back can say on which it was."""

    async def scenario(safe: Safety) -> None:
        await safe.apply(Flag(tmp_path / "flag"))
        assert [str(entry) for entry in safe._journal.look().outstanding][1:] == ["the flag flag (bare)"]

    assert run(tmp_path, scenario, arm="bare")[0]["arm"] == "bare"
    (episode,) = (each for each in history(tmp_path / "undo.jsonl") if each.arm)
    assert (str(episode), episode.by) == ("the flag flag (bare)", "runner")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # any condition, of any object
            await asyncio.sleep(0.01)


def test_in_force_and_back(tmp_path: Path) -> None:
    """A fault is on disk before it acts, acts until it is lifted, and is ticked; lifting twice changes nothing."""
    flag = Flag(tmp_path / "flag")

    async def scenario(safe: Safety) -> None:
        flag.may_go_on.clear()
        applying = asyncio.create_task(safe.apply(flag))
        await asyncio.to_thread(flag.begun.wait)
        assert '"the flag flag"' in (tmp_path / "undo.jsonl").read_text()
        flag.may_go_on.set()
        await applying
        assert flag.path.exists()
        assert safe.in_force == ["the flag flag"]
        for _ in range(2):
            await safe.lift(flag)
            assert not flag.path.exists()
        assert flag.released == 1
        assert safe.left == safe.expired == []

    fault, undone = run(tmp_path, scenario)
    assert fault["undo"] == [{"kind": "remove", "path": str(flag.path)}]
    assert (undone["record"], undone["id"], undone["by"]) == ("undone", fault["id"], "runner")


def test_a_block_leaves_nothing(tmp_path: Path) -> None:
    """What is in force at the end of the block is taken back, the last first, also after an error."""
    flags = [Flag(tmp_path / name) for name in ("one", "two")]

    async def scenario(safe: Safety) -> None:
        for flag in flags:
            await safe.apply(flag, within=30)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, scenario)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["undo.jsonl"]
    records = [json.loads(line) for line in (tmp_path / "undo.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records if record["record"] == "undone"] == [3, 2, 1]


@pytest.mark.parametrize("fails", [True, False])
def test_what_does_not_come_into_force(tmp_path: Path, fails: bool) -> None:
    """A fault that fails half way is undone at once; one that can't be done does not even begin."""
    flag = Flag(tmp_path / "flag", fails=fails, possible=None if fails else "no root")

    async def scenario(safe: Safety) -> None:
        with pytest.raises(FaultFailed, match="it broke" if fails else "no root"):
            await safe.apply(flag)
        assert not flag.path.exists()

    assert [record["record"] for record in run(tmp_path, scenario)] == (["fault", "undone"] if fails else [])


def test_cancelled_half_way(tmp_path: Path) -> None:
    """Cancelled while a fault comes into force, however often, that is waited for, and then it is taken back."""
    flag = Flag(tmp_path / "flag")

    async def scenario(safe: Safety) -> None:
        flag.may_go_on.clear()
        applying = asyncio.create_task(safe.apply(flag))
        await asyncio.to_thread(flag.begun.wait)
        for _ in range(3):
            applying.cancel()
            await asyncio.sleep(0)
        assert not applying.done()
        flag.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await applying
        assert flag.path.exists()
        assert safe.in_force == ["the flag flag"]

    run(tmp_path, scenario)
    assert not flag.path.exists()


def test_what_can_not_be_undone(tmp_path: Path) -> None:
    """What can't be undone raises nothing, is noted, keeps no other in force, and is tried again by the watchdog."""

    class Stuck(Flag):
        def undo(self) -> list[Undo]:
            return [Run(["sh", "-c", f"test -e {tmp_path}/mended"]), *super().undo()]

        async def end(self) -> None:
            raise HormesisError("the proxy is gone")

    stuck, flag = Stuck(tmp_path / "stuck"), Flag(tmp_path / "flag")

    async def scenario(safe: Safety) -> None:
        for each in (flag, stuck):
            await safe.apply(each)
        await safe.lift_all()
        assert not stuck.path.exists()
        assert not flag.path.exists()
        assert [text.partition(": ")[2][:17] for text in safe.left] == [
            "the proxy is gone",
            "`sh -c test -e " + str(tmp_path)[:2],
        ]
        (tmp_path / "mended").touch()

    records = run(tmp_path, scenario)
    assert [record["record"] for record in records] == ["fault", "fault", "stuck", "undone", "undone"]


def test_a_lease_that_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the loop turns a lease is renewed; when it hangs, the watchdog undoes the fault, and the runner is told."""
    monkeypatch.setattr(safety, "LEASE", 0.5)
    monkeypatch.setattr(safety, "_RENEW_EVERY", 0.1)
    flag = Flag(tmp_path / "flag")

    async def scenario(safe: Safety) -> None:
        await safe.apply(flag)
        await asyncio.sleep(1.2)
        assert flag.path.exists()
        end = time.monotonic() + PATIENCE
        while flag.path.exists():
            assert time.monotonic() < end
            time.sleep(0.01)  # noqa: ASYNC251  # the loop hangs
        await safe.lift(flag)
        assert safe.expired == ["the flag flag"]

    assert [record["by"] for record in run(tmp_path, scenario)[1:]] == ["watchdog", "runner"]
    assert "the lease of a fault ran out, and the runner did not end it" in capfd.readouterr().err


def test_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that is to last so long at most ends then, though the loop turns."""
    monkeypatch.setattr(safety, "_RENEW_EVERY", 0.1)
    flag = Flag(tmp_path / "flag")

    async def scenario(safe: Safety) -> None:
        await safe.apply(flag, within=0.4)
        await asyncio.sleep(0.2)
        assert flag.path.exists()
        await until(lambda: not flag.path.exists())
        await until(lambda: safe.expired == ["the flag flag"])

    assert run(tmp_path, scenario)[1]["by"] in ("watchdog", "runner")


class OnTheWire(Act):
    """A fault on a proxy in this process, which nobody else can lift."""

    def __init__(self, proxy: FaultProxy, fault: WireFault) -> None:
        self.what = f"{fault} on {proxy.name}"
        self._proxy, self._fault = proxy, fault

    def undo(self) -> list[Undo]:
        return []

    async def begin(self) -> None:
        self._proxy.apply(self._fault)

    async def end(self) -> None:
        self._proxy.lift()


@pytest.mark.parametrize("fault", [Latency(30), BlackHole(), Reset("answer"), Refuse()], ids=str)
def test_a_fault_in_a_loop_that_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: WireFault) -> None:
    """While the loop hangs nothing passes its proxies; when it turns again their faults are over, and bytes pass."""
    monkeypatch.setattr(safety, "LEASE", 0.3)
    monkeypatch.setattr(safety, "_RENEW_EVERY", 0.1)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def scenario(safe: Safety) -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, FaultProxy("back", (host, port)) as proxy:
            await safe.apply(OnTheWire(proxy, fault), within=60)
            assert proxy.faults
            time.sleep(0.6)  # noqa: ASYNC251  # the loop hangs
            async with asyncio.timeout(0.5):
                await until(lambda: not proxy.faults)
                reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
                writer.write(b"well?")
                assert await reader.read(100) == b"well?"
                writer.close()
            assert safe.in_force == []
        assert safe.expired == [f"{fault} on back"]

    records = run(tmp_path, scenario)
    assert {record["record"] for record in records[1:]} == {"undone"}


def test_what_lasts_has_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made for the system lasts as long as the runner, whether the loop turns or not."""
    monkeypatch.setattr(safety, "LEASE", 0.1)
    flag = Flag(tmp_path / "flag")

    async def scenario(safe: Safety) -> None:
        await safe.apply(flag, lease=False)
        time.sleep(0.6)  # noqa: ASYNC251  # the loop hangs
        assert flag.path.exists()

    run(tmp_path, scenario)
    assert not flag.path.exists()


def test_needs_a_journal() -> None:
    """Without a journal there is no safety, and so no fault."""

    async def main() -> None:
        with Keeper() as keeper:
            async with Safety(keeper) as safe:
                with pytest.raises(RuntimeError, match="no journal"):
                    await safe.apply(Flag(Path("/nowhere")))

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_runner_is_gone(tmp_path: Path, number: signal.Signals) -> None:
    """Killed or frozen, a runner leaves no fault for longer than five seconds, and the watchdog says what it did."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER.replace("HANG", ""), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as runner:
        assert runner.stdout is not None
        assert runner.stderr is not None
        assert runner.stdout.readline() == b"up\n"
        assert (tmp_path / "one").exists()
        began = time.monotonic()
        runner.send_signal(number)
        while (tmp_path / "one").exists() or (tmp_path / "two").exists():
            assert time.monotonic() < began + 5
            time.sleep(0.01)
        if number is signal.SIGSTOP:
            assert os.waitid(os.P_PID, runner.pid, os.WEXITED | os.WNOHANG) is None
        runner.kill()
        said = runner.stderr.read().decode()
    assert said.index("undone: the flag two") < said.index("undone: the flag one")

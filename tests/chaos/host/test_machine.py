"""Faults of processor, memory, descriptors, disk and clock, on real processes."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hormesis.chaos import Process, ProcessSettings, free_port, marks
from hormesis.chaos.host import BlockingAct, Burn, Disk, FakeClock, FaultFailed, Fill, Hog, Lowered, Quota, Skew
from hormesis.chaos.host import neighbours as neighbours_module

Acting = Callable[[BlockingAct], AbstractContextManager[None]]
Start = Callable[..., subprocess.Popen[bytes]]

PATIENCE = 10.0

SPIN = "print('up', flush=True)\nwhile True: pass"

TRIES = """
import time
print("up", flush=True)
while True:
    try:
        kept = TRY
        print("ok", flush=True)
    except (OSError, MemoryError) as error:
        print("no", flush=True)
    kept = None
    time.sleep(0.005)
"""

CLOCK = """
import subprocess, time
print("up", flush=True)
boot = None
while True:
    now, monotonic = time.time(), time.monotonic()
    boot = boot or now - monotonic
    print(round(now - monotonic - boot), flush=True)
    time.sleep(0.02)
"""


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines(process: subprocess.Popen[bytes]) -> Callable[[], str]:
    """Return the function that returns the next line of a process which was not written yet when it was called."""
    assert process.stdout is not None
    file = process.stdout.fileno()
    os.set_blocking(file, False)

    def fresh() -> str:
        for _ in range(2):  # the first may have been under way
            while True:
                try:
                    os.read(file, 1 << 16)
                except BlockingIOError:
                    break
            end = time.monotonic() + PATIENCE
            data = b""
            while not data.endswith(b"\n"):
                assert time.monotonic() < end
                try:
                    data += os.read(file, 1 << 16)
                except BlockingIOError:
                    time.sleep(0.002)
        return data.split()[-1].decode()

    return fresh


def test_quota(acting: Acting, start: Start, mark: int) -> None:
    """A process with a quota gets no more of the processor than that, and all it wants afterwards."""
    process = start(SPIN)
    with acting(Quota("process shop", lambda: marks.find(mark), 0.2)):
        time.sleep(0.15)
        before = cpu_seconds(process.pid)
        time.sleep(0.6)
        assert 0 < cpu_seconds(process.pid) - before < 0.25
    assert "hormesis" not in Path(f"/proc/{process.pid}/cgroup").read_text()


def test_no_control_groups(tmp_path: Path) -> None:
    """Where no controller is mounted, or none may be used, that is said; version 2 is found where it is delegated."""
    mounts = tmp_path / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert "not mounted here" in str(Quota("process shop", list, 0.5, mounts).possible())
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert "not mounted here" in str(Quota("process shop", list, 0.5, mounts).possible())
    (tmp_path / "cgroup.subtree_control").write_text("memory cpu\n")
    quota = Quota("process shop", list, 0.5, mounts)
    assert quota.possible() is None
    quota.apply()
    (group,) = tmp_path.glob("hormesis-*")
    assert (group / "cpu.max").read_text() == "50000 100000"


def test_files(acting: Acting, start: Start, mark: int) -> None:
    """A process that may open only so many files more opens those, and no further one until the fault ends."""
    for left, fits in ((5, "ok"), (4, "no")):
        process = start(TRIES.replace("TRY", "[open('/dev/null') for _ in range(5)]"))
        fresh = lines(process)
        assert fresh() == "ok"
        # Between two tries nothing is open: the limit is what is open then.
        process.send_signal(19)
        while len(os.listdir(f"/proc/{process.pid}/fd")) > 3:
            process.send_signal(18)
            time.sleep(0.001)
            process.send_signal(19)
        with acting(Lowered("process shop", mark, "files", left)):
            process.send_signal(18)
            assert fresh() == fits
        assert fresh() == "ok"
        process.kill()
        process.wait()


def test_memory_limit(acting: Acting, start: Start, mark: int) -> None:
    """A process that may have only so much memory more gets none when it asks for more than that."""
    process = start(TRIES.replace("TRY", "bytearray(100_000_000)").replace("0.005", "0.1"))
    fresh = lines(process)
    assert fresh() == "ok"
    until(lambda: int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * 4096 < 90_000_000)
    with acting(Lowered("process shop", mark, "memory", 10_000_000)):
        assert fresh() == "no"
    assert fresh() == "ok"


def test_a_fault_is_inherited(tmp_path: Path) -> None:
    """What is started in the place of a process is born with its limits and in its quota; afterwards it is not."""
    settings = ProcessSettings(
        "shop",
        argv=[sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        port=free_port(),
        log=tmp_path / "log",
        restart_after=0,
    )
    shop = Process(settings)
    faults = [
        # So few files that the group could not be joined after this limit is felt: this process has more open.
        Lowered("process shop", shop.mark, "files", 6, shop.births),
        Lowered("process shop", shop.mark, "memory", 200_000_000, shop.births),
        Quota("process shop", shop.members, 0.9, births=shop.births),
    ]
    for fault in faults:
        if (reason := fault.possible()) is not None:
            assert "HORMESIS_NO_SKIPS" not in os.environ, reason
            pytest.skip(reason)

    def bears() -> list[bool]:
        pid = shop.pid or 0
        limits = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
        quota = "hormesis" in Path(f"/proc/{pid}/cgroup").read_text()
        return [*(resource.prlimit(pid, each)[0] != resource.getrlimit(each)[0] for each in limits), quota]

    async def up(times: int) -> list[bool]:
        """Wait until it was started so often, and say what it bears then."""
        async with asyncio.timeout(PATIENCE):
            while settings.log.read_text().count("up") < times:  # noqa: ASYNC110  # it writes for nobody else
                await asyncio.sleep(0.01)
        return bears()

    async def main() -> None:
        await shop.start()
        try:
            assert await up(1) == [False, False, False]
            undo = [step for fault in faults for step in fault.undo()]
            for fault in faults:
                await fault.begin()
            assert bears() == [True, True, True]
            shop.kill()
            assert await up(2) == [True, True, True]
            for fault in faults:
                await fault.end()
            for step in undo:
                step.act()
            assert bears() == [False, False, False]
            shop.kill()
            assert await up(3) == [False, False, False]
        finally:
            await shop.stop(grace=0)

    asyncio.run(main())


def test_limits_of_nobody(mark: int) -> None:
    """A process that does not run has no limits to lower."""
    lowered = Lowered("process shop", mark, "files", 5)
    assert lowered.undo() == []
    with pytest.raises(FaultFailed, match="5 more file descriptors on process shop can't be put into force"):
        lowered.apply()


@pytest.mark.parametrize("installed", [True, False])
def test_burn(acting: Acting, mark: int, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """Workers use the processor, with stress-ng and without it, and none is left."""
    if not installed:
        monkeypatch.setattr(neighbours_module, "find_program", lambda name: None)
    elif neighbours_module.find_program("stress-ng") is None:
        assert "HORMESIS_NO_SKIPS" not in os.environ
        pytest.skip("stress-ng is not installed")
    with acting(Burn(mark, 2, 0.5)):
        until(lambda: sum(map(cpu_seconds, marks.find(mark))) > 0.15)
        names = {Path(f"/proc/{pid}/comm").read_text().strip()[:9] for pid in marks.find(mark)}
        assert (names == {"stress-ng"}) is installed
    assert marks.find(mark) == []


def test_hog(acting: Acting, mark: int) -> None:
    """A hog holds its share of what was free, and gives it back."""
    free = neighbours_module._memory()["MemAvailable"]
    with acting(Hog(mark, 0.02)):
        (pid,) = marks.find(mark)
        held = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        assert 0.015 * free < held < 0.03 * free
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    assert marks.find(mark) == []


def test_hog_leaves_a_reserve(acting: Acting, mark: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is asked for, a hog stops while enough is left."""
    monkeypatch.setattr(neighbours_module, "_RESERVE", 2.0)
    with acting(Hog(mark, 0.9)):
        (pid,) = marks.find(mark)
        assert int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 < 50_000_000


def test_full_disk(acting: Acting, tmp_path: Path) -> None:
    """A full disk takes not one byte more, lets all be read, and has room again afterwards."""
    disk = Disk(tmp_path, 4_000_000)
    with acting(disk):
        (tmp_path / "old").write_text("here")
        with acting(Fill(disk)):
            assert (tmp_path / "old").read_text() == "here"
            with pytest.raises(OSError, match="space") as caught:
                (tmp_path / "new").write_text("x")
            assert caught.value.errno == errno.ENOSPC
        (tmp_path / "new").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_no_disk_but_its_own(tmp_path: Path) -> None:
    """A folder that is no disk of its own is never filled, and one with files in it is never hidden."""
    (tmp_path / "old").touch()
    for act, words in ((Fill(Disk(tmp_path, 1_000_000)), "no disk of its own"), (Disk(tmp_path, 1), "not empty")):
        with pytest.raises(FaultFailed, match=words):
            act.apply()
    assert [each.name for each in tmp_path.iterdir()] == ["old"]


def test_clock(acting: Acting, start: Start, tmp_path: Path) -> None:
    """The clock of a running process jumps and comes back; monotonic clock and sleeps go on, and nothing is left."""
    shared = set(os.listdir("/dev/shm"))
    clock = FakeClock(tmp_path / "clock")
    skew = Skew("process shop", clock, 3600)
    if skew.possible() is not None:
        with acting(skew):
            pass
    process = start(CLOCK, env=clock.environment({}))
    fresh = lines(process)
    assert fresh() == "0"
    with acting(skew):
        until(lambda: fresh() == "3600")
    until(lambda: fresh() == "0")
    with acting(Skew("process shop", clock, -60)):
        until(lambda: fresh() == "-60")
    process.kill()
    process.wait()
    marks.tidy([process.pid])
    assert set(os.listdir("/dev/shm")) == shared


def test_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was not started with such a clock can't have it wrong; without the library that is said."""
    skew = Skew("process shop", FakeClock(tmp_path / "clock"), 1)
    with pytest.raises(FaultFailed, match="was not started with a clock"):
        skew.apply()
    monkeypatch.setattr("hormesis.chaos.host.clock._LIBRARIES", ())
    assert "the package `faketime`" in str(skew.possible())


def test_sitecustomize_of_the_environment(start: Start, tmp_path: Path) -> None:
    """An environment that customises Python itself still does."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins; builtins.own = 'yes'\n")
    variables = FakeClock(tmp_path / "clock").environment({"PYTHONPATH": str(own)})
    code = "import builtins; print('up'); print(builtins.own, flush=True)"
    process = start(code, env={"PYTHONPATH": variables["PYTHONPATH"]})
    assert process.stdout is not None
    assert process.stdout.readline() == b"yes\n"
    without = {"PYTHONPATH": FakeClock(tmp_path / "clock").environment({})["PYTHONPATH"]}
    done = subprocess.run([sys.executable, "-c", ""], env={**os.environ, **without}, capture_output=True, check=True)
    assert done.stderr == b""

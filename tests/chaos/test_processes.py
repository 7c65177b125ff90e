"""Real processes: started, found ready, killed, frozen, restarted, and nothing of them left."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from hormesis.chaos import Keeper, Process, ProcessFailed, ProcessSettings, check_port_free, free_port, processes
from hormesis.errors import ConfigurationError

PATIENCE = 10.0

SERVER = """
import http.server, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()
        self.wfile.write(os.environ.get("WORD", "").encode())
print("hello from", os.getpid(), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
print("child", child.pid, flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("deaf", flush=True)
time.sleep(60)
"""


@asynccontextmanager
async def process(
    tmp_path: Path, code: str = SERVER, keeper: Keeper | None = None, **settings: Any
) -> AsyncIterator[Process]:
    """A process that runs Python code, with its port as the argument; stopped at the end."""
    port = free_port()
    argv = (sys.executable, "-c", code, str(port))
    values = {"argv": argv, "port": port, "log": tmp_path / "shop.log", **settings}
    made = Process(ProcessSettings("shop", **values), keeper)
    await made.start()
    try:
        yield made
    finally:
        await made.stop(grace=0.05)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario, and see that it leaves no open file behind."""

    async def main() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await scenario()

    gc.collect()  # what others left
    files = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) <= files  # what others left may go meanwhile


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # any condition, of any object
            await asyncio.sleep(0.01)


def state(pid: int) -> str:
    """Return the kernel's letter for what a process does; Z for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def is_reaped(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def grandchild(made: Process) -> int:
    """Return the number of the child that a process says it started; 0 before it did."""
    words = made.settings.log.read_text().split()
    return int(words[1]) if len(words) > 1 else 0


def test_ready_by_path(tmp_path: Path) -> None:
    """A process is ready when its path answers 2xx; it has its own variables and the runner's, and its log."""

    async def scenario() -> None:
        async with process(tmp_path, ready="/ready", env={"WORD": "sesame"}, cwd=tmp_path) as made:
            await made.wait_ready()
            assert made.running
            assert made.pid is not None
            assert os.getpgid(made.pid) == os.getsid(made.pid) == made.pid
            assert os.readlink(f"/proc/{made.pid}/cwd") == str(tmp_path)
            reader, writer = await asyncio.open_connection("127.0.0.1", made.settings.port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"sesame")
            writer.close()
            assert f"hello from {made.pid}" in made.settings.log.read_text()
        assert made.pid is None

    run(scenario)


def test_ready_by_port(tmp_path: Path) -> None:
    """Without a path, a process is ready when its port accepts."""

    async def scenario() -> None:
        async with process(tmp_path) as made:
            await made.wait_ready()
            with pytest.raises(ConfigurationError, match="in use"):
                check_port_free("127.0.0.1", made.settings.port, "process 'shop'")

    run(scenario)


def test_not_ready_in_time(tmp_path: Path) -> None:
    """A process whose path does not answer 2xx in time has failed, and what it wrote last is told."""

    async def scenario() -> None:
        async with process(tmp_path, ready="/other", ready_within=0.3) as made:
            await until(lambda: "hello" in made.settings.log.read_text())
            with pytest.raises(ProcessFailed, match=r"process 'shop' is not ready after 0\.3 s") as caught:
                await made.wait_ready()
            assert "503" in caught.value.log

    run(scenario)


def test_silence_is_not_ready(tmp_path: Path) -> None:
    """A port that accepts and never answers is not ready, and asking it leaves nothing open."""

    async def scenario() -> None:
        async with process(tmp_path, STUBBORN, ready="/", ready_within=0.3) as made:
            await until(lambda: "deaf" in made.settings.log.read_text())
            with pytest.raises(ProcessFailed, match="not ready after"):
                await made.wait_ready()

    run(scenario)


@pytest.mark.parametrize("restart_after", [None, 30])
def test_ended_before_ready(tmp_path: Path, restart_after: float | None) -> None:
    """A process that ends while it is waited for has failed at once; the error has its status and its last 20 lines."""

    async def scenario() -> None:
        code = "import sys; [print('line', n) for n in range(30)]; sys.exit(3)"
        async with process(tmp_path, code, restart_after=restart_after) as made:
            with pytest.raises(ProcessFailed, match="exit status 3") as caught:
                await made.wait_ready()
            assert caught.value.log.splitlines() == [f"line {number}" for number in range(10, 30)]
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"argv": ["no-such-command", "x"]}, ["process 'shop'", "'no-such-command'", "No such file"]),
        ({"argv": ["/etc/passwd"]}, ["process 'shop'", "'/etc/passwd'", "ermission denied"]),
        ({"cwd": Path("/no/such/place")}, ["process 'shop'", "/no/such/place"]),
        ({"log": Path("/no/such/place/log")}, ["process 'shop'", "/no/such/place/log"]),
    ],
)
def test_cannot_be_run(tmp_path: Path, settings: dict[str, Any], parts: list[str]) -> None:
    """A command, a directory or a log that is not there is told by process and name."""

    async def scenario() -> None:
        with pytest.raises(ConfigurationError) as caught:
            async with process(tmp_path, **settings):
                pass
        for part in parts:
            assert part in str(caught.value)

    run(scenario)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("argv", []),
        ("argv", "uvicorn shop:app"),
        ("port", 0),
        ("ready", "healthz"),
        ("ready", "/a b"),
        ("ready", "/a\r\nX: y"),
        ("ready_within", 0),
        ("restart_after", -1),
        ("stop", "SIGNAL"),
    ],
)
def test_settings(tmp_path: Path, key: str, value: object) -> None:
    """A setting that can't be meant is refused by its name."""
    good = {"argv": ["true"], "port": 1, "log": tmp_path / "log"}
    with pytest.raises(ConfigurationError) as caught:
        ProcessSettings("shop", **(good | {key: value}))  # type: ignore[arg-type]
    assert caught.value.key == key


def test_kill_takes_the_group(tmp_path: Path) -> None:
    """Killing a process kills what it started; without `restart_after` that is its end."""

    async def scenario() -> None:
        async with process(tmp_path, PARENT) as made:
            await until(lambda: grandchild(made))
            pid = made.pid or 0
            made.kill()
            await until(lambda: state(pid) == state(grandchild(made)) == "Z")
            await until(lambda: not made.running)
            made.kill()
            made.pause()
            made.resume()
            assert made.restarts == 0
            with pytest.raises(ProcessFailed, match="exit status -9"):
                await made.wait_ready()

    run(scenario)


def test_orphans_go_with_their_leader(tmp_path: Path) -> None:
    """When the process alone dies, what it left behind in its group is killed before anything else happens."""

    async def scenario() -> None:
        async with process(tmp_path, PARENT) as made:
            await until(lambda: grandchild(made))
            os.kill(made.pid or 0, signal.SIGKILL)
            await until(lambda: not made.running)
            await until(lambda: state(grandchild(made)) == "Z")

    run(scenario)


def test_restart(tmp_path: Path) -> None:
    """After an unexpected end the process is started again, and can be waited for while it is down."""

    async def scenario() -> None:
        async with process(tmp_path, ready="/ready", restart_after=0.1) as made:
            for count in (1, 2):
                await made.wait_ready()
                before = made.pid
                made.kill()
                await until(lambda: not made.running)
                await made.wait_ready()
                assert made.restarts == count
                assert made.pid != before
        await asyncio.sleep(0.15)
        assert not made.running
        assert made.restarts == 2

    run(scenario)


def test_restarts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that can't live is not restarted for ever."""
    monkeypatch.setattr("hormesis.chaos.processes._RESTARTS_MAX", 3)

    async def scenario() -> None:
        async with process(tmp_path, "print('again')", restart_after=0) as made:
            await until(lambda: made.restarts == 3 and not made.running)
            await asyncio.sleep(0.05)
            assert made.restarts == 3
            assert made.settings.log.read_text().split() == ["again"] * 4

    run(scenario)


def test_restart_that_fails(tmp_path: Path) -> None:
    """A command that is gone at a restart is noted in the log, and tried again."""

    async def scenario() -> None:
        command = tmp_path / "server"
        command.write_text("#!/bin/sh\nsleep 60\n")
        command.chmod(0o755)
        async with process(tmp_path, argv=[str(command)], restart_after=0.05) as made:
            command.rename(tmp_path / "away")
            made.kill()
            await until(lambda: made.restarts >= 2)
            assert "No such file" in made.settings.log.read_text()
            (tmp_path / "away").rename(command)
            await until(lambda: made.running)

    run(scenario)


def test_pause(tmp_path: Path) -> None:
    """A paused process and what it started stand still, and go on when resumed."""

    async def scenario() -> None:
        async with process(tmp_path, PARENT) as made:
            await until(lambda: grandchild(made))
            pids = (made.pid or 0, grandchild(made))
            made.pause()
            await until(lambda: [state(pid) for pid in pids] == ["T", "T"])
            assert made.running
            made.resume()
            await until(lambda: "T" not in [state(pid) for pid in pids])

    run(scenario)


def test_throttle(tmp_path: Path) -> None:
    """A throttled process stands still for most of the time, also after a restart, and runs freely when resumed."""

    async def scenario() -> None:
        async with process(tmp_path, PARENT, restart_after=0) as made:
            await until(lambda: grandchild(made))
            first = made.pid
            made.throttle(0.2)
            for _ in range(2):
                looks = []
                for _ in range(60):
                    looks.append(state(made.pid or 0))
                    await asyncio.sleep(0.013)
                assert 0.5 < looks.count("T") / len(looks) < 0.97
                made.kill()
                await until(lambda: made.running and made.pid != first)
            made.throttle(0.5)  # in place of the other
            made.resume()
            assert "T" not in [state(made.pid or 0) for _ in range(20) if not await asyncio.sleep(0.013)]
            made.throttle(0.01)

    run(scenario)


@pytest.mark.parametrize("pidfd", [True, False])
@pytest.mark.parametrize("code", [PARENT, STUBBORN])
@pytest.mark.parametrize("paused", [True, False])
def test_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, code: str, paused: bool, pidfd: bool) -> None:
    """Stopping ends a process that obeys, one that doesn't and one that is paused, with and without a pidfd."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")

    async def scenario() -> None:
        async with process(tmp_path, code, restart_after=0) as made:
            if code == PARENT:
                await until(lambda: grandchild(made))
            else:
                await made.wait_ready()
            pid = made.pid or 0
            if paused:
                made.pause()
            await asyncio.gather(made.stop(grace=0.05), made.stop(grace=0.05))
            await made.stop()
            assert is_reaped(pid)
            assert made.restarts == 0
            if code == PARENT:
                await until(lambda: state(grandchild(made)) == "Z")

    run(scenario)


def test_stop_lets_clean_up(tmp_path: Path) -> None:
    """A process that cleans up when it is asked to end has the time to do so."""
    code = """
import signal, sys, time
def end(*_):
    time.sleep(0.2)
    sys.exit(print("clean"))
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""

    async def scenario() -> None:
        async with process(tmp_path, code) as made:
            await until(lambda: "ready" in made.settings.log.read_text())
            await made.stop(grace=PATIENCE)
            assert "clean" in made.settings.log.read_text()

    run(scenario)


def test_cancelled_stop(tmp_path: Path) -> None:
    """Cancelling a stop, or a wait, leaves no process."""

    async def scenario() -> None:
        async with process(tmp_path, STUBBORN, ready="/") as made:
            pid = made.pid or 0
            await until(lambda: "deaf" in made.settings.log.read_text())
            for waiting in (made.wait_ready(), made.stop(grace=60)):
                task = asyncio.create_task(waiting)
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert is_reaped(pid)

    run(scenario)


def test_start_twice(tmp_path: Path) -> None:
    """A process is started once; after it was stopped, it can be started again."""

    async def scenario() -> None:
        async with process(tmp_path) as made:
            with pytest.raises(RuntimeError, match="started already"):
                await made.start()
            await made.stop()
            await made.start()
            await made.wait_ready()

    run(scenario)


def test_kill_by_another_signal(tmp_path: Path) -> None:
    """A process can be killed by a signal that it may survive."""

    async def scenario() -> None:
        async with process(tmp_path, STUBBORN) as made:
            await until(lambda: "deaf" in made.settings.log.read_text())
            made.kill(signal.SIGTERM)
            await asyncio.sleep(0.05)
            assert made.running
            made.kill(signal.SIGUSR1)  # which no shell has its children ignore
            await until(lambda: not made.running)

    run(scenario)


@pytest.mark.parametrize("restart_after", [None, 0])
def test_crash_loop(tmp_path: Path, restart_after: float | None) -> None:
    """A process crashes again and again, whether somebody restarts it or not, until that is taken back."""

    async def scenario() -> None:
        async with process(tmp_path, restart_after=restart_after) as made:
            seen = {made.pid}
            made.crash_loop(0.05)
            await until(lambda: seen.add(made.pid) or len(seen - {None}) >= 4)
            await made.recover()
            await made.wait_ready()
            last = made.pid
            await asyncio.sleep(0.2)
            assert made.pid == last
            assert made.restarts > 2 or restart_after is None

    run(scenario)


def test_taken_back_at_once(tmp_path: Path) -> None:
    """A process that was killed and is not yet seen to be dead is started again when that is taken back."""

    async def scenario() -> None:
        async with process(tmp_path) as made:
            first = made.pid
            made.kill()
            assert made.running
            await made.recover()
            assert made.running
            assert made.pid != first

    run(scenario)


def test_crash_loop_of_what_can_not_be_started(tmp_path: Path) -> None:
    """A command that is gone keeps a crash loop from nothing but crashing; taking it back says what is missing."""

    async def scenario() -> None:
        command = tmp_path / "server"
        command.write_text("#!/bin/sh\nsleep 60\n")
        command.chmod(0o755)
        async with process(tmp_path, argv=[str(command)]) as made:
            command.unlink()
            made.crash_loop(0.05)
            await until(lambda: "can't be run" in made.settings.log.read_text())
            with pytest.raises(ConfigurationError, match="can't be run"):
                await made.recover()

    run(scenario)


def test_a_start_of_which_nothing_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no number of an error, but words, is told in these."""

    def spawn(*args: object, **options: object) -> None:
        raise TimeoutError("nothing was heard of it for 20 s")

    monkeypatch.setattr("hormesis.chaos.processes.spawn", spawn)

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match="can't be run: nothing was heard of it for 20 s"):
            async with process(tmp_path):
                pass

    run(scenario)


def test_restart_in_order(tmp_path: Path) -> None:
    """A process that is restarted ends in order, is started again, and that counts as no crash."""
    code = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit()))\n"
    code += "print('up', flush=True); time.sleep(60)"

    async def scenario() -> None:
        async with process(tmp_path, code, restart_after=30) as made:
            words = made.settings.log.read_text
            await until(lambda: words().split() == ["up"])
            made.restart(grace=5)
            await until(lambda: words().split() == ["up", "bye", "up"])
            assert made.running
            assert made.restarts == 0

    run(scenario)


def test_restart_broken_off(tmp_path: Path) -> None:
    """A restart that is taken back while the process still ends leaves it running all the same."""

    async def scenario() -> None:
        async with process(tmp_path, STUBBORN) as made:
            await until(lambda: "deaf" in made.settings.log.read_text())
            first = made.pid
            made.restart(grace=60)
            await asyncio.sleep(0.05)
            await made.recover()
            await made.wait_ready()
            assert made.pid not in (first, None)

    run(scenario)


def test_set_up_ready_and_stop(tmp_path: Path) -> None:
    """Commands set a process up, say when it is ready, and end it; all have its directory, variables and log."""
    setup = [["sh", "-c", "echo set up $WORD in $PWD; rm -f ready stop; touch made"], ["test", "-e", "made"]]
    code = "import os, sys, time; open('ready', 'w').close()\nwhile not os.path.exists('stop'): time.sleep(0.01)\n"
    code += "print('in order', flush=True)"

    async def scenario() -> None:
        async with process(
            tmp_path,
            code,
            cwd=tmp_path,
            env={"WORD": "sesame"},
            setup=setup,
            ready_argv=["test", "-e", "ready"],
            stop=["touch", "stop"],
        ) as made:
            await made.stop()
            await made.set_up()
            assert f"set up sesame in {tmp_path}" in made.settings.log.read_text()
            await made.start()
            await made.wait_ready()
            await made.stop(grace=5)
            assert "in order" in made.settings.log.read_text()

    run(scenario)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sh", "-c", "echo no room; exit 3"], "needs 'sh' to set it up, which ended with status 3"),
        (["sleep", "60"], "needs 'sleep' to set it up, which did not end within 0.2 s"),
    ],
)
def test_set_up_that_fails(tmp_path: Path, argv: list[str], words: str) -> None:
    """A command that fails, or does not end, is told, and is not left running."""

    async def scenario() -> None:
        async with process(tmp_path, setup=[argv], ready_within=0.2) as made:
            with pytest.raises(ProcessFailed, match=words):
                await made.set_up()
            assert len(made.members()) == 1

    run(scenario)


def test_stop_command_that_hangs(tmp_path: Path) -> None:
    """When the command that should end it hangs, it is killed after its grace."""

    async def scenario() -> None:
        async with process(tmp_path, STUBBORN, stop=["sleep", "60"]) as made:
            await until(lambda: "deaf" in made.settings.log.read_text())
            await made.stop(grace=0.1)
            assert made.pid is None
            assert made.members() == []

    run(scenario)


AWAY = """
import os, subprocess, sys, time
child = subprocess.Popen(["setsid", "sleep", "60"], env={})
while os.getsid(child.pid) != child.pid:
    time.sleep(0.01)
print("child", child.pid, flush=True)
time.sleep(60)
"""


def test_what_left_the_group(tmp_path: Path) -> None:
    """What a process started in a session of its own is frozen, throttled, thawed and killed with it."""

    async def scenario() -> None:
        async with process(tmp_path, AWAY) as made:
            await until(lambda: grandchild(made))
            child = grandchild(made)
            assert sorted(made.members()) == sorted([made.pid or 0, child])
            made.pause()
            await until(lambda: state(child) == "T")
            made.resume()
            await until(lambda: state(child) != "T")
            made.throttle(0.2)
            await until(lambda: state(child) == "T")
            await made.recover()
            await until(lambda: state(child) != "T")
            made.kill()
            await until(lambda: state(child) == "Z")

    run(scenario)


def test_keeper_is_told(tmp_path: Path) -> None:
    """The keeper knows of every process that runs, restarted ones too, and of no other."""

    class Told(Keeper):
        def _pipe(self) -> IO[bytes]:
            return pipe

    async def scenario() -> None:
        async with process(tmp_path, keeper=Told(), restart_after=0) as made:
            first = made.pid
            made.kill()
            await until(lambda: made.restarts == 1 and made.running)
            second = made.pid
        said = os.read(hears, 1000).decode().split()
        assert said == [f"+{first}", f"-{first}", f"+{second}", f"-{second}"]

    hears, told = os.pipe()
    with os.fdopen(hears, "rb"), os.fdopen(told, "wb", buffering=0) as pipe:
        run(scenario)


def test_keeper_that_is_dead(tmp_path: Path) -> None:
    """A process that the keeper can't be told of is not left running."""

    async def scenario() -> None:
        keeper = Keeper()
        keeper.start()
        assert keeper._process is not None
        keeper._process.kill()
        keeper._process.wait()
        with pytest.raises(OSError, match="the keeper has died"):
            async with process(tmp_path, PARENT, keeper=keeper):
                pass
        keeper.close()

    run(scenario)


def test_ports() -> None:
    """A free port can be listened on; one in use is told by number and by whose it was to be."""
    port = free_port()
    check_port_free("127.0.0.1", port, "process 'shop'")
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigurationError, match=f"^port {port} of process 'shop' is in use; "),
    ):
        check_port_free("127.0.0.1", port, "process 'shop'")
    with pytest.raises(ConfigurationError, match="can't be listened on"):
        check_port_free("192.0.2.1", port, "process 'shop'")


def test_free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """No port is returned twice, and none is one that the system hands out by itself, unless no other is left."""
    first = processes._first_ephemeral()
    ports = [free_port() for _ in range(300)]
    assert len(set(ports)) == 300
    assert all(20_000 <= port < first for port in ports)
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(processes, "_returned", deque())
        monkeypatch.setattr(processes, "_PORTS_FROM", taken)
        monkeypatch.setattr(processes, "_first_ephemeral", lambda: taken + 1)
        assert free_port() not in {taken, *ports}


def test_a_port_on_which_somebody_else_listens(tmp_path: Path) -> None:
    """A process whose port is taken is not started: what answers there would pass for it."""

    async def scenario() -> None:
        port = free_port()
        settings = ProcessSettings("shop", argv=["sleep", "60"], port=port, log=tmp_path / "log", restart_after=0)
        message = f"port {port} of process 'shop' is in use"
        with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigurationError, match=message):
            await Process(settings).start()
        assert not settings.log.exists()

    run(scenario)

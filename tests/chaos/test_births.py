"""How commands come into the world: marked, known to the keeper, limited, and otherwise as if started directly."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hormesis.chaos import Keeper, births, marks
from hormesis.chaos.births import Birth, join, lower, spawn

LOOK = """
import json, os, resource, signal, sys
files = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
with open("/proc/self/status") as status:
    ignored = next(line.split()[1] for line in status if line.startswith("SigIgn"))
print(json.dumps([sys.argv[1:], dict(os.environ), files, ignored, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


def look(process: subprocess.Popen[bytes]) -> list[object]:
    return list(json.loads(process.communicate()[0]))


@pytest.mark.parametrize("env", [None, {}, {"PATH": "/bin:/usr/bin", "EMPTY": "", "LC_ALL": "C", "ODD": "a=b\n\udcff"}])
def test_as_if_started_directly(env: dict[str, str] | None) -> None:
    """Words, variables, files and signals are those that the command would have without us."""
    argv = [sys.executable, "-S", "-c", LOOK, "", "two words", "ö\n\udcff"]
    directly = subprocess.Popen(argv, env=dict(os.environ) if env is None else env, stdout=subprocess.PIPE)
    assert look(spawn(argv, env=env, stdout=subprocess.PIPE)) == look(directly)


def test_what_an_interpreter_ignores() -> None:
    """A command hears the signals that an interpreter ignores: `yes` ends when nobody reads any more."""
    with spawn(["yes"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(20) == -signal.SIGPIPE


def test_by_its_path(tmp_path: Path) -> None:
    """A command is looked for where its own variables say, and relative to its own directory."""
    for number, folder in enumerate(("one", "two")):
        program = tmp_path / folder / "program"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\nexit {number + 3}\n")
        program.chmod(0o755)
    (tmp_path / "one" / "program").chmod(0o644)
    path = {"PATH": f"{tmp_path / 'none'}:{tmp_path / 'one'}:{tmp_path / 'two'}"}
    assert spawn(["program"], env=path).wait() == 4
    assert spawn(["two/program"], cwd=tmp_path).wait() == 4


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["no-such-program"], FileNotFoundError),
        (["/no/such/program"], FileNotFoundError),
        (["/dev/null"], PermissionError),
        (["/bin/sh/sh"], NotADirectoryError),
    ],
)
def test_no_command(argv: list[str], error: type[OSError]) -> None:
    """What can't be run is said with the error that it would have had, and leaves nothing behind."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        spawn(argv, stdout=subprocess.PIPE)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_one_that_may_not_be_run_is_not_missing(tmp_path: Path) -> None:
    """When one is there but can't be run, that is said, not that another folder has none."""
    (tmp_path / "program").touch()
    with pytest.raises(PermissionError):
        spawn(["program"], env={"PATH": f"/none:{tmp_path}:/none"})


@pytest.mark.parametrize(("argv", "env"), [([], None), (["a\0b"], None), (["true"], {"A": "\0"})])
def test_nonsense(argv: list[str], env: dict[str, str] | None) -> None:
    """What no command can be is refused before anything is started."""
    with pytest.raises(ValueError, match=r"NUL|empty"):
        spawn(argv, env=env)


def test_born_with_limits() -> None:
    """A limit is lowered, never raised; a group that is gone, or a limit that can't be, keeps nobody from running."""
    argv = [sys.executable, "-S", "-c", LOOK]
    limit = resource.RLIMIT_NOFILE
    born = [join("/no/such/group"), lower(10_000, 1), lower(limit, 50), lower(limit, 60)]
    assert look(spawn(argv, births=born, stdout=subprocess.PIPE))[-1] == 50


def test_born_with_next_to_nothing() -> None:
    """One is born with less memory and fewer files than an interpreter needs."""
    least = [lower(resource.RLIMIT_AS, 4_000_000), lower(resource.RLIMIT_NOFILE, 4)]
    assert spawn(["true"], births=least).wait() == 0


def test_where_many_files_are_open() -> None:
    """A runner with thousands of connections can still start something."""
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert max(many) > 1024
        assert spawn(["true"]).wait() == 0
    finally:
        for number in many:
            os.close(number)


def test_marked_and_known() -> None:
    """It bears its mark and the keeper knows of it before it runs; it does not hold the keeper's pipe."""
    with Keeper() as keeper:
        mark = keeper.new_mark()
        code = "import os, time; print(len(os.listdir('/proc/self/fd')), flush=True); time.sleep(60)"
        with spawn([sys.executable, "-c", code], mark=mark, keeper=keeper, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert marks.find(mark) == [process.pid]
            assert process.stdout.readline() == b"4\n"
            keeper.close()
            assert process.wait(20) == -signal.SIGKILL


def test_a_keeper_that_has_died() -> None:
    """Nothing is started that nobody would clean up."""
    with Keeper() as keeper:
        assert keeper._process is not None
        keeper._process.kill()
        keeper._process.wait()
        with pytest.raises(OSError, match="the keeper has died"):
            spawn(["sleep", "60"], keeper=keeper)
    with pytest.raises(RuntimeError, match="not running"):
        spawn(["sleep", "60"], keeper=keeper)


def test_one_that_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that hangs is given up, and killed."""
    monkeypatch.setattr(births, "_WITHIN", 0.2)
    with Birth(["true"]) as birth:
        popen = subprocess.Popen(["sleep", "60"], pass_fds=birth.pass_fds)
        with pytest.raises(TimeoutError, match="nothing was heard"):
            birth.begun()
        popen.kill()
        popen.wait()


GRPC = """
import asyncio, os, subprocess, sys, threading
import grpc.aio
from hormesis.chaos.births import spawn

async def busy(ready):
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    call = grpc.aio.insecure_channel(f"127.0.0.1:{port}").unary_unary("/s/m")
    while True:
        await call(b"x")
        ready.set()

ready = threading.Event()
threading.Thread(target=lambda: asyncio.run(busy(ready)), daemon=True).start()
assert ready.wait(20)
print(sum(spawn(["true"], start_new_session=True).wait() != 0 for _ in range(60)), flush=True)
os._exit(0)
"""


def test_beside_grpc() -> None:
    """Where gRPC is busy every start succeeds: in a fork it would wake up and end one of ten."""
    pytest.importorskip("grpc")
    done = subprocess.run([sys.executable, "-c", GRPC], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0\n", done.stderr

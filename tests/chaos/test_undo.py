"""How a fault is taken back, as data: each kind does what it says, twice is as good as once, and JSON loses nothing."""

from __future__ import annotations

import http.server
import json
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hormesis.chaos import marks
from hormesis.chaos.births import spawn
from hormesis.chaos.undo import (
    Cgroup,
    Limit,
    NotUndone,
    Remove,
    Request,
    Run,
    Signal,
    Undo,
    Write,
    from_data,
    to_data,
)

EXAMPLES: list[Undo] = [
    Signal(5, signal.SIGCONT, 77, "1234"),
    Limit(5, resource.RLIMIT_NOFILE, -1),
    Run(["ip", "netns", "del", "x"], gone=["No such file"], within=3.0),
    Write("/tmp/x", "+0\n"),
    Remove("/tmp/x"),
    Cgroup("/sys/fs/cgroup/cpu/x"),
    Request("DELETE", "http://127.0.0.1:8474/proxies/x/toxics/y", {"A": "b"}, "{}"),
]


@pytest.mark.parametrize("undo", EXAMPLES, ids=lambda undo: undo.kind)
def test_as_json(undo: Undo) -> None:
    """Every kind survives being written down, and says in words what it does."""
    assert from_data(json.loads(json.dumps(to_data(undo)))) == undo
    assert str(undo)


@pytest.mark.parametrize("table", [{}, {"kind": "explode"}, {"kind": "remove"}, {"kind": "remove", "file": "x"}])
def test_no_undo(table: dict[str, Any]) -> None:
    """What is none is refused and shown."""
    with pytest.raises(ValueError, match="is no undo"):
        from_data(table)


@pytest.mark.parametrize("group", [False, True])
def test_signal(group: bool) -> None:
    """A frozen process is thawed by its mark, or by its group where there are no marks; a stranger's group is not."""
    mark = marks.member(marks.new_run(), 1)
    process = spawn(["sleep", "60"], mark=None if group else mark, start_new_session=True)
    started = marks.started(process.pid)
    process.send_signal(signal.SIGSTOP)
    if group:
        Signal(mark, signal.SIGTERM, process.pid, started + "1").act()
        Signal(mark, signal.SIGTERM, process.pid, started).act()
        process.send_signal(signal.SIGCONT)
        assert process.wait() == -signal.SIGTERM
    else:
        Signal(mark, signal.SIGCONT).act()
        Signal(mark, signal.SIGKILL).act()
        assert process.wait() == -signal.SIGKILL
    Signal(mark, signal.SIGKILL, process.pid, started).act()


def test_limit() -> None:
    """A soft limit is set back, for the process and for what it started since; but never above the hard one."""
    mark = marks.member(marks.new_run(), 1)
    process = spawn(["sleep", "60"], mark=mark)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (7, hard))
    Limit(mark, resource.RLIMIT_NOFILE, 200).act()
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (200, hard)
    Limit(mark, resource.RLIMIT_NOFILE, hard + 1).act()
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    process.kill()
    process.wait()
    Limit(mark, resource.RLIMIT_NOFILE, 200).act()


def test_run() -> None:
    """A command that fails, hangs or isn't there is not undone; one that finds nothing to undo any more is."""
    Run(["true"]).act()
    Run(["sh", "-c", "echo no such thing >&2; exit 2"], gone=["such thing"]).act()
    with pytest.raises(NotUndone, match=r"status 2: no such thing"):
        Run(["sh", "-c", "echo no such thing >&2; exit 2"], gone=["other"]).act()
    with pytest.raises(NotUndone, match=r"did not end within 0\.1 s"):
        Run(["sleep", "60"], within=0.1).act()
    with pytest.raises(FileNotFoundError):
        Run(["/no/such/program"]).act()


def test_files(tmp_path: Path) -> None:
    """A file is overwritten if it is there, and deleted if it is there."""
    path = tmp_path / "clock"
    Write(str(path), "+0\n").act()
    assert not path.exists()
    path.write_text("+3600 x2\n")
    for _ in range(2):
        Write(str(path), "+0\n").act()
        assert path.read_text() == "+0\n"
    for _ in range(2):
        Remove(str(path)).act()
        assert not path.exists()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that answers with the status that its path names, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.append(f"{self.path} {self.headers.get('A')} {body}")
            self.send_response(int(self.path.split("?")[0].strip("/")))
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}", asked
        made.shutdown()
        thread.join()


def test_request(server: tuple[str, list[str]]) -> None:
    """A request is sent as it was written down; that nothing is there any more is well, any other refusal is not."""
    url, asked = server
    Request("DELETE", f"{url}/204?now=1", {"A": "b"}, "body").act()
    assert asked == ["/204?now=1 b body"]
    Request("DELETE", f"{url}/404").act()
    with pytest.raises(NotUndone, match="was answered 500"):
        Request("DELETE", f"{url}/500").act()
    with pytest.raises(NotUndone, match="refused"):
        Request("DELETE", "http://127.0.0.1:1/").act()

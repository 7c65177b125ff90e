"""Experiments of the Chaos Toolkit, written short, and run in this process."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hormesis.gameday.chaostoolkit.experiment import validate
from hormesis.gameday.chaostoolkit.journal import Journal
from hormesis.gameday.chaostoolkit.runner import Experiment, Settings, resolve
from hormesis.gameday.chaostoolkit.threads import Worker
from hormesis.gameday.chaostoolkit.values import Table

MODULE = """
import time


def say(value):
    return value


def fail():
    raise RuntimeError("boom")


def slow(seconds):
    time.sleep(seconds)


def stubborn():
    while True:
        try:
            time.sleep(0.05)
        except Exception:
            pass


def judge(value, wanted):
    return value == wanted


def given(configuration=None, secrets=None):
    return {"configuration": configuration, "secrets": secrets}
"""


def python(func: str, module: str = "experiments", **arguments: Any) -> Table:
    return {"type": "python", "module": module, "func": func, "arguments": arguments}


def process(path: str, arguments: Any = (), **more: Any) -> Table:
    return {
        "type": "process",
        "path": path,
        "arguments": list(arguments) if isinstance(arguments, tuple) else arguments,
        **more,
    }


def action(name: str, provider: Table, **more: Any) -> Table:
    return {"type": "action", "name": name, "provider": provider, **more}


def probe(name: str, provider: Table, **more: Any) -> Table:
    return {"type": "probe", "name": name, "provider": provider, **more}


def experiment(probes: list[Table] | None = None, **parts: Any) -> Table:
    """Return an experiment; without probes there is no hypothesis."""
    whole: Table = {"title": "A test", "description": "It is short", "method": [], **parts}
    if probes is not None:
        whole["steady-state-hypothesis"] = {"title": "All is well", "probes": probes}
    return whole


STEADY = probe("steady", python("say", value=1), tolerance=1)
UNBROKEN = probe("unbroken", python("exists", "os.path", path="broken"), tolerance=False)
BREAK = action("break", process("touch", ["broken"]))
MEND = action("mend", process("rm", ["broken"]))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a module for Python providers."""
    (tmp_path / "experiments.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


Run = Callable[..., Journal]


@pytest.fixture
def run() -> Run:
    """Return the function that runs an experiment to its end; `meanwhile` may interrupt it."""

    def run(
        whole: Table,
        *,
        meanwhile: Callable[[Experiment], Any] | None = None,
        given: Table | None = None,
        **strategies: Any,
    ) -> Journal:
        whole = json.loads(json.dumps(whole))
        validate(whole)

        async def main() -> Journal:
            worker = Worker("configuration")
            values = await resolve(whole, given or {}, worker, None)
            worker.close()
            journal = Journal(whole)
            running = Experiment(whole, values, Settings.of(whole, **strategies), journal)
            watcher = None if meanwhile is None else asyncio.ensure_future(meanwhile(running))
            await running.run()
            journal.table["held"] = running.held
            if watcher is not None:
                await watcher
            return journal

        return asyncio.run(main())

    return run


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/hang":
            time.sleep(1)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        told = {"method": self.command, "path": self.path, "token": self.headers.get("X-Token"), "body": body}
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815  # the names that the library looks for

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def serving() -> Iterator[str]:
    """A server that tells what it was asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()

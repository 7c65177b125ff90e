"""`hormesis explore`, as its users start it, on a system of four small processes with failures planted in it.

The front asks a first source, a second one when that fails, and a third for what can be done without. Planted are a
pair, which no single fault shows: the first source and the second gone at the same time; and a call without a timeout.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hormesis.cli import main

pytestmark = pytest.mark.system

PATIENCE = 120.0
"""Seconds after which something that should happen won't."""

NODE = r'''
import asyncio, os, sys
from urllib.parse import urlsplit

import hormesis as hm

POLICIES = hm.load(os.environ["POLICIES"]) if "POLICIES" in os.environ else None


async def fetch(url):
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head:
            raise ConnectionError(head)
        return await reader.readexactly(2)
    finally:
        writer.close()


async def ask(name):
    return await POLICIES[name].acall(fetch, os.environ[name.upper() + "_URL"])


async def answer():
    """The second source stands in for the first; what the third adds can be done without."""
    degraded = False
    try:
        await ask("first")
    except Exception:
        degraded = True
        try:
            await ask("second")
        except Exception:
            return 503, True
    try:
        await ask("extra")
    except Exception:
        degraded = True
    return 200, degraded


async def serve(reader, writer):
    try:
        while (line := await reader.readline()):
            while (await reader.readline()).strip():
                pass
            path = line.split()[1]
            status, degraded = (200, False) if POLICIES is None or path == b"/healthz" else await answer()
            mark = "X-Degraded: stale\r\n" if degraded else ""
            writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 2\r\n{mark}\r\nok".encode())
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
'''

POLICIES = """
# How the front calls the others.
[policy.first]
timeout = "100ms"   # it answers in a few milliseconds

[policy.second]
timeout = "100ms"

# What it adds is worth having, but not worth waiting for.
[policy.extra]
circuit_breaker = { failure_rate = 0.5, minimum_calls = 10, open_for = "1s" }
"""

GAMEDAY = """
title = "Planted"
seed = 3
[run]
calm = "400ms"
dose = "800ms"
recovery = "500ms"
detection = "200ms"
recover_within = "300ms"
[system.process.front]
command = "python node.py {port}"
env = { POLICIES = "policies.toml" }
ready = "/healthz"
[system.process.one]
command = "python node.py {port}"
[system.process.two]
command = "python node.py {port}"
[system.process.three]
command = "python node.py {port}"
[system.edge.first]
from = "front"
to = "one"
env = { FIRST_URL = "http://{host}:{port}" }
[system.edge.second]
from = "front"
to = "two"
env = { SECOND_URL = "http://{host}:{port}" }
[system.edge.extra]
from = "front"
to = "three"
env = { EXTRA_URL = "http://{host}:{port}" }
[load]
to = "front"
rate = "80/s"
timeout = "2s"
[[load.request]]
name = "page"
get = "/"
[objective.page]
success = 0.95
p99 = "400ms"
contained = { success = 0.0, answered = 0.95, p99 = "500ms" }
[[stress]]
name = "first gone"
edge = "first"
fault = { black_hole = true }
"""


def planted(folder: Path) -> Path:
    """Write the system into a folder."""
    for name, text in (("node.py", NODE), ("policies.toml", POLICIES), ("gameday.toml", GAMEDAY)):
        (folder / name).write_text(text)
    return folder


def hormesis(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "hormesis", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


@dataclass(frozen=True)
class Exploring:
    """An exploration under way."""

    folder: Path
    process: subprocess.Popen[str]

    def found(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end; returns the exit status and what was found."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        assert out, errors
        return self.process.returncode, json.loads(out)


EXPLORATIONS = {
    "pair": ["--only", "edge first", "--only", "edge second", "--kind", "black_hole", "--within", "24s"],
    "timeout": ["--only", "edge extra", "--kind", "latency", "--singles", "--within", "50s"],
}


@pytest.fixture(scope="module", autouse=True)
def explorations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Exploring]]:
    """Explorations that take long, each of a system of its own: they begin at once, and go on beside each other."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name, arguments in EXPLORATIONS.items():
            folder = planted(tmp_path_factory.mktemp(name))
            process = hormesis(folder, "explore", "gameday.toml", "--json", "--corpus", "corpus", *arguments)
            stack.enter_context(process)
            stack.callback(process.terminate)
            started[name] = Exploring(folder, process)
        yield started


def faults(finding: dict[str, Any]) -> set[tuple[str, str]]:
    return {(each["target"], each["kind"]) for each in finding["faults"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--within", "1s"], "--within is '1s'; it takes the time of two trials at least"),
        (["--arm", "bear"], "--arm: unknown arm 'bear'; known are: system"),
        (["--only", "edge frist"], "--only: unknown place 'edge frist' (did you mean 'edge first'?)"),
        (["--kind", "latncy"], "--kind: unknown kind of fault 'latncy' (did you mean 'latency'?)"),
        (["--policies", "gameday.toml"], "gameday.toml: unknown table 'title'"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """One clear message, before anything is started."""
    folder = planted(tmp_path)
    files = [str(folder / each) if each.endswith(".toml") else each for each in ["gameday.toml", *arguments]]
    assert main(["explore", *files, "--out", str(folder / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_report_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told before anything is started, not when all of it is over."""
    folder = planted(tmp_path)
    (folder / "out" / "explore.html").mkdir(parents=True)
    assert main(["explore", str(folder / "gameday.toml"), "--within", "60s", "--out", str(folder / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "explore.html can't be written to: Is a directory" in printed.err


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it in order, with what was found so far."""
    with hormesis(planted(tmp_path), "explore", "gameday.toml", "--json", "--within", "60s") as process:
        assert process.stderr is not None
        while "without a fault" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, _ = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 15
    assert process.returncode == 130
    found = json.loads(out)
    assert not found["complete"]
    assert sum(found["counts"][fate] for fate in FATES) == len(found["explored"])


def test_the_planted_pair_is_found(explorations: dict[str, Exploring]) -> None:
    """The pair is found and kept, and nothing that is harmless is found; the counts add up."""
    status, found = explorations["pair"].found()
    assert status == 1, found
    (finding,) = found["findings"]
    assert faults(finding) == {("edge first", "black_hole"), ("edge second", "black_hole")}
    assert sum(found["counts"][fate] for fate in FATES) == len(found["explored"]) == 2 + 1
    single = {each["faults"][0]["target"]: each["why"] for each in found["explored"] if len(each["faults"]) == 1}
    assert single["edge second"] == "nothing passes there"
    assert (explorations["pair"].folder / finding["case"]).exists()


def test_the_missing_timeout_is_named(explorations: dict[str, Exploring]) -> None:
    """What is found is made mild, a timeout is named for it, and with the proposed diff the game day holds it."""
    status, found = explorations["timeout"].found()
    assert status == 1, found
    (finding,) = found["findings"]
    assert faults(finding) == {("edge extra", "latency")}
    assert finding["named"] == "extra: a timeout of 200ms", finding["changes"]
    change = next(each for each in finding["changes"] if each["change"] == finding["named"])
    assert change["effect"] == "contains it"
    assert change["cost"]["goodput"] <= 0.01
    assert '\n+timeout = "200ms"' in finding["diff"]

    folder = explorations["timeout"].folder
    subprocess.run(["patch", "-p1"], input=finding["diff"], text=True, cwd=folder, check=True, capture_output=True)
    arguments = ["gameday.toml", "--corpus", "corpus", "--only", "first gone", "--json"]
    with hormesis(folder, "gameday", *arguments) as process:
        out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out or errors
    assert [each["name"] for each in json.loads(out)["stresses"]] == ["corpus 1 - edge extra latency", "first gone"]


FATES = ("survived", "degraded", "failed", "inconclusive", "pruned", "left out")

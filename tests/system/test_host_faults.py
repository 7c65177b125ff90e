"""Faults of processes and hosts in a game day, each on a real system, and what a caller sees of it."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hormesis import tables
from hormesis.gameday import run_gameday
from hormesis.gameday.results import Phase
from hormesis.gameday.stress import Stress
from hormesis.gameday.system import how_undone, impossible

pytestmark = pytest.mark.system

SERVER = """
import http.server, mmap, os, sys, time

started = time.time() - time.monotonic()
kept = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200
        try:
            if self.path == "/disk":
                with open(os.path.join(sys.argv[3], str(time.monotonic_ns())), "wb") as file:
                    file.write(b"x" * 4096)
            elif self.path == "/clock":
                status = 200 if abs(time.time() - time.monotonic() - started) < 60 else 500
            elif self.path == "/files":
                kept[:] = [open("/dev/null") for _ in range(20)]
                kept.clear()
            elif self.path == "/memory":
                mmap.mmap(-1, 200_000_000).close()
        except (OSError, MemoryError):
            status = 500
            kept.clear()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"x" * 20_000)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""

EXPERIMENT = """
title = "Processes and hosts"

[run]
calm = "300ms"
dose = "1s"
recovery = "1300ms"
detection = "200ms"
recover_within = "700ms"

[system.process.shop]
command = "python server.py {host} {port} {dir}"
ready = "/"

[load]
to = "shop"
rate = "40/s"
timeout = "300ms"
"""

ROUTES = ("home", "disk", "clock", "files", "memory")

SHORT_OF_EVERYTHING = """
dose = "3500ms"
detection = "1300ms"
recovery = "2800ms"
recover_within = "2s"
doses = [
    { host = true, fault = { disk_full = true } },
    { process = "shop", fault = { clock = "+1h" } },
    { process = "shop", fault = { files_left = 10 } },
    { process = "shop", fault = { memory_left = "100MB" } },
    { host = true, fault = { cpu = 1, load = 0.05 } },
    { host = true, fault = { memory = 0.005 } },
]
"""

STRESSES = {
    "short of everything": (SHORT_OF_EVERYTHING, {"disk", "clock", "files", "memory"}),
    "rejected": ('process = "shop"\nfault = { reject = true }', set(ROUTES)),
    "thin": ('process = "shop"\nfault = { link = "20KB/s" }', set(ROUTES)),
    "crashing": ('process = "shop"\nfault = { crash_loop = "20ms" }', set(ROUTES)),
    "restarted": ('process = "shop"\nfault = { restart = true }', set[str]()),
}
"""What is dosed, and which requests fail for it."""

IN_A_NETWORK = {
    "unplugged": ('process = "shop"\nfault = { unplug = true }', set(ROUTES)),
    "thin there": STRESSES["thin"],
}
"""The same for a process that has a network of its own, since one of these pulls its cable."""


def doable(stresses: dict[str, tuple[str, set[str]]]) -> dict[str, tuple[str, set[str]]]:
    """Return those that this machine can do; in CI all of them."""
    found = {}
    for name, (text, fail) in stresses.items():
        doses = tables.read(Stress, {"name": name, **tomllib.loads(text)}, "").doses
        reasons = [reason for dose in doses if (reason := impossible(dose)) is not None]
        assert all(how_undone(dose) for dose in doses)
        if reasons:
            assert "HORMESIS_NO_SKIPS" not in os.environ, reasons
        else:
            found[name] = (text, fail)
    return found


def held(folder: Path, name: str, stresses: dict[str, tuple[str, set[str]]]) -> dict[str, Any]:
    """Hold a game day; returns what the requests met by stress, phase and route."""
    text = EXPERIMENT
    for route in ROUTES:
        path = "" if route == "home" else route
        text += f'[[load.request]]\nname = "{route}"\nget = "/{path}"\n[objective.{route}]\nsuccess = 0.0\n'
    for stress, (dosed, _) in stresses.items():
        text += f'[[stress]]\nname = "{stress}"\n{dosed}\n'
    file = folder / f"{name}.toml"
    file.write_text(text)
    gameday = run_gameday(file, out=folder / name)
    records = [json.loads(line) for line in (folder / name / "undo.jsonl").read_text().splitlines()]
    assert {each["by"] for each in records if each["record"] == "undone"} == {"runner"}
    assert "stuck" not in {each["record"] for each in records}
    return {stress.name: stress.outcomes["system"].stats for stress in gameday.stresses}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what every stress that this machine can do came to."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "server.py").write_text(SERVER)
    found: dict[str, Any] = {}
    for name, stresses in (("machine", STRESSES), ("network", IN_A_NETWORK)):
        if chosen := doable(stresses):
            found |= held(folder, name, chosen)
    return found


@pytest.mark.parametrize("name", [*STRESSES, *IN_A_NETWORK])
def test_what_a_caller_sees(outcomes: dict[str, Any], name: str) -> None:
    """While it is dosed just those requests fail that need what it takes; when it is over most are well again."""
    if name not in outcomes:
        pytest.skip(f"this machine can't do {name!r}")
    _, fail = {**STRESSES, **IN_A_NETWORK}[name]
    for route in ROUTES:
        contained, recovered = (outcomes[name][phase][route] for phase in (Phase.CONTAINED, Phase.RECOVERED))
        if route in fail:
            assert contained.full < contained.requests, route
        else:
            assert 2 * contained.full > contained.requests, route
        assert 2 * recovered.full >= recovered.requests, route

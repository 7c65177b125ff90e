"""Probes at work: every kind, what they say when they miss, and that their timeout always holds."""

from __future__ import annotations

import asyncio
import http.server
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.looks import Looks
from hormesis.gameday.probes import Invariant, Look, Probe, filled
from hormesis.gameday.probing import Probes
from hormesis.gameday.results import Phase, ProbeResult, Window
from hormesis.loadgen import Answer, Sample, Samples

CHECKS = """
import time

def yes(**given):
    print("what it prints disturbs nobody")
    return given or True

async def later():
    return {"ready": True}

def hangs():
    time.sleep(60)

def fails():
    raise RuntimeError("no stock\\nat all")
"""


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/hang":
            time.sleep(2)
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "/there")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(b'{"stock": [{"left": 3}]}')

    def do_POST(self) -> None:
        self.send_response(201)
        self.end_headers()
        self.wfile.write(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: Any) -> None:  # type: ignore[override]
        pass


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checks.py").write_text(CHECKS)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("CREATE TABLE charges (order_id TEXT, cents INTEGER)")
        database.executemany("INSERT INTO charges VALUES (?, ?)", [("a", 100), ("b", 250), ("b", 250)])
        database.commit()
    return tmp_path


def looked(folder: Path, known: Mapping[str, str], *probes: Probe | Invariant) -> list[str]:
    """Look once with each, and return what they say."""
    started: set[int] = set()

    async def main() -> list[str]:
        prober = Probes(
            routes=["order"], known=known, folder=folder, env={}, on_spawn=started.add, on_end=started.discard
        )
        samples = [Sample(0, 0, 1, 0, answer) for answer in (Answer.FULL, Answer.FULL, Answer.DEGRADED, Answer.FAILED)]
        prober.count(Samples(samples))
        try:
            return [(await prober.look(probe))[0] for probe in probes]
        finally:
            await prober.stop()

    said = asyncio.run(main())
    assert not started
    return said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"http": "http://{shop}/"}, ""),
        ({"http": "http://{shop}/", "tolerance": {"path": "stock.0.left", "min": 3}}, ""),
        ({"http": "http://{shop}/", "tolerance": {"path": "stock.0.left", "min": 4}}, "stock.0.left is 3, below 4"),
        ({"http": "http://{shop}/away"}, "is 302, above 299"),
        ({"http": "http://{shop}/", "method": "POST", "json": {"at": "{shop}"}, "tolerance": 201}, ""),
        ({"http": "http://127.0.0.1:9/"}, "failed: ConnectionRefusedError: "),
        ({"sql": "SELECT count(*) FROM charges", "dsn": "sqlite:{dir}/shop.db", "tolerance": 3}, ""),
        (
            {
                "sql": "SELECT count(*) FROM (SELECT 1 FROM charges GROUP BY order_id HAVING count(*) > 1)",
                "dsn": "sqlite:shop.db",
                "tolerance": 0,
            },
            "is 1, not 0",
        ),
        (
            {
                "sql": "SELECT order_id, cents FROM charges ORDER BY 1",
                "dsn": "sqlite:shop.db",
                "tolerance": {"path": "0.cents", "is": 100},
            },
            "",
        ),
        ({"sql": "SELECT 1", "dsn": "sqlite:none.db"}, "failed: OperationalError: unable to open database file"),
        ({"sql": "DROP TABLE charges", "dsn": "sqlite:shop.db"}, "failed: OperationalError: attempt to write"),
        ({"command": "sh -c 'echo 12'", "tolerance": {"path": "$", "max": 12}}, ""),
        ({"command": "sh -c 'exit 3'"}, "is 3, not 0"),
        ({"command": "no-such-program"}, "failed: 'no-such-program' can't be run: No such file or directory"),
        ({"python": "checks:yes"}, ""),
        ({"python": "checks:later", "tolerance": {"path": "ready", "is": True}}, ""),
        ({"python": "checks:fails"}, "failed: RuntimeError: no stock"),
        ({"python": "checks:none"}, "failed: AttributeError: module 'checks' has no attribute 'none'"),
        ({"python": "os:_exit", "arguments": {"status": 3}}, "failed: the process that asks has ended"),
        # How many requests there were so far: full, answered, sent.
        ({"command": "echo 2", "tolerance": {"path": "$", "is": "{order.full}"}}, ""),
        ({"command": "echo 2", "tolerance": {"path": "$", "min": "{order.answered}"}}, "$ is 2, below 3"),
        ({"python": "checks:yes", "arguments": {"n": "{order.sent}"}, "tolerance": {"path": "n", "is": 4}}, ""),
        ({"command": "echo 0", "tolerance": {"path": "$", "is": "{never.held}"}}, ""),
    ],
)
def test_what_probes_find(folder: Path, shop: str, asked: dict[str, Any], said: str) -> None:
    """Each kind finds what is there, and says in one line what it found instead."""
    (found,) = looked(folder, {"shop": shop, "dir": str(folder)}, Probe(name="probe", **asked))
    assert found.startswith(said) if said else found == ""
    assert "\n" not in found


@pytest.mark.parametrize(
    "asked", [{"python": "checks:hangs"}, {"command": "sleep 60"}, {"http": "http://{shop}/hang"}], ids=str
)
def test_what_hangs_is_cut_off(folder: Path, shop: str, asked: dict[str, Any]) -> None:
    """A timeout holds whatever hangs, and the next look finds everything as it should be."""
    began = time.monotonic()
    hangs, well = looked(
        folder, {"shop": shop}, Probe(name="a", timeout="200ms", **asked), Probe(name="a", python="checks:yes")
    )
    assert time.monotonic() - began < 1.9
    assert hangs == "gave no answer in 200ms, and was cut off"
    assert well == ""


def test_how_often_a_probe_held(folder: Path) -> None:
    """What was acknowledged to a probe can be asked for by an invariant."""
    held, missed = Probe(name="order", command="true"), Probe(name="order", command="false")
    counted = Invariant(name="all there", command="echo 2", tolerance={"path": "$", "is": "{order.held}"})
    assert looked(folder, {}, held, missed, held, counted)[-1] == ""


def test_nobody_is_left_when_it_is_cancelled(folder: Path) -> None:
    """A look that is cancelled leaves no process."""
    pids: list[int] = []
    function: dict[str, Any] = {"python": "checks:hangs", "timeout": 30}
    command: dict[str, Any] = {"command": "sleep 30", "timeout": 30}

    async def main() -> None:
        both = asyncio.Event()

        def spawned(pid: int) -> None:
            pids.append(pid)
            if len(pids) == 2:
                both.set()

        prober = Probes(routes=[], known={}, folder=folder, env={}, on_spawn=spawned)
        looks = [prober.look(Probe(name=name, **asked)) for name, asked in (("a", function), ("b", command))]
        tasks = [asyncio.create_task(look) for look in looks]
        await both.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "'p' takes one of http, sql, command, python; it has none"),
        ({"command": "true", "http": "http://x"}, "it has http, command"),
        ({"http": "ftp://x"}, "http is 'ftp://x'; it takes a URL"),
        ({"sql": "SELECT 1"}, "takes sql and dsn together, or neither"),
        ({"sql": "SELECT 1", "dsn": "mysql://x"}, "dsn is 'mysql://x'; it takes 'postgresql://…' or 'sqlite:PATH'"),
        ({"command": " "}, "command is ' '; it takes a command to run"),
        ({"command": "echo 'x"}, 'command is "echo \'x"; it takes a command to run (No closing quotation)'),
        ({"python": "checks"}, "python is 'checks'; it takes 'module:function'"),
        ({"command": "true", "timeout": 0}, "timeout is 0"),
        ({"command": "true", "every": 0.01}, "every is 0.01; it takes at least 0.1 s"),
        ({"command": "true", "when": []}, "when is []; it takes at least one of start, during, end, after"),
        ({"command": "true", "abort": True}, "when is ['start', 'after']; it takes 'during' among them"),
        ({"command": "true", "tolerance": {"mx": 1}}, "unknown tolerance 'mx'"),
        ({"command": "true", "name": "a/b"}, "name is 'a/b'"),
    ],
)
def test_probes_that_can_not_be_meant(asked: dict[str, Any], message: str) -> None:
    """What can't be meant is refused when it is made."""
    with pytest.raises(ConfigurationError) as caught:
        Probe(**{"name": "p", **asked})
    assert message in str(caught.value)


def test_placeholders() -> None:
    """They are found wherever texts are, but in regular expressions, whose braces are their own."""
    probe = Probe(
        name="p", http="http://{shop}/{n}", headers={"X": "{a.b}"}, tolerance={"matches": r"\d{3}", "contains": "{c}"}
    )
    assert probe.placeholders() == {"shop", "n", "a.b", "c"}
    assert filled("{shop}/{other}", {"shop": "x"}) == "x/{other}"


@pytest.mark.parametrize(("calm", "phase"), [(0.2, Phase.DETECTION), (5.0, Phase.CALM)])
def test_the_phase_of_a_look(calm: float, phase: Phase) -> None:
    """A look that was under way when the dose began tells nothing of calm, and does not count."""

    class Slow:
        async def look(self, _look: Look) -> tuple[str, float]:
            return "is 502", 0.3

    async def look() -> Sequence[ProbeResult]:
        probe = Probe(name="a", command="true", when=["during"], every="1m")
        looks = Looks([probe], [], cast("Probes", Slow()), time.monotonic(), lambda *_: None)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await looks.all_along()
        return looks.results({each: Window(0.0, calm + number) for number, each in enumerate(Phase)})

    (found,) = asyncio.run(look())
    assert (found.phase, found.judged) == (phase, phase is Phase.CALM)

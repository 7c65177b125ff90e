"""`hormesis load` and `hormesis capacity` as shells and CI see them: what they print, and their exit status."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hormesis.cli import main
from hormesis.cli.loadfile import LoadTable
from hormesis.gameday.load import Load

pytestmark = pytest.mark.system

SERVER = """
import asyncio

class Serve(asyncio.Protocol):
    def connection_made(self, transport):
        self.write, self.rest, self.answered = transport.write, b"", 0

    def data_received(self, data):
        *heads, self.rest = (self.rest + data).split(b"\\r\\n\\r\\n")
        for head in heads:
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            if path == b"/limited":
                asyncio.ensure_future(self.in_turn(path, head))
            elif path == b"/slow":
                asyncio.get_running_loop().call_later(0.3, self.answer, path, head)
            else:
                self.answer(path, head)

    async def in_turn(self, path, head):
        async with turn:
            await asyncio.sleep(0.01)
        self.answer(path, head)

    def answer(self, path, head):
        priority = head.lower().partition(b"priority: ")[2].partition(b"\\r")[0]
        body = b'{"path": "%s", "priority": "%s"}' % (path, priority)
        self.answered += 1
        status = 500 if path == b"/boom" or path == b"/half" and self.answered % 2 else 200
        self.write(b"HTTP/1.1 %d X\\r\\nContent-Length: %d\\r\\n\\r\\n" % (status, len(body)) + body)

async def main():
    global turn
    turn = asyncio.Lock()
    server = await asyncio.get_running_loop().create_server(Serve, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Service(NamedTuple):
    """A server in a process of its own."""

    url: str
    pid: int


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Service(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid)
        process.kill()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hormesis", *arguments]


class Done(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


Hormesis = Callable[..., Done]
Results = Callable[..., dict[str, Any]]


@pytest.fixture
def hormesis(capsys: pytest.CaptureFixture[str]) -> Hormesis:
    """Run a command; its generators are processes of their own."""

    def run(*arguments: str) -> Done:
        status = main(arguments)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def results(hormesis: Hormesis) -> Results:
    """Run a command that says nothing but its results; again, where a busy host has spoiled them."""

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        for _ in range(3):
            done = hormesis(*arguments, "--json", "--quiet")
            if done.status == status:
                break
        assert (done.status, done.err) == (status, "")
        found: dict[str, Any] = json.loads(done.out)
        return found

    return run


def test_a_load_is_sent_and_summed_up(hormesis: Hormesis, service: Service, tmp_path: Path) -> None:
    """A table for people with its assertions, a log for plotters; everything holds."""
    log = tmp_path / "hdr.log"
    asserted = ["--assert", "p99 < 2s", "--assert", "success == 1"]
    done = hormesis("load", f"{service.url}/a?b=1", "--rate", "200/s", "--for", "0.5s", *asserted, "--hdr", str(log))
    assert (done.status, done.err) == (0, "")
    assert "open loop, 0.5 s" in done.out
    assert "/a?b=1" in done.out
    assert done.out.count("held") == 2
    assert log.read_text().startswith("#[Logged by hormesis load]\n#[Histogram log format version 1.2]\n")


def test_an_assertion_that_is_missed_is_a_failure(results: Results, service: Service) -> None:
    """So is every answer with another status than asked for."""
    found = results(
        "load", f"{service.url}/boom", "--rate", "100", "--for", "0.2", "--assert", "success > 0.9", status=1
    )
    assert found["total"]["errors"] == {"status 500": found["total"]["requests"]}
    assert found["assertions"] == [{"assert": "success > 0.9", "held": False, "value": 0.0}]
    assert found["valid"]
    assert not found["held"]
    fine = results("load", f"{service.url}/boom", "--rate", "100", "--for", "0.2", "--expect", "500")
    assert fine["total"]["success"] == 1


def test_a_run_without_one_answer_is_a_failure(hormesis: Hormesis, service: Service) -> None:
    """A dead target passes no pipeline: not without assertions, nor with one that quick failures meet."""
    load = ["--rate", "100", "--for", "0.2", "--quiet"]
    for asserted in ([], ["--assert", "p99 < 5s"]):
        done = hormesis("load", f"{service.url}/boom", *load, *asserted)
        assert done.status == 1
        assert done.out.splitlines()[-1].startswith("FAILED: not one of ")
    meant = hormesis("load", f"{service.url}/boom", *load, "--assert", "failed == 1")
    assert (meant.status, "FAILED" in meant.out) == (0, False)
    some = hormesis("load", f"{service.url}/half", *load)
    assert (some.status, "status 500" in some.out) == (0, True)


def test_a_seed_repeats_a_load(results: Results, service: Service) -> None:
    """The same seed brings the same arrivals, ramps and bursts included, however many generators send them."""
    shape = ["--step", "100/s..300/s:0.25s", "--step", "0:0.1", "--step", "200:0.15"]
    counts = {
        results("load", service.url, *shape, "--seed", "7", "--processes", processes)["total"]["requests"]
        for processes in ("1", "2")
    }
    assert len(counts) == 1
    assert 50 < counts.pop() < 110


def test_a_closed_loop_is_marked(results: Results, service: Service) -> None:
    """Users wait for their answers, and the results say that this is coordinated."""
    found = results("load", service.url, "--users", "5", "--think", "25ms", "--for", "0.5s")
    assert (found["loop"], found["coordinated"]) == ("closed", True)
    assert 40 < found["total"]["requests"] < 140


def test_a_trace_is_replayed(results: Results, service: Service, tmp_path: Path) -> None:
    """As many as were recorded, in the time that they were recorded in, or faster."""
    trace = tmp_path / "trace.csv"
    trace.write_text("offset\n" + "\n".join(str(1000 + n / 20) for n in range(20)))
    found = results("load", service.url, "--trace", str(trace), "--speed", "2")
    assert found["total"]["requests"] == 20
    assert found["seconds"] == pytest.approx(0.475)


FILE = """
[load]
url = "http://127.0.0.1:1"
rate = "200/s"
for = "0.5s"
seed = 3
assert = ["right.success == 1"]

[[load.request]]
name = "right"
get = "/{sku}"
weight = 3
values = { sku = ["a", "b"] }
priority = "critical"
expect = { json = { path = "/{sku}", priority = "u=1" } }

[[load.request]]
name = "wrong"
get = "/x"
expect = { contains = "coffee" }
"""


def test_a_file_has_a_mix(results: Results, service: Service, tmp_path: Path) -> None:
    """Requests by weight, with priorities and checks of their answers; what the command line says goes before."""
    file = tmp_path / "load.toml"
    file.write_text(FILE)
    found = results("load", str(file), "--url", service.url)
    right, wrong = found["requests"]["right"], found["requests"]["wrong"]
    assert right["success"] == 1
    assert 1.5 < right["requests"] / wrong["requests"] < 6
    assert wrong["errors"] == {"wrong answer": wrong["requests"]}
    assert "without 'coffee'" in found["wrong"]["wrong"]
    closed = results("load", str(file), "--url", service.url, "--users", "2", "--think", "0.1", "--for", "0.2")
    assert closed["loop"] == "closed"
    assert closed["seed"] == 3


def test_the_table_has_the_words_of_a_game_day() -> None:
    """Whatever a game day's load can say, a load by itself can."""
    assert {field.name for field in dataclasses.fields(Load)} <= {field.name for field in dataclasses.fields(LoadTable)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://127.0.0.1:1/", "--rate", "5"], "http://127.0.0.1:1: can't be reached: Connection refused"),
        (["http://nobody.invalid/", "--rate", "5"], "http://nobody.invalid: can't be reached: "),
        (["ftp://x/", "--rate", "5"], "URL is 'ftp://x'; it takes a URL such as"),
        (["127.0.0.1:1/", "--rate", "5"], "can't be read: No such file or directory; a URL begins with http://"),
        (["URL"], "rate is missing"),
        (["URL", "--rate", "many"], "rate is 'many'; it takes a rate above zero"),
        (["URL", "--rate", "5", "--users", "3"], "users beside rate: a load has one of them"),
        (["URL", "--users", "0"], "users is 0; it takes a whole number from 1"),
        (["URL", "--rate", "5", "--think", "1"], "think is 1.0; it takes users, who think"),
        (["URL", "--rate", "5", "--for", "soon"], "for is 'soon'"),
        (["URL", "--rate", "5", "--assert", "p99"], "--assert is 'p99'; it takes a metric, a sign and a limit"),
        (["URL", "--rate", "5", "--header", "x"], "--header is 'x'; it takes a name and a value"),
        (["URL", "--rate", "5", "--hdr", "/nowhere/x"], "--hdr /nowhere/x: can't be written: No such file"),
        (["URL", "--trace", "/nowhere/x"], "/nowhere/x: can't be read: No such file"),
        (["URL", "--trace", "/dev/null"], "/dev/null: holds no arrivals"),
        (["URL", "--rate", "5", "--speed", "2"], "speed is 2.0; it takes a trace"),
        (["URL", "--step", "5:1s", "--for", "9"], "for beside steps, which say themselves how long they last"),
        (["https://127.0.0.1:1", "--rate", "5", "--ca", "/nowhere"], "--ca is '/nowhere'; it takes a file with cert"),
        (["URL", "--rate", "5", "--assert", "P99 < 1s"], "--assert is 'P99 < 1s'; it takes a metric, a sign"),
        (["URL", "--step", "5"], "--step is '5'; it takes a rate and how long"),
        (["URL", "--rate", "5", "--bursts", "1s"], "--bursts is '1s'; it takes how long on"),
        (["URL", "--rate", "5", "--processes", "0"], "--processes is 0; it takes a whole number from 1 to 64"),
        (["URL", "--rate", "5", "--body-json", "{"], "--body-json is '{'; it takes JSON"),
        (["URL", "--rate", "9999999"], "segments expect 299,999,970 arrivals"),
    ],
)
def test_bad_input_is_one_line(hormesis: Hormesis, service: Service, arguments: list[str], message: str) -> None:
    """What can't be done as asked is said in one line, with exit status 2, before anything is sent."""
    done = hormesis("load", *(service.url if each == "URL" else each for each in arguments))
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert message in line


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_prints_what_there_is(service: Service, number: int, status: int) -> None:
    """An interrupted load is summed up so far, says that it was, and leaves no process."""
    arguments = command("load", service.url, "--rate", "100", "--for", "60", "--json", "--quiet")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 20
        while not children_of(process.pid) and time.monotonic() < give_up:
            time.sleep(0.02)
        (generator,) = children_of(process.pid)
        time.sleep(1.5)  # a busy host takes its time to begin
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == status
    found = json.loads(out)
    assert found["interrupted"]
    assert 0 < found["total"]["requests"] < 500
    assert err == "hormesis: interrupted; nothing is left running\n"
    assert not Path(f"/proc/{generator}").exists()


def test_a_server_that_stops_hides_nothing(service: Service) -> None:
    """Stopped 1.5 s of 3.5 at 150/s: p90 and p99 are those of callers who don't wait for one another."""
    arguments = command(
        "load", service.url, "--rate", "150", "--for", "3.5", "--arrivals", "constant", "--json", "--quiet"
    )
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 20
        while not children_of(process.pid) and time.monotonic() < give_up:
            time.sleep(0.02)
        time.sleep(1.2)
        os.kill(service.pid, signal.SIGSTOP)
        since = time.monotonic()
        try:
            time.sleep(1.5)
        finally:
            os.kill(service.pid, signal.SIGCONT)
        stopped = time.monotonic() - since
        out, _ = process.communicate(timeout=30)
    found = json.loads(out)
    assert found["total"]["requests"] == 525
    assert found["total"]["success"] == 1
    latency = found["total"]["latency"]
    # Those that were due while it stood still waited for what was left of that; all the others took milliseconds.
    for q, name in ((0.9, "p90"), (0.99, "p99")):
        assert latency[name] == pytest.approx(stopped - (1 - q) * 3.5, rel=0.05), name
    assert latency["p50"] < 0.1


def test_a_capacity_is_found(results: Results, service: Service) -> None:
    """A service that takes 10 ms for each request in turn has its knee below 100/s, and it says how sure that is."""
    search = ["--from", "40", "--step", "0.5s", "--within", "8s", "--p99", "80ms", "--resolution", "0.3"]
    found = results("capacity", f"{service.url}/limited", *search)
    assert 50 < found["knee"] < 112
    assert found["low"] <= found["knee"] <= found["high"]
    assert found["breaking"] is None or found["breaking"][1] > 60
    assert found["peak"] < 115
    assert not found["at_least"]
    assert len(found["measured"]) > 4


def test_a_generator_without_files_is_no_limit_of_the_service(service: Service) -> None:
    """What it has no room to send was not asked of the service, whose knee is at least what it could send."""
    search = ["--from", "20", "--to", "320", "--step", "0.8s", "--within", "10s", "--p99", "800ms", "--json", "--quiet"]
    arguments = command("capacity", f"{service.url}/slow", *search)
    limited = ["sh", "-c", 'ulimit -n 40 && exec "$@"', "sh", *arguments]
    done = subprocess.run(limited, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    assert (found["at_least"], found["breaking"]) == (True, None)
    assert "the generator does not keep up" in found["ended"]


def test_a_search_that_ends_before_the_service_does(hormesis: Hormesis, service: Service, tmp_path: Path) -> None:
    """It says at least so much, and that no breaking point was found; or that the generator is the limit."""
    search = ["--from", "40", "--step", "0.3", "--within", "3", "--quiet"]
    for _ in range(3):  # a busy host makes the generator late
        done = hormesis("capacity", service.url, *search, "--to", "80")
        if "highest rate holds" in done.out:
            break
    assert done.status == 0
    assert "knee    at least 80/s; no rate was found that does not hold: the highest rate holds\n" in done.out
    assert "breaks  not found: it kept up with what the generator sent\n" in done.out
    file = tmp_path / "load.toml"
    file.write_text('[load]\nlag_max = 1e-6\n[[load.request]]\nname = "home"\nget = "/"\n')
    late = hormesis("capacity", str(file), "--url", service.url, *search)
    assert late.status == 1
    assert "knee       unknown: the generator does not keep up with the first rate\n" in late.out
    assert "generator  did not keep up once, from 40/s on; of the service nothing is known there\n" in late.out


def test_no_capacity_is_a_failure(results: Results, service: Service) -> None:
    """A service that can't take the first rate is told so, with exit status 1."""
    found = results("capacity", f"{service.url}/boom", "--step", "0.2", "--within", "2", status=1)
    assert found["knee"] is None
    assert found["ended"] == "not even the first rate holds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--success", "2"], "success is 2.0; it takes a share above 0, up to 1"),
        (["--within", "1s"], "within is '1s'; it takes four steps at least, 12 s"),
        (["--to", "1/s"], "to is '1/s'; it takes a rate from the first one, 50/s, on"),
    ],
)
def test_a_search_that_can_not_be_meant(
    hormesis: Hormesis, service: Service, arguments: list[str], message: str
) -> None:
    """Bad settings are one line."""
    done = hormesis("capacity", service.url, *arguments)
    assert (done.status, done.out, done.err) == (2, "", f"hormesis: {message}\n")

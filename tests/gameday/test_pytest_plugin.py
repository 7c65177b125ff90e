"""The pytest plugin, in a pytest of its own: what fails, what it says, and what is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.as_tests import planned

pytest_plugins = ["pytester"]

SERVER = """
import asyncio, os, sys
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok"
sorry = b"HTTP/1.1 500 Sorry\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"

async def serve(reader, writer):
    line = await reader.readline()
    await reader.readuntil(b"\\r\\n\\r\\n")
    reply = answer
    if b"/page" in line and not os.environ.get("CAREFUL"):
        try:
            _, other = await asyncio.open_connection("127.0.0.1", int(os.environ["BACK"]))
            other.close()
        except OSError:
            reply = sorry
    writer.write(reply)
    await writer.drain()
    writer.close()

async def main():
    print("serving", flush=True)
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"""

FILE = f"""
title = "A page"
seed = 3
[run]
calm = "400ms"
dose = "600ms"
recovery = "600ms"
detection = "200ms"
recover_within = "300ms"
[system.process.web]
command = "{sys.executable} server.py {{port}}"
ready = "/"
[system.edge.back]
from = "web"
to = "web"
env = {{ BACK = "{{port}}" }}
[arm.bare]
[arm.careful]
env = {{ CAREFUL = "yes" }}
[load]
to = "web"
rate = "40/s"
arrivals = "constant"
[[load.request]]
name = "page"
get = "/page"
[objective.page]
success = 0.9
[[stress]]
name = "back refuses"
edge = "back"
fault = {{ refuse = true }}
[[stress]]
name = "back is gone"
edge = "back"
fault = {{ reset = "connect" }}
"""


@pytest.fixture
def site(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with a server and its game day."""
    pytester.makepyfile(server=SERVER)
    (pytester.path / "gameday.toml").write_text(FILE)
    return pytester


def run(site: pytest.Pytester, test: str, *args: str) -> pytest.RunResult:
    site.makepyfile(test_it=textwrap.dedent(test))
    return site.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=60)


def collect(site: pytest.Pytester, test: str) -> pytest.RunResult:
    """Collect in this process, which is quicker."""
    site.makepyfile(test_it=textwrap.dedent(test))
    return site.runpytest_inprocess("-p", "no:cacheprovider", "--collect-only", "-q")


def test_it_costs_nothing_until_it_is_used() -> None:
    """Loading the plugin imports nothing that costs time."""
    script = (
        "import sys, pytest, hormesis.gameday.pytest_plugin\n"
        "print(*{'asyncio', 'hormesis.chaos', 'hormesis.loadgen', 'pydantic', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_mark_is_a_game_day_for_each_stress(site: pytest.Pytester) -> None:
    """The verdict of the arm decides, and a test that failed says how to look at it and how to repeat it."""
    result = run(
        site,
        """
        import pytest

        @pytest.mark.gameday("gameday.toml", arm="careful", stresses=["back refuses"])
        def test_careful(gameday):
            assert gameday.verdicts == {"careful": "survived"}
            assert not gameday.report.exists()

        @pytest.mark.gameday("gameday.toml", arm="bare", stresses="back refuses")
        def test_bare(): ...

        @pytest.mark.gameday("gameday.toml", arm="bare", stresses="back refuses", verdict=["failed"], seed=9)
        def test_known(gameday):
            assert gameday.verdicts["bare"] == "failed"
        """,
        "--gameday-seed=11",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "bare: failed, not survived or degraded, under 'back refuses' (edge back: *)",
            "  page success 0%*",
            "seed 11; report: */report.html",
            "again: hormesis gameday *gameday.toml --only 'back refuses' --arm bare --seed 11",
        ]
    )
    line = next(line for line in result.outlines if line.startswith("seed 11"))
    page = Path(line.removeprefix("seed 11; report: "))
    assert "back refuses" in page.read_text()
    assert json.loads(page.with_name("report.json").read_text())["seed"] == 11


def test_the_tour_is_several_tests(site: pytest.Pytester) -> None:
    """Without names the tests are the file's own; nothing is held while they are only collected."""
    result = collect(
        site,
        """
        import pytest

        @pytest.mark.gameday("gameday.toml", arm="careful")
        def test_it(): ...
        """,
    )
    result.stdout.fnmatch_lines(["*test_it?back refuses?", "*test_it?back is gone?"])


@pytest.mark.parametrize(
    ("args", "settings", "message"),
    [
        (["missing.toml"], {}, "missing.toml"),
        (["gameday.toml"], {"arm": "bear"}, r"arm: unknown arm 'bear' \(did you mean 'bare'\?\)"),
        (["gameday.toml"], {"stresses": ["back refuse"]}, r"'back refuse' \(did you mean 'back refuses'\?\)"),
        (["gameday.toml"], {"stress": "back refuses"}, r"unknown setting 'stress' \(did you mean 'stresses'\?\)"),
        (["gameday.toml"], {"verdict": "alive"}, "verdict is 'alive'; it takes some of survived, degraded, failed"),
        (["gameday.toml"], {"verdict": []}, r"verdict is \[\]; it takes some of survived"),
        (["gameday.toml"], {"verdict": 5}, "verdict is 5; it takes some of survived"),
        (["gameday.toml"], {"seed": "seven"}, "seed is 'seven'; it takes a whole number"),
        (["gameday.toml"], {"stresses": 5}, "stresses is 5; it takes names of stresses, or 'all'"),
        (["gameday.toml"], {"stresses": []}, r"stresses is \[\]; it takes names of stresses, or 'all'"),
        (["gameday.toml"], {"arm": ["careful"]}, r"arm: unknown arm \['careful'\]"),
        ([], {}, "it takes the path of an experiment file"),
    ],
)
def test_what_a_mark_cannot_mean_is_told(
    site: pytest.Pytester, args: list[str], settings: dict[str, Any], message: str
) -> None:
    """With what would do."""
    with pytest.raises(ConfigurationError, match=message):
        planned(args, settings, folder=site.path)


def test_a_bad_mark_is_an_error_at_once(site: pytest.Pytester) -> None:
    """It is told when tests are collected, in one message and without a traceback."""
    result = collect(site, "import pytest\n@pytest.mark.gameday('no.toml')\ndef test_it(gameday): ...\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it.py::test_it: *no.toml*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_service_a_proxy_and_load(site: pytest.Pytester) -> None:
    """A process is started, faults act between it and its callers, load is sent, and all of it is stopped.

    A test that serves from a loop of its own awaits the load that it gets, and needs no plugin for it.
    """
    result = run(
        site,
        f"""
        import asyncio, socket, sys, time, urllib.error, urllib.request
        from pathlib import Path
        import pytest

        seen = []

        def get(url, timeout=3):
            return urllib.request.urlopen(url, timeout=timeout).read()

        def test_faults(service_process, fault_proxy, load):
            web = service_process("{sys.executable} server.py {{port}}", ready="/", name="web")
            edge = fault_proxy(web.url)
            seen.extend([web.port, edge.port, web.pid])
            result = load(edge.url + "/", rate="40/s", for_="500ms")
            assert {{sample.status for sample in result.samples}} == {{200}}
            with edge.fault({{"latency": "200ms"}}):
                began = time.monotonic()
                get(edge.url)
                assert time.monotonic() - began > 0.2
            edge.apply({{"refuse": True}})
            with pytest.raises(urllib.error.URLError):
                get(edge.url)
            edge.lift()
            web.pause()
            with pytest.raises(OSError):
                get(web.url, timeout=0.2)
            web.resume()
            assert get(edge.url) == b"ok"
            web.kill()
            web.start()
            assert get(edge.url) == b"ok"
            assert edge.connections > 20
            seen.append(web.pid)

        def test_nothing_is_left():
            for port in seen[:2]:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port))
            assert not any(Path(f"/proc/{{pid}}").exists() for pid in seen[2:])

        def test_asynchronous(fault_proxy, load):
            async def serve(reader, writer):
                await reader.readuntil(b"\\r\\n\\r\\n")
                writer.write(b"HTTP/1.1 204 Nothing\\r\\nConnection: close\\r\\n\\r\\n")
                await writer.drain()
                writer.close()

            async def main():
                async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                    edge = fault_proxy(server.sockets[0].getsockname())
                    return await load.arun(edge.url, rate="40/s", for_="500ms")

            assert {{sample.status for sample in asyncio.run(main()).samples}} == {{204}}
        """,
    )
    result.assert_outcomes(passed=3)


def test_a_failed_test_shows_seed_and_logs(site: pytest.Pytester) -> None:
    """What a failed test used is told with it, and stopped all the same; so is what keeps it from beginning."""
    result = run(
        site,
        f"""
        import sys

        def test_it(service_process, fault_proxy):
            web = service_process("{sys.executable} server.py {{port}}")
            fault_proxy(web.port)
            print("the port is", web.port)
            raise AssertionError

        def test_does_not_start(service_process):
            service_process([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"])

        def test_bad_values(fault_proxy):
            fault_proxy("somewhere")

        def test_without_the_mark(gameday): ...
        """,
        "--gameday-seed=5",
    )
    result.assert_outcomes(failed=3, errors=1)
    result.stdout.fnmatch_lines(["*is for tests with the mark*"])
    result.stdout.fnmatch_lines(
        [
            "*hormesis: seed*",
            "5; again with --gameday-seed=5",
            "*hormesis: log of service*",
            "serving",
            "*ProcessFailed: process 'service' *",
            "*upstream is 'somewhere'; it takes an address such as '127.0.0.1:5432'*",
        ]
    )

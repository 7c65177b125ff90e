"""How fast the load generator is: the highest open-loop rate on one core that it still sends on time.

A server on bare protocols has one core, the generator another (`taskset`); Poisson arrivals on kept connections, for a
few seconds at each rate. A rate is *kept* when 99 of 100 requests were sent within the bound of when they were due. A
connection's fastest closed loop is measured next to it, by `wrk` where that is installed.

Run it on a machine with nothing else to do: `python benchmarks/load_generator.py [--seconds 5] [--rates 5000 …]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from hormesis.loadgen import Histogram, LoadDriver, LoadSpec, Request, RunResult, Segment, Users

LAG_WANTED = 0.0025
"""Seconds of send lag (p99) up to which a rate counts as kept."""

ASKED = 20_000
"""Requests a second that must be kept."""

RATES = (1_000, 5_000, 10_000, 15_000, 20_000, 25_000, 30_000, 40_000, 50_000)
OMISSION_MAX = 0.05


def serve() -> None:
    """Answer every request with the same bytes, on uvloop, until killed."""
    import uvloop  # noqa: PLC0415

    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.write = transport.write

        def data_received(self, data: bytes) -> None:
            self.write(answer * data.count(b"\r\n\r\n"))

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    uvloop.run(main())


@contextmanager
def server(core: int | None) -> Iterator[tuple[str, int]]:
    """Run the server; gives its URL and process id."""
    process = subprocess.Popen([*on(core), sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.kill()
        process.wait()


def on(core: int | None) -> list[str]:
    """Return how a command is kept on a core."""
    return [] if core is None or shutil.which("taskset") is None else ["taskset", "-c", str(core)]


async def sent(spec: LoadSpec, core: int | None, *, stop: tuple[int, float, float] | None = None) -> RunResult:
    """Run a load with the generator on a core; `stop` pauses a process from one second of the load to another."""

    def keep(pid: int) -> None:
        if core is not None:
            os.sched_setaffinity(pid, {core})

    async def pause(start_at: float) -> None:
        if stop is not None:
            pid, since, until = stop
            await asyncio.sleep(start_at + since - monotonic())
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(start_at + until - monotonic())
            os.kill(pid, signal.SIGCONT)

    async with LoadDriver(on_spawn=keep) as driver, asyncio.TaskGroup() as group:
        start_at = monotonic() + 1.0
        group.create_task(pause(start_at))
        return await driver.run(spec, start_at=start_at)


def load(url: str, rate: float, length: float, **settings: Any) -> LoadSpec:
    """Return an open loop of one request."""
    settings = {"keep_alive": True, "in_flight_max": 10_000, "seed": 1} | settings
    return LoadSpec(base_url=url, segments=[Segment(length, rate)], requests=[Request("r", path="/")], **settings)


def rates(rates: list[int], length: float, cores: tuple[int | None, int | None]) -> int:
    """Print what becomes of each rate; returns the highest that was kept with all below it."""
    kept, keeps = 0, True
    print(f"{'asked/s':>8} {'done/s':>8} {'lag p50 ms':>10} {'lag p99 ms':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for rate in rates:
        with server(cores[0]) as (url, _):
            result = asyncio.run(sent(load(url, rate, length), cores[1]))
        latencies = Histogram(result.samples.latencies())
        done = sum(not sample for sample in result.samples.answer) / length
        numbers = (result.lag_p50, result.lag_p99, latencies.quantile(0.5), latencies.quantile(0.99))
        print(f"{rate:8} {done:8.0f} {''.join(f'{number * 1e3:10.3f} ' for number in numbers)}", flush=True)
        keeps = keeps and result.lag_p99 < LAG_WANTED and not result.dropped and done > 0.98 * rate
        kept = rate if keeps else kept
    return kept


def closed(length: float, cores: tuple[int | None, int | None]) -> None:
    """Print how many requests a second 64 users without a pause make, and what wrk makes of 64 connections."""
    with server(cores[0]) as (url, _):
        spec = LoadSpec(
            base_url=url, users=Users(64, length), requests=[Request("r", path="/")], seed=1, keep_alive=True
        )
        result = asyncio.run(sent(spec, cores[1]))
        print(f"closed loop, 64 users: {len(result.samples) / length:,.0f}/s")
        if shutil.which("wrk"):
            command = [*on(cores[1]), "wrk", "-t1", "-c64", f"-d{max(1, round(length))}s", url]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(next(line.strip() for line in out.splitlines() if "Requests/sec" in line), "(wrk, 64 connections)")


def omission(cores: tuple[int | None, int | None]) -> bool:
    """Stop the server two seconds of ten at 1,000/s, and hold the quantiles against the truth."""
    with server(cores[0]) as (url, pid):
        spec = load(url, 1000, 10, process="constant")
        result = asyncio.run(sent(spec, cores[1], stop=(pid, 4.0, 6.0)))
    latencies, well = Histogram(result.samples.latencies()), True
    for q, truth in ((0.9, 1.0), (0.99, 1.9)):
        found = latencies.quantile(q)
        well = well and abs(found / truth - 1) <= OMISSION_MAX
        print(f"server stopped 2 s of 10: p{q * 100:.0f} {found * 1e3:.0f} ms, truth {truth * 1e3:.0f} ms")
    return well


def main() -> int:
    """Measure; 0 if what is asked for was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=5.0, help="at each rate (%(default)s)")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    cores = (0, 1) if (os.cpu_count() or 1) > 1 else (None, None)
    kept = rates(sorted(options.rates), options.seconds, cores)
    closed(options.seconds, cores)
    well = omission(cores)
    print(f"kept with p99 of the send lag below {LAG_WANTED * 1e3:g} ms: {kept:,}/s; {ASKED:,} are asked for")
    if options.json:
        options.json.write_text(json.dumps({"kept": kept, "omission": well}))
    return 0 if kept >= ASKED and well else 1


if __name__ == "__main__":
    raise SystemExit(main())

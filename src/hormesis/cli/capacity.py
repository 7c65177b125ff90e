"""`hormesis capacity`: find the knee and the breaking point of a service, and say how sure that is.

The exit status is 0 if a rate holds, 1 if not even the first one does or the service doesn't recover, 2 if it could not
be done as asked. Ctrl-C ends the search and prints what it has found so far. Load never outlives the command.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from hormesis.cli.load import interruptible, reach
from hormesis.cli.loadfile import LoadTable, table_of
from hormesis.loadgen import Answer, LoadSpec, RunResult, Samples, Segment
from hormesis.loadgen.capacity import Capacity, Measurement, Probe, Search
from hormesis.loadgen.fleet import Fleet
from hormesis.loadgen.summary import numbers
from hormesis.units import format_seconds, seconds

__all__ = ["run"]

_PATIENCE_MAX = 5.0
"""Seconds that a caller waits at most, unless it is said: what takes longer is no answer in a search for limits."""

_LAG_SHARE = 0.25
"""The part of the bound of the p99 that the send lag may be before a rate says more of the generator."""

_LAG_LEAST = 0.005
_FAILING_MIN = 50
"""Answers in a second from which on a service that fails half of them is spared the rest of the step."""

_REST = 0.3
_REST_WELL = 0.9
_RECOVERS_WITHIN = 15.0


def run(options: argparse.Namespace) -> int:
    """Search; 0 only if there is a rate that holds."""
    search = Search(
        first=options.first,
        last=options.last,
        success=options.success,
        p99=options.p99,
        resolution=options.resolution,
        within=options.within,
        step=options.step,
    )
    # The rate of the table is of no consequence: every step has its own.
    table, url = table_of(options, rate=1.0)
    shell = _Shell(search, table, url, seconds(options.within), quiet=options.quiet)
    ended, interrupted_by = asyncio.run(shell.hold())
    capacity = search.result(ended or ("interrupted" if interrupted_by else ""))
    host = _host_since(shell.host)
    if options.json:
        print(json.dumps(_as_json(capacity, shell, host), indent=2))
    else:
        _print(capacity, shell, host)
    if interrupted_by:
        print("hormesis: interrupted; nothing is left running", file=sys.stderr)
        return 128 + interrupted_by
    return 1 if capacity.knee is None or ended else 0


class _Shell:
    """Sends the load that the search asks for."""

    def __init__(self, search: Search, table: LoadTable, url: str | None, within: float, *, quiet: bool) -> None:
        self._search = search
        self._quiet = quiet
        self._within = within
        self._lag_max = seconds(table.lag_max)
        patience = min(seconds(table.timeout), _PATIENCE_MAX)
        self.spec = table.spec(
            url, streams=(), trace=None, users=None, segments=[Segment(1.0, 1.0)], timeout=patience, grace=patience
        )
        self._fleet = Fleet()
        self._stopped = asyncio.Event()
        self.began = monotonic()
        self.host = _host()

    async def hold(self) -> tuple[str | None, int]:
        """Search to the end; returns why it ended, if not by itself, and the signal that ended it, or 0."""
        return await interruptible(self._hold(), self._stop)

    async def _stop(self) -> bool:
        self._stopped.set()
        return await self._fleet.cancel()

    async def _hold(self) -> str:
        await reach(self.spec)
        async with self._fleet:
            self.began, self.host = monotonic(), _host()
            probes = self._search.probes()
            probe = next(probes)
            while not self._stopped.is_set():
                found = await self._measure(probe)
                if self._stopped.is_set():
                    break
                self._tell(probe, found)
                shaken = probe.purpose != "calm" and not self._search.holds(found)
                try:
                    probe = probes.send(found)
                except StopIteration:
                    break
                if shaken and not await self._recovered():
                    return f"the service does not recover from {found.rate:,.0f}/s"
                if monotonic() - self.began > self._within:
                    return ""
        return ""

    async def _measure(self, probe: Probe) -> Measurement:
        cutter = _Cutter(self._fleet)
        result = await self._send(probe.rate, probe.seconds, f"{self.spec.seed}/{probe.number}", cutter)
        if cutter.cut:
            last = max(result.samples.intended, default=result.start_at)
            probe = dataclasses.replace(probe, seconds=max(last - result.start_at, 1e-3))
        # What had no room here, such as for want of files, was never asked of the service.
        valid = result.lag_p99 <= self._bound() and not result.dropped
        ended_at = monotonic() - self.began
        return Measurement.of(
            probe, result.samples, result.start_at, lag=result.lag_p99, valid=valid, ended_at=ended_at
        )

    def _bound(self) -> float:
        bound = self._search.p99
        return self._lag_max if math.isnan(bound) else min(self._lag_max, max(_LAG_LEAST, _LAG_SHARE * bound))

    async def _send(
        self, rate: float, length: float, seed: str, on_samples: Callable[[Samples], None] | None = None
    ) -> RunResult:
        spec: LoadSpec = dataclasses.replace(self.spec, segments=[Segment(length, rate)], seed=seed)
        return await self._fleet.run(spec, on_samples)

    async def _recovered(self) -> bool:
        """Wait until the service is well again with little to do."""
        rate, give_up = self._search.first, monotonic() + _RECOVERS_WITHIN
        while not self._stopped.is_set():
            result = await self._send(max(rate / 2, 10 / _REST), _REST, f"{self.spec.seed}/rest/{monotonic()}")
            if numbers(result.samples, _REST).success >= _REST_WELL:
                return True
            if monotonic() > give_up:
                return False
        return True

    def _tell(self, probe: Probe, found: Measurement) -> None:
        if self._quiet:
            return
        line = _line(found, self._verdict(found))
        print(f"{monotonic() - self.began:4.0f} s  {line}  {probe.purpose}", file=sys.stderr, flush=True)

    def _verdict(self, found: Measurement) -> str:
        if not found.valid:
            return "invalid"
        if self._search.holds(found):
            return "holds"
        if found.breaks:
            return "breaks"
        # The first rate sets the bound where none was given.
        return "" if math.isnan(self._search.p99) else "misses"


class _Cutter:
    """Ends a step in which the service fails most of what it is asked: there is nothing more to learn from it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._since = monotonic()
        self._full = self._all = 0
        self._cutting: asyncio.Task[bool] | None = None

    @property
    def cut(self) -> bool:
        """Whether the step was ended."""
        return self._cutting is not None

    def __call__(self, samples: Samples) -> None:
        now = monotonic()
        if now - self._since > 1.0:
            self._since, self._full, self._all = now, 0, 0
        self._all += len(samples)
        self._full += samples.answer.count(Answer.FULL)
        if self._all >= _FAILING_MIN and 2 * self._full < self._all and self._cutting is None:
            self._cutting = asyncio.get_running_loop().create_task(self._fleet.cancel())


def _line(found: Measurement, verdict: str) -> str:
    rates = f"{found.rate:9,.0f}/s {verdict:8}  {found.served:9,.0f}/s served  {found.success:.4f} full"
    return f"{rates}  p50 {_time(found.p50):>7}  p99 {_time(found.p99):>7}"


def _time(value: float) -> str:
    return "-" if math.isnan(value) else format_seconds(value)


def _print(capacity: Capacity, shell: _Shell, host: dict[str, float]) -> None:
    bound = f"success >= {capacity.success:g}" + ("" if math.isnan(capacity.p99) else f", p99 <= {_time(capacity.p99)}")
    print(f"{shell.spec.base_url}  capacity with {bound}\n")
    facts = _facts(capacity, shell, host)
    width = max(map(len, facts)) + 2
    for name, text in facts.items():
        print(f"{name:{width}}{text}")


def _facts(capacity: Capacity, shell: _Shell, host: dict[str, float]) -> dict[str, str]:
    facts = {"knee": _knee(capacity)}
    if capacity.breaking is not None:
        low, high = capacity.breaking
        then = f"; asked for twice its knee it {capacity.beyond}" if capacity.beyond else ""
        facts["breaks"] = f"between {low:,.0f} and {high:,.0f}/s{then}"
    elif any(found.valid for found in capacity.measured):
        facts["breaks"] = "not found: it kept up with what the generator sent"
    facts["peak"] = f"{capacity.peak:,.0f} full answers a second"
    if capacity.model is not None:
        facts["model"] = f"{capacity.model.peak:,.0f}/s by the Universal Scalability Law, from the rates that held"
    if host:
        facts["host"] = f"{host['busy']:.0%} busy, {host['stolen']:.1%} taken by others"
    lag = max((found.lag for found in capacity.measured if found.valid), default=math.nan)
    facts["lag"] = f"{_time(lag)} at most (p99 of a step)"
    if late := [found.rate for found in capacity.measured if not found.valid]:
        times = "once" if len(late) == 1 else f"in {len(late)} steps"
        facts["generator"] = (
            f"did not keep up {times}, from {min(late):,.0f}/s on; of the service nothing is known there"
        )
    facts["ended"] = f"{capacity.ended}, after {len(capacity.measured)} steps in {monotonic() - shell.began:.0f} s"
    return facts


def _knee(capacity: Capacity) -> str:
    if capacity.knee is None:
        known = any(found.valid for found in capacity.measured)
        return "none: not even the first rate holds" if known else f"unknown: {capacity.ended}"
    if capacity.at_least:
        return f"at least {capacity.knee:,.0f}/s; no rate was found that does not hold: {capacity.ended}"
    if capacity.confidence:
        sure = f"{capacity.low:,.0f} to {capacity.high:,.0f} with {capacity.confidence:.0%} confidence"
        return f"{capacity.knee:,.0f}/s ({sure})"
    bounds = f"{capacity.low:,.0f} to {capacity.high:,.0f}"
    return f"{capacity.knee:,.0f}/s ({bounds} by one search; how sure is known with more time, --within)"


def _as_json(capacity: Capacity, shell: _Shell, host: dict[str, float]) -> dict[str, Any]:
    about = {"format": "hormesis-capacity/1", "url": shell.spec.base_url, "seed": shell.spec.seed}
    table: dict[str, Any] = _plain({**about, **dataclasses.asdict(capacity), "host": host})
    return table


def _plain(value: Any) -> Any:
    """Return a value as JSON can carry it: what is no number, or endless, is null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _host() -> tuple[int, ...]:
    """Return what the machine's processors have done, in ticks; nothing where there is no /proc."""
    try:
        return tuple(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    except (OSError, ValueError):
        return ()


def _host_since(before: tuple[int, ...]) -> dict[str, float]:
    ticks = [after - earlier for after, earlier in zip(_host(), before, strict=False)]
    total = sum(ticks)
    if total <= 0:
        return {}
    idle, stolen = ticks[3] + ticks[4], ticks[7]
    return {"busy": 1 - (idle + stolen) / total, "stolen": stolen / total}

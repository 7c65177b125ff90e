"""Scenarios of overload on real processes: ours, side by side with no limit, fixed limits, and limits by latency.

Every run has a server of its own, pinned to a core, and a generator on another one. First of all the capacity C is
measured, with clients that always have requests waiting; all rates are multiples of it. It is measured again after each
scenario, since the machine may not be ours alone. Arms take turns, and see the same arrivals. A run whose generator
lagged, or whose server had to wait for its core, is repeated once, and marked if that did not help.

    python benchmarks/load/run.py [--quick] [--only S1-2x,F4] [--arms fixed,hormesis] [--out DIRECTORY]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from client import GONE, TIMED_OUT
from measures import jain, max_min_shares, median, percentile, settled_after, spread
from scenarios import SCENARIOS, Scenario

HERE = Path(__file__).parent

IO, IO_CV, WORK = 0.090, 0.3, 0.005
"""What a request takes: seconds of waiting for others, and of processor time; the facts' figures on one core."""

ARMS = ("none", "fixed", "hormesis", "vegas", "gradient2", "aimd")
QUICK = ("S1-2x", "S2", "F4", "P", "B", "R-.7")
QUICK_ARMS = ("none", "fixed", "hormesis")

_PATIENCE = 15.0
"""Seconds that a process has to start, and to end."""
_CLIENT_TIMEOUT = 2.0
_SATURATED = 48
"""Clients that always have a request waiting, for the measurement of the capacity: three times what fills the core."""
_CALIBRATION = 3.0
_LAG_MAX = 0.010
"""Seconds that the 99th percentile of requests may be sent late."""
_WAITED_MAX = 0.05
"""The share of its time that the server may have waited for its core."""
_DRIFT_MAX = 0.10


@dataclasses.dataclass(slots=True)
class Outcome:
    """What one run came to; `Table.rows` explains the figures."""

    scenario: str
    arm: str
    repetition: int
    capacity: float
    goodput: float
    throughput: float
    p50: float
    p99: float
    settled: float
    shed: float
    unanswered: float
    limit: float
    busy: float
    lag: float
    waited: float
    fairness: float | None = None
    critical_available: float | None = None
    critical_good: float | None = None
    background: float | None = None
    recovered: float | None = None
    good_at: list[float] = dataclasses.field(default_factory=list)
    limits: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether the generator kept up, and the server had its core."""
        return self.lag <= _LAG_MAX and self.waited <= _WAITED_MAX


class Machine:
    """Where processes run."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.server = cores[0] if len(cores) > 1 else None
        self.others = cores[1] if len(cores) > 1 else None

    @staticmethod
    def stolen() -> tuple[float, float]:
        """Return the time that the host took, and all time, since the machine started; zeros where nobody tells."""
        with contextlib.suppress(OSError, ValueError):
            fields = [float(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
            return fields[7], sum(fields[:8])
        return 0.0, 0.0


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(script: str, spec: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Run a script of this directory until the block ends."""
    command = [sys.executable, str(HERE / script)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(spec) + "\n")
            process.stdin.flush()
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(_PATIENCE)


def tell(port: int, changes: Sequence[dict[str, float]] = ()) -> None:
    """Tell a server what changes and when; which also says that it is there."""
    path = "/control?" + json.dumps(list(changes)).replace('"', "%22").replace(" ", "%20")
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = connection.recv(1024)
    if b" 200 " not in answer:
        raise RuntimeError(f"the server said {answer!r}")


def until_ready(process: subprocess.Popen[str], port: int) -> None:
    """Wait until a server answers."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            tell(port)
        except OSError as error:
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("the server did not start") from error
            time.sleep(0.02)
        else:
            return


def recorded(process: subprocess.Popen[str], path: Path) -> list[list[float]]:
    """End a server, and return what it recorded."""
    process.send_signal(signal.SIGUSR1)
    process.wait(_PATIENCE)
    samples: list[list[float]] = json.loads(path.read_text())
    return samples


class Bench:
    """Runs scenarios, and keeps what they came to."""

    def __init__(self, directory: Path, *, verbose: bool) -> None:
        self._directory = directory
        self._machine = Machine()
        self._verbose = verbose
        self.capacity = 0.0
        self.calibrations: list[float] = []

    def _server(self, arm: str, slo: float, **more: Any) -> dict[str, Any]:
        return {
            "arm": arm,
            "slo": slo,
            "io": IO,
            "io_cv": IO_CV,
            "work": WORK,
            "slowing": 0.0,
            "seed": 1,
            "port": free_port(),
            "core": self._machine.server,
            "record": str(self._directory / f"server-{time.monotonic_ns()}.json"),
            **more,
        }

    def calibrate(self) -> float:
        """Measure the capacity: what a full server answers in a second, with a limit in front that limits nothing."""
        spec = self._server("fixed-100000", 1.0)
        with started("server.py", spec) as process:
            until_ready(process, spec["port"])
            load = {
                "port": spec["port"],
                "core": self._machine.others,
                "saturate": _SATURATED,
                "seconds": _CALIBRATION,
            }
            with started("generator.py", load) as generator:
                answered: float = json.loads(generator.communicate(timeout=_PATIENCE)[0])["capacity"]
        self.capacity = answered
        self.calibrations.append(answered)
        return answered

    def run(self, name: str, scenario: Scenario, arm: str, repetition: int) -> Outcome:
        """Run a scenario under an arm; once more when the run can't be trusted."""
        outcome = self._once(name, scenario, arm, repetition)
        if not outcome.valid:
            again = self._once(name, scenario, arm, repetition)
            if again.valid or again.lag + again.waited < outcome.lag + outcome.waited:
                outcome = again
        if self._verbose:
            print(f"    {told(outcome)}", flush=True)
        return outcome

    def _once(self, name: str, scenario: Scenario, arm: str, repetition: int) -> Outcome:
        seed = f"{name}-{repetition}"
        spec = self._server(arm, scenario.slo, slowing=scenario.slowing, seed=seed)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(started("server.py", spec))
            until_ready(server, spec["port"])
            port = spec["port"]
            if scenario.streams[0].calls:
                front = {
                    **self._server("none", scenario.slo, seed=seed, core=self._machine.others),
                    "upstream": port,
                    "timeout": 4 * scenario.slo,
                }
                port = front["port"]
                until_ready(stack.enter_context(started("server.py", front)), port)
            load = self._load(scenario, arm, port, seed)
            generator = stack.enter_context(started("generator.py", load))
            assert generator.stdout is not None
            begin = json.loads(generator.stdout.readline())["begin"]
            tell(
                spec["port"],
                [
                    {"begin": begin + change.begin, "end": begin + change.end, "work": change.work, "io": change.io}
                    for change in scenario.changes
                ],
            )
            generator.wait(scenario.end + load["grace"] + _PATIENCE)
            rows = json.loads(Path(load["record"]).read_text())
            samples = recorded(server, Path(spec["record"]))
        return judged(
            Outcome(name, arm, repetition, self.capacity, *[math.nan] * 11),
            scenario,
            rows,
            [[sample[0] - begin, *sample[1:]] for sample in samples],
        )

    def _load(self, scenario: Scenario, arm: str, port: int, seed: str) -> dict[str, Any]:
        kind = "once"
        if scenario.retries is not None:
            kind = "budget" if arm == "hormesis" else "naive"
        return {
            "port": port,
            "seed": seed,
            "streams": [
                {
                    "segments": [(seconds, rate * self.capacity) for seconds, rate in stream.segments],
                    "criticality": int(stream.criticality),
                    "tenant": stream.tenant,
                    "path": f"/journey?calls={stream.calls}" if stream.calls else "/work",
                }
                for stream in scenario.streams
            ],
            "timeout": _CLIENT_TIMEOUT * max(1, scenario.streams[0].calls),
            "grace": 1.0,
            "warm": 300,
            "clients": kind,
            "retries": dataclasses.asdict(scenario.retries) if scenario.retries else None,
            "core": self._machine.others,
            "record": str(self._directory / f"load-{time.monotonic_ns()}.json"),
        }


def judged(outcome: Outcome, scenario: Scenario, rows: list[list[float]], samples: list[list[float]]) -> Outcome:
    """Work out what a run came to.

    Args:
        outcome: To fill in.
        scenario: What was run.
        rows: Of each request: when it was due, how late it was sent, when it ended, its status, and its stream.
        samples: Of the server: the time, the limit, in flight, processor time, time it waited for its core.
    """
    begin, end = scenario.end - scenario.measured, scenario.end
    journeys = bool(scenario.streams[0].calls)

    def good(row: list[float]) -> bool:
        return row[3] == 200 and (journeys or row[2] - row[0] <= scenario.slo)

    answered = [row for row in rows if row[3] == 200]
    outcome.good_at = sorted(row[2] for row in rows if good(row))
    within = [row for row in answered if begin <= row[2] < end]
    arrived = [row for row in rows if begin <= row[0] < end]
    had = capacity_at(outcome.capacity, scenario, end) * scenario.had
    seconds = range(round(begin), round(end))
    could = sum(min(had, sum(second <= row[0] < second + 1 for row in arrived)) for second in seconds)
    outcome.goodput = _between(outcome.good_at, begin, end) / could
    outcome.throughput = len(within) / scenario.measured / outcome.capacity
    latencies = sorted(row[2] - row[0] for row in within)
    outcome.p50, outcome.p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    outcome.settled = settled_after(outcome.good_at, scenario.step, scenario.until or end)
    outcome.shed = sum(row[3] >= 500 for row in arrived) / len(arrived)
    outcome.unanswered = sum(row[3] in (TIMED_OUT, GONE) for row in arrived) / len(arrived)
    outcome.lag = percentile(sorted(row[1] for row in rows), 0.99)
    outcome.limits = [(sample[0], sample[1]) for sample in samples if sample[0] >= 0]
    theirs = [sample for sample in samples if begin <= sample[0] <= end] or samples[-2:]
    finite = [sample[1] for sample in theirs if sample[1] < math.inf]
    outcome.limit = sum(finite) / len(finite) if finite else math.inf
    first, last = samples[0], samples[-1]
    outcome.busy = (theirs[-1][3] - theirs[0][3]) / max(1e-9, theirs[-1][0] - theirs[0][0])
    outcome.waited = (last[4] - first[4]) / (last[0] - first[0])
    if len(scenario.streams) > 1:
        _classes(outcome, scenario, arrived, good)
    if scenario.retries is not None:
        outcome.recovered = _recovery(scenario, rows, good)
    return outcome


def capacity_at(capacity: float, scenario: Scenario, at: float) -> float:
    """What the service can do at a time: a change takes longer for the application, and not for the server around it."""
    around = max(0.0, 1 / capacity - WORK)
    factor = next((change.work for change in scenario.changes if change.begin <= at - 1e-9 < change.end), 1.0)
    return 1 / (WORK * factor + around)


def _classes(outcome: Outcome, scenario: Scenario, arrived: list[list[float]], good: Any) -> None:
    tenants = [number for number, stream in enumerate(scenario.streams) if stream.name == "background"]
    critical = [row for row in arrived if row[4] not in tenants]
    outcome.critical_available = sum(row[3] == 200 for row in critical) / len(critical)
    outcome.critical_good = sum(map(good, critical)) / len(critical)
    left = outcome.capacity * scenario.measured - len(critical)
    demands = [float(sum(row[4] == number for row in arrived)) for number in tenants]
    got = [sum(row[4] == number and good(row) for row in arrived) for number in tenants]
    outcome.background = sum(got) / left
    outcome.fairness = jain([each / share for each, share in zip(got, max_min_shares(demands, left), strict=True)])


def _recovery(scenario: Scenario, rows: list[list[float]], good: Any) -> float:
    """Seconds from the end of the trigger until as many requests succeed as before, in a stretch of one second."""

    def succeeded(begin: float, end: float) -> float:
        theirs = [row for row in rows if begin <= row[0] < end]
        return sum(map(good, theirs)) / max(1, len(theirs))

    before = succeeded(1.0, scenario.changes[0].begin)
    for step in range(round((scenario.end - 1.0 - scenario.step) * 10) + 1):
        if succeeded(scenario.step + step / 10, scenario.step + step / 10 + 1.0) >= 0.95 * before:
            return step / 10
    return math.inf


def _between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def told(outcome: Outcome) -> str:
    """A run in a line."""
    line = (
        f"{outcome.arm:10} goodput {outcome.goodput:5.3f}  throughput {outcome.throughput:5.3f}"
        f"  p50 {outcome.p50 * 1e3:5.0f}  p99 {outcome.p99 * 1e3:5.0f} ms  settled {outcome.settled:4.1f} s"
        f"  shed {outcome.shed:4.2f}  unanswered {outcome.unanswered:4.2f}  limit {outcome.limit:5.1f}"
        f"  busy {outcome.busy:4.2f}  lag {outcome.lag * 1e3:4.1f} ms  waited {outcome.waited:5.3f}"
    )
    if outcome.critical_available is not None:
        line += (
            f"\n{'':15}critical: available {outcome.critical_available:.4f}, good {outcome.critical_good:.4f};"
            f" background {outcome.background:.3f} of what is left; Jain {outcome.fairness:.3f}"
        )
    if outcome.recovered is not None:
        line += f"\n{'':15}recovered {outcome.recovered:.1f} s after the trigger"
    return line if outcome.valid else f"{line}  NOT VALID"


def medians(outcomes: Sequence[Outcome], name: str) -> float:
    """The median of a figure over repetitions; those that are not valid count when there are no others."""
    valid = [outcome for outcome in outcomes if outcome.valid] or outcomes
    return median([getattr(outcome, name) for outcome in valid])


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, with {', '.join(QUICK_ARMS)}")
    parser.add_argument("--only", help="scenarios whose names begin so, with commas between")
    parser.add_argument("--arms", help=f"of {', '.join(ARMS)} (the best of several fixed limits), fixed-N")
    parser.add_argument("--repeat", type=int, help="how often ours and the fixed limits run; default 2, quick 1")
    parser.add_argument("--out", type=Path, help="a directory for a plot of each scenario, and all figures as JSON")
    arguments = parser.parse_args()
    arms = arguments.arms.split(",") if arguments.arms else list(QUICK_ARMS if arguments.quick else ARMS)
    prefixes = arguments.only.split(",") if arguments.only else list(QUICK) if arguments.quick else [""]
    chosen = {name: each for name, each in SCENARIOS.items() if any(map(name.startswith, prefixes))}
    repeat = arguments.repeat or (1 if arguments.quick else 2)
    began = time.monotonic()
    stolen_before = Machine.stolen()
    with tempfile.TemporaryDirectory(prefix="hormesis-") as directory:
        bench = Bench(Path(directory), verbose=True)
        print(
            f"C = {bench.calibrate():.1f} requests a second; {platform.python_implementation()} {platform.python_version()}"
        )
        outcomes: list[Outcome] = []
        for name, scenario in chosen.items():
            print(f"\n{name}: {scenario.what}", flush=True)
            for repetition in range(1, repeat + 1):
                of_turn = _expanded(arms, scenario, repetition)
                outcomes += [bench.run(name, scenario, arm, repetition) for arm in of_turn]
            print(f"    C = {bench.calibrate():.1f}", flush=True)
    summary(outcomes, chosen)
    stolen, total = (after - before for after, before in zip(Machine.stolen(), stolen_before, strict=True))
    drift = spread(bench.calibrations) / median(bench.calibrations)
    print(
        f"\n{time.monotonic() - began:.0f} s; C {min(bench.calibrations):.1f} to {max(bench.calibrations):.1f}"
        f"{', which is TOO FAR APART' if drift > _DRIFT_MAX else ''}; the host took {stolen / total if total else 0:.1%}"
    )
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        written = {"calibrations": bench.calibrations, "runs": [dataclasses.asdict(outcome) for outcome in outcomes]}
        (arguments.out / "load.json").write_text(json.dumps(written))


def _expanded(arms: Sequence[str], scenario: Scenario, repetition: int) -> Iterator[str]:
    for arm in arms:
        if scenario.arms is not None and arm.partition("-")[0] not in scenario.arms:
            continue
        if repetition > 1 and arm not in ("fixed", "hormesis"):
            continue
        if arm == "fixed":
            yield from (f"fixed-{limit}" for limit in scenario.fixed)
        else:
            yield arm


def summary(outcomes: Sequence[Outcome], chosen: dict[str, Scenario]) -> None:
    """Print a line for each scenario: ours and others, relative to the best fixed limit."""
    print("\nGoodput, and relative to the best fixed limit of the same runs:")
    for name in chosen:
        theirs: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.scenario == name:
                theirs.setdefault(outcome.arm, []).append(outcome)
        fixed = {arm: medians(runs, "goodput") for arm, runs in theirs.items() if arm.startswith("fixed-")}
        best = max(fixed, key=fixed.__getitem__) if fixed else None
        cells = []
        for arm, runs in theirs.items():
            if arm in fixed and arm != best:
                continue
            value = medians(runs, "goodput")
            ratio = f" ({value / fixed[best]:.2f})" if best is not None and arm != best else ""
            cells.append(f"{arm} {value:.3f}{ratio}")
        print(f"  {name:8} " + "  ".join(cells))


if __name__ == "__main__":
    main()

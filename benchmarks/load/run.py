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
import fcntl
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measures import median, spread
from outcome import WAITED_MAX, Outcome, judged
from report import best_fixed, markdown, plot, table, targets, told
from scenarios import SCENARIOS, Scenario

HERE = Path(__file__).parent

IO, IO_CV, WORK = 0.090, 0.3, 0.005
"""What a request takes: seconds of waiting for others, and of processor time; the facts' figures on one core."""

ARMS = ("none", "fixed", "hormesis", "vegas", "gradient2", "aimd")
QUICK_ARMS = {
    "S1-2x": ("none", "fixed", "hormesis"),
    "S2": ("fixed", "hormesis"),
    "F4": ("fixed", "hormesis"),
    "B": ("fixed", "hormesis"),
    "P": ("fixed", "hormesis"),
    "R-.7": ("none", "hormesis"),
}
"""What five minutes suffice for."""

_PATIENCE = 15.0
"""Seconds that a process has to start, and to end."""
_CLIENT_TIMEOUT = 2.0
_SATURATED = 48
"""Clients that always have a request waiting, for the measurement of the capacity: three times what fills the core."""
_CALIBRATION = 3.0
_CALIBRATIONS_MAX = 3
"""How often it is tried to measure the capacity on a core that nobody else is on."""
_DRIFT_MAX = 0.10


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


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run of these is going on here: two that share a core measure each other."""
    with (Path(tempfile.gettempdir()) / "hormesis-bench-load.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Bench:
    """Runs scenarios, and keeps what they came to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._machine = Machine()
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
        for _ in range(_CALIBRATIONS_MAX):
            answered, waited = self._saturated()
            if waited <= WAITED_MAX:
                break
        self.capacity = answered
        self.calibrations.append(answered)
        return answered

    def _saturated(self) -> tuple[float, float]:
        """Return what is answered in a second, and the share of the time for which the server waited for its core."""
        spec = self._server("fixed-100000", 1.0)
        with alone(), started("server.py", spec) as process:
            until_ready(process, spec["port"])
            load = {
                "port": spec["port"],
                "core": self._machine.others,
                "saturate": _SATURATED,
                "seconds": _CALIBRATION,
            }
            with started("generator.py", load) as generator:
                answered: float = json.loads(generator.communicate(timeout=_PATIENCE)[0])["capacity"]
            samples = recorded(process, Path(spec["record"]))
        return answered, (samples[-1][4] - samples[0][4]) / (samples[-1][0] - samples[0][0])

    def run(self, name: str, scenario: Scenario, arm: str, repetition: int) -> Outcome:
        """Run a scenario under an arm; once more when the run can't be trusted."""
        outcome = self._once(name, scenario, arm, repetition)
        if not outcome.valid:
            again = self._once(name, scenario, arm, repetition)
            if again.valid or again.lag + again.waited < outcome.lag + outcome.waited:
                outcome = again
        return outcome

    def _once(self, name: str, scenario: Scenario, arm: str, repetition: int) -> Outcome:
        seed = f"{name}-{repetition}"
        spec = self._server(arm, scenario.slo, slowing=scenario.slowing, seed=seed)
        with alone(), contextlib.ExitStack() as stack:
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
        outcome = Outcome(name, arm, repetition, self.capacity)
        return judged(outcome, scenario, WORK, rows, [[sample[0] - begin, *sample[1:]] for sample in samples])

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


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK_ARMS)}, with fewer arms")
    parser.add_argument("--only", help="scenarios whose names begin so, with commas between")
    parser.add_argument("--arms", help=f"of {', '.join(ARMS)} (fixed is the best of several), fixed-N")
    parser.add_argument("--repeat", type=int, help="how often ours and the best fixed limit run; 2, with --quick once")
    parser.add_argument("--out", type=Path, help="a directory for plots, the table, and all figures as JSON")
    parser.add_argument("--again", type=Path, metavar="JSON", help="run nothing, and tell of the runs in this file")
    arguments = parser.parse_args()
    prefixes = tuple(arguments.only.split(",")) if arguments.only else tuple(QUICK_ARMS) if arguments.quick else ("",)
    chosen = {name: each for name, each in SCENARIOS.items() if name.startswith(prefixes)}
    if arguments.quick:
        # The third is only there to show that the second is the best.
        chosen = {name: dataclasses.replace(each, fixed=each.fixed[:2]) for name, each in chosen.items()}
    arms = {
        name: arguments.arms.split(",")
        if arguments.arms
        else QUICK_ARMS.get(name, ("fixed", "hormesis"))
        if arguments.quick
        else [arm for arm in ARMS if arm in scenario.arms]
        for name, scenario in chosen.items()
    }
    repeat = arguments.repeat or (1 if arguments.quick else 2)
    if arguments.again is not None:
        told_before = json.loads(arguments.again.read_text())
        outcomes = [Outcome(**each) for each in told_before["runs"]]
        chosen = {name: SCENARIOS[name] for name in dict.fromkeys(outcome.scenario for outcome in outcomes)}
        tell_all(outcomes, chosen, arguments.out)
        return
    began, stolen_before = time.monotonic(), Machine.stolen()
    with tempfile.TemporaryDirectory(prefix="hormesis-") as directory:
        bench = Bench(Path(directory))
        outcomes = run_all(bench, chosen, arms, repeat)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        written = {"calibrations": bench.calibrations, "runs": [dataclasses.asdict(outcome) for outcome in outcomes]}
        (arguments.out / "load.json").write_text(json.dumps(written))
    tell_all(outcomes, chosen, arguments.out)
    stolen, total = (after - before for after, before in zip(Machine.stolen(), stolen_before, strict=True))
    least, most = min(bench.calibrations), max(bench.calibrations)
    drift = "" if spread(bench.calibrations) <= _DRIFT_MAX * median(bench.calibrations) else ", TOO FAR APART"
    print(
        f"\n{time.monotonic() - began:.0f} s; C was {least:.1f} to {most:.1f}{drift};"
        f" the host took {stolen / total if total else 0:.1%} of the processors"
    )


def tell_all(outcomes: Sequence[Outcome], chosen: Mapping[str, Scenario], directory: Path | None) -> None:
    """Tell what all runs came to, and draw it into a directory."""
    print()
    for line in table(outcomes, chosen):
        print(line)
    print("\nTargets:")
    for met, what in targets(outcomes, chosen):
        print(f"  {'met   ' if met else 'MISSED'} {what}")
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "load.md").write_text("\n".join(markdown(outcomes, chosen)) + "\n")
        for name, scenario in chosen.items():
            plot(outcomes, name, scenario, directory)


def run_all(
    bench: Bench, chosen: Mapping[str, Scenario], arms: Mapping[str, Sequence[str]], repeat: int
) -> list[Outcome]:
    """Run each scenario under each of its arms, and tell of each run when it is over."""
    outcomes: list[Outcome] = []
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"C = {bench.calibrate():.1f} requests a second, on one core with {python}")
    for name, scenario in chosen.items():
        print(f"\n{name}: {scenario.what}", flush=True)
        for repetition in range(1, repeat + 1):
            turn = _first_turn(arms[name], scenario) if repetition == 1 else _later_turn(arms[name], outcomes, name)
            for arm in turn:
                outcome = bench.run(name, scenario, arm, repetition)
                outcomes.append(outcome)
                print(f"    {told(outcome)}", flush=True)
        print(f"    C = {bench.calibrate():.1f}", flush=True)
    return outcomes


def _first_turn(arms: Sequence[str], scenario: Scenario) -> list[str]:
    """All arms, and each fixed limit of the scenario."""
    fixed = [f"fixed-{limit}" for limit in scenario.fixed]
    return [each for arm in arms for each in (fixed if arm == "fixed" else [arm])]


def _later_turn(arms: Sequence[str], outcomes: Sequence[Outcome], name: str) -> list[str]:
    """Ours and the best fixed limit once more, since they are compared."""
    best = best_fixed(outcomes, name)
    return [each for each in (best, "hormesis" if "hormesis" in arms else None) if each is not None]


if __name__ == "__main__":
    main()

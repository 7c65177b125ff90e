"""Reading the system: what the kernel tells, what psutil does where there is no /proc, and what can't be had."""

from __future__ import annotations

import builtins
import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hormesis.inbound.signals import HealthMonitor
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.degradation import Degradation
from hormesis.patterns.system_health import SystemHealth
from hormesis.testing import ManualClock


class Machine:
    """The files of a Linux machine, as they are at the moment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = ManualClock(1000.0)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def monitor(self, **settings: Any) -> HealthMonitor:
        watched = {"cpu": None, "memory": None, **settings}
        return HealthMonitor(SystemHealth(**watched), clock=self.clock, root=self.root)

    def readings(self, monitor: HealthMonitor) -> Any:
        self.clock.advance("1s")
        return monitor.snapshot()["readings"]

    def group(self, path: str, **files: str) -> None:
        """Put this process into a control group (version 2), with these files."""
        self.write("sys/fs/cgroup/cgroup.controllers", "cpu memory")
        self.write("proc/self/cgroup", f"1:name=systemd:/\n0::/{path}\n")
        for name, text in files.items():
            self.write(f"sys/fs/cgroup/{path}/{name.replace('_', '.', 1)}", text)

    def ticks(self, *numbers: int) -> None:
        words = " ".join(map(str, numbers))
        self.write("proc/stat", f"cpu  {words}\ncpu0 {words}\nintr 1 2 3\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# Processors.


def test_the_processors_of_the_machine(machine: Machine) -> None:
    """The share of the ticks since the last reading that were not idle, waiting for a disk among them."""
    monitor = machine.monitor(cpu=0.95)
    machine.ticks(100, 0, 100, 1000, 100, 0, 0, 0, 50, 0)
    assert machine.readings(monitor) == {}
    machine.ticks(150, 0, 110, 1030, 110, 0, 0, 0, 90, 0)
    assert machine.readings(monitor) == {"cpu": pytest.approx(0.6)}


def test_a_machine_that_has_not_ticked(machine: Machine) -> None:
    """Between two readings without a tick, nothing is known."""
    monitor = machine.monitor(cpu=0.95)
    machine.ticks(100, 0, 100, 1000, 100, 0, 0, 0, 0, 0)
    machine.readings(monitor)
    assert machine.readings(monitor) == {}


def test_the_processors_of_a_container(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a processor of which half is used is at a half, whatever else the machine does."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    machine.group("app", cpu_max="50000 100000\n", cpu_stat="usage_usec 1000000\nuser_usec 7\n")
    machine.ticks(100, 0, 100, 1000, 100, 0, 0, 0, 0, 0)
    monitor = machine.monitor(cpu=0.95)
    assert machine.readings(monitor) == {}
    machine.group("app", cpu_stat="usage_usec 1250000\nuser_usec 7\n")
    assert machine.readings(monitor) == {"cpu": pytest.approx(0.5)}


def test_the_tightest_quota_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group may have more than the one that it is in."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    machine.group("pod", cpu_max="100000 100000", cpu_stat="usage_usec 0")
    machine.group("pod/app", cpu_max="200000", cpu_stat="usage_usec 0")
    monitor = machine.monitor(cpu=0.95)
    machine.readings(monitor)
    machine.write("sys/fs/cgroup/pod/cpu.stat", "usage_usec 800000")
    assert machine.readings(monitor) == {"cpu": pytest.approx(0.8)}


def test_a_quota_beyond_the_machine_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may use more processors than there are can use all that there are."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    machine.group("app", cpu_max="200000 100000", cpu_stat="usage_usec 0")
    machine.ticks(0, 0, 0, 0, 0, 0, 0, 0)
    monitor = machine.monitor(cpu=0.95)
    machine.readings(monitor)
    machine.ticks(100, 0, 0, 100, 0, 0, 0, 0)
    assert machine.readings(monitor) == {"cpu": pytest.approx(0.5)}


def test_a_system_without_affinity(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processors are then the process's."""
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    machine.group("app", cpu_max="50000 100000", cpu_stat="usage_usec 0")
    monitor = machine.monitor(cpu=0.95)
    machine.readings(monitor)
    machine.group("app", cpu_stat="usage_usec 500000")
    assert machine.readings(monitor) == {"cpu": pytest.approx(1.0)}


def test_what_was_counted_over_a_long_pause_says_nothing(machine: Machine) -> None:
    """After a quiet night, the mean of the night is no reading of now."""
    monitor = machine.monitor(cpu=0.95)
    machine.ticks(0, 0, 0, 0, 0, 0, 0, 0)
    machine.readings(monitor)
    machine.clock.advance("1h")
    machine.ticks(100, 0, 0, 0, 0, 0, 0, 0)
    assert machine.readings(monitor) == {}
    machine.ticks(200, 0, 0, 0, 0, 0, 0, 0)
    assert machine.readings(monitor) == {"cpu": 1.0}


def test_a_counter_that_begins_anew_says_nothing(machine: Machine) -> None:
    """A container that was started again counts from nothing."""
    monitor = machine.monitor(cpu_pressure=0.5)
    machine.write("proc/pressure/cpu", "some avg10=0.00 total=5000000\n")
    machine.readings(monitor)
    machine.write("proc/pressure/cpu", "some avg10=0.00 total=10\n")
    assert machine.readings(monitor) == {}


def test_what_this_process_uses(machine: Machine) -> None:
    """In processors, from the clock of the process."""
    monitor = machine.monitor(process_cpu=0.9)
    machine.readings(monitor)
    found = machine.readings(monitor)
    assert 0 <= found["process_cpu"] < 10


# Pressure.


def test_pressure(machine: Machine) -> None:
    """The share of the time in which some work waited for a processor."""
    monitor = machine.monitor(cpu_pressure=0.5)
    machine.write("proc/pressure/cpu", "some avg10=1.00 avg60=1.00 avg300=1.00 total=1000000\nfull total=0\n")
    machine.readings(monitor)
    machine.write("proc/pressure/cpu", "some avg10=1.00 avg60=1.00 avg300=1.00 total=1400000\nfull total=0\n")
    assert machine.readings(monitor) == {"cpu_pressure": pytest.approx(0.4)}


def test_the_pressure_of_a_container(machine: Machine) -> None:
    """Of the innermost group that tells; what waits elsewhere on the machine is not ours."""
    machine.write("proc/pressure/cpu", "some total=0\n")
    machine.group("pod", cpu_pressure="some total=0\n")
    machine.group("pod/app", memory_max="max")
    monitor = machine.monitor(cpu_pressure=0.5)
    machine.readings(monitor)
    machine.write("sys/fs/cgroup/pod/cpu.pressure", "some total=250000\n")
    assert machine.readings(monitor) == {"cpu_pressure": pytest.approx(0.25)}


def test_a_kernel_that_tells_of_no_pressure(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Is named, once, with what would do."""
    monitor = machine.monitor(cpu_pressure=0.5)
    with caplog.at_level(logging.WARNING, "hormesis.health"):
        for _ in range(3):
            assert machine.readings(monitor) == {}
    (record,) = caplog.records
    assert record.message.startswith("health: cpu_pressure can't be read here, and does not count: ")
    assert "PSI is in Linux from 4.20" in record.message


def test_a_pressure_file_without_the_line(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """What it says is not what is known of it."""
    machine.write("proc/pressure/cpu", "full total=0\n")
    monitor = machine.monitor(cpu_pressure=0.5)
    with caplog.at_level(logging.WARNING, "hormesis.health"):
        assert machine.readings(monitor) == {}
    assert "there is no line of what some work waited" in caplog.text


# Memory.


def test_the_memory_of_the_machine(machine: Machine) -> None:
    """What is not available of what there is."""
    machine.write("proc/meminfo", "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n")
    assert machine.readings(machine.monitor(memory=0.9)) == {"memory": pytest.approx(0.6)}


def test_the_memory_of_a_container(machine: Machine) -> None:
    """What it uses of its limit, without the cached files that the kernel would give back."""
    machine.group(
        "app", memory_max="1000\n", memory_current="700\n", memory_stat="anon 500\ninactive_file 200\nfile 200\n"
    )
    assert machine.readings(machine.monitor(memory=0.9)) == {"memory": pytest.approx(0.5)}


def test_the_tightest_limit_of_memory_counts(machine: Machine) -> None:
    """The one of the pod, where the container has none of its own."""
    machine.group("pod", memory_max="1000", memory_current="900")
    machine.group("pod/app", memory_max="max", memory_current="100")
    assert machine.readings(machine.monitor(memory=0.9)) == {"memory": pytest.approx(0.9)}


def test_a_container_that_sees_a_path_of_its_host(machine: Machine) -> None:
    """The path is not there; then the root is the container's own."""
    machine.group("", memory_max="1000", memory_current="300")
    for path in ("kubepods/pod1/abc", "../../app"):
        machine.write("proc/self/cgroup", f"0::/{path}\n")
        assert machine.readings(machine.monitor(memory=0.9)) == {"memory": pytest.approx(0.3)}


def test_groups_without_a_word_of_ours(machine: Machine) -> None:
    """Where the process is in is not said: the root, then."""
    machine.write("sys/fs/cgroup/cgroup.controllers", "memory")
    machine.write("sys/fs/cgroup/memory.max", "1000")
    machine.write("sys/fs/cgroup/memory.current", "300")
    assert machine.readings(machine.monitor(memory=0.9)) == {"memory": pytest.approx(0.3)}


# Where there is no /proc.


def test_psutil_reads_where_there_is_no_proc(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors and memory, of the machine."""
    told = SimpleNamespace(cpu_percent=lambda: 40.0, virtual_memory=lambda: SimpleNamespace(percent=70.0))
    monkeypatch.setitem(sys.modules, "psutil", told)
    assert machine.readings(machine.monitor(cpu=0.95, memory=0.9)) == {"cpu": 0.4, "memory": pytest.approx(0.7)}


def test_without_psutil_it_says_what_to_install(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One clear word for each reading, and the rest goes on."""
    real_import = builtins.__import__

    def no_psutil(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "psutil":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "psutil", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_psutil)
    monitor = machine.monitor(cpu=0.95, memory=0.9, function=lambda: 0.5)
    with caplog.at_level(logging.WARNING, "hormesis.health"):
        assert machine.readings(monitor) == {"function": 0.5}
        machine.readings(monitor)
    assert [record.message for record in caplog.records] == [
        f"health: {name} can't be read here, and does not count: there is no /proc; pip install 'hormesis[health]'"
        for name in ("cpu", "memory")
    ]


def test_psutil_itself(machine: Machine) -> None:
    """What it says of whatever runs these tests is a share."""
    pytest.importorskip("psutil")
    readings = machine.readings(machine.monitor(cpu=0.95, memory=0.9))
    assert 0 <= readings["cpu"] <= 1
    assert 0 < readings["memory"] < 1


@pytest.mark.parametrize(
    "text", ["", "\n", "no numbers", "cpu", "cpu x y z", "MemTotal: many\nMemAvailable: few", "\x00\xff"]
)
def test_files_that_make_no_sense(machine: Machine, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a kernel writes, a reading that can't be had does not count, and is logged once."""
    for name in ("proc/stat", "proc/meminfo", "proc/pressure/cpu"):
        machine.write(name, text)
    monitor = machine.monitor(cpu=0.95, memory=0.9, cpu_pressure=0.5)
    with caplog.at_level(logging.WARNING, "hormesis.health"):
        for _ in range(3):
            assert machine.readings(monitor) == {}
    assert monitor() == 1.0
    assert len({record.message.split(" ")[1] for record in caplog.records}) == len(caplog.records) <= 3


def test_this_machine() -> None:
    """Whatever runs these tests, its readings make sense."""
    clock = ManualClock()
    monitor = HealthMonitor(SystemHealth(process_cpu=1.0), clock=clock)
    for _ in range(2):
        clock.advance("1s")
        readings: Any = monitor.snapshot()["readings"]
    assert 0 < readings["memory"] < 1
    assert 0 <= readings.get("cpu", 0.0) <= 1


# The loop, and a function of one's own.


def test_the_mean_lag_of_the_loop(machine: Machine) -> None:
    """Of the samples since the last reading; without any, nothing is known."""
    monitor = machine.monitor(loop_lag="100ms")
    assert machine.readings(monitor) == {}
    for lag in (0.1, 0.3):
        monitor.lagged(lag)
    assert machine.readings(monitor) == {"loop_lag": pytest.approx(0.2)}
    assert monitor() == pytest.approx(0.5)
    machine.clock.advance("10s")
    assert machine.readings(monitor) == {}


@pytest.mark.parametrize("health", [2.0, -0.1, True, float("nan"), "well"])
def test_a_function_that_makes_no_sense_does_not_count(
    machine: Machine, health: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And is logged once."""
    monitor = machine.monitor(function=lambda: health)
    with caplog.at_level(logging.WARNING, "hormesis.health"):
        for _ in range(3):
            assert machine.readings(monitor) == {}
    assert len(caplog.records) == 1


def test_a_function_that_does_not_know(machine: Machine) -> None:
    """None is no reading."""
    assert machine.readings(machine.monitor(function=lambda: None)) == {}


def test_readings_are_made_when_they_are_due(machine: Machine) -> None:
    """Nobody asks, nothing is read; and who asks too soon gets what there is."""
    asked: list[float] = []

    def health() -> float:
        asked.append(machine.clock.now())
        return 0.5

    monitor = machine.monitor(function=health, every="1s")
    machine.clock.advance("1h")
    assert asked == []
    assert [monitor() for _ in range(5)] == [0.5] * 5
    machine.clock.advance("1s")
    monitor()
    assert len(asked) == 2


def test_one_caller_reads_and_the_others_go_on(machine: Machine) -> None:
    """While a function takes long, everybody else gets the factor as it was."""
    inside, go = threading.Event(), threading.Event()

    def slow() -> float:
        inside.set()
        assert go.wait(5)
        return 0.5

    monitor = machine.monitor(function=slow)
    reader = threading.Thread(target=monitor)
    reader.start()
    assert inside.wait(5)
    machine.clock.advance("1m")
    assert monitor() == 1.0
    go.set()
    reader.join()
    machine.clock.advance("1ms")
    assert monitor() == 0.5


def test_other_settings_keep_the_factor(machine: Machine) -> None:
    """What was watched is read no more, and what is new is."""
    monitor = machine.monitor(function=lambda: 0.2)
    assert monitor() == 0.2
    monitor.reconfigure(SystemHealth(cpu=None, memory=None, function=lambda: 0.1))
    assert monitor() == 0.1
    monitor.reconfigure(SystemHealth(cpu=None, memory=None, factor_min=0.5))
    assert monitor.settings.factor_min == 0.5
    machine.clock.advance("1s")
    assert monitor() >= 0.5


# Who heeds it.


def test_a_concurrency_limit_heeds_it(machine: Machine) -> None:
    """As many as are right, times how well the system is."""
    monitor = machine.monitor(function=lambda: 0.25)
    limit = ConcurrencyLimit(20, health=monitor).machine(threading.Lock())
    limit.put_back(limit.acquire(machine.clock.now()))
    assert limit.snapshot(0.0)["limit"] == 5


def test_a_degradation_heeds_it(machine: Machine) -> None:
    """As a source of health."""
    shop = Degradation(features={"reviews": "reduced"}, clock=machine.clock)
    shop.watch("system", machine.monitor(function=lambda: 0.3))
    assert shop.level == "minimal"

"""Greedy neighbours on the machine: some burn the processors, one holds memory.

They are programs of their own, which bear a mark: whoever undoes them kills what bears it. They also end by themselves
when the runner is gone.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hormesis.chaos.births import spawn
from hormesis.chaos.host.act import BlockingAct, FaultFailed, find_program
from hormesis.chaos.undo import Signal

__all__ = ["Burn", "Hog"]

_BURN = """
import os, sys, time
parent, load = os.getppid(), float(sys.argv[1])
for _ in range(int(sys.argv[2]) - 1):
    if os.fork() == 0:
        parent = os.getppid()
        break
while os.getppid() == parent:
    end = time.perf_counter() + load * 0.05
    while time.perf_counter() < end:
        pass
    if load < 1:
        time.sleep((1 - load) * 0.05)
"""
_HOLD = """
import mmap, os, sys, time
parent, size, reserve, held = os.getppid(), int(sys.argv[1]), int(sys.argv[2]), []
try:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
except OSError:
    pass
def free():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
step = 8 << 20
while size > 0 and free() > reserve + step:
    block = mmap.mmap(-1, min(step, size))
    for at in range(0, len(block), mmap.PAGESIZE):
        block[at] = 1
    held.append(block)
    size -= step
print("held", sum(map(len, held)), flush=True)
while os.getppid() == parent:
    time.sleep(0.2)
"""
_HELD_WITHIN = 10.0
_RESERVE = 0.1
"""The share of the machine's memory that is never taken."""


class _Neighbour(BlockingAct):
    """A program that runs beside the system for as long as the dose lasts."""

    def __init__(self, what: str, mark: int) -> None:
        self.what = what
        self.mark = mark
        self._popen: subprocess.Popen[bytes] | None = None

    def undo(self) -> list[Signal]:
        """Return how to take it back: it is killed, and all it started."""
        return [Signal(self.mark, 9)]

    def release(self) -> None:
        """Reap it."""
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.kill()
            popen.wait()
            if popen.stdout is not None:
                popen.stdout.close()

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            self._popen = spawn(
                argv,
                mark=self.mark,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise FaultFailed(self.what, str(error)) from error
        return self._popen


class Burn(_Neighbour):
    """Workers that use the processors: those of stress-ng where it is installed, else our own.

    Args:
        mark: The mark that they shall bear.
        workers: How many.
        load: The share of a processor that each uses.
    """

    def __init__(self, mark: int, workers: int, load: float = 1.0) -> None:
        super().__init__(f"{workers} CPU workers at {100 * load:.3g} % on the host", mark)
        self.workers = workers
        self.load = load

    def apply(self) -> None:
        """Start them."""
        program = find_program("stress-ng")
        if program is not None:
            load = str(max(1, round(100 * self.load)))
            self._start([program, "--quiet", "--cpu", str(self.workers), "--cpu-load", load, "--cpu-method", "loop"])
        else:
            self._start([sys.executable, "-I", "-S", "-c", _BURN, str(self.load), str(self.workers)])


class Hog(_Neighbour):
    """A neighbour that holds a share of the memory that is free when it starts.

    Args:
        mark: The mark that it shall bear.
        share: The share of what is free.
    """

    def __init__(self, mark: int, share: float) -> None:
        super().__init__(f"{100 * share:.3g} % of the free memory taken on the host", mark)
        self.share = share

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return None if os.path.exists("/proc/meminfo") else "how much memory is free can be read on Linux only"

    def apply(self) -> None:
        """Start it, and wait until it holds what it should."""
        memory = _memory()
        size, reserve = int(self.share * memory["MemAvailable"]), int(_RESERVE * memory["MemTotal"])
        popen = self._start([sys.executable, "-I", "-S", "-c", _HOLD, str(size), str(reserve)])
        assert popen.stdout is not None  # noqa: S101  # it was asked for
        if not select.select([popen.stdout], [], [], _HELD_WITHIN)[0]:
            raise FaultFailed(self.what, f"it did not have it after {_HELD_WITHIN:g} s")
        if not popen.stdout.readline().startswith(b"held"):
            raise FaultFailed(self.what, "it ended before it had it")


def _memory() -> dict[str, int]:
    """Return the lines of the kernel's account of memory, in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}

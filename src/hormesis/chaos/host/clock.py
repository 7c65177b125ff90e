"""A clock that jumps in a running process (libfaketime).

The library stands between a program and its clocks, and reads from a file by how much to shift them; it looks again
once a second. So a process is *started* with it if its clock is to jump later, with a shift of nothing; programs that
were linked statically don't notice.

Monotonic clocks are left alone, as a real clock that is set leaves them. Times of files are left alone too.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from hormesis.chaos.host.act import BlockingAct, FaultFailed
from hormesis.chaos.undo import Write

__all__ = ["FakeClock", "Skew"]

_LIBRARIES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
_RIGHT = "+0 x1\n"


class FakeClock:
    """The clock of a process that can be made to jump.

    Args:
        file: Where its shift is written; made when the process is started.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @staticmethod
    def possible() -> str | None:
        """Return why this machine can't do it; None if it can."""
        if sys.platform != "linux":
            return "a clock that jumps works on Linux only"
        if _library() is None:
            return "a clock that jumps needs libfaketime, which is not installed (Debian: the package `faketime`)"
        return None

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Write the file, and return the variables with which the process has to be started.

        Args:
            given: The variables that it gets otherwise: what they preload is kept.
        """
        self.file.write_text(_RIGHT, encoding="ascii")
        self.file.chmod(0o644)
        python = str(Path(__file__).parent / "faketime")
        return {
            "LD_PRELOAD": ":".join(filter(None, [_library(), given.get("LD_PRELOAD", "")])),
            "PYTHONPATH": os.pathsep.join(filter(None, [python, given.get("PYTHONPATH", "")])),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its cure for waits of some C libraries makes threads of all others wait tens of milliseconds for a lock.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }


class Skew(BlockingAct):
    """The clock of a process is wrong.

    Args:
        where: Whose, in words.
        clock: The clock.
        shift: By how many seconds.
        rate: How fast it has run since the process started.
    """

    def __init__(self, where: str, clock: FakeClock, shift: float, rate: float = 1.0) -> None:
        self.what = f"clock {shift:+g} s{f' x{rate:g}' if rate != 1 else ''} on {where}"
        self.clock = clock
        self.shift = shift
        self.rate = rate

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return self.clock.possible()

    def undo(self) -> list[Write]:
        """Return how to take it back."""
        return [Write(str(self.clock.file), _RIGHT)]

    def apply(self) -> None:
        """Set it; the process notices within a second."""
        if not self.clock.file.exists():
            raise FaultFailed(self.what, "the process was not started with a clock that can jump")
        self.clock.file.write_text(f"{self.shift:+f} x{self.rate:g}\n", encoding="ascii")


def _library() -> str | None:
    """Return the path of the library, the one for programs with threads if there is a choice."""
    for name in ("libfaketimeMT.so.1", "libfaketime.so.1"):
        for folder in _LIBRARIES:
            for path in sorted(glob.glob(f"{folder}/{name}")):
                return path
    return None

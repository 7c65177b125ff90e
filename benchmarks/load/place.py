"""Where a process runs: on a core of its own, ahead of others on it, and no longer than who started it.

Linux weighs sessions against one another before it weighs the processes in them (autogroups), so niceness counts for
little unless the session has it too. All of it is "as far as one may": without the right to, a run only is noisier, and
the share of time that the server waited for its core says so.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

__all__ = ["die_with_parent", "take"]

_NICENESS = -15
"""A share of 97 % of a core that one other process wants as well."""


def take(core: int | None) -> None:
    """Stay on a core, ahead of others on it; for a process that is the first of its session."""
    if core is not None and hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICENESS))


def die_with_parent() -> None:
    """End this process soon after the one that started it: a session of its own gets no Ctrl-C."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

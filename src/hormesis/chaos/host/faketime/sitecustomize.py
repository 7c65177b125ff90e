"""Mends `time.sleep` under libfaketime, where that breaks it.

Up to version 0.9.10, told to leave monotonic clocks alone, libfaketime still shifts the end of a sleep until a
monotonic time, which is how Python sleeps since 3.11; the kernel is handed a time before it started, and says EINVAL
(libfaketime's issue 426). Waiting in `select` is left alone.

Python imports a module of this name when it starts. If the environment has one of its own, that is imported after it.
"""

from __future__ import annotations

import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


def _sleep(seconds: SupportsIndex | float) -> None:
    """Wait; what `time.sleep` does, by other means."""
    select.select((), (), (), float(seconds))


try:
    time.sleep(0.000001)
except OSError:
    time.sleep = _sleep

if __name__ == "sitecustomize":
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _here]
    _this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        sys.modules["sitecustomize"] = _this

"""Looking at a file from time to time, and doing something when it has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from hormesis.errors import ConfigurationError

__all__ = ["watch_file"]

_Mark = tuple[int, int, int]


def watch_file(path: Path, changed: Callable[[], object], every: float) -> Callable[[], None]:
    """Call a function whenever a file has changed; returns a function that ends it, and may be called twice.

    Args:
        path: The file. While it is missing, as it is for a moment when an editor replaces it, it counts as unchanged.
        changed: What to do. A `ConfigurationError` of it is logged; any other error is too.
        every: Seconds between two looks.
    """
    ended = threading.Event()
    known = _mark(path)

    def watch() -> None:
        nonlocal known
        while not ended.wait(every):
            mark = _mark(path)
            if mark is None or mark == known:
                continue
            known = mark
            try:
                changed()
            except Exception as error:  # whoever watches must go on, whatever stands in the file
                _log(path, error)

    threading.Thread(target=watch, name=f"hormesis-watch-{path.name}", daemon=True).start()
    return ended.set


def _mark(path: Path) -> _Mark | None:
    """What tells one version of a file from another."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _log(path: Path, error: Exception) -> None:
    import logging  # noqa: PLC0415  only a mistake needs it

    log = logging.getLogger("hormesis.policy")
    if isinstance(error, ConfigurationError):
        log.error("%s; its settings stay as they were", error)
    else:
        log.error("reloading %s failed; its settings stay as they were", path, exc_info=error)

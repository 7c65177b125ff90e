"""What commands that run a system share: a folder of their own, and an orderly end when a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hormesis.errors import ConfigurationError

__all__ = ["check_writable", "folder", "on_signals", "until_interrupted"]

T = TypeVar("T")

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """Make the folder for the report before anything is started, and hold it against other game days.

    One that was made here, and into which nothing was written, is removed again.
    """
    out = Path(name).absolute()
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise ConfigurationError(f"--out {name}: can't be written to: {error.strerror or error}") from error
    with lock:
        try:
            import fcntl  # noqa: PLC0415  not on Windows

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            raise ConfigurationError(f"--out {name}: another game day writes there now; name another folder") from None
        try:
            yield out
        finally:
            with contextlib.suppress(OSError):
                if made and [each.name for each in out.iterdir()] == [".lock"]:
                    (out / ".lock").unlink()
                    out.rmdir()


def check_writable(option: str, path: Path) -> None:
    """Make sure, before anything is started, that a file can be written, and leave none where there was none."""
    made = not path.exists()
    try:
        path.open("a").close()
        if made:
            path.unlink()
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} can't be written to: {error.strerror or error}") from error


def on_signals(take: Callable[[int], object]) -> None:
    """Have a function told of every signal that asks for an end, in the loop that runs."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on a loop
            loop.add_signal_handler(number, take, number)


def off_signals() -> None:
    """Have nobody told of them any more."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(number)


def until_interrupted(main: Coroutine[Any, Any, T]) -> tuple[T | None, int]:
    """Run to the end, or until a signal; returns the result, or None and the signal."""
    received: list[int] = []

    async def watched() -> T | None:
        task = asyncio.ensure_future(main)

        def stop(number: int) -> None:
            if not received:
                received.append(number)
                print("stopping; undoing faults and ending processes …", file=sys.stderr)
                task.cancel()

        on_signals(stop)
        try:
            return await task
        except asyncio.CancelledError:
            if received:
                return None
            raise

    result = asyncio.run(watched())
    return result, received[0] if received and result is None else 0

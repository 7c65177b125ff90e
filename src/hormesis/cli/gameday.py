"""`hormesis gameday`: read, run, report.

The first Ctrl-C (or SIGTERM, or a closed terminal) ends the game day in order: faults are undone, processes stopped.
Further ones are ignored while that happens; it takes a few seconds at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import load_experiment
from hormesis.gameday.report import PatientConsole, as_json, observer, print_report, write_page
from hormesis.gameday.results import GameDay
from hormesis.gameday.runner import hold

__all__ = ["run"]

T = TypeVar("T")

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def run(options: argparse.Namespace) -> int:
    """Hold a game day; 0 only if every judged arm held its objectives."""
    experiment = load_experiment(options.file)
    if options.seed is not None:
        experiment = dataclasses.replace(experiment, seed=options.seed)
    stresses = experiment.chosen(options.only, everything=options.all)
    for arm in options.arm:
        if arm not in experiment.arm:
            raise ConfigurationError(f"--arm: {ConfigurationError.unknown('arm', arm, experiment.arm)}")
    arms = [arm for arm in experiment.arm if not options.arm or arm in options.arm]
    with _folder(options.out) as out:
        watcher = observer()
        try:
            gameday, interrupted_by = _until_interrupted(
                hold(experiment, stresses, arms, file=options.file, out=out, observer=watcher)
            )
        finally:
            watcher.close()
        if gameday is None:
            print("hormesis: interrupted; every fault is undone and every process is stopped", file=sys.stderr)
            return 128 + interrupted_by
        _report(gameday, out, as_data=options.json)
    return 0 if gameday.held else 1


def _report(gameday: GameDay, out: Path, *, as_data: bool) -> None:
    """Write the page and the data, and print; what can't be written is said after what was found."""
    page, trouble = out / "report.html", None
    try:
        write_page(gameday, page)
        (out / "report.json").write_text(json.dumps(as_json(gameday, samples=True)), encoding="utf-8")
    except OSError as error:
        trouble = error
    if as_data:
        print(json.dumps(as_json(gameday, samples=False), indent=2))
    else:
        print_report(gameday, PatientConsole(), None if trouble else page)
    if trouble is not None:
        reason = trouble.strerror or trouble
        raise ConfigurationError(f"--out {out}: the report can't be written: {reason}") from trouble


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    """Make the folder for the report before anything is started, and hold it against other game days."""
    out = Path(name).absolute()
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
        yield out


def _until_interrupted(main: Coroutine[Any, Any, T]) -> tuple[T | None, int]:
    """Run to the end, or until a signal; returns the result, or None and the signal."""
    received: list[int] = []

    async def watched() -> T | None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main)

        def stop(number: int) -> None:
            if not received:
                received.append(number)
                print("stopping; undoing faults and ending processes …", file=sys.stderr)
                task.cancel()

        for number in _SIGNALS:
            with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers on a loop
                loop.add_signal_handler(number, stop, number)
        try:
            return await task
        except asyncio.CancelledError:
            if received:
                return None
            raise

    result = asyncio.run(watched())
    return result, received[0] if received and result is None else 0

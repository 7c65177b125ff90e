"""`hormesis gameday`: read, run, report.

The first Ctrl-C (or SIGTERM, or a closed terminal) ends the game day in order: faults are undone, processes stopped.
Further ones are ignored while that happens; it takes a few seconds at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hormesis.errors import ConfigurationError, MissingExtraError

__all__ = ["run"]

T = TypeVar("T")

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_NEEDED = ("pydantic", "aiohttp", "hdrh", "jinja2", "matplotlib", "rich")


def run(options: argparse.Namespace) -> int:
    """Hold a game day; 0 only if every judged arm held its objectives."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise MissingExtraError("hormesis gameday", "gameday")
    from hormesis.gameday.experiment import load_experiment  # noqa: PLC0415  what it imports may be missing
    from hormesis.gameday.report import as_json, make_observer, print_report, write_page  # noqa: PLC0415
    from hormesis.gameday.runner import hold  # noqa: PLC0415

    experiment = load_experiment(options.file)
    if options.seed is not None:
        experiment = dataclasses.replace(experiment, seed=options.seed)
    stresses = experiment.chosen(options.only, everything=options.all)
    for arm in options.arm:
        if arm not in experiment.arm:
            raise ConfigurationError(f"--arm: {ConfigurationError.unknown('arm', arm, experiment.arm)}")
    arms = [arm for arm in experiment.arm if not options.arm or arm in options.arm]
    out = _folder(options.out)
    observer = make_observer()
    try:
        gameday, interrupted = _until_interrupted(
            hold(experiment, stresses, arms, file=options.file, out=out, observer=observer)
        )
    finally:
        observer.close()
    if gameday is None:
        print("hormesis: interrupted; every fault is undone and every process is stopped", file=sys.stderr)
        return 128 + interrupted
    page = out / "report.html"
    try:
        write_page(gameday, page)
        (out / "report.json").write_text(json.dumps(as_json(gameday, samples=True)), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--out {out}: the report can't be written: {error.strerror or error}") from error
    if options.json:
        print(json.dumps(as_json(gameday, samples=False), indent=2))
    else:
        print_report(gameday, page)
    return 0 if gameday.held else 1


def _folder(name: str) -> Path:
    """Make the folder for the report before anything is started, and see that it can be written to."""
    out = Path(name).absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"--out {name}: can't be written to: {error.strerror or error}") from error
    return out


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

"""Probes at work: each has a process of its own that asks, and is killed when the answer does not come in time.

So a timeout always holds, whatever hangs, and a probe that hangs holds up neither the course of a stress nor the end of
a game day. The process is kept for the next look; after a timeout there is a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hormesis.gameday import prober
from hormesis.gameday.probes import Look, filled
from hormesis.gameday.tolerance import Found
from hormesis.loadgen import Answer, Samples
from hormesis.units import format_seconds, seconds

__all__ = ["Probes"]

_PROBER = os.path.abspath(prober.__file__)
_LINE_MAX = 8 * 1024 * 1024
_OUTPUT_MAX = 1_000_000
_FIND_WITHIN = 10.0
"""Seconds for the import of what probes ask."""


class Probes:
    """Makes the looks of one arm.

    Args:
        routes: The names of the requests, by their index in samples.
        known: What the placeholders of addresses stand for.
        folder: Where commands and functions run.
        env: Variables for them, on top of this process's own.
        on_spawn: Called with the process id, which is also its process group's, of whatever is started.
        on_end: Called with it when that has ended.
    """

    def __init__(
        self,
        *,
        routes: Sequence[str],
        known: Mapping[str, str],
        folder: Path,
        env: Mapping[str, str],
        on_spawn: Callable[[int], object] = lambda _: None,
        on_end: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._routes = routes
        self._known = known
        self._folder = folder
        self._env = {**os.environ, **env}
        self._spawned, self._ended = on_spawn, on_end
        self._counts: Counter[str] = Counter()
        self._askers: dict[str, _Asker] = {}

    def count(self, samples: Samples) -> None:
        """Add requests to what placeholders such as `{order.full}` stand for."""
        for sample in samples:
            route = self._routes[sample.request]
            self._counts[f"{route}.sent"] += 1
            self._counts[f"{route}.full"] += sample.answer is Answer.FULL
            self._counts[f"{route}.answered"] += sample.answer.served

    async def look(self, look: Look) -> tuple[str, float]:
        """Look once.

        Returns:
            What was wrong, in words (empty when all is well), and how many seconds it took.
        """
        none_yet = dict.fromkeys(look.placeholders(), "0")
        known = {**none_yet, **self._known, **{name: str(count) for name, count in self._counts.items()}}
        within, began = seconds(look.timeout), time.monotonic()
        try:
            async with asyncio.timeout(within):
                said = await self._ask(look, filled(look.question(), known), known)
        except TimeoutError:
            said = f"gave no answer in {format_seconds(within)}, and was cut off"
        self._counts[f"{look.name}.held"] += not said
        return said, time.monotonic() - began

    async def lack(self, look: Look) -> str:
        """Say what there is not of the function that a probe asks; nothing when it is there, or that can't be told."""
        asker = self._askers.setdefault(look.name, _Asker(self._folder, self._env, self._spawned, self._ended))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIND_WITHIN):
                return str((await asker.ask({"find": look.python})).get("lacks", ""))
        return ""

    async def _ask(self, look: Look, question: Mapping[str, Any], known: Mapping[str, str]) -> str:
        if look.kind == "command":
            answer = await self._run(question["command"])
        else:
            asker = self._askers.get(look.name) or _Asker(self._folder, self._env, self._spawned, self._ended)
            self._askers[look.name] = asker
            answer = await asker.ask(question)
        if "error" in answer:
            return f"failed: {answer['error']}"
        tolerance = look.allowed(known)
        return "" if tolerance is None else tolerance.miss(Found(answer["value"], answer["document"]))

    async def _run(self, command: str) -> dict[str, Any]:
        """Run a command; when it is cancelled, it is killed with all that it started."""
        try:
            process = await asyncio.create_subprocess_exec(
                *shlex.split(command),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                cwd=self._folder,
                env=self._env,
                start_new_session=True,
            )
        except OSError as error:
            return {"error": f"{command!r} can't be run: {error.strerror}"}
        self._spawned(process.pid)
        assert process.stdout is not None  # noqa: S101
        try:
            output = bytearray()
            while chunk := await process.stdout.read(_OUTPUT_MAX):
                output += chunk[: _OUTPUT_MAX - len(output)]
            return {"value": await process.wait(), "document": output.decode(errors="replace")}
        finally:
            await _end(process)
            self._ended(process.pid)

    async def stop(self) -> None:
        """End all processes."""
        askers, self._askers = list(self._askers.values()), {}
        for asker in askers:
            await asker.stop()


class _Asker:
    """A process that answers questions, one at a time."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        on_spawn: Callable[[int], object],
        on_end: Callable[[int], object],
    ) -> None:
        self._folder, self._env = folder, env
        self._spawned, self._ended = on_spawn, on_end
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer; when this is cancelled, the process is killed."""
        async with self._turn:
            process = self._process or await self._start()
            assert process.stdin is not None  # noqa: S101
            assert process.stdout is not None  # noqa: S101
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                answer = json.loads(await process.stdout.readline())
            except ValueError:  # half a line: it has ended; or one without end
                answer = {"error": "the process that asks has ended, or its answer is too long"}
                await self.stop()
            except BaseException:
                await self.stop()
                raise
            return dict(answer)

    async def _start(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", _PROBER),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd=self._folder,
            env=self._env,
            limit=_LINE_MAX,
            start_new_session=True,
        )
        self._spawned(self._process.pid)
        return self._process

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await _end(process)
            self._ended(process.pid)


async def _end(process: Process) -> None:
    """Kill a process with all that it started, and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    await asyncio.shield(process.wait())

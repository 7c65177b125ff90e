"""The process that sends the load: `python -m hormesis.loadgen.generator`, driven by `LoadDriver` through its pipes.

It is a process of its own, so that neither the runner's work nor its pauses delay a request. Commands come in as lines
of JSON, `{"run": spec, "start_at": time}` and `{"stop": true}`; reports go out the same way: `{"ready": true}` once,
then for each run `{"started": time}`, `{"samples": …}` and `{"attempts": …}` every quarter of a second, and
`{"done": summary}` or `{"refused": message}`. Rows are not written as text, which would take longer than it takes to
send the requests: behind the line of `samples` or `attempts` come `"bytes"` bytes, the columns as they are in memory.
When its standard input ends, so does it: the runner is gone.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import resource
import sys
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.loadgen.request import LoadSpec
from hormesis.loadgen.run import Run
from hormesis.loadgen.samples import Samples

__all__ = ["main"]

_COMMAND_MAX = 256 * 1024 * 1024
"""Bytes of a command at most; a recorded trace may be long."""

_FILES_MAX = 65_536
"""Open files to ask for."""

_YOUNG_MAX = 50_000
"""Objects that are made before the collector of cycles looks at them: it would do so in the middle of sending, and
nearly everything here ends with its exchange, without a cycle."""


class _Service:
    """Takes commands and runs loads, one at a time."""

    def __init__(self, reports: asyncio.WriteTransport) -> None:
        self._reports = reports

    async def serve(self, commands: asyncio.StreamReader) -> None:
        """Do what the lines say, until there are no more."""
        self._tell({"ready": True})
        async with asyncio.TaskGroup() as runs:
            run: asyncio.Task[None] | None = None
            while line := await commands.readline():
                command = json.loads(line)
                if "run" in command:
                    run = runs.create_task(self._run(command["run"], command["start_at"]))
                    # A task that is cancelled before its first step would never report; the next line may be a stop.
                    await asyncio.sleep(0)
                elif run is not None:
                    run.cancel()
            # Nobody is left to wait for answers, and a look-up stuck in a thread must not keep the process.
            os._exit(0)

    async def _run(self, table: dict[str, Any], start_at: float | None) -> None:
        try:
            run = Run(LoadSpec.from_table(table), start_at, self._rows)
        except ConfigurationError as error:
            self._tell({"refused": error.message})
            return
        # What has been made by now stays to the end.
        gc.collect()
        gc.freeze()
        self._tell({"started": run.start_at})
        self._tell({"done": await run.execute()})
        gc.unfreeze()

    def _rows(self, name: str, samples: Samples) -> None:
        about, data = samples.to_wire()
        self._tell({name: about, "bytes": len(data)}, data)

    def _tell(self, report: dict[str, object], data: bytes = b"") -> None:
        self._reports.write(json.dumps(report, separators=(",", ":")).encode() + b"\n" + data)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=_COMMAND_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    reports, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    await _Service(reports).serve(commands)


def _allow_many_connections() -> None:
    """Lift the soft limit on open files, often 1024, which is fewer than the requests that may be under way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Serve on the standard pipes until they close, on uvloop where it is installed."""
    _allow_many_connections()
    gc.set_threshold(_YOUNG_MAX, 10, 10)
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop  # noqa: PLC0415

        uvloop.run(_serve())
    else:
        asyncio.run(_serve())


if __name__ == "__main__":
    main()

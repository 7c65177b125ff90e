"""What an activity does: call a Python function, send a request, run a program.

Each provider returns what the activity said, as experiments expect it: of a function what it returned, of a request
`{status, headers, body}`, of a program `{status, stdout, stderr}`. All of them can be cancelled at any moment, which
interrupts the function, closes the connection and ends the program with all that it started; so a timeout always holds,
and an experiment that ends early does not wait for what is running.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO, Any

from hormesis.chaos import Keeper
from hormesis.chaos.births import Birth
from hormesis.errors import MissingExtraError
from hormesis.gameday.chaostoolkit.experiment import function_of
from hormesis.gameday.chaostoolkit.threads import Worker
from hormesis.gameday.chaostoolkit.values import Table, Values

__all__ = ["ActivityFailed", "Interrupted", "provide"]

_OUTPUT_MAX = 1_000_000
"""Bytes of an output or a body that are kept; what is longer is cut there."""
_TERMINATE_WITHIN = 1.0
"""Seconds that a program has to end when it is asked to."""
_REDIRECTS_MAX = 30


class ActivityFailed(Exception):
    """An activity could not be done; the experiment goes on."""


class Interrupted(Exception):
    """A function or a control asks for the end of the experiment."""


async def provide(activity: Table, values: Values, worker: Worker, keeper: Keeper | None, limit: float | None) -> Any:
    """Do what an activity says, and return its output.

    Args:
        activity: It, in full.
        values: What `${name}` stands for.
        worker: Where Python functions are called.
        keeper: Who ends a program if this process dies.
        limit: Seconds that it has; None for no end.

    Raises:
        ActivityFailed: It could not be done, or not in time.
        Interrupted: It asks for the end of the experiment.
    """
    provider = activity["provider"]
    try:
        async with asyncio.timeout(limit):
            if provider["type"] == "python":
                return await _python(provider, values, worker)
            if provider["type"] == "http":
                return await _http(provider, values)
            return await _process(provider, values, keeper)
    except TimeoutError:
        raise ActivityFailed(f"took too long: it was ended after {limit:g} s") from None


async def _python(provider: Table, values: Values, worker: Worker) -> Any:
    function = function_of(provider, "provider")
    arguments = values.fill(provider.get("arguments") or {})
    with contextlib.suppress(TypeError, ValueError):  # Some builtins have no signature.
        parameters = inspect.signature(function).parameters
        if "secrets" in parameters and "secrets" in provider:
            arguments["secrets"] = values.groups(provider["secrets"])
        if "configuration" in parameters:
            arguments["configuration"] = dict(values.configuration)
    try:
        return await worker.call(function, **arguments)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if asks_for_the_end(error):
            raise Interrupted(str(error) or type(error).__name__) from error
        raise ActivityFailed(f"{type(error).__name__}: {error}") from error


def asks_for_the_end(error: BaseException) -> bool:
    """Say whether an exception is one by which functions and controls end an experiment.

    The Chaos Toolkit's own class is known by its name: whoever raises it has imported it, we have not.
    """
    if isinstance(error, Interrupted | SystemExit | KeyboardInterrupt):
        return True
    return any(
        (kind.__module__, kind.__name__) == ("chaoslib.exceptions", "InterruptExecution")
        for kind in type(error).__mro__
    )


async def _http(provider: Table, values: Values) -> Table:
    try:
        import aiohttp  # noqa: PLC0415  only an experiment that sends requests needs it
    except ImportError:
        raise MissingExtraError("a provider of type http", "gameday") from None
    method = str(provider.get("method") or "GET").upper()
    headers = {str(key): str(value) for key, value in values.fill(provider.get("headers") or {}).items()}
    arguments = values.fill(provider.get("arguments"))
    options: dict[str, Any] = {"headers": headers, "max_redirects": _REDIRECTS_MAX}
    if not provider.get("verify_tls", True):
        options["ssl"] = False
    as_json = any(key.lower() == "content-type" and value == "application/json" for key, value in headers.items())
    if arguments and method == "GET":
        options["params"] = _pairs(arguments)
    elif arguments:
        options.update({"json": arguments} if as_json else {"data": _pairs(arguments)})
    attempts = 1 + int(provider.get("max_retries") or 0)
    url = str(values.fill(provider["url"]))
    async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for attempt in itertools.count(1):
            try:
                async with session.request(method, url, **options) as response:
                    return await _answer(response)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                refused = isinstance(error, aiohttp.ClientConnectorError)
                if not (refused and attempt < attempts):
                    raise ActivityFailed(f"no answer from {url}: {str(error) or type(error).__name__}") from error
    raise AssertionError("unreachable")


def _pairs(arguments: Any) -> Any:
    """Return arguments as a query or a form can carry them: a list is one parameter several times, none is left out."""
    if not isinstance(arguments, Mapping):
        return arguments
    pairs = (
        (key, each) for key, value in arguments.items() for each in (value if isinstance(value, list) else [value])
    )
    return [(str(key), str(value)) for key, value in pairs if value is not None]


async def _answer(response: Any) -> Table:
    content = b""
    while len(content) < _OUTPUT_MAX and (more := await response.content.read(_OUTPUT_MAX - len(content))):
        content += more
    body: Any = content.decode(response.charset or "utf-8", errors="replace")
    if response.headers.get("Content-Type") == "application/json":
        with contextlib.suppress(ValueError):
            body = json.loads(body)
    return {"status": response.status, "headers": dict(response.headers), "body": body}


async def _process(provider: Table, values: Values, keeper: Keeper | None) -> Table:
    path = str(values.fill(provider["path"]))
    program = shutil.which(os.path.expanduser(path))  # noqa: ASYNC240  # looks at a few folders
    if program is None:
        raise ActivityFailed(f"there is no program {path!r} that can be run")
    arguments = values.fill(provider.get("arguments") or [])
    if isinstance(arguments, str):
        argv = ["/bin/sh", "-c", f"{program} {arguments}"]
    else:
        words = itertools.chain.from_iterable(arguments.items()) if isinstance(arguments, Mapping) else arguments
        argv = [program, *(str(word) for word in words if word not in (None, ""))]
    # Files, not pipes: a program that leaves something running behind it must not make us wait for that.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            with Birth(argv, keeper=keeper) as birth:
                process = await asyncio.create_subprocess_exec(
                    *birth.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    pass_fds=birth.pass_fds,
                )
                birth.begun()
        except OSError as error:
            raise ActivityFailed(f"{path!r} can't be run: {error.strerror or error}") from error
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await asyncio.shield(_end(process))
            raise
        finally:
            if keeper is not None:
                keeper.forget(process.pid)
        return {"status": status, "stdout": _text(out), "stderr": _text(err)}


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_OUTPUT_MAX).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program and all that it started: ask, wait a little, kill."""
    _signal(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TERMINATE_WITHIN):
            await process.wait()
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)

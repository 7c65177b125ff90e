"""Running a synchronous attempt in a process of its own, so that it can be killed.

What runs there can crash, leak or hang, and takes nothing with it: only its own call fails, and the next call gets
another worker. And where a thread can only be left behind, a worker whose time is over, or whose caller has gone, is
really ended, together with the processes that it has started.

A worker makes one call at a time, over a socket pair (`hormesis.policy.worker` is the other end). It is used again
for the next call, and ended when it has had nothing to do for a while, when it has made `calls_max` calls, or when it
holds too much memory. Nothing is started before the first call.

Starting one takes about a tenth of a second and the imports of the function's module. That belongs to nobody's call: a
caller whose time is over before its worker has started leaves it to the next, so that even the shortest timeout
has a warm worker in the end.

An asynchronous caller waits through a thread of a pool, which ends with the worker's answer or with its death.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hormesis.context import current_call, current_deadline, left
from hormesis.errors import ConfigurationError, WorkerCrashed, WorkerError
from hormesis.patterns.part import is_async
from hormesis.policy import worker
from hormesis.policy.places import Places
from hormesis.policy.threads import LeftBehind, Threads, at_once
from hormesis.policy.worker import SIZE_BYTES, Main, Reference, Report, Request, Setup, dump

__all__ = ["Processes", "check_function"]

_IDLE_SECONDS = 30.0
"""A worker that has had nothing to do for so long is ended: dearer to start than a thread, and dearer to keep."""

_START_SECONDS = 30.0
"""A worker that is not ready by then, with the imports of the function's module, never will be."""

_LOOK_SECONDS = 1.0
"""How often a caller looks whether its worker lives, though the channel is open: a child of its may hold that."""

_READ_BYTES = 65_536
"""Read at a time at least, so that most answers take one look."""

_KILL_SECONDS = 1.0
"""How long a killed process may take to be gone before its caller goes on without it."""

_MEMORY_KEPT = 0.75
"""The share of its memory that a worker may hold after a call; with more, the next call might well get too little."""


def check_function(function: object) -> None:
    """Refuse a function that no worker process could find, when a policy decorates it.

    Raises:
        ConfigurationError: It is defined inside of another function, or where the program was started.

    >>> import math
    >>> check_function(math.sqrt)
    >>> check_function(lambda: 0)
    Traceback (most recent call last):
    hormesis.errors.ConfigurationError: <lambda> can't run in a worker process, which finds functions by ...
    """
    if not isinstance(function, types.FunctionType):
        _reference(function)
        return
    if "<" in function.__qualname__:  # <lambda>, or <locals> of another function
        raise _unreachable(function)
    if function.__module__ == "__main__":
        problem = _problem_of_main()
        if problem is not None:
            raise ConfigurationError(f"{function.__qualname__} can't run in a worker process: {problem}")


class Processes:
    """A bounded set of worker processes, started as they are needed.

    Args:
        name: Of the policy.
        most: Processes at the same time.
        memory_max: Bytes that each may hold; None does not bound them.
        calls_max: Calls after which one is replaced; None: never.
        on_replaced: Called when a worker is ended for a reason, with that reason in a word: `"crash"`, `"memory"`,
            `"calls"`, `"timeout"`, `"cancelled"`, `"interrupted"` or `"start"`; with no lock held. It must not raise.
    """

    __slots__ = (
        "__weakref__",
        "_alive",
        "_calls_max",
        "_idle",
        "_keeper",
        "_lock",
        "_memory_max",
        "_name",
        "_on_replaced",
        "_places",
        "_threads",
    )

    zombies = 0
    """Work that was left behind and goes on: there is none, since it is killed."""

    def __init__(
        self,
        name: str,
        most: int,
        memory_max: int | None = None,
        calls_max: int | None = None,
        on_replaced: Callable[[str], None] | None = None,
    ) -> None:
        self._name = name
        self._memory_max = memory_max
        self._calls_max = calls_max
        self._on_replaced = on_replaced
        self._places = Places(most)
        self._threads = Threads(f"{name}-processes", most)
        self._lock = threading.Lock()
        self._idle: deque[_Worker] = deque()
        self._alive: set[_Worker] = set()
        self._keeper = False
        weakref.finalize(self, _end_all, self._alive, os.getpid())

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], limit: float) -> Any:
        """Run a function in a worker process, and wait for it at most `limit` seconds.

        Raises:
            LeftBehind: It has not ended in that time, or the waiting was interrupted; it has been killed.
            WorkerCrashed: The process ended in the middle of it.
            WorkerError: It raised what can't be sent between processes.
            ConfigurationError: The function, its arguments or its result can't be.
            BaseException: Whatever the function raised.
        """
        return self._run(_Job(), function, args, kwargs, limit)

    async def run_async(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], limit: float
    ) -> Any:
        """Run a function in a worker process while the loop goes on; otherwise as `run`.

        Raises:
            LeftBehind: It has not ended in that time, or the task was cancelled; it has been killed.
        """
        job = _Job()
        try:
            return await self._threads.run_async(self._run, (job, function, args, kwargs, limit), {}, math.inf)
        except LeftBehind:
            job.cancel()
            raise

    def _run(
        self,
        job: _Job,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        limit: float,
    ) -> Any:
        ends = time.monotonic() + limit
        reference = _reference(function)
        arguments = _arguments(function, args, kwargs)
        place = self._places.take(limit)
        if place is None:
            raise LeftBehind(at_once, begun=False)
        try:
            hired = self._hire(reference, job, ends)
            answer, report = self._call(hired, _request(reference, arguments), job, ends)
        finally:
            self._places.give(place)
        return _outcome(self._name, function, answer, report)

    def _hire(self, reference: Reference | bytes, job: _Job, ends: float) -> _Worker:
        """Return a worker that is ready: one that has nothing to do, or a new one."""
        hired = self._an_idle_one() or self._start(reference)
        ready_by = hired.started + _START_SECONDS
        try:
            ready = hired.ready or hired.wait_until_ready(min(ends, ready_by))
        except (OSError, EOFError):
            self._end(hired, "start")
            raise WorkerCrashed(self._name, f"{hired.how_it_ended()} before it was ready") from None
        except BaseException as interrupt:
            self._let_go(hired)
            raise LeftBehind(at_once, interrupt, begun=False) from None
        if ready and job.begin(hired):
            return hired
        if not ready and time.monotonic() >= ready_by:
            self._end(hired, "start")
            raise WorkerCrashed(self._name, f"was not ready within {_START_SECONDS:g} s")
        self._let_go(hired)
        raise LeftBehind(at_once, begun=False)

    def _an_idle_one(self) -> _Worker | None:
        while True:
            with self._lock:
                idle = self._idle.pop() if self._idle else None
            if idle is None or idle.lives:
                return idle
            self._end(idle, "crash")  # it has been killed meanwhile, and nobody's call with it

    def _call(self, hired: _Worker, request: Request, job: _Job, ends: float) -> tuple[bytes, Report]:
        """Have a worker make a call, and decide what becomes of it then."""
        try:
            answer, report = hired.ask(dump(request), ends)
        except TimeoutError:
            self._end(hired, "timeout")
            raise LeftBehind(at_once) from None
        except (OSError, EOFError):
            self._end(hired, "cancelled" if job.end() else "crash")
            raise WorkerCrashed(self._name, hired.how_it_ended()) from None
        except BaseException as interrupt:
            self._end(hired, "interrupted")
            raise LeftBehind(at_once, interrupt) from None
        hired.calls += 1
        if job.end():
            self._end(hired, "cancelled")
        elif self._memory_max is not None and (report.exhausted or report.memory > self._memory_max * _MEMORY_KEPT):
            self._end(hired, "memory")
        elif self._calls_max is not None and hired.calls >= self._calls_max:
            self._end(hired, "calls")
        else:
            self._let_go(hired)
        return answer, report

    def _start(self, reference: Reference | bytes) -> _Worker:
        if worker.loading_main():
            raise ConfigurationError(
                f"policy {self._name!r} was called while a worker process was loading the script: "
                "put what the script does under `if __name__ == '__main__':`"
            )
        module = reference.module if isinstance(reference, Reference) else None
        started = _Worker(Setup(_main_for_workers(), module, self._memory_max))
        with self._lock:
            self._alive.add(started)
        return started

    def _end(self, hired: _Worker, reason: str | None) -> None:
        """Kill a worker, with all that it has started, and tell why."""
        hired.end()
        with self._lock:
            self._alive.discard(hired)
        if reason is not None and self._on_replaced is not None:
            self._on_replaced(reason)

    def _let_go(self, hired: _Worker) -> None:
        """Keep a worker for the next call, for a while."""
        hired.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(hired)
            hire_keeper, self._keeper = not self._keeper, True
        if hire_keeper:
            try:
                threading.Thread(target=self._keep, name=f"hormesis-{self._name}-keeper", daemon=True).start()
            except RuntimeError:  # no thread is to be had; the next to let go tries again
                self._keeper = False

    def _keep(self) -> None:
        """End workers that have been idle for long; runs in a thread, as long as there are any that are idle."""
        while True:
            with self._lock:
                if not self._idle:
                    self._keeper = False
                    return
                # The longest idle stands first, since the last that came is the first to go again.
                rest = self._idle[0].idle_since + _IDLE_SECONDS - time.monotonic()
                expired = self._idle.popleft() if rest <= 0 else None
            if expired is None:
                time.sleep(rest)
            else:
                self._end(expired, None)


class _Job:
    """One call, which whoever asked for it may cancel from another thread."""

    __slots__ = ("_cancelled", "_lock", "_worker")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._cancelled = False

    def begin(self, hired: _Worker) -> bool:
        """Let a worker be killed if the call is cancelled; False when it has been already."""
        with self._lock:
            if not self._cancelled:
                self._worker = hired
            return not self._cancelled

    def end(self) -> bool:
        """Keep the worker from being killed any more; returns whether it has been."""
        with self._lock:
            self._worker = None
            return self._cancelled

    def cancel(self) -> None:
        """Kill the worker, if one is at it, and let none begin."""
        with self._lock:
            self._cancelled = True
            if self._worker is not None:
                self._worker.kill()


class _Worker:
    """One process, and the channel to it; used by one thread at a time."""

    __slots__ = ("_channel", "_lifeline", "_process", "_received", "calls", "idle_since", "ready", "started")

    def __init__(self, setup: Setup) -> None:
        self.calls = 0
        self.ready = False
        self.started = self.idle_since = time.monotonic()
        self._received = bytearray()
        self._channel, theirs = socket.socketpair()
        self._lifeline: int | None
        line, self._lifeline = os.pipe()
        try:
            code = (
                f"import sys; sys.path[:] = {[os.fspath(each) for each in sys.path]!r}; "
                f"from hormesis.policy.worker import main; main({theirs.fileno()}, {line})"
            )
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, *_flags(), "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), line),
                process_group=0,  # to be killed with all that it has started; and Ctrl-C is for us, not for it
            )
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(line)
        with contextlib.suppress(OSError):  # it has ended already, as whoever waits for it will find
            self._send(dump(setup), math.inf)

    @property
    def lives(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def wait_until_ready(self, ends: float) -> bool:
        """Wait until it has started, at most until a moment of `time.monotonic`; returns whether it has.

        Raises:
            OSError, EOFError: The process has ended.
        """
        try:
            self._receive(ends)
        except TimeoutError:
            return False
        self.ready = True
        return True

    def ask(self, message: bytes, ends: float) -> tuple[bytes, Report]:
        """Send a request, and return the answer and the report that follows.

        Raises:
            TimeoutError: It did not come by then.
            OSError, EOFError: The process has ended.
        """
        self._send(message, ends)
        answer = self._receive(ends)
        report: Report = pickle.loads(self._receive(ends))  # noqa: S301  the worker is ours
        return answer, report

    def kill(self) -> None:
        """Kill the process and those that it has started; its channel tells whoever waits."""
        if self.lives:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the process, wait until it is gone, and close what leads to it."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_SECONDS)
        self._close()

    def forget(self) -> None:
        """Close what leads to it in a process that was forked from the one whose worker it is."""
        self._process.returncode = 0  # it is no child of this process, which can't wait for it
        self._close()

    def how_it_ended(self) -> str:
        """How the process ended, in words."""
        status = self._process.returncode
        if status is None:
            return "closed its channel"
        if status >= 0:
            return f"exited with status {status}"
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"

    def _close(self) -> None:
        self._channel.close()
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:  # by then its number may be another file's
            os.close(lifeline)

    def _send(self, message: bytes, ends: float) -> None:
        rest = ends - time.monotonic()
        self._channel.settimeout(None if rest == math.inf else max(rest, 1e-6))
        self._channel.sendall(len(message).to_bytes(SIZE_BYTES, "big") + message)

    def _receive(self, ends: float) -> bytes:
        return self._read(int.from_bytes(self._read(SIZE_BYTES, ends), "big"), ends)

    def _read(self, size: int, ends: float) -> bytes:
        received = self._received
        while len(received) < size:
            received += self._next(max(size - len(received), _READ_BYTES), ends)
        wanted = bytes(memoryview(received)[:size])
        del received[:size]
        return wanted

    def _next(self, most: int, ends: float) -> bytes:
        """Wait until there is something to read, or the process has ended."""
        while True:
            rest = ends - time.monotonic()
            if rest <= 0:
                raise TimeoutError
            self._channel.settimeout(min(rest, _LOOK_SECONDS))
            try:
                part = self._channel.recv(most)
            except TimeoutError:
                if not self.lives:
                    raise EOFError from None
                continue
            if not part:
                raise EOFError
            return part


def _end_all(workers: set[_Worker], owner: int) -> None:
    """End the workers of a pool that is gone, or of a program that ends."""
    for each in list(workers):
        if os.getpid() == owner:
            each.end()
        else:
            each.forget()
    workers.clear()


def _flags() -> list[str]:
    """The interpreter's options that change what a function does."""
    flags = ["-I"] if sys.flags.isolated else []
    flags += ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    return flags + (["-X", "utf8"] if sys.flags.utf8_mode else [])


def _request(function: Reference | bytes, arguments: bytes) -> Request:
    """A call, with what it takes along of its surroundings."""
    deadline = current_deadline.get()
    travels = None if deadline is None else (left(deadline), deadline[3], deadline[4])
    return Request(function, arguments, travels, current_call.get())


def _arguments(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    try:
        return dump((tuple(args), dict(kwargs)))
    except Exception as error:
        raise ConfigurationError(
            f"{_name(function)} can't run in a worker process, since an argument can't be sent there ({error}); "
            "pass plain data, and let the function open what it needs"
        ) from error


def _outcome(policy: str, function: object, answer: bytes, report: Report) -> Any:
    """Return or raise what a call came to."""
    if report.kind == "refused":
        raise ConfigurationError(f"{_name(function)} can't run in a worker process: {report.text}")
    if report.kind == "untold":
        raise WorkerError(policy, report.text)
    try:
        value = _Unpickler(io.BytesIO(answer)).load()
    except Exception as error:
        if report.kind == "error":
            raise WorkerError(policy, report.text) from error
        raise ConfigurationError(
            f"{_name(function)} can't run in a worker process: its result can't be loaded here ({error})"
        ) from error
    if report.kind == "error":
        try:
            raise value
        finally:
            del value  # or it would keep its own traceback alive, and this frame with it
    return value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        return super().find_class("__main__" if module == "__mp_main__" else module, name)


def _reference(function: object) -> Reference | bytes:
    """How a worker finds a function: by name, or, if it is no plain one, pickled.

    Raises:
        ConfigurationError: In neither way.
    """
    if is_async(function):
        raise ConfigurationError(f"{_name(function)} is asynchronous; it runs as a task, and not in a worker process")
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str) and module in sys.modules:
        with contextlib.suppress(AttributeError):
            found, wrappers = Reference(module, qualname).resolve(sys.modules.__getitem__), 0
            while found is not function:
                found, wrappers = found.__wrapped__, wrappers + 1
            if module != "__main__" or _problem_of_main() is None:
                return Reference(module, qualname, wrappers)
            raise ConfigurationError(f"{qualname} can't run in a worker process: {_problem_of_main()}")
    try:
        return dump(function)
    except Exception as error:
        raise _unreachable(function) from error


def _unreachable(function: object) -> ConfigurationError:
    return ConfigurationError(
        f"{_name(function)} can't run in a worker process, which finds functions by their module and name: "
        "define it at module level, and hand it what it needs as arguments"
    )


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


def _problem_of_main() -> str | None:
    """Why the program's `__main__` can't be loaded in a worker; None when it can."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None or not os.path.isfile(path):  # "<stdin>" counts as a path
        return "it is defined in an interactive session, which a worker can't see: move it to a module"
    if not _is_guarded(path):
        return (
            f"it is defined in {path}, all of which a worker would have to run again: move it to a module, or put "
            "what the script does under `if __name__ == '__main__':`"
        )
    return None


def _main_for_workers() -> Main | None:
    main = sys.modules.get("__main__")
    if _problem_of_main() is not None:
        return None
    return Main(os.path.abspath(str(getattr(main, "__file__", ""))), getattr(main, "__package__", None))


@functools.cache
def _is_guarded(path: str) -> bool:
    """Whether a script does what it does only when it is started, and not when it is loaded."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(
        isinstance(node, ast.If)
        and any(isinstance(name, ast.Name) and name.id == "__name__" for name in ast.walk(node.test))
        for node in tree.body
    )

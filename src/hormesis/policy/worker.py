"""What runs inside a worker process, and the words that it and its parent exchange.

A worker is a fresh interpreter: no fork, so no lock, thread or connection of the parent's is copied in the middle of
something. It is told the parent's module path, imports functions by their names, and makes one call at a time:

    parent → worker   setup, once; then a request for each call
    worker → parent   ready, once; then for each call the answer, and a report: what kind of answer that was, words for
                      people, and what the worker holds now

Every message is its length in eight bytes and that many bytes of pickle. Parent and worker trust each other as one
program does: what the one sends, the other loads.

**Nothing outlives the parent.** A worker that waits reads the end of its channel. For one that is busy there is the
*lifeline*, a pipe on which nothing is ever written: when the parent is gone, however it went, the system closes the
other end. A thread watches for that; where the system can (Linux), it is also asked to kill the worker itself at that
moment, since code that never lets go of the interpreter lets no thread run. (`PR_SET_PDEATHSIG` would not do: it kills
when the *thread* ends that started the process.)

**The script that was started** (`__main__`) is loaded when something in it is asked for, under the name `__mp_main__`
that the standard library uses for this, so that what stands under `if __name__ == "__main__"` does not run again.
"""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import importlib
import io
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

from hormesis.clock import MONOTONIC
from hormesis.context import CallFacts, current_call, current_deadline
from hormesis.errors import TimedOut

__all__ = ["SIZE_BYTES", "Kind", "Main", "Reference", "Report", "Request", "Setup", "dump", "loading_main", "main"]

SIZE_BYTES = 8
"""The length of a message, before it."""

Kind: TypeAlias = Literal["result", "error", "untold", "refused"]
"""What a call came to: a result, an exception, an exception that can't travel, or a call that can't be made so."""

_SCRIPT = "__mp_main__"


class Main(NamedTuple):
    """The parent's `__main__`, for a worker that needs something in it: its file, and the package that it is of."""

    path: str
    package: str | None


class Reference(NamedTuple):
    """A function by its name, and how many wrappers lie around it under that name.

    A policy that decorates a function stands in its place; the worker is to call what is inside of it.
    """

    module: str
    qualname: str
    wrappers: int = 0

    def resolve(self, modules: Callable[[str], object] = importlib.import_module) -> Any:
        """Return the function.

        Raises:
            ImportError: There is no such module.
            AttributeError: There is nothing of that name in it.
        """
        found: Any = modules(self.module)
        for name in self.qualname.split("."):
            found = getattr(found, name)
        for _ in range(self.wrappers):
            found = found.__wrapped__
        return found


class Setup(NamedTuple):
    """What a worker is told once: the script, the module to have imported, and the bytes that it may hold."""

    main: Main | None
    module: str | None
    memory_max: int | None


class Request(NamedTuple):
    """One call, and what travels with it.

    Args:
        function: Its name; or, if it has none, itself, pickled.
        arguments: Positional ones and those by name, pickled.
        deadline: The seconds that it has left, the policy that says so, and the error when they are over.
        facts: What is known of the call.
    """

    function: Reference | bytes
    arguments: bytes
    deadline: tuple[float, str, type[TimedOut]] | None
    facts: CallFacts


class Report(NamedTuple):
    """What follows an answer.

    Args:
        kind: Of the answer.
        text: What there is to say of it, for people.
        memory: Bytes that the worker holds, now that the answer has gone.
        exhausted: Whether they did not suffice.
    """

    kind: Kind
    text: str
    memory: int
    exhausted: bool


def dump(value: object) -> bytes:
    """Pickle, the way both sides do."""
    return pickle.dumps(value, protocol=5)


def main(channel: int, lifeline: int) -> None:
    """Serve calls until the parent closes the channel.

    Args:
        channel: Descriptor of the socket to the parent.
        lifeline: Descriptor of the pipe whose other end the parent holds.
    """
    # Whoever sends us Ctrl-C ends us, and not the parent by way of an exception that travels.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _die_with_the_parent(lifeline)
    wire = socket.socket(fileno=channel).makefile("rwb")
    setup: Setup = _loads(_read(wire))
    _scripts.main = setup.main
    if setup.memory_max is not None:
        _set_memory(setup.memory_max)
    if setup.module is not None:
        with contextlib.suppress(BaseException):  # the call itself will meet it again, and tell
            _module(setup.module)
    _write(wire, b"")
    while True:
        _serve(wire)


def _serve(wire: Any) -> None:
    """Make one call."""
    exhausted = False
    try:
        kind, answer, text = _call(_read(wire))
    except MemoryError as error:
        _set_memory(None)  # the bound was meant for the call; without it there is room for the answer
        kind, answer, text = _failure(error)
        exhausted = True
    _write(wire, answer)
    del answer
    for stream in (sys.stdout, sys.stderr):  # we may be killed at any time
        with contextlib.suppress(Exception):
            stream.flush()
    _write(wire, dump(Report(kind, text, _memory_in_use(), exhausted)))


def _read(wire: Any) -> bytes:
    head = wire.read(SIZE_BYTES)
    size = int.from_bytes(head, "big")
    try:
        message: bytes = wire.read(size)
    except MemoryError:
        while size and (part := wire.read(min(size, 1 << 16))):
            size -= len(part)
        raise
    if len(head) < SIZE_BYTES or len(message) < size:
        _end()
    return message


def _write(wire: Any, message: bytes) -> None:
    try:
        wire.write(len(message).to_bytes(SIZE_BYTES, "big"))
        wire.write(message)
        wire.flush()
    except OSError:
        _end()


def _end() -> NoReturn:
    """End at once: the parent is gone, or has no more use for this process, and nobody is left to tell."""
    os._exit(0)


def _die_with_the_parent(lifeline: int) -> None:
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        os.read(lifeline, 1)  # returns when the other end is closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="hormesis-lifeline", daemon=True).start()


def _set_memory(most: int | None) -> None:
    """Bound the bytes that this process may allocate; None lifts the bound."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [bound for bound in (most, hard) if bound is not None and bound != resource.RLIM_INFINITY]
    with contextlib.suppress(OSError, ValueError):  # where the system has no such bound, the measuring remains
        resource.setrlimit(resource.RLIMIT_DATA, (min(bounds, default=resource.RLIM_INFINITY), hard))


def _memory_in_use() -> int:
    """The bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _call(message: bytes) -> tuple[Kind, bytes, str]:
    """Make a call, and return what it came to: the kind, the answer, and a text."""
    try:
        request: Request = _loads(message)
        function = request.function
        call = function.resolve(_module) if isinstance(function, Reference) else _loads(function)
        args, kwargs = _loads(request.arguments)
    except MemoryError:
        raise
    except BaseException as error:
        why = _in_words(error) if error.__cause__ is None else f"{_in_words(error)}: {_in_words(error.__cause__)}"
        return "refused", b"", f"it can't be loaded there: {why}"
    try:
        result = contextvars.copy_context().run(_run, request, call, args, kwargs)
    except MemoryError:
        raise
    except BaseException as error:
        return _failure(error)
    try:
        return "result", dump(result), ""
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(result, types.CoroutineType):
            result.close()
        return "refused", b"", f"its result can't be sent between processes: {_in_words(error)}"


def _run(request: Request, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    current_call.set(request.facts)
    if request.deadline is not None:
        left, policy, error = request.deadline
        current_deadline.set((MONOTONIC.now() + left, MONOTONIC, left, policy, error))
    return call(*args, **kwargs)


def _failure(error: BaseException) -> tuple[Kind, bytes, str]:
    """An exception in a form that travels, with a note of where it was raised."""
    # The frames up to the function are ours, and of no use to anybody.
    told = traceback.TracebackException(type(error), error, _below_us(error.__traceback__))
    where = "".join(told.format()).rstrip()
    traceback.clear_frames(error.__traceback__)  # what the function held may be what is in the way
    error.add_note(f"hormesis: raised in a worker process:\n{where}")
    text = _in_words(error)
    for form in (error, _Rebuilt(error)):
        with contextlib.suppress(Exception):
            answer = dump(form)
            _loads(answer)
            return "error", answer, text
    return "untold", b"", f"{text}\n{where}"


def _below_us(place: types.TracebackType | None) -> types.TracebackType | None:
    below = place
    while below is not None and below.tb_frame.f_code.co_filename == __file__:
        below = below.tb_next
    return place if below is None else below


class _Rebuilt:
    """Pickles an exception whose own `__init__` takes other arguments than it hands on.

    It is made again without `__init__`, from what `BaseException` keeps of it and its attributes.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Callable[..., BaseException], tuple[Any, ...]]:
        error = self._error
        return _rebuild, (type(error), error.args, error.__dict__)


def _rebuild(kind: type[BaseException], args: Sequence[Any], state: Mapping[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def _in_words(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).rstrip()


class _Scripts:
    """The parent's script, loaded here once it is needed, and once only."""

    main: Main | None = None
    loading = False
    _module: types.ModuleType | None = None
    _problem: BaseException | None = None

    def load(self) -> types.ModuleType:
        """Return the script as a module.

        Raises:
            ImportError: It can't be loaded, or raised an exception when it was.
        """
        if self._problem is not None:
            raise ImportError("the program's script can't be loaded") from self._problem
        if self._module is None:
            self._module = self._load()
        return self._module

    def _load(self) -> types.ModuleType:
        if self.main is None:
            raise ImportError("it is defined where the program was started, and that can't be loaded again")
        module = types.ModuleType(_SCRIPT)
        module.__file__, module.__package__ = self.main.path, self.main.package
        sys.modules[_SCRIPT] = sys.modules["__main__"] = module
        self.loading = True
        try:
            code = compile(Path(self.main.path).read_bytes(), self.main.path, "exec")
            exec(code, module.__dict__)  # noqa: S102  the parent's own script
        except BaseException as error:
            self._problem = error
            raise
        finally:
            self.loading = False
        return module


_scripts = _Scripts()


def loading_main() -> bool:
    """Whether this process is a worker that is loading the script, where calls would start workers without end."""
    return _scripts.loading


def _module(name: str) -> types.ModuleType:
    return _scripts.load() if name in ("__main__", _SCRIPT) else importlib.import_module(name)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module in ("__main__", _SCRIPT):
            return Reference(_SCRIPT, name).resolve(_module)
        return super().find_class(module, name)


def _loads(message: bytes) -> Any:
    return _Unpickler(io.BytesIO(message)).load()

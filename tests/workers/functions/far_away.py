"""What workers run in the tests: they find it by its name, so it stands in a module that they can import too."""

from __future__ import annotations

import contextvars
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hormesis as hm

kept: list[bytes] = []
remembered: contextvars.ContextVar[str] = contextvars.ContextVar("remembered", default="nothing")
protects = hm.Policy(hm.Bulkhead(1, workers="processes"), hm.Retry(on="any", delay=0), name="far")


class Shortage(Exception):
    """An exception of the kind that pickle can't make again: its `__init__` takes other arguments than it hands on."""

    def __init__(self, sku: str, *, missing: int) -> None:
        super().__init__(f"{missing} of {sku} are missing")
        self.sku = sku
        self.missing = missing


class Locked(Exception):
    """An exception that can't travel at all."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class HomeOnly:
    """Pickles, but can be made only in the process that defined it so."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return only_in, (os.getpid(),)


def only_in(pid: int) -> HomeOnly:
    if os.getpid() != pid:
        raise RuntimeError("far from home")
    return HomeOnly()


def fail(kind: Callable[..., BaseException], *args: Any, **kwargs: Any) -> NoReturn:
    raise kind(*args, **kwargs)


def result_of(make: str) -> object:
    return {"generator": (each for each in ()), "lock": threading.Lock(), "home": HomeOnly()}[make]


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def tell_pid_and_sleep(path: str, seconds: float) -> None:
    write(path, os.getpid())
    time.sleep(seconds)


def tell_pid_and_hold_the_interpreter(path: str, seconds: int) -> None:
    import ctypes

    write(path, os.getpid())
    ctypes.PyDLL(None).sleep(seconds)


def start_a_child_and_sleep(path: str, seconds: float) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write(path, child.pid)
    time.sleep(seconds)


def leave_a_child_with_the_channel(path: str) -> None:
    """Die while a child still holds the channel open, as one that was forked does."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
    write(path, child)
    os._exit(3)


def write(path: str, pid: int) -> None:
    Path(f"{path}.new").write_text(str(pid))
    Path(f"{path}.new").rename(path)


def keep(size: int) -> int:
    kept.append(b"x" * size)
    return len(kept)


def remember(what: str) -> str:
    before = remembered.get()
    remembered.set(what)
    return before


def surroundings() -> tuple[float | None, str | None, dict[str, str]]:
    with hm.calling() as facts:
        return hm.remaining(), hm.request_id(), dict(facts.labels)


def check_deadline() -> None:
    hm.check_deadline()
    time.sleep(0.02)
    hm.check_deadline()


def say(text: str) -> None:
    print(text)  # noqa: T201  that it comes out is what is tested


async def asynchronous() -> None: ...


def sync_in_name_only() -> Any:
    return asynchronous()


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return "logged", function(*args)

    return wrapper


@logged
@protects
def where() -> int:
    return os.getpid()


def nameless(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper() -> Any:
        return function()

    return wrapper


@nameless
def hidden() -> None: ...


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    def pid(self) -> tuple[str, int]:
        return self.name, os.getpid()

    @protects
    def protected_pid(self) -> tuple[str, int]:
        return self.name, os.getpid()

    def __call__(self) -> tuple[str, int]:
        return self.pid()


class Starving:
    """Takes more memory to send, or to load, than there is."""

    def __reduce__(self) -> NoReturn:
        raise MemoryError


def starve() -> Starving:
    return Starving()


def starving() -> NoReturn:
    raise MemoryError

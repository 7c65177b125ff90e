"""Two game days at the same time on the same system: refused, by what they touch.

A system that a game day starts for itself, on free ports, is its own. What others can touch as well is locked while it
runs: ports and addresses that the file names, however it writes them, proxies and URLs of a system that runs already,
and the machine itself if it is to be stressed. Locks are the kernel's, on files of this user, so none outlives its
holder.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, Stress

__all__ = ["locked", "touched"]


def touched(experiment: Experiment, stresses: Sequence[Stress]) -> list[str]:
    """Return what a game day touches that another one could, in words."""
    things = {f"port {table.port}" for table in experiment.system.process.values() if table.port is not None}
    for name, edge in experiment.system.edge.items():
        if edge.port is not None:
            things.add(f"port {edge.port}")
        if edge.address is not None:
            things.add(_place(*edge.address))
        if edge.proxy is not None:
            api = urlsplit(edge.proxy)
            things.add(f"proxy {name} at {_place_of(api)}{api.path.rstrip('/')}")
    if experiment.load.url is not None:
        things.add(_place_of(urlsplit(experiment.load.url)))
    if any(dose.host for stress in stresses for dose in stress.doses):
        things.add("this machine")
    return sorted(things)


def _place_of(url: SplitResult) -> str:
    return _place(url.hostname or "", url.port or (443 if url.scheme == "https" else 80))


def _place(host: str, port: int) -> str:
    """Name what listens somewhere, in one way however a file writes it; on this machine by its port alone."""
    host = host.strip("[]").lower().rstrip(".")
    with contextlib.suppress(ValueError):  # it is a name, and no number
        address = ipaddress.ip_address(host)
        host = "localhost" if address.is_loopback or address.is_unspecified else str(address)
    if host == "localhost":
        return f"port {port}"
    return f"address [{host}]:{port}" if ":" in host else f"address {host}:{port}"


@contextlib.contextmanager
def locked(things: Iterable[str]) -> Iterator[None]:
    """Hold a lock on each of these things.

    Raises:
        ConfigurationError: Another game day holds one of them.
    """
    with contextlib.ExitStack() as stack:
        for thing in things:
            stack.enter_context(_locked(thing))
        yield


@contextlib.contextmanager
def _locked(thing: str) -> Iterator[None]:
    try:
        import fcntl  # noqa: PLC0415  not on Windows
    except ImportError:
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"hormesis-{os.getuid()}-locks"  # not every user has a name
    path = folder / re.sub(r"[^A-Za-z0-9.-]", "_", thing)
    while True:
        lock = _open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            message = f"another game day is running on the same system: it has {thing}; wait for its end"
            raise ConfigurationError(message) from None
        if os.fstat(lock).st_nlink:
            break
        os.close(lock)  # who held it has removed the file between our opening and our locking
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            folder.rmdir()  # which it lets happen to it only when it is empty
        os.close(lock)


def _open(path: Path) -> int:
    """Open a lock's file, and make what there is not of it."""
    try:
        while True:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the last game day has just removed the folder
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(f"the lock {path} can't be made: {error.strerror or error}") from error

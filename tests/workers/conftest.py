"""What the tests of worker processes share: the functions that workers run, and how to tell that a process is gone."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_numbers = itertools.count()

FUNCTIONS = Path(__file__).with_name("functions")

PATIENCE = 20.0
"""Seconds after which something that should happen won't."""

sys.path.insert(0, str(FUNCTIONS))


@pytest.fixture(scope="session")
def far_away() -> Any:
    """Return the module of functions that workers run."""
    import far_away

    return far_away


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    """Return the function that tells whether a process has ended, waited for or not."""

    def gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    return gone


class Notes:
    """Files in which workers tell process ids."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def pid(self, name: str) -> int:
        """Wait until it has been told."""
        path, give_up = self._directory / name, time.monotonic() + PATIENCE
        while not path.exists():
            assert time.monotonic() < give_up
            time.sleep(0.002)
        return int(path.read_text())


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """Let workers tell process ids."""
    return Notes(tmp_path)


@pytest.fixture
def pool() -> Iterator[Callable[..., Any]]:
    """Make pools whose workers end with the test, and which remember why theirs were replaced."""
    from hormesis.policy.processes import Processes

    made: list[Any] = []

    def make(most: int = 1, **settings: Any) -> tuple[Processes, list[str]]:
        reasons: list[str] = []
        processes = Processes(f"tests-{next(_numbers)}", most, on_replaced=reasons.append, **settings)
        made.append(processes)
        return processes, reasons

    yield make
    for processes in made:
        for worker in list(processes._alive or ()):
            worker.end()

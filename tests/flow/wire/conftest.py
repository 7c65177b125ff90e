"""Two ends of a connection without a network, and processes that stream to each other over a real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hormesis.flow.wire import Channel, Disconnected


class End:
    """One end of a connection that holds so many messages that were not read."""

    def __init__(self, capacity: int) -> None:
        self.other: End
        self.capacity = capacity
        self.messages: deque[bytes] = deque()
        self.changed = asyncio.Event()
        self.closed = False
        self.sent = 0

    async def send(self, data: bytes) -> None:
        while not self.closed and len(self.other.messages) >= self.capacity:
            await self._wait()
        if self.closed:
            raise Disconnected("closed")
        self.sent += 1
        self.other.messages.append(data)
        self._tell()
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        while not self.messages:
            if self.closed:
                raise Disconnected("closed")
            await self._wait()
        data = self.messages.popleft()
        self._tell()
        return data

    async def close(self) -> None:
        self.closed = self.other.closed = True
        self._tell()
        await asyncio.sleep(0)

    def abort(self) -> None:
        self.closed = self.other.closed = True
        self.messages.clear()
        self.other.messages.clear()
        self._tell()

    async def _wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    def _tell(self) -> None:
        self.changed.set()
        self.other.changed.set()


def make_pair(capacity: int = 100) -> tuple[End, End]:
    left, right = End(capacity), End(capacity)
    left.other, right.other = right, left
    return left, right


@pytest.fixture
def pair() -> Any:
    """Return the function that makes the two ends of a connection."""
    return make_pair


class Process:
    """A program that writes a line of JSON for each thing that happens, and is told things by lines."""

    def __init__(self, script: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def wait_for(self, name: str, patience: float = 20.0) -> Any:
        """Wait until it has said this, and return what it said last."""
        give_up = time.monotonic() + patience
        while True:
            said = [line[name] for line in list(self.lines) if name in line]
            if said:
                return said[-1]
            assert time.monotonic() < give_up, f"never said {name}: {self.lines[-3:]}"
            assert self._process.poll() is None or self._reader.is_alive(), f"has ended: {self.lines[-3:]}"
            time.sleep(0.005)

    def ask(self, word: str) -> Any:
        """Ask for something, and return the answer."""
        self.lines = [line for line in self.lines if word not in line]
        self.tell(word)
        return self.wait_for(word)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def process() -> Iterator[Any]:
    """Return the function that starts a program of this directory; it is stopped in the end."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> Process:
            made = Process(Path(__file__).parent / "programs" / name, *arguments)
            stack.callback(made.close)
            return made

        yield start


async def served(channels: list[Channel]) -> AsyncIterator[Channel]:
    """Give some channels one after the other."""
    for channel in channels:
        yield channel

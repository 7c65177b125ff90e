"""Two ways of calling, so that each defect is looked for in both: threads, and tasks on a loop in a thread of its own.

The test itself stands outside and gets futures, so it reads the same whether a call blocks a thread or suspends a task.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from hormesis import Policy
from hormesis.testing import Scripted

PATIENCE = 20.0
"""Seconds after which something that should happen won't."""


class Caller:
    """Calls from threads."""

    cancelled: type[BaseException] = KeyboardInterrupt
    """What a call raises whose caller went away."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(50)

    def start(self, policy: Policy, script: Scripted, *args: Any) -> Future[Any]:
        """Make a call in the background, in a copy of the test's context."""
        context = contextvars.copy_context()
        return self._pool.submit(lambda: context.run(policy.call, script.call, *args))

    def call(self, policy: Policy, script: Scripted, *args: Any) -> Any:
        """Make a call, and wait for what comes of it."""
        return self.start(policy, script, *args).result(PATIENCE)

    def together(self, policies: list[Policy], script: Scripted) -> list[Future[Any]]:
        """Make one call under each policy at the same time; returns when each is inside or has ended."""
        calls = [self.start(policy, script) for policy in policies]
        give_up = time.monotonic() + PATIENCE
        while script.inside + sum(call.done() for call in calls) < len(calls):
            assert time.monotonic() < give_up
            time.sleep(0.001)
        return calls

    def face(self, script: Scripted) -> Callable[..., Any]:
        """The dependency as a function of this colour."""
        return script.call

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class AsyncCaller(Caller):
    """Calls from tasks."""

    cancelled = asyncio.CancelledError

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, policy: Policy, script: Scripted, *args: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(policy.acall(script.acall, *args), self._loop)

    def face(self, script: Scripted) -> Callable[..., Any]:
        return script.acall

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Make calls from threads, and from tasks."""
    made = Caller() if request.param == "sync" else AsyncCaller()
    yield made
    made.stop()

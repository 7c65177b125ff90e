"""What tests share: how Hypothesis runs, the machines behind a policy, and the sweep over interleavings of threads."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import CodeType, FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from hormesis import Policy
from hormesis.patterns.part import AdmissionPart
from hormesis.policy.registry import Address

# The machines that run this are shared and slow: the number of examples bounds the time, a deadline would only be luck.
settings.register_profile("hormesis", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hormesis")


ALONE = tuple(
    f"tests/system/test_{name}.py" for name in ("explore", "gameday", "host_faults", "load_command", "safety")
)
"""Tests that start whole systems and judge how fast they answer, or fail the host: one of them at a time."""

BESIDE = ("tests/chaos/test_", "tests/gameday/test_pytest_plugin.py", "tests/outbound/brokers/", "tests/system/")
"""Tests that wait more than they compute: what other workers do meanwhile."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those two last, in that order."""
    items.sort(key=lambda item: 1 if item.nodeid.startswith(ALONE) else 2 * item.nodeid.startswith(BESIDE))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file to one worker, so that what they share is made once; likewise those of the brokers."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(ALONE):
                return "alone"
            file = nodeid.partition("::")[0]
            return os.path.dirname(file) if "/brokers/" in file else file

    config.option.loadscopereorder = False  # the order is that of above
    return ByFile(config, log)


def pytest_configure() -> None:
    """Hear interrupts, which some tests send, also where a shell has started the run in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


PATIENCE = 20.0
"""Seconds after which something that should happen won't."""

MachineOf = Callable[[Policy, type[Any]], Any]


@pytest.fixture
def machine_of() -> MachineOf:
    """Return the function that finds the machine of a policy's part of some class, to ask it what it holds."""

    def find(policy: Policy, kind: type[Any]) -> Any:
        part = policy.part(kind)
        assert isinstance(part, AdmissionPart)
        return policy._registry.get(Address(policy.name, part.slot.key), part, part.machine)

    return find


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Return the function that waits for something which other threads bring about."""

    def wait(condition: Callable[[], object]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up
            time.sleep(0.001)

    return wait


@pytest.fixture
def held() -> Iterator[Future[int]]:
    """Something for a call to wait for; it comes at the end at the latest, so that no thread stays behind."""
    future: Future[int] = Future()
    yield future
    if not future.done():
        future.set_result(0)


@dataclasses.dataclass
class Race:
    """Two threads in a world that was made for them, and what must hold when both have ended."""

    first: Callable[[], object]
    second: Callable[[], object]
    check: Callable[[], None]
    lock: Any = None
    """A lock that both take: while it is held, the second would have to wait."""


@pytest.fixture
def race() -> type[Race]:
    """Return the class of races, for tests that make their own."""
    return Race


Sweep = Callable[[Callable[[], Race], Iterable[Callable[..., Any]]], int]


@pytest.fixture
def sweep_interleavings() -> Sweep:
    """Return the function that runs a race once for each place where the second thread can cut in.

    It takes a function that makes a new race, and the functions inside of which the first thread is interrupted:
    between any two instructions of theirs. It returns how many places there were.
    """

    def sweep(make: Callable[[], Race], inside: Iterable[Callable[..., Any]]) -> int:
        codes = {function.__code__ for function in inside}
        place = 1
        while _cut_in(make(), codes, place):
            place += 1
        return place - 1

    return sweep


def _cut_in(race: Race, codes: set[CodeType], place: int) -> bool:
    """Run the second thread's part at the n-th instruction of the first's, or as soon after as the lock is free."""
    passed, cut_in = 0, False

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal passed, cut_in
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not cut_in:
            passed += 1
            if passed >= place and not (race.lock is not None and race.lock.locked()):
                cut_in = True
                race.second()
        return trace

    before = sys.gettrace()
    # CPython 3.12 traces instructions only if a frame has asked for that before tracing begins.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        race.first()
    finally:
        sys.settrace(before)
    if cut_in:
        race.check()
    return cut_in

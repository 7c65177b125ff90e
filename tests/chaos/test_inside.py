"""Dosing processes from outside: real processes, forked ones too, on loopback ports of their own."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hormesis as hm
from hormesis.chaos.faults.inside import Inject
from hormesis.chaos.inside import (
    CONTROL_VARIABLE,
    TOKEN_VARIABLE,
    Unreachable,
    dose,
    fault_header,
    new_token,
    states,
    undo,
)
from hormesis.core.signed import sign

PATIENCE = 20.0

PROGRAM = """
import os, sys
import hormesis as hm
stock = hm.Policy(hm.Chaos(), name="stock")
if "fork" in sys.argv and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
for line in sys.stdin:
    try:
        print(stock.call(len, "tea"), flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


class Child:
    """A process with a place for faults, which makes a call for each line."""

    def __init__(self, folder: Path, token: str, *arguments: str) -> None:
        environment = {**os.environ, CONTROL_VARIABLE: str(folder), TOKEN_VARIABLE: token}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("call\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def token() -> str:
    return new_token()


@pytest.fixture
def child_of(tmp_path: Path, token: str) -> Iterator[Callable[..., Child]]:
    """Start a process, and wait until as many listen as there should be."""
    started: list[Child] = []

    def start(*arguments: str, listening: int = 1) -> Child:
        child = Child(tmp_path, token, *arguments)
        started.append(child)
        until = time.monotonic() + PATIENCE
        while len(list(tmp_path.glob("*.json"))) < listening:
            assert time.monotonic() < until
            time.sleep(0.01)
        return child

    yield start
    for child in started:
        child.stop()


def test_a_dose_from_its_beginning_to_its_end(child_of: Callable[..., Child], tmp_path: Path, token: str) -> None:
    """It acts at once in the process, is seen there, is undone, and ends by itself when nobody undoes it."""
    child = child_of()
    (file,) = tmp_path.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert child.call() == "3"
    dosed = dose(tmp_path, token, {"error": "connect"}, at="sto*", for_="5m")
    assert list(dosed) == [child.process.pid]
    assert child.call() == "ConnectionRefusedError"
    (state,) = states(tmp_path, token).values()
    assert (state["on"], state["places"], len(state["doses"])) == (True, ["stock"], 1)
    assert undo(tmp_path, token) == [child.process.pid]
    assert child.call() == "3"
    dose(tmp_path, token, hm.Injection(result=7), for_="200ms")
    assert child.call() == "7"
    time.sleep(0.25)
    assert child.call() == "3"


def test_forked_processes_are_dosed_too(child_of: Callable[..., Child], tmp_path: Path, token: str) -> None:
    """Each worker has a port of its own; what a dead one has left is cleared away."""
    child = child_of("fork", listening=2)
    assert len(dose(tmp_path, token, {"latency": "1ms"})) == 2
    child.stop()
    with pytest.raises(Unreachable, match="none listens in"):
        dose(tmp_path, token, {"latency": "1ms"})
    assert list(tmp_path.iterdir()) == []
    assert undo(tmp_path, token) == []


def test_who_has_no_token_is_refused(child_of: Callable[..., Child], tmp_path: Path, token: str) -> None:
    """Also who has heard another conversation; and nonsense ends a conversation, not the listener."""
    child = child_of()
    with pytest.raises(Unreachable, match="forged: it takes a message that is signed"):
        dose(tmp_path, "another token of 16", {"error": "connect"})
    replayed = sign(token, "an older challenge", {"do": "undo"}, expires=1.0, number="").encode() + b"\n"
    port = next(iter(_ports(tmp_path)))
    for line in (replayed, b"\n", b"{}\n", b"\xff" * 2_000 + b"\n", b""):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.makefile("rb").readline()
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            assert b'"error"' in connection.makefile("rb").readline()
    dose(tmp_path, token, {"error": "connect"})
    assert child.call() == "ConnectionRefusedError"


def test_one_that_says_nothing_does_not_hold_the_listener(
    child_of: Callable[..., Child], tmp_path: Path, token: str
) -> None:
    """It is let go after a moment."""
    child_of()
    with socket.create_connection(("127.0.0.1", next(iter(_ports(tmp_path)))), timeout=PATIENCE):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                assert dose(tmp_path, token, {"latency": "1ms"})
                break
            except Unreachable:  # it has the listener's patience, which is ours as well
                assert time.monotonic() < until


def _ports(folder: Path) -> list[int]:
    import json

    return [int(json.loads(file.read_text())["port"]) for file in folder.glob("*.json")]


def test_what_makes_no_sense_there(child_of: Callable[..., Child], tmp_path: Path, token: str) -> None:
    """A place that there is not, and a lease that is too long, are told in the words of the process."""
    child = child_of()
    with pytest.raises(Unreachable, match=f"process {child.process.pid}: unknown place with a Chaos part 'shop'"):
        dose(tmp_path, token, {"latency": "1s"}, at="shop")
    with pytest.raises(Unreachable, match="at most 10m: whoever wants longer asks again"):
        dose(tmp_path, token, {"latency": "1s"}, for_="1h")


@pytest.mark.parametrize("fault", [{}, {"latncy": "1s"}, {"behaviour": "x"}, {"error": "oops"}, "latency", 3])
def test_faults_that_can_not_be_meant(tmp_path: Path, token: str, fault: object) -> None:
    """They are refused before anybody is asked."""
    for use in (lambda: dose(tmp_path, token, fault), lambda: fault_header(fault, token=token), lambda: Inject(fault)):  # type: ignore[arg-type]
        with pytest.raises(hm.ConfigurationError):
            use()


def test_what_can_not_be_sent(tmp_path: Path, token: str) -> None:
    """Functions and exception classes stay in their process; a header has its length and its time."""
    with pytest.raises(hm.ConfigurationError, match="what can be sent to another process"):
        dose(tmp_path, token, hm.Injection(error=KeyError))
    with pytest.raises(hm.ConfigurationError, match="no fault is given"):
        fault_header(token=token)
    with pytest.raises(hm.ConfigurationError, match="a header has"):
        fault_header(*[{"latency": 1, "where": {"path": "x" * 200}}] * 20, token=token)
    with pytest.raises(hm.ConfigurationError, match="at most 1h"):
        fault_header({"latency": 1}, token=token, for_="2h")


def test_a_fault_of_a_game_day() -> None:
    """It is a value, says itself in words, and its settings are those of an injection."""
    fault = Inject({"latency": "2s", "share": 0.1}, at="payments")
    assert (str(fault), fault.injection.share) == ("injects latency 2s on 10 % of calls at payments", 0.1)
    assert fault == Inject(hm.Injection(latency=2, share=0.1), at="payments")
    with pytest.raises(hm.ConfigurationError, match="at is ''"):
        Inject({"latency": "2s"}, at="")


def test_a_table_goes_there_and_back() -> None:
    """What can be sent means the same on the other side."""
    for fault in (
        hm.Injection(
            latency="2s", jitter="1s", share=0.5, calls="1-2", every=3, after="1s", until="5s", where={"a": "b"}
        ),
        hm.Injection(status=503, retry_after="2s"),
        hm.Injection(result=None),
        hm.Injection(error="connect"),
    ):
        assert hm.Injection.of(fault.as_table()) == fault

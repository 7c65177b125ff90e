"""Faults inside of processes that run already: dosing them from outside, and signing headers that bring them.

A process with a `Chaos` part can be dosed when its environment says where, and with which token:

    HORMESIS_CHAOS_CONTROL=/run/shop/chaos      a folder, in which each process tells its port
    HORMESIS_CHAOS_TOKEN=…                      16 characters or more

`dose` asks every process of the folder; what they are dosed with ends by itself after its lease, also when whoever
dosed it is no more. `fault_header` signs what one request is to meet with, on its way through all services that have
the same token.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hormesis.core.signed import MESSAGE_MAX, sign
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.patterns.chaos_switch import TOKEN_VARIABLE
from hormesis.patterns.injection import FAULT_HEADER, Injection
from hormesis.policy.chaos_control import CONTROL_VARIABLE, MESSAGE_BYTES, ask
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["CONTROL_VARIABLE", "TOKEN_VARIABLE", "Unreachable", "dose", "fault_header", "new_token", "states", "undo"]

_PATIENCE_SECONDS = 2.0
"""How long a process may take to answer."""

_PROCESSES_MAX = 1000
_CHALLENGE_BYTES = 256
_HEADER_MAX = "1h"


class Unreachable(HormesisError):
    """No process could be asked, or one did not do what it was asked; the message says which and why."""


def new_token() -> str:
    """Make a token that nobody can guess.

    >>> len(new_token()) >= 16
    True
    """
    return secrets.token_urlsafe(24)


def dose(
    folder: str | os.PathLike[str],
    token: str,
    *faults: Injection | Mapping[str, Any],
    at: str = "*",
    for_: Duration = "1m",
    seed: int = 0,
) -> dict[int, int]:
    """Dose all processes of a folder.

    Args:
        folder: What `HORMESIS_CHAOS_CONTROL` says to them.
        token: What `HORMESIS_CHAOS_TOKEN` says to them.
        *faults: What they are dosed with.
        at: The names of the policies and services that it is for; `*` stands for anything.
        for_: After how long it ends by itself.
        seed: Another seed picks other calls.

    Returns:
        The number of the dose in each process, by its id. A process that has no such place is left out.

    Raises:
        ConfigurationError: A fault can't be meant, or can't be sent.
        Unreachable: There is no process, or one does not answer, or none has such a place.
    """
    made = [each if isinstance(each, Injection) else Injection.of(each) for each in faults]
    lease = seconds(for_, "for_")
    asked = {
        "do": "dose",
        "faults": [each.as_table() for each in made],
        "at": at,
        "for": lease,
        "seed": seed,
    }
    dosed: dict[int, int] = {}
    refused: dict[int, str] = {}
    for process, answer in _ask_all(folder, token, asked):
        if "error" in answer:
            refused[process] = str(answer["error"])
        else:
            dosed[process] = int(answer["done"])
    if not dosed:
        # In a service of several processes it is enough that one has the place: a master that only forks has none.
        raise Unreachable(f"no process took the dose: {_words(refused) or f'none listens in {folder}'}")
    return dosed


def undo(folder: str | os.PathLike[str], token: str) -> list[int]:
    """End all doses of all processes of a folder; returns the ids of those that were asked.

    A process that is no more has no doses, and is no error.

    Raises:
        Unreachable: One that is there does not do it; its doses end by themselves.
    """
    asked = dict(_ask_all(folder, token, {"do": "undo"}))
    refused = {process: str(answer["error"]) for process, answer in asked.items() if "error" in answer}
    if refused:
        raise Unreachable(f"not undone: {_words(refused)}; it ends by itself")
    return sorted(asked)


def states(folder: str | os.PathLike[str], token: str) -> dict[int, dict[str, Any]]:
    """Return what is on in each process of a folder, by its id.

    Raises:
        Unreachable: One does not answer.
    """
    return {process: answer.get("done", answer) for process, answer in _ask_all(folder, token, {"do": "state"})}


def fault_header(
    *faults: Injection | Mapping[str, Any], token: str, at: str = "*", for_: Duration = "1m"
) -> dict[str, str]:
    """Return the header with which a request brings faults of its own.

    Services with a `Chaos` part heed it while their switch is on, if their token is the same; and whoever sees it can
    send it again until its time is over.

    Args:
        *faults: What it is to meet with.
        token: That of the services.
        at: The names of the policies and services that it is for; `*` stands for anything.
        for_: How long it is good for.

    Raises:
        ConfigurationError: A fault can't be meant, or can't be sent.

    >>> sorted(fault_header({"latency": "2s"}, token="a token of sixteen", at="payments"))
    ['hormesis-fault']
    """
    made = [each if isinstance(each, Injection) else Injection.of(each) for each in faults]
    if not made:
        raise ConfigurationError("no fault is given, so there is nothing to sign", "faults")
    lease = seconds(for_, "for_")
    if lease > seconds(_HEADER_MAX):
        raise ConfigurationError.bad_value("for_", for_, f"at most {_HEADER_MAX}: others may send it again")
    text = sign(
        token,
        FAULT_HEADER,
        {"faults": [each.as_table() for each in made], "at": at},
        expires=time.time() + lease,
        number=secrets.token_hex(8),
    )
    if len(text) > MESSAGE_MAX:
        raise ConfigurationError(
            f"the faults take {len(text):,} characters, and a header has {MESSAGE_MAX:,}", "faults"
        )
    return {FAULT_HEADER: text}


def _ask_all(
    folder: str | os.PathLike[str], token: str, asked: Mapping[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Ask every process that is there; what a dead one has left is removed."""
    for file, process, port in _listed(Path(folder)):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS) as connection:
                connection.settimeout(_PATIENCE_SECONDS)
                lines = connection.makefile("rb")
                challenge = lines.readline(_CHALLENGE_BYTES).decode("ascii", "replace").strip()
                connection.sendall(ask(token, challenge, asked))
                answer = json.loads(lines.readline(MESSAGE_BYTES))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                file.unlink()
        except (OSError, ValueError) as error:
            yield process, {"error": f"no answer within {format_seconds(_PATIENCE_SECONDS)} ({error})"}
        else:
            yield process, answer if isinstance(answer, dict) else {"error": "no answer that can be read"}


def _listed(folder: Path) -> Sequence[tuple[Path, int, int]]:
    found: list[tuple[Path, int, int]] = []
    for file in sorted(folder.glob("*.json"))[:_PROCESSES_MAX]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(file.read_text())
            found.append((file, int(said["pid"]), int(said["port"])))
    return found


def _words(refused: Mapping[int, str]) -> str:
    return "; ".join(f"process {process}: {why}" for process, why in sorted(refused.items()))

"""The process that asks for a probe; whatever hangs in it, a query or a connection or a function, is cut by killing it.

Each kind of question brings in only what it needs, since starting is most of what a look costs.

It reads a question a line from its standard input, and writes an answer a line: `{"value": …, "document": …}`,
`{"error": "…"}`, or `{"lacks": "…"}` when it was asked whether a function is there. What the asked functions print goes
to the standard error.

This file is run by its path, not as a module, and needs nothing but the standard library, and psycopg when a question
is for PostgreSQL.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["answer"]

_BYTES_MAX = 1_000_000
_ROWS_MAX = 1000


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a question; an error is an answer too."""
    try:
        if "http" in question:
            return _http(question)
        if "sql" in question:
            return _sql(question)
        if "find" in question:
            return {"lacks": _lack(question["find"])}
        return _python(question)
    except Exception as error:  # whatever it raises is what there is to say
        said = str(error).strip() or type(error).__name__
        return {"error": f"{type(error).__name__}: {said.splitlines()[0]}"}


def _http(question: Mapping[str, Any]) -> dict[str, Any]:
    import http.client  # noqa: PLC0415
    import urllib.parse  # noqa: PLC0415

    body, headers = question.get("json"), dict(question.get("headers") or {})
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers.setdefault("Content-Type", "application/json")
    url = urllib.parse.urlsplit(question["http"])
    secure = url.scheme == "https"
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(url.netloc.rpartition("@")[2])
    with contextlib.closing(connection):
        target = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        connection.request(question.get("method", "GET"), target, data, headers)
        response = connection.getresponse()
        return {"value": response.status, "document": response.read(_BYTES_MAX).decode(errors="replace")}


def _sql(question: Mapping[str, Any]) -> dict[str, Any]:
    dsn, query = question["dsn"], question["sql"]
    if dsn.startswith("sqlite:"):
        import sqlite3  # noqa: PLC0415
        from pathlib import Path  # noqa: PLC0415

        path = Path(dsn.removeprefix("sqlite:").removeprefix("//")).resolve()
        # One that only reads, so that a path that leads nowhere makes no empty database.
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return _rows(database.execute(query))
    psycopg = importlib.import_module("psycopg")
    with psycopg.connect(dsn, autocommit=True) as database:
        return _rows(database.execute(query))


def _rows(cursor: Any) -> dict[str, Any]:
    names = [column[0] for column in cursor.description or ()]
    found: Sequence[Sequence[Any]] = cursor.fetchmany(_ROWS_MAX) if names else []
    rows = [dict(zip(names, row, strict=True)) for row in found]
    return {"value": found[0][0] if found else None, "document": rows}


def _python(question: Mapping[str, Any]) -> dict[str, Any]:
    value = _function(question["python"])(**question.get("arguments") or {})
    if inspect.iscoroutine(value):
        import asyncio  # noqa: PLC0415

        value = asyncio.run(value)
    return {"value": value, "document": value}


def _function(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _lack(path: str) -> str:
    """Say why a function can never be asked; what goes wrong when its module is imported may be otherwise later."""
    module = path.partition(":")[0]
    try:
        function = _function(path)
    except ModuleNotFoundError as error:
        return str(error) if f"{module}.".startswith(f"{error.name}.") else ""
    except AttributeError as error:
        return str(error) if module in sys.modules else ""
    return "" if callable(function) else f"that is no function but {function!r}"


def _serve(questions: Iterable[bytes], answers: Any) -> None:
    for line in questions:
        said = json.dumps(answer(json.loads(line)), default=_as_number)
        answers.write(said.encode() + b"\n")
        answers.flush()


def _as_number(value: object) -> object:
    """Write what JSON has no word for: a decimal as the number that it is, all else as text."""
    try:
        return float(value)  # type: ignore[arg-type]  # and what is none raises
    except (TypeError, ValueError):
        return str(value)


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()

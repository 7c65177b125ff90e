"""What the services share: a transaction on a SQLite file, work for the processor, errors as problems (RFC 9457)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from time import thread_time
from typing import Annotated

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import StringConstraints
from starlette.exceptions import HTTPException

__all__ = ["Identifier", "answer_problem", "burn", "create", "transaction"]

# An identifier ends up in paths and headers, so it holds nothing that would have to be escaped there.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def create(path: str, schema: str) -> None:
    """Create what is missing in the file; the write-ahead log lets readers go on while one writes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {schema}")


@contextmanager
def transaction(path: str, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction: committed at the end, rolled back if the block raises.

    A connection for each request is cheap with SQLite, needs no lock between the framework's threads and can't carry a
    half-done transaction into the next request.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        # A writer takes its lock at the beginning: one that has read first is refused instead of waiting for its turn.
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        with connection:
            yield connection


def burn(milliseconds: float) -> None:
    """Keep the processor busy for so long: what templates, prices and taxes cost a real shop.

    It is the thread's own time that counts, so who has to share the processor is busy for longer, as with real work.
    """
    until = thread_time() + milliseconds / 1000
    while thread_time() < until:
        pass


async def answer_problem(_request: Request, error: Exception) -> JSONResponse:
    """Answer an `HTTPException` with a problem body in place of the framework's own format."""
    assert isinstance(error, HTTPException)
    problem = {
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": error.detail,
    }
    return JSONResponse(problem, error.status_code, error.headers, "application/problem+json")

"""A shop on one PostgreSQL: customers read products, and bookkeepers have reports made.

The same code runs bare and protected. Bare, all queries share one pool of connections and the driver's own patience.
Protected, which is when `SHOP_POLICIES` names a policy file, reading and reporting have pools of their own
(`[pools.database]`), and each query goes through the policy of its kind.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from psycopg_pool import AsyncConnectionPool, PoolTimeout

import hormesis as hm
from hormesis.context import calling

DATABASE = os.environ["DATABASE"]
POLICIES = os.environ.get("SHOP_POLICIES", "")

PRODUCT = "SELECT id, name, price FROM product WHERE id = %s"
REPORT = "SELECT count(*), sum(price), pg_sleep(0.5) FROM product"
"""Half a second of the database's time, as a join over a year's orders takes."""

Query = Callable[[str, tuple[Any, ...]], Coroutine[Any, Any, tuple[Any, ...] | None]]


class LeftAlone:
    """A query that goes on by itself when its caller has no more time for it.

    psycopg answers a cancellation by asking the server to stop, and waits for that: over the same slow line, which is
    what the caller has no time for. Left alone, the query keeps its connection until it ends; that there are few of
    them bounds how many can be left.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._running: set[asyncio.Task[tuple[Any, ...] | None]] = set()

    async def __call__(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """Ask, and wait for the answer."""
        task = asyncio.ensure_future(self._query(sql, values))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[tuple[Any, ...] | None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to look at it


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the connections for as long as the shop runs."""
    options: dict[str, Any] = {"kwargs": {"autocommit": True}}
    if not POLICIES:
        async with AsyncConnectionPool(DATABASE, min_size=8, open=False, **options) as pool:

            async def ask(sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
                async with pool.connection() as connection:
                    row: tuple[Any, ...] | None = await (await connection.execute(sql, values)).fetchone()
                    return row

            app.state.read = app.state.report = ask
            yield
        return
    hm.telemetry.record_events()
    loaded = hm.load(POLICIES)
    declared: dict[str, hm.ConnectionPools] = loaded.sections["pools"]  # type: ignore[assignment]
    async with declared["database"].psycopg_async(DATABASE, **options) as pools:

        async def ask_own(sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
            async with pools.current.connection() as connection:
                row: tuple[Any, ...] | None = await (await connection.execute(sql, values)).fetchone()
                return row

        left = LeftAlone(ask_own)
        app.state.read, app.state.report = loaded["products"](left), loaded["reports"](left)
        yield


app = FastAPI(title="shop", lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers; the database's health is not its own."""
    return {"status": "ok"}


@app.get("/products/{number}")
async def product(number: int, request: Request) -> dict[str, Any]:
    """Answer a product."""
    row = await request.app.state.read(PRODUCT, (number,))
    if row is None:
        raise HTTPException(404)
    return {"id": row[0], "name": row[1], "price": row[2]}


@app.get("/report")
async def report(request: Request) -> dict[str, Any]:
    """Answer what is in stock, for somebody who can wait."""
    with calling(traffic="reporting"):
        row = await request.app.state.report(REPORT, ())
    return {"products": row[0], "worth": row[1]}


async def answer_unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Say at once what can't be had, and when to come back."""
    wait = (error.retry_after if isinstance(error, hm.Rejected) else None) or 1.0
    headers = {"Retry-After": str(math.ceil(wait))}
    return JSONResponse({"title": "Service Unavailable", "status": 503}, 503, headers, "application/problem+json")


if POLICIES:
    for failure in (hm.Rejected, hm.TimedOut, PoolTimeout, psycopg.OperationalError):
        app.add_exception_handler(failure, answer_unavailable)

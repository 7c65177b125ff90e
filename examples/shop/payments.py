"""Payments: a ledger of charges, in a SQLite file.

Every charge comes with an `Idempotency-Key`. The ledger's unique key decides which of several equal requests is the
charge; the others are told what it did. So a caller that got no answer may send the same request again.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from common import Identifier, answer_problem, create, transaction

DB = os.environ["PAYMENTS_DB"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    key TEXT NOT NULL UNIQUE, order_id TEXT NOT NULL, amount INTEGER NOT NULL
);
"""


class ChargeRequest(BaseModel):
    """An amount in cents, for one order."""

    order_id: Identifier
    amount: Annotated[int, Field(ge=1, le=10**12)]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Have the ledger before the first request."""
    create(DB, SCHEMA)
    yield


app = FastAPI(title="payments", lifespan=lifespan, exception_handlers={HTTPException: answer_problem})


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@app.post("/charges", status_code=201)
def charge(
    wanted: ChargeRequest, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
) -> dict[str, Any]:
    """Charge an amount, once for each key."""
    if not idempotency_key:
        raise HTTPException(400, "the header Idempotency-Key is missing")
    wanted_row = {"key": idempotency_key, **wanted.model_dump()}
    with transaction(DB, write=True) as db:
        added = db.execute("INSERT INTO charges VALUES (:key, :order_id, :amount) ON CONFLICT DO NOTHING", wanted_row)
        row = db.execute("SELECT * FROM charges WHERE key = ?", (idempotency_key,)).fetchone()
    if dict(row) != wanted_row:
        raise HTTPException(422, "this Idempotency-Key belongs to another charge")
    return {**row, "replayed": added.rowcount == 0}


@app.get("/charges")
def total() -> dict[str, int]:
    """Count and add up all charges: what a check of the books compares with the orders."""
    with transaction(DB) as db:
        row = db.execute("SELECT COUNT(*) AS count, COALESCE(SUM(amount), 0) AS sum FROM charges").fetchone()
    return dict(row)


@app.get("/charges/{key}")
def read_charge(key: str) -> dict[str, Any]:
    """Answer the charge of a key."""
    with transaction(DB) as db:
        row = db.execute("SELECT * FROM charges WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise HTTPException(404, f"no charge with the key {key!r}")
    return dict(row)

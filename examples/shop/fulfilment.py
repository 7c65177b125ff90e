"""Fulfilment: packs what was sold, one parcel after the other, and keeps a list of the parcels in a SQLite file.

Orders come in two ways. `POST /orders` takes one whenever its sender likes, and packs it before it answers. The stream
at `/orders/stream`, a WebSocket, is asked for: this side says how many orders it can take (credits), and its sender
gives no more. An order is acknowledged when its parcel is on the list, so one whose connection breaks comes again; one
parcel is packed for each order, however often that comes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from common import Identifier, answer_problem, burn, create, transaction
from hormesis.flow.wire import Window, receive_stream

DB = os.environ["FULFILMENT_DB"]
PACK_MS = float(os.environ.get("SHOP_PACK_MS", "0"))

SCHEMA = "CREATE TABLE IF NOT EXISTS parcels (order_id TEXT PRIMARY KEY, sku TEXT NOT NULL, quantity INTEGER NOT NULL);"

WINDOW = Window(items=2)
"""Orders that may have come and are not packed: one in hand, and the next one within reach."""


class Order(BaseModel):
    """So many of one product, sold and paid."""

    order_id: Identifier
    sku: Identifier
    quantity: int = Field(ge=1)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Have the list of parcels before the first order."""
    create(DB, SCHEMA)
    yield


app = FastAPI(title="fulfilment", lifespan=lifespan, exception_handlers={HTTPException: answer_problem})


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


def pack(order: Order) -> None:
    """Pack an order, which takes its time, and write it on the list."""
    burn(PACK_MS)
    with transaction(DB, write=True) as db:
        db.execute("INSERT INTO parcels VALUES (:order_id, :sku, :quantity) ON CONFLICT DO NOTHING", order.model_dump())


@app.post("/orders", status_code=201)
def take_order(order: Order) -> Order:
    """Pack an order that somebody sends."""
    pack(order)
    return order


@app.websocket("/orders/stream")
async def take_orders(websocket: WebSocket) -> None:
    """Ask for orders, and pack them as they come; asking for the next one says that the last one is packed."""
    await websocket.accept()
    async with receive_stream(websocket, window=WINDOW) as orders:
        async for order in orders:
            await asyncio.to_thread(pack, Order.model_validate(order))


@app.get("/parcels")
def count_parcels() -> dict[str, int]:
    """Count the parcels: what a check of the books compares with the orders."""
    with transaction(DB) as db:
        row = db.execute("SELECT COUNT(*) AS count FROM parcels").fetchone()
    return dict(row)

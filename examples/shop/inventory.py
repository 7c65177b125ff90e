"""Inventory: the shop's products and their stock, in a SQLite file.

A reservation is idempotent by its order: asked again, it answers what it reserved the first time, so a caller that got
no answer may simply ask again.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from common import Identifier, answer_problem, create, transaction

DB = os.environ["INVENTORY_DB"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS products (
    sku TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL,
    price INTEGER NOT NULL, stock INTEGER NOT NULL CHECK (stock >= 0)
);
CREATE TABLE IF NOT EXISTS reservations (
    order_id TEXT PRIMARY KEY, sku TEXT NOT NULL REFERENCES products (sku),
    quantity INTEGER NOT NULL, amount INTEGER NOT NULL
);
"""

STOCK = 1_000_000
MAKES = ("Plain", "Oak", "Copper", "Linen", "Stoneware")
THINGS = ("Kettle", "Lamp", "Stool", "Bowl", "Clock", "Basket", "Tray", "Mirror", "Teapot", "Bench")


class ReservationRequest(BaseModel):
    """So many of one product, for one order."""

    order_id: Identifier
    sku: Identifier
    quantity: Annotated[int, Field(ge=1, le=STOCK)]


def seed() -> None:
    """Fill the shelves of an empty shop with the products 1 to 50; a shop that has traded keeps its stock."""
    rows = [
        (str(number), f"{make} {thing}", describe(make, thing), 500 + 25 * number, STOCK)
        for number, (make, thing) in enumerate(product(MAKES, THINGS), start=1)
    ]
    with transaction(DB, write=True) as db:
        db.executemany("INSERT OR IGNORE INTO products VALUES (?, ?, ?, ?, ?)", rows)


def describe(make: str, thing: str) -> str:
    """Write a few sentences: the list of products has to be long enough for a narrow line to hurt."""
    return (
        f"A {thing.lower()} from our {make.lower()} range, made in small batches by people who use one themselves. "
        f"It is simple, lasts for decades and can be repaired. Every {thing.lower()} differs a little from the next, "
        "and ships within two days in a box without plastic."
    )


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Have tables and products before the first request."""
    create(DB, SCHEMA)
    seed()
    yield


app = FastAPI(title="inventory", lifespan=lifespan, exception_handlers={HTTPException: answer_problem})


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@app.get("/products")
def list_products() -> dict[str, Any]:
    """List all products with their descriptions, some 16 KB."""
    with transaction(DB) as db:
        rows = db.execute("SELECT * FROM products ORDER BY CAST(sku AS INTEGER)").fetchall()
    return {"products": [dict(row) for row in rows]}


@app.get("/products/{sku}")
def read_product(sku: str) -> dict[str, Any]:
    """Answer a product: its name, description, price in cents and stock."""
    with transaction(DB) as db:
        row = db.execute("SELECT * FROM products WHERE sku = ?", (sku,)).fetchone()
    if row is None:
        raise HTTPException(404, f"no product {sku!r}")
    return dict(row)


@app.get("/sales")
def read_sales() -> dict[str, Any]:
    """Add up what was reserved of each product."""
    with transaction(DB) as db:
        rows = db.execute(
            "SELECT sku, SUM(quantity) AS quantity, SUM(amount) AS amount FROM reservations GROUP BY sku"
        ).fetchall()
    return {"sales": [dict(row) for row in rows]}


@app.post("/reservations", status_code=201)
def reserve(wanted: ReservationRequest) -> dict[str, Any]:
    """Take a quantity off the stock, once for each order, and answer what it costs."""
    with transaction(DB, write=True) as db:
        row = db.execute("SELECT * FROM reservations WHERE order_id = ?", (wanted.order_id,)).fetchone()
        if row is not None:
            if (row["sku"], row["quantity"]) != (wanted.sku, wanted.quantity):
                raise HTTPException(422, f"order {wanted.order_id!r} is already reserved, with other contents")
            return {**row, "replayed": True}
        row = db.execute("SELECT price FROM products WHERE sku = ?", (wanted.sku,)).fetchone()
        if row is None:
            raise HTTPException(404, f"no product {wanted.sku!r}")
        taken = db.execute(
            "UPDATE products SET stock = stock - :quantity WHERE sku = :sku AND stock >= :quantity", wanted.model_dump()
        )
        if taken.rowcount == 0:
            raise HTTPException(409, f"product {wanted.sku!r} is sold out")
        reservation = {**wanted.model_dump(), "amount": row["price"] * wanted.quantity}
        db.execute("INSERT INTO reservations VALUES (:order_id, :sku, :quantity, :amount)", reservation)
    return {**reservation, "replayed": False}

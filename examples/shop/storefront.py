"""Storefront: what customers talk to. It reads from inventory, and sells by reserving there and charging in payments.

The same code runs bare and protected. All that it asks of other services goes through the five functions of `Calls`;
bare, those are plain httpx. Protected, which is when `SHOP_POLICIES` names a policy file, `protect` wraps each of them
once, and the handlers at the end of this module tell the customer in plain terms what could not be done. What comes in
then passes the file's `[service]` before it gets here, and orders go to fulfilment as it asks for them (`backlog`).

A read may answer an older copy, and says so. A write answers 201 only after both services confirmed their part;
whatever else happened, the customer may post the same order again, because both parts are idempotent by its order_id.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeAlias

import httpx
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import hormesis as hm
from backlog import PROMISE, Backlog, PromptBacklog, UnboundedBacklog
from common import Identifier, answer_problem, burn

INVENTORY_URL = os.environ["INVENTORY_URL"]
PAYMENTS_URL = os.environ["PAYMENTS_URL"]
FULFILMENT_URL = os.environ["FULFILMENT_URL"]
POLICIES = os.environ.get("SHOP_POLICIES", "")

WORK_MS = float(os.environ.get("SHOP_WORK_MS", "0"))
REPORT_PAGES = 10
"""Pages whose work a report is worth."""

COPIES_MAX = 200
"""Copies kept, the latest ones: the list, every product, and room for a larger shop, but not for any number."""

REFUSALS = frozenset({404, 409, 422})
"""No such product, sold out, another order under this id: answers about the request, not failures of a service."""

P = ParamSpec("P")
Answer: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[P, Coroutine[Any, Any, Answer]]


class Order(BaseModel):
    """So many of one product; the customer picks the order_id, and keeps it when posting again."""

    order_id: Identifier
    sku: Identifier
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """All that the storefront asks of other services."""

    fetch_products: Call[[]]
    fetch_product: Call[[str]]
    fetch_sales: Call[[]]
    reserve: Call[[Order]]
    charge: Call[[str, int]]


def calls_over(inventory: httpx.AsyncClient, payments: httpx.AsyncClient) -> Calls:
    """Make the calls over plain httpx, with its own defaults."""

    async def fetch_products() -> Answer:
        return answer_of(await inventory.get("/products"))

    async def fetch_product(sku: str) -> Answer:
        return answer_of(await inventory.get(f"/products/{sku}"))

    async def fetch_sales() -> Answer:
        return answer_of(await inventory.get("/sales"))

    async def reserve(order: Order) -> Answer:
        return answer_of(await inventory.post("/reservations", json=order.model_dump()))

    async def charge(order_id: str, amount: int) -> Answer:
        headers = {"Idempotency-Key": f"order-{order_id}"}
        return answer_of(
            await payments.post("/charges", json={"order_id": order_id, "amount": amount}, headers=headers)
        )

    return Calls(
        fetch_products=fetch_products,
        fetch_product=fetch_product,
        fetch_sales=fetch_sales,
        reserve=reserve,
        charge=charge,
    )


def answer_of(response: httpx.Response) -> Answer:
    """Return the answer's body, or raise what went wrong."""
    answer: Answer = response.raise_for_status().json()
    return answer


class LastCopies:
    """The last good answer of each read, for the time when there is no new one."""

    def __init__(self) -> None:
        self._copies: OrderedDict[tuple[object, ...], Answer] = OrderedDict()

    def keeping(self, fetch: Call[P]) -> Call[P]:
        """Return `fetch`, with its answers kept by their arguments."""

        @wraps(fetch)
        async def fetch_and_keep(*args: P.args, **kwargs: P.kwargs) -> Answer:
            answer = await fetch(*args, **kwargs)
            self._keep(args, answer)
            # The list holds all that a product's own page shows: nobody has to have looked at it before.
            for product in answer.get("products", ()):
                self._keep((product["sku"],), product)
            return answer

        return fetch_and_keep

    def _keep(self, args: tuple[object, ...], answer: Answer) -> None:
        self._copies[args] = answer
        self._copies.move_to_end(args)
        if len(self._copies) > COPIES_MAX:
            self._copies.popitem(last=False)

    def last_copy(self, *args: object) -> Answer:
        """Return the copy of an answer, marked as such; a `KeyError` says that there is none."""
        return {**self._copies[args], "degraded": True}


def protect(calls: Calls, policies: Mapping[str, hm.Policy]) -> Calls:
    """Wrap each call in the policy of its kind; the reads, in addition, fall back to the last copy."""
    copies = LastCopies()
    reads = policies["inventory"].with_parts(hm.Fallback(copies.last_copy))
    return Calls(
        fetch_products=reads(copies.keeping(calls.fetch_products)),
        fetch_product=reads(copies.keeping(calls.fetch_product)),
        fetch_sales=policies["inventory"](calls.fetch_sales),
        reserve=policies["reservations"](calls.reserve),
        charge=policies["payments"](calls.charge),
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client for each service, and pass orders on, for as long as the storefront runs."""
    async with (
        httpx.AsyncClient(base_url=INVENTORY_URL) as inventory,
        httpx.AsyncClient(base_url=PAYMENTS_URL) as payments,
        httpx.AsyncClient(base_url=FULFILMENT_URL) as fulfilment,
    ):
        calls = calls_over(inventory, payments)
        backlog: Backlog = UnboundedBacklog(fulfilment)
        if POLICIES:
            hm.telemetry.record_events()
            calls = protect(calls, hm.load(POLICIES))
            backlog = PromptBacklog(FULFILMENT_URL.replace("http", "ws", 1) + "/orders/stream")
        app.state.calls, app.state.backlog = calls, backlog
        passing_on = asyncio.create_task(backlog.run())
        yield
        passing_on.cancel()
        with suppress(asyncio.CancelledError):
            await passing_on


async def calls_of(request: Request) -> Calls:
    """Hand an endpoint the calls that the lifespan made."""
    calls: Calls = request.app.state.calls
    return calls


async def backlog_of(request: Request) -> Backlog:
    """Hand an endpoint the orders that are not packed yet."""
    backlog: Backlog = request.app.state.backlog
    return backlog


TheCalls = Annotated[Calls, Depends(calls_of)]
TheBacklog = Annotated[Backlog, Depends(backlog_of)]

app = FastAPI(title="storefront", lifespan=lifespan, exception_handlers={HTTPException: answer_problem})


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers; the other services' health is not its own."""
    return {"status": "ok"}


@app.get("/products")
async def list_products(calls: TheCalls, response: Response) -> Answer:
    """List all products."""
    return page(await calls.fetch_products(), response)


@app.get("/products/{sku}")
async def read_product(sku: Identifier, calls: TheCalls, response: Response) -> Answer:
    """Answer a product's name, price in cents and stock."""
    return page(await calls.fetch_product(sku), response)


def page(answer: Answer, response: Response) -> Answer:
    """Make a page of an answer, which is work for the processor.

    A header, too, says when it is an older copy: load balancers and game days don't read bodies.
    """
    burn(WORK_MS)
    if answer.get("degraded"):
        response.headers["X-Degraded"] = "stale"
    return answer


@app.post("/orders", status_code=201)
async def place_order(order: Order, calls: TheCalls, backlog: TheBacklog) -> Answer:
    """Reserve, then charge what the reservation costs; this order, since a reservation is the cheaper one to leave.

    Room in the backlog comes before both: an order that can't be packed in time is not charged either.
    """
    backlog.check_room()
    reservation = await calls.reserve(order)
    charge = await calls.charge(order.order_id, reservation["amount"])
    burn(WORK_MS)
    backlog.put(order.model_dump())
    return {**order.model_dump(), "amount": charge["amount"]}


@app.get("/promise")
async def check_promise(backlog: TheBacklog, response: Response) -> Answer:
    """Say whether the shop keeps its word, that an order is packed within seconds: 500 when one waits for longer."""
    state = backlog.state()
    if state["oldest_seconds"] > PROMISE:
        response.status_code = 500
    return {**state}


@app.get("/reports/sales")
async def report_sales(calls: TheCalls) -> Answer:
    """Report what was sold: as much work as many pages, for somebody who can wait."""
    sales = (await calls.fetch_sales())["sales"]
    burn(REPORT_PAGES * WORK_MS)
    return {"products": len(sales), "amount": sum(row["amount"] for row in sales)}


async def answer_status(request: Request, error: Exception) -> Response:
    """Pass a refusal on as it is; any other status of a service is a failure like a broken connection."""
    assert isinstance(error, httpx.HTTPStatusError)
    refusal = error.response
    if refusal.status_code in REFUSALS:
        return Response(refusal.content, refusal.status_code, media_type=refusal.headers.get("content-type"))
    if POLICIES:
        return await answer_unavailable(request, error)
    raise error


async def answer_unavailable(request: Request, error: Exception) -> Response:
    """Say what the customer can rely on and when to come back, whichever way the call failed."""
    wait = (error.retry_after if isinstance(error, hm.Rejected) else None) or 1.0
    detail = (
        "The order is not confirmed. Post it again with the same order_id: nothing is reserved or charged twice."
        if request.method == "POST"
        else "The product data can't be read at the moment, and there is no earlier copy to give."
    )
    return await answer_problem(request, HTTPException(503, detail, {"Retry-After": str(math.ceil(wait))}))


app.add_exception_handler(httpx.HTTPStatusError, answer_status)
if POLICIES:
    for failure in (hm.Rejected, hm.TimedOut, httpx.HTTPError):
        app.add_exception_handler(failure, answer_unavailable)
    app.add_middleware(hm.asgi.Protect, service=POLICIES)

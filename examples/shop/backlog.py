"""Orders that were taken and are not packed yet, on their way from the storefront to fulfilment.

Bare, they stand in an `asyncio.Queue`, from which a task posts them one by one: what is written without a thought of a
fulfilment that is slower than the customers. Protected, they stand in a queue with a bound, and fulfilment asks for as
many as it can take. When it is slow the queue fills up; and when one more order could not be packed in time, it is the
customer who is told, before anything is reserved or charged: the pressure has gone all the way back.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeAlias

import httpx

from hormesis.flow import Queue, QueueFull
from hormesis.flow.wire import Outlet, Reconnect, send

__all__ = ["PROMISE", "Backlog", "PromptBacklog", "UnboundedBacklog"]

Order: TypeAlias = Mapping[str, Any]

PROMISE = 5.0
"""Seconds within which an order is packed."""

ORDERS_MAX = 40
"""Orders that may wait here before customers are turned away, however fast they are packed."""

UNDER_WAY_MAX = 40
"""Orders that were under way when that happened, and still find room: more than the storefront lets in at a time."""

COME_BACK = 2.0
"""Seconds after which a customer who was turned away should try again: by then some orders are packed."""

_LOOK_EVERY = 1.0
"""Seconds over which it is counted how fast orders are packed."""

RECONNECT = Reconnect(delay_max="500ms", give_up=None)
"""Fulfilment is back within seconds, or else there are people to see to that: there is no reason to give up."""


class Backlog(ABC):
    """What the storefront knows of its orders after it has taken them."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque()

    @abstractmethod
    def check_room(self) -> None:
        """Raise `QueueFull` when an order that is taken now could not be packed in time."""

    @abstractmethod
    def put(self, order: Order) -> None:
        """Put an order that has been taken."""

    @abstractmethod
    async def run(self) -> None:
        """Pass the orders on, for as long as the storefront runs."""

    def state(self) -> dict[str, float]:
        """Say how many orders wait to be packed, and for how long the first of them has."""
        return {"orders": len(self._taken), "oldest_seconds": monotonic() - self._taken[0] if self._taken else 0.0}


class UnboundedBacklog(Backlog):
    """Takes every order at once, and posts one after the other.

    Args:
        fulfilment: A client of the service.
    """

    def __init__(self, fulfilment: httpx.AsyncClient) -> None:
        super().__init__()
        self._fulfilment = fulfilment
        self._orders: asyncio.Queue[Order] = asyncio.Queue()

    def check_room(self) -> None:
        """There is always room for one more."""

    def put(self, order: Order) -> None:
        """Put an order at the end."""
        self._orders.put_nowait(order)
        self._taken.append(monotonic())

    async def run(self) -> None:
        """Post the orders; one that can't be posted is written to the log."""
        while True:
            order = await self._orders.get()
            try:
                (await self._fulfilment.post("/orders", json=dict(order))).raise_for_status()
            except httpx.HTTPError:
                logging.exception("order %s was not passed on to fulfilment", order["order_id"])
            self._taken.popleft()


class PromptBacklog(Backlog):
    """Takes as many orders as can be packed in time, and gives fulfilment as many as it asks for.

    Args:
        url: The WebSocket of the service.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._queue: Queue[Order] = Queue(
            ORDERS_MAX + UNDER_WAY_MAX,
            overflow="fail",
            pause_at=ORDERS_MAX / (ORDERS_MAX + UNDER_WAY_MAX),
            name="orders",
        )
        self._outlet = Outlet(self._queue, name="orders")
        self._packed = 0
        self._pace = 0.0
        self._counted = (monotonic(), 0)

    def check_room(self) -> None:
        """Turn the customer away when the queue is full, or the order would be packed too late at today's pace."""
        self._settle()
        if self._queue.paused or len(self._taken) * self._pace > PROMISE / 2:
            raise QueueFull("orders", "full", COME_BACK)

    def put(self, order: Order) -> None:
        """Put an order at the end."""
        self._queue.put_nowait(order)
        self._taken.append(monotonic())

    def state(self) -> dict[str, float]:
        """Say so of the orders that fulfilment has not acknowledged."""
        self._settle()
        return super().state()

    def _settle(self) -> None:
        """Take note of what was acknowledged, and of the seconds that an order takes while others wait."""
        while self._packed < self._outlet.acknowledged:
            self._taken.popleft()
            self._packed += 1
        now, (since, packed) = monotonic(), self._counted
        if now - since >= _LOOK_EVERY:
            # While nobody waits, the pace is that of the customers.
            self._pace = (now - since) / max(1, self._packed - packed) if self._taken else 0.0
            self._counted = (now, self._packed)

    async def run(self) -> None:
        """Give fulfilment what it asks for; what it has not acknowledged is sent again over the next connection."""
        await send(self._url, self._outlet, reconnect=RECONNECT)

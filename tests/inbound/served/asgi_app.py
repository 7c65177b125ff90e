"""A protected ASGI application, for servers that are started by tests."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from hormesis.inbound import Rule
from hormesis.inbound.asgi import Protect
from hormesis.inbound.drain import Drain
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit

service = Service(
    Rule("/limited", client="one"),
    Rule("*", client="others", cost=0),
    RateLimit("3/min", by="client"),
    LoadShedder(limit=2, limit_min=1, start=1, max_queued=0, shed_max=1),
    Drain(grace=os.environ.get("GRACE", "800ms"), limit="5s"),
    name="served",
    send_timeout="300ms",
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(service.snapshot())})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    body = b"tea"
    if scope["path"] == "/state":
        body = json.dumps({"pid": os.getpid(), **service.snapshot()}).encode()
    elif scope["path"] == "/slow":
        await asyncio.sleep(float(scope["query_string"] or b"1"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/endless":
        for _ in range(100_000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": body})


app = Protect(app, service)  # type: ignore[assignment]

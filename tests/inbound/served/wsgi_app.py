"""A protected WSGI application, for servers that are started by tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import Any

from hormesis.inbound import Rule
from hormesis.inbound.drain import Drain
from hormesis.inbound.service import Service
from hormesis.inbound.wsgi import Protect
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit

service = Service(
    Rule("/limited", client="one"),
    Rule("*", client="others", cost=0),
    RateLimit("3/min", by="client"),
    LoadShedder(limit=4, limit_min=1, start=1, max_queued=0, shed_max=1),
    Drain(grace=os.environ.get("GRACE", "800ms"), limit="5s"),
    name="served",
    send_timeout="300ms",
)
made_in = os.getpid()


def app(environ: Any, start_response: Any) -> Iterable[bytes]:
    body = b"tea"
    path = environ["PATH_INFO"]
    if path == "/state":
        body = json.dumps({"pid": os.getpid(), "made_in": made_in, **service.snapshot()}).encode()
    elif path == "/slow":
        time.sleep(float(environ.get("QUERY_STRING") or 1))
    start_response("200 OK", [("content-type", "text/plain")])
    if path == "/endless":
        return (b"x" * 65536 for _ in range(100_000))
    return [body]


app = Protect(app, service)  # type: ignore[assignment]

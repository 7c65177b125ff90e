"""What comes in: requests on their way to the application, over ASGI, WSGI and gRPC.

A request makes the journey of `hormesis.core.slots.Inbound`: identify, expired?, rate limits, load shedder,
application. What is decided is in `ground`, once for all of them; `asgi`, `wsgi` and `grpc` carry it out.
"""

from __future__ import annotations

from hormesis.inbound.classification import Rule, digest
from hormesis.inbound.request import Request, current, identified

__all__ = ["Request", "Rule", "current", "digest", "identified"]

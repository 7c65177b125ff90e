"""The inbound journey as interceptors of gRPC servers.

    grpc.server(threads, interceptors=[Protect(service)])                 the synchronous API
    grpc.aio.server(interceptors=[AsyncProtect(service)])                 the asynchronous one

A refusal is a status, and its trailing metadata say when to come back: as `retry-after` in seconds, and as
`grpc-retry-pushback-ms`, which gRPC's own retries heed.

    DEADLINE_EXCEEDED     nobody waits for the answer any more
    RESOURCE_EXHAUSTED    a rate limit is used up
    UNAVAILABLE           the service has no room, or is leaving

Calls of the standard health service pass all stops, and fail with UNAVAILABLE once the service is leaving.

Sources: gRPC's A6 (retries and their push-back) and its health checking protocol.
"""

from __future__ import annotations

from hormesis.inbound.grpc.aio import AsyncProtect
from hormesis.inbound.grpc.blocking import Protect

__all__ = ["AsyncProtect", "Protect"]

"""What the ASGI applications of this room share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["Receive", "Scope", "Send", "answer"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def answer(send: Send, status: int, detail: str, *headers: tuple[str, str]) -> None:
    """Answer with a problem, in the form of RFC 9457.

    Args:
        send: The function of ASGI.
        status: The status.
        detail: What is wrong, in a sentence.
        *headers: Further headers.
    """
    body = json.dumps({"status": status, "detail": detail}).encode()
    pairs = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    pairs += [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

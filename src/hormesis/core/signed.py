"""Short messages that only somebody with the token can have written, and that are good for a while.

    message = base64url(JSON) "." base64url(HMAC-SHA256(token, base64url(JSON)))

The JSON is an object with the wall clock's second after which it is stale (`exp`), a number of its own (`jti`), what it
is for (`aud`), and what it says. It is no secret: whoever sees it can read it, and can send it once more until it is
stale; that is the bound on replays, and a reason for short times.

It is read in bounded time, signature first: nothing is parsed that somebody without the token has written. What can't
be read is told by a word, never by an exception.

Source: RFC 2104 (HMAC); the names are those of RFC 7519, whose header, with its choice of algorithms, is left out.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["MESSAGE_MAX", "read_signed", "sign"]

MESSAGE_MAX = 4096
"""Characters of a message; servers cut off headers that are twice as long."""

_AHEAD_MAX = 86_400.0
"""Seconds that a message may be good for; one that is good for ever would be a second token."""


def sign(token: str, audience: str, content: Mapping[str, Any], *, expires: float, number: str) -> str:
    """Write a message.

    Args:
        token: What whoever reads it has as well.
        audience: What it is for; one that is for something else is not read.
        content: What it says.
        expires: When it is stale, on the wall clock.
        number: Its own number, so that no two messages are alike.

    >>> message = sign("a token of sixteen", "test", {"x": 1}, expires=60.0, number="1")
    >>> read_signed("a token of sixteen", "test", message, now=30.0)
    {'x': 1}
    >>> read_signed("another token of sixteen", "test", message, now=30.0)
    'forged'
    """
    said = {"exp": expires, "jti": number, "aud": audience, "say": dict(content)}
    payload = _encode(json.dumps(said, separators=(",", ":")).encode())
    return f"{payload}.{_encode(_signature(token, payload))}"


def read_signed(token: str, audience: str, message: str, now: float) -> dict[str, Any] | str:
    """Return what a message says, or why it is not heeded: `"malformed"`, `"forged"` or `"stale"`.

    Args:
        token: What it was signed with.
        audience: What it must be for.
        message: As it came in.
        now: The wall clock.
    """
    payload, _, signature = message.partition(".")
    if len(message) > MESSAGE_MAX or not payload or not signature or not message.isascii():
        return "malformed"
    if not hmac.compare_digest(_encode(_signature(token, payload)), signature):
        return "forged"
    try:
        said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return "malformed"
    if not isinstance(said, dict) or said.get("aud") != audience or not isinstance(said.get("say"), dict):
        return "malformed"
    expires = said.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not math.isfinite(expires):
        return "malformed"
    if not now < expires <= now + _AHEAD_MAX:
        return "stale"
    content: dict[str, Any] = said["say"]
    return content


def _signature(token: str, payload: str) -> bytes:
    return hmac.digest(token.encode("utf-8", "surrogateescape"), payload.encode(), "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

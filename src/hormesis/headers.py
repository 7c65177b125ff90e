"""What travels in the headers of a request and its answer: deadlines, request ids, Retry-After."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["retry_after_of"]


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer's `Retry-After` asks for; None when it has none that can be read."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else None

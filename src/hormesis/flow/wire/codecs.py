"""How items become bytes and back. What comes from another process is never unpickled: that would run its code."""

from __future__ import annotations

import json
from typing import Any, Protocol, TypeVar

__all__ = ["BYTES", "JSON", "Codec"]

T = TypeVar("T")


class Codec(Protocol[T]):
    """Turns items into bytes, and bytes into items."""

    def encode(self, item: T, /) -> bytes:
        """Return an item as bytes; whatever this raises ends the stream as failed."""
        ...

    def decode(self, data: bytes, /) -> T:
        """Return the item that some bytes are; a `ValueError` says that they are none."""
        ...


class _Bytes:
    """Items that are bytes already."""

    __slots__ = ()

    def encode(self, item: bytes | bytearray | memoryview) -> bytes:
        """Return the item."""
        if not isinstance(item, bytes | bytearray | memoryview):
            raise TypeError(f"an item of type {type(item).__name__}; this stream takes bytes: give it a codec")
        return bytes(item)

    def decode(self, data: bytes) -> bytes:
        """Return the item."""
        return data


class _Json:
    """Items that JSON has: numbers, texts, lists, dictionaries; no NaN, which JSON has not."""

    __slots__ = ()

    def encode(self, item: Any) -> bytes:
        """Return the item as JSON in UTF-8."""
        return json.dumps(item, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    def decode(self, data: bytes) -> Any:
        """Return what the JSON says."""
        try:
            return json.loads(data)
        except RecursionError as error:
            raise ValueError("JSON that is nested too deeply") from error


BYTES: Codec[bytes] = _Bytes()
"""For items that are bytes already."""

JSON: Codec[Any] = _Json()
"""For items that JSON has."""

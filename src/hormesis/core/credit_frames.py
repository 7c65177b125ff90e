"""What the two sides of a stream with credit say to each other, and what it means to who processes the items.

The protocol is in `hormesis.core.credit`.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final, TypeAlias

from hormesis.errors import HormesisError

__all__ = [
    "CREDIT_MAX",
    "MESSAGE_MAX",
    "STREAM_MAX",
    "Accept",
    "Ack",
    "Cancel",
    "Code",
    "End",
    "Error",
    "Failed",
    "Finished",
    "Forfeit",
    "Frame",
    "Item",
    "KeepAlive",
    "Open",
    "Opened",
    "Received",
    "Request",
    "StreamError",
]

CREDIT_MAX: Final = 2**63 - 1
"""The most credit there is, and the highest sequence number; more is the same."""

MESSAGE_MAX: Final = 500
"""Characters of an error's message that are sent; a stack trace has no business on the wire."""

STREAM_MAX: Final = 64
"""Characters that the name of a stream has at most."""


class Code(enum.IntEnum):
    """Why a stream broke."""

    PROTOCOL = 1
    """The peer said what it must not say."""
    FAILED = 2
    """The source of the items failed; what came before is whole."""
    LOST = 3
    """The stream, or the place in it, from which the receiver wants to go on is not there any more."""
    REPLACED = 4
    """Another connection goes on with the stream."""
    SLOW = 5
    """The receiver took nothing for too long."""
    REFUSED = 6
    """There is no room for another stream now."""
    TOO_LARGE = 7
    """An item is larger than the receiver takes."""
    SILENT = 8
    """Nothing was heard of the peer for too long."""


class StreamError(HormesisError):
    """A stream broke: by what the peer did, or because it says so.

    Args:
        code: Why.
        message: The whole sentence.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclasses.dataclass(frozen=True, slots=True)
class Open:
    """The receiver begins: the last item it has processed, its first credit, and the largest item that it takes.

    Without a name of a stream it takes whichever the sender has, from the first item that nobody acknowledged.
    """

    after: int
    items: int
    bytes: int
    item_bytes_max: int
    lease: float | None = None
    stream: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Accept:
    """The sender's answer: which stream this is, and the number of the first item that will come."""

    first: int
    stream: str


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One item; they are numbered from 1 without gaps."""

    seq: int
    payload: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """More credit; with a lease it is good for so many seconds."""

    items: int
    bytes: int
    lease: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ack:
    """Every item up to this one is processed."""

    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class Forfeit:
    """The sender gives up so much credit, whose lease has expired."""

    items: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The stream is complete with the item of this number."""

    last: int


@dataclasses.dataclass(frozen=True, slots=True)
class Error:
    """The stream breaks; either side says so."""

    code: Code
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """The receiver wants no more, ever."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing, from a peer that is there."""


Frame: TypeAlias = Open | Accept | Item | Request | Ack | Forfeit | End | Error | Cancel | KeepAlive


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """The sender has accepted; a stream of another name than before is another one."""

    stream: str


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """An item has come, for the first time."""

    seq: int
    payload: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """No item will come any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """The peer says that the stream broke."""

    code: Code
    message: str

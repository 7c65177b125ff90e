"""Frames as bytes: a byte that says which, numbers of fixed size, and at most one field of any length, at the end.

Big-endian, and a message of a WebSocket each. On a stream of bytes, each has its length before it, as four bytes.

    1  Open       version (1), after, items, bytes (8 each), largest item (8), lease in ms (4), name of the stream
    2  Accept     first item (8), name of the stream
    3  Item       number (8), payload
    4  Request    items, bytes (8 each), lease in ms (4)
    5  Ack        number (8)
    6  Forfeit    items, bytes (8 each)
    7  End        number (8)
    8  Error      code (1), message in UTF-8
    9  Cancel
    10 KeepAlive

What comes from outside is read within a bound, before any of it is kept; what can't be read breaks the protocol, with
one sentence that says why. Credit above 2^63 - 1 means that much; a number above it means nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from hormesis.core.credit_frames import (
    CREDIT_MAX,
    MESSAGE_MAX,
    STREAM_MAX,
    Accept,
    Ack,
    Cancel,
    Code,
    End,
    Error,
    Forfeit,
    Frame,
    Item,
    KeepAlive,
    Open,
    Request,
    StreamError,
)

__all__ = ["CONTROL_MAX", "ITEM_OVERHEAD", "Splitter", "decode", "encode", "with_length"]

_VERSION = 1
_OPEN = struct.Struct("!BBQQQQI")
_REQUEST = struct.Struct("!BQQI")
_TWO = struct.Struct("!BQQ")
_ONE = struct.Struct("!BQ")
_LENGTH = struct.Struct("!I")

ITEM_OVERHEAD: Final = _ONE.size
"""Bytes of an item's frame besides its payload."""

CONTROL_MAX: Final = 2 + 4 * MESSAGE_MAX
"""Bytes of the largest frame that is no item: an error's, whose characters take four bytes at most."""


def encode(frame: Frame) -> bytes:
    """Return a frame as bytes.

    >>> encode(Ack(7)).hex()
    '050000000000000007'
    """
    match frame:
        case Item():
            return _ONE.pack(3, frame.seq) + frame.payload
        case Request():
            return _REQUEST.pack(4, frame.items, frame.bytes, _milliseconds(frame.lease))
        case Ack():
            return _ONE.pack(5, frame.seq)
        case Open():
            numbers = (frame.after, frame.items, frame.bytes, frame.item_bytes_max, _milliseconds(frame.lease))
            return _OPEN.pack(1, _VERSION, *numbers) + frame.stream.encode()
        case Accept():
            return _ONE.pack(2, frame.first) + frame.stream.encode()
        case Forfeit():
            return _TWO.pack(6, frame.items, frame.bytes)
        case End():
            return _ONE.pack(7, frame.last)
        case Error():
            return bytes([8, frame.code]) + frame.message[:MESSAGE_MAX].encode(errors="replace")
        case Cancel():
            return b"\x09"
        case KeepAlive():
            return b"\x0a"


def decode(data: bytes, item_bytes_max: int) -> Frame:
    """Return the frame that some bytes are.

    Args:
        data: The bytes of one frame.
        item_bytes_max: The most that the payload of an item may have.

    Raises:
        StreamError: They are none, or too many.

    >>> decode(bytes.fromhex("050000000000000007"), 100)
    Ack(seq=7)
    """
    _check_size(len(data), item_bytes_max)
    try:
        return _decode(data, item_bytes_max)
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as error:
        kind = f"that begins with byte {data[0]}" if data else "without a byte"
        raise _malformed(f"a frame of {len(data)} bytes {kind}: {error}") from error


def _decode(data: bytes, item_bytes_max: int) -> Frame:
    match data[0]:
        case 3:
            seq = _number(_ONE.unpack_from(data)[1])
            if len(data) - _ONE.size > item_bytes_max:
                raise ValueError(f"its payload may have {item_bytes_max} bytes")
            return Item(seq, data[_ONE.size :])
        case 4:
            _, items, size, lease = _REQUEST.unpack(data)
            return Request(min(items, CREDIT_MAX), min(size, CREDIT_MAX), _seconds(lease))
        case 5:
            return Ack(_number(_ONE.unpack(data)[1]))
        case 1:
            _, version, after, items, size, largest, lease = _OPEN.unpack_from(data)
            if version != _VERSION:
                raise ValueError(f"version {version} of the protocol; this is version {_VERSION}")
            credit = (min(items, CREDIT_MAX), min(size, CREDIT_MAX), min(largest, CREDIT_MAX))
            return Open(_number(after), *credit, _seconds(lease), _name(data[_OPEN.size :]))
        case 2:
            stream = _name(data[_ONE.size :])
            if not stream:
                raise ValueError("the stream has no name")
            return Accept(_number(_ONE.unpack_from(data)[1]), stream)
        case 6:
            _, items, size = _TWO.unpack(data)
            return Forfeit(min(items, CREDIT_MAX), min(size, CREDIT_MAX))
        case 7:
            return End(_number(_ONE.unpack(data)[1]))
        case 8:
            message = data[2:].decode()
            if len(message) > MESSAGE_MAX:
                raise ValueError(f"a message of {len(message)} characters; it may have {MESSAGE_MAX}")
            return Error(Code(data[1]), message)
        case 9 if len(data) == 1:
            return Cancel()
        case 10 if len(data) == 1:
            return KeepAlive()
        case _:
            raise ValueError("there is no such frame")


def with_length(data: bytes) -> bytes:
    """Put the length of a frame before it, for a stream of bytes."""
    return _LENGTH.pack(len(data)) + data


class Splitter:
    """Cuts a stream of bytes into frames; it holds no more than the largest of them.

    Args:
        item_bytes_max: The most that the payload of an item may have.

    >>> splitter = Splitter(100)
    >>> stream = with_length(encode(Ack(7))) + with_length(encode(Cancel()))
    >>> list(splitter.feed(stream[:9])), list(splitter.feed(stream[9:]))
    ([], [Ack(seq=7), Cancel()])
    """

    __slots__ = ("_data", "_item_bytes_max")

    def __init__(self, item_bytes_max: int) -> None:
        self._item_bytes_max = item_bytes_max
        self._data = bytearray()

    @property
    def empty(self) -> bool:
        """Whether the stream could end here: at a frame's end."""
        return not self._data

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take some bytes, and give the frames that are complete by them.

        Raises:
            StreamError: They are none, or one is too large.
        """
        self._data += data
        place = 0
        try:
            while len(self._data) - place >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._data, place)
                _check_size(length, self._item_bytes_max)
                if len(self._data) - place < _LENGTH.size + length:
                    break
                place += _LENGTH.size + length
                yield decode(bytes(self._data[place - length : place]), self._item_bytes_max)
        finally:
            del self._data[:place]


def _check_size(size: int, item_bytes_max: int) -> None:
    most = max(CONTROL_MAX, ITEM_OVERHEAD + item_bytes_max)
    if size > most:
        raise _malformed(f"a frame of {size} bytes; {most} is the most that is taken")


def _malformed(what: str) -> StreamError:
    return StreamError(Code.PROTOCOL, f"what came can't be read: {what}")


def _number(value: int) -> int:
    if value > CREDIT_MAX:
        raise ValueError(f"the number {value}, which is above 2^63 - 1")
    return value


def _name(data: bytes) -> str:
    name = data.decode("ascii")
    if len(name) > STREAM_MAX or not (name.isprintable() or not name):
        raise ValueError(f"the name of a stream has up to {STREAM_MAX} printable characters")
    return name


def _milliseconds(lease: float | None) -> int:
    return 0 if lease is None else max(1, round(lease * 1000))


def _seconds(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds else None

"""What outlives the connections of a stream with credit: what is sent, what has come, and how much that may be.

The protocol is in `hormesis.core.credit`.
"""

from __future__ import annotations

import dataclasses

from hormesis.core.credit_frames import CREDIT_MAX, MESSAGE_MAX, STREAM_MAX, Code, Error, StreamError
from hormesis.errors import ConfigurationError

__all__ = ["Inbox", "Outbox", "Patience", "Window"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much a receiver takes before it has processed any: what it holds and what it has granted, together.

    Args:
        items, bytes: The high marks: up to there it grants.
        items_low, bytes_low: The low marks: from there on it grants anew; by default half of the high ones.
        item_bytes_max: The largest item.
        lease: Seconds after which credit expires; None when it does not.

    Raises:
        ConfigurationError: A mark can't be meant. Less than one item above `bytes_low` could be granted and never used.

    >>> Window(items=100).items_low
    50
    """

    # Some dozens hide a round trip; more only hide that the consumer is slower.
    items: int = 64
    items_low: int = -1
    # What a few hundred streams may hold of a process together.
    bytes: int = 1_048_576
    bytes_low: int = -1
    item_bytes_max: int = 262_144
    lease: float | None = None

    def __post_init__(self) -> None:
        _whole("items", self.items, 1, CREDIT_MAX)
        _whole("bytes", self.bytes, 1, CREDIT_MAX)
        if self.items_low == -1:
            object.__setattr__(self, "items_low", self.items // 2)
        if self.bytes_low == -1:
            object.__setattr__(self, "bytes_low", self.bytes // 2)
        _whole("items_low", self.items_low, 0, self.items - 1)
        _whole("bytes_low", self.bytes_low, 0, self.bytes - 1)
        _whole("item_bytes_max", self.item_bytes_max, 1, max(1, self.bytes_low))
        if self.lease is not None and not 0.001 <= self.lease <= 86_400:
            raise ConfigurationError.bad_value("lease", self.lease, "seconds from 0.001 to 86,400, or None")

    def low(self, items: int, size: int) -> bool:
        """Whether so much, held and granted, is so little that it is time to grant more."""
        return items <= self.items_low or size <= self.bytes_low


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a side waits for the other.

    Args:
        keepalive: Seconds of having said nothing after which it says that it is there.
        silence_max: Seconds of hearing nothing after which the peer counts as gone.
        stall_max: Seconds that a sender stays without the credit or the acknowledgements it needs, before the receiver
            counts as too slow; None for ever.
    """

    # Below the minute after which proxies and address translators forget a connection.
    keepalive: float = 15.0
    # Three of the peer's signs of life may be late.
    silence_max: float = 45.0
    # A consumer that waits for its own database to come back should survive that.
    stall_max: float | None = 60.0

    def __post_init__(self) -> None:
        if not 0.001 <= self.keepalive <= 86_400:
            raise ConfigurationError.bad_value("keepalive", self.keepalive, "seconds from 0.001 to 86,400")
        if not self.keepalive < self.silence_max <= 86_400:
            raise ConfigurationError.bad_value(
                "silence_max", self.silence_max, f"more than the keepalive of {self.keepalive:g} s, up to 86,400"
            )
        if self.stall_max is not None and not 0.001 <= self.stall_max <= 86_400:
            raise ConfigurationError.bad_value("stall_max", self.stall_max, "seconds from 0.001 to 86,400, or None")


def _whole(key: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError.bad_value(key, value, f"a whole number from {least} to {most}")


class Outbox:
    """What a source has made and nobody has acknowledged yet; it outlives the connections over which it is sent.

    Args:
        stream: Its name, which no other stream has.
        items_max, bytes_max: It is full with so many items, or from so many bytes on.
        item_bytes_max: The largest item.
        after: The number of the item before the first, for a source that can go on from a place.

    >>> box = Outbox("orders-1")
    >>> box.append(b"tea"), box.append(b"rice"), box.items
    (1, 2, 2)
    >>> box.acknowledge(1)
    >>> box.items, box.first, box.last
    (1, 2, 2)
    """

    __slots__ = (
        "_items",
        "acked",
        "bytes",
        "bytes_max",
        "item_bytes_max",
        "items_max",
        "last",
        "sent",
        "stream",
        "terminal",
    )

    def __init__(
        self,
        stream: str,
        *,
        items_max: int = 1024,
        bytes_max: int = 8_388_608,
        item_bytes_max: int = 262_144,
        after: int = 0,
    ) -> None:
        if not 1 <= len(stream) <= STREAM_MAX or not stream.isascii() or not stream.isprintable():
            raise ConfigurationError.bad_value("stream", stream, f"a name of 1 to {STREAM_MAX} printable characters")
        _whole("items_max", items_max, 1, CREDIT_MAX)
        _whole("bytes_max", bytes_max, 1, CREDIT_MAX)
        _whole("item_bytes_max", item_bytes_max, 1, CREDIT_MAX)
        _whole("after", after, 0, CREDIT_MAX - 1)
        self.stream = stream
        self.items_max = items_max
        self.bytes_max = bytes_max
        self.item_bytes_max = item_bytes_max
        self.acked = after
        self.sent = after
        """The number of the last item that ever went out, over whichever connection."""
        self.last = after
        self.bytes = 0
        self.terminal: Error | bool = False
        """Whether the source has ended, or how it failed."""
        self._items: dict[int, bytes] = {}

    @property
    def items(self) -> int:
        """Items that it holds; `bytes` are those of their payloads."""
        return len(self._items)

    def __getitem__(self, seq: int) -> bytes:
        return self._items[seq]

    @property
    def first(self) -> int:
        """The number of the first item that is still here, or would be."""
        return self.acked + 1

    @property
    def full(self) -> bool:
        """Whether it takes no more until something is acknowledged."""
        return len(self._items) >= self.items_max or self.bytes >= self.bytes_max

    @property
    def finished(self) -> bool:
        """Whether the source has ended, and all that it made is acknowledged."""
        return bool(self.terminal) and not self._items

    def append(self, payload: bytes) -> int:
        """Keep an item, and return its number.

        Raises:
            StreamError: It is larger than `item_bytes_max`.
            RuntimeError: The outbox is full, or its source has ended.
        """
        if len(payload) > self.item_bytes_max:
            raise StreamError(
                Code.TOO_LARGE, f"an item of {len(payload)} bytes; the stream takes {self.item_bytes_max} at most"
            )
        if self.full or self.terminal:
            raise RuntimeError("the outbox is full, or its source has ended: ask whether the sender wants more")
        self.last += 1
        self._items[self.last] = payload
        self.bytes += len(payload)
        return self.last

    def end(self) -> None:
        """Take note that the source has no more."""
        self.terminal = self.terminal or True

    def fail(self, message: str) -> None:
        """Take note that the source failed; what it made before is still sent."""
        self.terminal = self.terminal or Error(Code.FAILED, message[:MESSAGE_MAX])

    def acknowledge(self, seq: int) -> None:
        """Forget every item up to this one."""
        while self.acked < min(seq, self.last):
            self.acked += 1
            self.bytes -= len(self._items.pop(self.acked))


class Inbox:
    """Where a receiver is in a stream; it outlives the connections over which the stream comes.

    Attributes:
        stream: The stream's name; empty until a sender has told it.
        received: The number of the last item that has come.
        processed: Every item up to this one is processed.
        held_items, held_bytes: What has come and is not processed.

    >>> inbox = Inbox()
    >>> inbox.add(1, 3), inbox.add(2, 4), inbox.add(2, 4)
    (True, True, False)
    >>> inbox.done(2)
    >>> inbox.processed, inbox.held_items
    (0, 1)
    >>> inbox.done(1)
    >>> inbox.processed, inbox.held_items
    (2, 0)
    """

    __slots__ = ("_sizes", "held_bytes", "processed", "received", "stream")

    def __init__(self) -> None:
        self.stream = ""
        self.received = 0
        self.processed = 0
        self.held_bytes = 0
        # In order of their numbers, since they come in that order.
        self._sizes: dict[int, int] = {}

    @property
    def held_items(self) -> int:
        """Items that have come and are not processed."""
        return len(self._sizes)

    def begin(self, stream: str, first: int) -> None:
        """Begin with an item of a stream; what came before it is somebody else's."""
        self.stream = stream
        self.received = self.processed = first - 1

    def add(self, seq: int, size: int) -> bool:
        """Take note of an item; False when it has come before."""
        if seq <= self.received:
            return False
        self.received = seq
        self._sizes[seq] = size
        self.held_bytes += size
        return True

    def done(self, seq: int) -> None:
        """Take note that an item is processed, in whatever order; twice is once."""
        size = self._sizes.pop(seq, None)
        if size is not None:
            self.held_bytes -= size
            self.processed = next(iter(self._sizes), self.received + 1) - 1

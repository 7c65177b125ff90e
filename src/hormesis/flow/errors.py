"""What can go wrong between those who send and those who receive."""

from __future__ import annotations

from hormesis.errors import HormesisError, Rejected

__all__ = ["ItemTooLarge", "QueueClosed", "QueueEmpty", "QueueFull", "ReaderTooSlow", "RuleBroken"]


class QueueFull(Rejected):
    """The queue has no room for the item, and its policy, or the caller, does not want to wait."""

    def __str__(self) -> str:
        return f"queue {self.policy!r} is full"


class QueueEmpty(HormesisError):
    """There is nothing to take, and the caller does not want to wait.

    Args:
        queue: The queue's name.
    """

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue

    def __str__(self) -> str:
        return f"queue {self.queue!r} is empty"


class QueueClosed(HormesisError):
    """Nothing can be put any more; or nothing is left to take, and nothing will come.

    Args:
        queue: The queue's name.
    """

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue

    def __str__(self) -> str:
        return f"queue {self.queue!r} is closed"


class ItemTooLarge(HormesisError, ValueError):
    """An item is larger than all that may be waiting at a time, so it could never get in.

    Args:
        queue: The name of the queue or stream.
        size: The item's bytes.
        max_bytes: The bound.
    """

    def __init__(self, queue: str, size: int, max_bytes: int) -> None:
        super().__init__(queue, size, max_bytes)
        self.queue = queue
        self.size = size
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return (
            f"an item of {self.size:,} bytes can never get into {self.queue!r}, which holds {self.max_bytes:,} bytes "
            "at most: split it, or raise max_bytes"
        )


class ReaderTooSlow(HormesisError):
    """A reader did not keep up with what is sent to it, and was disconnected.

    Args:
        reader: Its name.
        reason: Which bound it has broken, in a word or two: `"items"`, `"bytes"` or `"time"`.
        items: What it had not taken.
        size: The bytes of that.
    """

    def __init__(self, reader: str, reason: str, items: int, size: int) -> None:
        super().__init__(reader, reason, items, size)
        self.reader = reader
        self.reason = reason
        self.items = items
        self.size = size

    def __str__(self) -> str:
        return (
            f"reader {self.reader!r} did not keep up ({self.reason}) and was disconnected, "
            f"{self.items:,} items and {self.size:,} bytes behind"
        )


class RuleBroken(HormesisError, ValueError):
    """A party to a stream did what the rules of Reactive Streams forbid.

    Args:
        rule: The number of the rule in the specification, such as `"1.1"`.
        what: What happened, in a sentence.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(rule, what)
        self.rule = rule
        self.what = what

    def __str__(self) -> str:
        return f"rule {self.rule} of Reactive Streams: {self.what}"

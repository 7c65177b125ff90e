"""Pattern 7, back pressure: whoever sends learns that it is too fast, before memory learns it."""

from hormesis.flow.bridge import Received, Through, feed, iterate
from hormesis.flow.broadcast import Broadcast
from hormesis.flow.errors import ItemTooLarge, QueueClosed, QueueEmpty, QueueFull, ReaderTooSlow, RuleBroken
from hormesis.flow.pipeline import Pipeline, Stream, Undelivered
from hormesis.flow.publisher import publisher_of
from hormesis.flow.queue import Queue
from hormesis.flow.reactive import Processor, Publisher, Subscriber, Subscription
from hormesis.flow.reader import Reader

__all__ = [
    "Broadcast",
    "ItemTooLarge",
    "Pipeline",
    "Processor",
    "Publisher",
    "Queue",
    "QueueClosed",
    "QueueEmpty",
    "QueueFull",
    "Reader",
    "ReaderTooSlow",
    "Received",
    "RuleBroken",
    "Stream",
    "Subscriber",
    "Subscription",
    "Through",
    "Undelivered",
    "feed",
    "iterate",
    "publisher_of",
]

"""Pattern 7, back pressure: whoever sends learns that it is too fast, before memory learns it."""

from hormesis.flow.errors import ItemTooLarge, QueueClosed, QueueEmpty, QueueFull, ReaderTooSlow, RuleBroken
from hormesis.flow.pipeline import Pipeline, Stream, Undelivered
from hormesis.flow.queue import Queue
from hormesis.flow.reader import Reader

__all__ = [
    "ItemTooLarge",
    "Pipeline",
    "Queue",
    "QueueClosed",
    "QueueEmpty",
    "QueueFull",
    "Reader",
    "ReaderTooSlow",
    "RuleBroken",
    "Stream",
    "Undelivered",
]

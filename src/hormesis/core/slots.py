"""The order of an outbound call, declared once, with its reasons.

Every part of a policy names its slot; a `Policy` arranges its parts by slot, `explain()` prints the reasons, and the
journey runs them in this order. Three families: *answer* parts decide what the caller gets, *attempt* parts how often
and how long, *admission* parts whether an attempt may go in now.
"""

from __future__ import annotations

import enum

__all__ = ["Family", "Slot"]


class Family(enum.Enum):
    """What a part decides."""

    ANSWER = "answer"
    ATTEMPT = "attempt"
    ADMISSION = "admission"


class Slot(enum.Enum):
    """A place in the journey of an outbound call; definition order is the standard order, from the outside in."""

    DEADLINE = (
        "deadline",
        Family.ATTEMPT,
        "outermost: one total time for everything below, waits and retries included, with a reserve for the answer",
    )
    FALLBACK = (
        "fallback",
        Family.ANSWER,
        "outside the retries: it answers once, when all else has failed or was refused",
    )
    RETRY = (
        "retry",
        Family.ATTEMPT,
        "outside admission: each attempt asks again to go in, so an open breaker ends the retries",
    )
    HEDGE = (
        "hedge",
        Family.ATTEMPT,
        "inside the retries: an attempt that is slow gets a rival, and each of them asks for itself to go in",
    )
    CIRCUIT_BREAKER = (
        "circuit_breaker",
        Family.ADMISSION,
        "the first to be asked: refusing costs nothing and spends no permit of the others; it judges single attempts",
    )
    BULKHEAD = (
        "bulkhead",
        Family.ADMISSION,
        "the last to be asked: its permit is held while the attempt runs, and not a moment longer",
    )
    TIMEOUT = (
        "timeout",
        Family.ATTEMPT,
        "innermost: it times the function alone, so that waiting in our own queue is not blamed on the dependency",
    )

    def __init__(self, key: str, family: Family, reason: str) -> None:
        self.key = key
        self.family = family
        self.reason = reason
        self.position = len(type(self).__members__)

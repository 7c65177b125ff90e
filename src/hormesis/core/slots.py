"""The order of a call that goes out and of a request that comes in, declared once, with its reasons.

Every part of a policy names its slot; a `Policy` arranges its parts by slot, `explain()` prints the reasons, and the
journey runs them in this order. Three families: *answer* parts decide what the caller gets, *attempt* parts how often
and how long, *admission* parts whether an attempt may go in now.

A request that comes in makes a journey of its own, through the stops of `Inbound`.
"""

from __future__ import annotations

import enum

__all__ = ["Family", "Inbound", "Slot"]


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
    THROTTLE = (
        "throttle",
        Family.ADMISSION,
        "next to the breaker, which it spares the trouble: what the dependency would refuse anyway is not sent",
    )
    RATE_LIMIT = (
        "rate_limit",
        Family.ADMISSION,
        "before the limits of places: who waits for a token holds no place meanwhile, and each attempt is counted",
    )
    CONCURRENCY_LIMIT = (
        "concurrency_limit",
        Family.ADMISSION,
        "it learns from how long attempts take once they are in, so that no queue of ours is outside of its view",
    )
    BULKHEAD = (
        "bulkhead",
        Family.ADMISSION,
        "the last to be asked: its permit is held while the attempt runs, and not a moment longer",
    )
    TIMEOUT = (
        "timeout",
        Family.ATTEMPT,
        "it times the function alone, so that waiting in our own queue is not blamed on the dependency",
    )
    CHAOS = (
        "chaos",
        Family.ATTEMPT,
        "innermost, in the place of the function: every other part meets an injected fault as it would a real one",
    )

    def __init__(self, key: str, family: Family, reason: str) -> None:
        self.key = key
        self.family = family
        self.reason = reason
        self.position = len(type(self).__members__)


class Inbound(enum.Enum):
    """A stop on the way of a request that comes in; definition order is the order in which they are made."""

    IDENTIFY = (
        "identify",
        "first of all: who asks, for whom, how urgently and until when; everything below acts on it",
    )
    DEADLINE = (
        "deadline",
        "before any work: an answer that nobody waits for any more is not worth a place, or a token",
    )
    RATE_LIMIT = (
        "rate_limit",
        "before the shedder: what one client may ask for does not depend on how busy the service is",
    )
    LOAD_SHEDDER = (
        "load_shedder",
        "the last to refuse: its permit is held until the answer is sent whole, and it decides between those who may "
        "all come in",
    )
    CHAOS = (
        "chaos",
        "next to the application: every stop before it meets an injected fault as it would the application's own",
    )

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        self.position = len(type(self).__members__)

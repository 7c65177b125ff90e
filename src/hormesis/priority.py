"""How much a request matters: its criticality, and its place among others of the same.

Four classes, from what must go on to what may wait for the night. Within a class every journey has a *cohort*, a number
from 0 to 1 that is drawn from the id of its request. The id travels with every call that is made on its behalf, so all
services on the way draw the same number: a service that is short of capacity turns away whole journeys, and not one
call of each. Turning away single calls at random wastes what the others of their journey have cost already: of journeys
of four calls that are refused half of the time, one in sixteen ends.

On the wire a criticality is an urgency of RFC 9218, `Priority: u=0` (most urgent) to `u=7`; 3 is what who says nothing
means. Two urgencies make a class:

    u=0, 1   critical      users notice at once, or money is at stake
    u=2, 3   default       what says nothing
    u=4, 5   sheddable     nice to have; users do without for a while
    u=6, 7   background    batches, prefetching, reports: they come back by themselves

Source: Zhou et al., "Overload Control for Scaling WeChat Microservices" (SoCC 2018), for the journey's one priority.
"""

from __future__ import annotations

import enum
import functools
import re
import zlib

from hormesis.errors import ConfigurationError

__all__ = ["PRIORITY", "Criticality", "cohort_of", "priority_headers", "urgency_in"]

PRIORITY = "priority"
"""The header of RFC 9218."""

_LONGEST = 64
"""Characters of a priority that are read at most; longer ones say nothing."""
# One member of a structured dictionary. Later duplicates win, by RFC 8941; members that are not ours are passed over.
_URGENCY = re.compile(r"(?:^|,)[ \t]*u[ \t]*=[ \t]*([0-7])(?=[ \t]*(?:$|[,;]))")


class Criticality(enum.IntEnum):
    """How much a request matters; smaller is more.

    >>> Criticality.of("critical") < Criticality.of("background")
    True
    """

    CRITICAL = 0
    DEFAULT = 1
    SHEDDABLE = 2
    BACKGROUND = 3

    @classmethod
    def of(cls, value: object, key: str = "criticality") -> Criticality:
        """Return the criticality of a name.

        Raises:
            ConfigurationError: There is none of that name.
        """
        if isinstance(value, cls):
            return value
        found = _BY_NAME.get(value) if isinstance(value, str) else None
        if found is None:
            raise ConfigurationError.bad_value(key, value, " or ".join(map(repr, _BY_NAME)))
        return found

    @classmethod
    def of_urgency(cls, urgency: int) -> Criticality:
        """Return the class that an urgency of RFC 9218, from 0 to 7, falls into.

        >>> Criticality.of_urgency(3)
        <Criticality.DEFAULT: 1>
        """
        return cls(urgency // 2)

    @property
    def word(self) -> str:
        """Its name as settings, events and metrics have it."""
        return self.name.lower()

    @property
    def urgency(self) -> int:
        """The urgency that stands for it on the wire."""
        return 2 * self + 1


_BY_NAME = {each.name.lower(): each for each in Criticality}


def cohort_of(request_id: str) -> float:
    """Draw a journey's place within its class from the id of its request: from 0 to 1, the same everywhere.

    >>> cohort_of("r-1") == cohort_of("r-1"), 0 <= cohort_of("r-2") < 1
    (True, True)
    """
    # A checksum is linear, so ids that are counted up would come in runs; the multiplication (Knuth's) breaks them up.
    return (zlib.crc32(request_id.encode()) * 2654435761 & 0xFFFFFFFF) / 2**32


def urgency_in(value: str) -> int | None:
    """Return the urgency that a `Priority` header asks for; None when it asks for none that can be read.

    >>> urgency_in("u=1, i"), urgency_in("i"), urgency_in("u=9")
    (1, None, None)
    """
    return None if len(value) > _LONGEST else _urgency_in(value)


@functools.lru_cache(maxsize=64)
def _urgency_in(value: str) -> int | None:
    found = _URGENCY.findall(value)
    return int(found[-1]) if found else None


def priority_headers(criticality: Criticality | None) -> dict[str, str]:
    """Return the header that hands a criticality on; none when nobody said how much the call matters.

    >>> priority_headers(Criticality.CRITICAL), priority_headers(None)
    ({'priority': 'u=1'}, {})
    """
    return {} if criticality is None else {PRIORITY: f"u={criticality.urgency}"}

"""Pattern 4, the degraded cache: an older answer, marked as such, beats none.

The machine is in `hormesis.core.cache`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hormesis.core.admission import Lock
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import flag, is_async, normalise, number, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

if TYPE_CHECKING:
    from hormesis.core.cache import CacheMachine, CacheTerms

__all__ = ["StaleCache"]

# Longer than any call that somebody waits for, and short enough that a call that hangs does not cost a key for good.
_FLIGHT_MAX = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StaleCache(Settings):
    """Keep answers, and hand out older ones while there is no newer one; the `cache` of a `Fallback`.

    For reads alone, and for answers that are values: they are kept and handed out as they are, to many callers, neither
    copied nor pickled. So they must not be changed, and must not be streams or open responses. Arguments that are equal
    share an answer, as with `functools.cache`; calls whose arguments can't be hashed are made uncached. A function that
    is made anew for each call, such as a lambda, is another function each time and never meets its own answers.

    Callers that miss at the same moment make one call and share what comes of it, over all threads and event loops.

    Args:
        fresh: For how long an answer is handed out without a call; 0: never, it only stands in.
        stale: For how long after that it may stand in.
        negative: For how long failures of the kind `invalid` are remembered and raised again without a call: a product
            that does not exist is not asked for again. None: not at all. Exceptions that can't be copied are not
            remembered, nor are unwanted results.
        max_entries: Answers that are kept, over all functions of the policy; the one used least recently makes room.
        key: A function of the call's arguments that returns what tells calls apart, anything that can be hashed. None:
            all of the arguments.
        revalidate: Hand out a stale answer at once, and refresh it in the background. False: make the call first, and
            use the stale answer only if it fails in a way that the fallback's `on` covers.
        early: How eagerly a fresh answer is refreshed before its time, in units of how long the call takes (the beta
            of XFetch); 0: not at all.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> cache = StaleCache(fresh="1m", stale="1d")
    >>> cache.fresh, cache.stale, cache.describe()
    (60.0, 86400.0, 'fresh for 1m, then up to 24h stale while refreshed in the background')
    """

    # Half a minute is what most readers of a catalogue, a profile or a price list don't notice.
    fresh: Duration = 30.0
    # An outage is found and mended within an hour more often than not.
    stale: Duration = 3600.0
    # Not unless asked for: whoever creates what was missing a moment ago wants to see it.
    negative: Duration | None = None
    # A bound that small answers don't feel; whoever keeps large ones must think about it.
    max_entries: int = 1000
    key: Callable[..., Hashable] | None = dataclasses.field(
        default=None, metadata={ACCEPTED: "a function of the call's arguments"}
    )
    # Callers don't wait for what only they notice: the answer is refreshed as it is used.
    revalidate: bool = True
    # The optimum of the paper.
    early: float = 1.0

    def __post_init__(self) -> None:
        fresh = seconds(self.fresh, "fresh", zero=True)
        stale = seconds(self.stale, "stale", zero=True)
        negative = None if self.negative is None else seconds(self.negative, "negative")
        if fresh + stale == 0 and negative is None:
            raise ConfigurationError("fresh and stale are both 0, so nothing would ever be kept", "fresh")
        whole("max_entries", self.max_entries, 1, 10_000_000)
        if self.key is not None and (is_async(self.key) or not callable(self.key)):
            raise ConfigurationError.bad_value("key", self.key, "a function of the call's arguments")
        flag("revalidate", self.revalidate)
        early = number("early", self.early, 0, 100)
        normalise(self, fresh=fresh, stale=stale, negative=negative, early=early)

    def terms(self) -> CacheTerms:
        """What a machine goes by that these settings describe."""
        from hormesis.core.cache import CacheTerms  # noqa: PLC0415  most policies have no cache

        return CacheTerms(
            fresh=seconds(self.fresh, zero=True),
            stale=seconds(self.stale, zero=True),
            negative=None if self.negative is None else seconds(self.negative),
            max_entries=self.max_entries,
            early=self.early,
            revalidate=self.revalidate,
            flight_max=_FLIGHT_MAX,
        )

    def machine(self, lock: Lock) -> CacheMachine:
        """Make the machine that these settings describe."""
        from hormesis.core.cache import CacheMachine  # noqa: PLC0415

        return CacheMachine(self.terms(), lock)

    def adopt(self, machine: CacheMachine) -> bool:
        """Let a machine go on with these settings; its answers stay, as far as these settings let them."""
        machine.terms = self.terms()
        return True

    def key_of(self, function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable | None:
        """Return what tells a call from others; None when that can't be hashed.

        The function is part of it, since a policy may protect several, and so is the function that makes keys: what was
        kept under keys of another make is never found again.
        """
        key: Hashable
        if self.key is not None:
            key = (function, self.key, self.key(*args, **kwargs))
        elif kwargs:
            key = (function, None, tuple(args), tuple(sorted(kwargs.items())))
        else:
            key = (function, None, tuple(args))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def describe(self) -> str:
        """The settings in words."""
        fresh, stale = format_seconds(seconds(self.fresh, zero=True)), format_seconds(seconds(self.stale, zero=True))
        how = "while refreshed in the background" if self.revalidate else "where the call fails"
        words = [f"fresh for {fresh}", f"then up to {stale} stale {how}"]
        if self.negative is not None:
            words.append(f"what does not exist is remembered for {format_seconds(seconds(self.negative))}")
        return ", ".join(words)

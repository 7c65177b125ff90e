"""What switches injected faults on: with a token, for a while, and within a bound.

Nothing is injected anywhere until it is on, and it ends by itself: by a lease that this process keeps, so that nobody
outside has to be alive for it. There is one switch for the process (`hormesis.chaos_switch`); a test that wants another
one makes it.

Two things can be on. While it is *enabled*, the faults act that places have of their own, and those of contexts and
headers. A *dose* is a fault of somebody else's, such as a game day's, with a lease of its own; it needs nothing but
itself.

Places that could inject join the switch, and are told when they have to look at it; one that is off costs nothing.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import math
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from hormesis.clock import MONOTONIC, Clock
from hormesis.errors import ConfigurationError
from hormesis.events import ChaosSwitched, EventBus, bus
from hormesis.patterns.injection import Injection, Scoped, check_injections, glob, in_force
from hormesis.patterns.part import share
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["TOKEN_VARIABLE", "ChaosSwitch", "Place", "chaos_switch"]

TOKEN_VARIABLE = "HORMESIS_CHAOS_TOKEN"  # noqa: S105  its name, and not it
"""The environment variable that holds the token of a process."""

_TOKEN_LEAST, _TOKEN_MAX = 16, 1024
"""Characters of a token: whoever sees what it has signed may try short ones until one fits."""

_DOSES_MAX = 100
"""Doses at a time."""


class Place(Protocol):
    """Where faults can be injected."""

    @property
    def name(self) -> str:
        """The name of its policy or service."""
        ...

    def turn(self, on: bool) -> None:
        """Look at the switch from now on, or do so no more; called with the switch's lock held."""
        ...


class _Dose(NamedTuple):
    """Somebody else's faults, and when they end."""

    number: int
    until: float
    faults: tuple[Scoped, ...]
    words: str


class State(NamedTuple):
    """What is on; replaced as a whole.

    Args:
        era: Counts how often it was enabled.
        began: When it was enabled last.
        until: When that ends.
        share_max: The share of calls that places may touch then.
        doses: What is dosed.
        ends: When nothing is on any more.
    """

    era: int = 0
    began: float = -math.inf
    until: float = -math.inf
    share_max: float = 1.0
    doses: tuple[_Dose, ...] = ()
    ends: float = -math.inf


class ChaosSwitch:
    """Switches injected faults on in this process, for a while.

    Args:
        token: Its token; None: what the environment variable `HORMESIS_CHAOS_TOKEN` holds. Without one it stays off.
        for_max: The longest that it may be on without being asked again.
        clock: What leases are measured by.
        events: Where it tells that it is on, or off.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> switch = ChaosSwitch("a token of sixteen")
    >>> switch.on
    False
    >>> switch.enable("60s"); switch.on, 59 < switch.left <= 60
    (True, True)
    >>> switch.disable(); switch.on
    False
    """

    __slots__ = (
        "__weakref__",
        "_bus",
        "_clock",
        "_for_max",
        "_lock",
        "_numbers",
        "_places",
        "_token",
        "_told",
        "now",
        "state",
    )

    def __init__(
        self,
        token: str | None = None,
        *,
        for_max: Duration = "10m",
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        self._token = None if token is None else _checked(token, "token")
        self._for_max = seconds(for_max, "for_max")
        self._clock = clock
        self._bus = events
        self.now = clock.now
        self.state = State()
        self._numbers = itertools.count(1)
        self._places: weakref.WeakSet[Any] = weakref.WeakSet()
        self._told = False
        """Whether places were told to look."""
        self._lock = threading.Lock()
        _switches.add(self)

    # Whether it is on.

    @property
    def on(self) -> bool:
        """Whether anything can be injected."""
        return self.now() < self.state.ends

    @property
    def left(self) -> float:
        """The seconds after which it will be off by itself; 0 when it is."""
        return max(0.0, self.state.ends - self.now())

    @property
    def token(self) -> str | None:
        """The token; None when there is none, and nothing can be switched on.

        Raises:
            ConfigurationError: That of the environment is no token.
        """
        if self._token is not None:
            return self._token
        found = os.environ.get(TOKEN_VARIABLE)
        return _checked(found, TOKEN_VARIABLE) if found else None

    # Switching it.

    def enable(self, for_: Duration, *, token: str | None = None, share_max: float = 1.0) -> None:
        """Let places inject their own faults, and those of contexts and headers, from now on and for so long.

        Asked again, it begins anew: faults that count calls or seconds start over.

        Args:
            for_: How long; then it ends by itself.
            token: The token, where the environment has none.
            share_max: The share of calls that each place may touch meanwhile; its own bound holds as well.

        Raises:
            ConfigurationError: There is no token, or another one; or a setting can't be meant.
        """
        self._authorise(token)
        lease = self._lease(for_)
        share("share_max", share_max)
        now = self.now()
        with self._lock:
            before = self.state
            self.state = _with_end(
                before._replace(era=before.era + 1, began=now, until=now + lease, share_max=float(share_max))
            )
            was_on = self._turn()
        self._tell(was_on, f"enabled for {format_seconds(lease)}")

    def disable(self) -> None:
        """Switch all of it off, doses included."""
        with self._lock:
            self.state = State(self.state.era)
            was_on = self._turn()
        self._tell(was_on, "disabled")

    @contextlib.contextmanager
    def enabled(self, for_: Duration, *, token: str | None = None, share_max: float = 1.0) -> Iterator[None]:
        """Enable it for a block, and for so long at most; raises as `enable` does.

        >>> switch = ChaosSwitch("a token of sixteen")
        >>> with switch.enabled("1m"):
        ...     switch.on
        True
        >>> switch.on
        False
        """
        self.enable(for_, token=token, share_max=share_max)
        try:
            yield
        finally:
            self.disable()

    def dose(
        self, *injections: Injection, at: str = "*", for_: Duration, token: str | None = None, seed: int = 0
    ) -> int:
        """Inject faults at places, for so long.

        Args:
            *injections: The faults.
            at: The names of the policies and services that they are for; `*` stands for anything.
            for_: How long; then they end by themselves.
            token: The token, where the environment has none.
            seed: Another seed picks other calls.

        Returns:
            The number of the dose, for `undo`.

        Raises:
            ConfigurationError: There is no token, or another one; a setting can't be meant; or no place is called that.
        """
        self._authorise(token)
        lease = self._lease(for_)
        if not isinstance(at, str):
            raise ConfigurationError.bad_value("at", at, "names of policies, where '*' stands for anything")
        faults = check_injections(injections, least=1)
        known = self.places()
        if not any(glob(at)(name) for name in known):
            raise ConfigurationError.unknown("place with a Chaos part", at, known, "at")
        now = self.now()
        words = f"{'; '.join(map(str, faults))} at {at}"
        with self._lock:
            number = next(self._numbers)
            kept = [dose for dose in self.state.doses if now < dose.until]
            if len(kept) >= _DOSES_MAX:
                raise ConfigurationError(f"{_DOSES_MAX} doses are on already; undo some of them first")
            scoped = in_force(faults, at=at, source="dose", now=now, stream=seed)
            self.state = _with_end(self.state._replace(doses=(*kept, _Dose(number, now + lease, scoped, words))))
            was_on = self._turn()
        self._tell(was_on, f"dosed for {format_seconds(lease)}: {words}")
        return number

    def undo(self, number: int | None = None) -> None:
        """End a dose, or all; one that has ended already is no error."""
        with self._lock:
            kept = () if number is None else tuple(dose for dose in self.state.doses if dose.number != number)
            self.state = _with_end(self.state._replace(doses=kept))
            was_on = self._turn()
        self._tell(was_on, "undone")

    # What places do.

    def join(self, place: Place) -> None:
        """Let a place know when it has to look, for as long as it is there."""
        with self._lock:
            self._places.add(place)
            place.turn(self.on)

    def places(self) -> list[str]:
        """The names of the places that there are."""
        with self._lock:
            return sorted({place.name for place in self._places})

    def settle(self) -> None:
        """Let places look no more, if all has ended by itself; whoever finds that out calls it."""
        with self._lock:
            was_on = self._turn()
        self._tell(was_on, "the time is over")

    def snapshot(self) -> dict[str, Any]:
        """Return its state as plain data."""
        state, now = self.state, self.now()
        return {
            "on": now < state.ends,
            "left": max(0.0, state.ends - now),
            "enabled": now < state.until,
            "share_max": state.share_max,
            "doses": {dose.number: dose.words for dose in state.doses if now < dose.until},
        }

    def start_clean(self) -> None:
        """Get a lock of its own, as a process must that was forked while others held it; what is on stays on."""
        self._lock = threading.Lock()

    def _authorise(self, token: str | None) -> None:
        known = self.token
        if known is None and token is None:
            raise ConfigurationError(
                f"there is no token, so faults stay off: set {TOKEN_VARIABLE} in the environment, or hand a token in",
                "token",
            )
        if known is None:
            self._token = _checked(token, "token")
        elif token is not None and not hmac.compare_digest(_bytes(known), _bytes(_checked(token, "token"))):
            raise ConfigurationError("the token is another one than this process has", "token")

    def _lease(self, for_: Duration) -> float:
        lease = seconds(for_, "for_")
        if lease > self._for_max:
            most = format_seconds(self._for_max)
            raise ConfigurationError.bad_value("for_", for_, f"at most {most}: whoever wants longer asks again")
        return lease

    def _turn(self) -> bool:
        """Tell places whether to look, and return whether they did; called with the lock held."""
        was_on, self._told = self._told, self.on
        for place in self._places:
            place.turn(self._told)
        return was_on

    def _tell(self, was_on: bool, reason: str) -> None:
        if (was_on or self._told) and self._bus.listeners:
            before, after = ("on" if each else "off" for each in (was_on, self._told))
            self._bus.publish(
                ChaosSwitched(at=self.now(), policy="", part="chaos", before=before, after=after, reason=reason)
            )


def _with_end(state: State) -> State:
    return state._replace(ends=max(state.until, *(dose.until for dose in state.doses), -math.inf))


def _checked(token: object, key: str) -> str:
    # Not shown, since it is a secret.
    if not isinstance(token, str) or not _TOKEN_LEAST <= len(token) <= _TOKEN_MAX:
        raise ConfigurationError(f"{key} takes a text of {_TOKEN_LEAST} to {_TOKEN_MAX:,} characters", key)
    return token


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


_switches: weakref.WeakSet[ChaosSwitch] = weakref.WeakSet()


def _start_clean_after_fork() -> None:
    for switch in list(_switches):
        switch.start_clean()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_clean_after_fork)

chaos_switch = ChaosSwitch()
"""The switch of this process."""

"""Pattern 4, reduced functionality: switch off what is dear or broken, so that the rest goes on.

The machine, with its rules, is in `hormesis.core.degradation`. This is the shell around it: it asks the sources of
health, and only when somebody asks for the level, so there is no thread, and a service without traffic asks nobody.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from hormesis.clock import MONOTONIC, Clock
from hormesis.context import Answer, note_answer
from hormesis.core.admission import Transition
from hormesis.core.degradation import DegradationMachine, DegradationTerms
from hormesis.core.slots import Slot
from hormesis.core.ticks import Ticks
from hormesis.errors import ConfigurationError
from hormesis.events import Event, EventBus, LevelChanged, Reconfigured, StateChanged, bus
from hormesis.patterns.part import is_async, normalise
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["PART", "Degradation", "DegradationSettings", "Health"]

F = TypeVar("F", bound=Callable[..., Any])

Health: TypeAlias = float | str
"""How well something is: from 0 (not at all) to 1 (wholly), or the name of the level that it asks for."""

PART = "degradation"
"""What its events call the part."""
_LEVELS_MAX = 100
_WATCHED_MAX = 1000
_LEVELS = ("full", "reduced", "minimal")
# What is harmed while we wait is worth more than what is switched off in vain.
_WORSEN_AFTER = 0.0
# Longer than a circuit breaker's open time and its probes: what has just come back may go again.
_RECOVER_AFTER = 30.0
# Twice that, so that news which comes once a minute or more often holds without a gap.
_FORGET_AFTER = 60.0

_HEALTH_ACCEPTED = "a health from 0 (not at all) to 1 (wholly), or the name of a level"
_LEVELS_ACCEPTED = "from 2 to 100 names of levels, each once, from best to worst"


class Named(Protocol):
    """What has a name, such as a policy."""

    @property
    def name(self) -> str:
        """Its name."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DegradationSettings(Settings):
    """The settings of a `Degradation`, which describes them; this is what a file holds.

    >>> DegradationSettings(features={"reviews": "reduced"}).thresholds
    {'reduced': 0.9, 'minimal': 0.5}
    """

    features: Mapping[str, str]
    levels: tuple[str, ...] = dataclasses.field(default=_LEVELS, metadata={ACCEPTED: _LEVELS_ACCEPTED})
    thresholds: Mapping[str, float] | None = None
    name: str = "degradation"
    worsen_after: Duration = _WORSEN_AFTER
    recover_after: Duration = _RECOVER_AFTER
    forget_after: Duration = _FORGET_AFTER

    def __post_init__(self) -> None:
        levels = _checked_levels(self.levels)
        _check_features(self.features, levels)
        _check_text("name", self.name)
        normalise(
            self,
            levels=levels,
            features=dict(self.features),
            thresholds=_checked_thresholds(self.thresholds, levels),
            worsen_after=seconds(self.worsen_after, "worsen_after", zero=True),
            recover_after=seconds(self.recover_after, "recover_after", zero=True),
            forget_after=seconds(self.forget_after, "forget_after"),
        )

    def terms(self) -> DegradationTerms:
        """What a machine goes by that these settings describe."""
        return DegradationTerms(
            levels=self.levels,
            thresholds=tuple((self.thresholds or {}).values()),
            features=self.features,
            worsen_after=seconds(self.worsen_after, zero=True),
            recover_after=seconds(self.recover_after, zero=True),
            forget_after=seconds(self.forget_after),
        )

    def describe(self) -> str:
        """The settings in words."""
        below = ", ".join(f"{level} below health {health:g}" for level, health in (self.thresholds or {}).items())
        off = ", ".join(f"{feature} off from {level}" for feature, level in self.features.items()) or "no features"
        worse, better = (seconds(each, zero=True) for each in (self.worsen_after, self.recover_after))
        slow = f" for {format_seconds(worse)}" if worse else ""
        return f"{below}{slow}; a level up after {format_seconds(better)} of better health; {off}"


def _check_text(key: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError.bad_value(key, value, "a non-empty string")


def _checked_levels(levels: object) -> tuple[str, ...]:
    if not isinstance(levels, tuple | list) or not 2 <= len(levels) <= _LEVELS_MAX:
        raise ConfigurationError.bad_value("levels", levels, _LEVELS_ACCEPTED)
    if not all(isinstance(level, str) and level for level in levels) or len(set(levels)) < len(levels):
        raise ConfigurationError.bad_value("levels", levels, _LEVELS_ACCEPTED)
    return tuple(levels)


def _check_features(features: object, levels: tuple[str, ...]) -> None:
    if not isinstance(features, Mapping) or not all(isinstance(name, str) and name for name in features):
        raise ConfigurationError.bad_value(
            "features", features, "a table of features, each to the level it is off from"
        )
    for feature, level in features.items():
        if level not in list(levels):  # a list, since what was given may have no hash
            raise ConfigurationError.unknown("level", level, levels[1:], f"features.{feature}")
        if level == levels[0]:
            accepted = f"a level after the best, since there everything is on: {', '.join(levels[1:])}"
            raise ConfigurationError.bad_value(f"features.{feature}", level, accepted)


def _checked_thresholds(thresholds: object, levels: tuple[str, ...]) -> dict[str, float]:
    below = levels[1:]
    if thresholds is None:
        # A tenth of all calls failing is trouble, and half of them an outage; levels between share what is between.
        steps = max(1, len(below) - 1)
        return {level: round(0.5 + 0.4 * (len(below) - 1 - i) / steps, 3) for i, level in enumerate(below)}
    accepted = f"for each of {', '.join(below)} the health below which it begins: falling, above 0 and at most 1"
    if not isinstance(thresholds, Mapping) or set(thresholds) != set(below):
        raise ConfigurationError.bad_value("thresholds", thresholds, accepted)
    numbers = [thresholds[level] for level in below]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= 1:
            raise ConfigurationError.bad_value("thresholds", thresholds, accepted)
    if any(better <= worse for better, worse in itertools.pairwise(numbers)):
        raise ConfigurationError.bad_value("thresholds", thresholds, accepted)
    return {level: float(thresholds[level]) for level in below}


class _Watched:
    """One source that is asked."""

    __slots__ = ("asking", "every", "function", "logged", "name", "next_at")

    def __init__(self, name: str, function: Callable[[], Health | None], every: float, next_at: float) -> None:
        self.name = name
        self.function = function
        self.every = every
        self.next_at = next_at
        self.asking = False
        """Whether somebody is asking it right now; while one caller waits for it, others go on without."""
        self.logged = False


class Degradation:
    """Named levels of service, and features that are off from their level on.

    The level follows the health of its sources, the worst of which counts, or is set by hand. It is looked at when
    somebody asks, and only then do sources get asked.

    Args:
        features: Feature to the level from which it is off.
        levels: Names, from best to worst. At the best everything is on.
        thresholds: For each level after the best, the health below which it is asked for. By default 0.9 for the first
            of them, 0.5 for the last, and even steps between.
        name: What events and answers call it.
        worsen_after: How long health must have been worse before the level goes down; at once by default.
        recover_after: How long health must have been better before the level goes up, by one.
        forget_after: How long a reading counts; a source that is silent for longer counts as unknown.
        clock, events: Time and the event bus; for tests and simulations.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> shop = Degradation(features={"recommendations": "reduced", "suggestions": "minimal"})
    >>> shop.report("database", 0.7)
    >>> shop.level, shop.allows("recommendations"), shop.allows("suggestions")
    ('reduced', False, True)
    """

    __slots__ = ("__weakref__", "_ask_at", "_bus", "_clock", "_lock", "_machine", "_watched", "_withheld", "settings")

    def __init__(
        self,
        *,
        features: Mapping[str, str],
        levels: tuple[str, ...] = _LEVELS,
        thresholds: Mapping[str, float] | None = None,
        name: str = "degradation",
        worsen_after: Duration = _WORSEN_AFTER,
        recover_after: Duration = _RECOVER_AFTER,
        forget_after: Duration = _FORGET_AFTER,
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        settings = DegradationSettings(
            features=features,
            levels=levels,
            thresholds=thresholds,
            name=name,
            worsen_after=worsen_after,
            recover_after=recover_after,
            forget_after=forget_after,
        )
        self._begin(settings, clock, events)

    @classmethod
    def of(cls, settings: DegradationSettings, *, clock: Clock = MONOTONIC, events: EventBus = bus) -> Degradation:
        """Make one of settings, such as a file holds.

        >>> Degradation.of(DegradationSettings(features={"reviews": "reduced"})).level
        'full'
        """
        made = cls.__new__(cls)
        made._begin(settings, clock, events)
        return made

    def _begin(self, settings: DegradationSettings, clock: Clock, events: EventBus) -> None:
        self.settings = settings
        self._clock = clock
        self._bus = events
        self._lock = threading.Lock()
        self._machine = DegradationMachine(settings.terms(), threading.Lock())
        self._watched: dict[str, _Watched] = {}
        self._ask_at = math.inf
        self._withheld = {feature: Ticks() for feature in settings.features}

    @property
    def name(self) -> str:
        """What events and answers call it."""
        return self.settings.name

    @property
    def events(self) -> EventBus:
        """Where changes of level are published."""
        return self._bus

    @property
    def level(self) -> str:
        """The level that holds now."""
        self._look()
        return self._machine.level

    @property
    def by_hand(self) -> bool:
        """Whether the level was set by hand."""
        return self._machine.by_hand

    def allows(self, feature: str) -> bool:
        """Say whether a feature is on.

        Raises:
            ConfigurationError: There is no such feature.
        """
        self._look()
        try:
            return self._machine.switched[feature]
        except KeyError:
            raise self._unknown(feature) from None

    def feature(self, feature: str, *, otherwise: object) -> Callable[[F], F]:
        """Decorate a function that a feature consists of: while it is off, callers get something else.

        Such an answer is noted as a fallback's, so `hormesis.answers()` and `hormesis.context.note_answer` know of it.

        Args:
            feature: Its name.
            otherwise: The answer while it is off, or a function that is called with the same arguments for it; that
                may be asynchronous where the decorated one is.

        Raises:
            ConfigurationError: There is no such feature, or `otherwise` is asynchronous and the function is not.

        >>> shop = Degradation(features={"reviews": "reduced"})
        >>> @shop.feature("reviews", otherwise=[])
        ... def reviews(sku: str) -> list[str]:
        ...     return ["lovely"]
        >>> shop.set("reduced")
        >>> reviews("tea")
        []
        """
        if feature not in self.settings.features:
            raise self._unknown(feature)

        def decorate(function: F) -> F:
            if is_async(function):

                async def asynchronous(*args: Any, **kwargs: Any) -> Any:
                    if self._still_allows(feature):
                        return await function(*args, **kwargs)
                    answer = self._instead(feature, otherwise, args, kwargs)
                    return await answer if is_async(otherwise) else answer

                return cast("F", functools.update_wrapper(asynchronous, function))
            if is_async(otherwise):
                raise ConfigurationError(
                    f"feature {feature!r}: otherwise={_name(otherwise)} is asynchronous, and {_name(function)} is not"
                )

            def synchronous(*args: Any, **kwargs: Any) -> Any:
                if self._still_allows(feature):
                    return function(*args, **kwargs)
                return self._instead(feature, otherwise, args, kwargs)

            return cast("F", functools.update_wrapper(synchronous, function))

        return decorate

    def set(self, level: str) -> None:
        """Set the level by hand; it holds until `release`, whatever health says.

        Raises:
            ConfigurationError: There is no such level.
        """
        self._check_level(level)
        self._tell(self._machine.set(level))

    def release(self) -> None:
        """Leave the level to health again; it goes at once to where health would have taken it."""
        self._look()
        self._tell(self._machine.release(self._clock.now()))

    def report(self, source: str, health: Health) -> None:
        """Tell how well something is; it counts until the next report of that source, or until it is forgotten.

        Args:
            source: What it is that is well or not.
            health: From 0 to 1, or the name of the level that it asks for.

        Raises:
            ConfigurationError: The health is none.
        """
        _check_text("source", source)
        if not self._is_health(health):
            raise ConfigurationError.bad_value("health", health, f"{_HEALTH_ACCEPTED} ({self._level_names()})")
        self._tell(self._machine.report({source: health}, self._clock.now()))

    def watch(self, source: str, function: Callable[[], Health | None], *, every: Duration = 1.0) -> Callable[[], None]:
        """Ask a function how well something is, from time to time; returns a function that stops it.

        It is asked in the thread or task of whoever asks for the level next, so it must be quick: let it look at a
        number, not measure one. One that raises, or returns what is no health, counts as unknown, and is logged once.

        Args:
            source: What it is that is well or not.
            function: Returns a health from 0 to 1, the name of the level that it asks for, or None for unknown.
            every: How long an answer is good for; at most `forget_after`.

        Raises:
            ConfigurationError: The function is none or asynchronous, is watched by that name already, or `every` is
                longer than an answer is remembered.
        """
        _check_text("source", source)
        _check_function(function)
        interval, longest = seconds(every, "every"), seconds(self.settings.forget_after)
        if interval > longest:
            raise ConfigurationError.bad_value("every", every, f"at most forget_after, {format_seconds(longest)}")
        watched = _Watched(source, function, interval, self._clock.now())
        with self._lock:
            if source in self._watched:
                raise ConfigurationError(f"source {source!r} is watched already; stop that first")
            if len(self._watched) >= _WATCHED_MAX:
                raise ConfigurationError(f"{_WATCHED_MAX} sources are watched already; one more was not meant")
            self._watched[source] = watched
            self._plan()
        return lambda: self._stop(watched)

    def watch_policy(self, policy: str | Named, *, key: str = "") -> Callable[[], None]:
        """Take a policy's circuit breaker for health; returns a function that stops it.

        Open and half-open are health 0, other states 1. An open one that says nothing new is forgotten after
        `forget_after`, so that features which call the dependency come back and find out; one that was isolated by hand
        counts until it is closed by hand. A policy that only watches (`shadow`) is not heeded.

        Args:
            policy: The policy, or its name.
            key: Which instance, where its breaker has one for each key.
        """
        name = policy if isinstance(policy, str) else policy.name
        source = f"policy {name}, {key}" if key else f"policy {name}"

        def hear(event: Event) -> None:
            if not isinstance(event, StateChanged) or event.shadow:
                return
            if (event.policy, event.part, event.key) == (name, Slot.CIRCUIT_BREAKER.key, key):
                health = 0.0 if event.after in ("open", "half-open", "isolated") else 1.0
                lasts = math.inf if event.after == "isolated" else None
                self._tell(self._machine.report({source: health}, self._clock.now(), lasts))

        stop_hearing = self._bus.listen(hear)

        def stop() -> None:
            stop_hearing()
            self._tell(self._machine.report({source: None}, self._clock.now()))

        return stop

    def reconfigure(self, settings: DegradationSettings) -> None:
        """Go by other settings from now on; the level, readings and what was set by hand are kept.

        What was decorated with a feature that is gone is on from now on.
        """
        # Those of features that are gone stay, since a call may be about to count on them.
        self._withheld = {feature: Ticks() for feature in settings.features} | self._withheld
        self.settings = settings
        now = self._clock.now()
        change = self._machine.become(settings.terms(), now)
        if self._bus.listeners:
            self._bus.publish(Reconfigured(at=now, policy=self.name, part=PART, settings=settings.describe()))
        self._tell(change)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data, for a dashboard or a log.

        Returns:
            `level`, `by_hand`, `automatic` (the level that health alone would make), `health` by source, `features`
            (whether each is on), and `withheld` (calls that a decorated function got something else for).

        >>> Degradation(features={"reviews": "reduced"}).snapshot()["features"]
        {'reviews': True}
        """
        self._look()
        with self._lock:
            withheld = {feature: self._withheld[feature].read() for feature in self.settings.features}
        return {
            "name": self.name,
            "level": self._machine.level,
            "by_hand": self._machine.by_hand,
            "automatic": self._machine.automatic,
            "health": self._machine.readings(self._clock.now()),
            "features": self._machine.switched.copy(),
            "withheld": withheld,
        }

    def __repr__(self) -> str:
        return f"<Degradation {self.name!r}: {self._machine.level}{' by hand' if self.by_hand else ''}>"

    def _look(self) -> None:
        """Do what is due; nothing, nearly always."""
        now = self._clock.now()
        if now >= self._ask_at:
            self._ask(now)
        if now >= self._machine.due:
            self._tell(self._machine.settle(now))

    def _ask(self, now: float) -> None:
        """Ask the sources whose turn it is. No lock is held meanwhile, and nobody else asks the same ones."""
        with self._lock:
            due = [each for each in self._watched.values() if not each.asking and now >= each.next_at]
            for each in due:
                each.asking = True
                each.next_at = now + each.every
            self._plan()
        try:
            answers = {each.name: self._answer(each) for each in due}
            still = {name: answer for name, answer in answers.items() if name in self._watched}
            self._tell(self._machine.report(still, self._clock.now()))
        finally:
            with self._lock:
                for each in due:
                    each.asking = False
                self._plan()

    def _answer(self, watched: _Watched) -> Health | None:
        try:
            health = watched.function()
        except Exception:
            _log_once(watched, "raised")
            return None
        if health is not None and not self._is_health(health):
            _log_once(watched, f"said {health!r}, which is not {_HEALTH_ACCEPTED}")
            return None
        return health

    def _plan(self) -> None:
        """Note when somebody is to be asked next; under the lock."""
        self._ask_at = min((each.next_at for each in self._watched.values() if not each.asking), default=math.inf)

    def _stop(self, watched: _Watched) -> None:
        with self._lock:
            if self._watched.get(watched.name) is not watched:
                return
            del self._watched[watched.name]
            self._plan()
        self._tell(self._machine.report({watched.name: None}, self._clock.now()))

    def _tell(self, change: Transition | None) -> None:
        if change is not None and self._bus.listeners:
            facts = LevelChanged(
                at=self._clock.now(),
                policy=self.name,
                part=PART,
                before=change.before,
                after=change.after,
                reason=change.reason,
            )
            self._bus.publish(facts)

    def _still_allows(self, feature: str) -> bool:
        """Whether a feature that was known once is on: other settings must not break what was decorated before."""
        self._look()
        return self._machine.switched.get(feature, True)

    def _instead(self, feature: str, otherwise: object, args: Any, kwargs: Any) -> Any:
        self._withheld[feature].draw()
        note_answer(Answer(policy=self.name, source="fallback"))
        return otherwise(*args, **kwargs) if callable(otherwise) else otherwise

    def _is_health(self, health: object) -> bool:
        if isinstance(health, str):
            return health in self.settings.levels
        return isinstance(health, int | float) and not isinstance(health, bool) and 0 <= health <= 1

    def _check_level(self, level: object) -> None:
        if level not in list(self.settings.levels):
            raise ConfigurationError.unknown("level", level, self.settings.levels)

    def _level_names(self) -> str:
        return ", ".join(self.settings.levels)

    def _unknown(self, feature: object) -> ConfigurationError:
        return ConfigurationError.unknown("feature", feature, self.settings.features)


def _check_function(function: object) -> None:
    if not callable(function) or is_async(function):
        raise ConfigurationError.bad_value("function", function, "a synchronous function that returns a health")


def _log_once(watched: _Watched, what: str) -> None:
    if watched.logged:
        return
    watched.logged = True
    import logging  # noqa: PLC0415  only a broken source needs it

    log = logging.getLogger("hormesis.degradation")
    log.warning("health source %r %s, and counts as unknown", watched.name, what, exc_info=True)


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", function))

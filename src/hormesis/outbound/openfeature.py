"""An OpenFeature provider: programs that ask OpenFeature for their flags see what is on at the level of degradation.

Each feature is a boolean flag, and the level itself a string flag. So code that knows flags needs to know nothing of
levels, and a feature that a product manager switches and one that an outage switches are asked for alike.

What OpenFeature calls the reason tells who decided: `TARGETING_MATCH` is health, by the rule of its thresholds, and
`STATIC` is a level that was set by hand, which holds until somebody changes it. When the level changes, handlers of
`PROVIDER_CONFIGURATION_CHANGED` get the flags whose value changed.

Source: the OpenFeature specification, sections 2 (providers) and 5 (events).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeVar

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.events import Event, LevelChanged, Reconfigured
from hormesis.patterns.degradation import PART, Degradation

try:
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.event import ProviderEventDetails
    from openfeature.exception import FlagNotFoundError, TypeMismatchError
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
    from openfeature.provider import AbstractProvider, Metadata
except ImportError as error:
    raise MissingExtraError("the OpenFeature provider", "openfeature") from error

__all__ = ["DegradationProvider"]

T = TypeVar("T", bool, str)

_Objects = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class DegradationProvider(AbstractProvider):
    """Answers OpenFeature's questions from a `Degradation`.

    Evaluation contexts are not looked at: an outage is the same for everybody.

    Args:
        degradation: Whose features and level are the flags.
        level_flag: The flag that holds the name of the level.

    Raises:
        ConfigurationError: There is a feature that is called like the level's flag.

    >>> from openfeature import api
    >>> shop = Degradation(features={"reviews": "reduced"}, name="shop")
    >>> api.set_provider_and_wait(DegradationProvider(shop), domain="shop")
    >>> flags = api.get_client("shop")
    >>> flags.get_boolean_value("reviews", False), flags.get_string_value("level", "unknown")
    (True, 'full')
    >>> shop.set("reduced")
    >>> flags.get_boolean_value("reviews", False)
    False
    >>> api.shutdown()
    """

    def __init__(self, degradation: Degradation, *, level_flag: str = "level") -> None:
        super().__init__()
        if not level_flag or level_flag in degradation.settings.features:
            raise ConfigurationError.bad_value("level_flag", level_flag, "a name that no feature has")
        self._degradation = degradation
        self._level_flag = level_flag
        self._stop: Callable[[], None] | None = None

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata(name=f"hormesis {self._degradation.name}")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Begin to listen for changes of level."""
        if self._stop is None:
            self._stop = self._degradation.events.listen(self._hear)

    def shutdown(self) -> None:
        """Stop listening."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Say whether a feature is on.

        Raises:
            FlagNotFoundError: It is neither a feature nor the level's flag.
            TypeMismatchError: It is the level's.
        """
        if flag_key not in self._degradation.settings.features:
            self._refuse(flag_key, "boolean")
        on = self._degradation.allows(flag_key)
        return self._details(on, "on" if on else "off")

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Return the name of the level.

        Raises:
            FlagNotFoundError: It is neither a feature nor the level's flag.
            TypeMismatchError: It is a feature.
        """
        if flag_key != self._level_flag:
            self._refuse(flag_key, "string")
        level = self._degradation.level
        return self._details(level, level)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Refuse: no flag is a whole number."""
        self._refuse(flag_key, "integer")

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Refuse: no flag is a number."""
        self._refuse(flag_key, "float")

    def resolve_object_details(
        self, flag_key: str, default_value: _Objects, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Objects]:
        """Refuse: no flag is an object."""
        self._refuse(flag_key, "object")

    def _details(self, value: T, variant: str) -> FlagResolutionDetails[T]:
        by_hand = self._degradation.by_hand
        return FlagResolutionDetails(
            value=value,
            variant=variant,
            reason=Reason.STATIC if by_hand else Reason.TARGETING_MATCH,
            flag_metadata={"level": self._degradation.level, "by_hand": by_hand},
        )

    def _refuse(self, flag_key: str, wanted: str) -> NoReturn:
        kinds: dict[str, str] = dict.fromkeys(self._degradation.settings.features, "boolean")
        kinds[self._level_flag] = "string"
        if flag_key not in kinds:
            raise FlagNotFoundError(ConfigurationError.unknown("flag", flag_key, kinds).message)
        raise TypeMismatchError(f"flag {flag_key!r} is a {kinds[flag_key]}, not a {wanted}")

    def _hear(self, event: Event) -> None:
        ours = (event.policy, event.part) == (self._degradation.name, PART)
        if ours and isinstance(event, LevelChanged | Reconfigured):
            self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=self._changed_by(event)))

    def _changed_by(self, event: LevelChanged | Reconfigured) -> list[str]:
        settings = self._degradation.settings
        if isinstance(event, Reconfigured) or not {event.before, event.after} <= set(settings.levels):
            return [self._level_flag, *settings.features]
        terms = settings.terms()
        before, after = (terms.switched(settings.levels.index(level)) for level in (event.before, event.after))
        return [self._level_flag, *(feature for feature in settings.features if before[feature] != after[feature])]

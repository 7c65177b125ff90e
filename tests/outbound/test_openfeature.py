"""The OpenFeature provider, asked by the real client."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from openfeature.provider import ProviderStatus

import hormesis as hm
from hormesis.events import EventBus, LevelChanged
from hormesis.outbound.openfeature import DegradationProvider
from hormesis.patterns.degradation import Degradation, DegradationSettings

PATIENCE = 20


@pytest.fixture
def shop() -> Degradation:
    """Three levels, two features."""
    return Degradation(features={"reviews": "reduced", "search": "minimal"}, name="shop", events=EventBus())


@pytest.fixture
def client(shop: Degradation) -> Iterator[OpenFeatureClient]:
    """Return a client whose flags are the shop's features."""
    api.set_provider_and_wait(DegradationProvider(shop), domain="shop")
    yield api.get_client("shop")
    api.shutdown()


@pytest.fixture(params=["sync", "async"])
def details(request: pytest.FixtureRequest, client: OpenFeatureClient) -> Any:
    """Return what evaluates a flag of some type, in either colour."""

    def evaluate(kind: str, flag: str, default: Any) -> FlagEvaluationDetails[Any]:
        found: FlagEvaluationDetails[Any]
        if request.param == "sync":
            found = getattr(client, f"get_{kind}_details")(flag, default)
        else:
            found = asyncio.run(getattr(client, f"get_{kind}_details_async")(flag, default))
        return found

    return evaluate


def test_features_are_boolean_flags(shop: Degradation, details: Any) -> None:
    """On or off with the level, for the reason of its rule."""
    shop.report("database", 0.7)
    found = {flag: details("boolean", flag, False) for flag in ("reviews", "search")}
    assert {flag: (each.value, each.variant) for flag, each in found.items()} == {
        "reviews": (False, "off"),
        "search": (True, "on"),
    }
    for each in found.values():
        assert (each.reason, each.error_code) == (Reason.TARGETING_MATCH, None)
        assert each.flag_metadata == {"level": "reduced", "by_hand": False}


def test_the_level_is_a_string_flag(shop: Degradation, details: Any) -> None:
    """Its value and its variant are the level's name."""
    assert details("string", "level", "").value == "full"
    shop.set("minimal")
    found = details("string", "level", "")
    assert (found.value, found.variant) == ("minimal", "minimal")


def test_by_hand_is_static(shop: Degradation, details: Any) -> None:
    """It holds until somebody changes it."""
    shop.set("reduced")
    found = details("boolean", "reviews", True)
    assert (found.value, found.reason) == (False, Reason.STATIC)
    assert found.flag_metadata == {"level": "reduced", "by_hand": True}
    shop.release()
    assert details("boolean", "reviews", False).reason == Reason.TARGETING_MATCH


@pytest.mark.parametrize(
    ("kind", "default"), [("boolean", True), ("string", "x"), ("integer", 3), ("float", 0.5), ("object", {"a": 1})]
)
def test_an_unknown_flag_is_not_found(details: Any, kind: str, default: Any) -> None:
    """The caller gets its default, and the message names what is known."""
    found = details(kind, "revews", default)
    assert (found.value, found.reason, found.error_code) == (default, Reason.ERROR, ErrorCode.FLAG_NOT_FOUND)
    assert "did you mean 'reviews'" in found.error_message


@pytest.mark.parametrize(
    ("kind", "flag", "default", "is_a"),
    [
        ("boolean", "level", True, "string"),
        ("string", "reviews", "x", "boolean"),
        ("integer", "reviews", 3, "boolean"),
        ("float", "level", 0.5, "string"),
        ("object", "search", {"a": 1}, "boolean"),
    ],
)
def test_a_flag_of_another_type_is_a_mismatch(details: Any, kind: str, flag: str, default: Any, is_a: str) -> None:
    """Nothing is guessed: true is no 1."""
    found = details(kind, flag, default)
    assert (found.value, found.reason, found.error_code) == (default, Reason.ERROR, ErrorCode.TYPE_MISMATCH)
    assert found.error_message == f"flag {flag!r} is a {is_a}, not a {kind}"


class Told:
    """A handler that notes which flags changed."""

    def __init__(self) -> None:
        self.flags: list[list[str] | None] = []
        self._came = threading.Semaphore(0)

    def __call__(self, details: EventDetails) -> None:
        assert details.provider_name == "hormesis shop"
        self.flags.append(details.flags_changed)
        self._came.release()

    def wait(self) -> None:
        assert self._came.acquire(timeout=PATIENCE)


@pytest.fixture
def told(client: OpenFeatureClient) -> Told:
    """Handle changes of configuration."""
    handler = Told()
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, handler)
    return handler


def test_a_change_of_level_is_an_event(shop: Degradation, told: Told) -> None:
    """Handlers get the flags whose value changed."""
    for level in ("reduced", "minimal", "full"):
        shop.set(level)
        told.wait()
    assert told.flags == [["level", "reviews"], ["level", "search"], ["level", "reviews", "search"]]


def test_other_settings_are_an_event(shop: Degradation, told: Told) -> None:
    """Any flag may be another one then."""
    shop.reconfigure(DegradationSettings(features={"maps": "bad"}, levels=("good", "bad"), name="shop"))
    for _ in range(2):  # of the settings, and of the level, which has another name
        told.wait()
    assert told.flags == [["level", "maps"]] * 2


def test_news_of_others_is_none(shop: Degradation, told: Told) -> None:
    """Another service on the same bus, or a policy of the same name."""
    for policy, part in (("other", "degradation"), ("shop", "retry")):
        shop.events.publish(LevelChanged(at=0, policy=policy, part=part, before="full", after="minimal", reason=""))
    shop.set("reduced")
    told.wait()
    assert told.flags == [["level", "reviews"]]


def listeners(shop: Degradation) -> int:
    return len(shop.events.listeners)


def test_it_listens_while_it_is_in_use(shop: Degradation) -> None:
    """From its start to its end, once, however often it is bound."""
    provider = DegradationProvider(shop)
    assert listeners(shop) == 0
    for _ in range(2):
        api.set_provider_and_wait(provider, domain="one")
        api.set_provider_and_wait(provider, domain="two")
    provider.initialize(api.get_evaluation_context())
    assert listeners(shop) == 1
    assert api.get_client("one").get_provider_status() is ProviderStatus.READY
    api.shutdown()
    assert listeners(shop) == 0
    provider.shutdown()


def test_without_handlers_a_change_is_none_of_its_business(shop: Degradation) -> None:
    """A provider that nobody attached tells nobody."""
    provider = DegradationProvider(shop)
    provider.initialize(api.get_evaluation_context())
    shop.set("reduced")
    assert listeners(shop) == 1  # it did not raise, or the bus would have taken it off
    provider.shutdown()


@pytest.mark.parametrize("level_flag", ["", "reviews"])
def test_the_levels_flag_needs_a_name_of_its_own(shop: Degradation, level_flag: str) -> None:
    """Refused when made, and another name may be chosen."""
    with pytest.raises(hm.ConfigurationError, match="a name that no feature has"):
        DegradationProvider(shop, level_flag=level_flag)
    assert DegradationProvider(shop, level_flag="mode").resolve_string_details("mode", "").value == "full"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module says what to install."""
    real = builtins.__import__

    def no_openfeature(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("openfeature"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "hormesis.outbound.openfeature")
    monkeypatch.setattr(builtins, "__import__", no_openfeature)
    with pytest.raises(hm.MissingExtraError, match=r"hormesis\[openfeature\]"):
        importlib.import_module("hormesis.outbound.openfeature")

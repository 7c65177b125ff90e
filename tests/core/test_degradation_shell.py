"""`Degradation`: sources of health, features, and what it tells."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from typing import Any

import pytest

import hormesis as hm
from hormesis import tables
from hormesis.context import answers
from hormesis.events import Event, EventBus, LevelChanged, Reconfigured, StateChanged
from hormesis.patterns.degradation import Degradation, DegradationSettings
from hormesis.testing import ManualClock, hear

FEATURES = {"reviews": "reduced", "search": "minimal"}


@pytest.fixture
def clock() -> ManualClock:
    """Time that stands still."""
    return ManualClock()


@pytest.fixture
def shop(clock: ManualClock) -> Degradation:
    """Three levels, two features."""
    return Degradation(features=FEATURES, name="shop", clock=clock, events=EventBus())


def state_changed(after: str, **facts: Any) -> StateChanged:
    known: dict[str, Any] = {"policy": "stock", "part": "circuit_breaker", "before": "closed", "reason": ""}
    return StateChanged(at=0, after=after, **(known | facts))


# Settings

DURATION = "'300ms', '2s', '1m30s'"
LEVELS = "from 2 to 100 names of levels"
BELOW = "for each of reduced, minimal the health below which it begins"
BAD = [
    *(
        ("levels", value, LEVELS)
        for value in [(), ("one",), ("a", "a"), ("a", ""), ("a", 3), "ab", 3, [str(i) for i in range(101)]]
    ),
    *(("features", value, "a table of features") for value in [3, ["a"], {3: "reduced"}, {"": "reduced"}]),
    ("features", {"a": "redced"}, "did you mean 'reduced'"),
    ("features", {"a": ["reduced"]}, "reduced, minimal"),
    ("features", {"a": "full"}, "a level after the best"),
    *(
        ("thresholds", value, BELOW)
        for value in [
            {},
            3,
            {"reduced": 0.5},
            {"reduced": 0.5, "minimal": 0.5},
            {"reduced": 0.4, "minimal": 0.5},
            {"reduced": 1.1, "minimal": 0.5},
            {"reduced": 0.5, "minimal": 0},
            {"reduced": True, "minimal": 0.5},
            {"reduced": "0.9", "minimal": 0.5},
            {"reduced": math.nan, "minimal": 0.5},
            {"full": 1, "reduced": 0.9, "minimal": 0.5},
        ]
    ),
    *(("name", value, "a non-empty string") for value in ["", None, 3]),
    *(("worsen_after", value, DURATION) for value in [-1, "soon", None, math.inf]),
    *(("recover_after", value, DURATION) for value in [-1, "soon", None, math.inf]),
    *(("forget_after", value, DURATION) for value in [0, -1, "soon", None, math.inf]),
]


@pytest.mark.parametrize(("key", "value", "accepted"), BAD)
def test_what_cant_be_meant_is_refused(key: str, value: object, accepted: str) -> None:
    """When it is made, with the setting, and what would do."""
    settings: dict[str, Any] = {"features": {}, key: value}
    with pytest.raises(hm.ConfigurationError, match=accepted) as caught:
        Degradation(**settings)
    assert caught.value.key.split(".")[0] in (key, "level")


@pytest.mark.parametrize(
    ("levels", "thresholds"),
    [
        (("good", "bad"), {"bad": 0.5}),
        (("full", "reduced", "minimal"), {"reduced": 0.9, "minimal": 0.5}),
        (("a", "b", "c", "d"), {"b": 0.9, "c": 0.7, "d": 0.5}),
    ],
)
def test_thresholds_by_default(levels: tuple[str, ...], thresholds: dict[str, float]) -> None:
    """The last level begins at half health, the first of several at a tenth lost."""
    assert DegradationSettings(features={}, levels=levels).thresholds == thresholds
    assert DegradationSettings(features={}, levels=tuple(map(str, range(100)))).thresholds  # fall strictly


def test_settings_come_from_a_file() -> None:
    """A table holds the same settings, and what is wrong in it is told by its place."""
    table = {
        "features": {"reviews": "bad"},
        "levels": ["good", "bad"],
        "thresholds": {"bad": 0.3},
        "recover_after": "1m",
    }
    settings = tables.read(DegradationSettings, table, "degradation")
    assert settings == DegradationSettings(
        features={"reviews": "bad"}, levels=("good", "bad"), thresholds={"bad": 0.3}, recover_after=60
    )
    assert Degradation.of(settings).settings is settings
    with pytest.raises(
        hm.ConfigurationError, match=r"degradation.features.reviews: unknown level 'bat' \(did you mean"
    ):
        tables.read(DegradationSettings, {**table, "features": {"reviews": "bat"}}, "degradation")
    with pytest.raises(hm.ConfigurationError, match=r"degradation: unknown key 'recover'"):
        tables.read(DegradationSettings, {**table, "recover": 3}, "degradation")


def test_settings_in_words() -> None:
    """For logs and `explain`."""
    assert DegradationSettings(features=FEATURES, worsen_after="5s").describe() == (
        "reduced below health 0.9, minimal below health 0.5 for 5s; a level up after 30s of better health; "
        "reviews off from reduced, search off from minimal"
    )
    assert DegradationSettings(features={}).describe().endswith("no features")


# Levels and features


def test_features_are_off_from_their_level_on(shop: Degradation) -> None:
    """At their own level and at worse ones."""
    allowed = {}
    for level in ("full", "reduced", "minimal"):
        shop.set(level)
        allowed[level] = [shop.allows(feature) for feature in FEATURES]
    assert allowed == {"full": [True, True], "reduced": [False, True], "minimal": [False, False]}


def test_what_is_unknown_is_refused_with_what_is_known(shop: Degradation) -> None:
    """Features and levels alike."""
    with pytest.raises(hm.ConfigurationError, match=r"unknown feature 'revews' .*'reviews'.*reviews, search"):
        shop.allows("revews")
    with pytest.raises(hm.ConfigurationError, match="unknown feature"):
        shop.feature("revews", otherwise=None)
    with pytest.raises(hm.ConfigurationError, match=r"unknown level 'minmal' .*full, reduced, minimal"):
        shop.set("minmal")
    with pytest.raises(hm.ConfigurationError, match="unknown level"):
        shop.set(["minimal"])  # type: ignore[arg-type]


@pytest.mark.parametrize("health", [-0.1, 1.1, math.nan, True, None, "bad", [1]])
def test_a_report_that_is_no_health_is_refused(shop: Degradation, health: Any) -> None:
    """With what would do."""
    with pytest.raises(hm.ConfigurationError, match=r"a health from 0 .* \(full, reduced, minimal\)"):
        shop.report("database", health)


@pytest.mark.parametrize("source", ["", None, 3])
def test_sources_have_names(shop: Degradation, source: Any) -> None:
    """Whether they report or are asked."""
    with pytest.raises(hm.ConfigurationError, match="source"):
        shop.report(source, 1)
    with pytest.raises(hm.ConfigurationError, match="source"):
        shop.watch(source, lambda: 1)


def test_health_drives_the_level_and_time_brings_it_back(shop: Degradation, clock: ManualClock) -> None:
    """Nothing but asking is needed: no thread, no timer."""
    shop.report("database", 0.2)
    levels = []
    for _ in range(4):
        levels.append(shop.level)
        shop.report("database", 1)
        clock.advance(30)
    assert levels == ["minimal", "reduced", "full", "full"]


def test_changes_are_told(shop: Degradation, clock: ManualClock) -> None:
    """Who, when, from where to where, and why."""
    with hear(shop) as heard:
        clock.advance(5)
        shop.report("database", 0.7)
        shop.report("database", 0.6)
        shop.set("minimal")
        shop.release()
    assert [event.as_dict() for event in heard.events] == [
        {
            "event": "level_changed",
            "at": 5.0,
            "policy": "shop",
            "part": "degradation",
            "before": before,
            "after": after,
            "reason": reason,
        }
        for before, after, reason in [
            ("full", "reduced", "health 0.7 of database"),
            ("reduced", "minimal", "set by hand"),
            ("minimal", "reduced", "released by hand"),
        ]
    ]


def test_by_hand_says_so(shop: Degradation) -> None:
    """In the snapshot, in the representation, and when asked."""
    shop.report("database", 0.2)
    shop.set("full")
    assert shop.by_hand
    assert repr(shop) == "<Degradation 'shop': full by hand>"
    assert shop.snapshot() == {
        "name": "shop",
        "level": "full",
        "by_hand": True,
        "automatic": "minimal",
        "health": {"database": 0.2},
        "features": {"reviews": True, "search": True},
        "withheld": {"reviews": 0, "search": 0},
    }
    shop.release()
    assert repr(shop) == "<Degradation 'shop': minimal>"


def test_a_listener_may_ask_and_report(shop: Degradation) -> None:
    """No lock is held while events are published."""
    levels: list[str] = []

    def listen(event: Event) -> None:
        levels.append(shop.level)
        shop.report("listener", 0.0)

    shop.events.listen(listen)
    shop.report("database", 0.7)
    assert levels == ["reduced", "minimal"]
    assert shop.level == "minimal"


# Sources that are asked


def test_a_source_is_asked_when_its_answer_is_old_and_somebody_asks(shop: Degradation, clock: ManualClock) -> None:
    """At most every so often, and never by itself."""
    asked: list[float] = []

    def health() -> float:
        asked.append(clock.now())
        return 0.7

    stop = shop.watch("database", health, every="2s")
    assert asked == []
    for _ in range(6):
        assert not shop.allows("reviews")
        clock.advance(1)
    assert asked == [0, 2, 4]
    stop()
    stop()
    clock.advance(29)
    assert shop.level == "reduced"
    assert asked == [0, 2, 4]
    assert shop.snapshot()["health"] == {}


def test_sources_that_are_asked_together_are_judged_together(clock: ManualClock) -> None:
    """One that is well and was asked first does not lift the level for the moment until the other has answered."""
    shop = Degradation(features={}, recover_after=0, forget_after="10s", clock=clock, events=EventBus())
    shop.watch("cache", lambda: 1.0)
    shop.watch("database", lambda: 0.0)
    with hear(shop) as heard:
        assert shop.level == "minimal"
        clock.advance("1h")
        assert shop.level == "minimal"
    heard.assert_happened("level_changed", times=1)


@pytest.mark.parametrize("answer", [ZeroDivisionError, 1.5, True, "bad", object()])
def test_a_source_that_fails_is_unknown_and_logged_once(
    shop: Degradation, clock: ManualClock, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """A failure of a source is none of the caller's."""

    def health() -> Any:
        if answer is ZeroDivisionError:
            raise answer
        return answer

    shop.report("database", 0.2)
    shop.watch("database", health)
    with caplog.at_level(logging.WARNING, "hormesis.degradation"):
        for _ in range(3):
            assert shop.level == "minimal"
            clock.advance(2)
    assert shop.snapshot()["health"] == {}
    (record,) = caplog.records
    assert "'database'" in record.getMessage()


def test_a_source_may_not_know(shop: Degradation, caplog: pytest.LogCaptureFixture) -> None:
    """None is an answer."""
    shop.watch("database", lambda: None)
    assert shop.level == "full"
    assert not caplog.records


def test_an_interrupt_in_a_source_goes_through_and_breaks_nothing(shop: Degradation, clock: ManualClock) -> None:
    """What is no Exception is the caller's, and the source is asked again in its turn."""
    outcomes: list[Any] = [KeyboardInterrupt, 0.7]

    def health() -> float:
        outcome = outcomes.pop(0)
        if outcome is KeyboardInterrupt:
            raise outcome
        return float(outcome)

    shop.watch("database", health)
    with pytest.raises(KeyboardInterrupt):
        _ = shop.level
    clock.advance(1)
    assert shop.level == "reduced"


def test_a_source_that_hangs_holds_up_one_caller(shop: Degradation, clock: ManualClock) -> None:
    """While one waits for it, the others go on with what is known."""
    inside, go_on = threading.Event(), threading.Event()

    def health() -> float:
        inside.set()
        assert go_on.wait(20)
        return 0.2

    shop.watch("database", health)
    caller = threading.Thread(target=lambda: shop.level)
    caller.start()
    assert inside.wait(20)
    clock.advance(10)
    assert shop.level == "full"
    go_on.set()
    caller.join(20)
    assert shop.level == "minimal"


def test_a_source_that_was_stopped_while_it_was_asked_says_nothing(shop: Degradation) -> None:
    """Its answer is not heard any more."""

    def health() -> float:
        stop()
        return 0.0

    stop = shop.watch("database", health)
    assert shop.level == "full"


def test_a_source_may_ask_for_the_level_itself(shop: Degradation) -> None:
    """It sees the one that holds, and is not asked within itself."""
    shop.watch("database", lambda: 0.7 if shop.level == "full" else 0.2)
    assert shop.level == "reduced"


def test_what_cant_be_watched_is_refused(shop: Degradation) -> None:
    """Asynchronous functions, what is no function, an interval beyond memory, and a name twice."""

    async def health() -> float:
        return 1.0

    for function in (health, 3, None):
        with pytest.raises(hm.ConfigurationError, match="a synchronous function that returns a health"):
            shop.watch("database", function)  # type: ignore[arg-type]
    for every in (0, -1, "soon"):
        with pytest.raises(hm.ConfigurationError, match="every"):
            shop.watch("database", lambda: 1, every=every)
    with pytest.raises(hm.ConfigurationError, match="every is '2m'; it takes at most forget_after, 1m"):
        shop.watch("database", lambda: 1, every="2m")
    shop.watch("database", lambda: 1)
    with pytest.raises(hm.ConfigurationError, match="'database' is watched already"):
        shop.watch("database", lambda: 1)


def test_what_is_watched_is_bounded(shop: Degradation) -> None:
    """A thousand sources were not meant."""
    for number in range(1000):
        shop.watch(f"source {number}", lambda: 1)
    with pytest.raises(hm.ConfigurationError, match="1000 sources are watched"):
        shop.watch("another", lambda: 1)


# Policies as health


@pytest.mark.parametrize(
    ("state", "level"),
    [("open", "minimal"), ("half-open", "minimal"), ("isolated", "minimal"), ("closed", "full"), ("disabled", "full")],
)
def test_a_policys_breaker_is_health(shop: Degradation, state: str, level: str) -> None:
    """Open, half-open and isolated are not well."""
    shop.watch_policy("stock")
    shop.events.publish(state_changed(state))
    assert shop.level == level


@pytest.mark.parametrize("other", [{"policy": "other"}, {"part": "other"}, {"key": "eu-1"}, {"shadow": True}])
def test_other_news_is_not_heeded(shop: Degradation, other: dict[str, Any]) -> None:
    """Other policies, other parts, other instances, and policies that only watch."""
    shop.watch_policy("stock")
    shop.events.publish(state_changed("open", **other))
    assert shop.level == "full"


def test_one_instance_of_a_policys_breaker_can_be_watched(shop: Degradation) -> None:
    """By its key."""
    shop.watch_policy("stock", key="eu-1")
    shop.events.publish(state_changed("open"))
    shop.events.publish(state_changed("open", key="eu-1"))
    assert shop.snapshot()["health"] == {"policy stock, eu-1": 0.0}


def test_an_open_breaker_is_forgotten_and_an_isolated_one_is_not(shop: Degradation, clock: ManualClock) -> None:
    """So that a feature comes back and its dependency is tried, but never against what was done by hand."""
    stop = shop.watch_policy("stock")
    shop.events.publish(state_changed("open"))
    clock.advance(60)
    assert shop.snapshot()["health"] == {}
    shop.events.publish(state_changed("isolated"))
    clock.advance("1d")
    assert shop.level == "minimal"
    stop()
    stop()
    assert shop.snapshot()["health"] == {}
    shop.events.publish(state_changed("open"))
    assert shop.snapshot()["health"] == {}


def test_a_real_breaker_switches_features(clock: ManualClock) -> None:
    """A policy whose breaker opens takes the level down, and up again once it has closed and stayed so."""
    events = EventBus()
    stock = hm.Policy(
        hm.CircuitBreaker(minimum_calls=2, probes=1, open_for="5s"), name="stock", clock=clock, events=events
    )
    shop = Degradation(features={"reviews": "reduced"}, clock=clock, events=events)
    shop.watch_policy(stock)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            stock.call(lambda: 1 / 0)
    assert shop.level == "minimal"
    for _ in range(100):
        clock.advance(1)
        try:
            stock.call(int)
        except hm.CircuitOpen:
            assert not shop.allows("reviews")
        _ = shop.level
    assert shop.level == "full"


# Functions


def test_a_decorated_function_is_replaced_while_its_feature_is_off(shop: Degradation) -> None:
    """By a value, or by a function of the same arguments; the answer says that it is a fallback's, and is counted."""

    @shop.feature("reviews", otherwise=[])
    def reviews(sku: str) -> list[str]:
        """Reviews."""
        return [sku]

    @shop.feature("reviews", otherwise=lambda sku: f"no {sku}")
    def best_review(sku: str) -> str:
        return sku

    assert (reviews.__name__, reviews.__doc__) == ("reviews", "Reviews.")
    with answers() as seen:
        assert (reviews("tea"), best_review("tea")) == (["tea"], "tea")
    assert not seen.noted
    shop.set("reduced")
    with answers() as seen:
        assert (reviews("tea"), best_review("tea")) == ([], "no tea")
    assert [(answer.policy, answer.source) for answer in seen.noted] == [("shop", "fallback")] * 2
    assert shop.snapshot()["withheld"] == {"reviews": 2, "search": 0}


def test_asynchronous_functions_too(shop: Degradation) -> None:
    """With a value, a plain function, or an asynchronous one."""

    async def otherwise(sku: str) -> str:
        await asyncio.sleep(0)
        return f"no {sku}"

    async def found(sku: str) -> str:
        return sku

    decorated = [shop.feature("search", otherwise=each)(found) for each in (None, len, otherwise)]

    async def ask() -> list[Any]:
        return [await function("tea") for function in decorated]

    assert asyncio.run(ask()) == ["tea"] * 3
    shop.set("minimal")
    assert asyncio.run(ask()) == [None, 3, "no tea"]


def test_an_asynchronous_otherwise_needs_an_asynchronous_function(shop: Degradation) -> None:
    """Refused when decorated."""

    async def otherwise() -> None: ...

    with pytest.raises(hm.ConfigurationError, match=r"otherwise=.*otherwise is asynchronous, and int is not"):
        shop.feature("reviews", otherwise=otherwise)(int)


# Other settings


def test_other_settings_keep_what_is_known(shop: Degradation) -> None:
    """The level, what was said and counted; features switch at once, and one that is gone is on."""

    @shop.feature("search", otherwise=0)
    def search() -> int:
        return 1

    shop.report("database", 0.2)
    assert search() == 0
    with hear(shop) as heard:
        shop.reconfigure(
            DegradationSettings(
                features={"reviews": "reduced", "maps": "minimal"},
                name="shop",
                thresholds={"reduced": 0.9, "minimal": 0.1},
            )
        )
    assert [type(event) for event in heard.events] == [Reconfigured]
    assert search() == 1
    assert not shop.allows("maps")
    assert shop.snapshot()["withheld"] == {"reviews": 0, "maps": 0}
    with hear(shop) as heard:
        shop.reconfigure(DegradationSettings(features={}, levels=("good", "bad"), name="shop"))
    assert [type(event) for event in heard.events] == [Reconfigured, LevelChanged]
    assert shop.level == "bad"


def test_threads_agree(clock: ManualClock) -> None:
    """Threads that report, ask, set and reconfigure at once leave a level that fits what was said last."""
    shop = Degradation(features=FEATURES, recover_after=0, clock=clock, events=EventBus())
    shop.watch("watched", lambda: 1.0)
    ready = threading.Barrier(4)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            ready.wait(20)
            for step in range(300):
                shop.report(f"source {number}", (step + number) % 5 / 4)
                shop.allows("search")
                clock.advance(1)
                if step % 50 == number:
                    shop.set("reduced")
                    shop.reconfigure(shop.settings)
                    shop.release()
            shop.report(f"source {number}", 1.0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    for _ in range(6):
        clock.advance(1)
        _ = shop.level
    assert (shop.level, shop.by_hand) == ("full", False)
    assert shop.snapshot()["features"] == {"reviews": True, "search": True}

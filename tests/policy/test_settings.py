"""Settings: what can't be meant is refused when it is made, by a message that one can act on."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest

import hormesis as hm

PARTS: dict[type[Any], dict[str, Any]] = {
    hm.Deadline: {"limit": 1},
    hm.Fallback: {"value": 0},
    hm.Retry: {"on": "any"},
    hm.CircuitBreaker: {},
    hm.Bulkhead: {"max_concurrent": 1},
    hm.Timeout: {"limit": 1},
}
"""Every part, with the least that it needs."""

WHOLE = "a whole number from"
SHARE = "a share above 0 and at most 1"
DURATION = "'300ms', '2s', '1m30s'"
FACTOR = "a number from 1 to 100"
ON = "transient"

NO_WHOLES = [-1, 2_000_000, 1.5, "3", None, True, [1]]
NO_SHARES = [0, -0.1, 1.1, math.nan, "0.5", True, [0.5]]
NO_DURATIONS = [-1, math.nan, math.inf, True, "soon", "1 fortnight", [1]]
NO_ONS = ["transiet", 3, (), KeyboardInterrupt]

BAD = [
    *((hm.Deadline, "limit", value, DURATION) for value in [*NO_DURATIONS, 0, None]),
    *((hm.Deadline, "reserve", value, DURATION) for value in NO_DURATIONS),
    *((hm.Deadline, "reserve", value, "less than the limit of 1") for value in [1, "1s", 5]),
    *((hm.Fallback, "on", value, ON) for value in NO_ONS),
    *((hm.Retry, "on", value, ON) for value in [*NO_ONS, None]),
    *((hm.Retry, "attempts", value, WHOLE) for value in [*NO_WHOLES, 0]),
    *((hm.Retry, "delay", value, DURATION) for value in [*NO_DURATIONS, None]),
    *((hm.Retry, "delay_max", value, DURATION) for value in [*NO_DURATIONS, None]),
    *((hm.Retry, "factor", value, FACTOR) for value in [0.5, 101, math.nan, math.inf, True, "2", None, [2]]),
    *((hm.Retry, "jitter", value, "full, equal, none") for value in ["some", 3, None, ["full"]]),
    *((hm.Retry, "budget", value, SHARE) for value in NO_SHARES),
    *((hm.CircuitBreaker, "failure_rate", value, SHARE) for value in [*NO_SHARES, None]),
    *((hm.CircuitBreaker, "slow_rate", value, SHARE) for value in [*NO_SHARES, None]),
    *((hm.CircuitBreaker, "slow_after", value, DURATION) for value in [*NO_DURATIONS, 0]),
    *((hm.CircuitBreaker, "window", value, WHOLE) for value in [-1, 0, 1.5, None, True, [1]]),
    *((hm.CircuitBreaker, "window", value, DURATION) for value in ["soon", "0s", "100"]),
    *((hm.CircuitBreaker, "minimum_calls", value, WHOLE) for value in [*NO_WHOLES, 0]),
    (hm.CircuitBreaker, "minimum_calls", 101, "at most the window of 100 calls, or it never opens"),
    *((hm.CircuitBreaker, "open_for", value, DURATION) for value in [*NO_DURATIONS, 0, None]),
    *((hm.CircuitBreaker, "probes", value, WHOLE) for value in [*NO_WHOLES, 0]),
    *((hm.CircuitBreaker, "probe_expires", value, DURATION) for value in [*NO_DURATIONS, 0, None]),
    *((hm.CircuitBreaker, "on", value, ON) for value in [*NO_ONS, None]),
    *((hm.Bulkhead, "max_concurrent", value, WHOLE) for value in [*NO_WHOLES, 0]),
    *((hm.Bulkhead, "max_queued", value, WHOLE) for value in NO_WHOLES),
    *((hm.Bulkhead, "max_wait", value, DURATION) for value in [*NO_DURATIONS, 0, None]),
    *((hm.Timeout, "limit", value, DURATION) for value in [*NO_DURATIONS, 0, None]),
    *((hm.Timeout, "threads", value, WHOLE) for value in [-1, 0, 1.5, "3", True, 100_000]),
    *((hm.Timeout, "cooperative", value, "True or False") for value in ["no", 1, None]),
    *((hm.Fallback, "function", value, "a function") for value in ["stock", 3]),
]


@pytest.mark.parametrize(
    ("part", "key", "value", "accepted"), BAD, ids=[f"{part.__name__}-{key}-{value!r}" for part, key, value, _ in BAD]
)
def test_bad_settings(part: type[Any], key: str, value: object, accepted: str) -> None:
    """A setting that can't be meant is refused with its key, the value and what would do."""
    settings = {} if key == "function" else PARTS[part]
    with pytest.raises(hm.ConfigurationError) as caught:
        part(**(settings | {key: value}))
    assert caught.value.key == key
    assert accepted in str(caught.value)
    if value != ():  # an empty tuple is shown as the list that was read from it
        assert repr(value) in str(caught.value) or getattr(value, "__name__", "?") in str(caught.value)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_the_least_settings_do(part: type[Any]) -> None:
    """Every part can be made from what it can't know by itself."""
    assert isinstance(part(**PARTS[part]).describe(), str)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_settings_are_frozen_values(part: type[Any]) -> None:
    """Settings can't be changed, are equal when they say the same, and pickle."""
    one, other = part(**PARTS[part]), part(**PARTS[part])
    assert one == other
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, dataclasses.fields(part)[0].name, 3)
    assert dataclasses.replace(one) == one


def test_durations_are_normalised() -> None:
    """Settings hold seconds, however they were written, so that equal settings are equal."""
    assert hm.Timeout("500ms") == hm.Timeout(0.5)
    assert hm.CircuitBreaker(open_for="1m").open_for == 60.0
    assert hash(hm.Bulkhead(1, max_wait="1s")) == hash(hm.Bulkhead(1))


def test_only_the_obvious_value_is_positional() -> None:
    """Everything but the one obvious setting must be named."""
    for make in (
        lambda: hm.Retry("any"),  # type: ignore[call-arg]
        lambda: hm.CircuitBreaker(0.5),  # type: ignore[call-arg]
        lambda: hm.Bulkhead(1, 2),  # type: ignore[call-arg]
        lambda: hm.Timeout(1, 2),  # type: ignore[call-arg]
        lambda: hm.Deadline(1, 2),  # type: ignore[call-arg]
        lambda: hm.Fallback(len, 2),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match="positional"):
            make()


def test_what_a_retry_repeats_has_no_default() -> None:
    """Repeating the wrong thing does harm, so `on` must be said, and the error tells what it takes."""
    with pytest.raises(hm.ConfigurationError, match=r"on is missing; it takes exception types, .*transient"):
        hm.Retry()  # type: ignore[call-arg]


@pytest.mark.parametrize("settings", [{}, {"function": len, "value": 3}])
def test_a_fallback_has_one_answer(settings: dict[str, Any]) -> None:
    """A fallback takes a function or a value, not both and not neither."""
    with pytest.raises(hm.ConfigurationError, match="one of the two"):
        hm.Fallback(**settings)


def test_a_timeout_is_cooperative_or_has_threads() -> None:
    """The two ways to bound a synchronous function exclude each other."""
    with pytest.raises(hm.ConfigurationError, match="one of the two"):
        hm.Timeout(1, threads=1, cooperative=True)


def test_settings_of_kinds_pickle() -> None:
    """Settings made of plain values can be sent to another process."""
    bulkhead = hm.Bulkhead(3, max_queued=5)
    assert pickle.loads(pickle.dumps(bulkhead)) == bulkhead


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (hm.Deadline("2s"), "2s for the whole call"),
        (hm.Deadline("2s", reserve="500ms"), "2s for the whole call, 500ms of them kept for the answer"),
        (hm.Fallback(value=[]), "answers [] on any, rejected"),
        (hm.Fallback(len, on="timeout"), "answers by len() on timeout"),
        (
            hm.Retry(on="any", delay="50ms", jitter="none", budget=None),
            "up to 3 attempts on any, back-off 50ms x2 up to 5s, no jitter, no budget",
        ),
        (
            hm.Retry(on=("timeout", KeyError)),
            "up to 3 attempts on timeout, KeyError, back-off 100ms x2 up to 5s, full jitter, budget 20% of traffic",
        ),
        (hm.CircuitBreaker(), "opens when 50% of the last 100 calls fail (from 10 calls on), for 5s; then 3 probes"),
        (
            hm.CircuitBreaker(window="10s", slow_after="300ms"),
            "opens when 50% of the last 10s fail or 80% take 300ms or longer (from 10 calls on), for 5s; then 3 probes",
        ),
        (hm.Bulkhead(20), "at most 20 at a time, none wait"),
        (hm.Bulkhead(20, max_queued=40), "at most 20 at a time, 40 more wait up to 1s"),
        (hm.Timeout("500ms"), "500ms an attempt"),
        (hm.Timeout(1, threads=8), "1s an attempt, synchronous functions in 8 threads"),
        (hm.Timeout(1, cooperative=True), "1s an attempt, heeded by the function itself when it is synchronous"),
    ],
)
def test_settings_in_words(part: Any, words: str) -> None:
    """Every part says what it does in the user's words."""
    assert part.describe() == words

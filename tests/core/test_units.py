"""Durations, rates and sizes as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.errors import ConfigurationError
from hormesis.units import bytes_of, bytes_per_second, format_seconds, per_second, quota, seconds


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("300ms", 0.3),
        ("2s", 2.0),
        ("1m30s", 90.0),
        ("1 h", 3600.0),
        ("2min", 120.0),
        ("1d", 86400.0),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        (".5s", 0.5),
        (2, 2.0),
        (0.25, 0.25),
    ],
)
def test_durations(written: float | str, meant: float) -> None:
    """A duration is read in seconds, whatever its unit."""
    assert seconds(written) == pytest.approx(meant, rel=1e-12)


NO_DURATION = [-1, -0.5, math.nan, math.inf, True, None, [1], "", "5", "s", "-1s", "1s x", "1 fortnight", "1s" * 50]


@pytest.mark.parametrize("written", [0, "0s", *NO_DURATION])
def test_refused_durations(written: object) -> None:
    """What is no duration is refused with the key, the value and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        seconds(written, "delay")  # type: ignore[arg-type]
    assert caught.value.key == "delay"
    for part in ("delay", repr(written), "'300ms'"):
        assert part in str(caught.value)


def test_no_time_at_all_where_that_means_something() -> None:
    """Zero is a duration where the setting says so."""
    assert seconds(0, zero=True) == seconds("0ms", zero=True) == 0


@pytest.mark.parametrize(("written", "meant"), [("100/s", 100.0), ("6000/min", 100.0), ("10 / h", 10 / 3600), (5, 5.0)])
def test_rates(written: float | str, meant: float) -> None:
    """A rate is read in events a second."""
    assert per_second(written) == pytest.approx(meant)


@pytest.mark.parametrize(
    ("written", "meant"), [("20KB/s", 20e3), ("1.5MB/s", 1.5e6), ("2GB/s", 2e9), ("7 B/s", 7.0), (9, 9.0)]
)
def test_bandwidths(written: float | str, meant: float) -> None:
    """A bandwidth is read in bytes a second."""
    assert bytes_per_second(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("64KB", 64_000),
        ("1.5 MB", 1_500_000),
        (".5GB", 500_000_000),
        ("7B", 7),
        ("1.4B", 1),
        (512, 512),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sizes(written: int | str, meant: int) -> None:
    """A size is read in whole bytes, and what was read is read as the same again."""
    assert bytes_of(written) == bytes_of(meant) == meant
    assert type(bytes_of(written)) is int


@pytest.mark.parametrize(
    "written",
    [0, -1, 2**63, 10**400, 1.5, True, None, "", "64", "KB", "-1KB", "0.1B", "1KB/s", "9" * 50 + "B"],
)
def test_refused_sizes(written: object) -> None:
    """What is no size is refused with the key, the value and what would do."""
    with pytest.raises(ConfigurationError, match="bytes, as a whole number or like '64KB'") as caught:
        bytes_of(written, "room")  # type: ignore[arg-type]
    assert caught.value.key == "room"
    assert repr(written)[:20] in str(caught.value)


def test_bounds_of_sizes() -> None:
    """What a setting has for bounds is accepted, and a byte more or less is not."""
    assert [bytes_of(size, least=5, most=6) for size in (5, "6B")] == [5, 6]
    for size in (4, 7, "7B"):
        with pytest.raises(ConfigurationError, match=r"size is .*; it takes 5 to 6 bytes"):
            bytes_of(size, least=5, most=6)
    with pytest.raises(ConfigurationError, match="size is 4; it takes a handful"):
        bytes_of(4, least=5, accepted="a handful")


@pytest.mark.parametrize("parse", [per_second, bytes_per_second])
@pytest.mark.parametrize(
    "written", [0, -1, math.nan, math.inf, True, None, "", "100", "0/s", "0B/s", "many/s", "1/s" * 20]
)
def test_refused_rates(parse: object, written: object) -> None:
    """What is no rate is refused with the key, the value and what would do."""
    with pytest.raises(ConfigurationError, match="above zero") as caught:
        parse(written, "speed")  # type: ignore[operator]
    assert caught.value.key == "speed"
    assert repr(written) in str(caught.value)


@given(st.floats(1e-6, 3e8))
def test_parsing_is_idempotent(duration: float) -> None:
    """A setting that was normalised once reads the same ever after."""
    assert seconds(seconds(duration)) == duration
    assert per_second(per_second(duration)) == duration


@given(st.floats(1e-4, 1e7))
def test_what_we_write_we_can_read(duration: float) -> None:
    """A duration that was written for people means the same, to three digits, when it is read again."""
    assert seconds(format_seconds(duration)) == pytest.approx(duration, rel=0.006)


@pytest.mark.parametrize(
    ("duration", "written"),
    [
        (0, "0s"),
        (0.00025, "0.25ms"),
        (0.3, "300ms"),
        (0.9996, "1s"),
        (2, "2s"),
        (90, "1m30s"),
        (3600, "1h"),
        (3661, "1h1m1s"),
    ],
)
def test_durations_for_people(duration: float, written: str) -> None:
    """Durations are written the way people write them."""
    assert format_seconds(duration) == written


@pytest.mark.parametrize(
    ("written", "number", "window", "at_once", "text"),
    [
        ("100/s", 100, 1.0, 100, "100/s"),
        ("10000/d", 10_000, 86400.0, 10_000, "10000/d"),
        ("5 / 10 s", 5, 10.0, 5, "5/10s"),
        ("2.50/min", 5, 120.0, 3, "2.5/min"),
        (".5/s", 1, 2.0, 1, "0.5/s"),
        ("1.0/h", 1, 3600.0, 1, "1/h"),
        (100, 100, 1.0, 100, "100/s"),
        (0.25, 1, 4.0, 1, "0.25/s"),
    ],
)
def test_a_quota_keeps_its_halves(written: float | str, number: int, window: float, at_once: int, text: str) -> None:
    """So many in so many seconds; what it is written as is read as the same again."""
    assert quota(written) == (number, window, at_once, text)
    assert quota(text) == quota(written)


@pytest.mark.parametrize(
    "written",
    ["", "100", "0/s", "0.0/s", "1/0s", "-1/s", "1.2345/s", "1/11y", "1/3651d", "9" * 50 + "/s", -1, True, None],
)
def test_what_is_no_quota_is_refused(written: object) -> None:
    """The error names the setting, the value, and what would do."""
    with pytest.raises(ConfigurationError, match=r"rate is .*it takes a rate above zero") as caught:
        quota(written, "rate")  # type: ignore[arg-type]
    assert caught.value.key == "rate"

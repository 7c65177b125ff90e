"""Failure kinds: which exception is which, and what `on=` makes of them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hormesis import outcome
from hormesis.errors import BulkheadFull, ConfigurationError, DeadlineExceeded, TimedOut
from hormesis.outcome import (
    FailureKind,
    classify,
    failure_test,
    in_words,
    register_failures,
    result_test,
    retry_after,
)


class Teapot(Exception):
    def __init__(self, status: int = 418) -> None:
        super().__init__(status)
        self.status = status


class SmallTeapot(Teapot):
    pass


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test a table of its own, so that what it registers is gone afterwards."""
    monkeypatch.setattr(outcome, "_classifiers", dict(outcome._classifiers))
    yield
    outcome._by_type.clear()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), FailureKind.CONNECT),
        (socket.gaierror(), FailureKind.CONNECT),
        (OSError(errno.EHOSTUNREACH, "no route"), FailureKind.CONNECT),
        (TimeoutError(), FailureKind.TIMEOUT),
        (TimedOut("p", 1), FailureKind.TIMEOUT),
        (DeadlineExceeded("p", 1), FailureKind.TIMEOUT),
        (ConnectionResetError(), FailureKind.UNAVAILABLE),
        (BrokenPipeError(), FailureKind.UNAVAILABLE),
        (OSError(errno.ENOSPC, "disk full"), FailureKind.ERROR),
        (KeyError("x"), FailureKind.ERROR),
        (BulkheadFull("p", "full"), FailureKind.REJECTED),
    ],
    ids=repr,
)
def test_kinds_of_the_standard_librarys_exceptions(error: Exception, kind: FailureKind) -> None:
    """Every exception of the standard library is the kind of failure that it means."""
    assert classify(error) is kind


def test_registered_kinds_hold_for_subclasses() -> None:
    """A class follows its nearest registered ancestor, also when it was classified before."""
    assert classify(SmallTeapot()) is FailureKind.ERROR
    register_failures({f"{__name__}.Teapot": FailureKind.INVALID})
    assert classify(SmallTeapot()) is FailureKind.INVALID
    register_failures({f"{__name__}.SmallTeapot": lambda error: FailureKind(error.args[0])})
    assert classify(SmallTeapot("throttled")) is FailureKind.THROTTLED  # type: ignore[arg-type]
    assert classify(Teapot()) is FailureKind.INVALID


def test_classes_made_on_the_fly_do_not_pile_up() -> None:
    """The cache of classified types is bounded."""
    for number in range(outcome._CACHED_TYPES_MAX + 10):
        classify(type(f"Error{number}", (Exception,), {})())
    assert len(outcome._by_type) <= outcome._CACHED_TYPES_MAX


@pytest.mark.parametrize(
    ("on", "wanted", "unwanted"),
    [
        ("transient", TimeoutError(), KeyError()),
        ("any", KeyError(), BulkheadFull("p", "full")),
        ("timeout", TimeoutError(), ConnectionError()),
        (["connect", "timeout"], ConnectionRefusedError(), ConnectionError()),
        (KeyError, KeyError(), TimeoutError()),
        ((KeyError, "timeout"), TimeoutError(), ValueError()),
        ((KeyError, "timeout"), KeyError(), ValueError()),
        (lambda error: error.args == (1,), Exception(1), Exception(2)),
    ],
)
def test_what_on_takes(on: Any, wanted: Exception, unwanted: Exception) -> None:
    """`on=` takes failure kinds, exception types, both together, or a function."""
    test = failure_test(on)
    assert test(wanted)
    assert not test(unwanted)


@pytest.mark.parametrize("on", ["transiet", KeyboardInterrupt, (), [], 3, None, ("timeout", 3), (KeyError, SystemExit)])
def test_refused_on(on: Any) -> None:
    """What `on=` can't mean is refused, above all what would swallow an interrupt."""
    with pytest.raises(ConfigurationError) as caught:
        failure_test(on)
    assert caught.value.key == "on"
    assert "transient" in str(caught.value)


def test_on_in_words() -> None:
    """An `on=` setting is written with names, not with the representations of objects."""
    assert in_words("any") == "any"
    assert in_words((KeyError, "timeout")) == "KeyError, timeout"
    assert in_words(len) == "len"


async def asynchronous(value: object) -> bool:
    """A test that nobody awaits."""
    return False


def test_tests_are_synchronous() -> None:
    """An asynchronous test of a failure or a result would always be true, and is refused when it is given."""
    with pytest.raises(ConfigurationError, match="on is <function asynchronous"):
        failure_test(asynchronous)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_result is <function asynchronous"):
        result_test(asynchronous)
    assert result_test(None) is None


def test_when_a_dependency_wants_to_be_asked_again() -> None:
    """It is the failure's own word, or the header of its response, or of itself; what is no time says nothing."""
    response = SimpleNamespace(headers={"Retry-After": "7"})
    error = ConnectionError()
    assert retry_after(error) is None
    error.response = response  # type: ignore[attr-defined]
    assert retry_after(error) == 7
    error.retry_after = 3  # type: ignore[attr-defined]
    assert retry_after(error) == 3
    error.retry_after = "soon"  # type: ignore[attr-defined]
    assert retry_after(error) is None
    alone = ConnectionError()
    alone.headers = {"retry-after": "9"}  # type: ignore[attr-defined]
    assert retry_after(alone) == 9

"""Errors: who is to blame, what they say, and that they survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest

from hormesis import errors
from hormesis.errors import (
    BulkheadFull,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    HormesisError,
    InjectedFault,
    MissingExtraError,
    Overloaded,
    RateLimited,
    Rejected,
    Throttled,
    TimedOut,
    WorkerCrashed,
    WorkerError,
)

EXAMPLES: list[HormesisError] = [
    HormesisError("something"),
    InjectedFault("stock", "throttled", 429, 1.5),
    ConfigurationError("attempts is 0", "attempts"),
    MissingExtraError("reading settings from a file", "files"),
    Rejected("stock", "full"),
    CircuitOpen("stock", "open", 1.5),
    BulkheadFull("stock", "queue full", None),
    RateLimited("stock", "used up", 0.5),
    Throttled("stock", "throttled", None),
    Overloaded("stock", "queue full", 1.0),
    TimedOut("stock", 0.5),
    DeadlineExceeded("stock", 2.0),
    WorkerCrashed("stock", "was killed by SIGSEGV"),
    WorkerError("stock", "Odd(3)"),
]


def test_every_error_has_an_example_here() -> None:
    """No error is added without showing that it pickles."""
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_pickle(error: HormesisError) -> None:
    """An error keeps its class, its message, its facts and its notes on the way to another process."""
    error.add_note("seen")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (ConfigurationError("x"), ValueError),
        (MissingExtraError("x", "files"), ImportError),
        (CircuitOpen("p", "open"), Rejected),
        (BulkheadFull("p", "full"), Rejected),
        (TimedOut("p", 1), TimeoutError),
        (DeadlineExceeded("p", 1), TimedOut),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_families(error: HormesisError, family: type[Exception]) -> None:
    """Errors can be caught as what they are to people who don't know this library."""
    assert isinstance(error, HormesisError)
    assert isinstance(error, family)


def test_rejections_say_who_and_when_to_come_back() -> None:
    """A rejection names the policy, the reason, and the time to wait where that is known."""
    assert str(CircuitOpen("stock", "open", 1.5)) == "policy 'stock' refused the call: open; try again in 1.5 s"
    assert str(BulkheadFull("stock", "full")) == "policy 'stock' refused the call: full"


def test_unknown_names_get_a_hint() -> None:
    """A mistyped name is answered with the nearest known one, and with all of them."""
    error = ConfigurationError.unknown("part", "timout", ["retry", "timeout"], "policy.x")
    assert str(error) == "unknown part 'timout' (did you mean 'timeout'?); known are: retry, timeout"
    assert error.key == "policy.x"
    assert str(ConfigurationError.unknown("part", "x", [])) == "unknown part 'x'; known are: none"


def test_missing_extras_say_what_to_install() -> None:
    """A missing optional library is named by the extra that brings it."""
    assert "pip install 'hormesis[files]'" in str(MissingExtraError("reading settings from a file", "files"))

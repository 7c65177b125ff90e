"""How a permit ends, and what kind of failure an exception is.

A policy must not care which client library raised. So every exception is one of a few *failure kinds*, and every
integration maps its own exceptions to them with `register_failures`: by the class's full name, so that mapping
`httpx.ConnectError` (which is no `ConnectionError`) imports no httpx.

    connect      the dependency was never reached: nothing can have happened there
    timeout      no answer in time: it may or may not have happened
    unavailable  reached, and it can't serve now (503, a connection lost before the answer)
    throttled    reached, and it asks to slow down (429)
    error        any other exception: reached, and it failed
    invalid      the dependency works; the request was wrong (404, 422): repeating it or blaming it is pointless
    rejected     a policy of ours refused the call: says nothing of the dependency

`"transient"` stands for the first four, `"any"` for the first five.
"""

from __future__ import annotations

import enum
import errno
import inspect
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

from hormesis.errors import ConfigurationError, Rejected, WorkerCrashed
from hormesis.headers import retry_after_of

__all__ = [
    "ON_ACCEPTED",
    "ON_RESULT_ACCEPTED",
    "Ending",
    "FailureKind",
    "FailureTest",
    "On",
    "OnResult",
    "UnwantedResult",
    "classify",
    "failure_test",
    "in_words",
    "register_failures",
    "result_test",
    "retry_after",
]


class Ending(enum.Enum):
    """How a permit ended; each permit ends exactly once."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """It ended, and the outcome says nothing of the dependency (a rejection further in)."""
    CANCELLED = "cancelled"
    """The caller went away; cancelled is not failed."""
    ABANDONED = "abandoned"
    """It never came back, and its permit expired."""


class FailureKind(enum.StrEnum):
    """What kind of failure an exception is; see the module's docstring."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    ERROR = "error"
    INVALID = "invalid"
    REJECTED = "rejected"


class UnwantedResult(Exception):
    """An answer that came, and is a failure all the same: a 503 that the client library returns as a response.

    Inside a policy it travels as an exception, so that breaker, retry and fallback treat it like any failure. When all
    is tried, the caller gets the `result` itself, as the function returned it. Integrations raise it; functions whose
    results are judged by a part's `on_result` need not.

    Args:
        result: The answer.
        kind: What kind of failure it is.
        retry_after: Seconds until the server wants to be asked again; None when it did not say.
        dispose: Frees what the answer holds (an open response) when another attempt takes its place; for an
            asynchronous call it may return an awaitable.
    """

    def __init__(
        self,
        result: object,
        kind: FailureKind = FailureKind.ERROR,
        *,
        retry_after: float | None = None,
        dispose: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(result)
        self.result = result
        self.kind = kind
        self.retry_after = retry_after
        self.dispose = dispose
        self.freed = False
        """Whether what the result held has been freed, so that it is no use to anybody."""

    def free(self) -> object:
        """Free what the result holds, once; it may return something to await."""
        dispose, self.dispose = self.dispose, None
        if dispose is None:
            return None
        self.freed = True
        return dispose()


_TRANSIENT = frozenset({FailureKind.CONNECT, FailureKind.TIMEOUT, FailureKind.UNAVAILABLE, FailureKind.THROTTLED})
_NAMED: dict[str, frozenset[FailureKind]] = {
    "transient": _TRANSIENT,
    "any": _TRANSIENT | {FailureKind.ERROR},
    **{kind.value: frozenset({kind}) for kind in FailureKind},
}

Classifier: TypeAlias = FailureKind | Callable[[Any], FailureKind]
"""The kind of every instance of an exception class, or a function that tells it of one instance."""

FailureTest: TypeAlias = Callable[[BaseException], bool]

On: TypeAlias = str | type[Exception] | Callable[[BaseException], bool] | tuple[str | type[Exception], ...] | list[str]
"""Which failures a pattern acts on: failure kinds, exception types, a tuple of both, or a predicate."""

OnResult: TypeAlias = Callable[[Any], bool]
"""Which results are failures: a predicate over what the function returned."""

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ECONNREFUSED})


def _os_error(error: OSError) -> FailureKind:
    return FailureKind.CONNECT if error.errno in _UNREACHABLE else FailureKind.ERROR


_classifiers: dict[str, Classifier] = {}
_by_type: dict[type[BaseException], Classifier] = {}
_CACHED_TYPES_MAX = 1024
"""Programs that make exception classes on the fly must not grow the cache for ever."""


def register_failures(table: Mapping[str, Classifier]) -> None:
    """Tell what kinds of failure the exceptions of a library are.

    Args:
        table: Full class names (`"httpx.ConnectError"`, module and qualified name) to a kind, or to a function of the
            exception that returns one. Subclasses follow their nearest registered ancestor.

    >>> register_failures({"decimal.InvalidOperation": FailureKind.INVALID})
    >>> import decimal; classify(decimal.InvalidOperation())
    <FailureKind.INVALID: 'invalid'>
    """
    _classifiers.update(table)
    _by_type.clear()


def classify(error: BaseException) -> FailureKind:
    """Return the kind of failure that an exception is.

    >>> classify(ConnectionRefusedError()), classify(KeyError())
    (<FailureKind.CONNECT: 'connect'>, <FailureKind.ERROR: 'error'>)
    """
    kind = type(error)
    classifier = _by_type.get(kind)
    if classifier is None:
        classifier = _look_up(kind)
        if len(_by_type) >= _CACHED_TYPES_MAX:
            _by_type.clear()
        _by_type[kind] = classifier
    return classifier if isinstance(classifier, FailureKind) else classifier(error)


def _look_up(kind: type[BaseException]) -> Classifier:
    for ancestor in kind.__mro__:
        classifier = _classifiers.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
        if classifier is not None:
            return classifier
    return FailureKind.ERROR


def _full_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


register_failures(
    {
        _full_name(Rejected): FailureKind.REJECTED,
        _full_name(UnwantedResult): lambda error: error.kind,
        # The author's mistake, found by us: as a rejection it says nothing of the dependency and is never repeated.
        _full_name(ConfigurationError): FailureKind.REJECTED,
        _full_name(TimeoutError): FailureKind.TIMEOUT,
        _full_name(WorkerCrashed): FailureKind.UNAVAILABLE,
        _full_name(ConnectionRefusedError): FailureKind.CONNECT,
        _full_name(ConnectionError): FailureKind.UNAVAILABLE,
        _full_name(socket.gaierror): FailureKind.CONNECT,
        _full_name(OSError): _os_error,
    }
)


def failure_test(on: On, key: str = "on") -> FailureTest:
    """Compile an `on=` setting into a predicate over exceptions.

    Raises:
        ConfigurationError: A name is no failure kind, or a type is no subclass of `Exception` (a policy must never
            swallow `KeyboardInterrupt` or a cancellation).

    >>> failure_test("transient")(TimeoutError()), failure_test(KeyError)(TimeoutError())
    (True, False)
    """
    if isinstance(on, str):
        return _by_kinds(_kinds(on, key))
    if isinstance(on, type):
        return _by_types((_exception_type(on, key),))
    if isinstance(on, tuple | list):
        return _by_mixture(on, key)
    if inspect.iscoroutinefunction(on) or not callable(on):  # what an asynchronous one returns is always true
        raise _bad_on(key, on)
    return on


def _by_kinds(kinds: frozenset[FailureKind]) -> FailureTest:
    return lambda error: classify(error) in kinds


def _by_types(types: tuple[type[Exception], ...]) -> FailureTest:
    return lambda error: isinstance(error, types)


def _by_mixture(on: Iterable[object], key: str) -> FailureTest:
    items = list(on)
    if not items:
        raise _bad_on(key, on)
    kinds = frozenset[FailureKind]().union(*(_kinds(item, key) for item in items if isinstance(item, str)))
    types = tuple(_exception_type(item, key) for item in items if not isinstance(item, str))
    return lambda error: isinstance(error, types) or classify(error) in kinds


def _kinds(name: str, key: str) -> frozenset[FailureKind]:
    try:
        return _NAMED[name]
    except KeyError:
        raise ConfigurationError.unknown("failure kind", name, _NAMED, key) from None


def _exception_type(item: object, key: str) -> type[Exception]:
    if isinstance(item, type) and issubclass(item, Exception):
        return item
    raise _bad_on(key, item)


ON_ACCEPTED = f"exception types, a function of an exception, or failure kinds ({', '.join(_NAMED)})"
"""What an `on=` setting takes, in words."""


ON_RESULT_ACCEPTED = "a function that takes a result and returns whether it is a failure"
"""What an `on_result=` setting takes, in words."""


def result_test(on_result: object, key: str = "on_result") -> OnResult | None:
    """Check an `on_result=` setting.

    Raises:
        ConfigurationError: It is neither None nor a function.
    """
    if on_result is None:
        return None
    # What an asynchronous function returns is true, whatever it would have said.
    if not callable(on_result) or isinstance(on_result, type) or inspect.iscoroutinefunction(on_result):
        raise ConfigurationError.bad_value(key, on_result, ON_RESULT_ACCEPTED)
    return cast("OnResult", on_result)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds after which a dependency wants to be asked again, if the failure says so.

    It is the exception's own `retry_after`, as `UnwantedResult` and a server's rejection carry it, or the `Retry-After`
    header of its `response` or of itself, as the exceptions of most HTTP clients have it.

    >>> retry_after(UnwantedResult(None, FailureKind.THROTTLED, retry_after=2.0))
    2.0
    """
    own = getattr(error, "retry_after", None)
    if own is None:
        headers = getattr(getattr(error, "response", error), "headers", None)
        return None if headers is None else retry_after_of(headers)
    return float(own) if isinstance(own, int | float) and own >= 0 else None


def _bad_on(key: str, value: object) -> ConfigurationError:
    return ConfigurationError.bad_value(key, value, ON_ACCEPTED)


def in_words(on: object) -> str:
    """Write an `on=` setting for people.

    >>> in_words(("transient", KeyError))
    'transient, KeyError'
    """
    if isinstance(on, tuple | list):
        return ", ".join(in_words(item) for item in on)
    return on if isinstance(on, str) else str(getattr(on, "__name__", on))

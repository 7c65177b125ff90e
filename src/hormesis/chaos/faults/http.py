"""Faults of HTTP, as values: what a `FaultProxy` does to single requests and answers of plaintext HTTP/1.1.

With TLS they need a proxy that ends it (`hormesis.chaos.wire.tls`). They strike requests, so their `share`, `requests`,
`route` and `header` are about requests; bytes that are no HTTP pass by them unharmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias, get_args

from hormesis.chaos.faults.aim import ByRequest
from hormesis.chaos.faults.checks import check_choice
from hormesis.chaos.faults.wire import Stream
from hormesis.errors import ConfigurationError
from hormesis.units import Size, bytes_of

__all__ = ["Headers", "OnRequest", "Rewrite", "Status", "Truncate", "pairs"]

Headers: TypeAlias = Mapping[str, Any] | tuple[tuple[str, Any], ...]
"""Names and values, as a table; kept as pairs, so that a fault can be hashed."""

_BODY_MAX = 1_000_000
_HEADERS_MAX = 100
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8000}")
_OUR_OWN = {"content-length", "transfer-encoding", "connection"}


@dataclass(frozen=True, slots=True, repr=False)
class OnRequest(ByRequest):
    """A fault that is always one of requests."""

    @property
    def picks_requests(self) -> bool:
        """Whether it strikes single requests, and not connections."""
        return True

    @property
    def reads_http(self) -> bool:
        """Whether it needs to know HTTP requests."""
        return True


@dataclass(frozen=True, slots=True, repr=False)
class Status(OnRequest):
    """Requests are answered by the proxy, in the place of the dependency.

    Args:
        status: The status of the answer, 200 to 599.
        body: Its body.
        headers: Its headers, besides Content-Length and Date. Without a Content-Type it is plain text.
        ask: Whether the dependency gets the request, and does the work, before its answer is replaced.

    >>> print(Status(503, route="POST /orders", requests="1-2"))
    answers 503 on requests 1-2 of POST /orders
    """

    status: int
    _: KW_ONLY
    body: str = ""
    headers: Headers = ()
    ask: bool = False

    def __post_init__(self) -> None:
        _check_status(self.status)
        _check_body(self.body)
        object.__setattr__(self, "headers", _headers("headers", self.headers, removal=False))
        for name, _value in pairs(self.headers):
            if name.lower() in _OUR_OWN:
                raise ConfigurationError.bad_value("headers", name, "no header that frames the answer: we do that")
        _check_flag("ask", self.ask)
        self._check_aim()

    def __str__(self) -> str:
        return f"answers {self.status}{' in the place of the answer' if self.ask else ''}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Truncate(OnRequest):
    """Answers are cut off: their head and so many bytes of their body come through, then the connection is closed."""

    truncate: Size

    def __post_init__(self) -> None:
        object.__setattr__(self, "truncate", bytes_of(self.truncate, "truncate", least=0))
        self._check_aim()

    def __str__(self) -> str:
        return f"cuts answers off after {self.truncate} bytes{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Rewrite(OnRequest):
    """Headers of answers, or of requests, are changed.

    Args:
        rewrite: Names and what becomes of them: a text replaces the header or puts it there, `false` takes it out.
        add: A text is added to what is there under this name, as a header of its own, and replaces nothing.
        stream: `"downstream"` for answers, `"upstream"` for requests.

    >>> print(Rewrite({"Retry-After": "3600", "ETag": False}))
    rewrites Retry-After, ETag of answers
    """

    rewrite: Headers
    _: KW_ONLY
    add: bool = False
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewrite", _headers("rewrite", self.rewrite, removal=True))
        if not self.rewrite:
            raise ConfigurationError.bad_value("rewrite", {}, "at least one header")
        for name, _value in pairs(self.rewrite):
            if name.lower() in _OUR_OWN:
                raise ConfigurationError.bad_value("rewrite", name, "no header that says where a message ends")
        _check_flag("add", self.add)
        check_choice("stream", self.stream, get_args(Stream))
        self._check_aim()

    def __str__(self) -> str:
        what = {"downstream": "answers", "upstream": "requests", "both": "requests and answers"}[self.stream]
        return f"rewrites {', '.join(name for name, _ in pairs(self.rewrite))} of {what}{self._whom()}"


def pairs(headers: Headers) -> tuple[tuple[str, Any], ...]:
    """Return names and values."""
    return headers if isinstance(headers, tuple) else tuple(headers.items())


def _check_status(status: object) -> None:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ConfigurationError.bad_value("status", status, "a status from 200 to 599")


def _check_body(body: object) -> None:
    if not isinstance(body, str) or len(body) > _BODY_MAX:
        raise ConfigurationError.bad_value("body", _short(body), f"a text of up to {_BODY_MAX:,} characters")


def _check_flag(key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError.bad_value(key, value, "true or false")


def _headers(key: str, value: object, *, removal: bool) -> tuple[tuple[str, Any], ...]:
    accepted = "a table of up to 100 headers and their texts" + (", or false to take one out" if removal else "")
    given: Iterable[Any] = value.items() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [()]
    found = []
    for pair in given:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ConfigurationError.bad_value(key, value, accepted)
        name, text = pair
        out = removal and text is False
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError.bad_value(key, value, accepted)
        if not out and not (isinstance(text, str) and _VALUE.fullmatch(text)):
            raise ConfigurationError.bad_value(f"{key}.{name}", _short(text), accepted)
        found.append((name, text))
    if len(found) > _HEADERS_MAX:
        raise ConfigurationError.bad_value(key, f"a table of {len(found)}", accepted)
    return tuple(found)


def _short(value: object) -> object:
    return value[:40] + "…" if isinstance(value, str) and len(value) > 40 else value

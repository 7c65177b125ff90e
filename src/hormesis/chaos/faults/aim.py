"""Whom a fault on the wire strikes, and when: decided by counting and hashing, so that the same seed strikes the same.

A fault narrows down in this order. *Filters* leave out what it is not meant for: the wrong client, route, header, or a
moment outside its window. What is left is *counted* from 1, connections and requests each, from the moment the fault is
put into force: `connections = "1-2"`, `requests = "3, every 5"`. A *share* of what was counted is struck by luck, a
hash of (seed, edge, name of the fault, number) that is compared with the share: raising the share from .2 to .4 keeps
everything that .2 has struck.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from hormesis.chaos.faults.checks import check_share
from hormesis.core.ordinals import Ordinals
from hormesis.errors import ConfigurationError
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["ByConnection", "ByRequest", "ClientRange", "Head", "Windowed", "client_range"]

_TEXT_MAX = 1000
_CLIENT_ACCEPTED = "an address or network, with a port or ports if meant: '10.0.0.0/8', '127.0.0.1:4000-4010', '[::1]'"
_CLIENT = re.compile(r"(?:\[([0-9A-Fa-f:.%/]+)\]|([0-9./]+)|([0-9A-Fa-f:.]+(?:/\d+)?))(?::(\d{1,5})(?:-(\d{1,5}))?)?")
_ROUTE_ACCEPTED = "a path, a method, or both: '/orders', '/orders/{id}', 'POST /orders/*', 'DELETE'"
_ROUTE = re.compile(r"(?:([A-Z]+)(?:\s+|$))?(\*|/(?:[^*{}\s]|\{[A-Za-z_]\w*\})*\*?)?")
_HEADER_ACCEPTED = "the name of a header, or name and value: 'X-Canary', 'X-Tenant: acme', 'Accept: text/*'"
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*:\s*(.*?)\s*)?")


class Head(NamedTuple):
    """What is known of a request when its fate is decided.

    Args:
        method: Such as `"GET"`.
        path: Without the query.
        headers: By their names in lower case; of several with one name, the values with commas between.
    """

    method: str
    path: str
    headers: Mapping[str, str]


_ordinals = lru_cache(maxsize=256)(Ordinals)


class ClientRange(NamedTuple):
    """Where a client may be: a network, and the ports it speaks from."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    first_port: int
    last_port: int

    def __contains__(self, address: object) -> bool:
        """Whether an address, as `accept` gives it, is in the range."""
        if not isinstance(address, tuple) or len(address) < 2:
            return False  # a Unix socket's client has no address
        host: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(str(address[0]))
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped
        return host in self.network and self.first_port <= int(address[1]) <= self.last_port


@lru_cache(maxsize=256)
def client_range(text: str, key: str = "client") -> ClientRange:
    """Read where a client may be.

    Raises:
        ConfigurationError: It is no address and no network, or the ports are none.

    >>> ("10.1.2.3", 50000) in client_range("10.0.0.0/8"), ("10.1.2.3", 50000) in client_range("10.1.2.3:1-1023")
    (True, False)
    """
    match = _CLIENT.fullmatch(text.strip()) if len(text) <= _TEXT_MAX else None
    if match is None:
        raise ConfigurationError.bad_value(key, text, _CLIENT_ACCEPTED)
    bracketed, v4, v6, first, last = match.groups()
    try:
        network = ipaddress.ip_network(bracketed or v4 or v6, strict=False)
    except ValueError:
        raise ConfigurationError.bad_value(key, text, _CLIENT_ACCEPTED) from None
    low = int(first) if first else 0
    high = int(last) if last else low if first else 65535
    if not 0 <= low <= high <= 65535:
        raise ConfigurationError.bad_value(key, text, _CLIENT_ACCEPTED)
    return ClientRange(network, low, high)


class Route(NamedTuple):
    """A method and the pattern of a path, each of which may be left open."""

    method: str | None
    path: re.Pattern[str] | None

    def __contains__(self, head: object) -> bool:
        return (
            isinstance(head, Head)
            and (self.method is None or self.method == head.method)
            and (self.path is None or self.path.fullmatch(head.path) is not None)
        )


@lru_cache(maxsize=256)
def _route(text: str, key: str = "route") -> Route:
    match = _ROUTE.fullmatch(text.strip()) if 0 < len(text.strip()) <= _TEXT_MAX else None
    if match is None:
        raise ConfigurationError.bad_value(key, text, _ROUTE_ACCEPTED)
    method, path = match.groups()
    if path is None:
        return Route(method, None)
    pieces = (
        "[^/]+" if piece.startswith("{") else ".*" if piece == "*" else re.escape(piece)
        for piece in re.split(r"(\{\w+\}|\*)", path)
    )
    return Route(method, re.compile("".join(pieces), re.DOTALL))


class HeaderRange(NamedTuple):
    """A header that must be there, and what it must hold if that matters."""

    name: str
    value: re.Pattern[str] | None

    def __contains__(self, head: object) -> bool:
        if not isinstance(head, Head) or (found := head.headers.get(self.name)) is None:
            return False
        return self.value is None or self.value.fullmatch(found) is not None


@lru_cache(maxsize=256)
def _header(text: str, key: str = "header") -> HeaderRange:
    match = _HEADER.fullmatch(text.strip()) if len(text) <= _TEXT_MAX else None
    if match is None:
        raise ConfigurationError.bad_value(key, text, _HEADER_ACCEPTED)
    name, value = match.groups()
    pattern = None if value is None else re.compile(".*".join(map(re.escape, value.split("*"))), re.DOTALL)
    return HeaderRange(name.lower(), pattern)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Windowed:
    """What every fault on the wire has: a window in time.

    Args:
        after: Seconds that pass before it acts, from when it is put into force.
        until: Seconds after which it acts no more, from the same moment; None: as long as it is in force.
    """

    after: Duration = 0.0
    until: Duration | None = None

    def _check_aim(self) -> None:
        object.__setattr__(self, "after", seconds(self.after, "after", zero=True))
        if self.until is not None:
            object.__setattr__(self, "until", seconds(self.until, "until"))
            if seconds(self.until) <= seconds(self.after, zero=True):
                raise ConfigurationError.bad_value("until", self.until, f"more than `after`, which is {self.after}")

    @property
    def window(self) -> tuple[float, float | None]:
        """Seconds from and up to which it acts, from when it is put into force."""
        return seconds(self.after, zero=True), None if self.until is None else seconds(self.until)

    def _whom(self) -> str:
        """Say what is not as usual: it strikes everything, at all times."""
        after, until = self.window
        words = f" after {format_seconds(after)}" if after else ""
        return words + (f" until {format_seconds(until)}" if until is not None else "")

    def __repr__(self) -> str:
        """Only what is not as usual: a fault has many settings, and most are at their defaults."""
        shown = [repr(getattr(self, each.name)) for each in dataclasses.fields(self) if not each.kw_only]
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.kw_only and value != each.default:
                shown.append(f"{each.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class ByConnection(Windowed):
    """What a fault of connections has besides.

    Args:
        share: The part of the connections that is struck.
        connections: Which of them, counted from 1 since the fault was put into force: `"1-2"`, `"3"`, `"10-"`,
            `"every 5"`; None: all, those included that were open before.
        client: The network or address, and ports if meant, of the clients concerned; None: all.
    """

    share: float = 1.0
    connections: int | str | None = None
    client: str | None = None

    def _check_aim(self) -> None:
        Windowed._check_aim(self)
        check_share(self.share)
        object.__setattr__(self, "share", float(self.share))
        _normalise_ordinals(self, "connections")
        if self.client is not None:
            client_range(_text("client", self.client, _CLIENT_ACCEPTED))

    @property
    def picks_requests(self) -> bool:
        """Whether it strikes single requests, and not connections."""
        return False

    def counts_connection(self, address: object) -> bool:
        """Whether a connection of a client at an address is one that it counts."""
        return self.client is None or address in client_range(self.client)

    def strikes_connection(self, number: int | None, luck: float) -> bool:
        """Whether a connection is struck.

        Args:
            number: As counted since the fault was put into force; None for one that was open before.
            luck: Of this connection, in [0, 1).
        """
        chosen = self.connections is None or (number is not None and number in _ordinals(str(self.connections)))
        return chosen and (self.picks_requests or luck < self.share)

    def _whom(self, *, share: bool = True) -> str:
        counted = "requests" if self.picks_requests else "connections"
        words = f" on {100 * self.share:.3g} % of {counted}" if share and self.share < 1 else ""
        words += f" on connections {self.connections}" if self.connections is not None else ""
        words += f" from {self.client}" if self.client is not None else ""
        return words + Windowed._whom(self)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class ByRequest(ByConnection):
    """What a fault has that can strike single requests and their answers.

    With one of these settings `share` is the part of the requests. A request is counted when its first bytes come in.
    `route` and `header` look into plaintext HTTP/1.1 (or TLS that the proxy ends); in other bytes they find nothing.

    Args:
        requests: Which requests of the edge, counted from 1 since the fault was put into force, as with `connections`.
        route: Method, path or both, as in `"POST /orders/{id}"`, `"/admin/*"`.
        header: A header that the request must have, with its value if that matters: `"X-Tenant: acme"`.
    """

    requests: int | str | None = None
    route: str | None = None
    header: str | None = None

    def _check_aim(self) -> None:
        ByConnection._check_aim(self)
        _normalise_ordinals(self, "requests")
        if self.route is not None:
            _route(_text("route", self.route, _ROUTE_ACCEPTED))
        if self.header is not None:
            _header(_text("header", self.header, _HEADER_ACCEPTED))

    @property
    def picks_requests(self) -> bool:
        """Whether it strikes single requests, and not connections."""
        return self.requests is not None or self.reads_http

    @property
    def reads_http(self) -> bool:
        """Whether it needs to know HTTP requests."""
        return self.route is not None or self.header is not None

    def counts_request(self, head: Head | None) -> bool:
        """Whether a request is one that it counts.

        Args:
            head: What is known of it; None where the bytes are not read as HTTP.
        """
        return (self.route is None or head in _route(self.route)) and (
            self.header is None or head in _header(self.header)
        )

    def strikes_request(self, number: int, luck: float) -> bool:
        """Whether a request is struck, the `number`-th that was counted, with its own luck in [0, 1)."""
        return (self.requests is None or number in _ordinals(str(self.requests))) and luck < self.share

    def _whom(self, *, share: bool = True) -> str:
        words = ""
        if self.requests is not None:
            words = f" on requests {self.requests}"
        elif self.route is not None or self.header is not None:
            words = " on requests"
        words += f" of {self.route}" if self.route is not None else ""
        words += f" with {self.header}" if self.header is not None else ""
        return words + ByConnection._whom(self, share=share)


def _normalise_ordinals(fault: ByConnection, key: str) -> None:
    value = getattr(fault, key)
    if value is not None:
        object.__setattr__(fault, key, Ordinals(value, key).text)


def _text(key: str, value: object, accepted: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError.bad_value(key, value, accepted)
    return value

"""Where a request comes from, and whether what it says of itself is believed.

A request reaches a service through hops: a load balancer, a gateway, another service. Each hop that is a proxy appends
the address that it was called from to `X-Forwarded-For` (or `Forwarded`). The list is read from its right end, where
our own proxies write: as long as a hop is known, whom it names is believed; the first one that is not known is the
client. What stands left of it anybody can have written.

Two kinds of hop are known. *Trusted* ones are believed in everything: the address, the priority, the deadline, the
tenant. *Proxies* are believed in addresses alone, as befits a load balancer at the edge that passes on whatever
browsers send; and browsers send priorities.

The client's key is its address; of an IPv6 address the network of 64 bits, which is what one customer has.

Sources: RFC 7239, for `Forwarded`; "The perils of the real client IP" (adam-p, 2022), for the right end.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

from hormesis.errors import ConfigurationError

__all__ = ["ADDRESSES", "AddressHeader", "Network", "Origin", "Trust", "network", "networks"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

AddressHeader: TypeAlias = Literal["x-forwarded-for", "forwarded"]
ADDRESSES: Final[tuple[AddressHeader, ...]] = ("x-forwarded-for", "forwarded")
"""The headers in which proxies tell whom they were called by."""

_UNIX = "unix"
"""Stands among networks for a peer without an address: a socket of this machine."""

_HOPS_MAX = 16
"""Hops that are followed at most; a longer way was made up."""

_LONGEST = 64
"""Characters of an address; the longest IPv6 address with a zone and a port is shorter."""

_KNOWN_MAX = 4096
"""Addresses that are remembered; each costs some microseconds to read."""

_CUSTOMER_BITS = 64

# No part of it takes back what it has read, so that blanks in any number are read once.
_FOR = re.compile(r'(?:^|;)[ \t]*+for[ \t]*+=[ \t]*+(?:"([^";]*+)"[ \t]*+|([^";]*+))(?=;|$)', re.IGNORECASE)
_BRACKETS = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?")


def network(value: object, key: str) -> Network | None:
    """Read a network, an address, or `"unix"`, for which it returns None.

    Raises:
        ConfigurationError: It is neither.

    >>> network("10.0.0.0/8", "trusted"), network("unix", "trusted")
    (IPv4Network('10.0.0.0/8'), None)
    """
    if value == _UNIX:
        return None
    try:
        if isinstance(value, str):
            return ipaddress.ip_network(value)
    except ValueError:
        pass
    raise ConfigurationError.bad_value(key, value, "a network such as '10.0.0.0/8', an address, or 'unix'")


def networks(values: Iterable[object], key: str) -> tuple[Network | None, ...]:
    """Read several; see `network`."""
    return tuple(network(value, key) for value in values)


class Origin(NamedTuple):
    """Where a request comes from.

    Args:
        address: The client's address; empty when nobody knows it.
        key: What stands for it where clients are counted: the address, or its network.
        number: The address as one that networks can be asked for; None when there is none.
        believed: Whether what the request says of itself is believed.
    """

    address: str
    key: str
    number: Address | None
    believed: bool


class _Hop(NamedTuple):
    """What is known of an address."""

    origin: Origin
    """What it is as a peer that has nobody behind it; believed, if it is trusted in everything."""
    proxy: bool
    """Whether it is believed in addresses."""


class Trust:
    """Tells the origin of requests.

    Args:
        trusted: Hops that are believed in everything; None among them is a socket of this machine.
        proxies: Hops that are believed in addresses.
        header: Where they tell them; None: nowhere, the peer is the client.

    >>> trust = Trust(trusted=networks(["10.0.0.0/8"], "trusted"), proxies=(), header="x-forwarded-for")
    >>> trust.origin("10.0.0.7", "6.6.6.6, 203.0.113.9").address
    '203.0.113.9'
    >>> trust.origin("198.51.100.1", "127.0.0.1").address
    '198.51.100.1'
    """

    __slots__ = ("_header", "_known", "_proxies", "_trusted")

    def __init__(
        self,
        *,
        trusted: Iterable[Network | None],
        proxies: Iterable[Network | None],
        header: AddressHeader | None,
    ) -> None:
        self._trusted = tuple(trusted)
        self._proxies = () if header is None else (*self._trusted, *proxies)
        self._header = header
        self._known: dict[str, _Hop] = {}

    @property
    def header(self) -> str | None:
        """The header that `origin` wants to be told; None when it would not read any."""
        return self._header if self._proxies else None

    def origin(self, peer: str, told: str | None) -> Origin:
        """Tell where a request comes from.

        Args:
            peer: The address of the socket's other end; empty for a socket of this machine.
            told: What the header says, several of them joined by commas.
        """
        hop = self._known.get(peer) or self._look_up(peer)
        if told is None or not hop.proxy:
            return hop.origin
        client = self._client(hop, told).origin
        # Through a hop that is believed only in addresses, what an inner service says is heard as it said it.
        return client if client.believed or not hop.origin.believed else client._replace(believed=True)

    def _client(self, hop: _Hop, told: str) -> _Hop:
        """Follow the hops that are known, from the right, to the first that is not."""
        for text in reversed(told.rsplit(",", _HOPS_MAX)[-_HOPS_MAX:]):
            address = self._address_in(text)
            before = self._known.get(address) or self._look_up(address)
            if before.origin.number is None:
                return hop  # a name, or nonsense: whoever passed it on is as far as anybody can see
            hop = before
            if not hop.proxy:
                return hop
        return hop

    def _address_in(self, text: str) -> str:
        text = text.strip(" \t")
        if self._header == "forwarded":
            match = _FOR.search(text)
            text = (match[1] or match[2] or "").strip(" \t") if match else ""
        match = _BRACKETS.fullmatch(text)
        if match:
            return match[1]
        return text.partition(":")[0] if text.count(":") == 1 else text

    def _look_up(self, address: str) -> _Hop:
        hop = self._read(address)
        if len(self._known) >= _KNOWN_MAX:
            self._known = {}
        if len(address) <= _LONGEST:
            self._known[address] = hop
        return hop

    def _read(self, address: str) -> _Hop:
        number = _number(address)
        trusted, proxy = (_among(number, each) for each in (self._trusted, self._proxies))
        if number is None:
            return _Hop(Origin("", "" if address else _UNIX, None, trusted), proxy)
        key = str(number)
        if number.version == 6:
            key = str(ipaddress.ip_network((int(number), _CUSTOMER_BITS), strict=False))
        return _Hop(Origin(str(number), key, number, trusted), proxy)


def _number(address: str) -> Address | None:
    if not address or len(address) > _LONGEST:
        return None
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return None
    # What a dual-stack socket calls an IPv4 peer.
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return number if mapped is None else mapped


def _among(number: Address | None, known: Iterable[Network | None]) -> bool:
    if number is None:
        return None in known
    return any(each is not None and number.version == each.version and number in each for each in known)

"""One proxy of the API: a `FaultProxy`, and the toxics that are on it.

A proxy that is taken down keeps its port: connecting is refused, nobody else can take it, and it comes up again. One
that moves to another address and can't listen there goes on at its old one. Toxics stay through both.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from hormesis.chaos.faults import Refuse
from hormesis.chaos.toxiproxy.addresses import format_address, parse_listen, parse_upstream
from hormesis.chaos.toxiproxy.errors import ApiError, bad_request, missing_field
from hormesis.chaos.toxiproxy.fields import field, name_of, object_of
from hormesis.chaos.toxiproxy.tls import Authority, Tls, tls_from_json
from hormesis.chaos.toxiproxy.toxics import Toxic
from hormesis.chaos.wire import FaultProxy
from hormesis.errors import ConfigurationError, MissingExtraError

__all__ = ["TOXICS_MAX", "ProxySettings", "ToxicProxy"]

TOXICS_MAX = 64
"""Toxics of one proxy."""

_DOWN = "proxy/down"
"""The name under which a proxy is down; no toxic can have it."""

_FREE_PORT = "127.0.0.1:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """A proxy as it was asked for.

    Args:
        name: Of the proxy.
        upstream: The address that it stands before.
        listen: The address where it listens; a free port of the loopback by default.
        enabled: Whether it is up.
        seed: What decides whom its toxics affect; None: the server's.
        tls: How TLS ends here; None: it passes through.
    """

    name: str
    upstream: str
    listen: str = _FREE_PORT
    enabled: bool = True
    seed: int | None = None
    tls: Tls | None = None

    @classmethod
    def from_json(cls, value: object, before: ProxySettings | None = None, place: str = "") -> ProxySettings:
        """Read one.

        Args:
            value: What stood in the request or file.
            before: What holds for fields that are not given. Without it the proxy is new: it must have a name and an
                upstream.
            place: Which of several it is, for the error.

        Raises:
            ApiError: Something is missing, or can't be meant.
        """
        table = object_of(value, f"the proxy{place}")
        name = before.name if before else name_of(table)
        upstream = field(table, "upstream", str, before.upstream if before else "")
        for key, given in (("name", name), ("upstream", upstream)):
            if not given:
                raise missing_field(f"{key}{place}")
        return cls(
            name=name,
            upstream=_checked(upstream, parse_upstream),
            listen=_checked(field(table, "listen", str, before.listen if before else "") or _FREE_PORT, parse_listen),
            enabled=field(table, "enabled", bool, before.enabled if before else True),
            seed=field(table, "seed", int, 0) if "seed" in table else before.seed if before else None,
            tls=_tls(table.get("tls"), before.tls if before else None),
        )


def _tls(value: object, before: Tls | None) -> Tls | None:
    if value is None:
        return before
    return None if value is False else tls_from_json(value)


def _checked(address: str, parse: Callable[[str], object]) -> str:
    try:
        parse(address)
    except ConfigurationError as error:
        raise bad_request(error) from None
    return address


class ToxicProxy:
    """A proxy and its toxics.

    Args:
        settings: As it was asked for.
        seed: The server's.
        authority: The server's.
    """

    def __init__(self, settings: ProxySettings, seed: int, authority: Authority) -> None:
        self.settings = settings
        self.toxics: dict[str, Toxic] = {}
        self.wire: FaultProxy | None = None
        """What carries the connections; there is none before it is enabled for the first time."""
        self._seed = seed
        self._authority = authority
        self._asked = settings.listen
        """Where it was to listen, before it had an address."""

    @property
    def as_json(self) -> dict[str, object]:
        """As the API shows it; with what Toxiproxy does not know only where it was asked for."""
        shown: dict[str, object] = {
            "name": self.settings.name,
            "listen": self.settings.listen,
            "upstream": self.settings.upstream,
            "enabled": self.settings.enabled,
            "toxics": [toxic.as_json for toxic in self.toxics.values()],
        }
        ours = {"seed": self.settings.seed, "tls": self.settings.tls}
        return shown | {key: value for key, value in ours.items() if value is not None}

    async def start(self) -> None:
        """Listen, if it is enabled and does not yet, with its toxics in force. Its address is then one of numbers.

        Raises:
            ApiError: It can't listen there.
        """
        if self.wire is not None or not self.settings.enabled:
            return
        asked = self.settings
        host, port = await _resolved(asked.listen)
        seed = self._seed if asked.seed is None else asked.seed
        tls = None if asked.tls is None else self._authority.ends(asked.tls)
        upstream = parse_upstream(asked.upstream)
        wire = FaultProxy(asked.name, upstream, seed=seed, host=host, port=port, lazy=True, tls=tls)
        try:
            await wire.start()
        except ConfigurationError as error:
            raise _cannot_listen(format_address(host, port), error) from error
        self.wire = wire
        self.settings = replace(asked, listen=format_address(wire.host, wire.port))
        self._asked = asked.listen
        for toxic in self.toxics.values():
            self._enforce(wire, toxic)

    async def stop(self) -> None:
        """Close the port and all connections. The toxics stay, and so does the address."""
        if self.wire is not None:
            wire, self.wire = self.wire, None
            await wire.stop()

    async def change(self, settings: ProxySettings) -> None:
        """Become what is asked for: up or down, at another address, before another upstream.

        Connections break only if it goes down or moves.

        Raises:
            ApiError: It can't listen there; then it is where it was.
        """
        if self.wire is not None and await self.stands_at(settings):
            self.settings = replace(settings, listen=self.settings.listen)
            if settings.enabled:
                self.wire.lift(_DOWN)
            else:
                self.wire.apply(Refuse(), name=_DOWN)
            return
        await self.stop()
        self.settings, before = settings, self.settings
        try:
            await self.start()
        except BaseException:
            self.settings = before
            with suppress(ApiError):
                await self.start()
            raise

    async def stands_at(self, settings: ProxySettings) -> bool:
        """Whether it is what these settings say, up or down: where it listens, and what it stands before."""
        ours, theirs = (replace(each, listen="", enabled=True) for each in (self.settings, settings))
        if ours != theirs:
            return False
        if settings.listen in (self._asked, self.settings.listen):
            return True
        try:
            return format_address(*await _resolved(settings.listen)) == self.settings.listen
        except ApiError:
            return False

    def put(self, toxic: Toxic) -> None:
        """Put a toxic into force, in the place of one of the same name.

        Raises:
            ApiError: It can't be put into force here.
        """
        if self.wire is not None:
            self._enforce(self.wire, toxic)
        self.toxics[toxic.name] = toxic

    def take(self, name: str) -> None:
        """End a toxic."""
        del self.toxics[name]
        if self.wire is not None:
            self.wire.lift(name)

    def take_all(self) -> None:
        """End all toxics."""
        for name in list(self.toxics):
            self.take(name)

    def _enforce(self, wire: FaultProxy, toxic: Toxic) -> None:
        if toxic.fault is None:
            wire.lift(toxic.name)
            return
        try:
            wire.apply(toxic.fault, name=toxic.name)
        except (ConfigurationError, MissingExtraError) as error:
            raise bad_request(error) from error


async def _resolved(listen: str) -> tuple[str, int]:
    """Return the address of a listening host: what the API shows, and what two names of one address are compared by."""
    host, port = parse_listen(listen)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise bad_request(f"listen is {listen!r}; no such host") from error
    addresses = [str(address[0]) for *_, address in found]
    return min(addresses, key=lambda each: ":" in each), port  # IPv4 first, as Go does


def _cannot_listen(address: str, error: ConfigurationError) -> ApiError:
    """Say it as Go's library would, which is what clients look for."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno is None:
        return bad_request(error)
    why = "address already in use" if cause.errno == errno.EADDRINUSE else os.strerror(cause.errno).lower()
    return ApiError(500, f"listen tcp {address}: bind: {why}")

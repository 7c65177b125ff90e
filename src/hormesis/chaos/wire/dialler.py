"""Where a dependency is: its name is looked up when a connection needs it, as any client would.

What was found is good for a second, so that a rush of connections asks once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

__all__ = ["Address", "Dialler", "Upstream"]

Address: TypeAlias = tuple[int, Any]
"""A family and an address of it, as `getaddrinfo` returns them."""

Upstream: TypeAlias = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""

_GOOD_FOR = 1.0


class Dialler:
    """The addresses of a dependency.

    Args:
        upstream: Host and port, or the path of a Unix socket.
        loop: Looks names up.
    """

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._upstream = upstream
        self._found: Sequence[Address] = _literal(upstream)
        self._good_until = float("inf") if self._found else 0.0
        self._asking: asyncio.Task[None] | None = None
        self._waiting: list[Callable[[Sequence[Address]], None]] = []

    def find(self, then: Callable[[Sequence[Address]], None]) -> None:
        """Call with the addresses, at once if they are known; with none if there are none."""
        if self._loop.time() < self._good_until:
            then(self._found)
            return
        self._waiting.append(then)
        if self._asking is None:
            self._asking = self._loop.create_task(self._ask())

    async def look_up(self) -> None:
        """Look the addresses up now.

        Raises:
            OSError: There are none.
            UnicodeError: It can't be the name of a host.
        """
        if isinstance(self._upstream, str) or self._good_until == float("inf"):
            return
        host, port = self._upstream
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self._found = [(family, address) for family, _, _, _, address in found]
        self._good_until = self._loop.time() + _GOOD_FOR

    def close(self) -> None:
        """Look up nothing more; who waits is not called."""
        self._waiting.clear()
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        try:
            await self.look_up()
            found = self._found
        except (OSError, UnicodeError):  # the second, of what can't be the name of a host
            found = ()
        finally:
            self._asking = None
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(found)


def _literal(upstream: Upstream) -> Sequence[Address]:
    """Return the address that needs no looking up, if it is one."""
    if isinstance(upstream, str):
        return [(socket.AF_UNIX, upstream)]
    host, port = upstream
    try:
        version = ipaddress.ip_address(host).version if "%" not in host else None
    except ValueError:
        return []
    if version is None:  # a scope, which only the resolver knows
        return []
    return [(socket.AF_INET, (host, port))] if version == 4 else [(socket.AF_INET6, (host, port, 0, 0))]

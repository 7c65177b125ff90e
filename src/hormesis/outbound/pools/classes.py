"""One client for each class of traffic, and the choice between them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from hormesis.context import current_call, remaining
from hormesis.errors import ConfigurationError

__all__ = ["TRAFFIC", "AsyncPools", "PoolSnapshot", "Pools", "Verbs", "patience"]

T = TypeVar("T")

TRAFFIC = "traffic"
"""The label of a call that names its class."""


def patience(longest: float) -> float:
    """Return the seconds that the current call may wait for a connection: its deadline is asked first."""
    left = remaining()
    return longest if left is None else max(0.0, min(longest, left))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """One class's pool at this moment.

    Args:
        size: Connections that it has at most.
        in_use: Connections that calls hold, or that are being opened; None where the library does not tell.
        waiting: Calls that wait for one; None where the library does not tell.
    """

    size: int
    in_use: int | None = None
    waiting: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Verbs(Generic[T]):
    """What differs between the libraries: how a pool is opened, closed, and looked at."""

    snapshot: Callable[[T], PoolSnapshot]
    close: Callable[[T], Any]
    open: Callable[[T], Any] | None = None


class _ByClass(Mapping[str, T]):
    """What both colours share: a mapping from class to client."""

    def __init__(self, clients: Mapping[str, T], default: str, verbs: Verbs[T]) -> None:
        self._clients = dict(clients)
        self._default = default
        self._verbs = verbs

    def __getitem__(self, name: str) -> T:
        """Return the client of a class.

        Raises:
            KeyError: There is no such class; the message names those that there are.
        """
        try:
            return self._clients[name]
        except KeyError:
            raise KeyError(ConfigurationError.unknown("traffic class", name, self._clients).message) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def current(self) -> T:
        """The client for the call that is being made, by its label `traffic`; without one, the default class's.

        Raises:
            ConfigurationError: The label names no class.
        """
        name = current_call.get().labels.get(TRAFFIC, self._default)
        try:
            return self._clients[name]
        except KeyError:
            raise ConfigurationError.unknown("traffic class", name, self._clients, TRAFFIC) from None

    def snapshot(self) -> dict[str, PoolSnapshot]:
        """Return what each pool holds now."""
        return {name: self._verbs.snapshot(client) for name, client in self._clients.items()}

    def __repr__(self) -> str:
        kinds = {type(client).__name__.lstrip("_") for client in self._clients.values()}
        return f"<{type(self).__name__} of {', '.join(sorted(kinds))}: {', '.join(self._clients)}>"


class Pools(_ByClass[T]):
    """A client for each class of traffic, made by `ConnectionPools`.

    It is a mapping; `current` is the client of the call that is being made. As a context manager it opens all pools
    that have to be opened, and closes all.
    """

    def open(self) -> None:
        """Open all pools; only psycopg's have to be opened."""
        if self._verbs.open is not None:
            for client in self._clients.values():
                self._verbs.open(client)

    def close(self) -> None:
        """Close all pools, also when closing one of them fails; the first error is raised at the end."""
        with contextlib.ExitStack() as stack:
            for client in self._clients.values():
                stack.callback(self._verbs.close, client)

    def __enter__(self) -> Pools[T]:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncPools(_ByClass[T]):
    """As `Pools`, for asynchronous clients."""

    async def open(self) -> None:
        """Open all pools; only psycopg's have to be opened."""
        if self._verbs.open is not None:
            for client in self._clients.values():
                await self._verbs.open(client)

    async def close(self) -> None:
        """Close all pools, also when closing one of them fails; the first error is raised at the end."""
        async with contextlib.AsyncExitStack() as stack:
            for client in self._clients.values():
                stack.push_async_callback(self._verbs.close, client)

    async def __aenter__(self) -> AsyncPools[T]:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

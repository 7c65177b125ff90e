"""All proxies of one server.

A change is made as a whole or not at all: when one of a list of proxies can't be had, all is as it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from hormesis.chaos.toxiproxy.errors import ApiError, bad_request
from hormesis.chaos.toxiproxy.fields import object_of
from hormesis.chaos.toxiproxy.proxy import TOXICS_MAX, ProxySettings, ToxicProxy
from hormesis.chaos.toxiproxy.tls import Authority
from hormesis.chaos.toxiproxy.toxics import Toxic

__all__ = ["PROXIES_MAX", "Proxies"]

PROXIES_MAX = 1000
"""Proxies that one server has at most; each has a port."""


class Proxies:
    """The proxies by name, in the order in which they came.

    Args:
        seed: What decides whom toxics affect, for every proxy without a seed of its own.
        ca: The folder of the test CA for proxies that end TLS; None: a new one, when it is needed.
    """

    def __init__(self, seed: int = 0, ca: str | os.PathLike[str] | None = None) -> None:
        self.seed = seed
        self.authority = Authority(ca)
        self._proxies: dict[str, ToxicProxy] = {}
        self._changing = asyncio.Lock()

    def __iter__(self) -> Iterator[ToxicProxy]:
        return iter(self._proxies.values())

    def __len__(self) -> int:
        return len(self._proxies)

    def __getitem__(self, name: str) -> ToxicProxy:
        try:
            return self._proxies[name]
        except KeyError:
            raise ApiError(404, "proxy not found") from None

    async def create(self, value: object) -> ToxicProxy:
        """Make a proxy out of a JSON object.

        Raises:
            ApiError: There is one of this name; it can't be meant; it can't listen there.
        """
        settings = ProxySettings.from_json(value)
        async with self._changing:
            if settings.name in self._proxies:
                raise ApiError(409, "proxy already exists")
            return await self._place(self._made(settings))

    async def update(self, name: str, value: object) -> ToxicProxy:
        """Change a proxy; what is not given stays.

        Raises:
            ApiError: There is none of this name; it can't be meant; it can't listen there.
        """
        async with self._changing:
            proxy = self[name]
            await proxy.change(ProxySettings.from_json(value, proxy.settings))
            return proxy

    async def delete(self, name: str) -> None:
        """End a proxy.

        Raises:
            ApiError: There is none of this name.
        """
        async with self._changing:
            proxy = self[name]
            del self._proxies[name]
            await proxy.stop()

    async def populate(self, values: object, *, with_toxics: bool = False) -> list[ToxicProxy]:
        """Have these proxies: one that stands where it is asked for stays as it is, toxics included; the rest is made.

        Args:
            values: A list of JSON objects.
            with_toxics: Whether the toxics of a proxy are meant. A file's are; a client's are not: it sends what it was
                told of a proxy, and a proxy that it makes anew has none.

        Raises:
            ApiError: One of them can't be meant, or can't listen there; then nothing has changed.
        """
        if not isinstance(values, list):
            raise bad_request("it takes a list of proxies")
        wanted: dict[str, ToxicProxy] = {}
        for number, value in enumerate(values, start=1):
            proxy = self._made(ProxySettings.from_json(value, place=f" at proxy {number}"))
            if proxy.settings.name in wanted:
                raise bad_request(f"duplicate proxy name {proxy.settings.name!r}")
            if with_toxics:
                _put_all(proxy, value)
            wanted[proxy.settings.name] = proxy
        async with self._changing:
            before = dict(self._proxies)
            try:
                return [await self._place(proxy) for proxy in wanted.values()]
            except BaseException:
                await self._return_to(before)
                raise

    async def reset(self) -> None:
        """Enable every proxy, and end every toxic.

        Raises:
            ApiError: One of them can't listen any more; all others are reset.
        """
        failed: ApiError | None = None
        async with self._changing:
            for proxy in self:
                proxy.take_all()
                try:
                    await proxy.change(replace(proxy.settings, enabled=True))
                except ApiError as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    async def stop(self) -> None:
        """End all proxies."""
        async with self._changing:
            while self._proxies:
                _, proxy = self._proxies.popitem()
                await proxy.stop()

    def toxic(self, proxy: str, name: str) -> Toxic:
        """Return a toxic of a proxy.

        Raises:
            ApiError: There is no such proxy or toxic.
        """
        try:
            return self[proxy].toxics[name]
        except KeyError:
            raise ApiError(404, "toxic not found") from None

    def add_toxic(self, proxy: str, value: object) -> Toxic:
        """Put a new toxic on a proxy.

        Raises:
            ApiError: There is no such proxy, or a toxic of this name on it; it can't be meant; there are too many.
        """
        return _put_new(self[proxy], value)

    def update_toxic(self, proxy: str, name: str, value: object) -> Toxic:
        """Change a toxic; what is not given stays.

        Raises:
            ApiError: There is no such proxy or toxic; it can't be meant.
        """
        toxic = self.toxic(proxy, name).updated(value)
        self[proxy].put(toxic)
        return toxic

    def delete_toxic(self, proxy: str, name: str) -> None:
        """End a toxic.

        Raises:
            ApiError: There is no such proxy or toxic.
        """
        self[proxy].take(self.toxic(proxy, name).name)

    def _made(self, settings: ProxySettings) -> ToxicProxy:
        return ToxicProxy(settings, self.seed, self.authority)

    async def _place(self, proxy: ToxicProxy) -> ToxicProxy:
        """Have a proxy; one of its name that stands there already is as good."""
        name = proxy.settings.name
        existing = self._proxies.get(name)
        if existing is None and len(self._proxies) >= PROXIES_MAX:
            raise bad_request(f"there are {PROXIES_MAX} proxies, and more there can't be")
        if existing is not None:
            if await existing.stands_at(proxy.settings):
                return existing
            await existing.stop()
        await proxy.start()
        self._proxies[name] = proxy
        return proxy

    async def _return_to(self, before: dict[str, ToxicProxy]) -> None:
        for name, proxy in self._proxies.items():
            if before.get(name) is not proxy:
                await proxy.stop()
        self._proxies = before
        for proxy in before.values():
            with suppress(ApiError):  # its port was free a moment ago, and now another program has it
                await proxy.start()


def _put_all(proxy: ToxicProxy, entry: object) -> None:
    """Put the toxics of a file's entry on a proxy."""
    toxics = object_of(entry, "the proxy").get("toxics", [])
    if not isinstance(toxics, list):
        raise bad_request(f"the toxics of proxy {proxy.settings.name!r} are {toxics!r}; it takes a list")
    for toxic in toxics:
        try:
            _put_new(proxy, toxic)
        except ApiError as error:
            raise ApiError(error.status, f"proxy {proxy.settings.name!r}: {error.message}") from error


def _put_new(proxy: ToxicProxy, value: object) -> Toxic:
    toxic = Toxic.from_json(value)
    if toxic.name in proxy.toxics:
        raise ApiError(409, "toxic already exists")
    if len(proxy.toxics) >= TOXICS_MAX:
        raise bad_request(f"the proxy has {TOXICS_MAX} toxics, and more it can't have")
    proxy.put(toxic)
    return toxic

"""`hormesis proxy`: fault proxies as a server, driven by Toxiproxy's HTTP API.

It prints what it listens on, and then serves until Ctrl-C or SIGTERM, when it closes every port and connection. Faults
live in this process: when it is killed they are gone with it.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import sys

from hormesis.chaos.toxiproxy import ApiError, Proxies, read_proxies
from hormesis.chaos.toxiproxy.app import serving
from hormesis.chaos.undo import PROXY_TOKEN
from hormesis.cli.shell import on_signals
from hormesis.errors import ConfigurationError
from hormesis.tables import read_file

__all__ = ["run"]

_TOKEN_MIN = 16
"""Characters of a token; fewer can be guessed."""
_TOKEN_MAX = 1000


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; returns 128 and its number."""
    if not 0 <= options.port <= 65535:
        raise ConfigurationError.bad_value("--port", options.port, "a port from 1 to 65535, or 0 for a free one")
    token = _token(options)
    entries = read_proxies(options.config) if options.config else []
    single = _single(options)
    return asyncio.run(_serve(options, token, entries, single))


def _token(options: argparse.Namespace) -> str:
    """Return the token of the API; none is needed where only this machine gets at it."""
    if options.token_file is not None:
        where = f"--token-file {options.token_file}"
        token = read_file(options.token_file, "token", 2 * _TOKEN_MAX).decode(errors="replace").strip()
    else:
        where = PROXY_TOKEN
        token = os.environ.get(PROXY_TOKEN, "").strip()
        if not token:
            if not _is_loopback(options.host):
                raise ConfigurationError(
                    f"--host {options.host}: beyond the loopback the API needs a token: --token-file or {where}"
                )
            return ""
    if not _TOKEN_MIN <= len(token) <= _TOKEN_MAX or not token.isascii() or not token.isprintable() or " " in token:
        accepted = f"{_TOKEN_MIN} to {_TOKEN_MAX} letters, digits and signs in one line"
        raise ConfigurationError(f"{where}: holds no token; it takes {accepted}")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _single(options: argparse.Namespace) -> dict[str, object] | None:
    """Return the one proxy that the options describe, as the API takes it."""
    if options.listen is None and options.upstream is None:
        if options.name is not None:
            raise ConfigurationError(f"--name {options.name}: is the name of a proxy; give its --upstream as well")
        return None
    if options.upstream is None:
        raise ConfigurationError(f"--listen {options.listen}: for what? give the --upstream as well")
    return {"name": options.name or "proxy", "listen": options.listen, "upstream": options.upstream}


async def _serve(options: argparse.Namespace, token: str, entries: list[object], single: object) -> int:
    proxies = Proxies(options.seed, options.ca)
    try:
        await _populate(proxies, options.config, entries, single)
        async with serving(proxies, options.host, options.port, token) as urls:
            print(f"API on {' and '.join(urls)}, seed {options.seed}")
            for proxy in proxies:
                its = proxy.settings
                print(f"{its.name}: {its.listen} -> {its.upstream}{'' if its.enabled else ' (disabled)'}")
            sys.stdout.flush()  # whoever waits for these lines may connect now
            received = await _signal()
    finally:
        await proxies.stop()
    print("hormesis: stopped; every proxy and every connection is closed", file=sys.stderr)
    return 128 + received


async def _populate(proxies: Proxies, config: str | None, entries: list[object], single: object) -> None:
    where = f"{config}: "
    try:
        await proxies.populate(entries, with_toxics=True)
        if single is not None:
            where = ""
            await proxies.create(single)
    except ApiError as error:
        raise ConfigurationError(f"{where}{error.message.removeprefix('bad request body: ')}") from error


async def _signal() -> int:
    """Wait for a signal to end, and return its number."""
    received: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def take(number: int) -> None:
        if not received.done():
            received.set_result(number)

    on_signals(take)
    return await received

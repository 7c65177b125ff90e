"""The file of proxies that a server begins with: Toxiproxy's own JSON, a list of proxies, or the same as TOML.

In both a proxy may have toxics already, as the API shows them:

    [[proxy]]
    name = "redis"
    listen = "127.0.0.1:26379"
    upstream = "127.0.0.1:6379"

    [[proxy.toxics]]
    type = "latency"
    attributes = { latency = "20ms", jitter = "5ms" }

Unlike in a request, a key that nobody knows is refused: here a person wrote it, and no client.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from hormesis.chaos.toxiproxy.proxy import ProxySettings
from hormesis.errors import ConfigurationError
from hormesis.tables import read_file, read_toml

__all__ = ["read_proxies"]

_KEYS = (*(each.name for each in fields(ProxySettings)), "toxics")


def read_proxies(path: str | os.PathLike[str]) -> list[object]:
    """Return the proxies of a file, as `Proxies.populate` takes them.

    Args:
        path: A file; what ends in `.toml` is TOML.

    Raises:
        ConfigurationError: It can't be read, is no list of proxies, or has an unknown key; the message names the file.
    """
    proxies = _from_toml(path) if Path(path).suffix == ".toml" else _from_json(path)
    if not isinstance(proxies, list):
        raise ConfigurationError(f"{path}: has no list of proxies: [[proxy]] tables in TOML, an array in JSON")
    for number, proxy in enumerate(proxies, start=1):
        for key in proxy if isinstance(proxy, Mapping) else ():
            if key.lower() not in _KEYS:
                raise ConfigurationError(f"{path}: proxy {number}: {ConfigurationError.unknown('key', key, _KEYS)}")
    return proxies


def _from_toml(path: str | os.PathLike[str]) -> object:
    table = read_toml(path)
    for key in table:
        if key != "proxy":
            raise ConfigurationError(f"{path}: {ConfigurationError.unknown('key', key, ['proxy'])}")
    return table.get("proxy", [])


def _from_json(path: str | os.PathLike[str]) -> object:
    data = read_file(path, "list of proxies")
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: is not JSON: {error}") from error
    return found

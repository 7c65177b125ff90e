"""Toxiproxy's HTTP API over our fault proxies, so that the clients that every language has drive them unchanged.

`toxics` says what each toxic means, without doing anything. `Proxies` are the proxies of one server, and `application`
(in `app`, which needs aiohttp) puts them on HTTP. `hormesis proxy` is the three together.
"""

from hormesis.chaos.toxiproxy.config import read_proxies
from hormesis.chaos.toxiproxy.errors import ApiError
from hormesis.chaos.toxiproxy.proxy import ProxySettings, ToxicProxy
from hormesis.chaos.toxiproxy.registry import Proxies
from hormesis.chaos.toxiproxy.toxics import Toxic

__all__ = ["ApiError", "Proxies", "ProxySettings", "Toxic", "ToxicProxy", "read_proxies"]

"""A proxy on an edge of a system that runs already, at an API that speaks Toxiproxy's: theirs, or `hormesis proxy`.

Faults are put on it as toxics, and taken off by name. How to take one off is known before it is put on, as an HTTP
request that the undo journal holds, so the watchdog can do it when the runner is gone.

An API beyond the loopback takes requests with its token only. It is read from the environment, by each who asks.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from hormesis.chaos.faults import (
    Bandwidth,
    BlackHole,
    Latency,
    LimitData,
    Refuse,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    WireFault,
    describe,
)
from hormesis.chaos.undo import PROXY_TOKEN, Request, authorization
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.units import bytes_of, bytes_per_second, seconds

__all__ = ["AttachedProxy", "toxics_of"]

_WITHIN = 2.0
_NOT_FOUND = 404
_UNAUTHORIZED = 401
_SELECTING = ("connections", "client", "after", "until", "requests", "route", "header")


class AttachedProxy:
    """The proxy of one edge, somewhere else.

    Args:
        name: Its name there, which is the edge's.
        api: The address of the API.
    """

    def __init__(self, name: str, api: str) -> None:
        self.name = name
        self.api = api.rstrip("/")
        self.host = ""
        """Where it listens, once started; the API says so."""
        self.port = 0
        self._faults: dict[str, WireFault] = {}

    async def start(self) -> None:
        """Look whether it is there, and free.

        Raises:
            ConfigurationError: The API can't be reached, or has no such proxy; or there are faults on it already.
        """
        where = f"system.edge.{self.name}.proxy"
        try:
            found = await self._ask("GET", self._path())
        except HormesisError as error:
            raise ConfigurationError(f"{where} is {self.api!r}: {error}", where) from None
        if found is None:
            raise ConfigurationError(f"{where} is {self.api!r}, which has no proxy {self.name!r}", where)
        if found.get("toxics"):
            names = ", ".join(str(toxic.get("name")) for toxic in found["toxics"])
            raise ConfigurationError(
                f"{where} is {self.api!r}, where it has toxics already ({names}); remove them first"
            )
        if not found.get("enabled", True):
            raise ConfigurationError(f"{where} is {self.api!r}, where it is disabled; enable it first")
        self.host, _, port = str(found.get("listen", "")).rpartition(":")
        self.port = int(port) if port.isdecimal() else 0

    async def stop(self) -> None:
        """Leave it as it was; its faults are taken off one by one."""

    async def apply(self, fault: WireFault, *, name: str) -> None:
        """Put a fault into force under a name.

        Raises:
            HormesisError: The API refuses it, or can't be reached.
        """
        self._faults[name] = fault
        if isinstance(fault, Refuse):
            await self._ask("POST", self._path(), {"enabled": False})
        else:
            for toxic in toxics_of(fault, name):
                await self._ask("POST", self._path("toxics"), toxic)

    async def lift(self, name: str) -> None:
        """Take it off; one that is off already is well."""
        fault = self._faults.pop(name, None)
        if isinstance(fault, Refuse):
            await self._ask("POST", self._path(), {"enabled": True})
        elif fault is not None:
            for toxic in toxics_of(fault, name):
                await self._ask("DELETE", self._path("toxics", toxic["name"]))

    def undo(self, fault: WireFault, *, name: str) -> list[Request]:
        """Return how a stranger takes it off."""
        if isinstance(fault, Refuse):
            headers = {"Content-Type": "application/json"}
            body = json.dumps({"enabled": True})
            return [Request("POST", self.api + self._path(), headers, body, PROXY_TOKEN)]
        urls = [self.api + self._path("toxics", toxic["name"]) for toxic in toxics_of(fault, name)]
        return [Request("DELETE", url, token=PROXY_TOKEN) for url in urls]

    async def __aenter__(self) -> AttachedProxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _path(self, *more: str) -> str:
        return "/".join(["/proxies", *(quote(part, safe="") for part in (self.name, *more))])

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the answer; None when there is no such thing."""
        return await asyncio.to_thread(_ask, self.api, method, path, body)


def _ask(api: str, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
    url = urlsplit(api)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=_WITHIN)
    data = None if body is None else json.dumps(body).encode()
    try:
        headers = {"Content-Type": "application/json", **authorization(PROXY_TOKEN)}
        connection.request(method, url.path.rstrip("/") + path, data, headers)
        response = connection.getresponse()
        text = response.read()
        answer = json.loads(text) if text else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise HormesisError(f"{method} {path} got no answer of its API: {reason}") from None
    finally:
        connection.close()
    if response.status == _NOT_FOUND:
        return None
    if not 200 <= response.status < 300:
        said = answer.get("error", "") if isinstance(answer, dict) else ""
        if response.status == _UNAUTHORIZED:
            said = f"{said}; it is read from the variable {PROXY_TOKEN}"
        raise HormesisError(f"{method} {path} was answered {response.status} {said}".rstrip())
    return answer if isinstance(answer, dict) else {}


def toxics_of(fault: WireFault, name: str) -> list[dict[str, Any]]:
    """Return a fault as toxics of Toxiproxy's: one, or one for each direction.

    >>> [toxic["attributes"] for toxic in toxics_of(Latency("2s", jitter="100ms", share=0.5), "slow")]
    [{'latency': 2000, 'jitter': 100}]
    >>> [(toxic["name"], toxic["stream"]) for toxic in toxics_of(BlackHole(), "gone")]
    [('gone-downstream', 'downstream'), ('gone-upstream', 'upstream')]

    Raises:
        ConfigurationError: Toxiproxy has no such toxic, or can't choose whom it strikes in this way.
    """
    chosen = [setting for setting in _SELECTING if getattr(fault, setting, None)]
    if chosen:
        raise ConfigurationError(f"{describe(fault)}: Toxiproxy's toxics have no {', '.join(chosen)}", "fault")
    match fault:
        case Latency():
            kind, attributes = "latency", {"latency": _ms(fault.latency), "jitter": _ms(fault.jitter)}
        case Bandwidth():
            kind, attributes = "bandwidth", {"rate": max(1, round(bytes_per_second(fault.bandwidth) / 1000))}
        case BlackHole():
            kind, attributes = "timeout", {"timeout": 0}
        case Timeout():
            kind, attributes = "timeout", {"timeout": _ms(fault.timeout)}
        case SlowClose():
            kind, attributes = "slow_close", {"delay": _ms(fault.slow_close)}
        case ResetPeer():
            kind, attributes = "reset_peer", {"timeout": _ms(fault.reset_peer)}
        case LimitData():
            kind, attributes = "limit_data", {"bytes": bytes_of(fault.limit_data)}
        case Slicer():
            attributes = {
                "average_size": bytes_of(fault.slicer),
                "size_variation": bytes_of(fault.variation),
                "delay": round(seconds(fault.delay, zero=True) * 1e6),
            }
            kind = "slicer"
        case _:
            raise ConfigurationError(f"{describe(fault)}: Toxiproxy has no such toxic", "fault")
    about = {"type": kind, "toxicity": getattr(fault, "share", 1.0), "attributes": attributes}
    stream = getattr(fault, "stream", "downstream")
    if stream != "both":
        return [{"name": name, "stream": stream, **about}]
    return [{"name": f"{name}-{each}", "stream": each, **about} for each in ("downstream", "upstream")]


def _ms(duration: float | str) -> int:
    return round(seconds(duration, zero=True) * 1000)

"""Faults as toxics, and a proxy that runs already."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hormesis.chaos import fault_from
from hormesis.chaos.toxiproxy import Proxies
from hormesis.chaos.toxiproxy.app import serving
from hormesis.chaos.undo import NotUndone, from_data, to_data
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.gameday.attached import AttachedProxy, toxics_of


@pytest.mark.parametrize(
    ("fault", "toxics"),
    [
        (
            {"latency": "2s", "jitter": "1ms", "share": 0.5},
            [("latency", "downstream", 0.5, {"latency": 2000, "jitter": 1})],
        ),
        ({"latency": 1, "stream": "upstream"}, [("latency", "upstream", 1.0, {"latency": 1000, "jitter": 0})]),
        ({"bandwidth": "20KB/s"}, [("bandwidth", "downstream", 1.0, {"rate": 20})]),
        (
            {"black_hole": True},
            [("timeout", "downstream", 1.0, {"timeout": 0}), ("timeout", "upstream", 1.0, {"timeout": 0})],
        ),
    ],
)
def test_toxics(fault: dict[str, Any], toxics: list[Any]) -> None:
    """A fault is the toxic that does the same, in Toxiproxy's units."""
    found = toxics_of(fault_from(fault), "name")  # type: ignore[arg-type]
    assert [(each["type"], each["stream"], each["toxicity"], each["attributes"]) for each in found] == toxics
    assert len({each["name"] for each in found}) == len(found)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"reset": "answer"}, "Toxiproxy has no such toxic"),
        ({"latency": 1, "requests": "3"}, "Toxiproxy's toxics have no requests"),
    ],
)
def test_what_toxiproxy_can_not_do(fault: dict[str, Any], message: str) -> None:
    """What is beyond it is refused."""
    with pytest.raises(ConfigurationError, match=message):
        toxics_of(fault_from(fault), "name")  # type: ignore[arg-type]


class Api(http.server.BaseHTTPRequestHandler):
    """As much of Toxiproxy's API as is asked of it."""

    proxies: dict[str, dict[str, Any]]

    def handle_any(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        _, _, name, *rest = self.path.split("/")
        proxy = self.proxies.get(name)
        if proxy is None:
            return self.answer(404, {"error": "proxy not found", "status": 404})
        if not rest:
            proxy.update(body)
            return self.answer(200, proxy)
        toxics = proxy["toxics"]
        if self.command == "POST":
            if any(toxic["name"] == body["name"] for toxic in toxics):
                return self.answer(409, {"error": "toxic already exists", "status": 409})
            toxics.append(body)
            return self.answer(200, body)
        toxics[:] = [toxic for toxic in toxics if toxic["name"] != rest[1]]
        return self.answer(204, None)

    def do_GET(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def do_DELETE(self) -> None:
        self.handle_any()

    def answer(self, status: int, body: Any) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, Any]]]:
    proxies: dict[str, Any] = {"db": {"listen": "127.0.0.1:5433", "enabled": True, "toxics": []}}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Api,), {"proxies": proxies}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", proxies
    server.shutdown()
    server.server_close()


def test_a_fault_is_put_on_and_taken_off(api: tuple[str, dict[str, Any]]) -> None:
    """Under a name, in either of two ways: by us, or by the requests that a stranger would send."""
    url, proxies = api
    slow: Any = fault_from({"latency": "1s"})
    gone: Any = fault_from({"refuse": True})

    async def main() -> None:
        async with AttachedProxy("db", url + "/") as proxy:
            assert (proxy.host, proxy.port) == ("127.0.0.1", 5433)
            await proxy.apply(slow, name="latency")
            await proxy.apply(gone, name="refuse")
            assert [toxic["name"] for toxic in proxies["db"]["toxics"]] == ["latency"]
            assert proxies["db"]["enabled"] is False
            with pytest.raises(HormesisError, match="409 toxic already exists"):
                await proxy.apply(slow, name="latency")
            await proxy.lift("latency")
            await proxy.lift("refuse")
            assert proxies["db"] == {"listen": "127.0.0.1:5433", "enabled": True, "toxics": []}
            await proxy.apply(slow, name="latency")
            await proxy.apply(gone, name="refuse")
            for name, fault in (("latency", slow), ("refuse", gone)):
                for step in proxy.undo(fault, name=name) * 2:
                    await asyncio.to_thread(step.act)
            assert proxies["db"] == {"listen": "127.0.0.1:5433", "enabled": True, "toxics": []}

    asyncio.run(main())


def test_an_api_with_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token comes from the environment, for us and for a stranger, and the journal doesn't hold it."""
    token = "a-token-of-the-proxies"
    slow: Any = fault_from({"latency": "1s"})
    gone: Any = fault_from({"refuse": True})

    async def main() -> None:
        proxies = Proxies()
        try:
            async with serving(proxies, "127.0.0.1", 0, token) as (url,):
                theirs = await proxies.create({"name": "db", "upstream": "127.0.0.1:1"})
                monkeypatch.delenv("HORMESIS_PROXY_TOKEN", raising=False)
                with pytest.raises(ConfigurationError, match=r"401 .*read from the variable HORMESIS_PROXY_TOKEN"):
                    await AttachedProxy("db", url).start()
                monkeypatch.setenv("HORMESIS_PROXY_TOKEN", token)
                async with AttachedProxy("db", url) as proxy:
                    await proxy.apply(slow, name="slow")
                    await proxy.apply(gone, name="gone")
                    assert theirs.as_json["enabled"] is False
                    steps = [*proxy.undo(slow, name="slow"), *proxy.undo(gone, name="gone")]
                    assert token not in json.dumps([to_data(step) for step in steps])
                    monkeypatch.delenv("HORMESIS_PROXY_TOKEN")
                    with pytest.raises(NotUndone, match="401; the token that it takes is read from HORMESIS_PROXY_"):
                        await asyncio.to_thread(steps[0].act)
                    monkeypatch.setenv("HORMESIS_PROXY_TOKEN", token)
                    for step in steps:
                        await asyncio.to_thread(from_data(to_data(step)).act)
                assert (theirs.as_json["toxics"], theirs.as_json["enabled"]) == ([], True)
        finally:
            await proxies.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bd", {}, "which has no proxy 'bd'"),
        ("db", {"toxics": [{"name": "old"}]}, "where it has toxics already (old); remove them first"),
        ("db", {"enabled": False}, "is disabled; enable it first"),
    ],
)
def test_a_proxy_that_is_not_free(
    api: tuple[str, dict[str, Any]], name: str, change: dict[str, Any], message: str
) -> None:
    """One that is not there, or that somebody else has faults on, is refused."""
    url, proxies = api
    proxies["db"].update(change)
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(AttachedProxy(name, url).start())
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"system.edge.{name}.proxy is ")


def test_an_api_that_is_not_there() -> None:
    """Nobody there is said, and where."""
    with pytest.raises(ConfigurationError, match=r"system\.edge\.db\.proxy is .*got no answer of its API"):
        asyncio.run(AttachedProxy("db", "http://127.0.0.1:9").start())

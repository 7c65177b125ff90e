"""Toxiproxy's HTTP API as an aiohttp application: https://github.com/Shopify/toxiproxy#http-api.

Bodies are JSON whatever their content type says: Java's client says it is a form. An update is a POST or a PATCH. Every
error has a body, the router's own too: `{"error": …, "status": …}`.

Browsers are turned away as in Toxiproxy: a page that somebody looks at must not reach a port of the loopback. With a
token, so is whoever does not show it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from hormesis.chaos.toxiproxy.addresses import format_address
from hormesis.chaos.toxiproxy.errors import ApiError, bad_request
from hormesis.chaos.toxiproxy.metrics import CONTENT_TYPE, exposition
from hormesis.chaos.toxiproxy.registry import Proxies
from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.version import __version__

try:
    from aiohttp import web
except ImportError as error:
    raise MissingExtraError("`hormesis proxy`", "gameday") from error

__all__ = ["API_VERSION", "application", "serving"]

API_VERSION = "2.12.0"
"""The version of Toxiproxy whose API this is: what clients that ask want to know."""

_BODY_MAX = 1_000_000
_BODY_WITHIN = 15.0
"""Seconds in which a body must have come."""

_GRACE = 2.0
"""Seconds that requests have to end when the server stops."""

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(proxies: Proxies, token: str = "") -> web.Application:
    """Return the API of some proxies.

    Args:
        proxies: What it serves. They are the caller's: the application does not stop them.
        token: What each request must show as `Authorization: Bearer …`; empty: nothing.
    """

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        response = await _answered(request, handler, token)
        response.headers["X-Toxiproxy-Request-Id"] = secrets.token_hex(10)
        return response

    app = web.Application(middlewares=[guard], client_max_size=_BODY_MAX)
    api = _Api(proxies)
    app.router.add_get("/proxies", api.list_proxies)
    app.router.add_post("/proxies", api.create_proxy)
    app.router.add_post("/populate", api.populate)
    app.router.add_post("/reset", api.reset)
    app.router.add_get("/proxies/{proxy}", api.show_proxy)
    app.router.add_delete("/proxies/{proxy}", api.delete_proxy)
    app.router.add_get("/proxies/{proxy}/toxics", api.list_toxics)
    app.router.add_post("/proxies/{proxy}/toxics", api.create_toxic)
    app.router.add_get("/proxies/{proxy}/toxics/{toxic}", api.show_toxic)
    app.router.add_delete("/proxies/{proxy}/toxics/{toxic}", api.delete_toxic)
    for method in ("POST", "PATCH"):
        app.router.add_route(method, "/proxies/{proxy}", api.update_proxy)
        app.router.add_route(method, "/proxies/{proxy}/toxics/{toxic}", api.update_toxic)
    app.router.add_get("/version", api.version)
    app.router.add_get("/metrics", api.metrics)
    app.router.add_get("/ca.pem", api.certificate)
    return app


@contextlib.asynccontextmanager
async def serving(proxies: Proxies, host: str, port: int, token: str = "") -> AsyncIterator[list[str]]:
    """Serve the API of some proxies as long as the block lasts, and give the URLs where.

    Args:
        proxies: They are the caller's, who stops them.
        host: Where to listen.
        port: Where to listen; 0 is a free port.
        token: What each request must show as `Authorization: Bearer …`; empty: nothing.

    Raises:
        ConfigurationError: It can't listen there.
    """
    runner = web.AppRunner(application(proxies, token), access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be listened on: {error.strerror or error}"
            raise ConfigurationError(f"port {port} of the API on {host} {why}; 0 is a free one", "port") from error
        yield [f"http://{format_address(*address[:2])}" for address in runner.addresses]
    finally:
        await runner.cleanup()


class _Api:
    """What each endpoint does."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    async def list_proxies(self, _: web.Request) -> web.Response:
        return _json({proxy.settings.name: proxy.as_json for proxy in self._proxies})

    async def create_proxy(self, request: web.Request) -> web.Response:
        proxy = await self._proxies.create(await _body(request))
        return _json(proxy.as_json, 201)

    async def populate(self, request: web.Request) -> web.Response:
        try:
            proxies = await self._proxies.populate(await _body(request))
        except ApiError as error:
            return _json({**error.as_json, "proxies": []}, error.status)
        return _json({"proxies": [proxy.as_json for proxy in proxies]}, 201)

    async def reset(self, _: web.Request) -> web.Response:
        await self._proxies.reset()
        return web.Response(status=204)

    async def show_proxy(self, request: web.Request) -> web.Response:
        return _json(self._proxies[request.match_info["proxy"]].as_json)

    async def update_proxy(self, request: web.Request) -> web.Response:
        name = request.match_info["proxy"]
        self._proxies[name]  # what is not there is told before what is wrong with the body
        proxy = await self._proxies.update(name, await _body(request))
        return _json(proxy.as_json)

    async def delete_proxy(self, request: web.Request) -> web.Response:
        await self._proxies.delete(request.match_info["proxy"])
        return web.Response(status=204)

    async def list_toxics(self, request: web.Request) -> web.Response:
        toxics = self._proxies[request.match_info["proxy"]].toxics
        return _json([toxic.as_json for toxic in toxics.values()])

    async def create_toxic(self, request: web.Request) -> web.Response:
        self._proxies[request.match_info["proxy"]]
        toxic = self._proxies.add_toxic(request.match_info["proxy"], await _body(request))
        return _json(toxic.as_json)

    async def show_toxic(self, request: web.Request) -> web.Response:
        return _json(self._proxies.toxic(*_names(request)).as_json)

    async def update_toxic(self, request: web.Request) -> web.Response:
        self._proxies.toxic(*_names(request))
        return _json(self._proxies.update_toxic(*_names(request), await _body(request)).as_json)

    async def delete_toxic(self, request: web.Request) -> web.Response:
        self._proxies.delete_toxic(*_names(request))
        return web.Response(status=204)

    async def version(self, _: web.Request) -> web.Response:
        return _json({"version": API_VERSION, "server": f"hormesis {__version__}"})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=exposition(self._proxies), headers={"Content-Type": CONTENT_TYPE})

    async def certificate(self, _: web.Request) -> web.Response:
        return web.Response(body=self._proxies.authority.pem(), content_type="application/x-pem-file")


async def _answered(request: web.Request, handler: _Handler, token: str) -> web.StreamResponse:
    """Answer a request, whatever comes of it."""
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        return web.Response(status=403, text="User agent not allowed\n")
    shown = request.headers.get("Authorization", "")
    if token and not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
        refusal = ApiError(401, "this API takes requests with its token only: Authorization: Bearer TOKEN")
        return _json(refusal.as_json, 401, {"WWW-Authenticate": "Bearer"})
    try:
        return await handler(request)
    except ApiError as error:
        return _json(error.as_json, error.status)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        wrong = ApiError(405, f"{request.path} takes {allowed}, not {request.method}")
        return _json(wrong.as_json, 405, {"Allow": allowed})
    except web.HTTPNotFound:
        return _json(ApiError(404, f"no such endpoint: {request.path}").as_json, 404)
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return _json(ApiError(500, "internal error; the server's log has it").as_json, 500)


async def _body(request: web.Request) -> object:
    """Return what the body says."""
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            data = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise ApiError(413, f"the body is larger than {_BODY_MAX:,} bytes") from None
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {_BODY_WITHIN:g} seconds") from None
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"it is not JSON: {error}") from None
    return found


def _names(request: web.Request) -> tuple[str, str]:
    return request.match_info["proxy"], request.match_info["toxic"]


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(value, status=status, headers=headers)

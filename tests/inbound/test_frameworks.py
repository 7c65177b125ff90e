"""The frameworks' own conventions: Starlette, FastAPI, Django and Flask."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import hormesis as hm
from hormesis.inbound import asgi, current, identified, wsgi
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit

httpx = pytest.importorskip("httpx")


def service(*parts: Any) -> Service:
    return Service(
        *parts, LoadShedder(limit=1, limit_min=1, start=1, max_queued=0, shed_max=1, objective="10s"), name="shop"
    )


def refuse() -> None:
    raise hm.CircuitOpen("payments", "open", 3.0)


def in_flight(service: Service) -> tuple[int, int]:
    machine = service.ground.machine
    assert machine is not None
    return machine.in_flight, service.busy()


async def ask(app: Any, *paths: str, raise_app_exceptions: bool = True) -> list[Any]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return [await client.get(path, headers={"X-Request-ID": "r-1"}) for path in paths]


def test_starlette() -> None:
    """By `add_middleware`; streams hold their place, background tasks don't, refusals inside are answered."""
    starlette = pytest.importorskip("starlette.applications")
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    seen: list[Any] = []
    mine = service()

    async def plain(request: Any) -> Any:
        seen.append((current() is request.state.hormesis, hm.request_id()))
        return JSONResponse({}, background=BackgroundTask(lambda: seen.append(in_flight(mine))))

    async def stream(request: Any) -> Any:
        async def parts() -> Any:
            yield b"t"
            seen.append(in_flight(mine))
            yield b"ea"

        return StreamingResponse(parts())

    async def refuses(request: Any) -> Any:
        refuse()

    app = starlette.Starlette(routes=[Route("/", plain), Route("/stream", stream), Route("/refuses", refuses)])
    app.add_middleware(asgi.Protect, service=mine)
    answers = asyncio.run(ask(app, "/", "/stream", "/refuses"))
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert answers[1].text == "tea"
    assert answers[2].headers["retry-after"] in "3456"
    assert seen == [(True, "r-1"), (0, 0), (1, 1)]
    assert in_flight(mine) == (0, 0)


def test_starlette_from_outside() -> None:
    """Around the whole application, its table of exceptions holds our answers."""
    starlette = pytest.importorskip("starlette.applications")
    from starlette.routing import Route

    async def refuses(request: Any) -> Any:
        refuse()

    app = starlette.Starlette(routes=[Route("/", refuses)])
    app.add_exception_handler(hm.Rejected, asgi.answer)
    (answer,) = asyncio.run(ask(asgi.Protect(app, service()), "/"))
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


def test_fastapi() -> None:
    """Endpoints of both colours know their request, and who was authenticated is counted there."""
    fastapi = pytest.importorskip("fastapi")
    mine = service(RateLimit("1/min", by="principal"))
    app = fastapi.FastAPI()
    app.add_middleware(asgi.Protect, service=mine)
    seen: list[Any] = []

    def logged_in() -> str:
        identified("ada")
        return "ada"

    @app.get("/sync")
    def synchronous() -> dict[str, str]:
        seen.append(hm.request_id())
        return {}

    @app.get("/mine")
    async def asynchronous(user: str = fastapi.Depends(logged_in)) -> dict[str, str]:
        seen.append(current().principal)
        return {}

    answers = asyncio.run(ask(app, "/sync", "/mine", "/mine"))
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers.get_list("ratelimit") == [f'"1/min";r=0;t={answers[2].headers["retry-after"]}']
    assert seen == ["r-1", "ada"]
    assert in_flight(mine) == (0, 0)


@pytest.fixture(scope="module")
def django() -> Any:
    """Set Django up, once: its settings are a module's."""
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.core.handlers.asgi import ASGIRequest
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    def plain(request: Any) -> Any:
        identified("ada")
        return HttpResponse(hm.request_id())

    async def asynchronous(request: Any) -> Any:
        return HttpResponse(f"async {hm.request_id()}")

    def stream(request: Any) -> Any:
        async def parts() -> Any:
            for part in (b"t", b"ea"):
                yield part

        return StreamingHttpResponse(parts() if isinstance(request, ASGIRequest) else iter([b"t", b"ea"]))

    def refuses(request: Any) -> Any:
        refuse()

    async def refuses_too(request: Any) -> Any:
        refuse()

    def fails(request: Any) -> Any:
        raise ZeroDivisionError

    class Urls:
        urlpatterns = (
            path("", plain),
            path("async", asynchronous),
            path("stream", stream),
            path("refuses", refuses),
            path("refuses-too", refuses_too),
            path("fails", fails),
        )

    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=Urls,
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="no secret",
            MIDDLEWARE=["hormesis.inbound.django.Answers"],
            LOGGING_CONFIG=None,
        )
        django.setup()
    return django


PATHS = ("/", "/async", "/stream", "/refuses", "/refuses-too", "/fails")
STATUSES = [200, 200, 200, 503, 503, 500]


def test_django_over_asgi(django: Any) -> None:
    """Around the application, with our answers among its middleware."""
    from django.core.asgi import get_asgi_application

    mine = service()
    app = asgi.Protect(get_asgi_application(), mine)
    answers = asyncio.run(ask(app, *PATHS, raise_app_exceptions=False))
    assert [answer.status_code for answer in answers] == STATUSES
    assert [answer.text for answer in answers[:3]] == ["r-1", "async r-1", "tea"]
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert in_flight(mine) == (0, 0)


def get(app: Any, *paths: str) -> list[Any]:
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://shop") as client:
        return [client.get(path, headers={"X-Request-ID": "r-1"}) for path in paths]


def test_django_over_wsgi(django: Any) -> None:
    """The same, in threads; a limit by principal is counted in the view."""
    from django.core.wsgi import get_wsgi_application

    mine = service(RateLimit("1/min", by="principal"))
    app = wsgi.Protect(get_wsgi_application(), mine)
    answers = get(app, *PATHS)
    assert [answer.status_code for answer in answers] == STATUSES
    assert [answer.text for answer in answers[:3]] == ["r-1", "async r-1", "tea"]
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert get(app, "/")[0].status_code == 429
    assert in_flight(mine) == (0, 0)


def test_django_without_a_service(django: Any) -> None:
    """Outside of a `Protect` the middleware leaves everything to Django."""
    from django.core.wsgi import get_wsgi_application

    assert [answer.status_code for answer in get(get_wsgi_application(), "/", "/refuses")] == [200, 500]


def test_flask() -> None:
    """By `wsgi_app`; its table of exceptions holds our answers."""
    flask = pytest.importorskip("flask")
    mine = service(RateLimit("1/min", by="principal"))
    app = flask.Flask("shop")
    app.wsgi_app = wsgi.Protect(app.wsgi_app, mine)
    app.register_error_handler(hm.Rejected, wsgi.answer)
    app.add_url_rule("/", "plain", hm.request_id)
    app.add_url_rule("/stream", "stream", lambda: flask.Response(iter([b"t", b"ea"])))

    @app.route("/refuses")
    def refuses() -> str:
        refuse()
        return ""

    @app.route("/mine")
    def logged_in() -> str:
        identified("ada")
        return current().principal or ""

    answers = get(app, "/", "/stream", "/refuses", "/mine", "/mine")
    assert [answer.status_code for answer in answers] == [200, 200, 503, 200, 429]
    assert answers[4].headers.get_list("ratelimit") == [f'"1/min";r=0;t={answers[4].headers["retry-after"]}']
    assert [answer.text for answer in answers[:2]] == ["r-1", "tea"]
    assert answers[2].headers["content-type"] == "application/problem+json"
    assert in_flight(mine) == (0, 0)

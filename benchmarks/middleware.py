"""What the inbound journey costs a request, over the bare application and against slowapi, in one run.

An application is called as a server calls it, without one: a request is a scope and two functions, and the answer is
two messages. Each case is timed in short rounds, interleaved with all others, and the fastest round counts: on a shared
machine the minimum is what the code costs, and everything above it is the neighbours. What is said is the time of a
request over that of the bare application of its kind.

Each case is checked: that what was timed answered, and that its limits act. A peer that is missing is named.

    python benchmarks/middleware.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hormesis.events import bus
from hormesis.inbound import Rule, asgi, wsgi
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit

_ROUND_SECONDS = 0.002
"""A round is that long: shorter than what a neighbour leaves us of the processor at a time."""
_TARGET = 25.0
"""Microseconds that the whole journey may cost."""

HEADERS = [
    ("host", "shop.example"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"),
    ("accept", "text/html,application/xhtml+xml"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en"),
    ("cookie", "session=3f1c2a"),
    ("x-forwarded-for", "203.0.113.9"),
    ("x-forwarded-proto", "https"),
    ("connection", "keep-alive"),
]

Timed = Callable[[int], float]


@dataclasses.dataclass(slots=True)
class Case:
    """Something to time.

    Args:
        name: What it is.
        kind: The bare application that it is compared with.
        timed: Runs it so many times and returns the seconds that took.
        target: Microseconds over the bare application that it may cost; None where none is named.
    """

    name: str
    kind: str
    timed: Timed
    target: float | None = None
    calls: int = 1
    best: float = float("inf")


def parts(*which: str) -> list[Any]:
    """Parts of a service, each as a service would have it."""
    known: dict[str, list[Any]] = {
        "rules": [Rule("/checkout/*", criticality="critical"), Rule("/reports/*", criticality="background")],
        "limit": [RateLimit("1000000/s", by="client")],
        "two limits": [RateLimit("1000000/s", "1000000000/d", by="client")],
        "shedder": [LoadShedder()],
    }
    return [part for each in which for part in known[each]]


OURS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("identify", ["rules"], {}),
    ("identify + rate limit", ["rules", "limit"], {"rate_limit_headers": False}),
    ("identify + rate limit, told in headers", ["rules", "limit"], {}),
    ("identify + load shedder", ["rules", "shedder"], {}),
    ("all of these", ["rules", "limit", "shedder"], {}),
    ("all, two limits, a deadline", ["rules", "two limits", "shedder"], {"deadline": "2s"}),
]

# ASGI.


async def plain(_scope: Any, _receive: Any, send: Any) -> None:
    """The bare ASGI application."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"tea"})


def starlette() -> Any:
    """The bare application of Starlette."""
    from starlette.applications import Starlette  # noqa: PLC0415  a peer may be missing
    from starlette.responses import PlainTextResponse  # noqa: PLC0415  a peer may be missing
    from starlette.routing import Route  # noqa: PLC0415  a peer may be missing

    async def endpoint(_request: Any) -> Any:
        return PlainTextResponse("tea")

    return Starlette(routes=[Route("/products/tea", endpoint)])


def slowapi(*, headers: bool) -> Any:
    """The same with slowapi, whose limits are kept in memory."""
    from slowapi import Limiter  # noqa: PLC0415  a peer may be missing
    from slowapi.middleware import SlowAPIASGIMiddleware  # noqa: PLC0415  a peer may be missing
    from slowapi.util import get_remote_address  # noqa: PLC0415  a peer may be missing

    app = starlette()
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=["1000000/second"], headers_enabled=headers)
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


RAW = [(name.encode(), value.encode()) for name, value in HEADERS]


def scope() -> dict[str, Any]:
    """A request as servers hand it over."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/products/tea",
        "raw_path": b"/products/tea",
        "query_string": b"",
        "root_path": "",
        "headers": RAW,
        "client": ("10.0.0.7", 4711),
        "server": ("10.0.0.1", 8000),
    }


async def receive() -> dict[str, Any]:
    """The request has no body."""
    return {"type": "http.request", "body": b"", "more_body": False}


def timed_asgi(app: Any, runner: asyncio.Runner) -> Timed:
    """Time so many requests of an ASGI application."""
    statuses: list[int] = []

    async def checking(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def send(message: Any) -> None:
        pass

    async def run(calls: int) -> float:
        numbers = itertools.repeat(None, calls)
        start = time.perf_counter()
        for _ in numbers:
            await app(scope(), receive, send)
        return time.perf_counter() - start

    runner.run(app(scope(), receive, checking))
    assert statuses == [200], statuses
    return lambda calls: runner.run(run(calls))


# WSGI.


def plain_wsgi(_environ: Any, start_response: Any) -> Iterable[bytes]:
    """The bare WSGI application."""
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", "3")])
    return [b"tea"]


ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/products/tea",
    "REMOTE_ADDR": "10.0.0.7",
    **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS},
}


def timed_wsgi(app: Any) -> Timed:
    """Time so many requests of a WSGI application."""

    def start_response(status: str, *_others: Any) -> Any:
        assert status == "200 OK", status

    def run(calls: int) -> float:
        numbers = itertools.repeat(None, calls)
        start = time.perf_counter()
        for _ in numbers:
            answer = app(ENVIRON.copy(), start_response)
            for _part in answer:
                pass
            if hasattr(answer, "close"):
                answer.close()
        return time.perf_counter() - start

    run(1)
    return run


def check_acts() -> None:
    """Make sure that the journey acts when it has to: a limit that is used up is used up."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def main() -> None:
        protected = asgi.Protect(plain, Service(RateLimit("2/h", by="client"), LoadShedder(), name="acts"))
        for _ in range(3):
            await protected(scope(), receive, send)

    asyncio.run(main())
    assert statuses == [200, 200, 429], statuses


def cases(runner: asyncio.Runner) -> tuple[list[Case], list[str]]:
    """All cases, and what is missing."""
    found = [Case("bare", "ASGI", timed_asgi(plain, runner))]
    missing: list[str] = []
    for name, which, settings in OURS:
        service = Service(*parts(*which), name=name, **settings)
        target = _TARGET if "all" in name else None
        found.append(Case(name, "ASGI", timed_asgi(asgi.Protect(plain, service), runner), target))
    try:
        found.append(Case("bare", "Starlette", timed_asgi(starlette(), runner)))
        app = starlette()
        app.add_middleware(asgi.Protect, service=Service(*parts("rules", "limit"), name="limit"))
        found.append(Case("identify + rate limit, told in headers", "Starlette", timed_asgi(app, runner)))
        app = starlette()
        app.add_middleware(asgi.Protect, service=Service(*parts("rules", "limit", "shedder"), name="all"))
        found.append(Case("all of these", "Starlette", timed_asgi(app, runner), _TARGET))
        found.append(Case("slowapi", "Starlette", timed_asgi(slowapi(headers=False), runner)))
        found.append(Case("slowapi, told in headers", "Starlette", timed_asgi(slowapi(headers=True), runner)))
    except ImportError as error:
        missing.append(f"{error.name} is not installed")
    found.append(Case("bare", "WSGI", timed_wsgi(plain_wsgi)))
    for name, which, settings in OURS:
        service = Service(*parts(*which), name=name, **settings)
        target = _TARGET if "all" in name else None
        found.append(Case(name, "WSGI", timed_wsgi(wsgi.Protect(plain_wsgi, service)), target))
    return found, missing


def measure(found: list[Case], rounds: int) -> None:
    """Time all of them in turn, so many rounds."""
    for case in found:
        took = case.timed(50)
        case.calls = max(10, round(50 * _ROUND_SECONDS / took))
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for case in found:
            case.best = min(case.best, case.timed(case.calls) / case.calls)


def report(found: list[Case], missing: list[str]) -> bool:
    """Print what was found; returns whether all targets were met."""
    bare = {case.kind: case.best for case in found if case.name == "bare"}
    met = True
    kind = ""
    for case in found:
        if case.kind != kind:
            kind = case.kind
            print(f"\n{kind}: the bare application takes {case.best * 1e6:.2f} us a request")
            continue
        over = (case.best - bare[kind]) * 1e6
        verdict = ""
        if case.target is not None:
            met = met and over <= case.target
            verdict = f"   target {case.target:g}: {'met' if over <= case.target else 'MISSED'}"
        print(f"  {case.name:45} {over:8.2f} us over it{verdict}")
    for each in missing:
        print(f"\n{each}")
    return met


def main() -> int:
    """Time, report, and say by the exit status whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="rounds of each case (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the figures as well")
    arguments = parser.parse_args()
    assert not bus.listeners
    check_acts()
    print(f"Python {platform.python_version()} on {platform.machine()}; {arguments.rounds} rounds of 2 ms each")
    with asyncio.Runner() as runner:
        found, missing = cases(runner)
        measure(found, arguments.rounds)
    met = report(found, missing)
    if arguments.json:
        figures = {f"{case.kind}: {case.name}": case.best for case in found}
        arguments.json.write_text(json.dumps({"seconds": figures, "missing": missing}, indent=2))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""The server of the standard library, which handles no signals, before the protected WSGI application."""

from __future__ import annotations

import sys
from wsgiref.simple_server import make_server

import wsgi_app


def app(environ, start_response):  # type: ignore[no-untyped-def]
    """Tell what begins."""
    print(environ["PATH_INFO"], flush=True)  # noqa: T201
    return wsgi_app.app(environ, start_response)


with make_server("127.0.0.1", int(sys.argv[1]), app) as server:
    server.serve_forever()

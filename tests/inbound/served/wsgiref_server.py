"""The server of the standard library, which handles no signals, before the protected WSGI application."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from wsgiref.simple_server import make_server


def main(port: int) -> None:
    """Serve until the end, and tell what begins."""
    protected: Any = importlib.import_module("wsgi_app").app

    def app(environ: Any, start_response: Any) -> Any:
        print(environ["PATH_INFO"], flush=True)  # noqa: T201
        return protected(environ, start_response)

    with make_server("127.0.0.1", port, app) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))

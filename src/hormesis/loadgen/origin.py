"""Where requests go: the parts of a URL that a client needs."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from hormesis.errors import ConfigurationError

__all__ = ["Origin"]

_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


@dataclass(frozen=True, slots=True)
class Origin:
    """An HTTP server, and the path that the paths of its requests go on from.

    Attributes:
        secure: Whether it is spoken to over TLS.
        host, port: Where it listens.
        path: What goes before each path; empty, or from the slash on.
        host_header: Its name in the header `Host`.
        authorization: The header `Authorization` that the user and password of the URL ask for.

    >>> Origin.of("https://shop.example/api").port, Origin.of("http://[::1]:8000").host_header
    (443, '[::1]:8000')
    """

    secure: bool
    host: str
    port: int
    path: str
    host_header: str
    authorization: str | None

    @classmethod
    def of(cls, url: str, key: str = "base_url") -> Origin:
        """Return the origin of a URL.

        Raises:
            ConfigurationError: It is not the URL of an HTTP server.
        """
        refused = ConfigurationError.bad_value(key, url, "a URL such as 'http://127.0.0.1:8000'")
        if not _is_url(url):
            raise refused
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise refused from None
        if not parts.hostname or port == 0:
            raise refused
        secure = parts.scheme == "https"
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(
            secure=secure,
            host=parts.hostname,
            port=port or (443 if secure else 80),
            path=parts.path.rstrip("/"),
            host_header=parts.netloc.rpartition("@")[2],
            authorization=authorization,
        )


def _is_url(value: object) -> bool:
    return isinstance(value, str) and _URL.fullmatch(value) is not None

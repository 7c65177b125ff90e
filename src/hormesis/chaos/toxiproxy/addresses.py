"""Addresses as Toxiproxy writes them: `host:port`, `[::1]:port`, and `:port` for every interface.

An upstream may be a Unix socket as well, which is a path from the root.
"""

from __future__ import annotations

from hormesis.errors import ConfigurationError

__all__ = ["format_address", "parse_listen", "parse_upstream"]

_PORT_MAX = 65535
_HOST_MAX = 253
"""Characters of a name in the DNS."""

_PATH_MAX = 107
"""Bytes of the path of a Unix socket, on Linux."""

_ACCEPTED = "an address like '127.0.0.1:6379', 'db:5432' or '[::1]:6379'"
_EVERY_INTERFACE = "0.0.0.0"  # noqa: S104  only where the user wrote `:port`


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of where to listen; port 0 is a free one.

    Raises:
        ConfigurationError: It is no address.

    >>> parse_listen(":8080"), parse_listen("[::1]:0")
    (('0.0.0.0', 8080), ('::1', 0))
    """
    host, port = _split(text)
    if port < 0:
        raise ConfigurationError.bad_value("listen", _short(text), f"{_ACCEPTED}; port 0 is a free one")
    return host or _EVERY_INTERFACE, port


def parse_upstream(text: str) -> tuple[str, int] | str:
    """Return host and port of a service, or the path of its socket.

    Raises:
        ConfigurationError: It is neither.

    >>> parse_upstream("localhost:6379"), parse_upstream("/run/redis.sock")
    (('localhost', 6379), '/run/redis.sock')
    """
    if text.startswith("/") and len(text.encode()) <= _PATH_MAX and text.isprintable():
        return text
    host, port = _split(text)
    if not host or port < 1:
        raise ConfigurationError.bad_value("upstream", _short(text), f"{_ACCEPTED}, or the path of a Unix socket")
    return host, port


def _split(text: str) -> tuple[str, int]:
    """Return host and port; -1 for what is no address."""
    host, _, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return host, -1
    is_port = digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= _PORT_MAX
    return host, int(digits) if ":" in text and is_port and _is_host(host) else -1


def _is_host(host: str) -> bool:
    """Whether it can be looked up; nothing at all is every interface."""
    if len(host) > _HOST_MAX or not host.isprintable() or " " in host:
        return False
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= _HOST_MAX else f"{text[:_HOST_MAX]}…"


def format_address(host: str, port: int) -> str:
    """Write an address.

    >>> format_address("127.0.0.1", 80), format_address("::1", 80)
    ('127.0.0.1:80', '[::1]:80')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

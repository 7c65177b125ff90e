"""TLS of the API's proxies: `tls` of a proxy says how it ends there, and one test CA signs for all of them.

Without it TLS passes through, as it does in Toxiproxy. With it, faults that read HTTP see what is inside. Clients must
trust the CA: its certificate is at `GET /ca.pem`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hormesis.chaos.toxiproxy.errors import bad_request
from hormesis.chaos.toxiproxy.fields import field, object_of
from hormesis.chaos.wire import TestAuthority, TlsEnds
from hormesis.errors import ConfigurationError, MissingExtraError

__all__ = ["Authority", "Tls", "tls_from_json"]

Tls = Mapping[str, Any]
"""As it was asked for: any of the keys of `TlsEnds` but the authority."""

_KEYS = ("name", "upstream", "upstream_ca", "upstream_name")


def tls_from_json(value: object) -> Tls:
    """Read how TLS ends at a proxy; `true` is all by default.

    Raises:
        ApiError: It can't be meant.
    """
    table = {} if value is True else object_of(value, "tls")
    for key in table:
        if key not in _KEYS:
            raise bad_request(ConfigurationError.unknown("key of tls", key, _KEYS))
        field(table, key, str, "")
    return table


class Authority:
    """The test CA of a server, made when it is first needed.

    Args:
        folder: Where it is kept, and found again; None: it is gone with the server.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder
        self._made: TestAuthority | None = None

    def ends(self, tls: Tls) -> TlsEnds:
        """Return what a proxy needs to end TLS.

        Raises:
            ApiError: It can't be meant, or TLS can't be ended here.
        """
        try:
            return TlsEnds(authority=self._authority(), **tls)
        except (ConfigurationError, MissingExtraError) as error:
            raise bad_request(f"tls: {error}") from error

    def pem(self) -> bytes:
        """Return its certificate.

        Raises:
            ApiError: TLS can't be ended here.
        """
        try:
            return self._authority().pem
        except (ConfigurationError, MissingExtraError) as error:
            raise bad_request(f"tls: {error}") from error

    def _authority(self) -> TestAuthority:
        if self._made is None:
            self._made = TestAuthority(self._folder)
        return self._made

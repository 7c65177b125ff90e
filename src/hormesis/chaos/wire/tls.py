"""TLS that ends at the proxy, with certificates of a test CA: so that what is inside can be read and changed.

Towards clients the proxy is the server whose name they ask for: it makes a certificate for each name, signed by a CA
that the clients under test are told to trust. Towards the dependency it is a client like any other, and verifies what
it is shown. Without this, TLS passes through as bytes like all others.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from hormesis.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    import trustme

__all__ = ["TestAuthority", "TlsEnds", "TlsUpstream"]

TlsUpstream = Literal["verify", "unverified", "plain"]
"""What the dependency speaks: TLS with a certificate that is verified, TLS with any, or no TLS."""

_NAMES_MAX = 1000
"""Certificates that are kept for names that clients ask for."""
_PROTOCOLS = ["http/1.1"]
"""What is agreed on inside: no HTTP/2, which nobody here reads."""


class TestAuthority:
    """A certificate authority for tests, which nobody trusts who is not told to.

    Args:
        folder: Where its certificate and key are kept (`ca.pem`, `ca.key`), and found again; None: it is new, and gone
            with the process.

    Raises:
        ConfigurationError: What is in the folder is no CA, or it can't be written.
        MissingExtraError: The extra `gameday` is not installed.

    >>> authority = TestAuthority()
    >>> authority.pem.startswith(b"-----BEGIN CERTIFICATE-----")
    True
    """

    __test__ = False  # for pytest, which takes the name for a test's

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            import trustme  # noqa: PLC0415  only who ends TLS needs it
        except ImportError:
            raise MissingExtraError("ending TLS at a proxy", "gameday") from None
        self._authority = trustme.CA() if folder is None else _kept(Path(folder))
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def pem(self) -> bytes:
        """Its certificate, for clients to trust."""
        return self._authority.cert_pem.bytes()

    def context(self, name: str) -> ssl.SSLContext:
        """Return what a server of this name shows its clients."""
        found = self._contexts.get(name)
        if found is None:
            found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            found.set_alpn_protocols(_PROTOCOLS)
            self._authority.issue_cert(*_also_known_as(name)).configure_cert(found)
            if len(self._contexts) < _NAMES_MAX:
                self._contexts[name] = found
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsEnds:
    """How a proxy ends TLS.

    Args:
        authority: Signs what is shown to clients.
        name: The server's name, for clients that ask for none; those that do get a certificate for what they ask for.
        upstream: `"verify"`, the dependency's certificate must be good; `"unverified"`, any will do; `"plain"`, it
            speaks no TLS.
        upstream_ca: A file of certificates to trust instead of the system's.
        upstream_name: The name that the dependency's certificate must be for; None: the host of its address.

    Raises:
        ConfigurationError: A value can't be meant, or the file of certificates can't be read.

    >>> ends = TlsEnds(authority=TestAuthority(), upstream="plain")
    """

    authority: TestAuthority
    name: str = "localhost"
    upstream: TlsUpstream = "verify"
    upstream_ca: str | os.PathLike[str] | None = None
    upstream_name: str | None = None

    def __post_init__(self) -> None:
        if self.upstream not in get_args(TlsUpstream):
            accepted = "one of " + ", ".join(map(repr, get_args(TlsUpstream)))
            raise ConfigurationError.bad_value("upstream", self.upstream, accepted)
        self.to_upstream()

    def to_clients(self) -> ssl.SSLContext:
        """Return what clients are shown."""
        context = self.authority.context(self.name)

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            if name:
                connection.context = self.authority.context(name)

        context.sni_callback = choose
        return context

    def to_upstream(self) -> ssl.SSLContext | None:
        """Return what is asked of the dependency; None if it speaks no TLS."""
        if self.upstream == "plain":
            return None
        try:
            context = ssl.create_default_context(cafile=self.upstream_ca)
        except OSError as error:
            accepted = f"a file of certificates ({error.strerror or error})"
            raise ConfigurationError.bad_value("upstream_ca", str(self.upstream_ca), accepted) from None
        if self.upstream == "unverified":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(_PROTOCOLS)
        return context


def _also_known_as(name: str) -> set[str]:
    """The names of a certificate: on this machine a server has several."""
    local = {"localhost", "127.0.0.1", "::1"}
    return local if name in local else {name}


def _kept(folder: Path) -> trustme.CA:
    """Read the CA of a folder, or make one and keep it there."""
    import trustme  # noqa: PLC0415  as above

    certificate, key = folder / "ca.pem", folder / "ca.key"
    try:
        if certificate.exists() and key.exists():
            return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
        made = trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(made.private_key_pem.bytes())
        certificate.write_bytes(made.cert_pem.bytes())
    except (OSError, ValueError) as error:
        accepted = f"a folder with ca.pem and ca.key, or one to write them to ({error})"
        raise ConfigurationError.bad_value("folder", str(folder), accepted) from None
    return made

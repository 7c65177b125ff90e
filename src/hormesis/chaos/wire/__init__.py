"""The fault proxy: faults on the connections of an edge."""

from hormesis.chaos.wire.proxy import FaultProxy
from hormesis.chaos.wire.tls import TestAuthority, TlsEnds

__all__ = ["FaultProxy", "TestAuthority", "TlsEnds"]

"""What kinds of failure the statuses of gRPC are.

`UNAVAILABLE` is what the library says when it never got a connection, and what a server says that can't serve now; even
its details are no proof, since a server hands on those of a server behind it. So it is `unavailable`, never `connect`:
something may have happened there. `ABORTED` is a transaction that the server gave up for another one. `CANCELLED` comes
here only from the other side: what we cancel ourselves ends as cancelled, and fails nobody.

Names only: nothing is imported.

Source: "Status codes and their use in gRPC" (grpc/doc/statuscodes.md).
"""

from __future__ import annotations

from typing import Any

from hormesis.outcome import FailureKind, register_failures

__all__ = ["kind_of_grpc_status"]

_STATUSES = {
    "UNAVAILABLE": FailureKind.UNAVAILABLE,
    "ABORTED": FailureKind.UNAVAILABLE,
    "DEADLINE_EXCEEDED": FailureKind.TIMEOUT,
    "RESOURCE_EXHAUSTED": FailureKind.THROTTLED,
    "INVALID_ARGUMENT": FailureKind.INVALID,
    "NOT_FOUND": FailureKind.INVALID,
    "ALREADY_EXISTS": FailureKind.INVALID,
    "PERMISSION_DENIED": FailureKind.INVALID,
    "UNAUTHENTICATED": FailureKind.INVALID,
    "FAILED_PRECONDITION": FailureKind.INVALID,
    "OUT_OF_RANGE": FailureKind.INVALID,
    "UNIMPLEMENTED": FailureKind.INVALID,
}


def kind_of_grpc_status(name: str) -> FailureKind:
    """Return the kind of failure that a gRPC status is, by the name of its code.

    >>> kind_of_grpc_status("UNAVAILABLE"), kind_of_grpc_status("NOT_FOUND"), kind_of_grpc_status("INTERNAL")
    (<FailureKind.UNAVAILABLE: 'unavailable'>, <FailureKind.INVALID: 'invalid'>, <FailureKind.ERROR: 'error'>)
    """
    return _STATUSES.get(name, FailureKind.ERROR)


def _rpc_error(error: Any) -> FailureKind:
    # The class itself promises no code: only the errors of calls have one.
    code: Any = getattr(error, "code", None)
    return FailureKind.ERROR if code is None else kind_of_grpc_status(code().name)


register_failures({"grpc.RpcError": _rpc_error})

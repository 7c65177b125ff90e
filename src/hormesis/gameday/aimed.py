"""Which requests of the load a fault is aimed at, as far as its own words and the plan tell.

A fault of the load names them. One on an edge, or inside of a process, may name a route, a header, a path or a client
of the calls that pass there. Where that fits a request of the load, it strikes that request; where it fits none, it
speaks of calls within the system, and whose they are is seen only while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from hormesis.chaos import Fault, Spike
from hormesis.chaos.faults import Inject
from hormesis.chaos.faults.aim import ByRequest, Head
from hormesis.gameday.load import Load, RequestTable
from hormesis.loadgen import Request
from hormesis.patterns.injection import glob

__all__ = ["aimed_at"]

_TELLING = {"path", "client"}
"""Labels of a call that tell whose it is."""


def aimed_at(fault: Fault, load: Load) -> list[str] | None:
    """Return the names of the requests that a fault is aimed at; None where nobody can tell beforehand.

    >>> from hormesis.chaos import Reset
    >>> requests = [RequestTable(name="buy", post="/orders"), RequestTable(name="see", get="/products/{n}")]
    >>> load = Load(to="shop", rate=9, request=requests)
    >>> aimed_at(Spike(3), load), aimed_at(Reset("answer", route="POST /orders"), load), aimed_at(Reset("answer"), load)
    (['buy', 'see'], ['buy'], None)
    """
    match fault:
        case Spike():
            found = [
                each.name
                for each in load.request
                if fault.request in (None, each.name) and fault.client in (None, each.client)
            ]
        case ByRequest() if fault.reads_http:
            found = [each.name for each in load.request if fault.counts_request(_head(each, load))]
        case Inject() if _TELLING & fault.injection.where.keys():
            found = [each.name for each in load.request if _fits(each, fault.injection.where)]
        case _:
            return None
    return found or None


def _head(table: RequestTable, load: Load) -> Head:
    """A request as it is sent, with its placeholders as they stand: a pattern's `{id}` and `*` fit those too."""
    sent = table.request_of(load.callers()[table.client])
    return Head(sent.method, _path(sent), {name.lower(): value for name, value in sent.headers.items()})


def _fits(table: RequestTable, where: Mapping[str, str]) -> bool:
    """Whether nothing that is known of a request's labels speaks against it."""
    sent = table.request()
    known = {"method": sent.method, "path": _path(sent), "client": table.client or ""}
    return all(glob(pattern)(known[label]) for label, pattern in where.items() if label in known)


def _path(request: Request) -> str:
    return request.path.partition("?")[0]

"""A thin link to a port on the loopback, for all of its connections together (tc, htb).

The loopback gets a tree of classes whose default is to let everything pass at once; the port's packets go to two
classes with a rate and a bounded queue, one for each way. The tree is removed with its last class.
"""

from __future__ import annotations

import secrets
import threading

from hormesis.chaos.host.act import BlockingAct, find_program, needs, run
from hormesis.chaos.undo import Run

__all__ = ["ThinPort"]

_ROOT = "484d:"
"""The handle of our tree."""
_GONE = (
    "Cannot find",
    "No such file",
    "nvalid handle",
    "not found",
    "handle of zero",
    "doesn't exist",
    "does not exist",
)
_LOCK = threading.Lock()
"""Whoever finds no tree makes one; two must not do so at the same time."""


class ThinPort(BlockingAct):
    """All that goes to and from a port shares a rate each way.

    Args:
        where: Whose port, in words.
        port: The port, on an IPv4 loopback address.
        rate: Bytes a second, each way.
        queue: Bytes that may wait for it; more is lost.
    """

    def __init__(self, where: str, port: int, rate: float, queue: int) -> None:
        self.what = f"a link of {rate:,.0f} bytes/s on {where}"
        self.port = port
        self.rate = rate
        self.queue = queue
        self._number = 2 * (1 + secrets.randbelow(0x7000))

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        reason = needs("tc", what="a thin link")
        if reason is None and not _is_free(run(self.what, "tc", "qdisc", "show", "dev", "lo")):
            reason = "a thin link needs the loopback's queueing discipline, which somebody else has set (`tc qdisc`)"
        return reason

    def undo(self) -> list[Run]:
        """Return how to take it back: the filters, the classes, and the tree if it is empty then."""
        tc = find_program("tc") or "tc"
        classes = [
            Run([tc, "class", "del", "dev", "lo", "classid", f"{_ROOT}{self._number + way:x}"], gone=_GONE)
            for way in range(2)
        ]
        empty = f'[ -n "$({tc} class show dev lo)" ] || {tc} qdisc del dev lo root handle {_ROOT}'
        return [
            Run([tc, "filter", "del", "dev", "lo", "parent", _ROOT, "prio", str(self._number)], gone=_GONE),
            *classes,
            Run(["/bin/sh", "-c", empty], gone=_GONE),
        ]

    def apply(self) -> None:
        """Make the tree if there is none, the classes, and last the filters that send the packets there."""
        with _LOCK:
            if f"htb {_ROOT}" not in run(self.what, "tc", "qdisc", "show", "dev", "lo"):
                self._tc("qdisc", "add", "root", "handle", _ROOT, "htb")
            rate = f"{self.rate:.0f}bps"
            for way, side in enumerate(("dport", "sport")):
                number = f"{_ROOT}{self._number + way:x}"
                self._tc("class", "add", "parent", _ROOT, "classid", number, "htb", "rate", rate, "quantum", "65536")
                self._tc("qdisc", "add", "parent", number, "bfifo", "limit", str(self.queue))
                match = ["u32", "match", "ip", side, str(self.port), "0xffff", "flowid", number]
                self._tc("filter", "add", "parent", _ROOT, "protocol", "ip", "prio", str(self._number), *match)

    def _tc(self, thing: str, verb: str, *words: str) -> None:
        run(self.what, "tc", thing, verb, "dev", "lo", *words)


def _is_free(shown: str) -> bool:
    """Whether the loopback's discipline is the kernel's own, or ours."""
    roots = [line.split()[1:3] for line in shown.splitlines() if " root " in line]
    return all(kind == "noqueue" or (kind, handle) == ("htb", _ROOT) for kind, handle in roots)

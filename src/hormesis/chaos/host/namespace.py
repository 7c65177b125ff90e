"""A network of a process's own: a namespace, and a cable (veth) to it that can be thinned (tc, tbf) or pulled."""

from __future__ import annotations

import secrets

from hormesis.chaos.host.act import BlockingAct, find_program, needs, run
from hormesis.chaos.undo import Run

__all__ = ["Network", "ThinCable", "Unplugged"]

_SUBNET = "10.213"
"""Where the networks are: each takes four addresses of it."""


class Network(BlockingAct):
    """A network of its own: what runs in it (`prefix`) sees its own loopback and this machine, and nothing else.

    Args:
        where: For what, in words.
    """

    def __init__(self, where: str) -> None:
        self.what = f"a network of its own for {where}"
        self.name = f"hormesis-{secrets.token_hex(4)}"
        tail = self.name[-8:]
        self.outer, self.inner = f"hmo{tail}", f"hmi{tail}"
        """The two ends of the cable."""
        number = secrets.randbits(14)
        high, low = divmod(number * 4, 256)
        self.outside, self.inside = f"{_SUBNET}.{high}.{low + 1}", f"{_SUBNET}.{high}.{low + 2}"
        """The addresses of this machine on the cable, and of the process."""

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it runs in there."""
        return [find_program("ip") or "ip", "netns", "exec", self.name]

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return needs("ip", what="a network of its own")

    def undo(self) -> list[Run]:
        """Return how to take it back."""
        ip = find_program("ip") or "ip"
        return [
            Run([ip, "link", "del", self.outer], gone=("Cannot find device",)),
            Run([ip, "netns", "del", self.name], gone=("No such file",)),
        ]

    def apply(self) -> None:
        """Make the namespace, the cable and its addresses."""
        run(self.what, "ip", "netns", "add", self.name)
        pair = ["type", "veth", "peer", "name", self.inner, "netns", self.name]
        run(self.what, "ip", "link", "add", self.outer, *pair)
        run(self.what, "ip", "addr", "add", f"{self.outside}/30", "dev", self.outer)
        run(self.what, "ip", "link", "set", self.outer, "up")
        run(self.what, "ip", "-n", self.name, "addr", "add", f"{self.inside}/30", "dev", self.inner)
        for device in ("lo", self.inner):
            run(self.what, "ip", "-n", self.name, "link", "set", device, "up")


class Unplugged(BlockingAct):
    """The cable of a network is pulled at its far end.

    Args:
        where: Whose cable, in words.
        network: The network.
    """

    def __init__(self, where: str, network: Network) -> None:
        self.what = f"{where} unplugged"
        self.network = network

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return self.network.possible()

    def undo(self) -> list[Run]:
        """Return how to take it back."""
        ip, network = find_program("ip") or "ip", self.network
        gone = ("Cannot find device", "Cannot open network namespace")
        return [Run([ip, "-n", network.name, "link", "set", network.inner, "up"], gone=gone)]

    def apply(self) -> None:
        """Pull it."""
        run(self.what, "ip", "-n", self.network.name, "link", "set", self.network.inner, "down")


class ThinCable(BlockingAct):
    """The cable of a network carries only so much each way, for all connections together.

    Args:
        where: Whose cable, in words.
        network: The network.
        rate: Bytes a second, each way.
        queue: Bytes that may wait for it; more is lost.
    """

    _BURST = 16_384
    """Bytes that may go at once: the filter counts in packets of a network, which have 1,500."""

    def __init__(self, where: str, network: Network, rate: float, queue: int) -> None:
        self.what = f"a link of {rate:,.0f} bytes/s on {where}"
        self.network = network
        self.rate = rate
        self.queue = queue

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return self.network.possible() or needs("tc", what="a thin link")

    def undo(self) -> list[Run]:
        """Return how to take it back."""
        tc = find_program("tc") or "tc"
        gone = ("Cannot find device", "Cannot open network namespace", "handle of zero", "No such file")
        return [Run([tc, *end, "root"], gone=gone) for end in self._ends("del")]

    def apply(self) -> None:
        """Thin both ends."""
        for end in self._ends("add"):
            rate = ["rate", f"{self.rate:.0f}bps", "burst", str(self._BURST), "limit", str(self.queue)]
            run(self.what, "tc", *end, "root", "tbf", *rate)

    def _ends(self, verb: str) -> list[list[str]]:
        network = self.network
        return [
            ["qdisc", verb, "dev", network.outer],
            ["-n", network.name, "qdisc", verb, "dev", network.inner],
        ]

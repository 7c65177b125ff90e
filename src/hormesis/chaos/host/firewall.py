"""Packets that a firewall loses or rejects, on the loopback or the cable of a network made for the system (iptables).

Each rule bears a comment that nobody else uses, and stands before all others of its chain. It matches one port of the
system under test and nothing else.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Sequence

from hormesis.chaos.host.act import BlockingAct, find_program, needs, run
from hormesis.chaos.undo import Run

__all__ = ["Loss", "RejectPort"]

_GONE = ("does a matching rule exist", "No chain/target/match", "does not exist")
_WAIT = ("-w", "1")
"""How many seconds to wait for another user of the firewall; an undo has no more."""


class _Rules(BlockingAct):
    """Rules of the firewall for one port."""

    def __init__(self, where: str, port: int, host: str = "127.0.0.1", device: str = "lo") -> None:
        self.port = port
        self.device = device
        self.what = f"{self.says()} on {where}"
        self._program = "ip6tables" if ":" in host else "iptables"
        self._tag = f"hormesis-{secrets.token_hex(6)}"

    @abstractmethod
    def says(self) -> str:
        """Say the fault in words."""

    @abstractmethod
    def rules(self) -> Sequence[Sequence[str]]:
        """Return what each rule matches besides protocol and interface, and what it does."""

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return needs(self._program, what="a fault of the firewall")

    def undo(self) -> list[Run]:
        """Return how to take it back: each rule is deleted as it was made."""
        program = find_program(self._program) or self._program
        return [Run([program, *_WAIT, "-D", *self._full(rule)], gone=_GONE) for rule in self.rules()]

    def apply(self) -> None:
        """Put the rules before all others."""
        for rule in self.rules():
            run(self.what, self._program, *_WAIT, "-I", *self._full(rule))

    def _full(self, rule: Sequence[str]) -> list[str]:
        # On the loopback all packets come in; on a cable those to the port go out.
        out = self.device != "lo" and "--dport" in rule
        way = ["OUTPUT", "-o", self.device] if out else ["INPUT", "-i", self.device]
        at = list(rule).index("-j")
        return [*way, "-p", "tcp", *rule[:at], "-m", "comment", "--comment", self._tag, *rule[at:]]


class Loss(_Rules):
    """Packets to and from a port are lost at random; of the share 1, all.

    Args:
        where: Whose port, in words.
        port: The port.
        share: The part of the packets that is lost, each way.
        host: The address at which it listens.
        device: The network device over which all of its packets go.
    """

    def __init__(self, where: str, port: int, share: float, host: str = "127.0.0.1", device: str = "lo") -> None:
        self.share = share
        super().__init__(where, port, host, device)

    def says(self) -> str:
        """Say the fault in words."""
        return f"loss of {100 * self.share:.3g} % of packets"

    def rules(self) -> list[list[str]]:
        """Return the rule of each direction."""
        some = ["-m", "statistic", "--mode", "random", "--probability", f"{self.share:.6f}"] if self.share < 1 else []
        return [[side, str(self.port), *some, "-j", "DROP"] for side in ("--dport", "--sport")]


class RejectPort(_Rules):
    """What comes to a port is answered by a reset (RST): new connections are refused, and live ones break."""

    def says(self) -> str:
        """Say the fault in words."""
        return "rejection by a firewall"

    def rules(self) -> list[list[str]]:
        """Return the one rule."""
        return [["--dport", str(self.port), "-j", "REJECT", "--reject-with", "tcp-reset"]]

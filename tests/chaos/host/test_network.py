"""Faults of the network on real sockets: firewalls, thin links, networks of a process's own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from hormesis.chaos.host import BlockingAct, Network, PacketLoss, RejectPort, ThinCable, ThinPort, Unplugged
from hormesis.chaos.host import act as act_module

Acting = Callable[[BlockingAct], AbstractContextManager[None]]
Start = Callable[..., subprocess.Popen[bytes]]

SOON = 2.0

SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 9999))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"x" * 500_000)
    connection.close()
"""


def connect(host: str, port: int, within: float = SOON) -> socket.socket:
    return socket.create_connection((host, port), timeout=within)


def round_trip(connection: socket.socket, size: int = 1) -> float:
    """Send and get back; returns how long that took."""
    began, left = time.monotonic(), size
    connection.sendall(b"x" * size)
    while left > 0:
        left -= len(connection.recv(65536))
    return time.monotonic() - began


def lo() -> str:
    """Return what the loopback queues, and what the firewall does."""
    return "".join(
        subprocess.run(words, capture_output=True, check=False, text=True).stdout
        for words in (["tc", "qdisc", "show", "dev", "lo"], ["iptables", "-S"], ["ip6tables", "-S"])
    )


def test_reject(acting: Acting, port: int) -> None:
    """A rejected port refuses new connections and breaks live ones by a reset; others are left alone."""
    before = lo()
    with connect("127.0.0.1", port) as live:
        round_trip(live)
        with acting(RejectPort("process shop", port)):
            with pytest.raises(ConnectionRefusedError):
                connect("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                round_trip(live)
    with connect("127.0.0.1", port) as again:
        round_trip(again)
    assert lo() == before


def test_drop(acting: Acting, port: int) -> None:
    """A port that loses all packets is silent; a connection survives that, and what was sent arrives afterwards."""
    with connect("127.0.0.1", port) as live:
        round_trip(live)
        with acting(PacketLoss("process shop", port, 1.0)):
            with pytest.raises(TimeoutError):
                connect("127.0.0.1", port, within=0.2)
            live.sendall(b"held")
            live.settimeout(0.2)
            with pytest.raises(TimeoutError):
                live.recv(10)
        live.settimeout(5)
        assert live.recv(10) == b"held"


def test_random_loss(acting: Acting, port: int) -> None:
    """A port that loses some packets lets some connections through at once, and others only after a while."""
    with acting(PacketLoss("process shop", port, 0.5)):
        found = set()
        for _ in range(60):
            try:
                connect("127.0.0.1", port, within=0.05).close()
                found.add("through")
            except TimeoutError:
                found.add("lost")
            if len(found) == 2:
                break
    assert found == {"through", "lost"}


def test_ipv6(acting: Acting) -> None:
    """A port on an IPv6 address has the other firewall."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with acting(RejectPort("edge payments", port, host="::1")), pytest.raises(ConnectionRefusedError):
            connect("::1", port)
        connect("::1", port).close()


def test_thin_port(acting: Acting, port: int) -> None:
    """All connections of a port share the rate of its link; others have all they want, and nothing is left."""
    before = lo()
    with connect("127.0.0.1", port) as first, connect("127.0.0.1", port) as second:
        with (
            acting(ThinPort("process shop", port, 1_000_000, 200_000)),
            acting(ThinPort("process other", 9, 1_000, 100_000)),
        ):
            round_trip(first, 100_000)  # what the queue's bucket held
            taken = round_trip(first, 300_000)
            second.sendall(b"x" * 200_000)
            assert taken > 0.2
            assert round_trip(first) > 0.02
        assert round_trip(first) < 0.2
    assert lo() == before


def test_somebody_elses_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loopback whose queues somebody else has set is left alone, and that is said."""
    shown = "qdisc prio 8001: root refcnt 2 bands 3\n"
    monkeypatch.setattr("hormesis.chaos.host.shaping.run", lambda *_: shown)
    monkeypatch.setattr("hormesis.chaos.host.shaping.needs", lambda *_, **__: None)
    assert "somebody else has set" in str(ThinPort("process shop", 1, 1e6, 100_000).possible())


def test_network(acting: Acting, start: Start) -> None:
    """A process in a network of its own is reached over its cable, which can be pulled and thinned."""

    def fetch(within: float = SOON) -> float:
        began, got = time.monotonic(), 0
        with connect(network.inside, 9999, within) as connection:
            while data := connection.recv(65536):
                got += len(data)
        assert got == 500_000
        return time.monotonic() - began

    network = Network("process shop")
    with acting(network):
        start(SERVE, *network.prefix)
        assert fetch() < 0.3
        with acting(Unplugged("process shop", network)), pytest.raises(TimeoutError):
            fetch(within=0.2)
        fetch(within=5)
        with acting(ThinCable("process shop", network, 1_000_000, 200_000)):
            assert fetch() > 0.4
        rejects = RejectPort("process shop", 9999, network.inside, network.outer)
        with acting(rejects), pytest.raises(ConnectionRefusedError):
            fetch()
        drops = PacketLoss("process shop", 9999, 1.0, network.inside, network.outer)
        with acting(drops), pytest.raises(TimeoutError):
            fetch(within=0.2)
        fetch(within=5)
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True).stdout
    assert network.name not in shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"find_program": lambda name: None}, "'iptables', which is not installed"),
        ({"os.geteuid": lambda: 1000}, "needs root, and this is user 1000"),
        ({"sys.platform": "darwin"}, "on Linux only"),
    ],
)
def test_why_not(monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str) -> None:
    """What a machine can't do is said in words: which program, which right, which system."""
    for name, value in change.items():
        monkeypatch.setattr(f"{act_module.__name__}.{name}", value)
    assert words in str(RejectPort("process shop", 1).possible())

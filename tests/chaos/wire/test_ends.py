"""The ends of a connection, on real sockets."""

from __future__ import annotations

import asyncio
import socket

import pytest

from hormesis.chaos.wire.ends import End
from hormesis.chaos.wire.poller import Poller


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="this system has no choice of congestion control")
@pytest.mark.parametrize(("caller", "unpaced"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_unpaced_on_this_machine_only(caller: str, *, unpaced: bool) -> None:
    """A peer with our own address is sent to without pacing; towards any other the host's choice stays."""

    async def main() -> None:
        poller = Poller.hold(asyncio.get_running_loop())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, before)
            with socket.create_connection(listener.getsockname(), source_address=(caller, 0)):
                end = End(listener.accept()[0], poller)
                end.unpace()
                after = end.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                end.close()
        poller.release()
        assert after.rstrip(b"\0") == (b"reno" if unpaced else before)

    before = another_than_reno()
    asyncio.run(main())


def test_unpace_what_broke() -> None:
    """A connection that has broken meanwhile raises nothing, nor does a Unix socket."""

    async def main() -> None:
        poller = Poller.hold(asyncio.get_running_loop())
        sockets = [socket.socket(socket.AF_INET), *socket.socketpair()]
        for sock in sockets:
            end = End(sock, poller)
            end.unpace()
            end.close()
        poller.release()

    asyncio.run(main())


def another_than_reno() -> bytes:
    """Return a congestion control that a process may choose here."""
    with open("/proc/sys/net/ipv4/tcp_allowed_congestion_control", encoding="ascii") as file:
        others = set(file.read().split()) - {"reno"}
    if not others:
        pytest.skip("this kernel has no congestion control but reno")
    return others.pop().encode()

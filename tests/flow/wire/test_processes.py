"""Two real processes: the one that sends is told to slow down by the one that receives, and makes no more."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.system


@contextlib.contextmanager
def breaking_proxy(port: int) -> Iterator[tuple[int, Any]]:
    """A way to a port whose connections can all be broken."""
    connections: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = listener.accept()
                theirs = socket.create_connection(("127.0.0.1", port))
                connections.extend((ours, theirs))
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def break_all() -> None:
        broken, connections[:] = connections[:], []
        for each in broken:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], break_all
    finally:
        break_all()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        break_all()


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_who_sends_is_told_to_stop(process: Any, scheme: str) -> None:
    """While the receiver works on one item, the sender makes no more than the window, and its memory stays as it is."""
    sender = process("sender.py", "0", "100000", "2000", "auto")
    url = f"{scheme}://127.0.0.1:{sender.wait_for('port')}/"
    before = sender.ask("memory")
    receiver = process("receiver.py", url, "40")
    receiver.wait_for("first")
    time.sleep(0.3)
    assert sender.ask("made") <= 40
    receiver.tell("go")
    while receiver.ask("got") < 500:
        pass
    receiver.tell("stop")
    time.sleep(0.5)
    got, made = receiver.ask("got"), sender.ask("made")
    assert got <= made <= got + 1 + 40
    time.sleep(0.3)
    assert sender.ask("made") == made
    assert sender.ask("memory") - before < 20_000_000
    receiver.kill()


@pytest.mark.parametrize(("scheme", "library"), [("ws", "websockets-sansio"), ("ws", "wsproto"), ("http", "auto")])
def test_nothing_is_lost_by_broken_connections(process: Any, scheme: str, library: str) -> None:
    """Over connections that break again and again, every item arrives, once and in order."""
    if library == "wsproto":
        pytest.importorskip("wsproto")
    sender = process("sender.py", "0", "1000", "100", library)
    with breaking_proxy(sender.wait_for("port")) as (port, break_all):
        receiver = process("receiver.py", f"{scheme}://127.0.0.1:{port}/", "30")
        receiver.wait_for("first")  # who breaks off before it has heard of its stream begins another one
        receiver.tell("go")
        for _ in range(4):
            time.sleep(0.1)
            break_all()
        assert receiver.wait_for("number") == 1000
        assert receiver.wait_for("whole")
    assert sender.ask("made") == 1000
    assert sender.ask("streams") == 0


def test_a_receiver_that_is_gone_leaves_nothing_behind(process: Any) -> None:
    """A receiver that is killed stops the source; its stream is kept for a while, for it could come back."""
    sender = process("sender.py", "0", "100000", "100", "auto")
    receiver = process("receiver.py", f"ws://127.0.0.1:{sender.wait_for('port')}/", "20")
    receiver.wait_for("first")
    receiver.kill()
    time.sleep(0.3)
    assert sender.ask("made") <= 20
    assert sender.ask("streams") == 1


def test_a_client_that_never_reads_is_no_burden(process: Any) -> None:
    """A client that asks for everything and reads nothing fills neither memory nor time."""
    from websockets.sync.client import connect

    from hormesis.core.credit_frames import CREDIT_MAX, Open
    from hormesis.flow.wire.frames import encode

    sender = process("sender.py", "0", "1000000", "10000", "auto")
    before = sender.ask("memory")
    with connect(f"ws://127.0.0.1:{sender.wait_for('port')}/", max_queue=1, close_timeout=0) as client:
        client.send(encode(Open(0, CREDIT_MAX, CREDIT_MAX, CREDIT_MAX)))
        time.sleep(1.0)
        made = sender.ask("made")
        assert made < 1100  # what an outbox keeps at most, whatever was asked for
        time.sleep(0.3)
        assert sender.ask("made") == made
        assert sender.ask("memory") - before < 40_000_000
        client.socket.close()

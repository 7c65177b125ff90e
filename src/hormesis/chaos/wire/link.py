"""One connection through the proxy, from accepting the client to the end of both lanes.

It opens in steps: TLS with the client where the proxy ends it, then the dependency is dialled, then TLS with that. Only
then is anything read that could be bytes of the stream; what the client says early waits in the kernel. A fault that
comes into force in between is there when the lanes begin.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hormesis.chaos.faults import BlackHole, WireFault
from hormesis.chaos.faults.aim import Head
from hormesis.chaos.wire.dialler import Address, Dialler
from hormesis.chaos.wire.ends import End, TlsEnd
from hormesis.chaos.wire.forces import Force, Standing, Strike
from hormesis.chaos.wire.lane import Lane, Meter
from hormesis.chaos.wire.poller import Poller
from hormesis.chaos.wire.stages import Mark

if TYPE_CHECKING:
    from hormesis.chaos.wire.http import Conversation

__all__ = ["Ground", "Link"]

_TRIES_MAX = 3
"""How often a connection that was open before an HTTP fault came is tried for the beginning of a request."""
_HEAD_WITHIN = 1.0
"""Seconds after which a beginning of a request that goes no further is passed on, since it may be none."""
_NOTHING = Strike(frozenset(), ())


@dataclass(slots=True, kw_only=True)
class Ground:
    """What the connections of an edge share."""

    edge: str
    key: str
    poller: Poller
    dialler: Dialler
    up: Meter
    down: Meter
    to_clients: ssl.SSLContext | None
    to_upstream: ssl.SSLContext | None
    upstream_name: str
    said: set[str]
    """What has been said once."""

    def say(self, what: str) -> None:
        """Say something once for the edge."""
        if what not in self.said:
            self.said.add(what)
            logging.getLogger("hormesis.chaos").warning("edge %r: %s", self.edge, what)


class Link:
    """A connection.

    Args:
        client: The client's socket, just accepted.
        standing: What it is to the faults in force.
        number: Of the connection, on its edge.
        ground: What it shares with others.
        on_end: Called once, when both sockets are closed.
    """

    def __init__(
        self, client: socket.socket, standing: Standing, number: int, ground: Ground, on_end: Callable[[Link], None]
    ) -> None:
        self.standing = standing
        self.closed = False
        self.speaker: Lane | None = None
        self.lanes: tuple[Lane, ...] = ()
        self._number = number
        self._ground = ground
        self._on_end = on_end
        self._acting: Sequence[Force] = ()
        self._picking: Sequence[Force] = ()
        self._struck: frozenset[str] = frozenset()
        self._conversation: Conversation | None = None
        self._tries = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._upstream: End | None = None
        self._addresses: Iterator[Address] = iter(())
        self._opening = False
        tls = ground.to_clients
        self._client = End(client, ground.poller) if tls is None else TlsEnd(client, ground.poller, tls)

    @property
    def held(self) -> int:
        """Bytes under way."""
        return sum(lane.chain.held for lane in self.lanes)

    def reshape(self, acting: Sequence[Force]) -> None:
        """Let these faults act from now on; the first call begins to open the connection.

        One that begins in a black hole is not opened before that ends: its SYN would not get through either.
        """
        self._acting = acting
        self._picking = [force for force in acting if force.picks_requests]
        if self._conversation is not None:
            self._stop_conversing()
        if self.lanes:
            self._shape_lanes()
        elif not self._opening and not self._is_shut():
            self._opening = True
            self._go_on(self._client, self._dial)

    def close(self) -> None:
        """Close both sides."""
        self._end(End.close)

    def reset(self) -> None:
        """Break both sides: each peer gets RST, whatever was under way is lost."""
        self._end(End.reset)

    def lane_finished(self) -> None:
        """Close when both directions have ended; one alone is a half-closed connection, which is a normal thing."""
        if all(lane.finished for lane in self.lanes):
            self.close()

    def arrived(self, lane: Lane, data: memoryview) -> None:
        """Take what a lane has read."""
        begins = lane.stream == "upstream" and self.speaker is not lane
        if self._conversation is None and begins and not self._begin_to_read():
            self._struck = self._strike(None).names
        self.speaker = lane
        if self._conversation is None:
            lane.feed(data, self._struck)
            lane.pump()
            return
        self._converse(
            self._conversation.asks if lane.stream == "upstream" else self._conversation.answers, bytes(data)
        )

    def ended(self, lane: Lane) -> None:
        """Take the end of what a lane reads."""
        if self._conversation is None:
            lane.feed(Mark.END, self._struck)
            lane.pump()
        elif lane.stream == "upstream":
            self._conversation.asks_no_more()
            self._pump_both()
        else:
            self._conversation.answers_no_more()
            self._pump_both()

    def _end(self, how: Callable[[End], None]) -> None:
        if self.closed:
            return
        self.closed = True
        if self._head_timer is not None:
            self._head_timer.cancel()
        for lane in self.lanes:
            lane.stop()
        for end in (self._client, self._upstream):
            if end is not None:
                how(end)
        self._on_end(self)

    def _is_shut(self) -> bool:
        holes = (force.fault for force in self._acting if not force.picks_requests)
        return any(isinstance(fault, BlackHole) and fault.stream != "downstream" for fault in holes)

    def _go_on(self, end: End, then: Callable[[], None]) -> None:
        """Go on with opening an end, and then with what follows."""
        try:
            done = end.open()
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                whom = "a client" if end is self._client else "the dependency"
                self._ground.say(f"TLS with {whom} failed: {error.reason or error}")
            self.reset()
            return
        end.watch.on_readable(None if done else partial(self._go_on, end, then))
        if done:
            then()

    def _dial(self) -> None:
        self._ground.dialler.find(self._dial_one_of)

    def _dial_one_of(self, addresses: Sequence[Address]) -> None:
        self._addresses = iter(addresses)
        self._dial_next()

    def _dial_next(self) -> None:
        """Connect to the next address; when there is none left, the dependency is down and its caller must see it."""
        if self.closed:
            return
        for family, address in self._addresses:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                break
            ground = self._ground
            tls = ground.to_upstream
            self._upstream = upstream = (
                End(sock, ground.poller) if tls is None else TlsEnd(sock, ground.poller, tls, ground.upstream_name)
            )
            if sock.connect_ex(address) in (0, errno.EINPROGRESS):
                upstream.watch.on_writable(partial(self._dialled, upstream))
                return
            upstream.close()
            self._upstream = None
        self.reset()

    def _dialled(self, upstream: End) -> None:
        upstream.watch.on_writable(None)
        if upstream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            upstream.reset()
            self._upstream = None
            self._dial_next()
        else:
            self._go_on(upstream, partial(self._begin, upstream))

    def _begin(self, upstream: End) -> None:
        """Let bytes travel."""
        client, ground = self._client, self._ground
        client.unpace()
        upstream.unpace()
        seed = f"{ground.key}/{self._number}"
        self.lanes = (
            Lane("upstream", self, client, upstream, ground.up, ground.poller, seed),
            Lane("downstream", self, upstream, client, ground.down, ground.poller, seed),
        )
        self._shape_lanes()

    def _shape_lanes(self) -> None:
        plan: list[tuple[str, WireFault]] = [(force.name, force.fault) for force in self._acting]
        watched = bool(self._picking) or self._conversation is not None
        for lane in self.lanes:
            if not self.closed:  # What the first lane releases may find the connection broken.
                lane.reshape(plan, watched=watched)

    def _strike(self, head: Head | None) -> Strike:
        """Let the faults that pick requests decide on one that begins."""
        struck = [force for force in self._picking if force.strikes_request(head)]
        return (
            Strike(frozenset(force.name for force in struck), [force.fault for force in struck]) if struck else _NOTHING
        )

    def _begin_to_read(self) -> bool:
        """Read HTTP from here on, where a request may begin, if a fault needs it; say whether it is so."""
        if self._tries >= _TRIES_MAX or not any(force.reads_http for force in self._picking):
            return False
        if self.speaker is None:  # What does not begin with HTTP will never be.
            self._tries = _TRIES_MAX
        from hormesis.chaos.wire.http import Conversation  # noqa: PLC0415  an extra brings what it needs

        up, down = self.lanes
        self._conversation = Conversation(self._strike, up.feed, down.feed)
        return True

    def _converse(self, take: Callable[[bytes], None], data: bytes) -> None:
        take(data)
        self._pump_both()
        if not self.closed:
            self._stop_conversing()
            self._watch_head()

    def _watch_head(self) -> None:
        """Give the head of a request its time to come in."""
        waits = self._conversation is not None and self._conversation.waits
        if waits and self._head_timer is None:
            self._head_timer = self._ground.poller.loop.call_later(_HEAD_WITHIN, self._head_is_late)
        elif not waits and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._conversation is not None and not self.closed:
            self._conversation.give_up()
            self._pump_both()
            self._stop_conversing()

    def _pump_both(self) -> None:
        conversation = self._conversation
        self.lanes[0].holding = conversation is not None and conversation.full
        for lane in self.lanes:
            if not self.closed:
                lane.pump()

    def _stop_conversing(self) -> None:
        """Read HTTP no more where there is none, or no fault needs it and nothing is under way."""
        conversation = self._conversation
        if conversation is None:
            return
        if conversation.over:
            if conversation.failed:
                self._ground.say("bytes that are no HTTP/1.1 pass unchanged, though a fault wants to read requests")
            # After a change of protocol there are no requests to come.
            self._tries = self._tries + 1 if conversation.failed else _TRIES_MAX
        elif not conversation.idle or any(force.reads_http for force in self._picking):
            return
        self._conversation = None
        self._shape_lanes()

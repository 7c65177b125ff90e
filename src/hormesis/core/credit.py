"""A stream between two processes whose receiver says how much it can take: credits, acknowledgements, resuming.

Two machines talk in *frames*. Neither knows of a network: each is handed what the other said, and is asked what it has
to say. Wired back to back they are a stream without I/O.

    receiver                                       sender
       │  Open(after, items, bytes)          ──►      │   from where on, and the first credit
       │                           ◄──  Accept(first) │   which stream it is, and where it begins
       │                      ◄──  Item(seq, payload) │   each spends an item's credit, and its bytes
       │  Ack(seq)                           ──►      │   all up to here are processed: forget them
       │  Request(items, bytes)              ──►      │   more credit
       │                          ◄──  End(last)      │   there will be no more; or Error
       │  Ack(last)                          ──►      │   both are done

**Credit** is counted in items and in bytes of payload, adds up, saturates at 2^63 - 1, and can't be revoked. Who sends
without it breaks the protocol and is cut off. A receiver pauses by granting nothing: what was granted may still come,
and it has room for that. It grants anew when what it holds and what it has granted falls to the *low* mark, and then up
to the *high* one (hysteresis), so a stream of small items does not cost a frame for each.

**A lease** is credit that expires by itself on the sender's clock, for a receiver that may have died since. The sender
says what it gives up (`Forfeit`), so both go on counting the same without comparing their clocks.

**What is guaranteed**: each item that is put into an `Outbox` is processed at least once, in order of delivery, as long
as the outbox lives: it keeps what is not acknowledged, and after a broken connection sends it again. A receiver that
keeps its `Inbox` passes over what it has got already, so that each item is delivered once; one that begins anew may get
again what it had not acknowledged. What is not guaranteed: that an outbox survives its process. Who resumes at a stream
that is gone is told so (`Code.LOST`), and nothing is left out in silence.

**Bounds**: an outbox holds so many items and bytes, and its source is not asked for more while it is full; a receiver
holds no more than its window. A receiver that takes nothing for too long while it could have something (a slow reader)
is cut off, and so is a peer that says nothing at all.

Sources: RSocket (REQUEST_N, LEASE, resume positions); Reactive Streams 1.1, 3.8, 3.17; HTTP/2 flow control.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import deque

from hormesis.core.credit_boxes import Inbox, Outbox, Patience, Window
from hormesis.core.credit_frames import (
    CREDIT_MAX,
    MESSAGE_MAX,
    Accept,
    Ack,
    Cancel,
    Code,
    End,
    Error,
    Failed,
    Finished,
    Forfeit,
    Frame,
    Item,
    KeepAlive,
    Open,
    Opened,
    Received,
    Request,
    StreamError,
)

__all__ = ["Receiver", "Sender", "State"]

_LEASES_MAX = 64
"""Leases that are kept apart; of more, the youngest expire together."""


class State(enum.Enum):
    """Where a side is."""

    OPENING = "opening"
    OPEN = "open"
    ENDING = "ending"
    """The sender has said its last word, and not all is acknowledged."""
    DONE = "done"
    CANCELLED = "cancelled"
    BROKEN = "broken"


_ANY_TIME = (Error, KeepAlive)
_HEARD_BY_SENDER: dict[State, tuple[type[Frame], ...]] = {
    State.OPENING: (Open, *_ANY_TIME),
    State.OPEN: (Request, Ack, Cancel, *_ANY_TIME),
    State.ENDING: (Request, Ack, Cancel, *_ANY_TIME),
    # What was on its way when it ended.
    State.DONE: (Request, Ack, Cancel, *_ANY_TIME),
    State.CANCELLED: (Request, Ack, Cancel, *_ANY_TIME),
    State.BROKEN: (),
}
_HEARD_BY_RECEIVER: dict[State, tuple[type[Frame], ...]] = {
    State.OPENING: (Accept, *_ANY_TIME),
    State.OPEN: (Item, Forfeit, End, *_ANY_TIME),
    State.ENDING: (Forfeit, *_ANY_TIME),
    State.DONE: (Forfeit, *_ANY_TIME),
    State.CANCELLED: (Accept, Item, Forfeit, End, *_ANY_TIME),
    State.BROKEN: (),
}
"""What each side may be told in which state; anything else breaks the protocol."""


class _Side:
    """What both sides share: the state, signs of life, and breaking off."""

    __slots__ = ("_heard", "_last_word", "_patience", "_spoke", "broken", "state")

    _hears: dict[State, tuple[type[Frame], ...]]

    def __init__(self, patience: Patience, now: float) -> None:
        self.state = State.OPENING
        self.broken: StreamError | None = None
        """Why the stream broke, once it has."""
        self._patience = patience
        self._heard = now
        self._spoke = now
        self._last_word: Frame | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more is to be said or heard on this connection."""
        return self._last_word is None and self.state in (State.DONE, State.CANCELLED, State.BROKEN)

    def abort(self, code: Code, message: str) -> None:
        """Break the stream off; the peer is told why."""
        if self.state not in (State.DONE, State.CANCELLED, State.BROKEN):
            self._break(code, message)
            self._last_word = Error(code, message[:MESSAGE_MAX])

    def _break(self, code: Code, message: str) -> None:
        self.state = State.BROKEN
        self.broken = StreamError(code, message)

    def _violated(self, message: str) -> StreamError:
        self.abort(Code.PROTOCOL, message)
        return StreamError(Code.PROTOCOL, message)

    def _check(self, frame: Frame, now: float) -> None:
        if not isinstance(frame, self._hears[self.state]):
            raise self._violated(f"{type(frame).__name__} came while the stream is {self.state.value}")
        # A peer that shows signs of life and never comes to the point is as good as silent.
        if self.state is not State.OPENING or not isinstance(frame, KeepAlive):
            self._heard = now

    def _check_silence(self, now: float) -> None:
        if now - self._heard >= self._patience.silence_max:
            self.abort(Code.SILENT, f"nothing was heard of the peer for {self._patience.silence_max:g} s")

    def _say(self, frame: Frame, now: float) -> Frame:
        self._spoke = now
        return frame

    def _parting(self) -> Frame | None:
        word, self._last_word = self._last_word, None
        return word

    def _sign_of_life(self, now: float) -> Frame | None:
        if now - self._spoke >= self._patience.keepalive:
            return self._say(KeepAlive(), now)
        return None


@dataclasses.dataclass(slots=True)
class _Lease:
    """Credit that expires at a time, as far as it is not spent."""

    expires: float
    items: int
    bytes: int


class Sender(_Side):
    """The side that has the items, for one connection.

    Ask `wants` before the source is asked for an item; put what it gives into the outbox; send whatever `next_frame`
    gives until it gives nothing; and hand over what the peer says.

    Args:
        outbox: The items; it is used by one sender at a time.
        patience: How long it waits for the receiver.
        now: The time, in seconds; each verb takes it.

    >>> box = Outbox("orders-1")
    >>> sender = Sender(box, Patience(), now=0.0)
    >>> sender.receive(Open(after=0, items=1, bytes=100, item_bytes_max=50), now=0.0)
    >>> sender.next_frame(now=0.0)
    Accept(first=1, stream='orders-1')
    >>> sender.wants(now=0.0), box.append(b"tea"), sender.wants(now=0.0)
    (True, 1, False)
    >>> sender.next_frame(now=0.0), sender.next_frame(now=0.0)
    (Item(seq=1, payload=b'tea'), None)
    """

    __slots__ = ("_accept", "_blocked", "_forfeit", "_item_bytes_max", "_leases", "_next", "_outbox", "bytes", "items")

    _hears = _HEARD_BY_SENDER

    def __init__(self, outbox: Outbox, patience: Patience, now: float) -> None:
        super().__init__(patience, now)
        self._outbox = outbox
        self._next = outbox.first
        self._item_bytes_max = 0
        self._accept: Accept | None = None
        self.items = 0
        """The credit that is left, in items; `bytes` is that in bytes."""
        self.bytes = 0
        # What of `items` and `bytes` is in no lease never expires.
        self._leases: deque[_Lease] = deque()
        self._forfeit = (0, 0)
        self._blocked: float | None = None

    def receive(self, frame: Frame, now: float) -> Failed | None:
        """Take what the receiver says.

        Raises:
            StreamError: It broke the protocol; the stream is broken off.
        """
        self._check(frame, now)
        match frame:
            case Open():
                self._opened(frame, now)
            case Request():
                self._granted(frame.items, frame.bytes, frame.lease, now)
                self._blocked = None
            case Ack():
                self._acknowledged(frame.seq)
                self._blocked = None
            case Cancel() if self.state in (State.OPEN, State.ENDING):
                self.state = State.CANCELLED
            case Error() if self.state in (State.OPENING, State.OPEN, State.ENDING):
                self._break(frame.code, frame.message)
                return Failed(frame.code, frame.message)
            case _:
                pass
        self._watch(now)
        return None

    def wants(self, now: float) -> bool:
        """Whether the source may be asked for one more item: there is credit for it, and room to keep it."""
        self._expire(now)
        return self._may_ask() and self.items > 0 and self.bytes > 0 and not self._outbox.full

    def next_frame(self, now: float) -> Frame | None:
        """Return what is to be said now; None when that is nothing until `due`, an item, or the receiver's word."""
        self._expire(now)
        self._check_silence(now)
        self._watch(now)
        if self.over or self._last_word is not None:
            return self._parting()
        if self.state is State.OPENING:
            return self._sign_of_life(now)
        if self._accept is not None:
            accept, self._accept = self._accept, None
            return self._say(accept, now)
        if any(self._forfeit):
            forfeit, self._forfeit = Forfeit(*self._forfeit), (0, 0)
            return self._say(forfeit, now)
        return self._item(now) or self._parting() or self._terminal(now) or self._sign_of_life(now)

    @property
    def held_up(self) -> bool:
        """Whether nothing can be sent, or asked of the source, before the receiver says something."""
        box = self._outbox
        upcoming = max(self._next, box.first)
        if self.state is not State.OPEN:
            return False
        if upcoming <= box.last:
            return not self.items or len(box[upcoming]) > self.bytes
        return not box.terminal and (not self.items or not self.bytes or box.full)

    @property
    def waiting(self) -> tuple[int, int]:
        """The items, and their bytes, that the receiver has not acknowledged."""
        return self._outbox.items, self._outbox.bytes

    @property
    def due(self) -> float:
        """When to ask `next_frame` again, if nothing happens before."""
        if self.over:
            return math.inf
        times = [self._heard + self._patience.silence_max, self._spoke + self._patience.keepalive]
        if self._leases:
            times.append(self._leases[0].expires)
        if self._blocked is not None and self._patience.stall_max is not None:
            times.append(self._blocked + self._patience.stall_max)
        return min(times)

    def _opened(self, frame: Open, now: float) -> None:
        box = self._outbox
        if frame.item_bytes_max < 1:
            raise self._violated(f"Open with {frame.item_bytes_max} bytes as the largest item")
        if frame.stream and frame.stream != box.stream:
            self.abort(Code.LOST, f"the stream {frame.stream!r} is not here any more")
            return
        if frame.stream and not box.acked <= frame.after <= box.sent:
            self.abort(Code.LOST, f"the stream goes on after {box.acked} to {box.sent}, and not after {frame.after}")
            return
        if frame.stream:
            box.acknowledge(frame.after)
        self._next = box.first
        self._item_bytes_max = frame.item_bytes_max
        self._accept = Accept(box.first, box.stream)
        self.state = State.OPEN
        if frame.items or frame.bytes:
            self._granted(frame.items, frame.bytes, frame.lease, now)

    def _granted(self, items: int, size: int, lease: float | None, now: float) -> None:
        if items < 0 or size < 0 or items + size == 0:
            raise self._violated(f"a Request for {items} items and {size} bytes")
        items = min(items, CREDIT_MAX - self.items)
        size = min(size, CREDIT_MAX - self.bytes)
        self.items += items
        self.bytes += size
        if lease is not None:
            if len(self._leases) < _LEASES_MAX:
                self._leases.append(_Lease(now + lease, items, size))
            else:
                self._leases[-1].items += items
                self._leases[-1].bytes += size

    def _acknowledged(self, seq: int) -> None:
        if seq > self._outbox.sent:
            raise self._violated(f"Ack of item {seq}, and the last that was sent is {self._outbox.sent}")
        self._outbox.acknowledge(seq)
        if self.state is State.ENDING and self._outbox.finished:
            self.state = State.DONE

    def _expire(self, now: float) -> None:
        items, size = self._forfeit
        while self._leases and self._leases[0].expires <= now:
            expired = self._leases.popleft()
            self.items -= expired.items
            self.bytes -= expired.bytes
            items += expired.items
            size += expired.bytes
        self._forfeit = (items, size)

    def _spend(self, size: int) -> None:
        """Spend the credit of an item: what expires first goes first."""
        self.items -= 1
        self.bytes -= size
        items = 1
        for lease in self._leases:
            taken_items, taken_bytes = min(items, lease.items), min(size, lease.bytes)
            lease.items -= taken_items
            lease.bytes -= taken_bytes
            items -= taken_items
            size -= taken_bytes
        while self._leases and not self._leases[0].items and not self._leases[0].bytes:
            self._leases.popleft()

    def _item(self, now: float) -> Frame | None:
        box = self._outbox
        # After a reconnection, acknowledgements may have overtaken what is sent again.
        self._next = max(self._next, box.first)
        if self._next > box.last or not self.items or self.state is not State.OPEN:
            return None
        payload = box[self._next]
        if len(payload) > self._item_bytes_max:
            self.abort(
                Code.TOO_LARGE,
                f"item {self._next} has {len(payload)} bytes, and the receiver takes {self._item_bytes_max}",
            )
            return None
        if len(payload) > self.bytes:
            return None
        self._spend(len(payload))
        box.sent = max(box.sent, self._next)
        self._next += 1
        return self._say(Item(self._next - 1, payload), now)

    def _terminal(self, now: float) -> Frame | None:
        box = self._outbox
        if not box.terminal or self._next <= box.last or self.state is not State.OPEN:
            return None
        self.state = State.DONE if box.finished else State.ENDING
        return self._say(box.terminal if isinstance(box.terminal, Error) else End(box.last), now)

    def _may_ask(self) -> bool:
        return self.state is State.OPEN and not self._outbox.terminal and self._next > self._outbox.last

    def _watch(self, now: float) -> None:
        """Note since when it is the receiver that holds the stream up, and break off when that is too long."""
        if not self.held_up and self.state is not State.ENDING:
            self._blocked = None
        elif self._blocked is None:
            self._blocked = now
        elif self._patience.stall_max is not None and now - self._blocked >= self._patience.stall_max:
            self.abort(Code.SLOW, f"the receiver took nothing for {self._patience.stall_max:g} s")


class Receiver(_Side):
    """The side that takes the items, for one connection.

    Hand over what the peer says; process the items, and tell the inbox which are `done`; send whatever `next_frame`
    gives until it gives nothing.

    Args:
        inbox: Where it is in the stream; it is used by one receiver at a time.
        window: How much it takes.
        patience: How long it waits for the sender.
        now: The time, in seconds; each verb takes it.

    >>> inbox = Inbox()
    >>> receiver = Receiver(inbox, Window(items=2), Patience(), now=0.0)
    >>> receiver.next_frame(now=0.0).items
    2
    >>> receiver.receive(Accept(first=1, stream="orders-1"), now=0.0)
    Opened(stream='orders-1')
    >>> receiver.receive(Item(1, b"tea"), now=0.0)
    Received(seq=1, payload=b'tea')
    >>> inbox.done(1)
    >>> receiver.next_frame(now=0.0), receiver.next_frame(now=0.0)
    (Ack(seq=1), Request(items=1, bytes=3, lease=None))
    """

    __slots__ = ("_acked", "_inbox", "_opened", "_window", "at", "bytes", "items", "paused")

    _hears = _HEARD_BY_RECEIVER

    def __init__(self, inbox: Inbox, window: Window, patience: Patience, now: float) -> None:
        super().__init__(patience, now)
        self._inbox = inbox
        self._window = window
        self.items = 0
        """Credit that is granted and not used, in items; `bytes` is that in bytes."""
        self.bytes = 0
        self.at = 0
        """The number of the last item that came over this connection."""
        self.paused = False
        self._acked = inbox.processed
        self._opened = False

    def pause(self) -> None:
        """Grant no more; what is granted may still come."""
        self.paused = True

    def resume(self) -> None:
        """Grant again."""
        self.paused = False

    def cancel(self) -> None:
        """Want no more, ever; what is processed is still acknowledged."""
        if self.state in (State.OPENING, State.OPEN):
            self.state = State.CANCELLED
            self._last_word = Cancel() if self._opened else None

    def receive(self, frame: Frame, now: float) -> Opened | Received | Finished | Failed | None:
        """Take what the sender says, and return what that means for whoever processes the items.

        Raises:
            StreamError: It broke the protocol; the stream is broken off.
        """
        self._check(frame, now)
        if self.state is State.CANCELLED:
            return None  # it was on its way
        match frame:
            case Accept():
                return self._accepted(frame)
            case Item():
                return self._received(frame)
            case Forfeit():
                self._forfeited(frame)
            case End():
                if frame.last != self._inbox.received:
                    came = self._inbox.received
                    raise self._violated(f"End with item {frame.last}, and the last that came is {came}")
                self._end()
                return Finished()
            case Error() if self.state is State.OPEN and frame.code is Code.FAILED:
                # As the end: what came before is whole, and is acknowledged.
                self._end()
                return Failed(frame.code, frame.message)
            case Error() if self.state in (State.OPENING, State.OPEN, State.ENDING):
                self._break(frame.code, frame.message)
                return Failed(frame.code, frame.message)
            case _:
                pass
        return None

    def next_frame(self, now: float) -> Frame | None:
        """Return what is to be said now; None when that is nothing until `due`, or until something happens."""
        self._check_silence(now)
        if self.over or isinstance(self._last_word, Error):
            return self._parting()
        if not self._opened:
            self._opened = True
            self._acked = self._inbox.processed
            window = self._window
            return self._say(
                Open(self._acked, *self._grant(), window.item_bytes_max, window.lease, self._inbox.stream), now
            )
        if self.state is State.OPENING:
            return self._sign_of_life(now)
        return self._ack(now) or self._parting() or self._request(now) or self._sign_of_life(now)

    @property
    def due(self) -> float:
        """When to ask `next_frame` again, if nothing happens before."""
        if self.over:
            return math.inf
        return min(self._heard + self._patience.silence_max, self._spoke + self._patience.keepalive)

    def _accepted(self, frame: Accept) -> Opened:
        inbox = self._inbox
        if not inbox.stream:
            if frame.first < 1:
                raise self._violated(f"Accept from item {frame.first} on")
            inbox.begin(frame.stream, frame.first)
            self._acked = inbox.processed
        elif frame.stream != inbox.stream or frame.first != self._acked + 1:
            raise self._violated(
                f"Accept of stream {frame.stream!r} from item {frame.first} on; asked for was {inbox.stream!r} "
                f"from {self._acked + 1} on"
            )
        self.at = frame.first - 1
        self.state = State.OPEN
        return Opened(frame.stream)

    def _received(self, frame: Item) -> Received | None:
        size = len(frame.payload)
        if self.items < 1 or self.bytes < size:
            raise self._violated(
                f"item {frame.seq} of {size} bytes came without credit: {self.items} items and {self.bytes} bytes"
            )
        if size > self._window.item_bytes_max:
            raise self._violated(
                f"item {frame.seq} has {size} bytes; {self._window.item_bytes_max} were said to be the most"
            )
        # What is acknowledged meanwhile is not sent again; what never came can't be passed over.
        if not self.at < frame.seq <= self._inbox.received + 1:
            raise self._violated(f"item {frame.seq} came after item {self.at}")
        self.items -= 1
        self.bytes -= size
        self.at = frame.seq
        if self._inbox.add(frame.seq, size):
            return Received(frame.seq, frame.payload)
        return None

    def _forfeited(self, frame: Forfeit) -> None:
        if not 0 <= frame.items <= self.items or not 0 <= frame.bytes <= self.bytes:
            raise self._violated(
                f"{frame.items} items and {frame.bytes} bytes were given up, of {self.items} and {self.bytes}"
            )
        self.items -= frame.items
        self.bytes -= frame.bytes

    def _end(self) -> None:
        self.state = State.ENDING
        self._finish()

    def _finish(self) -> None:
        if self.state is State.ENDING and self._acked == self._inbox.received:
            self.state = State.DONE

    def _wanting(self) -> bool:
        """Whether it is time to grant: one of the low marks is reached, and there is room up to a high one."""
        if self.paused or self.state is not State.OPEN:
            return False
        window, inbox = self._window, self._inbox
        low = window.low(inbox.held_items + self.items, inbox.held_bytes + self.bytes)
        return low and any(self._room())

    def _room(self) -> tuple[int, int]:
        window, inbox = self._window, self._inbox
        return (
            max(0, window.items - inbox.held_items - self.items),
            max(0, window.bytes - inbox.held_bytes - self.bytes),
        )

    def _grant(self) -> tuple[int, int]:
        items, size = (0, 0) if self.paused else self._room()
        self.items += items
        self.bytes += size
        return items, size

    def _request(self, now: float) -> Frame | None:
        return self._say(Request(*self._grant(), self._window.lease), now) if self._wanting() else None

    def _ack(self, now: float) -> Frame | None:
        """Acknowledge along with a grant, when nothing is held, and when the end is near; else not for each item."""
        inbox = self._inbox
        news = inbox.processed - self._acked
        many = max(1, self._window.items // 4)
        if news and (news >= many or not inbox.held_items or self.state is not State.OPEN or self._wanting()):
            self._acked = inbox.processed
            self._finish()
            return self._say(Ack(self._acked), now)
        return None

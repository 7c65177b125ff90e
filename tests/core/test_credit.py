"""Credits between two processes, without processes: each rule of the protocol, and every frame in every state."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest

from hormesis.core.credit import Receiver, Sender, State
from hormesis.core.credit_boxes import Inbox, Outbox, Patience, Window
from hormesis.core.credit_frames import (
    CREDIT_MAX,
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
from hormesis.errors import ConfigurationError

PATIENCE = Patience(keepalive=10.0, silence_max=30.0, stall_max=20.0)


def sender_of(box: Outbox | None = None, *, items: int = 10, size: int = 1000, lease: float | None = None) -> Sender:
    """A sender that was opened with so much credit, and has accepted."""
    sender = Sender(box or Outbox("s"), PATIENCE, 0.0)
    sender.receive(Open(0, items, size, 1000, lease), 0.0)
    assert isinstance(sender.next_frame(0.0), Accept)
    return sender


def receiver_of(inbox: Inbox | None = None, *, first: int = 1, **window: int) -> Receiver:
    """A receiver that was accepted."""
    receiver = Receiver(inbox or Inbox(), Window(**window), PATIENCE, 0.0)
    assert isinstance(receiver.next_frame(0.0), Open)
    receiver.receive(Accept(first, "s"), 0.0)
    return receiver


def said(side: Sender | Receiver, now: float = 0.0) -> list[Frame]:
    """All that a side has to say."""
    frames = []
    while (frame := side.next_frame(now)) is not None:
        frames.append(frame)
    return frames


def broken_by(function: Callable[[], object]) -> StreamError:
    with pytest.raises(StreamError) as caught:
        function()
    return caught.value


def filled(*payloads: bytes, **bounds: int) -> Outbox:
    box = Outbox("s", **bounds)
    for payload in payloads:
        box.append(payload)
    return box


def test_no_item_goes_without_credit() -> None:
    """A sender sends as many items as were asked for, and the next when more are."""
    sender = sender_of(filled(b"a", b"b", b"c"), items=2)
    assert said(sender) == [Item(1, b"a"), Item(2, b"b")]
    sender.receive(Request(1, 0), 0.0)
    assert said(sender) == [Item(3, b"c")]


def test_no_byte_goes_without_credit() -> None:
    """An item waits until its bytes are covered, and an empty one needs none."""
    sender = sender_of(filled(b"", b"abc"), items=5, size=0)
    assert said(sender) == [Item(1, b"")]
    sender.receive(Request(0, 2), 0.0)
    assert said(sender) == []
    sender.receive(Request(0, 1), 0.0)
    assert said(sender) == [Item(2, b"abc")]


def test_credit_adds_up_and_saturates() -> None:
    """Requests add up to 2^63 - 1 and stay there."""
    sender = sender_of(items=1)
    sender.receive(Request(2, 0), 0.0)
    assert sender.items == 3
    sender.receive(Request(CREDIT_MAX, CREDIT_MAX), 0.0)
    sender.receive(Request(CREDIT_MAX, CREDIT_MAX), 0.0)
    assert (sender.items, sender.bytes) == (CREDIT_MAX, CREDIT_MAX)


@pytest.mark.parametrize("frame", [Request(0, 0), Request(-1, 5), Request(5, -1)], ids=str)
def test_a_request_asks_for_something(frame: Request) -> None:
    """Nothing, and less than nothing, can't be asked for: the stream is broken off."""
    sender = sender_of()
    error = broken_by(lambda: sender.receive(frame, 0.0))
    assert error.code is Code.PROTOCOL
    assert said(sender) == [Error(Code.PROTOCOL, error.message)]
    assert sender.over
    assert sender.due == math.inf


def test_the_source_is_asked_while_there_is_credit_and_room() -> None:
    """A sender wants an item when it could send one at once and keep it until it is acknowledged."""
    box = Outbox("s", items_max=2)
    sender = sender_of(box, items=3)
    assert sender.wants(0.0)
    box.append(b"a")
    assert not sender.wants(0.0)  # that one goes first
    said(sender)
    box.append(b"b")
    said(sender)
    assert box.full
    assert not sender.wants(0.0)
    sender.receive(Ack(1), 0.0)
    assert sender.wants(0.0)
    box.append(b"c")
    said(sender)
    sender.receive(Ack(3), 0.0)
    assert not sender.wants(0.0)  # no credit


def test_an_outbox_is_full_from_its_bytes_on() -> None:
    """An outbox takes no more once it holds its bytes, and forgets what is acknowledged."""
    box = filled(b"abc", b"def", bytes_max=6)
    assert box.full
    with pytest.raises(RuntimeError, match="full"):
        box.append(b"x")
    box.acknowledge(1)
    assert (box.bytes, box.items, box.full) == (3, 1, False)


def test_an_outbox_takes_no_giant() -> None:
    """An item that is larger than all that it may be is refused where it is made."""
    assert broken_by(lambda: Outbox("s", item_bytes_max=3).append(b"abcd")).code is Code.TOO_LARGE


def test_nothing_comes_after_the_end() -> None:
    """A source that has ended, or failed, gives no more; the first word counts."""
    box = Outbox("s")
    box.end()
    box.fail("too late")
    assert box.terminal is True
    with pytest.raises(RuntimeError, match="ended"):
        box.append(b"x")
    other = Outbox("s")
    other.fail("x" * 1000)
    other.end()
    assert other.terminal == Error(Code.FAILED, "x" * 500)


def test_the_end_needs_no_credit_and_waits_for_what_is_before_it() -> None:
    """The end is said once all items are sent; the sender is done when all are acknowledged."""
    box = filled(b"a", b"b")
    box.end()
    sender = sender_of(box, items=1)
    assert said(sender) == [Item(1, b"a")]
    sender.receive(Request(1, 0), 0.0)
    assert said(sender) == [Item(2, b"b"), End(2)]
    assert sender.state is State.ENDING
    sender.receive(Ack(1), 0.0)
    assert not sender.over
    sender.receive(Ack(2), 0.0)
    assert sender.over
    assert box.finished


def test_an_empty_stream_ends_at_once() -> None:
    """A stream without items is accepted, and ends."""
    box = Outbox("s")
    box.end()
    sender = sender_of(box)
    assert said(sender) == [End(0)]
    assert sender.over


def test_a_source_that_fails_is_told_after_its_items() -> None:
    """What a source made before it failed is delivered, and then its failure."""
    box = filled(b"a")
    box.fail("no more tea")
    sender = sender_of(box)
    assert said(sender) == [Item(1, b"a"), Error(Code.FAILED, "no more tea")]
    receiver = receiver_of(inbox := Inbox())
    receiver.receive(Item(1, b"a"), 0.0)
    assert receiver.receive(Error(Code.FAILED, "no more tea"), 0.0) == Failed(Code.FAILED, "no more tea")
    assert not receiver.over
    inbox.done(1)
    assert said(receiver) == [Ack(1)]
    sender.receive(Ack(1), 0.0)
    assert receiver.over
    assert sender.over


def test_what_is_not_acknowledged_is_sent_again() -> None:
    """After a broken connection a stream goes on behind the last item that is processed."""
    box = filled(b"a", b"b", b"c")
    said(sender_of(box))
    again = Sender(box, PATIENCE, 5.0)
    again.receive(Open(1, 10, 1000, 1000, None, "s"), 5.0)
    assert said(again, 5.0) == [Accept(2, "s"), Item(2, b"b"), Item(3, b"c")]
    assert box.items == 2


def test_a_receiver_that_begins_anew_gets_what_nobody_acknowledged() -> None:
    """A receiver that names no stream is given the first item that is not acknowledged."""
    box = filled(b"a", b"b")
    sender = sender_of(box)
    said(sender)
    sender.receive(Ack(1), 0.0)
    anew = Sender(box, PATIENCE, 0.0)
    anew.receive(Open(0, 10, 1000, 1000), 0.0)
    assert said(anew) == [Accept(2, "s"), Item(2, b"b")]


@pytest.mark.parametrize(("stream", "after"), [("other", 1), ("s", 0), ("s", 3)])
def test_a_place_that_is_gone_is_said_to_be(stream: str, after: int) -> None:
    """Who wants to go on at another stream, at what is forgotten, or at what was never sent, is told so."""
    box = filled(b"a", b"b", b"c")
    sender = sender_of(box, items=2)
    said(sender)
    sender.receive(Ack(1), 0.0)
    other = Sender(box, PATIENCE, 0.0)
    other.receive(Open(after, 10, 1000, 1000, None, stream), 0.0)
    (word,) = said(other)
    assert isinstance(word, Error)
    assert word.code is Code.LOST
    assert other.broken is not None
    assert box.items == 2


def test_only_what_was_sent_can_be_acknowledged() -> None:
    """An acknowledgement of what was never sent breaks the protocol; an old one says nothing new."""
    sender = sender_of(filled(b"a", b"b"), items=1)
    said(sender)
    sender.receive(Ack(1), 0.0)
    sender.receive(Ack(1), 0.0)
    assert broken_by(lambda: sender.receive(Ack(2), 0.0)).code is Code.PROTOCOL


def test_acknowledgements_may_overtake_what_is_sent_again() -> None:
    """What was received over an earlier connection and is processed meanwhile is not sent once more."""
    box = filled(b"a", b"b", b"c")
    said(sender_of(box))
    inbox = Inbox()
    earlier = receiver_of(inbox)
    for seq, payload in enumerate([b"a", b"b", b"c"], 1):
        earlier.receive(Item(seq, payload), 0.0)
    sender, receiver = Sender(box, PATIENCE, 0.0), Receiver(inbox, Window(), PATIENCE, 0.0)
    (opening,) = said(receiver)
    inbox.done(1)
    inbox.done(2)
    sender.receive(opening, 0.0)
    assert receiver.receive(sender.next_frame(0.0) or KeepAlive(), 0.0) == Opened("s")
    sender.receive(Ack(2), 0.0)
    assert said(sender) == [Item(3, b"c")]
    assert receiver.receive(Item(3, b"c"), 0.0) is None  # it is here already


def test_an_item_that_the_receiver_does_not_take_breaks_the_stream() -> None:
    """An item that is larger than the receiver said it takes could never be sent."""
    sender = Sender(filled(b"abcd"), PATIENCE, 0.0)
    sender.receive(Open(0, 1, 1000, 3), 0.0)
    first, second = said(sender)
    assert first == Accept(1, "s")
    assert isinstance(second, Error)
    assert second.code is Code.TOO_LARGE


def test_a_receiver_takes_something() -> None:
    """A receiver that takes no byte at all can't be served."""
    sender = Sender(Outbox("s"), PATIENCE, 0.0)
    assert broken_by(lambda: sender.receive(Open(0, 1, 1, 0), 0.0)).code is Code.PROTOCOL


def test_a_lease_expires_by_itself() -> None:
    """Credit with a lease is gone when its time is over, and the receiver is told how much that was."""
    box = Outbox("s")
    sender = sender_of(box, items=3, size=100, lease=5.0)
    assert sender.due == 5.0
    box.append(b"ab")
    assert said(sender) == [Item(1, b"ab")]
    assert not sender.wants(5.0)
    assert said(sender, 5.0) == [Forfeit(2, 98)]
    receiver = receiver_of(items=3, bytes=100, item_bytes_max=50)
    receiver.receive(Item(1, b"ab"), 0.0)
    receiver.receive(Forfeit(2, 98), 5.0)
    assert (receiver.items, receiver.bytes) == (0, 0)
    assert said(receiver, 5.0) == [Request(2, 98)]


def test_what_expires_first_is_spent_first() -> None:
    """Of several leases the oldest is used up first, and what is in no lease last."""
    sender = sender_of(filled(b"a", b"b", b"c"), items=1, size=1)
    sender.receive(Request(1, 1, 5.0), 0.0)
    sender.receive(Request(1, 2, 9.0), 1.0)
    assert sender.next_frame(1.0) == Item(1, b"a")
    assert sender.due == 10.0  # the first lease is used up
    assert sender.next_frame(1.0) == Item(2, b"b")
    assert said(sender, 9.9) == [Item(3, b"c")]
    assert (sender.items, sender.bytes) == (0, 1)
    assert said(sender, 10.0) == []  # that byte is in no lease


def test_leases_are_bounded() -> None:
    """A thousand leases don't fill the memory: the youngest share their end, and all credit is counted."""
    sender = sender_of(items=0, size=0)
    for place in range(1000):
        sender.receive(Request(1, 1, 5.0 + place / 100), 0.0)
    assert len(sender._leases) == 64
    assert sender.items == 1000
    assert said(sender, 5.1) == [Forfeit(11, 11)]
    assert said(sender, 5.63) == [Forfeit(989, 989)]
    assert sender.items == 0


def test_a_receiver_grants_by_hysteresis() -> None:
    """No credit for each item: more is granted at the low mark, and then up to the high one."""
    inbox = Inbox()
    receiver = receiver_of(inbox, items=4, items_low=2)
    assert receiver.items == 4
    grants = []
    for seq in range(1, 5):
        receiver.receive(Item(seq, b"x"), 0.0)
    for seq in range(1, 5):
        inbox.done(seq)
        grants.append([frame for frame in said(receiver) if isinstance(frame, Request)])
    assert grants == [[], [Request(2, 2)], [], [Request(2, 2)]]


def test_what_a_receiver_holds_counts() -> None:
    """Items that have come and are not processed take the place of credit, whatever their number."""
    inbox = Inbox()
    receiver = receiver_of(inbox, items=2, items_low=1)
    for seq in (1, 2):
        receiver.receive(Item(seq, b"x"), 0.0)
    assert said(receiver) == []
    inbox.done(2)  # out of order: it makes room, and can't be acknowledged yet
    assert said(receiver) == [Request(1, 1)]
    inbox.done(2)  # twice is once
    inbox.done(1)
    assert said(receiver) == [Ack(2), Request(1, 1)]


def test_bytes_alone_may_be_granted() -> None:
    """A stream of large items is held by its bytes, one of small items by their number."""
    inbox = Inbox()
    receiver = receiver_of(inbox, items=100, bytes=100, bytes_low=60, item_bytes_max=50)
    receiver.receive(Item(1, b"x" * 50), 0.0)
    assert said(receiver) == []
    inbox.done(1)
    assert said(receiver) == [Ack(1), Request(1, 50)]


def test_a_pause_grants_nothing() -> None:
    """A receiver that pauses takes what it has granted, and grants no more until it resumes."""
    inbox = Inbox()
    receiver = receiver_of(inbox, items=2)
    receiver.pause()
    for seq in (1, 2):
        receiver.receive(Item(seq, b"x"), 0.0)
        inbox.done(seq)
    assert said(receiver) == [Ack(2)]
    receiver.resume()
    assert said(receiver) == [Request(2, 2)]


def test_one_that_opens_paused_grants_nothing() -> None:
    """A stream may be opened without any credit."""
    receiver = Receiver(Inbox(), Window(), PATIENCE, 0.0)
    receiver.pause()
    (opening,) = said(receiver)
    assert isinstance(opening, Open)
    assert (opening.items, opening.bytes) == (0, 0)
    sender = Sender(Outbox("s"), PATIENCE, 0.0)
    sender.receive(opening, 0.0)
    assert not sender.wants(0.0)


def test_acknowledgements_are_not_one_for_each_item() -> None:
    """While items are held, a quarter of the window is acknowledged at once."""
    inbox = Inbox()
    receiver = receiver_of(inbox, items=8, items_low=0)
    for seq in range(1, 9):
        receiver.receive(Item(seq, b"x"), 0.0)
    acks = []
    for seq in range(1, 5):
        inbox.done(seq)
        acks.append(said(receiver))
    assert acks == [[], [Ack(2)], [], [Ack(4)]]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Item(1, b"x" * 11), "said to be the most"),
        (Item(2, b"x"), "came after item 0"),
        (Item(0, b"x"), "came after item 0"),
        (Forfeit(3, 0), "given up"),
        (Forfeit(0, 21), "given up"),
        (Forfeit(-1, 0), "given up"),
        (End(1), "the last that came is 0"),
    ],
    ids=str,
)
def test_a_sender_that_miscounts_is_cut_off(frame: Frame, words: str) -> None:
    """Giants, gaps, going back, giving up what there is not, and an end that leaves items out, break the protocol."""
    receiver = receiver_of(items=2, bytes=20, item_bytes_max=10)
    error = broken_by(lambda: receiver.receive(frame, 0.0))
    assert error.code is Code.PROTOCOL
    assert words in error.message
    assert said(receiver) == [Error(Code.PROTOCOL, error.message)]
    assert receiver.over
    with pytest.raises(StreamError):
        receiver.receive(KeepAlive(), 0.0)


def test_a_sender_without_credit_is_cut_off() -> None:
    """Who sends more items or bytes than were granted breaks the protocol."""
    receiver = receiver_of(items=1)
    receiver.receive(Item(1, b"x"), 0.0)
    assert "without credit" in str(broken_by(lambda: receiver.receive(Item(2, b"x"), 0.0)))
    narrow = receiver_of(items=9, bytes=20, item_bytes_max=10)
    narrow.receive(Item(1, b"x" * 10), 0.0)
    narrow.receive(Item(2, b"x" * 9), 0.0)
    assert "without credit" in str(broken_by(lambda: narrow.receive(Item(3, b"xx"), 0.0)))


@pytest.mark.parametrize("accept", [Accept(1, "other"), Accept(1, "s"), Accept(3, "s")], ids=str)
def test_an_accept_is_what_was_asked_for(accept: Accept) -> None:
    """A sender can't answer with another stream, or another place in it."""
    inbox = Inbox()
    receiver = receiver_of(inbox)
    receiver.receive(Item(1, b"x"), 0.0)
    inbox.done(1)
    again = Receiver(inbox, Window(), PATIENCE, 0.0)
    said(again)
    assert broken_by(lambda: again.receive(accept, 0.0)).code is Code.PROTOCOL


def test_items_are_numbered_from_one() -> None:
    """A sender can't begin before the first item."""
    receiver = Receiver(Inbox(), Window(), PATIENCE, 0.0)
    said(receiver)
    assert broken_by(lambda: receiver.receive(Accept(0, "s"), 0.0)).code is Code.PROTOCOL


def test_a_cancellation_acknowledges_what_is_processed() -> None:
    """A receiver that wants no more says up to where it came; what is on its way then is passed over."""
    inbox = Inbox()
    receiver = receiver_of(inbox, items=8, items_low=0)
    for seq in (1, 2):
        receiver.receive(Item(seq, b"x"), 0.0)
    inbox.done(1)
    receiver.cancel()
    assert not receiver.over
    assert said(receiver) == [Ack(1), Cancel()]
    assert receiver.over
    assert receiver.receive(Item(3, b"x"), 0.0) is None
    receiver.cancel()
    assert said(receiver) == []


def test_a_cancelled_sender_sends_no_more() -> None:
    """After a cancellation neither items nor the end are sent, whatever comes in."""
    box = filled(b"a")
    sender = sender_of(box)
    sender.receive(Cancel(), 0.0)
    assert sender.state is State.CANCELLED
    box.end()
    sender.receive(Request(5, 5), 0.0)
    assert said(sender) == []
    assert not sender.wants(0.0)
    assert sender.receive(Error(Code.FAILED, "x"), 0.0) is None


def test_a_receiver_that_never_opened_cancels_in_silence() -> None:
    """What was not begun needs no end."""
    receiver = Receiver(Inbox(), Window(), PATIENCE, 0.0)
    receiver.cancel()
    assert said(receiver) == []
    assert receiver.over
    assert receiver.due == math.inf


def test_signs_of_life() -> None:
    """A side that has said nothing for a while says that it is there; in every state but the last."""
    for side in (
        Sender(Outbox("s"), PATIENCE, 0.0),
        sender_of(),
        receiver_of(),
    ):
        assert side.due == 10.0
        assert said(side, 9.9) == []
        assert said(side, 10.0) == [KeepAlive()]
        assert side.due == 20.0
    opening = Receiver(Inbox(), Window(), PATIENCE, 0.0)
    assert isinstance(opening.next_frame(0.0), Open)
    assert said(opening, 10.0) == [KeepAlive()]


def test_a_silent_peer_is_given_up() -> None:
    """Whatever is heard counts as a sign of life; nothing at all for too long breaks the stream."""
    for side in (sender_of(), receiver_of()):
        side.receive(KeepAlive(), 20.0)
        assert said(side, 49.9) == [KeepAlive()]
        assert side.due == 50.0
        (word,) = said(side, 50.0)
        assert isinstance(word, Error)
        assert word.code is Code.SILENT
        assert side.over


def test_opening_takes_more_than_signs_of_life() -> None:
    """A peer that says only that it is there, and never opens, is silent."""
    sender = Sender(Outbox("s"), PATIENCE, 0.0)
    sender.receive(KeepAlive(), 29.0)
    (word,) = said(sender, 30.0)
    assert isinstance(word, Error)
    assert word.code is Code.SILENT


def test_a_slow_receiver_is_cut_off() -> None:
    """A receiver that gives no credit for too long, while something waits for it, is told why and cut off."""
    box = filled(b"a", b"b")
    sender = sender_of(box, items=1)
    said(sender)
    assert sender.due == 10.0
    said(sender, 15.0)
    sender.receive(KeepAlive(), 15.0)
    assert sender.due == 20.0
    (word,) = said(sender, 20.0)
    assert isinstance(word, Error)
    assert word.code is Code.SLOW
    assert box.items == 2  # nothing is lost by it


@pytest.mark.parametrize("frame", [Request(1, 0), Ack(1)], ids=str)
def test_a_receiver_that_takes_something_is_not_slow(frame: Frame) -> None:
    """Credit and acknowledgements begin the wait anew."""
    sender = sender_of(filled(b"a", b"b", b"c"), items=1)
    said(sender)
    sender.receive(frame, 15.0)
    assert not any(isinstance(word, Error) for word in said(sender, 25.0))


def test_a_receiver_that_never_acknowledges_is_slow() -> None:
    """Also after the end, and when the outbox is full, a sender waits only so long."""
    box = filled(b"a")
    box.end()
    sender = sender_of(box)
    assert End(1) in said(sender)
    sender.receive(KeepAlive(), 15.0)
    assert any(isinstance(word, Error) for word in said(sender, 20.0))


def test_patience_may_be_endless() -> None:
    """Without a bound on stalls a receiver may pause as long as it shows signs of life."""
    sender = Sender(filled(b"a"), Patience(stall_max=None), 0.0)
    sender.receive(Open(0, 0, 0, 10), 0.0)
    for now in range(0, 3600, 10):
        sender.receive(KeepAlive(), now)
        assert not any(isinstance(word, Error) for word in said(sender, now))


def test_either_side_can_break_off() -> None:
    """Who breaks off says why, once; the other one hears it."""
    sender, receiver = sender_of(), receiver_of()
    sender.abort(Code.REPLACED, "another connection goes on")
    sender.abort(Code.SLOW, "again")
    (word,) = said(sender)
    assert receiver.receive(word, 0.0) == Failed(Code.REPLACED, "another connection goes on")
    assert receiver.broken is not None
    assert receiver.broken.code is Code.REPLACED
    other = sender_of()
    assert other.receive(Error(Code.REFUSED, "no"), 0.0) == Failed(Code.REFUSED, "no")
    assert other.over


def test_the_end_is_told_to_who_processes() -> None:
    """A receiver is done when the stream has ended and all of it is acknowledged."""
    inbox = Inbox()
    receiver = receiver_of(inbox)
    receiver.receive(Item(1, b"x"), 0.0)
    assert receiver.receive(End(1), 0.0) == Finished()
    receiver.receive(Forfeit(1, 1), 0.0)
    assert not receiver.over
    inbox.done(1)
    assert said(receiver) == [Ack(1)]
    assert receiver.over
    assert receiver_of().receive(End(0), 0.0) == Finished()


FRAMES: list[Frame] = [
    Open(0, 1, 1, 10),
    Accept(1, "s"),
    Item(1, b"x"),
    Request(1, 1),
    Ack(0),
    Forfeit(0, 0),
    End(0),
    Error(Code.REFUSED, "no"),
    Cancel(),
    KeepAlive(),
]
SENDER_HEARS = {
    State.OPENING: {"Open", "Error", "KeepAlive"},
    State.OPEN: {"Request", "Ack", "Cancel", "Error", "KeepAlive"},
    State.ENDING: {"Request", "Ack", "Cancel", "Error", "KeepAlive"},
    State.DONE: {"Request", "Ack", "Cancel", "Error", "KeepAlive"},
    State.CANCELLED: {"Request", "Ack", "Cancel", "Error", "KeepAlive"},
    State.BROKEN: set(),
}
RECEIVER_HEARS = {
    State.OPENING: {"Accept", "Error", "KeepAlive"},
    State.OPEN: {"Item", "Forfeit", "End", "Error", "KeepAlive"},
    State.ENDING: {"Forfeit", "Error", "KeepAlive"},
    State.DONE: {"Forfeit", "Error", "KeepAlive"},
    State.CANCELLED: {"Accept", "Item", "Forfeit", "End", "Error", "KeepAlive"},
    State.BROKEN: set(),
}


def sender_in(state: State) -> Sender:
    if state is State.OPENING:
        return Sender(Outbox("s"), PATIENCE, 0.0)
    box = Outbox("s")
    sender = sender_of(box)
    match state:
        case State.ENDING:
            box.append(b"x")
            box.end()
        case State.DONE:
            box.end()
        case State.CANCELLED:
            sender.receive(Cancel(), 0.0)
        case State.BROKEN:
            sender.abort(Code.SLOW, "slow")
        case _:
            pass
    said(sender)
    assert sender.state is state
    return sender


def receiver_in(state: State) -> Receiver:
    if state is State.OPENING:
        receiver = Receiver(Inbox(), Window(), PATIENCE, 0.0)
        said(receiver)
        return receiver
    receiver = receiver_of()
    match state:
        case State.ENDING:
            receiver.receive(Item(1, b"x"), 0.0)
            receiver.receive(End(1), 0.0)
        case State.DONE:
            receiver.receive(End(0), 0.0)
        case State.CANCELLED:
            receiver.cancel()
        case State.BROKEN:
            receiver.abort(Code.SLOW, "slow")
        case _:
            pass
    said(receiver)
    assert receiver.state is state
    return receiver


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("state", State, ids=lambda state: state.value)
@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_every_frame_in_every_state(side: str, state: State, frame: Frame) -> None:
    """A frame is taken where the protocol has it, and breaks the stream everywhere else."""
    machine = sender_in(state) if side == "sender" else receiver_in(state)
    hears = (SENDER_HEARS if side == "sender" else RECEIVER_HEARS)[state]
    if type(frame).__name__ in hears:
        machine.receive(frame, 1.0)
        return
    assert broken_by(lambda: machine.receive(frame, 1.0)).code is Code.PROTOCOL
    assert machine.state in (State.BROKEN, State.DONE, State.CANCELLED)
    said(machine, 1.0)
    assert machine.over


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("items", {"items": 0}),
        ("items", {"items": True}),
        ("items", {"items": 2**63}),
        ("bytes", {"bytes": 0}),
        ("items_low", {"items": 5, "items_low": 5}),
        ("bytes_low", {"bytes": 5, "bytes_low": -2}),
        ("item_bytes_max", {"bytes": 1000}),
        ("item_bytes_max", {"item_bytes_max": 0}),
        ("lease", {"lease": 0.0}),
        ("lease", {"lease": math.nan}),
    ],
)
def test_a_window_can_be_meant(key: str, settings: dict[str, float]) -> None:
    """Marks that could never be reached, or would starve a large item, are refused with the value and what would do."""
    with pytest.raises(ConfigurationError, match=f"^{key} is ") as caught:
        Window(**settings)  # type: ignore[arg-type]
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("keepalive", {"keepalive": 0.0}),
        ("silence_max", {"silence_max": 10.0}),
        ("silence_max", {"silence_max": math.inf}),
        ("stall_max", {"stall_max": 0.0}),
    ],
)
def test_patience_can_be_meant(key: str, settings: dict[str, float]) -> None:
    """A silence that is shorter than the signs of life are apart would break every stream."""
    with pytest.raises(ConfigurationError) as caught:
        Patience(**settings)
    assert caught.value.key == key


@pytest.mark.parametrize("stream", ["", "x" * 65, "té", "a\nb"])
def test_a_stream_has_a_name_that_can_be_sent(stream: str) -> None:
    """The name of a stream is short and printable."""
    with pytest.raises(ConfigurationError, match="stream is "):
        Outbox(stream)


def test_errors_pickle() -> None:
    """A stream's error goes between processes whole."""
    error = StreamError(Code.SLOW, "the receiver took nothing")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, str(again)) == (Code.SLOW, "the receiver took nothing")


def test_a_receiver_hears_of_an_item_once() -> None:
    """What comes again after a reconnection is not told again."""
    receiver = receiver_of(inbox := Inbox())
    assert receiver.receive(Item(1, b"x"), 0.0) == Received(1, b"x")
    again = Receiver(inbox, Window(), PATIENCE, 0.0)
    said(again)
    again.receive(Accept(1, "s"), 0.0)
    assert again.receive(Item(1, b"x"), 0.0) is None
    assert inbox.held_items == 1


def test_who_wants_to_know_how_much_is_waiting() -> None:
    """A sender tells how many items and bytes are not acknowledged."""
    sender = sender_of(filled(b"ab", b"c"))
    said(sender)
    assert sender.waiting == (2, 3)
    sender.receive(Ack(1), 0.0)
    assert sender.waiting == (1, 1)

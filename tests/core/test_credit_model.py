"""A stream over connections that break at any moment: nothing is lost, nothing is too much, nothing stands still."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hormesis.core.credit import Receiver, Sender, State
from hormesis.core.credit_boxes import Inbox, Outbox, Patience, Window
from hormesis.core.credit_frames import Frame, Item, Received

PATIENCE = Patience(keepalive=5.0, silence_max=20.0, stall_max=None)


class Stream(RuleBasedStateMachine):
    """A source of numbered items, a wire that keeps order and may break, and a consumer that is interrupted."""

    @initialize(
        items=st.integers(1, 6),
        low=st.integers(0, 5),
        size=st.integers(8, 40),
        box_items=st.integers(1, 8),
        lease=st.sampled_from([None, 3.0]),
    )
    def begin(self, items: int, low: int, size: int, box_items: int, lease: float | None) -> None:
        self.window = Window(items=items, items_low=min(low, items - 1), bytes=size, item_bytes_max=4, lease=lease)
        self.box = Outbox("s", items_max=box_items, item_bytes_max=4)
        self.inbox = Inbox()
        self.now = 0.0
        self.backlog: deque[int] = deque()
        self.made = 0
        self.processed: list[int] = []
        self.delivered: list[int] = []
        self.granted_open = False
        self.connect()

    def connect(self) -> None:
        self.sender = Sender(self.box, PATIENCE, self.now)
        self.receiver = Receiver(self.inbox, self.window, PATIENCE, self.now)
        self.up: deque[Frame] = deque()
        self.down: deque[Frame] = deque()

    @rule()
    def speak_up(self) -> None:
        """The receiver says one thing."""
        if (frame := self.receiver.next_frame(self.now)) is not None:
            self.up.append(frame)

    @rule()
    def speak_down(self) -> None:
        if (frame := self.sender.next_frame(self.now)) is not None:
            self.down.append(frame)

    @precondition(lambda self: self.up)
    @rule()
    def hear_up(self) -> None:
        self.sender.receive(self.up.popleft(), self.now)

    @precondition(lambda self: self.down)
    @rule()
    def hear_down(self) -> None:
        heard = self.receiver.receive(self.down.popleft(), self.now)
        if isinstance(heard, Received):
            assert heard.payload == str(heard.seq % 1000).encode()
            self.delivered.append(heard.seq)
            self.backlog.append(heard.seq)

    @rule()
    def make(self) -> None:
        """The source makes an item, but only when the sender wants one."""
        if self.sender.wants(self.now):
            self.made += 1
            self.box.append(str(self.made % 1000).encode())

    @precondition(lambda self: self.backlog)
    @rule(last=st.booleans())
    def process(self, last: bool) -> None:
        """The consumer ends an item, in any order."""
        seq = self.backlog.pop() if last else self.backlog.popleft()
        self.processed.append(seq)
        self.inbox.done(seq)

    @rule(pause=st.booleans())
    def pause(self, pause: bool) -> None:
        if pause:
            self.receiver.pause()
        else:
            self.receiver.resume()

    @rule()
    def break_the_wire(self) -> None:
        """Whatever was on its way is gone."""
        self.connect()

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        # Both are there, and say so.
        for speaks, wire, hears in (
            (self.sender, self.down, self.receiver),
            (self.receiver, self.up, self.sender),
        ):
            if hears.state is State.OPENING:
                hears._heard = self.now
            while (frame := speaks.next_frame(self.now)) is not None and not isinstance(frame, Item):
                wire.append(frame)
            if frame is not None:
                wire.append(frame)
            hears._heard = self.now

    @invariant()
    def each_item_is_delivered_once_and_in_order(self) -> None:
        assert self.delivered == list(range(1, len(self.delivered) + 1))

    @invariant()
    def nothing_is_lost(self) -> None:
        """What is made is in the outbox, or processed."""
        assert set(range(1, self.made + 1)) <= set(self.processed) | set(self.box._items)

    @invariant()
    def all_is_bounded(self) -> None:
        assert self.inbox.held_items + self.receiver.items <= self.window.items
        assert self.inbox.held_bytes + self.receiver.bytes <= self.window.bytes
        assert self.box.items <= self.box.items_max
        assert self.sender.items >= 0
        assert self.sender.bytes >= 0

    @invariant()
    def nobody_breaks_the_protocol(self) -> None:
        assert self.sender.broken is None
        assert self.receiver.broken is None

    def teardown(self) -> None:
        """However it went, from here on the stream comes to its end."""
        if not hasattr(self, "box"):
            return
        self.connect()
        for _ in range(20_000):
            before = len(self.processed), self.made
            if self.made < 20:
                self.make()
            elif not self.box.terminal:
                self.box.end()
            self.speak_up()
            self.speak_down()
            if self.up:
                self.hear_up()
            if self.down:
                self.hear_down()
            if self.backlog:
                self.process(last=False)
            if (len(self.processed), self.made) == before:
                self.now += 0.001
            if self.sender.over and self.receiver.over:
                break
        assert self.sender.state is State.DONE
        assert self.receiver.state is State.DONE
        assert sorted(set(self.processed)) == list(range(1, self.made + 1))
        assert len(self.processed) == self.made


Stream.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestStream = Stream.TestCase
TestStream.__doc__ = "A stream keeps its promises over any sequence of speaking, hearing, breaking and waiting."

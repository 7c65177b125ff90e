"""One direction without I/O: what each fault does to bytes and when, and that no change of faults ever harms them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.chaos.faults import (
    Bandwidth,
    BlackHole,
    Corrupt,
    Latency,
    LimitData,
    Reset,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    WireFault,
)
from hormesis.chaos.wire.chain import Chain
from hormesis.chaos.wire.stages import Mark

Plan = list[tuple[str, WireFault]]


class Line:
    """A chain with a sink that takes everything, and a clock that is moved by hand."""

    def __init__(self, *faults: WireFault, seed: str = "1") -> None:
        self.chain = Chain("downstream", seed)
        self.now = 0.0
        self.got: list[tuple[float, bytes | Mark]] = []
        self.spoilt = self.shape([(str(number), fault) for number, fault in enumerate(faults)])

    def shape(self, plan: Plan) -> bool:
        return self.chain.reshape(plan, self.now)

    def feed(self, data: bytes | Mark, struck: str = "") -> Line:
        self.chain.feed(self.now, data if isinstance(data, Mark) else memoryview(data), frozenset(struck.split()))
        return self.run(self.now)

    def run(self, until: float = math.inf) -> Line:
        """Let time pass, and take what arrives at the moments it does."""
        while True:
            while self.chain.move(self.now) or self.chain.ready:
                data = self.chain.ready[0].data
                self.chain.sent(len(data))
                self.got.append((self.now, data if isinstance(data, Mark) else bytes(data)))
            due = self.chain.due()
            if due > until or due == math.inf:
                break
            assert due >= self.now
            self.now = due
        self.now = max(self.now, until) if until < math.inf else self.now
        return self

    @property
    def bytes(self) -> bytes:
        return b"".join(data for _, data in self.got if isinstance(data, bytes))


def test_without_faults() -> None:
    """What is fed is ready at once, and nothing is ever due."""
    assert Line().feed(b"abc").feed(Mark.END).got == [(0.0, b"abc"), (0.0, Mark.END)]


def test_latency() -> None:
    """Chunks are late each on its own, the end of the stream too, and delays in a chain add up."""
    line = Line(Latency(2), Latency(1))
    line.feed(b"a")
    line.run(0.5).feed(b"b").feed(Mark.END)
    assert line.run().got == [(3.0, b"a"), (3.5, b"b"), (3.5, Mark.END)]


def test_jitter_keeps_order_and_luck() -> None:
    """Delays are spread, no chunk overtakes another, and other settings find the same luck."""

    def arrivals(jitter: float, seed: str = "1") -> list[float]:
        line = Line(Latency(10, jitter=jitter), seed=seed)
        for number in range(20):
            line.run(float(number)).feed(bytes([number]))
        line.run()
        assert line.bytes == bytes(range(20))
        return [at for at, _ in line.got]

    assert arrivals(5) == arrivals(5) != arrivals(5, seed="2")
    assert all(at >= number + 5 for number, at in enumerate(arrivals(5)))
    assert arrivals(0.001) == pytest.approx([number + 10 for number in range(20)], abs=0.0011)


def test_latency_changes_for_what_is_held() -> None:
    """A delay that is changed counts from when a chunk came in."""
    line = Line(Latency(60)).feed(b"a")
    line.run(5)
    line.shape([("0", Latency(6))])
    assert line.run().got == [(6.0, b"a")]


def test_bandwidth() -> None:
    """Bytes come at the rate, in pieces; idle time is no credit; latency before it is served first."""
    line = Line(Latency(1), Bandwidth(100))
    line.feed(bytes(100))
    line.run()
    assert line.got[-1][0] == pytest.approx(2.0)
    assert len(line.got) == 20
    line.run(10).feed(bytes(50)).run()
    assert line.got[-1][0] == pytest.approx(11.5)


def test_black_hole() -> None:
    """It takes nothing in, holds what it is given, and gives it back."""
    line = Line(BlackHole())
    assert line.chain.full
    line.feed(b"abc").run(100)
    assert line.got == []
    assert not line.shape([])
    assert line.run().got == [(100.0, b"abc")]


def test_slicer() -> None:
    """Pieces have the sizes asked for, and the pauses between them."""
    data = bytes(range(256)) * 4
    line = Line(Slicer(10, variation=5, delay="10us")).feed(data).run()
    sizes = [len(piece) for _, piece in line.got]
    assert line.bytes == data
    assert {5, 15} <= set(sizes[:-1]) <= set(range(5, 16))
    assert line.got[-1][0] == pytest.approx(1e-5 * (len(sizes) - 1))


def test_timeout() -> None:
    """Bytes are dropped, the connection closes at its moment whatever comes in between, and not before."""
    line = Line(Timeout(5))
    for second in range(5):
        line.run(float(second)).feed(b"x")
    assert line.run().got == [(5.0, Mark.CLOSE)]


def test_timeout_without_end() -> None:
    """With 0 it drops until it is lifted, which spoils a connection that has lost bytes and no other."""
    line = Line(Timeout(0)).feed(b"x")
    assert line.run(1000).got == []
    assert line.shape([])
    assert not Line(Timeout(0)).shape([])


def test_timeout_keeps_its_beginning() -> None:
    """Other settings count from when the silence began."""
    line = Line(Timeout(50))
    line.run(4).shape([("0", Timeout(5))])
    assert line.run().got == [(5.0, Mark.CLOSE)]


@pytest.mark.parametrize("wait", [0, 3])
def test_reset_peer(wait: float) -> None:
    """An idle connection breaks at its moment."""
    line = Line(ResetPeer(wait))
    line.run(wait)
    assert line.chain.broken
    line = Line(ResetPeer(3))
    line.run(2.9)
    assert not line.chain.broken


def test_slow_close() -> None:
    """Only the end is late."""
    line = Line(SlowClose(2)).feed(b"a").feed(Mark.END)
    assert line.run().got == [(0.0, b"a"), (2.0, Mark.END)]


@pytest.mark.parametrize("limit", [0, 1, 4, 5, 9])
def test_limit_data(limit: int) -> None:
    """So many bytes pass, then the connection closes; not before, and not without a byte of it."""
    line = Line(LimitData(limit))
    assert line.got == []
    line.feed(b"abcd").feed(b"efgh")
    assert line.bytes == b"abcdefgh"[:limit]
    assert [data for _, data in line.got if isinstance(data, Mark)] == ([Mark.CLOSE] if limit <= 8 else [])


def test_limit_data_counts_on() -> None:
    """Other settings don't forget what has passed."""
    line = Line(LimitData(100)).feed(bytes(30))
    line.shape([("0", LimitData(40))])
    line.feed(bytes(30))
    assert len(line.bytes) == 40
    line = Line(LimitData(100)).feed(bytes(30))
    line.shape([("0", LimitData(20))])
    assert line.run().got[-1] == (0.0, Mark.CLOSE)


@pytest.mark.parametrize("part", [0.01, 0.5, 1.0])
def test_corrupt(part: float) -> None:
    """About this part of the bytes differs, each in one bit, and the same for the same seed."""

    def damage(size: int, seed: str = "1") -> list[int]:
        line = Line(Corrupt(part), seed=seed)
        for begin in range(0, 20_000, size):
            line.feed(bytes(min(size, 20_000 - begin)))
        return [place for place, byte in enumerate(line.bytes) if byte]

    assert damage(20_000) == damage(7)
    assert part == 1 or damage(20_000) != damage(20_000, "2")
    assert len(damage(20_000)) == pytest.approx(20_000 * part, rel=0.2)
    assert all(byte.bit_count() <= 1 for byte in Line(Corrupt(part)).feed(bytes(1000)).bytes)


def test_requests_are_told_apart() -> None:
    """A fault that picks requests acts on the bytes that are struck, and on those alone."""
    line = Line(Latency(1, requests=2))
    line.feed(b"a").feed(b"b", "0").feed(b"c")
    assert line.run().got == [(0.0, b"a"), (1.0, b"b"), (1.0, b"c")]
    line = Line(Reset(requests=2)).feed(b"a")
    assert not line.chain.broken
    line.feed(b"b", "0")
    assert line.chain.broken
    assert line.bytes == b"a"


def test_a_fault_acts_on_what_has_not_left() -> None:
    """What is ready but not sent goes through a fault that comes; faults before it are not asked again."""
    chain = Chain("downstream", "1")
    chain.feed(0.0, memoryview(b"abc"))
    chain.reshape([("slow", Latency(5))], 1.0)
    assert not chain.ready
    assert chain.due() == 6.0


def test_memory_is_bounded() -> None:
    """A chain says that it is full, in bytes and in pieces."""
    for fault, size in ((Latency(60), 65536), (Latency(60), 1), (Bandwidth(1), 65536), (Slicer(1, delay=60), 1)):
        chain = Chain("downstream", "1")
        chain.reshape([("fault", fault)], 0.0)
        count = 0
        while not chain.full:
            chain.feed(0.0, memoryview(bytes(size)))
            chain.move(0.0)
            count += 1
        assert count <= 10_000 + 512
        assert chain.held < 5 * 1024 * 1024


def test_a_turn_is_bounded() -> None:
    """A chunk that falls into very many pieces does not keep everybody else waiting."""
    chain = Chain("downstream", "1")
    chain.reshape([("cut", Slicer(1))], 0.0)
    chain.feed(0.0, memoryview(bytes(65536)))
    chain.move(0.0)
    assert len(chain.ready) <= 512
    assert chain.due() == math.inf  # no room
    chain.sent(1)
    assert chain.due() == 0.0


PRESERVING = st.one_of(
    st.builds(Latency, st.sampled_from([0.5, 3.0]), jitter=st.sampled_from([0.0, 1.0])),
    st.builds(Latency, st.just(2.0), requests=st.sampled_from(["1", "every 2"])),
    st.builds(Bandwidth, st.sampled_from([5, 1000])),
    st.builds(BlackHole),
    st.builds(SlowClose, st.just(1.5)),
    st.builds(Slicer, st.sampled_from([1, 7]), delay=st.sampled_from([0.0, 0.01])),
    st.builds(LimitData, st.just(10**9)),
)
NAMES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("feed"), st.integers(1, 200)),
    st.tuples(st.just("wait"), st.floats(0.001, 4.0)),
    st.tuples(st.just("take"), st.integers(1, 300)),
    st.tuples(st.just("apply"), NAMES, PRESERVING),
    st.tuples(st.just("lift"), NAMES),
)


@given(st.lists(STEPS, max_size=40))
def test_bytes_stay_whole_and_in_order(steps: list[tuple[object, ...]]) -> None:
    """Whatever is applied and lifted in between, and however slowly the sink takes them, all bytes arrive in order."""
    chain, now, faults = Chain("downstream", "1"), 0.0, dict[str, WireFault]()
    sent, got, ended = bytearray(), bytearray(), False

    def take(most: float) -> None:
        nonlocal ended
        while chain.ready and most > 0:
            data = chain.ready[0].data
            assert not ended
            ended = data is Mark.END
            piece = b"" if isinstance(data, Mark) else bytes(data[: int(min(most, len(data)))])
            got.extend(piece)
            chain.sent(len(piece))
            most -= max(1, len(piece))

    for step in steps:
        match step:
            case ("feed", int(size)):
                data = bytes((len(sent) + place) % 251 for place in range(size))
                chain.feed(now, memoryview(data), frozenset("abc"[: size % 4]))
                sent += data
            case ("wait", float(time)):
                now += time
                chain.move(now)
            case ("take", int(most)):
                chain.move(now)
                take(most)
            case ("apply", str(name), fault):
                assert isinstance(fault, Latency | Bandwidth | BlackHole | SlowClose | Slicer | LimitData)
                faults[name] = fault
                assert not chain.reshape(list(faults.items()), now)
            case ("lift", str(name)):
                faults.pop(name, None)
                assert not chain.reshape(list(faults.items()), now)
        assert chain.held == len(sent) - len(got)
    chain.feed(now, Mark.END)
    chain.reshape([], now)
    take(math.inf)
    assert (got, ended) == (sent, True)

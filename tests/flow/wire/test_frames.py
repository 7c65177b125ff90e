"""Frames as bytes: what is written is what is read, and nothing else is read as anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.credit_frames import (
    CREDIT_MAX,
    Accept,
    Ack,
    Cancel,
    Code,
    End,
    Error,
    Forfeit,
    Frame,
    Item,
    KeepAlive,
    Open,
    Request,
    StreamError,
)
from hormesis.flow.wire.frames import CONTROL_MAX, ITEM_OVERHEAD, Splitter, decode, encode, with_length

numbers = st.integers(0, CREDIT_MAX)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
leases = st.none() | st.integers(1, 2**32 - 1).map(lambda milliseconds: milliseconds / 1000)
frames = st.one_of(
    st.builds(Open, numbers, numbers, numbers, numbers, leases, st.just("") | names),
    st.builds(Accept, numbers, names),
    st.builds(Item, numbers, st.binary(max_size=100)),
    st.builds(Request, numbers, numbers, leases),
    st.builds(Ack, numbers),
    st.builds(Forfeit, numbers, numbers),
    st.builds(End, numbers),
    st.builds(Error, st.sampled_from(Code), st.text(st.characters(exclude_categories=["Cs"]), max_size=500)),
    st.just(Cancel()),
    st.just(KeepAlive()),
)


@given(frames)
def test_what_is_written_is_read(frame: Frame) -> None:
    """Every frame comes out as it went in."""
    assert decode(encode(frame), 100) == frame


@given(st.lists(frames, max_size=5), st.integers(1, 40))
def test_a_stream_of_bytes_in_pieces(sent: list[Frame], size: int) -> None:
    """However a stream of bytes is cut, the same frames come out."""
    data = b"".join(with_length(encode(frame)) for frame in sent)
    splitter = Splitter(100)
    got = [frame for place in range(0, len(data), size) for frame in splitter.feed(data[place : place + size])]
    assert got == sent
    assert splitter.empty


@given(st.binary(max_size=60))
def test_rubbish_is_an_error_of_one_kind(data: bytes) -> None:
    """Any bytes are a frame, or break the protocol; nothing else happens."""
    try:
        frame = decode(data, 20)
    except StreamError as error:
        code = error.code
    else:
        code = Code.PROTOCOL
        assert decode(encode(frame), 20) == frame
    assert code is Code.PROTOCOL


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "without a byte"),
        (b"\x00", "no such frame"),
        (b"\x09\x00", "no such frame"),
        (b"\x05\x00", "8 bytes|9 bytes"),
        (b"\x05" + b"\xff" * 8, "above 2^63 - 1"),
        (b"\x03" + bytes(8) + b"x" * 21, "may have 20 bytes"),
        (b"\x01\x02" + bytes(36), "version 2"),
        (b"\x02" + bytes(8), "no name"),
        (b"\x02" + bytes(8) + b"\xc3\xa4", "ascii"),
        (b"\x02" + bytes(8) + b"x" * 65, "64 printable"),
        (b"\x08\x63what", "99 is not a valid Code"),
        (b"\x08\x01\xff", "utf-8"),
        (b"\x08\x01" + b"x" * 501, "501 characters"),
        (b"\x03" + bytes(CONTROL_MAX), "is the most that is taken"),
    ],
)
def test_what_can_not_be_read_says_why(data: bytes, words: str) -> None:
    """The error names what is wrong in one sentence."""
    with pytest.raises(StreamError, match="what came can't be read") as caught:
        decode(data, 20)
    assert any(word in str(caught.value) for word in words.split("|"))


def test_credit_beyond_the_most_is_the_most() -> None:
    """A peer that grants 2^64 - 1 grants 2^63 - 1."""
    everything = b"\x04" + b"\xff" * 16 + bytes(4)
    assert decode(everything, 20) == Request(CREDIT_MAX, CREDIT_MAX)


def test_a_giant_is_refused_before_it_is_read() -> None:
    """The length alone is enough to refuse a frame; nothing of it is kept."""
    splitter = Splitter(20)
    with pytest.raises(StreamError, match="is the most that is taken"):
        list(splitter.feed((2**32 - 1).to_bytes(4, "big")))
    large = Splitter(1_000_000)
    assert list(large.feed((ITEM_OVERHEAD + 1_000_000).to_bytes(4, "big"))) == []

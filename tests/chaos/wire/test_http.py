"""HTTP read along a connection: bytes pass as they are, requests are told apart, struck ones get what they should."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.chaos.faults import Latency, Rewrite, Status, Truncate, WireFault
from hormesis.chaos.wire.forces import Forces, Strike
from hormesis.chaos.wire.http import Conversation, Out
from hormesis.chaos.wire.stages import Data, Mark

GET = b"GET /orders/7?x=1 HTTP/1.1\r\nHost: shop\r\nX-Tenant: acme\r\n\r\n"
POST = b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"PUT /up HTTP/1.1\r\nhost:shop\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"
)
HEAD = b"HEAD /orders HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 10\r\n\r\n0123456789"
OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n6\r\npedia!\r\n0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


class Wire:
    """A conversation whose two sides are kept, and faults in force on it."""

    def __init__(self, *faults: WireFault) -> None:
        self.forces = Forces(1, "edge")
        for number, fault in enumerate(faults):
            self.forces.put(str(number), fault, 0.0)
        self.up: list[tuple[bytes | Mark, frozenset[str]]] = []
        self.down: list[tuple[bytes | Mark, frozenset[str]]] = []
        self.heads: list[object] = []
        self.conversation = Conversation(self.strike, self.to(self.up), self.to(self.down))

    @staticmethod
    def to(side: list[tuple[bytes | Mark, frozenset[str]]]) -> Out:
        def take(data: Data, struck: frozenset[str]) -> None:
            side.append((data if isinstance(data, Mark) else bytes(data), struck))

        return take

    def strike(self, head: object) -> Strike:
        self.heads.append(head)
        struck = [force for force in self.forces if force.strikes_request(head)]
        return Strike(frozenset(force.name for force in struck), [force.fault for force in struck])

    def asks(self, *data: bytes) -> Wire:
        for piece in data:
            self.conversation.asks(piece)
        return self

    def answers(self, *data: bytes) -> Wire:
        for piece in data:
            self.conversation.answers(piece)
        return self

    @property
    def sent_up(self) -> bytes:
        return b"".join(data for data, _ in self.up if isinstance(data, bytes))

    @property
    def sent_down(self) -> bytes:
        return b"".join(data for data, _ in self.down if isinstance(data, bytes))

    @property
    def closed(self) -> bool:
        return any(data is Mark.CLOSE for data, _ in self.down)


def split(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges) if begin < end]


PLACES = st.lists(st.integers(0, 2000), max_size=12)


@given(PLACES, PLACES)
def test_unharmed(asked: list[int], answered: list[int]) -> None:
    """What no fault strikes passes byte for byte, wherever it is cut, pipelined or not."""
    wire = Wire(Latency(1, route="/nowhere"))
    requests, answers = GET + CHUNKED + HEAD + POST + GET, OK + CONTINUE + EMPTY + OK_HEAD + OK_CHUNKED + OK
    wire.asks(*split(requests, asked)).answers(*split(answers, answered))
    assert (wire.sent_up, wire.sent_down) == (requests, answers)
    assert wire.conversation.idle
    assert not wire.conversation.failed
    assert [(head.method, head.path) for head in wire.heads] == [
        ("GET", "/orders/7"),
        ("PUT", "/up"),
        ("HEAD", "/orders"),
        ("POST", "/orders"),
        ("GET", "/orders/7"),
    ]


@given(st.binary(max_size=300), st.binary(max_size=300), PLACES)
def test_anything_passes(asked: bytes, answered: bytes, places: list[int]) -> None:
    """Bytes that are no HTTP pass as well, also after some that were."""
    for begin in (b"", GET, POST[:-2]):
        wire = Wire(Latency(1, route="/nowhere"))
        wire.asks(*split(begin + asked, places)).answers(*split(answered, places))
        wire.conversation.asks_no_more()
        wire.conversation.answers_no_more()
        assert wire.sent_up == begin + asked
        assert wire.sent_down == answered
        assert wire.up[-1][0] is wire.down[-1][0] is Mark.END


@pytest.mark.parametrize(
    ("setting", "struck"),
    [
        ({"route": "/orders"}, [False, False, True, True, False]),
        ({"route": "GET"}, [True, False, False, False, True]),
        ({"route": "GET /orders/{id}"}, [True, False, False, False, True]),
        ({"route": "/orders/{id}"}, [True, False, False, False, True]),
        ({"route": "POST /*"}, [False, False, False, True, False]),
        ({"route": "*", "requests": "2-3"}, [False, True, True, False, False]),
        ({"route": "/orders/*", "requests": 2}, [False, False, False, False, True]),
        ({"header": "X-Tenant"}, [True, False, False, False, True]),
        ({"header": "x-tenant: ac*"}, [True, False, False, False, True]),
        ({"header": "x-tenant: other"}, [False] * 5),
        ({"requests": "every 2", "route": "*"}, [False, True, False, True, False]),
    ],
)
def test_who_is_struck(setting: dict[str, object], struck: list[bool]) -> None:
    """Route and header tell requests apart, numbers count those that are left; answers are struck as requests are."""
    wire = Wire(Latency(1, **setting))  # type: ignore[arg-type]
    wire.asks(GET + CHUNKED + HEAD + POST + GET).answers(OK, EMPTY, OK_HEAD, OK_CHUNKED, OK)
    begun = [bool(names) for data, names in wire.up if isinstance(data, bytes) and re.match(rb"[A-Z]+ /", data)]
    answered = [bool(names) for data, names in wire.down if isinstance(data, bytes) and data.startswith(b"HTTP/")]
    assert begun == answered == struck


@given(PLACES)
def test_status(places: list[int]) -> None:
    """A struck request is answered here, in its turn, and the dependency never sees it."""
    wire = Wire(Status(503, body="no", headers={"Retry-After": "1"}, route="POST"))
    wire.asks(*split(GET + POST + CHUNKED, places)).answers(*split(OK + EMPTY, places))
    ours = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\n"
    assert wire.sent_up == GET + CHUNKED
    assert wire.sent_down == OK + ours + b"Content-Length: 2\r\n\r\nno" + EMPTY
    assert not wire.closed


def test_status_waits_for_the_request() -> None:
    """It comes when the request is whole, as most clients expect, and to a HEAD without its body."""
    wire = Wire(Status(500, body="x", route="*")).asks(POST[:-1])
    assert wire.down == []
    wire.asks(POST[-1:])
    assert wire.sent_down.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert wire.sent_down.endswith(b"\r\n\r\nx")
    assert Wire(Status(500, body="x", route="*")).asks(HEAD).sent_down.endswith(b"Content-Length: 1\r\n\r\n")
    assert b"Length" not in Wire(Status(204, route="*")).asks(GET).sent_down


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    ],
)
def test_status_closes(request_: bytes) -> None:
    """The connection ends with our answer where the client says so, or may not send what it announced."""
    wire = Wire(Status(503, route="*")).asks(request_)
    assert b"\r\nConnection: close\r\n" in wire.sent_down
    assert wire.closed


def test_status_in_the_place_of_the_answer() -> None:
    """Asked first, the dependency does the work, and its whole answer is replaced; others are not."""
    wire = Wire(Status(502, ask=True, route="POST"))
    wire.asks(POST + GET).answers(CONTINUE + OK_CHUNKED[:-3])
    assert wire.sent_down == b""
    wire.answers(OK_CHUNKED[-3:] + OK)
    assert wire.sent_up == POST + GET
    assert wire.sent_down == b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n" + OK


@pytest.mark.parametrize(("cut", "body"), [(0, b""), (4, b"0123"), (9, b"012345678")])
def test_truncate(cut: int, body: bytes) -> None:
    """The head and so many bytes of the body come, then the connection is closed."""
    wire = Wire(Truncate(cut, requests=2)).asks(GET + GET).answers(OK, OK)
    assert wire.sent_down == OK + OK[:-10] + body
    assert wire.closed


def test_truncate_more_than_there_is() -> None:
    """A body that is not longer is whole."""
    wire = Wire(Truncate(10)).asks(GET + GET + HEAD).answers(OK, OK_CHUNKED, OK_HEAD)
    assert wire.sent_down == OK + OK_CHUNKED + OK_HEAD
    assert not wire.closed


def test_truncate_chunks() -> None:
    """Of a chunked body, its own bytes are counted."""
    wire = Wire(Truncate(5)).asks(GET).answers(OK_CHUNKED)
    assert wire.sent_down == OK_CHUNKED[: OK_CHUNKED.index(b"p") + 1]
    assert wire.closed


def test_rewrite() -> None:
    """Headers are replaced, added and taken out; all else stays as it is, byte for byte."""
    wire = Wire(
        Rewrite({"Server": "y", "ETag": '"1"', "x-folded": False}),
        Rewrite({"X-Tenant": "other", "Via": "us"}, stream="upstream"),
        Rewrite({"Server": "z"}, add=True),
    )
    wire.asks(GET).answers(b"HTTP/1.1 200 Fine\r\nserver:x\r\nX-Folded: a\r\n b\r\nContent-Length:1\r\n\r\n!")
    assert wire.sent_up == b"GET /orders/7?x=1 HTTP/1.1\r\nHost: shop\r\nX-Tenant: other\r\nVia: us\r\n\r\n"
    assert wire.sent_down == b'HTTP/1.1 200 Fine\r\nContent-Length:1\r\nServer: y\r\nETag: "1"\r\nServer: z\r\n\r\n!'


def test_upgrade() -> None:
    """After an upgrade all passes as it is, what came early included."""
    ask = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    grant = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    wire = Wire(Status(503, route="/nowhere")).asks(ask + b"\x81\x00early")
    assert wire.sent_up == ask
    wire.answers(grant + b"\x81\x00").asks(b"GET ")
    assert wire.sent_up == ask + b"\x81\x00earlyGET "
    assert wire.sent_down == grant + b"\x81\x00"
    assert wire.conversation.over
    assert not wire.conversation.failed


def test_upgrade_that_is_not_granted() -> None:
    """An answer without a change of protocol is one like others, and requests go on."""
    ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    wire = Wire(Status(503, route="/orders")).asks(ask + POST).answers(OK)
    assert wire.sent_up == ask
    assert wire.sent_down.startswith(OK + b"HTTP/1.1 503")


def test_connect() -> None:
    """A tunnel that was granted passes as it is."""
    ask = b"CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n"
    wire = Wire(Status(503, route="/nowhere")).asks(ask).answers(b"HTTP/1.1 200 Yes\r\n\r\nhello").asks(b"\x16\x03")
    assert (wire.sent_up, wire.sent_down) == (ask + b"\x16\x03", b"HTTP/1.1 200 Yes\r\n\r\nhello")


def test_answer_that_ends_with_the_connection() -> None:
    """A body without a length ends with the dependency's stream."""
    old = b"HTTP/1.0 200 OK\r\n\r\nto the end"
    wire = Wire(Status(502, ask=True, route="POST")).asks(GET).answers(old)
    wire.conversation.answers_no_more()
    assert [data for data, _ in wire.down][-1] is Mark.END
    assert wire.sent_down == old
    wire = Wire(Status(502, ask=True, route="POST")).asks(POST).answers(old)
    wire.conversation.answers_no_more()
    assert wire.sent_down.startswith(b"HTTP/1.1 502")


def test_unasked_answers_are_bounded() -> None:
    """A client that asks on and on is made to wait for answers."""
    wire = Wire(Latency(1, route="*"))
    while not wire.conversation.full:
        wire.asks(GET * 10)
    assert len(wire.heads) <= 1010
    wire.answers(OK * 10)
    assert not wire.conversation.full

"""Back pressure from one process to another: a stream whose receiver says how much it can take.

The protocol is in `hormesis.core.credit`; here are its frames as bytes, and the connections over which they go.

    send_stream, Outlet        the sending side, over a WebSocket of any library
    receive_stream, Inlet      the receiving side
    receive, send              the client, which connects again by itself
    StreamEndpoint             the server, an ASGI application for WebSockets and requests
    IngestEndpoint             takes items by POST, and says when to come back while its queue is full
    Pace                       what a producer asks before it makes the next item
"""

from hormesis.core.credit_boxes import Patience, Window
from hormesis.core.credit_frames import Code, StreamError
from hormesis.flow.wire.channel import AsgiChannel, Channel, Disconnected, WebSocketsChannel, channel_of
from hormesis.flow.wire.client import Reconnect, connect, receive, send
from hormesis.flow.wire.codecs import BYTES, JSON, Codec
from hormesis.flow.wire.endpoint import StreamEndpoint
from hormesis.flow.wire.ingest import IngestEndpoint
from hormesis.flow.wire.pace import Pace
from hormesis.flow.wire.receiving import Delivery, Inlet, Receiving, receive_stream
from hormesis.flow.wire.sending import Outlet, send_stream

__all__ = [
    "BYTES",
    "JSON",
    "AsgiChannel",
    "Channel",
    "Code",
    "Codec",
    "Delivery",
    "Disconnected",
    "IngestEndpoint",
    "Inlet",
    "Outlet",
    "Pace",
    "Patience",
    "Receiving",
    "Reconnect",
    "StreamEndpoint",
    "StreamError",
    "WebSocketsChannel",
    "Window",
    "channel_of",
    "connect",
    "receive",
    "receive_stream",
    "send",
    "send_stream",
]

"""One connection of one side: what it hears goes to its machine, and what the machine has to say goes out.

The side itself knows when it has something to say, and until when it has not. So one loop writes and waits, and a task
beside it reads; whatever happens wakes the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from hormesis.core.credit import Receiver, Sender
from hormesis.core.credit_frames import Code, StreamError
from hormesis.flow.errors import ReaderTooSlow
from hormesis.flow.wire.channel import Channel, Disconnected
from hormesis.flow.wire.frames import decode, encode

__all__ = ["Conversation"]

_PARTING = 5.0
"""Seconds that a peer has for saying goodbye."""


def _nothing() -> None:
    """Do nothing."""


class Conversation:
    """Lets a side of a stream talk over a channel, until it is over.

    Args:
        side: The machine.
        channel: The connection; it is closed in the end.
        name: What errors call the peer.
        item_bytes_max: The most that the payload of an item that comes may have.
        write_max: Seconds that the peer has for reading a message.
        heard: Called with what the machine makes of each frame.
        prepare: Called before the machine is asked what it has to say.
        leave: Asked when there is nothing to say; True ends the conversation before the side is over.

    Attributes:
        woken: Set it when the side may have something to say.
    """

    __slots__ = ("_channel", "_heard", "_item_bytes_max", "_leave", "_name", "_prepare", "_write_max", "side", "woken")

    def __init__(
        self,
        side: Sender | Receiver,
        channel: Channel,
        *,
        name: str,
        item_bytes_max: int,
        write_max: float,
        heard: Callable[[Any], None],
        prepare: Callable[[], None] = _nothing,
        leave: Callable[[], bool] = lambda: False,
    ) -> None:
        self.side = side
        self.woken = asyncio.Event()
        self._channel = channel
        self._name = name
        self._item_bytes_max = item_bytes_max
        self._write_max = write_max
        self._heard = heard
        self._prepare = prepare
        self._leave = leave

    async def run(self) -> None:
        """Talk until the side is over, or may leave.

        Raises:
            StreamError: The stream broke, and the side says why.
            ReaderTooSlow: The peer reads too slowly, or takes too little.
            Disconnected: The connection ended before.
        """
        reading = asyncio.ensure_future(self._read())
        reading.add_done_callback(lambda _: self.woken.set())
        try:
            try:
                await self._write(reading)
            except Disconnected:
                # The peer may have said why before it went.
                await asyncio.wait([reading], timeout=1.0)
                if self.side.broken is None:
                    raise
        except BaseException:
            self._channel.abort()
            raise
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # it is told below, or by who raised
        await self._part()
        broken = self.side.broken
        if broken is not None and broken.code is Code.SLOW and isinstance(self.side, Sender):
            raise self._too_slow("time")
        if broken is not None:
            raise broken

    async def _write(self, reading: asyncio.Future[None]) -> None:
        loop, side = asyncio.get_running_loop(), self.side
        while True:
            self._prepare()
            while (frame := side.next_frame(loop.time())) is not None:
                await self._send(encode(frame))
                self._prepare()
            if side.over or self._leave():
                return
            if reading.done():
                reading.result()
                return
            self.woken.clear()
            if side.due == math.inf:
                await self.woken.wait()
            else:
                timer = loop.call_at(side.due, self.woken.set)
                try:
                    await self.woken.wait()
                finally:
                    timer.cancel()

    async def _send(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._write_max):
                await self._channel.send(data)
        except TimeoutError:
            self._channel.abort()
            raise self._too_slow("time") from None

    async def _read(self) -> None:
        loop, side = asyncio.get_running_loop(), self.side
        while not side.over:
            data = await self._channel.receive()
            try:
                heard = side.receive(decode(data, self._item_bytes_max), loop.time())
            except StreamError as error:
                # The machine has broken off by itself if it was what the frame says, and not if it could not be read.
                side.abort(error.code, error.message)
                return
            if heard is not None:
                self._heard(heard)
            self.woken.set()

    async def _part(self) -> None:
        try:
            async with asyncio.timeout(_PARTING):
                await self._channel.close()
        except TimeoutError:
            self._channel.abort()

    def _too_slow(self, reason: str) -> ReaderTooSlow:
        items, size = self.side.waiting if isinstance(self.side, Sender) else (0, 0)
        return ReaderTooSlow(self._name, reason, items, size)

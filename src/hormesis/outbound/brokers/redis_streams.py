"""Redis Streams: a consumer group's messages, no more of them than there is room for.

Redis never pushes back: it hands out what `XREADGROUP` asks for, so `COUNT` is what is free. What a consumer was given
stays *pending* until it is acknowledged. One that died leaves its messages pending for ever; whoever asks next claims
those that nobody has touched for `claim_after` (`XAUTOCLAIM`). So work that takes longer touches its messages in time
(`XCLAIM … JUSTID`, which counts as no delivery).

A message that failed is left pending, with an age at which it is claimed after its delay. What is given back is old
enough at once, and its delivery is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.outbound.brokers.consumer import Pulled
from hormesis.units import Duration, seconds

try:
    import redis.asyncio as redis
    from redis.exceptions import BusyLoadingError, ConnectionError, ResponseError, TimeoutError  # noqa: A004
except ImportError as error:
    raise MissingExtraError("a consumer of Redis Streams", "redis") from error

__all__ = ["RedisStream"]

_WAIT = 0.25
"""Seconds that a pull waits for messages, and so the longest that a stop waits for a pull."""


class RedisStream:
    """A stream of Redis, as a consumer group sees it.

    Args:
        client: A `redis.asyncio.Redis`; it stays the caller's to close. Each pull occupies one of its connections.
        stream: The key of the stream.
        group: The consumer group; it is made, from the stream's beginning, if there is none.
        consumer: This process's name in the group, which no other has at the same time; by default one of its own.
        claim_after: How long a message of another consumer stays untouched before it counts as left behind.
        field: The field of an entry that is the body; the others are headers.
        dead_letters: The key of the stream of dead letters; by default the stream's with `:dead` after it.
        dead_letters_max: About so many dead letters are kept; the oldest go first.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: str,
        *,
        group: str,
        consumer: str | None = None,
        # Longer than a garbage collection or a hiccup of the network, shorter than people's patience.
        claim_after: Duration = 30.0,
        field: str = "body",
        dead_letters: str | None = None,
        dead_letters_max: int = 100_000,
    ) -> None:
        if not isinstance(client, redis.Redis):
            raise ConfigurationError.bad_value("client", client, "a redis.asyncio.Redis")
        self._client: Any = client
        self.name = stream
        self._group = group
        self._me = consumer or secrets.token_hex(8)
        self._claim_after = max(1, round(seconds(claim_after, "claim_after") * 1000))
        self._field = field
        self._dead = dead_letters or f"{stream}:dead"
        self._dead_max = dead_letters_max
        # Three times before anybody may think that we are gone.
        self.heartbeat: float | None = self._claim_after / 3000
        self.lost: tuple[type[Exception], ...] = (ConnectionError, TimeoutError, BusyLoadingError, OSError)
        self._claim_at = 0.0
        self._cursor: Any = "0-0"

    async def open(self, room: int) -> None:
        """Make the group, if there is none."""
        try:
            await self._client.xgroup_create(self.name, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def pull(self, most: int) -> Sequence[Pulled]:
        """Return what was left behind, or what is new."""
        with _group_may_be_gone():
            claimed = await self._claim(most)
            if claimed:
                return claimed
            found = await self._client.xreadgroup(
                self._group, self._me, {self.name: ">"}, count=most, block=round(_WAIT * 1000)
            )
        # RESP3 answers with a dictionary, RESP2 with pairs.
        batches = found.values() if isinstance(found, Mapping) else [entries for _, entries in found or ()]
        return [self._pulled(entry, fields, 1) for batch in batches for entry, fields in _flat(batch)]

    async def pause(self) -> None:
        """Nothing: what is not asked for does not come."""

    async def resume(self, held: int) -> None:
        """Nothing."""

    async def acknowledge(self, message: Pulled) -> None:
        """Say that a message is processed."""
        await self._client.xack(self.name, self._group, message.id)

    async def again(self, message: Pulled, delay: float) -> None:
        """Leave it pending, at such an age that it is claimed after the delay; that is `claim_after` at most."""
        age = max(0, self._claim_after - round(delay * 1000))
        await self._touch([message], age)

    async def bury(self, message: Pulled, reason: str) -> None:
        """Put it into the stream of dead letters, and acknowledge it, both or neither."""
        fields = {**message.token, "reason": reason[:500], "id": message.id, "attempts": str(message.attempt)}
        async with self._client.pipeline(transaction=True) as both:
            both.xadd(self._dead, fields, maxlen=self._dead_max, approximate=True)
            both.xack(self.name, self._group, message.id)
            await both.execute()

    async def give_back(self, messages: Sequence[Pulled]) -> None:
        """Leave them pending, at an age at which they are claimed at once, and don't count this delivery."""
        with _group_may_be_gone():
            await self._give_back(messages)

    async def _give_back(self, messages: Sequence[Pulled]) -> None:
        async with self._client.pipeline(transaction=False) as several:
            for message in messages:
                several.xclaim(
                    self.name,
                    self._group,
                    self._me,
                    0,
                    [message.id],
                    idle=self._claim_after,
                    retrycount=message.attempt - 1,
                    justid=True,
                )
            await several.execute()

    async def extend(self, messages: Sequence[Pulled]) -> None:
        """Touch them, so that nobody claims them."""
        await self._touch(messages, 0)

    async def close(self) -> None:
        """Leave the group, unless something of ours is still pending there: that would be lost."""
        with _group_may_be_gone():
            pending = await self._client.xpending_range(self.name, self._group, "-", "+", 1, consumername=self._me)
            if not pending:
                await self._client.xgroup_delconsumer(self.name, self._group, self._me)

    async def _claim(self, most: int) -> list[Pulled]:
        """Claim what was left behind; where nothing was, that is not asked again for a while."""
        now = asyncio.get_running_loop().time()
        if now < self._claim_at:
            return []
        answer = await self._client.xautoclaim(
            self.name, self._group, self._me, self._claim_after, start_id=self._cursor, count=most
        )
        self._cursor = answer[0]
        found = _flat(answer[1])
        if _text(self._cursor) == "0-0":
            self._claim_at = now + min(_WAIT, self._claim_after / 4000)
        # An entry that was deleted from the stream has nothing that could be processed.
        gone = [entry for entry, fields in found if not fields]
        if gone:
            await self._client.xack(self.name, self._group, *gone)
        left = [(entry, fields) for entry, fields in found if fields]
        attempts = await self._attempts([entry for entry, _ in left])
        return [self._pulled(entry, fields, attempts.get(_text(entry), 1)) for entry, fields in left]

    async def _attempts(self, entries: Sequence[Any]) -> dict[str, int]:
        """How often entries were handed out, which claiming does not tell."""
        if not entries:
            return {}
        async with self._client.pipeline(transaction=False) as several:
            for entry in entries:
                several.xpending_range(self.name, self._group, entry, entry, 1)
            answers = await several.execute()
        return {_text(each["message_id"]): each["times_delivered"] for answer in answers for each in answer}

    async def _touch(self, messages: Sequence[Pulled], age: int) -> None:
        ids = [message.id for message in messages]
        with _group_may_be_gone():
            await self._client.xclaim(self.name, self._group, self._me, 0, ids, idle=age, justid=True)

    def _pulled(self, entry: Any, fields: Mapping[Any, Any], attempt: int) -> Pulled:
        headers = {_text(name): _text(value) for name, value in fields.items() if _text(name) != self._field}
        body = next((value for name, value in fields.items() if _text(name) == self._field), b"")
        data = body if isinstance(body, bytes) else str(body).encode()
        return Pulled(_text(entry), data, headers, attempt, dict(fields))


@contextlib.contextmanager
def _group_may_be_gone() -> Iterator[None]:
    """Take a group that is gone for a lost connection, after which it is made again.

    A Redis that was restarted without its data, or a replica that took over before it had them, has none; and the
    client connects again by itself, so nobody hears of that.
    """
    try:
        yield
    except ResponseError as error:
        if "NOGROUP" not in str(error):
            raise
        raise ConnectionError(str(error)) from error


def _flat(entries: Any) -> list[tuple[Any, Any]]:
    """Entries as pairs of an id and its fields; what was deleted has no fields, or no id either."""
    flat = []
    for entry in entries:
        if isinstance(entry, list) and entry and isinstance(entry[0], list | tuple):
            flat += _flat(entry)
        elif entry is not None and entry[0] is not None:
            flat.append((entry[0], entry[1]))
    return flat


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

"""A consumer that pulls no more than it can process, whichever broker the messages come from.

What is *held* is what was pulled and is neither acknowledged nor given back: it waits in this process, or a handler
works on it. There is room for so many, and the broker is asked for no more than is free. Once all room is taken the
consumer pauses, and asks again only when what it holds has fallen to the low mark (hysteresis), so that a slow handler
does not cost a request for each message.

**Each message ends once**: acknowledged, when its handler returned; tried again after a while, when it raised; put
among the dead letters, when it raised for the last time; or given back, when this process stops before it was its turn
or in the middle of it. A process that is killed gives nothing back, and the broker hands out its messages again when
it misses it. So a message is processed at least once, and handlers must bear a second time.

While a message is held, the broker is told so in time (heartbeat), so that long work is not done twice at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from hormesis.clock import Random, system_random
from hormesis.core.hysteresis import Hysteresis
from hormesis.core.retry import Backoff, Delays
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.events import EventBus, FlowPaused, FlowResumed, bus
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

__all__ = ["Consumer", "Message", "Pulled", "Transport"]

_log = logging.getLogger("hormesis.brokers")

_CLOSING = 10.0
"""Seconds that an end takes at most once no handler is at work; then the broker finds out by itself."""

_GOODBYE = 1.0
"""Seconds that giving back, and disconnecting, have all the same when what was before took all of that."""


@dataclasses.dataclass(slots=True, eq=False)
class Pulled:
    """A message as a transport hands it over.

    Args:
        id: What the broker calls it.
        body: Its payload.
        headers: What else it carries.
        attempt: Which time it is handed out, from 1.
        token: What the transport needs to end it.
    """

    id: str
    body: bytes
    headers: Mapping[str, str]
    attempt: int
    token: Any


class Transport(Protocol):
    """One queue of one broker. Every verb may raise what its client library raises."""

    name: str
    """What events and errors call the queue."""
    heartbeat: float | None
    """Seconds after which the broker must be told again of what is held; None when it needs not."""
    lost: tuple[type[Exception], ...]
    """Exceptions that mean that the broker can't be reached now."""

    async def open(self, room: int) -> None:
        """Connect, with room for so many messages; again, after the connection was lost."""
        ...

    async def pull(self, most: int) -> Sequence[Pulled]:
        """Return up to so many messages, as soon as there are some, and none after a bounded while."""
        ...

    async def pause(self) -> None:
        """Have a broker that sends unasked send nothing until `resume`: for a longer pause, or before the end."""
        ...

    async def resume(self, held: int) -> None:
        """Have it send again, when so many of its messages are held."""
        ...

    async def acknowledge(self, message: Pulled) -> None:
        """Say that a message is processed."""
        ...

    async def again(self, message: Pulled, delay: float) -> None:
        """Have a message handed out again after a while."""
        ...

    async def bury(self, message: Pulled, reason: str) -> None:
        """Put a message among the dead letters."""
        ...

    async def give_back(self, messages: Sequence[Pulled]) -> None:
        """Have messages handed out again at once, to whoever asks."""
        ...

    async def extend(self, messages: Sequence[Pulled]) -> None:
        """Say that messages are still being worked on."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class Message:
    """A message that is held.

    Attributes:
        id: What the broker calls it.
        body: Its payload.
        headers: What else it carries.
        attempt: Which time it is handed out, from 1, as far as the broker knows.
    """

    __slots__ = ("_consumer", "_pulled", "attempt", "body", "headers", "id", "settled")

    def __init__(self, consumer: Consumer, pulled: Pulled) -> None:
        self._consumer = consumer
        self._pulled = pulled
        self.id = pulled.id
        self.body = pulled.body
        self.headers = pulled.headers
        self.attempt = pulled.attempt
        self.settled = False
        """Whether it has ended; what is said of it afterwards is not heard."""

    async def ack(self) -> None:
        """It is processed."""
        await self._consumer._settle(self, lambda transport: transport.acknowledge(self._pulled))

    async def retry(self, delay: Duration | None = None) -> None:
        """It came to nothing, and is to be tried again; for the last time it becomes a dead letter.

        Args:
            delay: After how long; by default what the consumer's back-off says.
        """
        await self._consumer._fail(self, "retry", None if delay is None else seconds(delay, "delay", zero=True))

    async def bury(self, reason: str) -> None:
        """It will never be processed: put it among the dead letters.

        Args:
            reason: Why, in a few words.
        """
        await self._consumer._settle(self, lambda transport: transport.bury(self._pulled, reason))

    async def give_back(self) -> None:
        """Let somebody else have it, at once."""
        await self._consumer._settle(self, lambda transport: transport.give_back([self._pulled]))


Handler = Callable[[Message], Awaitable[object]]


class Consumer:
    """Processes the messages of a queue, and holds no more of them than it has room for.

        consumer = Consumer(RedisStream(client, "orders", group="billing"))
        await consumer.run(handle, concurrency=8)

    or one after the other, each of which is acknowledged when the next one is asked for:

        async with consumer:
            async for message in consumer:
                ...

    Args:
        transport: The queue.
        room: Messages that are held at most, in work or waiting for it.
        resume_at: Held messages at which it goes on after a pause; by default half of `room`.
        attempts: How often a message is tried before it becomes a dead letter.
        delay: How long a message waits after its first failure; it doubles with each.
        delay_max: The longest of these waits.
        grace: How long a stop waits for handlers that are at work; then they are cancelled, and their messages go back.
        events: The event bus.
        random: Where the jitter of the waits comes from.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    part: ClassVar[str] = "broker"

    def __init__(
        self,
        transport: Transport,
        *,
        # A few for each handler hide the way to the broker; each more is one more that others could work on.
        room: int = 32,
        resume_at: int | None = None,
        attempts: int = 5,
        delay: Duration = 1.0,
        delay_max: Duration = 60.0,
        # What orchestrators give a process from SIGTERM to SIGKILL, less something for giving back.
        grace: Duration = 20.0,
        events: EventBus = bus,
        random: Random | None = None,
    ) -> None:
        self.transport = transport
        self.room = whole("room", room, 1, 65_535)
        self.attempts = whole("attempts", attempts, 1)
        low = self.room // 2 if resume_at is None else resume_at
        self._marks = Hysteresis(high=self.room, low=whole("resume_at", low, 0, self.room - 1))
        self._grace = seconds(grace, "grace")
        first, most = seconds(delay, "delay", zero=True), seconds(delay_max, "delay_max")
        backoff = Backoff(delay=first, growth="exponential", factor=2, delay_max=most, jitter="equal")
        self._delays = Delays(backoff, retry_after_max=0.0, random=random or system_random())
        self._events = events
        self._waiting: deque[Message] = deque()
        self._held: dict[Message, None] = {}
        self._settling: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._paused_by_hand = False
        self._source_paused = False
        self._paused_since: float | None = None
        self._failure: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._current: Message | None = None

    @property
    def held(self) -> int:
        """Messages that were pulled and have not ended."""
        return len(self._held)

    @property
    def paused(self) -> bool:
        """Whether the broker is asked for nothing at the moment."""
        return self._paused_since is not None

    def pause(self) -> None:
        """Ask for nothing until `resume`; what is held goes on."""
        self._paused_by_hand = True
        self._wake()

    def resume(self) -> None:
        """Ask for messages again."""
        self._paused_by_hand = False
        self._wake()

    def stop(self) -> None:
        """Take no further message; `run` returns when those in work have ended. Signal handlers may call it."""
        self._stop.set()
        self._wake()

    async def run(self, handler: Handler, *, concurrency: int = 8) -> None:
        """Process messages until `stop`, or until this is cancelled.

        A handler that returns has processed its message; one that raises has failed, and the message is tried again.

        Args:
            handler: What processes a message.
            concurrency: Messages in work at the same time; no more than there is room for.

        Raises:
            ConfigurationError: There are more handlers than room.
            Exception: What the broker's client raised, if that is no lost connection.
        """
        whole("concurrency", concurrency, 1, self.room)
        async with self:
            workers = [asyncio.ensure_future(self._work(handler)) for _ in range(concurrency)]
            stopping = asyncio.ensure_future(self._stop.wait())
            try:
                await asyncio.wait([*workers, stopping], return_when=asyncio.FIRST_COMPLETED)
                self.stop()
                await asyncio.wait(workers, timeout=self._grace)
            finally:
                for each in (*workers, stopping):
                    each.cancel()
                await asyncio.wait([*workers, stopping])
            for each in workers:
                if not each.cancelled():
                    each.result()
            if self._failure is not None:  # of which handlers that were at work for too long did not hear
                raise self._failure

    async def __aenter__(self) -> Consumer:
        if self._tasks:
            raise ConfigurationError("this consumer is in use; each use takes a consumer of its own")
        try:
            await self.transport.open(self.room)
        except BaseException:
            # What is open by half would stay so.
            with contextlib.suppress(Exception):
                await self.transport.close()
            raise
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._pull()), loop.create_task(self._beat())]
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.stop()
        until = asyncio.get_running_loop().time() + _CLOSING
        pulling, _ = self._tasks
        try:
            if self._current is not None and isinstance(error, Exception):
                await self._fail(self._current, f"{type(error).__name__}: {error}", None)
            # What is on its way should arrive, and be given back: a pull that is cancelled may have got something.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await asyncio.wait([pulling])
                    while self._settling:
                        await asyncio.wait(list(self._settling))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._give_back(until)
            self._tasks = []

    def __aiter__(self) -> AsyncIterator[Message]:
        return _Messages(self)

    async def next(self) -> Message | None:
        """Return a message, or None after `stop`; whoever asks has to end it."""
        while not self._waiting or self._stop.is_set():
            if self._failure is not None:
                raise self._failure
            if self._stop.is_set():
                return None
            changed = self._changed
            await changed.wait()
        return self._waiting.popleft()

    async def _work(self, handler: Handler) -> None:
        while (message := await self.next()) is not None:
            try:
                await handler(message)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # It was not us whom somebody cancelled, but what the handler waited for.
                await self._fail(message, "CancelledError: the handler was cancelled from within", None)
            except Exception as error:
                await self._fail(message, f"{type(error).__name__}: {error}", None)
            else:
                await message.ack()

    async def _fail(self, message: Message, reason: str, delay: float | None) -> None:
        if message.settled:
            return
        if message.attempt >= self.attempts:
            _log.warning("message %s of %s: %s; it becomes a dead letter", message.id, self.transport.name, reason)
            await message.bury(reason)
            return
        wait = self._delays.next(message.attempt) if delay is None else delay
        _log.info("message %s of %s: %s; it is tried again", message.id, self.transport.name, reason)
        await self._settle(message, lambda transport: transport.again(message._pulled, wait))

    async def _settle(self, message: Message, say: Callable[[Transport], Coroutine[Any, Any, None]]) -> None:
        """End a message, once; who is cancelled meanwhile does not keep the broker from hearing of it."""
        if message.settled:
            return
        message.settled = True
        settling = asyncio.ensure_future(self._say(message, say))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        await asyncio.shield(settling)

    async def _say(self, message: Message, say: Callable[[Transport], Coroutine[Any, Any, None]]) -> None:
        try:
            await say(self.transport)
        except self.transport.lost as error:
            # The broker will miss it, and hand it out again.
            _log.warning("message %s of %s: its end could not be told: %s", message.id, self.transport.name, error)
        finally:
            self._held.pop(message, None)
            self._wake()

    async def _pull(self) -> None:
        with self._ends_with_its_error():
            failures = 0
            while not self._stop.is_set():
                try:
                    if await self._may_pull():
                        self._take(await self.transport.pull(self.room - len(self._held)))
                        failures = 0
                except self.transport.lost as error:
                    failures += 1
                    _log.warning("%s can't be reached: %s", self.transport.name, error)
                    await self._reopen(failures)
        # What is given back would otherwise come back to us at once.
        with contextlib.suppress(*self.transport.lost):
            await self.transport.pause()

    @contextlib.contextmanager
    def _ends_with_its_error(self) -> Iterator[None]:
        """End the use with an error of a task of ours: who waits for messages would wait for ever without it."""
        try:
            yield
        except asyncio.CancelledError as cancelled:
            if not self._stop.is_set():
                self._failure = HormesisError(f"{self.transport.name} was cancelled from within")
                self._failure.__cause__ = cancelled
                self.stop()
            raise
        except Exception as error:
            self._failure = error
            self.stop()

    async def _may_pull(self) -> bool:
        """Say whether there is room; if not, wait until something changes."""
        self._marks.update(len(self._held))
        if self._paused_by_hand != self._source_paused:
            await self._pause_source(self._paused_by_hand)
            return False  # things may have changed meanwhile
        paused = self._marks.paused or self._paused_by_hand
        if paused != self.paused:
            self._tell_paused(paused)
        if not paused:
            return True
        changed = self._changed
        await changed.wait()
        return False

    async def _pause_source(self, pause: bool) -> None:
        """Have the broker send nothing, or again; the short pauses between the marks it does not notice."""
        self._source_paused = pause
        if pause:
            await self.transport.pause()
        else:
            await self.transport.resume(len(self._held))

    def _tell_paused(self, paused: bool) -> None:
        now, since = asyncio.get_running_loop().time(), self._paused_since
        self._paused_since = now if paused else None
        if not self._events.listeners:
            return
        name, held, size = self.transport.name, len(self._held), sum(len(each.body) for each in self._held)
        if since is None:
            self._events.publish(FlowPaused(at=now, policy=name, part=self.part, items=held, size=size))
        else:
            self._events.publish(
                FlowResumed(at=now, policy=name, part=self.part, items=held, size=size, seconds=now - since)
            )

    def _take(self, pulled: Sequence[Pulled]) -> None:
        for each in pulled:
            message = Message(self, each)
            self._held[message] = None
            self._waiting.append(message)
        if pulled:
            self._wake()

    async def _reopen(self, failures: int) -> None:
        wait = min(10.0, 0.1 * 2 ** min(failures, 10))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._stop.wait()
                return
        with contextlib.suppress(*self.transport.lost):
            await self.transport.open(self.room)
            self._source_paused = False

    async def _beat(self) -> None:
        if self.transport.heartbeat is None:
            return
        with self._ends_with_its_error():
            while True:
                await asyncio.sleep(self.transport.heartbeat)
                held = [message._pulled for message in self._held if not message.settled]
                if held:
                    try:
                        await self.transport.extend(held)
                    except self.transport.lost as error:
                        _log.warning("%s could not be told of work that goes on: %s", self.transport.name, error)

    async def _give_back(self, until: float) -> None:
        """Give back what has not ended, and disconnect; a broker that hangs has until then to hear of it."""
        left = [message for message in self._held if not message.settled]
        for message in left:
            message.settled = True
        self._waiting.clear()
        self._held.clear()
        unheard: tuple[type[Exception], ...] = (TimeoutError, *self.transport.lost)
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(max(until, now() + _GOODBYE)):
                if left:
                    await self.transport.give_back([message._pulled for message in left])
        except unheard as error:
            _log.warning("%s: %d messages could not be given back: %r", self.transport.name, len(left), error)
        finally:
            with contextlib.suppress(*unheard):
                async with asyncio.timeout_at(max(until, now() + _GOODBYE)):
                    await self.transport.close()

    def _wake(self) -> None:
        """Wake whoever waits now; who comes later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()


class _Messages(AsyncIterator[Message]):
    """Gives messages, each of which is acknowledged when the next one is asked for."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def __anext__(self) -> Message:
        consumer = self._consumer
        if consumer._current is not None:
            await consumer._current.ack()
            consumer._current = None
        message = await consumer.next()
        if message is None:
            raise StopAsyncIteration
        consumer._current = message
        return message

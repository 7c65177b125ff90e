"""The consumer itself, over a queue that follows a script, on virtual time; and a cancellation at every moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from hormesis.errors import ConfigurationError, HormesisError
from hormesis.events import EventBus
from hormesis.outbound.brokers import Consumer, Message, Pulled
from hormesis.testing import run_virtual


class LostError(Exception):
    """The connection is gone."""


class Scripted:
    """A queue in memory that takes its time for everything, and knows what became of each message."""

    name = "scripted"
    heartbeat: float | None = 5.0
    lost: tuple[type[Exception], ...] = (LostError,)

    def __init__(self, *bodies: bytes) -> None:
        self.ready = [Pulled(str(number), body, {}, 1, None) for number, body in enumerate(bodies)]
        self.out: dict[str, Pulled] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self.delays: list[float] = []
        self.most_out = 0
        self.extended: list[str] = []
        self.opened = 0
        self.closed = 0
        self.paused = 0
        self.resumed: list[int] = []
        self.failing: list[Exception] = []
        self.asked: list[int] = []

    async def open(self, room: int) -> None:
        self.opened += 1
        await asyncio.sleep(0.01)

    async def pull(self, most: int) -> Sequence[Pulled]:
        self.asked.append(most)
        assert most > 0
        await asyncio.sleep(0.01)
        if self.failing:
            raise self.failing.pop(0)
        if not self.ready:
            await asyncio.sleep(0.4)
        pulled, self.ready = self.ready[:most], self.ready[most:]
        self.out.update((each.id, each) for each in pulled)
        self.most_out = max(self.most_out, len(self.out))
        return pulled

    async def pause(self) -> None:
        self.paused += 1

    async def resume(self, held: int) -> None:
        self.resumed.append(held)

    async def acknowledge(self, message: Pulled) -> None:
        await self._end(message, "acknowledged")

    async def again(self, message: Pulled, delay: float) -> None:
        self.delays.append(delay)
        await self._end(message, "again")
        self.ready.append(Pulled(message.id, message.body, {}, message.attempt + 1, None))

    async def bury(self, message: Pulled, reason: str) -> None:
        await self._end(message, f"buried: {reason}")

    async def give_back(self, messages: Sequence[Pulled]) -> None:
        for message in messages:
            await self._end(message, "given back")
            self.ready.append(message)

    async def extend(self, messages: Sequence[Pulled]) -> None:
        self.extended += [message.id for message in messages]

    async def close(self) -> None:
        self.closed += 1

    async def _end(self, message: Pulled, how: str) -> None:
        await asyncio.sleep(0.01)
        # The broker knows a message that was handed out, and has not ended.
        del self.out[message.id]
        self.ends[message.id, how] += 1


BODIES = [str(number).encode() for number in range(10)]


def consumer_of(transport: Scripted, **settings: Any) -> Consumer:
    return Consumer(transport, random=Random(1), events=EventBus(), **settings)


async def hundredths(moment: int, turns: int) -> None:
    await asyncio.sleep(moment / 100)
    for _ in range(turns):
        await asyncio.sleep(0)


def test_a_cancellation_at_any_moment_loses_nothing() -> None:
    """Whenever a consumer is cancelled, each message has ended once, and what was not processed is back."""

    async def main(moment: int, turns: int) -> None:
        transport = Scripted(*BODIES)
        processed: list[bytes] = []

        async def handle(message: Message) -> None:
            await asyncio.sleep(0.02)
            processed.append(message.body)

        running = asyncio.ensure_future(consumer_of(transport, room=4).run(handle, concurrency=2))
        await hundredths(moment, turns)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert transport.out == {}
        assert transport.most_out <= 4
        assert transport.closed == transport.opened
        done = {each for each, how in transport.ends if how == "acknowledged"}
        back = {each.id for each in transport.ready}
        assert done | back == {str(number) for number in range(10)}
        assert not done & back
        # What was processed, and could not be acknowledged any more, is done a second time: at least once.
        assert done <= {body.decode() for body in processed}

    for moment in range(1, 20):
        for turns in range(6):
            run_virtual(main(moment, turns))


def test_a_stop_at_any_moment_does_nothing_twice() -> None:
    """Whenever a consumer is stopped, what was begun is finished and acknowledged, and the rest is back."""

    async def main(moment: int, turns: int) -> None:
        transport = Scripted(*BODIES)
        processed: list[str] = []
        consumer = consumer_of(transport, room=4)

        async def handle(message: Message) -> None:
            await asyncio.sleep(0.02)
            processed.append(message.id)

        running = asyncio.ensure_future(consumer.run(handle, concurrency=2))
        await hundredths(moment, turns)
        consumer.stop()
        await running
        done = {each for each, how in transport.ends if how == "acknowledged"}
        assert sorted(done) == sorted(processed)
        assert done | {each.id for each in transport.ready} == {str(number) for number in range(10)}
        assert transport.out == {}

    for moment in range(20):
        for turns in range(4):
            run_virtual(main(moment, turns))


def test_no_more_is_asked_for_than_is_free() -> None:
    """A pull asks for what is free, and after a pause not before the low mark."""

    async def main() -> None:
        transport = Scripted(*BODIES * 3)
        consumer = consumer_of(transport, room=8, resume_at=3)
        held: list[int] = []

        async def handle(message: Message) -> None:
            held.append(consumer.held)
            await asyncio.sleep(1)

        running = asyncio.ensure_future(consumer.run(handle, concurrency=2))
        await asyncio.sleep(30)
        consumer.stop()
        await running
        assert max(held) == 8
        assert transport.most_out == 8
        assert transport.asked[0] == 8
        assert set(transport.asked[1:4]) <= {5, 6, 7, 8}
        assert transport.paused == 1  # before the end alone: short pauses are not told

    run_virtual(main())


def test_a_long_pause_is_told_to_the_source() -> None:
    """A pause by hand reaches the broker, and so does its end, with what is still held."""

    async def main() -> None:
        transport = Scripted(*BODIES[:3])
        consumer = consumer_of(transport)
        gate = asyncio.Event()

        async def handle(message: Message) -> None:
            await gate.wait()

        running = asyncio.ensure_future(consumer.run(handle))
        await asyncio.sleep(1)
        consumer.pause()
        await asyncio.sleep(1)
        assert transport.paused == 1
        asked = len(transport.asked)
        await asyncio.sleep(60)
        assert len(transport.asked) == asked
        consumer.resume()
        await asyncio.sleep(1)
        assert transport.resumed == [3]
        gate.set()
        consumer.stop()
        await running

    run_virtual(main())


def test_delays_double_with_jitter() -> None:
    """A message that fails again and again waits longer each time, and is buried with the reason in the end."""

    async def main() -> None:
        transport = Scripted(b"poison")
        consumer = consumer_of(transport, attempts=4, delay=2, delay_max=6)

        async def handle(message: Message) -> None:
            raise ValueError("no")

        running = asyncio.ensure_future(consumer.run(handle))
        await asyncio.sleep(5)
        consumer.stop()
        await running
        assert transport.ends["0", "buried: ValueError: no"] == 1
        assert transport.ends["0", "again"] == 3
        for delay, longest in zip(transport.delays, (2, 4, 6), strict=True):
            assert longest / 2 <= delay <= longest

    run_virtual(main())


def test_work_that_takes_long_is_told() -> None:
    """While messages are held, in work or waiting, the broker hears of them in time."""

    async def main() -> None:
        transport = Scripted(b"long", b"waits")
        consumer = consumer_of(transport)

        async def handle(message: Message) -> None:
            await asyncio.sleep(12)

        running = asyncio.ensure_future(consumer.run(handle, concurrency=1))
        await asyncio.sleep(11)
        assert transport.extended == ["0", "1"] * 2
        consumer.stop()
        await running

    run_virtual(main())


def test_a_stop_waits_no_longer_than_its_grace() -> None:
    """A handler that does not end is cancelled after the grace, and its message goes back."""

    async def main() -> None:
        transport = Scripted(b"hangs")
        consumer = consumer_of(transport, grace="7s")

        async def handle(message: Message) -> None:
            await asyncio.Event().wait()

        running = asyncio.ensure_future(consumer.run(handle))
        await asyncio.sleep(1)
        consumer.stop()
        await running
        assert asyncio.get_running_loop().time() == pytest.approx(8, abs=0.6)
        assert transport.ends == {("0", "given back"): 1}

    run_virtual(main())


def test_a_lost_connection_is_made_anew() -> None:
    """While the broker can't be reached it is tried again, with growing pauses; then things go on."""

    async def main() -> None:
        transport = Scripted(*BODIES)
        transport.failing = [LostError("gone")] * 3
        consumer = consumer_of(transport)
        seen: list[bytes] = []

        async def handle(message: Message) -> None:
            seen.append(message.body)
            if len(seen) == len(BODIES):
                consumer.stop()

        await consumer.run(handle)
        assert transport.opened == 4
        assert sorted(seen) == BODIES

    run_virtual(main())


def test_an_end_that_can_not_be_told() -> None:
    """A message whose acknowledgement is lost with the connection holds nothing up; the broker will miss it."""

    async def main() -> None:
        transport = Scripted(*BODIES)
        lost: list[str] = []
        acknowledge = transport.acknowledge

        async def fails(message: Pulled) -> None:
            if message.id == "3":
                lost.append(message.id)
                raise LostError("gone")
            await acknowledge(message)

        transport.acknowledge = fails  # type: ignore[method-assign]
        consumer = consumer_of(transport, room=2)
        seen: list[bytes] = []

        async def handle(message: Message) -> None:
            seen.append(message.body)
            if len(seen) == len(BODIES):
                consumer.stop()

        await consumer.run(handle, concurrency=1)
        assert lost == ["3"]
        assert set(transport.out) == {"3"}
        assert consumer.held == 0

    run_virtual(main())


@pytest.mark.parametrize("verb", ["pull", "acknowledge"])
def test_what_is_no_lost_connection_is_raised(verb: str) -> None:
    """A queue that does not exist, or a wrong argument, ends the run with that error, and gives back what is held."""

    async def main() -> None:
        transport = Scripted(*BODIES)

        async def fails(*_: object) -> Any:
            if verb == "acknowledge" or transport.out:
                raise TypeError("wrong")
            return await Scripted.pull(transport, 3)

        setattr(transport, verb, fails)

        async def handle(message: Message) -> None:
            await asyncio.sleep(0.1)

        with pytest.raises(TypeError, match="wrong"):
            await consumer_of(transport).run(handle)
        assert transport.closed == 1

    run_virtual(main())


def test_a_handler_that_is_cancelled_from_within_has_failed() -> None:
    """A handler that waits for something which somebody cancels has failed; the consumer goes on."""

    async def main() -> None:
        transport = Scripted(*BODIES)
        consumer = consumer_of(transport)
        seen: list[bytes] = []

        async def handle(message: Message) -> None:
            if message.id == "3" and message.attempt == 1:
                gone = asyncio.get_running_loop().create_future()
                gone.cancel()
                await gone
            seen.append(message.body)
            if len(seen) == len(BODIES):
                consumer.stop()

        await consumer.run(handle, concurrency=2)
        assert sorted(seen) == BODIES
        assert transport.ends["3", "again"] == 1

    run_virtual(main())


@pytest.mark.parametrize("how", ["open", "extend", "cancelled"])
def test_an_error_behind_the_scenes_ends_the_run(how: str) -> None:
    """What goes wrong while nobody asks for a message is raised by the run, and does not leave it waiting."""

    async def main() -> None:
        transport = Scripted(*BODIES)
        open_ = transport.open

        async def opens(room: int) -> None:
            await open_(room)
            if transport.opened > 1:
                raise KeyError("no such queue")

        async def fails(_: object) -> Any:
            raise asyncio.CancelledError if how == "cancelled" else KeyError("no such queue")

        match how:
            case "open":
                transport.failing = [LostError("gone")]
                transport.open = opens  # type: ignore[method-assign]
            case "extend":
                transport.extend = fails  # type: ignore[method-assign]
            case _:
                transport.pull = fails  # type: ignore[method-assign]

        async def handle(message: Message) -> None:
            await asyncio.sleep(60)

        with pytest.raises((KeyError, HormesisError), match=r"no such queue|cancelled from within"):
            async with asyncio.timeout(50):
                await consumer_of(transport).run(handle)
        assert transport.out == {}
        assert transport.closed == 1

    run_virtual(main())


@pytest.mark.parametrize("verb", ["pull", "give_back", "close"])
def test_a_broker_that_hangs_does_not_hold_up_a_stop(verb: str) -> None:
    """A broker that answers nothing any more, without a lost connection, has some seconds for the end."""

    async def main() -> None:
        transport = Scripted(*BODIES)

        async def hangs(*_: object) -> Any:
            await asyncio.sleep(1e6)

        consumer = consumer_of(transport)

        async def handle(message: Message) -> None:
            setattr(transport, verb, hangs)
            consumer.stop()

        async with asyncio.timeout(13):
            await consumer.run(handle)

    run_virtual(main())


def test_a_loop_that_ends_early() -> None:
    """Who leaves a loop gives back the message in hand; who raises in it has it tried again."""

    async def main() -> None:
        transport = Scripted(*BODIES[:4])
        async with consumer_of(transport, room=4) as consumer:
            async for message in consumer:
                if message.id == "1":
                    break
        assert transport.ends["0", "acknowledged"] == 1
        assert [each.id for each in transport.ready] == ["1", "2", "3"]

        async def fails() -> None:
            async with consumer_of(transport, room=4) as consumer:
                async for _ in consumer:
                    raise KeyError

        with pytest.raises(KeyError):
            await fails()
        assert transport.ends["1", "again"] == 1

    run_virtual(main())


def test_events_tell_of_pauses() -> None:
    """A consumer that is full says so, with the messages and bytes that it holds, and says when it goes on."""

    async def main() -> None:
        bus, events = EventBus(), []
        bus.listen(events.append)
        transport = Scripted(*BODIES)
        consumer = Consumer(transport, room=4, events=bus)

        async def handle(message: Message) -> None:
            await asyncio.sleep(1)

        running = asyncio.ensure_future(consumer.run(handle, concurrency=1))
        await asyncio.sleep(4)
        consumer.stop()
        await running
        first, second = (event.as_dict() for event in events[:2])
        assert (first["event"], first["policy"], first["part"]) == ("flow_paused", "scripted", "broker")
        assert (first["items"], first["size"]) == (4, 4)
        assert second["event"] == "flow_resumed"
        assert second["seconds"] == pytest.approx(2, abs=0.1)

    run_virtual(main())


@pytest.mark.parametrize(
    "settings",
    [{"room": 0}, {"room": 70_000}, {"resume_at": 32}, {"attempts": 0}, {"delay": -1}, {"delay_max": 0}, {"grace": 0}],
    ids=str,
)
def test_settings_can_be_meant(settings: dict[str, Any]) -> None:
    """A setting that can't be meant is refused with its value and what would do."""
    (key,) = settings
    with pytest.raises(ConfigurationError, match=f"{key} is "):
        Consumer(Scripted(), **settings)


def test_no_more_handlers_than_room() -> None:
    """Handlers that could never have a message are refused."""

    async def handle(message: Message) -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError, match="concurrency is 5"):
        run_virtual(Consumer(Scripted(), room=4).run(handle, concurrency=5))

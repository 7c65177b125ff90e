"""Leaving: the steps, and what becomes of the signals of a server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from hormesis import ConfigurationError
from hormesis.clock import MONOTONIC
from hormesis.inbound.drain import Drain, Leaving, watch_signals
from hormesis.testing import ManualClock


def test_the_steps() -> None:
    """Readiness turns first; then new requests are refused; then what is in flight is cut off."""
    clock = ManualClock()
    leaving = Leaving(Drain(grace="5s", limit="30s"), clock)
    assert (leaving.phase, leaving.ready, leaving.refuses) == ("serving", True, False)
    leaving.begin()
    assert (leaving.phase, leaving.ready, leaving.refuses) == ("leaving", False, False)
    clock.advance(5)
    assert (leaving.phase, leaving.ready, leaving.refuses) == ("refusing", False, True)
    clock.advance(30)
    assert (leaving.phase, leaving.refuses) == ("over", True)
    leaving.stay()
    assert (leaving.phase, leaving.ready) == ("serving", True)


def test_beginning_again_can_only_shorten_it() -> None:
    """A second signal is somebody in a hurry, and never a reason to take longer."""
    clock = ManualClock()
    leaving = Leaving(Drain(grace="5s"), clock)
    leaving.begin()
    clock.advance(4)
    leaving.begin()
    clock.advance(1)
    assert leaving.refuses
    leaving = Leaving(Drain(grace="5s"), clock)
    leaving.begin()
    leaving.begin(grace=0.0)
    assert leaving.refuses


def test_without_settings_it_leaves_at_once() -> None:
    """A service without a `Drain` that is told to leave refuses from then on, and cuts nothing off."""
    clock = ManualClock()
    leaving = Leaving(None, clock)
    leaving.begin()
    clock.advance("1d")
    assert leaving.phase == "refusing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ready": "readyz"}, "ready is 'readyz'; it takes a path"),
        ({"grace": -1}, "grace is -1"),
        ({"limit": "soon"}, "limit is 'soon'"),
        ({"signals": ("SIGKILL",)}, "signals is 'SIGKILL'; it takes a list of names of signals that can be caught"),
        ({"signals": ("TERM",)}, "signals is 'TERM'"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=message):
        Drain(**settings)


def test_in_words() -> None:
    """What `explain()` says of it."""
    assert Drain(ready=None, signals=()).describe() == (
        "when it is told to it is not ready any more, serves on for 5s, then refuses, and ends what is in flight "
        "within 30s"
    )


Heard = list[int]


@pytest.fixture
def server() -> Iterator[Heard]:
    """Stand in for a server that handles SIGUSR1, and put back what was there before."""
    heard: Heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGUSR1, before)


def send() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_the_server_hears_the_signal_when_the_grace_is_over(
    server: Heard, until: Callable[[Callable[[], object]], None]
) -> None:
    """Readiness turns at once, and the server's own handler is put off, not swallowed."""
    leaving = Leaving(Drain(grace="150ms", signals=("SIGUSR1",)), MONOTONIC)
    stop = watch_signals(leaving, lambda: 0)
    assert stop is not None
    send()
    assert (leaving.phase, server) == ("leaving", [])
    until(lambda: server)
    assert (leaving.phase, server) == ("refusing", [signal.SIGUSR1])
    stop()


def test_a_second_signal_is_passed_on_at_once(server: Heard) -> None:
    """Somebody in a hurry does not wait for the grace."""
    leaving = Leaving(Drain(grace="10s", signals=("SIGUSR1",)), MONOTONIC)
    stop = watch_signals(leaving, lambda: 0)
    assert stop is not None
    send()
    assert server == []
    send()
    assert (leaving.phase, server) == ("refusing", [signal.SIGUSR1])
    stop()


def test_without_a_grace_it_is_passed_on_at_once(server: Heard) -> None:
    """The server stops, and new requests on old connections are refused."""
    leaving = Leaving(Drain(grace=0, signals=("SIGUSR1",)), MONOTONIC)
    stop = watch_signals(leaving, lambda: 0)
    assert stop is not None
    send()
    assert (leaving.phase, server) == ("refusing", [signal.SIGUSR1])
    stop()


def test_the_places_are_given_back(server: Heard) -> None:
    """Who stops watching leaves the server's handler as it was, unless somebody has put in another since."""
    before = signal.getsignal(signal.SIGUSR1)
    leaving = Leaving(Drain(signals=("SIGUSR1",)), MONOTONIC)
    stop = watch_signals(leaving, lambda: 0)
    assert stop is not None
    assert signal.getsignal(signal.SIGUSR1) != before
    stop()
    assert signal.getsignal(signal.SIGUSR1) == before

    stop = watch_signals(leaving, lambda: 0)
    assert stop is not None

    def another(number: int, frame: FrameType | None) -> None: ...

    signal.signal(signal.SIGUSR1, another)
    stop()
    assert signal.getsignal(signal.SIGUSR1) == another


def test_what_nobody_wants_to_hear_stays_unheard(server: Heard) -> None:
    """A signal that is ignored goes on being ignored."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert watch_signals(Leaving(Drain(signals=("SIGUSR1",)), MONOTONIC), lambda: 0) is not None
    send()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def test_nothing_is_done_where_nothing_can_be_done(server: Heard) -> None:
    """Without settings or signals, or away from the main thread, there is nothing to stop either."""
    before = signal.getsignal(signal.SIGUSR1)
    assert watch_signals(Leaving(None, MONOTONIC), lambda: 0) is None
    assert watch_signals(Leaving(Drain(signals=()), MONOTONIC), lambda: 0) is None
    found: list[object] = []
    leaving = Leaving(Drain(signals=("SIGUSR1",)), MONOTONIC)
    thread = threading.Thread(target=lambda: found.append(watch_signals(leaving, lambda: 0)))
    thread.start()
    thread.join()
    assert found == [None]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_server_that_listens_by_its_loop_is_put_off_as_well(server: Heard) -> None:
    """Some servers are told of signals by their event loop (hypercorn); they hear when the grace is over."""

    async def main() -> list[str]:
        heard: list[str] = []
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        leaving = Leaving(Drain(grace="100ms", signals=("SIGUSR1",)), MONOTONIC)

        def hear() -> None:
            heard.append(leaving.phase)
            over.set()

        loop.add_signal_handler(signal.SIGUSR1, hear)
        stop = watch_signals(leaving, lambda: 0)
        assert stop is not None
        send()
        await asyncio.sleep(0.01)
        assert (leaving.phase, heard) == ("leaving", [])
        async with asyncio.timeout(20):
            await over.wait()
        stop()
        loop.remove_signal_handler(signal.SIGUSR1)
        return heard

    assert asyncio.run(main()) == ["refusing"]

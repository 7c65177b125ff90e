"""The scenarios on virtual time: one service, its processor, and the machines of `hormesis.core` as they are.

A seeded discrete-event simulation. A request waits for its I/O, lognormal, and then needs a first-come-first-served
processor with so many servers for an exponential time. Work that has been admitted is done, also when its answer will
be late: nobody hangs up. Every ten milliseconds a probe of no work goes through the processor's queue, as a callback
goes through an event loop, and what it waited is the queueing delay that the limits are told.

It answers in seconds what real processes take half an hour for, and it is exact where they are noisy, so it is what
settings are chosen with. `run.py` is the proof.

    python benchmarks/load/simulate.py [--only S1,S2] [--arms fixed,queue_delay] [--seeds 3] [--trace]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import heapq
import itertools
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from measures import jain, max_min_shares, percentile, settled_after

from hormesis.core import limits
from hormesis.core.admission import NullLock
from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.shedder import ShedPermit, ShedWaiter
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.priority import Criticality, cohort_of

_PROBE = 0.010
"""Seconds between two probes of the processor's queue."""
_BETWEEN = 0.010
"""Seconds that a journey's own work takes between two of its calls, on average. Without it the next call would take the
very place that the one before leaves, and journeys would end together by themselves."""

Said: TypeAlias = Literal["admitted", "queued", "refused"]


class World:
    """Time, and what is to happen in it."""

    __slots__ = ("_due", "_order", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, delay: float, what: Callable[[], None]) -> None:
        """Have something happen after so many seconds; what is due at the same time happens in the order of calls."""
        heapq.heappush(self._due, (self.now + delay, next(self._order), what))

    def run(self, until: float) -> None:
        """Let time pass."""
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, what = heapq.heappop(due)
            what()
        self.now = until


class Processor:
    """Serves what is submitted to it first come, first served, `servers` at a time."""

    __slots__ = ("_free", "_queue", "_world", "busy")

    def __init__(self, world: World, servers: int) -> None:
        self._world = world
        self._free = servers
        self._queue: deque[tuple[float, Callable[[], float], Callable[[float], None]]] = deque()
        self.busy = 0.0
        """Seconds of work that it has begun."""

    def submit(self, work: Callable[[], float], done: Callable[[float], None]) -> None:
        """Do some work: `work()` says for how many seconds when its turn comes; `done` is told how long it waited."""
        entered = self._world.now
        if self._free:
            self._free -= 1
            self._begin(entered, work, done)
        else:
            self._queue.append((entered, work, done))

    def _begin(self, entered: float, work: Callable[[], float], done: Callable[[float], None]) -> None:
        seconds = work()
        self.busy += seconds
        self._world.later(seconds, functools.partial(self._end, self._world.now - entered, done))

    def _end(self, waited: float, done: Callable[[float], None]) -> None:
        done(waited)
        if self._queue:
            self._begin(*self._queue.popleft())
        else:
            self._free += 1


class EventLoop(Processor):
    """A processor with one server that works in rounds, as event loops do.

    What happens during a round is looked at when it is over: requests that came, then timers that are due. What these
    make ready to run runs in the next round. So everything that takes two steps waits for two rounds.
    """

    __slots__ = ("_arrived", "_rang", "_ready", "_running")

    def __init__(self, world: World, servers: int) -> None:
        super().__init__(world, servers)
        self._ready: list[_Step] = []
        self._arrived: list[_Step] = []
        self._rang: list[_Step] = []
        self._running = False

    def submit(self, work: Callable[[], float], done: Callable[[float], None]) -> None:
        """Have something run in the next round."""
        self._ready.append((self._world.now, work, done))
        self._wake()

    def arrive(self, work: Callable[[], float], done: Callable[[float], None]) -> None:
        """Something came over the network."""
        self._arrived.append((self._world.now, work, done))
        self._wake()

    def ring(self, done: Callable[[float], None]) -> None:
        """A timer is due."""
        self._rang.append((self._world.now, lambda: 0.0, done))
        self._wake()

    def _wake(self) -> None:
        if not self._running:
            self._running = True
            self._world.later(0.0, self._round)

    def _round(self) -> None:
        steps = self._ready + self._arrived + self._rang
        self._ready, self._arrived, self._rang = [], [], []
        self._running = bool(steps)
        if steps:
            self._step(steps, 0)

    def _step(self, steps: list[_Step], number: int) -> None:
        if number == len(steps):
            self._world.later(0.0, self._round)
            return
        at, work, done = steps[number]
        seconds = work()
        self.busy += seconds
        waited = self._world.now - at

        def end() -> None:
            done(waited)
            self._step(steps, number + 1)

        if seconds:
            self._world.later(seconds, end)
        else:
            end()


_Step: TypeAlias = tuple[float, Callable[[], float], Callable[[float], None]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a request costs, and what it is to achieve.

    Args:
        io: Seconds that it waits for other services on average, lognormal.
        io_cv: The standard deviation of that over its mean.
        work: Seconds of processor time that it needs on average, exponential.
        servers: Processors.
        slowing: What each request in flight above twenty adds to every request's work, as a share of it.
        slo: Seconds within which an answer is good.
        loop: Whether it is an event loop. Then a request waits for two rounds until it is looked at (its bytes are
            read, its task begins), and for two when its I/O is done (the timer rings, the task goes on).
        around: Seconds of processor time that an event loop needs to read a request, also one that is turned away.
    """

    io: float = 0.090
    io_cv: float = 0.3
    work: float = 0.010
    servers: int = 2
    slowing: float = 0.0
    slo: float = 0.250
    loop: bool = False
    around: float = 0.0

    @property
    def capacity(self) -> float:
        """Requests a second that it can do at most."""
        return self.servers / (self.work + self.around)


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """One request, and what became of it."""

    at: float
    request_id: str
    criticality: Criticality = Criticality.DEFAULT
    tenant: str = ""
    ended: Callable[[Request], None] | None = None
    """Called with it when it is over, answered or not."""
    refused: bool = False
    admitted_at: float = math.nan
    answered_at: float = math.nan
    permit: Any = None

    @property
    def cohort(self) -> float:
        """Its journey's place among others of its class."""
        return cohort_of(self.request_id)

    @property
    def latency(self) -> float:
        """Seconds from its arrival to its answer; NaN without one."""
        return self.answered_at - self.at


class Admission(Protocol):
    """Decides about requests; whoever queues them calls `server.start` or `server.refuse` later."""

    @property
    def limit(self) -> float:
        """How many it lets in at a time."""
        ...

    def arrive(self, request: Request) -> Said:
        """Say what becomes of a request."""
        ...

    def done(self, request: Request) -> None:
        """A request that was admitted is over."""
        ...

    def delayed(self, seconds: float) -> None:
        """A probe waited that long for the processor."""
        ...


class Server:
    """A service behind an admission."""

    __slots__ = (
        "_io",
        "_loop",
        "_mu",
        "_random",
        "_sigma",
        "_work",
        "admission",
        "in_flight",
        "processor",
        "service",
        "world",
    )

    def __init__(self, world: World, service: Service, seed: object) -> None:
        self.world = world
        self.service = service
        self._loop = EventLoop(world, 1) if service.loop else None
        self.processor: Processor = self._loop or Processor(world, service.servers)
        self.admission: Admission = Unlimited()
        self.in_flight = 0
        self._random = random.Random(f"{seed}/service")
        self._sigma = math.sqrt(math.log(1 + service.io_cv**2))
        self._mu = -(self._sigma**2) / 2
        self._io = service.io
        self._work = service.work
        world.later(_PROBE, self._probe)

    def change(self, *, work: float = 1.0, io: float = 0.0) -> None:
        """From now on, requests need `work` times the processor time, and wait `io` seconds more."""
        self._work = self.service.work * work
        self._io = self.service.io + io

    def arrive(self, request: Request) -> None:
        """Take a request in, queue it, or turn it away."""
        loop = self._loop
        if loop is None:
            self._decide(request)
        else:
            task = functools.partial(loop.submit, lambda: self.service.around / 2, lambda _: self._decide(request))
            loop.arrive(lambda: self.service.around / 2, lambda _: task())

    def _decide(self, request: Request) -> None:
        said = self.admission.arrive(request)
        if said == "admitted":
            self.start(request)
        elif said == "refused":
            self.refuse(request)

    def resume(self, request: Request) -> None:
        """Begin with a request that has waited; in an event loop its task runs in the next round."""
        if self._loop is None:
            self.start(request)
        else:
            self._loop.submit(lambda: 0.0, lambda _: self.start(request))

    def start(self, request: Request) -> None:
        """Begin with a request that was admitted."""
        request.admitted_at = self.world.now
        self.in_flight += 1
        # What is added to the mean shifts the whole distribution: the dependency takes longer by so much.
        waits = self.service.io * self._random.lognormvariate(self._mu, self._sigma) + self._io - self.service.io
        burns = functools.partial(self.processor.submit, self._needs, functools.partial(self._end, request))
        self._ring_after(waits, burns)

    def _ring_after(self, seconds: float, then: Callable[[], None]) -> None:
        """Have something happen after a while; in an event loop that is seen at the end of a round."""
        loop = self._loop
        self.world.later(seconds, then if loop is None else functools.partial(loop.ring, lambda _: then()))

    def _needs(self) -> float:
        slowed = 1 + self.service.slowing * max(0, self.in_flight - 20)
        return self._random.expovariate(1.0) * self._work * slowed

    def _end(self, request: Request, waited: float) -> None:
        request.answered_at = self.world.now
        self.in_flight -= 1
        self.admission.done(request)
        if request.ended is not None:
            request.ended(request)

    def refuse(self, request: Request) -> None:
        """Turn a request away."""
        request.refused = True
        if request.ended is not None:
            request.ended(request)

    def _probe(self) -> None:
        if self._loop is None:
            self.processor.submit(lambda: 0.0, self._probed)
        else:
            self._loop.ring(self._probed)

    def _probed(self, waited: float) -> None:
        # A sample stands for all the time since the last one, as that of `hormesis.inbound.signals` does.
        for _ in range(min(100, 1 + round(waited / _PROBE))):
            self.admission.delayed(waited)
        self.world.later(_PROBE, self._probe)


class Unlimited:
    """Lets everybody in."""

    limit = math.inf

    def arrive(self, request: Request) -> Said:
        """Say what becomes of a request."""
        return "admitted"

    def done(self, request: Request) -> None:
        """A request that was admitted is over."""

    def delayed(self, seconds: float) -> None:
        """A probe waited that long for the processor."""


class Limited:
    """Lets in what an algorithm's limit allows, and turns the rest away at once."""

    def __init__(
        self,
        server: Server,
        algorithm: limits.Algorithm,
        *,
        window: float = 0.1,
        calls: int = 10,
        timeout: float = math.inf,
    ) -> None:
        self._world = server.world
        self._algorithm = algorithm
        self._timeout = timeout
        self._windowing = limits.Windowing(seconds=window, calls=calls, now=server.world.now, lock=NullLock())
        self._in_flight = 0

    @property
    def limit(self) -> float:
        """How many it lets in at a time."""
        return self._algorithm.limit

    def arrive(self, request: Request) -> Said:
        """Say what becomes of a request."""
        if self._in_flight < math.floor(self._algorithm.limit):
            self._in_flight += 1
            return "admitted"
        self._windowing.limited(self._in_flight)
        return "refused"

    def done(self, request: Request) -> None:
        """A request that was admitted is over."""
        latency = self._world.now - request.admitted_at
        if latency > self._timeout:
            self._windowing.dropped(self._in_flight)
        else:
            self._windowing.ended(latency, self._in_flight)
        self._in_flight -= 1
        self._update()

    def delayed(self, seconds: float) -> None:
        """A probe waited that long for the processor."""
        self._windowing.delayed(seconds)
        self._update()

    def _update(self) -> None:
        window = self._windowing.take(self._world.now)
        if window is not None:
            self._algorithm.update(window)


class Shed:
    """Our load shedder: its machine, and what its shell does in a service."""

    def __init__(self, server: Server, settings: LoadShedder) -> None:
        self._server = server
        self._world = server.world
        self._slo = server.service.slo
        self.machine = settings.machine(now=server.world.now)

    @property
    def limit(self) -> float:
        """How many it lets in at a time."""
        return self.machine.limit

    def arrive(self, request: Request) -> Said:
        """Say what becomes of a request."""
        now = self._world.now
        said = self.machine.admit(request.criticality, request.cohort, request.tenant, now)
        if isinstance(said, ShedPermit):
            request.permit = said
            return "admitted"
        if not said.waitable:
            return "refused"
        waiter = ShedWaiter(
            request.criticality,
            request.cohort,
            request.tenant,
            lambda: self._woken(request, waiter),
            now=now,
            patience=self.machine.max_wait,
        )
        if self.machine.enqueue(waiter, now) is not None:
            return "refused"
        self._world.later(self.machine.max_wait, functools.partial(self._waited, request, waiter))
        return "queued"

    def _woken(self, request: Request, waiter: ShedWaiter) -> None:
        request.permit = waiter.permit
        if waiter.permit is None:
            self._server.refuse(request)
        else:
            self._server.resume(request)

    def _waited(self, request: Request, waiter: ShedWaiter) -> None:
        if waiter.place is not None:
            self.machine.leave(waiter, self._world.now)
            self._server.refuse(request)

    def done(self, request: Request) -> None:
        """A request that was admitted is over."""
        self.machine.end(request.permit, self._world.now, good=request.latency <= self._slo)

    def delayed(self, seconds: float) -> None:
        """A probe waited that long for the processor."""
        self.machine.observe(seconds)
        if self._world.now >= self.machine.due:
            self.machine.tick(self._world.now)


Arm: TypeAlias = Callable[[Server], Admission]
"""Makes what protects a server."""


def fixed(limit: int) -> Arm:
    """A limit that stays as it is."""
    return lambda server: Limited(server, limits.Fixed(limit))


def shedder(**settings: Any) -> Arm:
    """Our load shedder: with its default settings, but for the objective; or with others."""
    return lambda server: Shed(server, LoadShedder(objective=server.service.slo, **settings))


def alone(algorithm: Callable[[], limits.Algorithm], window: float) -> Arm:
    """A limit that an algorithm moves, without a queue."""
    return lambda server: Limited(server, algorithm(), window=window, timeout=server.service.slo)


_BOUNDS = {"start": 20, "least": 4, "most": 10_000}


FIXED = (16, 20, 24, 28, 32, 38, 46)
"""Limits among which the best is found for each scenario; ours knows none of them."""

ARMS: dict[str, Arm] = {
    "none": lambda _: Unlimited(),
    "hormesis": shedder(),
    "vegas": shedder(limit="vegas"),
    "gradient2": shedder(limit="gradient2"),
    "aimd": shedder(limit="aimd"),
    "queue-delay alone": alone(lambda: limits.QueueDelay(**_BOUNDS, target=0.040), 0.1),
    "vegas alone": alone(lambda: Vegas(**_BOUNDS), 1.0),
    "gradient2 alone": alone(lambda: Gradient2(**_BOUNDS), 1.0),
    "aimd alone": alone(lambda: AIMD(**_BOUNDS), 0.1),
}
"""What protects a service, by name; fixed limits are `fixed-N`. Alone are limits without our queue, as published."""


def arm_of(name: str) -> Arm:
    """Return the arm of a name."""
    return fixed(int(name.removeprefix("fixed-"))) if name.startswith("fixed-") else ARMS[name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Independent clients of one kind.

    Args:
        segments: Pairs of seconds, and the rate as a multiple of the service's capacity.
        criticality, tenant: Of its requests.
        calls: How many calls one of its journeys makes, one after the other, each to be answered within the objective.
            The next is made whatever became of the one before, so what the service is offered does not depend on it.
    """

    segments: Sequence[tuple[float, float]]
    criticality: Criticality = Criticality.DEFAULT
    tenant: str = ""
    calls: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to a service.

    Args:
        streams: Who asks.
        step: When the load, or the service, changes for good.
        end: When it is over.
        measured: Seconds at its end that goodput is measured over.
        work, io: What changes at the step: processor time by a factor, I/O by seconds.
        offered: What may be had in the measured time, as a multiple of the capacity at the beginning.
    """

    streams: Sequence[Stream]
    step: float
    end: float
    measured: float = 100.0
    work: float = 1.0
    io: float = 0.0
    offered: float = 1.0
    service: Service = Service()


def _one(*segments: tuple[float, float], **settings: Any) -> Sequence[Stream]:
    return [Stream(segments=segments, **settings)]


def _tenants() -> Sequence[Stream]:
    """One offers ten times what each of the five others does, together three times what the service can do."""
    return [
        Stream(segments=[(60.0, 0.1), (240.0, 2.0 if number == 0 else 0.2)], tenant=f"t{number}") for number in range(6)
    ]


SCENARIOS: dict[str, Scenario] = {
    "S1 1.2x": Scenario(streams=_one((60, 0.5), (240, 1.2)), step=60, end=300),
    "S1 2x": Scenario(streams=_one((60, 0.5), (240, 2.0)), step=60, end=300),
    "S1 3x": Scenario(streams=_one((60, 0.5), (240, 3.0)), step=60, end=300),
    "S1 10x": Scenario(streams=_one((60, 0.5), (140, 10.0)), step=60, end=200),
    "S1u": Scenario(streams=_one((60, 0.5), (240, 2.0)), step=60, end=300, service=Service(slowing=0.01)),
    "S2": Scenario(streams=_one((60, 0.5), (540, 2.0)), step=300, end=600, work=2.0, offered=0.5),
    "S3": Scenario(streams=_one((60, 0.5), (540, 2.0)), step=300, end=600, io=0.090, service=Service(slo=0.350)),
    "B up": Scenario(streams=_one((60, 0.5), (100, 1.4)), step=60, end=160, measured=50),
    "B back": Scenario(streams=_one((60, 0.5), (60, 1.4), (100, 0.5)), step=120, end=220, measured=50, offered=0.5),
    "F 1": Scenario(streams=_one((60, 0.5), (240, 2.0), calls=1), step=60, end=300),
    "F 2": Scenario(streams=_one((60, 0.25), (240, 1.0), calls=2), step=60, end=300, offered=1 / 2),
    "F 3": Scenario(streams=_one((60, 0.5 / 3), (240, 2 / 3), calls=3), step=60, end=300, offered=1 / 3),
    "F 4": Scenario(streams=_one((60, 0.125), (240, 0.5), calls=4), step=60, end=300, offered=1 / 4),
    "P": Scenario(
        streams=[
            Stream(segments=[(300, 0.55)], criticality=Criticality.CRITICAL),
            Stream(
                segments=[(60, 0.1), (60, 0.5), (60, 1.2), (120, 2.45)],
                criticality=Criticality.BACKGROUND,
            ),
        ],
        step=180,
        end=300,
    ),
    "T": Scenario(streams=_tenants(), step=60, end=300),
}
"""F 1 to 4 offer twice what the service can do, in journeys of so many calls; their goodput is of whole journeys."""


@dataclasses.dataclass(slots=True)
class Result:
    """What a run came to, in its measured time.

    Args:
        goodput: Answers within the objective (of journeys: whole ones), over what could have been had.
        answered: Answers, over the capacity at the beginning.
        p50, p99: Of the seconds that answers took.
        settled: Seconds from the step until goodput is what it ends with.
        shed: The share of arrivals that was turned away.
        fairness: Jain's index of what each tenant got over its max-min share.
        limit: The mean of the limit.
        by_class: For each criticality, the share that was answered, and the share that was good.
        trace: For each second: the limit, arrivals, good answers.
    """

    goodput: float
    answered: float
    p50: float
    p99: float
    settled: float
    shed: float
    fairness: float
    limit: float
    by_class: dict[str, tuple[float, float, float]]
    trace: list[tuple[float, float]]


class Run:
    """One scenario under one arm."""

    def __init__(self, scenario: Scenario, arm: Arm, seed: int) -> None:
        self.scenario = scenario
        self.world = World()
        self.server = Server(self.world, scenario.service, seed)
        self.server.admission = arm(self.server)
        self.requests: list[Request] = []
        self.whole: list[float] = []
        """When each journey that succeeded ended."""
        self.trace: list[tuple[float, float]] = []
        self._ids = itertools.count()
        self._draws = random.Random(f"{seed}/journeys")
        for number, stream in enumerate(scenario.streams):
            self._arrivals(stream, random.Random(f"{seed}/{number}"))
        change = functools.partial(self.server.change, work=scenario.work, io=scenario.io)
        self.world.later(scenario.step, change)
        self.world.later(0.0, self._trace)

    def _arrivals(self, stream: Stream, draws: random.Random) -> None:
        """Have each arrival make the next one: Poisson, at the rate of its segment."""
        bounds = list(itertools.accumulate(seconds for seconds, _ in stream.segments))
        rates = [rate * self.scenario.service.capacity for _, rate in stream.segments]

        def next_after(at: float) -> None:
            for end, rate in zip(bounds, rates, strict=True):
                if at < end:
                    at += draws.expovariate(rate)
                    if at < end:
                        self.world.later(at - self.world.now, arrive)
                        return
                    at = end  # memoryless, so it may be drawn anew

        def arrive() -> None:
            self._call(stream, f"r-{next(self._ids)}", stream.calls)
            next_after(self.world.now)

        next_after(0.0)

    def _call(self, stream: Stream, request_id: str, left: int, good: bool = True) -> None:
        def ended(request: Request) -> None:
            so_far = good and request.latency <= self.scenario.service.slo
            if left > 1:
                again = functools.partial(self._call, stream, request_id, left - 1, so_far)
                self.world.later(self._draws.expovariate(1 / _BETWEEN), again)
            elif so_far:
                self.whole.append(self.world.now)

        request = Request(self.world.now, request_id, stream.criticality, stream.tenant, ended)
        self.requests.append(request)
        self.server.arrive(request)

    def _trace(self) -> None:
        self.trace.append((self.world.now, self.server.admission.limit))
        self.world.later(1.0, self._trace)

    def result(self) -> Result:
        """Run it."""
        scenario = self.scenario
        self.world.run(scenario.end)
        begin = scenario.end - scenario.measured
        capacity = scenario.service.capacity
        arrived = [request for request in self.requests if begin <= request.at < scenario.end - 1.0]
        answered = [request for request in self.requests if request.answered_at >= begin]
        latencies = sorted(request.latency for request in answered)
        traced = [limit for at, limit in self.trace if at >= begin]
        return Result(
            goodput=sum(at >= begin for at in self.whole) / scenario.measured / capacity / scenario.offered,
            answered=len(answered) / scenario.measured / capacity,
            p50=percentile(latencies, 0.5),
            p99=percentile(latencies, 0.99),
            settled=settled_after(self.whole, scenario.step, scenario.end, within=20.0),
            shed=sum(request.refused for request in arrived) / len(arrived),
            fairness=self._fairness(arrived, scenario.measured - 1.0),
            limit=statistics.fmean(traced),
            by_class=self._by_class(arrived),
            trace=self.trace,
        )

    def _fairness(self, arrived: list[Request], seconds: float) -> float:
        tenants = sorted({request.tenant for request in arrived})
        slo = self.scenario.service.slo
        got = [sum(each.tenant == tenant and each.latency <= slo for each in arrived) for tenant in tenants]
        demands = [sum(each.tenant == tenant for each in arrived) / seconds for tenant in tenants]
        shares = max_min_shares(demands, self.scenario.service.capacity)
        return jain([good / seconds / share for good, share in zip(got, shares, strict=True)])

    def _by_class(self, arrived: list[Request]) -> dict[str, tuple[float, float, float]]:
        found = {}
        slo = self.scenario.service.slo
        for criticality in sorted({request.criticality for request in arrived}):
            theirs = [request for request in arrived if request.criticality is criticality]
            answered = sum(not request.refused for request in theirs) / len(theirs)
            good = sum(request.latency <= slo for request in theirs)
            capacity = self.scenario.service.capacity * (self.scenario.measured - 1.0)
            found[criticality.word] = (answered, good / len(theirs), good / capacity)
        return found


def simulate(scenario: Scenario, arm: Arm, seed: int = 1) -> Result:
    """Run a scenario under an arm."""
    return Run(scenario, arm, seed).result()


def _mean(results: Sequence[Result], name: str) -> float:
    return statistics.fmean(getattr(result, name) for result in results)


def _told(arm: str, results: Sequence[Result], took: float) -> str:
    mean = functools.partial(_mean, results)
    line = (
        f"  {arm:12} goodput {mean('goodput'):5.3f}  answered {mean('answered'):5.3f}  p50 {mean('p50') * 1e3:6.0f}"
        f"  p99 {mean('p99') * 1e3:7.0f} ms  settled {mean('settled'):5.1f} s  shed {mean('shed'):5.3f}"
        f"  fair {mean('fairness'):5.3f}  limit {mean('limit'):6.1f}  ({took:.1f} s)"
    )
    if len(results[0].by_class) > 1:
        for name in results[0].by_class:
            answered, good, goodput = (
                statistics.fmean(result.by_class[name][place] for result in results) for place in range(3)
            )
            line += f"\n{'':15}{name}: answered {answered:.4f}, good {good:.4f}, which is {goodput:.3f} of the capacity"
    return line


def main() -> None:
    """Simulate what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="scenarios whose names begin so, with commas between")
    parser.add_argument("--arms", help=f"of fixed (the best of {FIXED}), fixed-N, {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--loop", action="store_true", help="an event loop on one core, as server.py is")
    parser.add_argument("--trace", action="store_true", help="print the limit of each fifth second")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else [""]
    arms = arguments.arms.split(",") if arguments.arms else ["none", "fixed", *list(ARMS)[1:]]
    for name, scenario in SCENARIOS.items():
        if not any(name.startswith(each) for each in wanted):
            continue
        if arguments.loop:
            as_real = dataclasses.replace(scenario.service, servers=1, work=0.005, around=0.00013, loop=True)
            scenario = dataclasses.replace(scenario, service=as_real)  # noqa: PLW2901
        print(f"{name}: {scenario.service}")
        for arm in arms:
            started = time.perf_counter()
            candidates = [f"fixed-{limit}" for limit in FIXED] if arm == "fixed" else [arm]
            runs = {
                each: [simulate(scenario, arm_of(each), seed) for seed in range(1, arguments.seeds + 1)]
                for each in candidates
            }
            best = max(runs, key=lambda each: _mean(runs[each], "goodput"))
            print(_told(best, runs[best], time.perf_counter() - started), flush=True)
            if arguments.trace:
                print("    " + " ".join(f"{limit:.0f}" for _, limit in runs[best][0].trace[::5]))


if __name__ == "__main__":
    main()

"""What holds for a protected application in every colour."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hormesis as hm
from hormesis.context import current_call, current_deadline
from hormesis.events import CallEnded, CallRejected, Event, EventBus
from hormesis.inbound import Rule, current, identified
from hormesis.inbound.drain import Drain
from hormesis.inbound.request import current_request
from hormesis.inbound.service import Service
from hormesis.patterns.degradation import Degradation
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit
from hormesis.testing import ManualClock

ONE_AT_A_TIME = LoadShedder(limit=1, limit_min=1, start=1, max_queued=0, shed_max=1)


class Seen(list[Any]):
    """An application that notes what it finds, and answers."""

    def __call__(self) -> list[bytes]:
        self.append(
            {
                "id": hm.request_id(),
                "criticality": hm.criticality(),
                "remaining": hm.remaining(),
                "labels": dict(current_call.get().labels),
                "request": current(),
            }
        )
        return [b"tea"]


def in_flight_here(service: Service) -> tuple[int, int]:
    """How many hold a permit, and how many are in."""
    machine = service.ground.machine
    assert machine is not None
    return machine.in_flight, service.busy()


def in_flight(service: Service) -> int:
    machine = service.ground.machine
    assert machine is not None
    assert machine.in_flight == service.busy()
    return machine.in_flight


def test_a_request_passes(door: Any) -> None:
    """The answer is the application's, with the id of the request."""
    got = door(lambda: [b"t", b"ea"], Service(name="shop"), headers=[("content-type", "text/plain")]).ask(
        headers=[("X-Request-ID", "r-1")]
    )
    assert (got.status, got.body) == (200, b"tea")
    assert got.headers == {"content-type": "text/plain", "x-request-id": "r-1"}


def test_an_application_that_tells_an_id_itself_is_left_alone(door: Any) -> None:
    """No header stands there twice."""
    got = door(lambda: [b"tea"], Service(name="shop"), headers=[("x-request-id", "own")]).ask()
    assert got.headers == {"x-request-id": "own"}


def test_what_is_known_of_a_request_is_known_inside(door: Any) -> None:
    """The id, the criticality, the deadline and the labels travel with every call that is made inside."""
    seen = Seen()
    service = Service(Rule("/checkout/*", criticality="critical", tenant="acme"), name="shop")
    got = door(seen, service).ask(
        "/checkout/7", headers=[("X-Request-ID", "r-1"), ("Grpc-Timeout", "2S"), ("Priority", "u=4")]
    )
    assert got.status == 200
    (found,) = seen
    assert found["id"] == "r-1"
    assert found["criticality"] is hm.Criticality.SHEDDABLE
    assert 1.5 < found["remaining"] <= 2.0
    assert found["labels"] == {"client": "tenant:acme", "tenant": "acme"}
    request = found["request"]
    assert (request.method, request.path, request.address) == ("GET", "/checkout/7", "203.0.113.9")
    assert (request.queued, request.level) == (0.0, None)
    assert request.allows("anything")


def test_nothing_of_it_is_left_outside(door: Any) -> None:
    """Threads and tasks that serve several requests carry nothing from one to the next."""
    door(lambda: iter([b"tea"]), Service(name="shop", deadline="2s")).ask()
    assert current_request.get() is None
    assert current_deadline.get() is None
    assert current_call.get().request_id is None
    with pytest.raises(hm.HormesisError, match="no request is being served here"):
        current()
    identified("somebody")


def test_a_deadline_of_the_service_holds_where_none_came(door: Any) -> None:
    """And without one there is none."""
    seen = Seen()
    door(seen, Service(name="shop", deadline="2s")).ask()
    door(seen, Service(name="shop")).ask()
    assert 1.5 < seen[0]["remaining"] <= 2.0
    assert 1.5 < seen[0]["request"].expires - seen[0]["request"].arrived <= 2.0
    assert seen[1]["remaining"] is None
    assert seen[1]["request"].remaining() is None


def test_an_outer_deadline_that_is_nearer_holds(door: Any) -> None:
    """Nobody further in has more time than its caller."""
    seen = Seen()
    with hm.deadline("1s"):
        door(seen, Service(name="shop", deadline="2s")).ask()
    assert seen[0]["remaining"] <= 1.0


def test_who_is_waited_for_no_more_is_not_served(door: Any) -> None:
    """504 at once, and the application is never touched."""
    seen = Seen()
    got = door(seen, Service(name="shop")).ask(headers=[("hormesis-timeout-ms", "0")])
    assert (got.status, got.problem["detail"], seen) == (504, "too late", [])
    assert got.headers["x-request-id"] == got.problem["request-id"]


def test_a_limit_that_is_used_up(door: Any) -> None:
    """429, when to come back, and how the limit stands; good answers tell that as well."""
    seen = Seen()
    protected = door(seen, Service(RateLimit("2/min", by="client"), name="shop"))
    told = [protected.ask().headers for _ in range(2)]
    assert [headers["ratelimit-policy"] for headers in told] == ['"2/min";q=2;w=60'] * 2
    assert [headers["ratelimit"].split(";")[1] for headers in told] == ["r=1", "r=0"]
    got = protected.ask()
    assert got.status == 429
    assert got.problem["violated-policies"] == ["2/min"]
    assert 1 <= int(got.headers["retry-after"]) <= 38
    assert got.headers["ratelimit"] == f'"2/min";r=0;t={got.headers["retry-after"]}'
    assert len(seen) == 2
    assert protected.ask(peer="198.51.100.1").status == 200


def test_limits_can_be_kept_to_oneself(door: Any) -> None:
    """Then only who is refused hears of them."""
    protected = door(lambda: [b"tea"], Service(RateLimit("1/min"), name="shop", rate_limit_headers=False))
    assert "ratelimit" not in protected.ask().headers
    assert "ratelimit" in protected.ask().headers


def test_several_limits_hold_at_once(door: Any) -> None:
    """Who is refused by one of them spends none of the others."""
    limits = (RateLimit("1/min", by="client"), RateLimit("2/h", by="tenant"))
    service = Service(*limits, Rule(tenant="acme"), name="shop")
    protected = door(lambda: [b"tea"], service)
    assert protected.ask().status == 200
    for _ in range(5):
        got = protected.ask()
        assert (got.status, got.problem["violated-policies"]) == (429, ["1/min"])
    service.reconfigure(RateLimit("2/h", by="tenant"))
    assert [protected.ask().status for _ in range(2)] == [200, 429]


def test_a_cost(door: Any) -> None:
    """What is dear takes more, and what is free takes nothing."""
    rules = (Rule("/export", cost=3), Rule("/healthz", cost=0), Rule("/dump", cost=1000))
    protected = door(lambda: [b"tea"], Service(*rules, RateLimit("4/min"), name="shop"))
    assert [protected.ask(path).status for path in ("/export", "/", "/", "/export", "/healthz")] == [
        200,
        200,
        429,
        429,
        200,
    ]
    got = protected.ask("/dump")
    assert got.status == 429
    assert got.problem["type"].endswith("#abnormal-usage-detected")
    assert "retry-after" not in got.headers


def test_a_principal_that_is_told_later_is_counted_then(door: Any) -> None:
    """What is limited by principal is limited where it becomes known, and answered by 429."""
    served: list[str] = []

    def log_in() -> list[bytes]:
        identified("ada")
        identified("ada")
        served.append(current().principal or "")
        assert current_call.get().labels["principal"] == "ada"
        return [b"tea"]

    protected = door(log_in, Service(RateLimit("1/min", by="principal"), name="shop"))
    assert "r=0" in protected.ask().headers["ratelimit"]
    got = protected.ask()
    assert (got.status, got.problem["detail"]) == (429, "1/min used up")
    assert got.problem["violated-policies"] == ["1/min"]
    assert got.headers["ratelimit-policy"] == '"1/min";q=1;w=60'
    assert got.headers["ratelimit"] == f'"1/min";r=0;t={got.headers["retry-after"]}'
    assert served == ["ada"]


def test_a_principal_that_is_known_before(door: Any) -> None:
    """Where something before us has authenticated, the client is that."""
    seen = Seen()
    service = Service(RateLimit("1/min", by="principal"), name="shop", principal=lambda source: "ada")
    protected = door(seen, service)
    assert [protected.ask().status for _ in range(2)] == [200, 429]
    assert seen[0]["request"].client == "principal:ada"
    assert seen[0]["labels"]["principal"] == "ada"


def test_a_principal_function_that_raises_is_nobody(door: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The author's mistake is logged once, and the client is served."""
    protected = door(lambda: [b"tea"], Service(name="shop", principal=lambda source: source["no such key"]))
    assert [protected.ask().status for _ in range(3)] == [200] * 3
    assert caplog.text.count("such requests count as nobody's") == 1


def test_functions_of_a_rate_limit_that_raise_cost_no_client_its_answer(
    door: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What a client has sent can make them raise: that is logged once each, and the client counts and is served."""
    by_number = RateLimit("2/min", by=lambda request: int(request.path[1:]), name="by number")
    by_size = RateLimit("9/min", cost=lambda request: request.tenant.size, name="by size")
    protected = door(lambda: [b"tea"], Service(by_number, by_size, name="shop"))
    assert [protected.ask(path).status for path in ("/tea", "/milk", "/7", "/sugar")] == [200, 200, 200, 429]
    assert caplog.text.count("such requests share one limit") == 1
    assert caplog.text.count("such requests cost what the rules say") == 1


def test_who_finds_no_room_is_turned_away(door: Any, hold: bytes) -> None:
    """503 while the place is taken, and 200 when it is free again."""
    service = Service(ONE_AT_A_TIME, name="shop")
    protected = door(lambda: iter([b"t", hold, b"ea"]), service)
    pending = protected.begin()
    assert in_flight(service) == 1
    got = protected.ask()
    assert got.status == 503
    assert got.problem["type"].endswith("#temporary-reduced-capacity")
    assert int(got.headers["retry-after"]) >= 1
    assert pending.finish().body == b"tea"
    assert in_flight(service) == 0


def test_what_is_shed_spends_no_quota(door: Any, hold: bytes) -> None:
    """Who was let in by the rate limit and found no room has not used it."""
    service = Service(ONE_AT_A_TIME, RateLimit("2/h"), name="shop")
    protected = door(lambda: iter([b"t", hold, b"ea"]), service)
    pending = protected.begin()
    assert [protected.ask().status for _ in range(5)] == [503] * 5
    pending.finish()
    protected.begin().finish()
    assert protected.ask().status == 429


def test_a_client_that_goes_away_gives_its_place_back(door: Any, hold: bytes) -> None:
    """However far the answer was."""
    service = Service(ONE_AT_A_TIME, name="shop")
    protected = door(lambda: iter([b"t", hold, b"ea"]), service)
    for _ in range(3):
        pending = protected.begin()
        assert in_flight(service) == 1
        pending.abandon()
        assert in_flight(service) == 0


def test_an_application_that_fails_gives_its_place_back(door: Any) -> None:
    """At once, or in the middle of its answer; the exception is its own."""

    def at_once() -> list[bytes]:
        raise ZeroDivisionError

    def midway() -> Iterator[bytes]:
        yield b"t"
        raise ZeroDivisionError

    service = Service(ONE_AT_A_TIME, name="shop")
    for behaviour in (at_once, midway):
        for _ in range(3):
            assert isinstance(door(behaviour, service).ask().error, ZeroDivisionError)
            assert in_flight(service) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (hm.CircuitOpen("payments", "open", 7.0), 503),
        (hm.DeadlineExceeded("payments", 2.0), 504),
        (hm.TimedOut("payments", 2.0), 504),
        (hm.RateLimited("payments", "100/s used up"), 503),
    ],
)
@pytest.mark.parametrize("lazily", [False, True])
def test_exceptions_of_ours_are_answers(door: Any, error: Exception, status: int, lazily: bool) -> None:
    """What our own policies refuse inside is no error of the application's."""

    def lazy() -> Iterator[bytes]:
        raise error
        yield b""

    def eager() -> list[bytes]:
        raise error

    service = Service(ONE_AT_A_TIME, name="shop")
    got = door(lazy if lazily else eager, service).ask()
    assert (got.status, got.error) == (status, None)
    assert got.problem["status"] == status
    assert in_flight(service) == 0


def test_exceptions_of_ours_can_be_left_alone(door: Any) -> None:
    """Where the setting says so, or the answer has begun already."""

    def refuse() -> list[bytes]:
        raise hm.CircuitOpen("payments", "open")

    def midway() -> Iterator[bytes]:
        yield b"t"
        raise hm.CircuitOpen("payments", "open")

    assert isinstance(door(refuse, Service(name="shop", answer_errors=False)).ask().error, hm.CircuitOpen)
    got = door(midway, Service(name="shop")).ask()
    assert isinstance(got.error, hm.CircuitOpen)
    assert (got.status, got.body) == (200, b"t")


def test_a_head_gets_a_head(door: Any) -> None:
    """The answer to HEAD has all headers, and no body."""
    protected = door(list, Service(RateLimit("1/min"), name="shop"))
    protected.ask()
    got = protected.ask(method="HEAD")
    assert (got.status, got.body) == (429, b"")
    assert int(got.headers["content-length"]) > 100


def test_a_shadow_lets_all_in_and_tells(door: Any, hold: bytes) -> None:
    """It decides, and tells what it would have done."""
    events: list[Event] = []
    bus = EventBus()
    bus.listen(events.append)
    service = Service(ONE_AT_A_TIME, RateLimit("2/min"), name="shop", shadow=True, events=bus)
    protected = door(lambda: iter([b"t", hold, b"ea"]), service)
    first = protected.begin()
    others = [protected.begin(hormesis_timeout_ms="0"), protected.begin(), protected.begin()]
    assert in_flight_here(service) == (1, 4)
    assert [pending.finish().body for pending in (first, *others)] == [b"tea"] * 4
    assert in_flight_here(service) == (0, 0)
    told = [(event.part, event.reason, event.shadow) for event in events if isinstance(event, CallRejected)]
    assert told == [
        ("deadline", "too late", True),
        ("load_shedder", "overloaded", True),
        ("rate_limit", "2/min used up", True),
    ]


def test_refusals_are_told_while_somebody_listens(door: Any) -> None:
    """By which stop, why, and of whom, if it has a name that the author gave; an address is nobody's business."""
    events: list[Event] = []
    bus = EventBus()
    stop = bus.listen(events.append)
    service = Service(RateLimit("1/min"), Rule("/a", tenant="acme"), name="shop", events=bus)
    protected = door(lambda: [b"tea"], service)
    for path in ("/", "/a", "/"):
        protected.ask(path)
    stop()
    protected.ask("/")
    assert [(event.name, event.policy, event.part, event.key) for event in events] == [
        ("call_rejected", "shop", "rate_limit", "acme"),
        ("call_rejected", "shop", "rate_limit", ""),
    ]


def test_every_request_is_told_to_who_asks_for_that(door: Any) -> None:
    """How it ended, and how long it took."""
    events: list[Event] = []
    bus = EventBus()
    bus.listen(events.append, calls=True)

    def behave() -> list[bytes]:
        if current().path == "/fails":
            raise ZeroDivisionError
        return [b"tea"]

    protected = door(behave, Service(ONE_AT_A_TIME, RateLimit("2/min"), name="shop", events=bus))
    for path in ("/", "/fails", "/"):
        protected.ask(path)
    ended = [(event.ending, event.source) for event in events if isinstance(event, CallEnded)]
    assert ended == [("success", "function"), ("failure", "function"), ("rejected", "")]


def test_readiness_turns_before_anything_else(door: Any) -> None:
    """Balancers are told to go elsewhere; until they have noticed, all is served; then requests are refused."""
    clock = ManualClock()
    service = Service(Drain(grace="5s", signals=()), RateLimit("100/s"), name="shop", clock=clock)
    protected = door(lambda: [b"tea"], service)
    assert (protected.ask("/readyz").status, protected.ask().status) == (200, 200)
    service.drain()
    assert (protected.ask("/readyz").status, protected.ask().status) == (503, 200)
    clock.advance(5)
    assert protected.ask("/readyz").status == 503
    got = protected.ask()
    assert (got.status, got.problem["detail"]) == (503, "leaving")
    # In WSGI that header is the server's alone.
    assert got.headers.get("connection") == ("close" if protected.colour == "asgi" else None)


def test_the_degradation_level_is_handed_to_the_application(door: Any) -> None:
    """It can do less before it has to refuse."""
    levels: list[object] = []
    degradation = Degradation(features={"reviews": "reduced"}, name="shop levels")

    def behave() -> list[bytes]:
        levels.append((current().level, current().allows("reviews")))
        return [b"tea"]

    protected = door(behave, Service(LoadShedder(), name="shop", degradation=degradation))
    protected.ask()
    degradation.set("reduced")
    protected.ask()
    assert levels == [("full", True), ("reduced", False)]


def test_other_settings_in_the_middle_of_an_answer(door: Any, hold: bytes) -> None:
    """Who is in stays in, and gives its place back where it has taken it."""
    service = Service(ONE_AT_A_TIME, name="shop")
    protected = door(lambda: iter([b"t", hold, b"ea"]), service)
    pending = protected.begin()
    service.reconfigure(LoadShedder(limit=2, limit_min=1, start=1, max_queued=0, shed_max=1))
    second = protected.begin()
    assert in_flight(service) == 2
    assert protected.ask().status == 503
    assert pending.finish().body == b"tea"
    second.abandon()
    assert in_flight(service) == 0


NAMES = ["priority", "x-request-id", "traceparent", "grpc-timeout", "hormesis-timeout-ms", "x-forwarded-for"]
NAMES += ["x-envoy-expected-rq-timeout-ms", "x-request-start", "x-api-key", "x-tenant", "cookie"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=80)),
        max_size=30,
    ),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40),
    st.sampled_from(["203.0.113.9", "10.0.0.7", "", "nonsense", "::1"]),
)
def test_whatever_comes_gets_a_clear_answer(door: Any, headers: list[tuple[str, str]], path: str, peer: str) -> None:
    """Never an error, and nothing is left behind."""
    rules = (Rule("/a/{b}", headers={"cookie": "*a*"}, criticality="critical"), Rule(api_keys=(), cost=2))
    service = Service(
        *rules,
        RateLimit("1/s", by="client"),
        ONE_AT_A_TIME,
        name="shop",
        trusted=["10.0.0.0/8"],
        tenant_header="x-tenant",
    )
    got = door(lambda: [b"tea"], service).ask(f"/{path}", peer=peer, headers=headers)
    assert got.error is None
    assert got.status in (200, 429, 504)
    assert got.headers["x-request-id"].isprintable()
    assert in_flight(service) == 0


def test_a_million_clients_are_counted_in_a_bounded_space(door: Any) -> None:
    """Names that come from outside fill no memory; here 1,500, in front of a limit that keeps 500."""
    service = Service(RateLimit("1/h", by="client", max_keys=500), LoadShedder(), name="shop")
    protected = door(lambda: [b"tea"], service)
    for number in range(1_500):
        got = protected.ask(peer=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        assert got.status == 200
    assert service.snapshot()["parts"]["rate_limit"]["by client"]["known"] <= 500
    assert math.isfinite(service.pressure())


def test_the_wait_before_us_makes_the_limit_smaller(door: Any) -> None:
    """A queue in front of the process is the only one that a worker with one thread has; others don't hide it."""
    service = Service(LoadShedder(objective="100ms", start=50), name="shop", trusted=["10.0.0.0/8"])
    protected = door(lambda: [b"tea"], service)
    for seconds in [0.0] * 10 + [2.0] * 200:
        started = f"t={time.time() - seconds - 0.01:.3f}"
        got = protected.ask(peer="10.0.0.7", headers=[("X-Request-Start", started)])
        assert got.status in (200, 503)
        if service.snapshot()["parts"]["load_shedder"]["limit"] < 40:
            return
        threading.Event().wait(0.01)
    raise AssertionError(service.snapshot())


def test_headers_in_any_number(door: Any) -> None:
    """Tens of thousands of them are read in their time, and nothing of them is kept."""
    many = [(f"x-{number}", "y" * 50) for number in range(20_000)] + [("X-Forwarded-For", "203.0.113.9")] * 5_000
    got = door(lambda: [b"tea"], Service(RateLimit("5/s", by="client"), name="shop", trusted=["10.0.0.0/8"])).ask(
        peer="10.0.0.7", headers=many
    )
    assert got.status == 200

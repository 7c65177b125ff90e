"""A service: its settings, from code and from files, other settings while it is in use, forks, and words for people."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.shedder import ShedWaiter
from hormesis.events import Event, EventBus
from hormesis.inbound import Rule, asgi, wsgi
from hormesis.inbound.answers import Refused
from hormesis.inbound.drain import Drain
from hormesis.inbound.limits import divided
from hormesis.inbound.service import Service, ServiceSettings, service_of
from hormesis.patterns.degradation import Degradation
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.system_health import SystemHealth
from hormesis.policy.registry import Registry
from hormesis.testing import ManualClock

FILE = """
[service]
name = "shop"
trusted = ["10.0.0.0/8"]
deadline = "2s"

[[service.rules]]
paths = "/checkout/*"
criticality = "critical"

[[service.rate_limits]]
limits = ["100/s", "10000/d"]
by = "client"

[service.load_shedder]
objective = "400ms"

[service.drain]
grace = "3s"

[degradation]
features = { reviews = "reduced" }
"""


def taken(service: Service, times: int = 10) -> list[int]:
    """Ask as a client, so many times."""
    ground = service.ground
    statuses = []
    for _ in range(times):
        request = ground.arrive("GET", "/", "203.0.113.9", {})
        refused = ground.examine(request) or ground.admit(request)
        statuses.append(200 if refused is None else refused.status)
        ground.ended(request, good=True)
    return statuses


def test_parts_are_sorted_in() -> None:
    """Rules and rate limits as many as there are, of others one, in any order."""
    limit, rule, shedder, drain = RateLimit("1/s"), Rule(cost=2), LoadShedder(), Drain()
    service = Service(drain, limit, rule, shedder, SystemHealth(), name="shop")
    assert service.settings == ServiceSettings(
        name="shop", rules=(rule,), rate_limits=(limit,), load_shedder=shedder, health=SystemHealth(), drain=drain
    )
    assert repr(service) == "<Service 'shop': 1 rule, rate limit, load shedder, drain>"
    assert repr(Service()) == "<Service 'service': no parts>"


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        ((hm.Bulkhead(5),), {}, "a part of a service is Bulkhead("),
        ((Drain(), Drain()), {}, "two parts are a Drain; a service has one"),
        ((), {"nmae": "shop"}, "unknown setting of a service 'nmae' (did you mean 'name'?)"),
        ((), {"name": ""}, "name is ''; it takes a non-empty string"),
        ((), {"trusted": "10.0.0.0/8"}, "trusted is '10.0.0.0/8'; it takes a list of networks"),
        ((), {"trusted": ["ten"]}, "trusted is 'ten'; it takes a network such as"),
        ((), {"addresses": "x-real-ip"}, "addresses is 'x-real-ip'; it takes 'x-forwarded-for' or 'forwarded'"),
        ((), {"api_key_header": "x api"}, "api_key_header is 'x api'; it takes the name of a header"),
        ((), {"tenant_header": ""}, "tenant_header is ''"),
        ((), {"strangers": ("background", "default")}, "strangers is ('background', 'default'); it takes the best"),
        ((), {"strangers": "default"}, "strangers is 'default'"),
        ((), {"strangers": ("urgent", "default")}, "strangers is 'urgent'; it takes 'critical' or"),
        ((), {"deadline": 0}, "deadline is 0; it takes more than 0 seconds"),
        ((), {"deadline_max": "soon"}, "deadline_max is 'soon'"),
        ((), {"send_timeout": -1}, "send_timeout is -1"),
        ((), {"shadow": 1}, "shadow is 1; it takes True or False"),
        ((), {"processes": 0}, "processes is 0; it takes a whole number from 1"),
        ((), {"rules": ["/a"]}, "rules is ['/a']; it takes up to 1000 of Rule(...)"),
        ((), {"load_shedder": 5}, "load_shedder is 5; it takes LoadShedder(...), or None"),
        ((SystemHealth(),), {}, "health is set, and there is no load shedder"),
        ((RateLimit("1/s", by="host"),), {}, "by is 'host'; it takes 'client', 'tenant', 'principal'"),
        ((RateLimit("1/s", max_wait="1s"),), {}, "max_wait is 1.0; a service refuses at once"),
        ((RateLimit("1/s"), RateLimit("1/s", by="client")), {}, "two rate limits are called '1/s': name='…' tells"),
    ],
)
def test_what_cannot_be_meant_is_refused(parts: Any, settings: dict[str, Any], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(hm.ConfigurationError, match=re.escape(message)):
        Service(*parts, **settings)


def test_a_file_holds_a_service(tmp_path: Path) -> None:
    """With its degradation, if it has one; the middleware takes the path as it is."""
    path = tmp_path / "policies.toml"
    path.write_text(FILE)
    for protect in (asgi.Protect, wsgi.Protect):
        service = protect(None, path).service  # type: ignore[arg-type]
        service.stop_watching_signals()
        assert service.settings == ServiceSettings(
            name="shop",
            trusted=("10.0.0.0/8",),
            deadline=2.0,
            rules=(Rule("/checkout/*", criticality="critical"),),
            rate_limits=(RateLimit("100/s", "10000/d", by="client"),),
            load_shedder=LoadShedder(objective=0.4),
            drain=Drain(grace=3.0),
        )
        assert service.degradation is not None
        assert service.ground.level() == "full"


def test_a_file_may_hold_several(tmp_path: Path) -> None:
    """Then the middleware is told which."""
    path = tmp_path / "policies.toml"
    path.write_text('[service.shop]\ndeadline = "2s"\n[service.admin]\ndeadline = "9s"\n')
    assert service_of(path, "admin").settings == ServiceSettings(name="admin", deadline=9.0)
    with pytest.raises(hm.ConfigurationError, match="has several services; say which: shop, admin"):
        service_of(path)
    with pytest.raises(hm.ConfigurationError, match="unknown service 'shpo'"):
        service_of(path, "shpo")
    path.write_text('[policy.inventory]\ntimeout = "1s"\n')
    with pytest.raises(hm.ConfigurationError, match="has no service; it is a table such as"):
        service_of(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("service = 5", "service is 5; it takes a table such as [service]"),
        ('[service]\ndeadlin = "2s"', "unknown key 'deadlin' (did you mean 'deadline'?)"),
        ('[service]\ndeadline = "soon"', "service.deadline is 'soon'"),
        ("[[service.rules]]\ncost = -1", "service.rules.0.cost is -1"),
        ('[service.shop]\ndeadline = "soon"', "service.shop.deadline is 'soon'"),
        ('[[service.rules]]\npaths = "/a"', "the rule says nothing"),
    ],
)
def test_what_stands_wrong_in_a_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The error names file, key and value, and what would do."""
    path = tmp_path / "policies.toml"
    path.write_text(text)
    with pytest.raises(hm.ConfigurationError, match=re.escape(message)) as raised:
        service_of(path)
    assert str(path) in str(raised.value)


def test_what_stands_for_a_service() -> None:
    """Itself, its settings, or a file."""
    service = Service(name="shop")
    assert service_of(service) is service
    assert service_of(ServiceSettings(name="shop")).name == "shop"
    with pytest.raises(hm.ConfigurationError, match="service is 5; it takes a Service"):
        service_of(5)  # type: ignore[arg-type]


def test_the_schema_of_a_file_knows_services() -> None:
    """For editors and CI."""
    from hormesis.policy.files import schema

    one, _ = schema()["properties"]["service"]["anyOf"]
    assert {"rules", "rate_limits", "load_shedder", "trusted"} <= set(one["properties"])


def test_a_file_that_is_read_again_changes_the_service_and_keeps_its_state(tmp_path: Path) -> None:
    """Who has used up a limit has used it up; the levels follow as well."""
    path = tmp_path / "policies.toml"
    path.write_text('[service]\nrate_limits = [{ limits = "2/h", by = "client" }]\n[degradation]\nfeatures = {}\n')
    policies = hm.load(path)
    service = service_of(policies)
    assert taken(service, 1) == [200]
    path.write_text(
        '[service]\nrate_limits = [{ limits = "4/h", by = "client" }]\n[degradation]\nfeatures = { a = "reduced" }\n'
    )
    policies.reload()
    # A bucket that was half empty is half empty.
    assert taken(service, 3) == [200, 200, 429]
    assert service.degradation is not None
    assert service.degradation.allows("a")
    path.write_text('[policy.inventory]\ntimeout = "1s"\n')
    policies.reload()
    assert taken(service)[-1] == 429


def test_other_settings_in_use() -> None:
    """Parts take the place of those of their kind; the rest stays, and so does the state; who listens is told."""
    events: list[Event] = []
    bus = EventBus()
    bus.listen(events.append)
    service = Service(RateLimit("2/h", by="client"), LoadShedder(limit=5), deadline="2s", name="shop", events=bus)
    assert taken(service, 1) == [200]
    before = service.ground.machine
    service.reconfigure(LoadShedder(limit=50), deadline="9s")
    assert service.ground.machine is before
    assert service.settings.deadline == 9.0
    service.reconfigure(RateLimit("4/h", by="client"))
    assert taken(service, 3) == [200, 200, 429]
    service.reconfigure()
    told = [event.settings for event in events if event.name == "reconfigured"]  # type: ignore[attr-defined]
    assert told == ["deadline, load_shedder", "rate_limits"]
    with pytest.raises(hm.ConfigurationError, match="a service keeps its name"):
        service.reconfigure(name="other")


def test_services_share_state_by_name_and_registry() -> None:
    """As policies do."""
    registry = Registry()
    one, other, third = (Service(RateLimit("2/h"), name=name, registry=registry) for name in ("shop", "shop", "admin"))
    assert taken(one)[:3] == [200, 200, 429]
    assert taken(other)[0] == 429
    assert taken(third)[0] == 200


def test_the_load_is_a_source_of_the_levels() -> None:
    """Where nearly all that comes is shed, the service does less before it does nothing."""
    clock = ManualClock(100.0)
    degradation = Degradation(features={"reviews": "reduced"}, clock=clock)
    shedder = LoadShedder(limit=1, limit_min=1, start=1, max_queued=0, shed_max=1)
    service = Service(shedder, name="shop", degradation=degradation, clock=clock)
    assert degradation.level == "full"
    ground = service.ground
    for _ in range(30):
        request = ground.arrive("GET", "/", "203.0.113.9", {})
        ground.admit(request)
        clock.advance(0.1)
        ground.tick()
    assert service.pressure() > 0.9
    clock.advance(0.5)
    assert degradation.level != "full"
    assert degradation.snapshot()["health"]["load of shop"] < 0.1
    clock.advance(3600)
    assert service.pressure() == 0.0


def test_health_closes_part_of_the_limit() -> None:
    """What queues don't show."""
    clock = ManualClock(100.0)
    health = SystemHealth(cpu=None, memory=None, function=lambda: 0.5)
    service = Service(LoadShedder(limit=10), health, name="shop", clock=clock)
    ground = service.ground
    clock.advance(1)
    ground.tick()
    assert service.snapshot()["parts"]["load_shedder"]["limit"] == 5.0


def test_who_is_told_late_is_counted_at_that_time() -> None:
    """A request that takes long, and others of the same principal meanwhile, don't meet in the past."""
    for algorithm in ("token bucket", "sliding window", "fixed window"):
        clock = ManualClock(100.0)
        limit = RateLimit("1/s", by="principal", algorithm=algorithm)  # type: ignore[arg-type]
        service = Service(limit, name="shop", clock=clock)
        early, later = (service.ground.arrive("GET", "/", "203.0.113.9", {}) for _ in range(2))
        clock.advance("1h")
        later.identified("ada")
        clock.advance("5s")
        early.identified("ada")
        with pytest.raises(hm.RateLimited) as caught:
            service.ground.arrive("GET", "/", "203.0.113.9", {}).identified("ada")
        assert caught.value.retry_after == pytest.approx(1.0, abs=0.06)


def test_a_snapshot_tells_the_state() -> None:
    """As plain data."""
    service = Service(RateLimit("2/h", by="client"), LoadShedder(), Drain(), name="shop")
    taken(service)
    found = service.snapshot()
    assert (found["policy"], found["phase"], found["in_flight"], found["level"]) == ("shop", "serving", 0, None)
    assert found["parts"]["rate_limit"]["by client"]["known"] == 1
    assert found["parts"]["load_shedder"]["in_flight"] == 0
    assert Service(name="bare").snapshot()["parts"] == {}


def test_a_fork_starts_clean() -> None:
    """The child has nobody in flight, no spent limits, and no lock that somebody else held."""
    service = Service(
        RateLimit("2/h"), LoadShedder(limit=1, limit_min=1, start=1, max_queued=0, shed_max=1), name="shop"
    )
    ground = service.ground
    request = ground.arrive("GET", "/", "", {})
    assert ground.examine(request) is None
    assert ground.admit(request) is None
    service.drain()
    assert service._lock.acquire()
    child = os.fork()
    if child == 0:
        fine = taken(service)[:3] == [200, 200, 429] and service.ready and service.ground is not ground
        os._exit(0 if fine else 1)
    service._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert not service.ready
    assert service.ground is ground


def test_a_service_explains_itself() -> None:
    """The way of a request, the reasons, and whose limits these are."""
    service = Service(
        Rule("/checkout/*", criticality="critical"),
        RateLimit("100/s", by="client"),
        LoadShedder(),
        Drain(),
        name="shop",
        trusted=["10.0.0.0/8"],
        proxies=["192.0.2.1"],
        strangers=("default", "background"),
        deadline="2s",
        cancel_late=True,
        degradation=Degradation(features={"reviews": "reduced"}),
    )
    words = service.explain()
    for part in (
        "service 'shop', the way of a request:",
        "1. identify: believes 10.0.0.0/8 in everything, believes 192.0.2.1 in addresses (x-forwarded-for), others may "
        "ask for priorities from default to background",
        "1) paths '/checkout/*': criticality critical",
        "2. deadline: 2s, or what a request brings: less, or from whom is trusted up to 1m; then the application is",
        "3. rate limit: 100/s, up to 100 at once, refused beyond that; one for each client",
        "4. load shedder: answers within 250ms",
        "5. the application",
        "degradation: reduced below health 0.9",
        "leaving: on SIGTERM /readyz says 503",
        "limits are this process's own: a server with N workers lets in N times as much",
    ):
        assert part in words
    service.reconfigure(shadow=True, processes=4)
    words = service.explain()
    assert "(a shadow: it watches, and does none of this)" in words
    assert "3. rate limit: 25/s, up to 25 at once" in words
    assert "rate limits are divided by 4 processes" in words
    bare = Service().explain()
    assert "nobody is believed; a request may lower its priority" in bare
    assert "2. deadline: what a request brings, up to 1m" in bare
    assert "processes" not in bare


@pytest.mark.parametrize(
    ("limit", "processes", "limits", "burst"),
    [
        (RateLimit("100/s"), 1, ("100/s",), None),
        (RateLimit("100/s"), 4, ("25/s",), None),
        (RateLimit("100/s"), 3, ("33/s",), None),
        (RateLimit("1/s", "10/d"), 4, ("1/4s", "2/d"), None),
        (RateLimit("2.5/s"), 2, ("2/2s",), None),
        (RateLimit("3/min", burst=2), 8, ("1/180s",), 1),
        (RateLimit("1/10us"), 3, ("1/30us",), None),
    ],
)
def test_processes_share_a_limit(limit: RateLimit, processes: int, limits: tuple[str, ...], burst: int | None) -> None:
    """Together they have no more than all of it, and each has something."""
    share = divided(limit, processes)
    assert (share.limits, share.burst) == (limits, burst)
    assert share.rate * processes <= limit.rate * (1 + 1e-9)


def test_the_readiness_path_can_be_the_applications_own() -> None:
    """Then the application asks the service."""
    service = Service(Drain(ready=None, signals=()), name="shop")
    assert service.ground.ready_path is None
    assert service.ready
    service.drain()
    assert not service.ready


def test_a_limit_may_ask_functions_whose_a_request_is_and_what_it_costs() -> None:
    """Of the request, as everything that is said of it."""
    limit = RateLimit("5/h", by=lambda request: request.path, cost=lambda request: len(request.path))
    service = Service(limit, RateLimit("100/h", cost=10, name="tens"), name="shop")
    ground = service.ground

    def status(path: str) -> int:
        refused = ground.examine(ground.arrive("GET", path, "", {}))
        return 200 if refused is None else refused.status

    assert [status("/a") for _ in range(3)] == [200, 200, 429]
    assert [status("/b") for _ in range(3)] == [200, 200, 429]
    assert service.snapshot()["parts"]["rate_limit"]["tens"]["limits"][0]["remaining"] == 60


def test_a_queue_that_was_filled_meanwhile() -> None:
    """Between the look and the queue another thread may have taken the last place in it."""
    shedder = LoadShedder(limit=1, limit_min=1, start=1, max_queued=1, shed_max=1)
    service = Service(shedder, RateLimit("10/h"), name="shop")
    ground = service.ground
    requests = [ground.arrive("GET", "/", "", {}) for _ in range(3)]
    refusals = [ground.examine(request) or ground.admit(request) for request in requests]
    assert refusals[0] is None
    assert all(refused is not None and refused.refusal.waitable for refused in refusals[1:])
    waiter = ground.stand(requests[1], lambda: None)
    assert isinstance(waiter, ShedWaiter)
    refused = ground.stand(requests[2], lambda: None)
    assert isinstance(refused, Refused)
    assert refused.status == 503
    ground.ended(requests[0], good=True)
    assert ground.served(requests[1], waiter) is None
    ground.leave(waiter)
    ground.ended(requests[1], good=True)
    assert service.snapshot()["parts"]["load_shedder"]["in_flight"] == 0
    assert service.snapshot()["parts"]["rate_limit"]["by nothing"]["limits"][0]["remaining"] == 8


def test_moves_of_the_limit_are_told() -> None:
    """By the service, as a fact of its load shedder."""
    events: list[Event] = []
    bus = EventBus()
    bus.listen(events.append)
    clock = ManualClock(100.0)
    service = Service(LoadShedder(start=50), name="shop", clock=clock, events=bus)
    ground = service.ground
    machine = ground.machine
    assert machine is not None
    for _ in range(30):
        request = ground.arrive("GET", "/", "", {})
        ground.admit(request)
        machine.observe(1.0)
        clock.advance(0.1)
        ground.ended(request, good=True)
        ground.tick()
    moved = [event for event in events if event.name == "limit_changed"]
    assert moved
    assert (moved[0].policy, moved[0].part) == ("shop", "load_shedder")


def test_what_is_free_is_told_no_limits() -> None:
    """A request that costs nothing is counted by none."""
    service = Service(Rule(cost=0), RateLimit("10/h"), name="shop")
    request = service.ground.arrive("GET", "/", "", {})
    assert service.ground.examine(request) is None
    assert service.ground.standing(request) is None

"""Identification: what a request says of itself, and how much of it is believed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hormesis import Criticality
from hormesis.inbound import Request, Rule
from hormesis.inbound.classification import Classifier
from hormesis.inbound.identification import Identifier, add_header
from hormesis.inbound.origin import Trust, networks
from hormesis.inbound.signals import RequestStart
from hormesis.priority import cohort_of

INNER, STRANGER = "10.0.0.7", "203.0.113.9"
WALL = 1_700_000_000.0


def identifier(*rules: Rule, **settings: Any) -> Identifier:
    observed: list[float] = settings.pop("observed", [])
    made: dict[str, Any] = {
        "strangers": None,
        "foreign_ids": True,
        "tenant_header": "x-tenant",
        "deadline": math.inf,
        "deadline_max": 60.0,
        "start": RequestStart(observed.append, wall=lambda: WALL),
        "new_id": lambda: "made",
        **settings,
    }
    trust = Trust(trusted=networks(["10.0.0.0/8"], "trusted"), proxies=(), header="x-forwarded-for")
    return Identifier(trust=trust, classifier=Classifier(rules, key_header="x-api-key"), **made)


def identify(*rules: Rule, peer: str = STRANGER, path: str = "/", settings: Any = None, **headers: str) -> Request:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return identifier(*rules, **(settings or {})).identify("GET", path, peer, found, 100.0)


def test_a_request_that_says_nothing() -> None:
    """It gets an id, counts as its address, and as an ordinary one without a deadline."""
    request = identify()
    assert (request.request_id, request.client, request.label) == ("made", STRANGER, "")
    assert (request.criticality, request.told, request.cost) == (Criticality.DEFAULT, None, 1)
    assert request.expires == math.inf
    assert request.cohort == cohort_of("made")


def test_ids_are_drawn_by_the_system() -> None:
    """An id is 128 bits that no other process draws."""
    made = identifier(new_id=None)
    first, second = (made.identify("GET", "/", STRANGER, {}, 0.0).request_id for _ in range(2))
    assert len(first) == len(second) == 32
    assert first != second


@pytest.mark.parametrize(
    ("value", "request_id"),
    [("r-1", "r-1"), ("not one word", "made"), ("", "made"), ("x" * 129, "made"), ("a, b", "made"), ("\u00e9", "made")],
)
def test_the_id_of_a_request(value: str, request_id: str) -> None:
    """Theirs if it is well-formed, else one of ours."""
    assert identify(x_request_id=value).request_id == request_id


def test_a_trace_is_an_id() -> None:
    """Where there is no id, the trace's stands for it."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert identify(traceparent=f"00-{trace}-00f067aa0ba902b7-01").request_id == trace


def test_strangers_ids_can_be_switched_off() -> None:
    """Then only hops that are trusted bring an id."""
    settings = {"foreign_ids": False}
    assert identify(x_request_id="r-1", settings=settings).request_id == "made"
    assert identify(x_request_id="r-1", peer=INNER, settings=settings).request_id == "r-1"


@pytest.mark.parametrize(
    ("ruled", "asked", "peer", "criticality"),
    [
        (None, "u=0", STRANGER, Criticality.DEFAULT),
        (None, "u=5", STRANGER, Criticality.SHEDDABLE),
        (None, "u=7, i", STRANGER, Criticality.BACKGROUND),
        ("critical", "u=3", STRANGER, Criticality.DEFAULT),
        ("background", "u=0", STRANGER, Criticality.BACKGROUND),
        (None, "u=0", INNER, Criticality.CRITICAL),
        ("background", "u=0", INNER, Criticality.CRITICAL),
        ("critical", "u=7", INNER, Criticality.BACKGROUND),
    ],
)
def test_a_stranger_lowers_its_priority_and_a_trusted_hop_says_it(
    ruled: str | None, asked: str, peer: str, criticality: Criticality
) -> None:
    """What a stranger says can't make its request matter more than the rules say."""
    rules = () if ruled is None else (Rule(criticality=ruled),)
    request = identify(*rules, peer=peer, priority=asked)
    assert request.criticality is request.told is criticality


def test_strangers_can_be_given_a_range() -> None:
    """Then their priority counts within it."""
    settings = {"strangers": (Criticality.DEFAULT, Criticality.SHEDDABLE)}
    rule = Rule(criticality="background")
    assert identify(rule, priority="u=0", settings=settings).criticality is Criticality.DEFAULT
    assert identify(rule, priority="u=7", settings=settings).criticality is Criticality.SHEDDABLE
    assert identify(rule, settings=settings).criticality is Criticality.BACKGROUND


@pytest.mark.parametrize("nonsense", ["", "u", "u=8", "u=-1", "u=99999999999", "urgent", "u=1" * 40, "\x00", "u=;"])
@pytest.mark.parametrize("peer", [STRANGER, INNER])
def test_a_priority_that_cannot_be_read_says_nothing(nonsense: str, peer: str) -> None:
    """Neither does it lower a request, nor raise it."""
    assert identify(peer=peer, priority=nonsense).told is None


@pytest.mark.parametrize(
    ("own", "asked", "peer", "left"),
    [
        (math.inf, None, STRANGER, math.inf),
        (2.0, None, STRANGER, 2.0),
        (2.0, "500m", STRANGER, 0.5),
        (2.0, "10S", STRANGER, 2.0),
        (2.0, "10S", INNER, 10.0),
        (2.0, "99999H", INNER, 60.0),
        (math.inf, "99999H", STRANGER, 60.0),
        (2.0, "0m", STRANGER, 0.0),
        (2.0, "soon", STRANGER, 2.0),
        (2.0, "-1S", STRANGER, 2.0),
    ],
)
def test_a_stranger_shortens_the_deadline_and_a_trusted_hop_says_it(
    own: float, asked: str | None, peer: str, left: float
) -> None:
    """What anybody says is bounded, and a stranger can only have less time than the service gives."""
    headers = {} if asked is None else {"grpc_timeout": asked}
    request = identify(peer=peer, settings={"deadline": own}, **headers)
    assert request.expires == (math.inf if left == math.inf else pytest.approx(100.0 + left))


def test_the_smallest_of_several_deadlines_counts() -> None:
    """A proxy on the way may have shortened one of them, or joined two of a name."""
    request = identify(hormesis_timeout_ms="900.000, 700", x_envoy_expected_rq_timeout_ms="800")
    assert request.expires == pytest.approx(100.7)


def test_a_tenant_is_heard_from_trusted_hops_alone() -> None:
    """A stranger can't speak for a tenant."""
    assert identify(x_tenant="acme").tenant is None
    request = identify(peer=INNER, x_tenant="acme")
    assert (request.tenant, request.client, request.label) == ("acme", "tenant:acme", "acme")
    assert identify(peer=INNER, x_tenant="a b").tenant is None
    assert identify(peer=INNER, x_tenant="x" * 201).tenant is None


def test_rules_say_whose_a_request_is() -> None:
    """What a rule says stands before the tenant, and both before the address."""
    assert identify(Rule(tenant="acme")).client == "tenant:acme"
    request = identify(Rule(tenant="acme", client="crawler", cost=0))
    assert (request.client, request.label, request.tenant, request.cost) == ("crawler", "crawler", "acme", 0)


def test_the_wait_before_us_is_heard_from_trusted_hops_alone() -> None:
    """It shortens what is left, and is a sample of the queueing delay."""
    observed: list[float] = []
    settings = {"deadline": 2.0, "observed": observed}
    assert identify(x_request_start=f"t={WALL - 0.5}", settings=settings).before is None
    request = identify(peer=INNER, x_request_start=f"t={WALL - 0.5}", settings=settings)
    assert request.before == 0.5
    assert request.expires == pytest.approx(101.5)
    assert observed
    assert 0.4 < observed[0] <= 0.5
    assert identify(peer=INNER, x_request_start="t=yesterday", settings=settings).before is None


def test_headers_of_a_name_are_joined_within_bounds() -> None:
    """A name that comes a hundred thousand times costs what it is long."""
    found: dict[str, str] = {}
    for number in range(100_000):
        add_header(found, "x-forwarded-for", str(number))
    assert len(found["x-forwarded-for"]) < 5000
    assert found["x-forwarded-for"].endswith("99999")


HEADERS = ["x-request-id", "traceparent", "priority", "grpc-timeout", "hormesis-timeout-ms", "x-forwarded-for"]
HEADERS += ["x-envoy-expected-rq-timeout-ms", "x-request-start", "x-queue-start", "x-tenant", "x-api-key"]


@given(
    st.dictionaries(st.sampled_from(HEADERS), st.text(st.characters(max_codepoint=255), max_size=200)),
    st.sampled_from([STRANGER, INNER, ""]),
)
@example({"grpc-timeout": "99999999H", "x-request-start": "9" * 30, "hormesis-timeout-ms": "9999999999"}, INNER)
@example({"x-request-start": f"t={WALL + 1e6}", "priority": "u=00"}, INNER)
@example({"grpc-timeout": "\u00b2m"}, STRANGER)
def test_nothing_that_is_sent_does_harm(found: dict[str, str], peer: str) -> None:
    """Whatever a request says, what is known of it is bounded, and fit for a log."""
    request = identifier(Rule(tenants="a", cost=2)).identify("GET", "/", peer, found, 100.0)
    assert request.request_id.isprintable()
    assert len(request.request_id) <= 128
    assert len(request.client) <= 210
    assert request.expires == math.inf or 40.0 - 1 <= request.expires <= 160.0
    assert request.criticality in Criticality

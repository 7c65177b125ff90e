"""Rules: their criteria, what they say, and in which order they are asked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis import ConfigurationError, Criticality
from hormesis.inbound import Rule, digest
from hormesis.inbound.classification import Classifier, Verdict
from hormesis.inbound.origin import Origin, Trust, networks

TRUST = Trust(trusted=networks(["unix"], "trusted"), proxies=(), header=None)
NEAR, FAR = TRUST.origin("10.1.2.3", None), TRUST.origin("203.0.113.9", None)


def ask(
    *rules: Rule,
    method: str = "GET",
    path: str = "/",
    origin: Origin = FAR,
    tenant: str | None = None,
    **headers: str,
) -> Verdict:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return Classifier(rules, key_header="x-api-key").ask(method, path, found, origin, tenant)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/orders", "/orders", True),
        ("/orders", "/orders/", False),
        ("/orders", "/orders/7", False),
        ("/orders/{id}", "/orders/7", True),
        ("/orders/{id}", "/orders/", False),
        ("/orders/{id}", "/orders/7/lines", False),
        ("/orders/{id}/lines", "/orders/7/lines", True),
        ("/admin/*", "/admin/users/7", True),
        ("/admin/*", "/admin/", True),
        ("/admin/*", "/admin", False),
        ("/files*", "/files.zip", True),
        ("*", "/anything", True),
        ("/a.b", "/axb", False),
        ("/a/*", "/a/line\nbreak", True),
    ],
)
def test_paths(pattern: str, path: str, matches: bool) -> None:
    """A path is met literally, `{name}` by one segment, a `*` at the end by all below."""
    assert (ask(Rule(pattern, tenant="acme"), path=path).tenant == "acme") is matches


def test_all_criteria_must_hold_and_any_of_their_values() -> None:
    """Criteria are met together; of the values of one, any will do."""
    rule = Rule(("/a", "/b"), methods=("POST", "put"), headers={"X-Kind": "batch-*"}, networks="10.0.0.0/8", tenant="t")
    assert ask(rule, method="PUT", path="/b", origin=NEAR, x_kind="batch-7").tenant == "t"
    assert ask(rule, method="GET", path="/b", origin=NEAR, x_kind="batch-7").tenant is None
    assert ask(rule, method="PUT", path="/c", origin=NEAR, x_kind="batch-7").tenant is None
    assert ask(rule, method="PUT", path="/b", origin=FAR, x_kind="batch-7").tenant is None
    assert ask(rule, method="PUT", path="/b", origin=NEAR, x_kind="interactive").tenant is None
    assert ask(rule, method="PUT", path="/b", origin=NEAR).tenant is None


def test_the_first_rule_that_holds_wins() -> None:
    """What it does not say, no later rule says for it."""
    rules = (Rule("/checkout", criticality="critical"), Rule(criticality="background", tenant="others", cost=5))
    assert ask(*rules, path="/checkout") == Verdict(Criticality.CRITICAL)
    assert ask(*rules, path="/") == Verdict(Criticality.BACKGROUND, "others", None, 5)


def test_a_rule_may_go_on() -> None:
    """One may tell whose a request is, and a later one what its route is worth."""
    rules = (
        Rule(networks="203.0.113.0/24", tenant="acme", goes_on=True),
        Rule("/checkout", criticality="critical", goes_on=True),
        Rule("/checkout", criticality="background", tenant="nobody", cost=5),
        Rule(client="somebody"),
    )
    assert ask(*rules, path="/checkout") == Verdict(Criticality.CRITICAL, "acme", None, 5)
    assert ask(*rules, path="/") == Verdict(None, "acme", "somebody", None)


def test_a_rule_sees_the_tenant_that_an_earlier_one_told() -> None:
    """Rules by tenant work with tenants that rules, or a trusted hop, have told."""
    known = Rule(networks="203.0.113.9", tenant="acme", goes_on=True)
    rules = (known, Rule(tenants="acme", criticality="critical"))
    assert ask(*rules).criticality is Criticality.CRITICAL
    assert ask(*rules, origin=NEAR).criticality is None
    assert ask(*rules, origin=NEAR, tenant="acme").criticality is Criticality.CRITICAL
    assert ask(*rules, origin=NEAR, tenant="acme").tenant == "acme"


def test_where_no_rule_is_met_nothing_is_said() -> None:
    """A request that meets no rule is an ordinary one."""
    assert ask(Rule("/a", cost=0)) == Verdict()
    assert ask() == Verdict()


def test_a_key_is_known_by_its_digest() -> None:
    """The settings hold no secret, and a key is met with or without `Bearer`."""
    rule = Rule(api_keys=digest("s3cret"), client="acme")
    assert ask(rule, x_api_key="s3cret").client == "acme"
    assert ask(rule, x_api_key="Bearer s3cret").client == "acme"
    for wrong in ("s3cre", "s3crets", "", "bearer", digest("s3cret"), "x" * 10_000):
        assert ask(rule, x_api_key=wrong).client is None
    assert ask(rule).client is None
    assert "s3cret" not in repr(rule) + rule.describe()


def test_a_key_in_the_settings_is_refused_and_not_shown() -> None:
    """Who writes the key itself into a rule is told what to do, without the key."""
    with pytest.raises(ConfigurationError, match="api_keys holds what is no digest; it takes what") as raised:
        Rule(api_keys="s3cret", tenant="acme")
    assert "s3cret" not in str(raised.value)


def test_a_socket_of_this_machine_is_a_network() -> None:
    """`unix` is met by a peer without an address."""
    rule = Rule(networks=("unix", "::1"), criticality="critical")
    assert ask(rule, origin=TRUST.origin("", None)).criticality is Criticality.CRITICAL
    assert ask(rule, origin=TRUST.origin("::1", None)).criticality is Criticality.CRITICAL
    assert ask(rule).criticality is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": "orders", "cost": 1}, "paths is 'orders'; it takes paths such as '/orders'"),
        ({"paths": "/a*b", "cost": 1}, "paths is '/a*b'"),
        ({"paths": "/a/**", "cost": 1}, "paths is '/a/**'"),
        ({"paths": "/a/{order-id}", "cost": 1}, "paths is '/a/{order-id}'"),
        ({"paths": 5, "cost": 1}, "paths is 5"),
        ({"methods": "GET POST", "cost": 1}, "methods is 'GET POST'"),
        ({"methods": [""], "cost": 1}, "methods is ''"),
        ({"headers": ["x"], "cost": 1}, "headers is ['x']; it takes a table of header names"),
        ({"headers": {"x y": "*"}, "cost": 1}, "headers is {'x y': '*'}"),
        ({"networks": "10.0.0.0/99", "cost": 1}, "networks is '10.0.0.0/99'"),
        ({"criticality": "urgent"}, "criticality is 'urgent'; it takes 'critical' or 'default'"),
        ({"tenant": ""}, "tenant is ''; it takes a name of up to 200 characters"),
        ({"client": "x" * 201}, "client is 'xxx"),
        ({"cost": -1}, "cost is -1; it takes a whole number from 0 to 1,000,000"),
        ({"cost": True}, "cost is True"),
        ({"cost": 1, "goes_on": 1}, "goes_on is 1; it takes True or False"),
        ({"paths": "/a"}, "the rule says nothing; it takes a criticality, tenant, client or cost"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Rule(**settings)  # type: ignore[arg-type]


def test_a_rule_in_words() -> None:
    """What `explain()` says of a rule."""
    rule = Rule("/a", methods="get", headers={"X-A": "b*"}, api_keys=[digest("k"), digest("l")], criticality="critical")
    assert rule.describe() == (
        "paths '/a', methods 'GET', header x-a like 'b*', one of 2 API keys: criticality critical"
    )
    assert Rule(cost=2, goes_on=True).describe() == "all: cost 2, and on"


@given(st.text(max_size=50), st.text(max_size=300), st.dictionaries(st.just("x-api-key"), st.text(max_size=5000)))
def test_nothing_that_is_sent_does_harm(method: str, path: str, found: dict[str, str]) -> None:
    """Whatever a request says, the rules have an answer."""
    rules = (Rule("/a/{b}/*", headers={"x-api-key": "*a*b*c*"}, cost=1), Rule(api_keys=digest("k"), tenant="t"))
    verdict = Classifier(rules, key_header="x-api-key").ask(method, path, found, FAR)
    assert verdict.criticality is None

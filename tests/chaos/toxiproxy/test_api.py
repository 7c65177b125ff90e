"""The API over HTTP: every endpoint and every error, with real traffic where it matters."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest
from tests.chaos.toxiproxy.world import (
    PATIENCE,
    Api,
    dial,
    exchange,
    free_address,
    hangs_up,
    is_broken,
    is_up,
    round_trip,
)

from hormesis.chaos.toxiproxy import app, registry

LATENCY = {"type": "latency", "attributes": {"latency": 80}}


def error(status: int, message: str) -> dict[str, object]:
    return {"error": message, "status": status}


# Proxies


def test_no_proxies(api: Api) -> None:
    """Without proxies there is an empty object."""
    answer = api.ask("GET", "/proxies")
    assert (answer.status, answer.body) == (200, {})


def test_create_and_show(api: Api, echo: str) -> None:
    """A new proxy is up at once, at the address that it shows, and carries traffic."""
    created = api.ask("POST", "/proxies", {"name": "redis", "listen": "localhost:0", "upstream": echo})
    assert created.status == 201
    listen = created.body["listen"]
    assert created.body == {"name": "redis", "listen": listen, "upstream": echo, "enabled": True, "toxics": []}
    assert listen.startswith("127.0.0.1:")
    assert not listen.endswith(":0")
    round_trip(listen)
    assert api.ask("GET", "/proxies/redis").body == created.body
    assert api.ask("GET", "/proxies").body == {"redis": created.body}


def test_fields_that_are_null_are_not_given(api: Api, echo: str) -> None:
    """Ruby's client sends null for what it was not told, and Go's an empty list of toxics."""
    made = api.create("redis", echo, enabled=None, listen=None, toxics=None, id=3)
    assert made["enabled"] is True
    round_trip(made["listen"])


def test_the_content_type_does_not_matter(api: Api, echo: str) -> None:
    """Java's client calls its JSON a form."""
    body = f'{{"name": "redis", "upstream": "{echo}"}}'.encode()
    assert api.ask("POST", "/proxies", body, Content_Type="application/x-www-form-urlencoded").status == 201


def test_created_disabled(api: Api, echo: str) -> None:
    """A proxy that is created disabled does not listen before it is enabled."""
    listen = free_address()
    made = api.create("redis", echo, listen=listen, enabled=False)
    assert (made["listen"], made["enabled"]) == (listen, False)
    assert not is_up(listen)
    assert api.ask("POST", "/proxies/redis", {"enabled": True}).body["enabled"] is True
    round_trip(listen)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "missing required field: name"),
        ({"name": ""}, 400, "missing required field: name"),
        ({"name": "a"}, 400, "missing required field: upstream"),
        ({"name": "a", "upstream": ""}, 400, "missing required field: upstream"),
        ({"name": 3, "upstream": "a:1"}, 400, "bad request body: name is 3; it takes a text"),
        ({"name": "a", "upstream": 1}, 400, "bad request body: upstream is 1; it takes a text"),
        ({"name": "a", "upstream": "a"}, 400, "bad request body: upstream is 'a'; it takes an address like "),
        ({"name": "a", "upstream": "a:0"}, 400, "bad request body: upstream is 'a:0'; "),
        ({"name": "a", "upstream": ":80"}, 400, "bad request body: upstream is ':80'; "),
        ({"name": "a", "upstream": "a..b:80"}, 400, "bad request body: upstream is 'a..b:80'; "),
        ({"name": "a", "upstream": "a b:80"}, 400, "bad request body: upstream is 'a b:80'; "),
        ({"name": "a", "upstream": f"{'a' * 300}:80"}, 400, "bad request body: upstream is 'aaaa"),
        ({"name": "a", "upstream": "a:80", "seed": True}, 400, "bad request body: seed is True; it takes a whole"),
        ({"name": "a", "upstream": "a:80", "listen": "a:99999"}, 400, "bad request body: listen is 'a:99999'; "),
        ({"name": "a", "upstream": "a:80", "listen": "local"}, 400, "bad request body: listen is 'local'; "),
        ({"name": "a", "upstream": "a:80", "listen": "::1:80"}, 400, "bad request body: listen is '::1:80'; "),
        ({"name": "a", "upstream": "a:80", "listen": "no.such.invalid:0"}, 400, "bad request body: listen is 'no.such"),
        ({"name": "a", "upstream": "a:80", "enabled": "yes"}, 400, "bad request body: enabled is 'yes'; it takes true"),
        ({"name": "a", "upstream": "a:80", "seed": "x"}, 400, "bad request body: seed is 'x'; it takes a whole number"),
        ({"name": "a/b", "upstream": "a:80"}, 400, "bad request body: name is 'a/b'; "),
        ([], 400, "bad request body: the proxy is []; it takes an object"),
        (b"", 400, "bad request body: it is not JSON: "),
        (b"{", 400, "bad request body: it is not JSON: "),
        (b"[" * 100_000, 400, "bad request body: it is not JSON: "),
        (b"\xff", 400, "bad request body: it is not JSON: "),
        (b" " * 1_100_000, 413, "the body is larger than 1,000,000 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_proxy(api: Api, body: object, status: int, message: str) -> None:
    """A body that can't be meant makes no proxy, and is told why in one sentence."""
    answer = api.ask("POST", "/proxies", body)
    assert (answer.status, answer.body["status"]) == (status, status)
    assert answer.body["error"].startswith(message)
    assert api.ask("GET", "/proxies").body == {}


def test_names_are_there_once(api: Api, echo: str) -> None:
    """A second proxy of a name is a conflict; with the first gone, it is none."""
    made = api.create("redis", echo)
    again = api.ask("POST", "/proxies", {"name": "redis", "upstream": echo})
    assert (again.status, again.body) == (409, error(409, "proxy already exists"))
    round_trip(made["listen"])
    assert api.ask("DELETE", "/proxies/redis").status == 204
    api.create("redis", echo)


def test_ports_are_there_once(api: Api, echo: str) -> None:
    """A port that is taken is told as Go's library tells it, with the status that clients know."""
    listen = api.create("one", echo)["listen"]
    answer = api.ask("POST", "/proxies", {"name": "two", "listen": listen, "upstream": echo})
    assert answer.body == error(500, f"listen tcp {listen}: bind: address already in use")
    assert answer.status == 500
    assert list(api.ask("GET", "/proxies").body) == ["one"]


def test_names_of_any_script(api: Api, echo: str) -> None:
    """A name may have any printable characters; in a path they are escaped."""
    api.create("käse & co?", echo)
    assert api.ask("GET", "/proxies/k%C3%A4se%20%26%20co%3F").body["name"] == "käse & co?"
    assert api.ask("DELETE", "/proxies/k%C3%A4se%20%26%20co%3F").status == 204


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_down_and_up(api: Api, echo: str, method: str) -> None:
    """Down: connections break and connecting is refused; up again: the same port."""
    listen = api.create("redis", echo)["listen"]
    with dial(listen) as caller:
        exchange(caller)
        down = api.ask(method, "/proxies/redis", {"enabled": False})
        assert (down.status, down.body["enabled"], down.body["listen"]) == (200, False, listen)
        assert is_broken(caller)
    assert not is_up(listen)
    up = api.ask(method, "/proxies/redis", {"enabled": True})
    assert (up.status, up.body["enabled"], up.body["listen"]) == (200, True, listen)
    round_trip(listen)


def test_a_port_is_kept_while_its_proxy_is_down(api: Api, echo: str) -> None:
    """Nobody else can take the port of a proxy that is down."""
    host, _, port = api.create("redis", echo)["listen"].rpartition(":")
    api.ask("POST", "/proxies/redis", {"enabled": False})
    with pytest.raises(OSError, match="in use"):
        socket.create_server((host, int(port)))


def test_toxics_stay_through_down(api: Api, echo: str) -> None:
    """A proxy that comes up again has its toxics."""
    listen = api.create("redis", echo)["listen"]
    api.ask("POST", "/proxies/redis/toxics", LATENCY)
    for enabled in (False, True):
        answer = api.ask("POST", "/proxies/redis", {"enabled": enabled})
        assert [toxic["name"] for toxic in answer.body["toxics"]] == ["latency_downstream"]
    assert round_trip(listen) >= 0.08


def test_an_update_that_changes_nothing(api: Api, echo: str) -> None:
    """Clients send back the whole proxy; connections live on, whatever name its address goes by."""
    made = api.create("redis", echo)
    with dial(made["listen"]) as caller:
        exchange(caller)
        assert api.ask("POST", "/proxies/redis", made).body == made
        same = made["listen"].replace("127.0.0.1", "localhost")
        assert api.ask("POST", "/proxies/redis", {"listen": same}).body == made
        exchange(caller)


def test_another_upstream(api: Api, echo: str) -> None:
    """With another upstream, connections are dropped, and port and toxics stay."""
    nobody = free_address()
    made = api.create("redis", nobody)
    api.ask("POST", "/proxies/redis/toxics", LATENCY)
    assert hangs_up(made["listen"])
    changed = api.ask("PATCH", "/proxies/redis", {"upstream": echo}).body
    assert (changed["upstream"], changed["listen"], len(changed["toxics"])) == (echo, made["listen"], 1)
    assert round_trip(made["listen"]) >= 0.08


def test_another_address(api: Api, echo: str) -> None:
    """A proxy moves: it listens at its new address, and no more at the old one."""
    before, after = api.create("redis", echo)["listen"], free_address()
    assert api.ask("PATCH", "/proxies/redis", {"listen": after}).body["listen"] == after
    round_trip(after)
    assert not is_up(before)


def test_an_address_that_is_taken(api: Api, echo: str) -> None:
    """A proxy that can't move goes on where it was."""
    taken = api.create("other", echo)["listen"]
    before = api.create("redis", echo)
    answer = api.ask("PATCH", "/proxies/redis", {"listen": taken})
    assert answer.body == error(500, f"listen tcp {taken}: bind: address already in use")
    assert api.ask("GET", "/proxies/redis").body == before
    round_trip(before["listen"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"enabled": 1}, "bad request body: enabled is 1; it takes true or false"),
        ({"listen": "x"}, "bad request body: listen is 'x'; "),
        ({"upstream": ""}, "missing required field: upstream"),
        (b"", "bad request body: it is not JSON: "),
    ],
)
def test_updates_that_cannot_be_meant(api: Api, echo: str, body: object, message: str) -> None:
    """An update that can't be meant changes nothing."""
    before = api.create("redis", echo)
    answer = api.ask("POST", "/proxies/redis", body)
    assert answer.status == 400
    assert answer.body["error"].startswith(message)
    assert api.ask("GET", "/proxies/redis").body == before


def test_delete(api: Api, echo: str) -> None:
    """A proxy that is deleted is gone with its connections."""
    listen = api.create("redis", echo)["listen"]
    with dial(listen) as caller:
        exchange(caller)
        answer = api.ask("DELETE", "/proxies/redis")
        assert (answer.status, answer.body) == (204, "")
        assert is_broken(caller)
    assert not is_up(listen)
    assert api.ask("GET", "/proxies").body == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/proxies/none"),
        ("POST", "/proxies/none"),
        ("PATCH", "/proxies/none"),
        ("DELETE", "/proxies/none"),
        ("GET", "/proxies/none/toxics"),
        ("POST", "/proxies/none/toxics"),
        ("GET", "/proxies/none/toxics/slow"),
        ("POST", "/proxies/none/toxics/slow"),
        ("PATCH", "/proxies/none/toxics/slow"),
        ("DELETE", "/proxies/none/toxics/slow"),
    ],
)
def test_no_such_proxy(api: Api, method: str, path: str) -> None:
    """What there is not is not found, whatever the body."""
    answer = api.ask(method, path)
    assert (answer.status, answer.body) == (404, error(404, "proxy not found"))


def test_a_seed_of_its_own(api: Api, echo: str) -> None:
    """A proxy may have a seed of its own: with the same, the same connections are struck."""

    def struck(seed: int) -> list[bool]:
        made = api.create("redis", echo, seed=seed)
        assert made["seed"] == seed
        api.ask("POST", "/proxies/redis/toxics", LATENCY | {"toxicity": 0.5})
        found = [round_trip(made["listen"]) >= 0.08 for _ in range(12)]
        api.ask("DELETE", "/proxies/redis")
        return found

    first = struck(1)
    assert set(first) == {True, False}
    assert struck(1) == first
    assert struck(2) != first


def test_so_many_proxies(api: Api, echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of proxies has a bound."""
    monkeypatch.setattr(registry, "PROXIES_MAX", 2)
    for name in ("one", "two"):
        api.create(name, echo)
    answer = api.ask("POST", "/proxies", {"name": "three", "upstream": echo})
    assert answer.body == error(400, "bad request body: there are 2 proxies, and more there can't be")


# Toxics


def test_add_show_list_update_remove(api: Api, echo: str) -> None:
    """A toxic acts from the moment of its answer until it is removed, and an update in between."""
    listen = api.create("redis", echo)["listen"]
    with dial(listen) as caller:
        quick = exchange(caller)
        added = api.ask("POST", "/proxies/redis/toxics", LATENCY)
        expected = {
            "name": "latency_downstream",
            "type": "latency",
            "stream": "downstream",
            "toxicity": 1.0,
            "attributes": {"latency": 80, "jitter": 0},
        }
        assert (added.status, added.body) == (200, expected)
        assert api.ask("GET", "/proxies/redis/toxics").body == [expected]
        assert api.ask("GET", "/proxies/redis/toxics/latency_downstream").body == expected
        assert api.ask("GET", "/proxies/redis").body["toxics"] == [expected]
        assert 0.08 <= exchange(caller) < 0.5

        for method, latency in (("POST", 120), ("PATCH", 160)):
            update = api.ask(method, "/proxies/redis/toxics/latency_downstream", {"attributes": {"latency": latency}})
            assert (update.status, update.body["attributes"]) == (200, {"latency": latency, "jitter": 0})
            assert exchange(caller) >= latency / 1000

        removed = api.ask("DELETE", "/proxies/redis/toxics/latency_downstream")
        assert (removed.status, removed.body) == (204, "")
        assert exchange(caller) < max(0.08, 10 * quick)
    assert api.ask("GET", "/proxies/redis/toxics").body == []


def test_toxics_add_up(api: Api, echo: str) -> None:
    """Several toxics act together, each in its direction, and end one by one."""
    listen = api.create("redis", echo)["listen"]
    for stream in ("upstream", "downstream"):
        assert api.ask("POST", "/proxies/redis/toxics", LATENCY | {"stream": stream}).body["stream"] == stream
    with dial(listen) as caller:
        assert exchange(caller) >= 0.16
        api.ask("DELETE", "/proxies/redis/toxics/latency_upstream")
        assert 0.08 <= exchange(caller) < 0.16


def test_a_toxicity_of_nothing(api: Api, echo: str) -> None:
    """A toxic that strikes nobody is there, and does nothing until it is updated."""
    listen = api.create("redis", echo)["listen"]
    api.ask("POST", "/proxies/redis/toxics", LATENCY | {"toxicity": 0})
    assert round_trip(listen) < 0.08
    api.ask("POST", "/proxies/redis/toxics/latency_downstream", {"toxicity": 1})
    assert round_trip(listen) >= 0.08
    api.ask("POST", "/proxies/redis/toxics/latency_downstream", {"toxicity": 0})
    assert round_trip(listen) < 0.08


def test_the_first_two(api: Api, echo: str) -> None:
    """Fail the first two requests, and no other: what Toxiproxy was asked for and does not have."""
    listen = api.create("redis", echo)["listen"]
    body = {"type": "reset", "attributes": {"reset": "request", "requests": "1-2"}}
    assert api.ask("POST", "/proxies/redis/toxics", body).status == 200
    for _ in range(2):
        with dial(listen) as caller:
            caller.sendall(b"ping")
            assert is_broken(caller)
    round_trip(listen)


def test_a_direction_is_cut(api: Api, echo: str) -> None:
    """With a bandwidth of 0 nothing comes through, and when the toxic is removed it does."""
    listen = api.create("redis", echo)["listen"]
    with dial(listen) as caller:
        exchange(caller)
        for stream in ("upstream", "downstream"):
            body = {"name": f"CUT_{stream}", "type": "bandwidth", "stream": stream, "attributes": {"rate": 0}}
            api.ask("POST", "/proxies/redis/toxics", body)
        caller.sendall(b"late")
        caller.settimeout(0.05)
        with pytest.raises(TimeoutError):
            caller.recv(1)
        caller.settimeout(PATIENCE)
        for stream in ("upstream", "downstream"):
            api.ask("DELETE", f"/proxies/redis/toxics/CUT_{stream}")
        assert caller.recv(10) == b"late"


def test_a_reset_on_an_idle_link(api: Api, echo: str) -> None:
    """A reset acts where nobody says anything."""
    listen = api.create("redis", echo)["listen"]
    with dial(listen) as caller:
        exchange(caller)
        api.ask("POST", "/proxies/redis/toxics", {"type": "reset_peer", "attributes": {"timeout": 20}})
        with pytest.raises(ConnectionResetError):
            caller.recv(1)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"type": "latncy"}, 400, "invalid toxic type: "),
        ({}, 400, "invalid toxic type: "),
        ({"type": "latency", "stream": "walrus"}, 400, "stream was invalid, can be either upstream or downstream"),
        ({"type": "latency", "attributes": {"latency": "soon"}}, 400, "bad request body: latency is 'soon'; "),
        (LATENCY, 409, "toxic already exists"),
        ({"type": "noop", "name": "latency_downstream", "stream": "upstream"}, 409, "toxic already exists"),
        (b"nope", 400, "bad request body: it is not JSON: "),
    ],
    ids=str,
)
def test_toxics_that_cannot_be(api: Api, echo: str, body: object, status: int, message: str) -> None:
    """What can't be meant, and what is there already, is told, and the toxics are as they were."""
    api.create("redis", echo)
    api.ask("POST", "/proxies/redis/toxics", LATENCY)
    before = api.ask("GET", "/proxies/redis/toxics").body
    answer = api.ask("POST", "/proxies/redis/toxics", body)
    assert (answer.status, answer.body["status"]) == (status, status)
    assert answer.body["error"].startswith(message)
    assert api.ask("GET", "/proxies/redis/toxics").body == before


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_no_such_toxic(api: Api, echo: str, method: str) -> None:
    """A toxic that is not there is not found."""
    api.create("redis", echo)
    answer = api.ask(method, "/proxies/redis/toxics/none", {})
    assert (answer.status, answer.body) == (404, error(404, "toxic not found"))


def test_so_many_toxics(api: Api, echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of toxics on a proxy has a bound."""
    monkeypatch.setattr(registry, "TOXICS_MAX", 1)
    api.create("redis", echo)
    api.ask("POST", "/proxies/redis/toxics", {"type": "noop"})
    answer = api.ask("POST", "/proxies/redis/toxics", LATENCY)
    assert answer.body == error(400, "bad request body: the proxy has 1 toxics, and more it can't have")


# All of them


def entry(name: str, echo: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "upstream": echo, **fields}


def test_populate(api: Api, echo: str) -> None:
    """A list of proxies is made, each enabled unless it says otherwise."""
    listen = free_address()
    wanted = [entry("one", echo), entry("two", echo, listen=listen, enabled=False)]
    answer = api.ask("POST", "/populate", wanted)
    assert answer.status == 201
    assert [(proxy["name"], proxy["enabled"]) for proxy in answer.body["proxies"]] == [("one", True), ("two", False)]
    round_trip(answer.body["proxies"][0]["listen"])
    assert not is_up(listen)


def test_populate_keeps_what_stands(api: Api, echo: str) -> None:
    """A proxy that stands where it is wanted stays with its toxics and connections; one that does not is made anew."""
    one, two = (api.create(name, echo) for name in ("one", "two"))
    for name in ("one", "two"):
        api.ask("POST", f"/proxies/{name}/toxics", LATENCY)
    moved = free_address()
    with dial(one["listen"]) as caller:
        exchange(caller)
        wanted = [
            entry("one", echo, listen=one["listen"].replace("127.0.0.1", "localhost")),
            entry("two", echo, listen=moved, toxics=[LATENCY]),
        ]
        answer = api.ask("POST", "/populate", wanted)
        assert [len(proxy["toxics"]) for proxy in answer.body["proxies"]] == [1, 0]
        exchange(caller)
    round_trip(moved)
    assert not is_up(two["listen"])


def test_populate_again_with_any_port(api: Api, echo: str) -> None:
    """Who asks for any port, and asks again, has the one that he got."""
    first, again = (api.ask("POST", "/populate", [entry("one", echo, listen="localhost:0")]).body for _ in range(2))
    assert again == first


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([{"name": "one", "upstream": "a:1"}, {"name": ""}], "missing required field: name at proxy 2"),
        ([{"name": "one"}], "missing required field: upstream at proxy 1"),
        ([{"name": "one", "upstream": "a:1"}, 3], "bad request body: the proxy at proxy 2 is 3; it takes an object"),
        ([{"name": "one", "upstream": "a:1"}] * 2, "bad request body: duplicate proxy name 'one'"),
        ({"name": "one", "upstream": "a:1"}, "bad request body: it takes a list of proxies"),
        (b"[", "bad request body: it is not JSON: "),
    ],
    ids=str,
)
def test_lists_that_cannot_be_meant(api: Api, wanted: object, message: str) -> None:
    """Of a list in which something can't be meant nothing is made."""
    answer = api.ask("POST", "/populate", wanted)
    assert (answer.status, answer.body["proxies"]) == (400, [])
    assert answer.body["error"].startswith(message)
    assert api.ask("GET", "/proxies").body == {}


def test_a_list_of_which_one_cannot_be_had(api: Api, echo: str) -> None:
    """When one of a list can't listen, all is as it was: what was made is gone, what was replaced is back."""
    taken = api.create("taken", echo)["listen"]
    before = api.create("old", echo)
    api.ask("POST", "/proxies/old/toxics", LATENCY)
    moved, new = free_address(), free_address()
    wanted = [entry("new", echo, listen=new), entry("old", echo, listen=moved), entry("x", echo, listen=taken)]
    answer = api.ask("POST", "/populate", wanted)
    assert answer.body == error(500, f"listen tcp {taken}: bind: address already in use") | {"proxies": []}
    assert list(api.ask("GET", "/proxies").body) == ["taken", "old"]
    assert round_trip(before["listen"]) >= 0.08
    assert not is_up(new)
    assert not is_up(moved)


def test_reset(api: Api, echo: str) -> None:
    """All proxies are enabled, and without toxics; connections live on."""
    up, down = (api.create(name, echo)["listen"] for name in ("up", "down"))
    for name in ("up", "down"):
        api.ask("POST", f"/proxies/{name}/toxics", LATENCY)
    api.ask("POST", "/proxies/down", {"enabled": False})
    with dial(up) as caller:
        answer = api.ask("POST", "/reset")
        assert (answer.status, answer.body) == (204, "")
        assert exchange(caller) < 0.08
    assert round_trip(down) < 0.08
    assert all(proxy["enabled"] and not proxy["toxics"] for proxy in api.ask("GET", "/proxies").body.values())


def test_a_reset_of_which_one_fails(api: Api, echo: str) -> None:
    """A proxy that can't come up keeps no other from being reset."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = f"127.0.0.1:{somebody.getsockname()[1]}"
        api.create("down", echo, listen=taken, enabled=False)
        listen = api.create("slow", echo)["listen"]
        api.ask("POST", "/proxies/slow/toxics", LATENCY)
        answer = api.ask("POST", "/reset")
        assert answer.body == error(500, f"listen tcp {taken}: bind: address already in use")
        assert round_trip(listen) < 0.08
    assert api.ask("POST", "/reset").status == 204


# The server


def test_version(api: Api) -> None:
    """The version is that of Toxiproxy whose API this is; who serves it is told besides."""
    answer = api.ask("GET", "/version")
    assert answer.body["version"] == app.API_VERSION
    assert answer.body["server"].startswith("hormesis ")


def test_answers_are_numbered(api: Api) -> None:
    """Every answer has a number of its own, errors too."""
    numbers = [api.ask("GET", path).headers["X-Toxiproxy-Request-Id"] for path in ("/version", "/version", "/none")]
    assert len(set(numbers)) == 3


def test_browsers_are_turned_away(api: Api) -> None:
    """A page that somebody looks at can't drive the API."""
    answer = api.ask("GET", "/proxies", User_Agent="Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")
    assert (answer.status, answer.body) == (403, "User agent not allowed\n")
    assert api.ask("GET", "/proxies", User_Agent="toxiproxy-cli/v2.12.0 linux/amd64").status == 200


def test_wrong_paths_and_methods(api: Api) -> None:
    """The router's errors have bodies like all others, and say what would do."""
    assert api.ask("GET", "/nothing").body == error(404, "no such endpoint: /nothing")
    answer = api.ask("PUT", "/proxies")
    assert answer.body == error(405, "/proxies takes GET, HEAD, POST, not PUT")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


def test_a_body_that_does_not_come(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who promises a body and does not send it is not waited for."""
    monkeypatch.setattr(app, "_BODY_WITHIN", 0.05)
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE)
    connection.putrequest("POST", "/proxies")
    connection.putheader("Content-Length", "10")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 408
    response.read()
    connection.close()


def test_what_nobody_foresaw(api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An error of our own is logged, and answered without its details."""
    monkeypatch.setattr(app, "exposition", lambda _: 1 / 0)
    answer = api.ask("GET", "/metrics")
    assert (answer.status, answer.body) == (500, error(500, "internal error; the server's log has it"))
    assert "ZeroDivisionError" in caplog.text

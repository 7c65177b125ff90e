"""`hormesis proxy` as shells and service managers see it: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.chaos.toxiproxy.world import (
    PATIENCE,
    Command,
    Echo,
    NotServing,
    dial,
    exchange,
    free_address,
    is_up,
    round_trip,
)

from hormesis.cli import main

pytestmark = pytest.mark.system

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """The address of a service that echoes."""
    with ExitStack() as stack:
        yield Echo(stack).address


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in this process, and return the one line with which it refuses; its exit status is 2."""
    monkeypatch.delenv("HORMESIS_PROXY_TOKEN", raising=False)

    def run(*options: str) -> str:
        assert main(["proxy", *options]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        (line,) = told.err.splitlines()
        return line.removeprefix("hormesis: ")

    return run


def status(command: Command, path: str = "/proxies", token: str = "") -> int:
    request = urllib.request.Request(
        f"{command.url}{path}", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_proxy(echo: str, number: int, expected: int) -> None:
    """It says where its API and its proxy listen, serves both, and ends in order, connections included."""
    listen = free_address()
    with Command("--port", "0", "--seed", "5", "--listen", listen, "--upstream", echo, "--name", "redis") as command:
        assert re.fullmatch(r"API on http://127\.0\.0\.1:\d+, seed 5", command.lines[0])
        assert command.read_line() == f"redis: {listen} -> {echo}"
        assert status(command) == 200
        with dial(listen) as caller:
            exchange(caller)
            assert command.stop(number) == expected
            assert caller.recv(1) == b""
        assert command.errors == "hormesis: stopped; every proxy and every connection is closed\n"
    assert not is_up(listen)


def test_proxies_of_a_file(echo: str, tmp_path: Path) -> None:
    """Proxies of a file are told in its order."""
    one, two = free_address(), free_address()
    path = tmp_path / "toxiproxy.json"
    entries = [{"name": "one", "listen": one, "upstream": echo}]
    entries.append({"name": "two", "listen": two, "upstream": echo, "enabled": False})
    path.write_text(json.dumps(entries))
    with Command("--port", "0", "--config", str(path)) as command:
        assert command.read_line() == f"one: {one} -> {echo}"
        assert command.read_line() == f"two: {two} -> {echo} (disabled)"
        round_trip(one)


def test_killed_and_started_again(echo: str) -> None:
    """After SIGKILL nothing is left, and the next one has the same ports at once, without the faults of the last."""
    listen = free_address()
    api = free_address().rpartition(":")[2]
    options = ("--port", api, "--listen", listen, "--upstream", echo)
    with Command(*options) as command, dial(listen) as caller:
        exchange(caller)
        body = json.dumps({"type": "timeout"}).encode()
        urllib.request.urlopen(f"{command.url}/proxies/proxy/toxics", body, timeout=PATIENCE).close()
        assert command.stop(signal.SIGKILL) == -signal.SIGKILL
        assert not is_up(listen)
        with Command(*options) as again:
            assert status(again) == 200
            round_trip(listen)


def test_a_token(tmp_path: Path) -> None:
    """With a token, whoever does not show it gets nothing; it comes from a file or from the environment."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    with Command("--port", "0", "--host", "0.0.0.0", "--token-file", str(path)) as command:
        command.url = command.url.replace("0.0.0.0", "127.0.0.1")
        assert [status(command, token=token) for token in ("", "wrong", TOKEN)] == [401, 401, 200]
        assert status(command, "/metrics") == 401
    with Command("--port", "0", HORMESIS_PROXY_TOKEN=TOKEN) as command:
        assert [status(command, token=token) for token in ("", TOKEN)] == [401, 200]


def test_what_it_refuses_as_a_program() -> None:
    """A refusal is one line on stderr, and exit status 2."""
    with pytest.raises(NotServing) as refusal, Command("--port", "99999"):
        pass
    told, status = refusal.value.args
    assert told == "hormesis: --port is 99999; it takes a port from 1 to 65535, or 0 for a free one\n"
    assert status == 2


def test_beyond_the_loopback_without_a_token(refused: Callable[..., str]) -> None:
    """Without a token the API is for this machine only."""
    assert refused("--host", "0.0.0.0") == (
        "--host 0.0.0.0: beyond the loopback the API needs a token: --token-file or HORMESIS_PROXY_TOKEN"
    )


def test_tokens_that_are_none(refused: Callable[..., str], tmp_path: Path) -> None:
    """A token that can be guessed, or sent by nobody, is refused."""
    path = tmp_path / "token"
    for text in ("", "short", "two words in the file", "x" * 1001):
        path.write_text(text)
        told = refused("--token-file", str(path))
        assert told == f"--token-file {path}: holds no token; it takes 16 to 1000 letters, digits and signs in one line"
    assert refused("--token-file", str(tmp_path / "none")).endswith("none: can't be read: No such file or directory")


def test_what_it_refuses(refused: Callable[..., str], echo: str, tmp_path: Path) -> None:
    """What can't be done is one line with the value and what would do, and exit status 2; nothing is left listening."""
    assert refused("--port", "99999") == "--port is 99999; it takes a port from 1 to 65535, or 0 for a free one"
    assert refused("--listen", "127.0.0.1:0") == "--listen 127.0.0.1:0: for what? give the --upstream as well"
    assert refused("--name", "redis") == "--name redis: is the name of a proxy; give its --upstream as well"
    assert refused("--upstream", "nowhere").startswith("upstream is 'nowhere'; it takes an address like ")
    path = tmp_path / "proxies.toml"
    path.write_text(f'[[proxy]]\nname = "a"\nupstream = "{echo}"\n[[proxy.toxics]]\ntype = "latncy"\n')
    assert refused("--config", str(path)).startswith(
        f"{path}: proxy 'a': invalid toxic type: unknown type 'latncy' (did you mean 'latency'?)"
    )
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        free = free_address()
        told = refused("--port", str(taken), "--listen", free, "--upstream", echo)
        assert told == f"port {taken} of the API on 127.0.0.1 is in use; 0 is a free one"
        assert not is_up(free)
        told = refused("--port", "0", "--listen", f"127.0.0.1:{taken}", "--upstream", echo)
        assert told == f"listen tcp 127.0.0.1:{taken}: bind: address already in use"

"""The file that a server begins with: Toxiproxy's JSON, TOML, and whatever is neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.chaos.toxiproxy.world import Api, round_trip

from hormesis.chaos.toxiproxy import read_proxies
from hormesis.errors import ConfigurationError

TOML = """
[[proxy]]
name = "redis"
upstream = "{echo}"

[[proxy.toxics]]
type = "latency"
attributes = {{ latency = "80ms", connections = "2-" }}

[[proxy]]
name = "db"
upstream = "{echo}"
enabled = false
seed = 3
"""


def test_toml_with_toxics(api: Api, echo: str, tmp_path: Path) -> None:
    """Toxics of a file are in force from the first connection."""
    path = tmp_path / "proxies.toml"
    path.write_text(TOML.format(echo=echo))
    made = api.run(api.proxies.populate(read_proxies(path), with_toxics=True))
    assert [(proxy.settings.name, proxy.settings.enabled, len(proxy.toxics)) for proxy in made] == [
        ("redis", True, 1),
        ("db", False, 0),
    ]
    assert made[1].settings.seed == 3
    listen = made[0].settings.listen
    assert round_trip(listen) < 0.08 <= round_trip(listen)


def test_toxiproxys_json(api: Api, echo: str, tmp_path: Path) -> None:
    """Toxiproxy's own file is a list."""
    path = tmp_path / "toxiproxy.json"
    path.write_text(json.dumps([{"name": "redis", "listen": "[::1]:0", "upstream": echo, "enabled": True}]))
    (made,) = api.run(api.proxies.populate(read_proxies(path), with_toxics=True))
    assert made.settings.listen.startswith("[::1]:")
    round_trip(made.settings.listen)


def test_files_without_proxies(tmp_path: Path) -> None:
    """An empty file of either kind has no proxies."""
    (tmp_path / "a.toml").write_text("")
    (tmp_path / "a.json").write_text("[]")
    assert read_proxies(tmp_path / "a.toml") == read_proxies(tmp_path / "a.json") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", None, "can't be read: No such file or directory"),
        ("a.toml", None, "can't be read: No such file or directory"),
        ("a.json", "[", "is not JSON: "),
        ("a.json", "[" * 100_000, "is not JSON: "),
        ("a.json", "[" + " " * 1_000_000, "is larger than 1,000,000 bytes"),
        ("a.json", '{"name": "a"}', "has no list of proxies: [[proxy]] tables in TOML, an array in JSON"),
        ("a.json", '[{"nmae": "a"}]', "proxy 1: unknown key 'nmae' (did you mean 'name'?); known are: name, "),
        ("a.toml", "a = = b", "is not TOML: "),
        ("a.toml", "[proxies]", "unknown key 'proxies' (did you mean 'proxy'?); known are: proxy"),
        ("a.toml", "[proxy]", "has no list of proxies"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    """What can't be read is told with the file's name."""
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError) as refusal:
        read_proxies(path)
    assert str(refusal.value).startswith(f"{path}: {message}")

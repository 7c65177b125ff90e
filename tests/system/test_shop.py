"""The example shop, as the processes that a game day starts: what it promises bare, and what its policies add.

Faults here are the plainest ones, a service that was killed; the game day's own tests have the others.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.system

FOLDER = Path(__file__).parents[2] / "examples" / "shop"
READY_WITHIN = 30.0
"""Generous: three interpreters that start at once on a busy machine take seconds."""


class Service:
    """One uvicorn process on a port of its own, and a client that talks to it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> None:
        """Spawn the process; `wait_ready` is separate so that several can start side by side."""
        command = [sys.executable, "-m", "uvicorn", f"{self.name}:app", "--port", str(self.port)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SHOP_", "HORMESIS_"))}
        # The services call each other with httpx, which would go through a proxy that the environment names.
        env |= {"NO_PROXY": "127.0.0.1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=FOLDER,
                env=inherited | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Return once `/healthz` answers."""
        give_up = time.monotonic() + READY_WITHIN
        while time.monotonic() < give_up and self._process is not None and self._process.poll() is None:
            try:
                self.client.get("/healthz").raise_for_status()
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        pytest.fail(f"{self.name} did not become ready:\n{self.log.read_text()[-2000:]}")

    def freeze(self) -> None:
        """Let the process stand still until it is thawed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process as a crash does; it may be dead already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        self.client.close()


class Shop:
    """The four services, wired to each other; `policies` makes the storefront a protected one."""

    def __init__(self, folder: Path, policies: str = "") -> None:
        self.inventory = Service("inventory", folder)
        self.payments = Service("payments", folder)
        self.fulfilment = Service("fulfilment", folder)
        self.storefront = Service("storefront", folder)
        self._folder = folder
        self._policies = policies

    def start(self) -> None:
        self.inventory.start(INVENTORY_DB=str(self._folder / "inventory.db"))
        self.payments.start(PAYMENTS_DB=str(self._folder / "payments.db"))
        self.start_fulfilment()
        self.storefront.start(
            INVENTORY_URL=str(self.inventory.client.base_url),
            PAYMENTS_URL=str(self.payments.client.base_url),
            FULFILMENT_URL=str(self.fulfilment.client.base_url),
            SHOP_POLICIES=self._policies,
        )
        for service in (self.inventory, self.payments, self.fulfilment, self.storefront):
            service.wait_ready()

    def start_fulfilment(self) -> None:
        self.fulfilment.start(FULFILMENT_DB=str(self._folder / "fulfilment.db"))

    def order(self, order_id: str, sku: str, quantity: int = 1) -> httpx.Response:
        order = {"order_id": order_id, "sku": sku, "quantity": quantity}
        return self.storefront.client.post("/orders", json=order)

    def stock(self, sku: str) -> int:
        stock: int = self.inventory.client.get(f"/products/{sku}").json()["stock"]
        return stock

    def charges(self) -> dict[str, int]:
        charges: dict[str, int] = self.payments.client.get("/charges").json()
        return charges

    def parcels(self) -> int:
        count: int = self.fulfilment.client.get("/parcels").json()["count"]
        return count

    def wait_for_parcels(self, count: int) -> None:
        """Return once there are so many parcels, and nothing is left to be packed."""
        give_up = time.monotonic() + READY_WITHIN
        while time.monotonic() < give_up:
            waiting = self.storefront.client.get("/promise")
            if waiting.json()["orders"] == 0 and self.parcels() >= count:
                break
            time.sleep(0.02)
        assert self.parcels() == count


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, policies: str = "") -> Iterator[Shop]:
    shop = Shop(folder, policies)
    with ExitStack() as stack:
        for service in (shop.inventory, shop.payments, shop.fulfilment, shop.storefront):
            stack.callback(service.close)
        shop.start()
        yield shop


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A bare shop that no test harms; the tests keep apart by using different products."""
    with running(tmp_path_factory.mktemp("bare")) as shop:
        yield shop


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Shop]:
    """A protected shop of the test's own."""
    with running(tmp_path, "policies.toml") as shop:
        yield shop


def test_list(bare: Shop) -> None:
    """The list has all products, and is long enough for a narrow line to matter."""
    answer = bare.storefront.client.get("/products")
    assert answer.status_code == 200
    assert [product["sku"] for product in answer.json()["products"]] == [str(number) for number in range(1, 51)]
    assert 8_000 < len(answer.content) < 20_000
    assert "x-degraded" not in answer.headers


def test_product(bare: Shop) -> None:
    """A product has a name, a price and its stock; one that does not exist is a plain 404."""
    answer = bare.storefront.client.get("/products/1")
    assert answer.status_code == 200
    product = answer.json()
    assert product.pop("description")
    assert product == {"sku": "1", "name": "Plain Kettle", "price": 525, "stock": 1_000_000}
    assert bare.storefront.client.get("/products/none").status_code == 404


def test_order(bare: Shop) -> None:
    """An order answered 201 has one reservation and exactly one charge, of the price times the quantity."""
    before = bare.charges()
    answer = bare.order("order-1", "2", quantity=3)
    assert answer.status_code == 201
    assert answer.json() == {"order_id": "order-1", "sku": "2", "quantity": 3, "amount": 3 * 550}
    assert bare.stock("2") == 1_000_000 - 3
    assert bare.charges() == {"count": before["count"] + 1, "sum": before["sum"] + 3 * 550}
    charge = bare.payments.client.get("/charges/order-order-1").json()
    assert charge == {"key": "order-order-1", "order_id": "order-1", "amount": 3 * 550}


def test_order_twice(bare: Shop) -> None:
    """The same order posted again gets the same answer, and nothing is reserved or charged a second time."""
    first = bare.order("order-2", "3")
    before = bare.charges()
    again = bare.order("order-2", "3")
    assert (again.status_code, again.json()) == (201, first.json())
    assert bare.stock("3") == 1_000_000 - 1
    assert bare.charges() == before


def test_another_order_under_the_same_id(bare: Shop) -> None:
    """An order_id that is taken by another order is refused, and the first order stays as it was."""
    bare.order("order-3", "4")
    before = bare.charges()
    assert bare.order("order-3", "4", quantity=2).status_code == 422
    assert bare.stock("4") == 1_000_000 - 1
    assert bare.charges() == before


def test_sold_out(bare: Shop) -> None:
    """A product that is sold out is refused with 409, and not charged."""
    assert bare.order("order-4", "5", quantity=1_000_000).status_code == 201
    before = bare.charges()
    answer = bare.order("order-5", "5")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert bare.charges() == before


def test_charge_needs_a_key(bare: Shop) -> None:
    """A charge without an Idempotency-Key is refused with a problem body."""
    answer = bare.payments.client.post("/charges", json={"order_id": "order-6", "amount": 1})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 400


def test_charge_replayed(bare: Shop) -> None:
    """A key is charged once: the same request is replayed, another one under the key is refused."""
    headers = {"Idempotency-Key": "key-7"}
    first, again, other = (
        bare.payments.client.post("/charges", json={"order_id": "order-7", "amount": amount}, headers=headers)
        for amount in (100, 100, 200)
    )
    assert (first.json()["replayed"], again.json()["replayed"]) == (False, True)
    assert other.status_code == 422
    assert bare.payments.client.get("/charges/key-7").json()["amount"] == 100


def test_bare_without_payments(tmp_path: Path) -> None:
    """Without payments a bare order fails openly, and can be completed once they are back, with one reservation."""
    with running(tmp_path) as shop:
        shop.payments.kill()
        assert shop.order("order-1", "1").status_code == 500
        shop.payments.start(PAYMENTS_DB=str(tmp_path / "payments.db"))
        shop.payments.wait_ready()
        assert shop.charges() == {"count": 0, "sum": 0}
        assert shop.order("order-1", "1").status_code == 201
        assert shop.charges() == {"count": 1, "sum": 525}
        assert shop.stock("1") == 1_000_000 - 1


def test_protected_without_inventory(protected: Shop) -> None:
    """Without inventory what was seen before is answered as a marked copy, what was never seen with a 503."""
    client = protected.storefront.client
    product = client.get("/products/1")
    assert product.status_code == 200
    protected.inventory.kill()
    copy = client.get("/products/1")
    assert copy.status_code == 200
    assert copy.headers["x-degraded"] == "stale"
    assert copy.json() == product.json() | {"degraded": True}
    assert_unavailable(client.get("/products/2"))
    assert_unavailable(client.get("/products"))
    assert_unavailable(protected.order("order-1", "1"))
    assert protected.charges() == {"count": 0, "sum": 0}


def test_protected_after_a_list(protected: Shop) -> None:
    """Who has seen the list has seen every product on it."""
    client = protected.storefront.client
    listed = client.get("/products").json()["products"]
    protected.inventory.kill()
    for seen in (listed[0], listed[-1]):
        copy = client.get(f"/products/{seen['sku']}")
        assert copy.headers["x-degraded"] == "stale"
        assert copy.json() == seen | {"degraded": True}


def test_protected_without_payments(protected: Shop) -> None:
    """With payments gone a protected order is a 503 that says when to come back; refusals stay what they are."""
    assert protected.order("order-1", "1").status_code == 201
    assert protected.order("order-2", "none").status_code == 404
    assert protected.order("order-1", "1", quantity=2).status_code == 422
    protected.payments.kill()
    assert_unavailable(protected.order("order-3", "1"))
    assert protected.storefront.client.get("/products/1").headers.get("x-degraded") is None


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 503


def test_bare_orders_are_lost_behind_a_slow_fulfilment(tmp_path: Path) -> None:
    """A bare shop takes every order however many wait, and what can't be passed on is gone: customers were told 201."""
    with running(tmp_path) as shop:
        assert shop.order("order-0", "1").status_code == 201
        shop.wait_for_parcels(1)
        shop.fulfilment.freeze()
        assert {shop.order(f"order-{number}", "1").status_code for number in range(1, 30)} == {201}
        assert shop.storefront.client.get("/promise").json()["orders"] > 12
        shop.fulfilment.kill()
        give_up = time.monotonic() + READY_WITHIN
        while shop.storefront.client.get("/promise").json()["orders"] and time.monotonic() < give_up:
            time.sleep(0.02)
        shop.start_fulfilment()
        shop.fulfilment.wait_ready()
        assert shop.parcels() < shop.charges()["count"] == 30


def test_protected_orders_are_declined_before_they_are_charged(protected: Shop) -> None:
    """Behind a fulfilment that stands still a few orders are taken, and the next ones told to come back, uncharged.

    All that were taken are packed once: also those that were on their way when fulfilment was killed.
    """
    assert protected.order("first", "1").status_code == 201
    protected.wait_for_parcels(1)
    protected.fulfilment.freeze()
    answers = [protected.order(f"order-{number}", "1") for number in range(60)]
    taken = 1 + sum(answer.status_code == 201 for answer in answers)
    # Not even at the fastest are there more than there is room for, and what fulfilment had asked for already.
    assert 3 <= taken <= 1 + 40 + 3
    for answer in answers:
        if answer.status_code != 201:
            assert_unavailable(answer)
    assert protected.charges()["count"] == taken
    assert protected.stock("1") == 1_000_000 - taken
    protected.fulfilment.kill()
    protected.start_fulfilment()
    protected.fulfilment.wait_ready()
    protected.wait_for_parcels(taken)
    assert protected.order("order-59", "1").status_code == 201
    protected.wait_for_parcels(taken + 1)


def test_a_broken_promise_is_told(protected: Shop) -> None:
    """The shop says itself when an order waits longer than it has promised."""
    protected.fulfilment.freeze()
    assert protected.order("late", "1").status_code == 201
    assert protected.storefront.client.get("/promise").status_code == 200
    time.sleep(5.1)
    assert protected.storefront.client.get("/promise").status_code == 500
    protected.fulfilment.thaw()
    protected.wait_for_parcels(1)
    assert protected.storefront.client.get("/promise").status_code == 200


def test_reports_are_limited_and_nothing_else_is(protected: Shop) -> None:
    """Who asks for too many reports is told when to come back, by the name of the limit; everybody else is served."""
    client, key = protected.storefront.client, {"X-API-Key": "bookkeeper-key"}
    assert protected.order("sold", "1", quantity=2).status_code == 201
    answers = [client.get("/reports/sales", headers=key) for _ in range(12)]
    assert answers[0].json() == {"products": 1, "amount": 2 * 525}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in refused)
    assert all("reports" in answer.headers["ratelimit"] for answer in refused)
    assert {client.get("/products/1", headers=key).status_code for _ in range(12)} == {200}

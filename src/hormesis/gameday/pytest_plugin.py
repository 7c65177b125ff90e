"""The pytest plugin: game days as tests, and fixtures for faults, processes and load.

    @pytest.mark.gameday("gameday.toml", stresses=["payments slow"], arm="protected")
    def test_payments_may_be_slow(gameday): ...

    def test_a_slow_database(service_process, fault_proxy, load):
        database = service_process("my-database --port {port}")
        edge = fault_proxy(database.port)
        shop = service_process("uvicorn shop:app --port {port}", env={"DATABASE": f"{edge.host}:{edge.port}"})
        with edge.fault({"latency": "2s"}):
            result = load(f"{shop.url}/products", rate="50/s", for_="3s")

It is loaded by every pytest of an environment with Hormesis in it, and imports nothing until its mark or one of its
fixtures is used.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hormesis.gameday.as_tests import Held
    from hormesis.gameday.in_tests import Laboratory, Load, Proxy, Service

__all__ = ["fault_proxy", "gameday", "load", "service_process"]

_SECTIONS: pytest.StashKey[list[tuple[str, Callable[[], str]]]] = pytest.StashKey()
"""What a failed test's report tells besides: a title, and how to get the text."""
_HELD: pytest.StashKey[Any] = pytest.StashKey()
_FIXTURE = "gameday"
_LOG_SHOWN = 4000
"""Characters of a log that a failed test's report shows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("hormesis", "game days and faults")
    group.addoption(
        "--gameday-seed",
        type=int,
        metavar="N",
        help="what faults, arrivals and doses are drawn from, in place of the file's",
    )
    group.addoption(
        "--gameday-report", metavar="DIR", help="where game days leave their reports, a folder for each test"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        "gameday(file, stresses=None, arm=None, seed=None, verdict=('survived', 'degraded')): hold a game day; fail "
        "unless each stress has such a verdict. One test for each stress: those named, the file's tour, or 'all'",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each stress."""
    mark = metafunc.definition.get_closest_marker("gameday")
    if mark is None:
        return
    from hormesis.errors import HormesisError  # noqa: PLC0415  costs nothing where no test has the mark
    from hormesis.gameday.as_tests import planned  # noqa: PLC0415

    try:
        plans = planned(mark.args, mark.kwargs, folder=Path(metafunc.definition.path).parent)
    except HormesisError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    if _FIXTURE not in metafunc.fixturenames:
        metafunc.fixturenames.append(_FIXTURE)
    metafunc.parametrize(_FIXTURE, plans, indirect=True, ids=[plan.stress.name for plan in plans])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the game day of a mark held also where the test does not ask for what came of it."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and item.get_closest_marker("gameday")
            and _FIXTURE not in item.fixturenames
        ):
            item.fixturenames.append(_FIXTURE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Let the verdict decide, before the test says what else there is to say."""
    held: Held | None = item.stash.get(_HELD, None)
    if held is not None and (missed := held.missed()):
        pytest.fail(missed, pytrace=False)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what is needed to understand and repeat it."""
    report = yield
    if report.failed:
        report.sections += [(f"hormesis: {title}", text()) for title, text in item.stash.get(_SECTIONS, [])]
    return report


@pytest.fixture(scope="session")
def _laboratory(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    from hormesis.gameday.in_tests import Laboratory  # noqa: PLC0415  only a test that uses it pays for it

    seed = request.config.getoption("--gameday-seed")
    laboratory = Laboratory(1 if seed is None else seed)
    yield laboratory
    laboratory.close()


@pytest.fixture
def fault_proxy(_laboratory: Laboratory, request: pytest.FixtureRequest) -> Iterator[Callable[..., Proxy]]:
    """A function that starts a fault proxy in front of an address; see `hormesis.gameday.in_tests.Laboratory.proxy`.

    What it returns has `host`, `port` and `url`, and `apply`, `lift` and `fault` for faults. It works from synchronous
    and asynchronous tests, and is stopped after the test.
    """
    _tell_seed(request, _laboratory)
    with contextlib.ExitStack() as stack:

        def start(upstream: str | int | tuple[str, int], **settings: Any) -> Proxy:
            proxy = _laboratory.proxy(upstream, **settings)
            stack.callback(proxy.stop)
            return proxy

        yield start


@pytest.fixture
def service_process(
    _laboratory: Laboratory, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Service]]:
    """A function that starts a command on a free port; see `hormesis.gameday.in_tests.Laboratory.service`.

    What it returns has `host`, `port`, `url` and `log`, and `kill`, `pause`, `throttle`, `resume`, `stop` and `start`.
    It is stopped after the test, with all that it started; what can't be stopped is an error. With a failed test the
    end of its log is shown.
    """
    with contextlib.ExitStack() as stack:
        names: set[str] = set()

        def start(command: Any, *, name: str | None = None, **settings: Any) -> Service:
            called = name or _unused("service", names)
            names.add(called)
            log = tmp_path / f"{called}.log"
            _tell(request, f"log of {called}", lambda: _end_of(log))
            service = _laboratory.service(command, folder=tmp_path, name=called, **settings)
            stack.callback(service.stop)
            return service

        yield start


@pytest.fixture
def load(_laboratory: Laboratory, request: pytest.FixtureRequest) -> Load:
    """A function that sends load and returns what became of it; see `hormesis.gameday.in_tests.Load`.

    `await load.arun(…)` does so without blocking the test's own loop.
    """
    from hormesis.gameday.in_tests import Load  # noqa: PLC0415

    _tell_seed(request, _laboratory)
    return Load(_laboratory)


@pytest.fixture
def gameday(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """What came of the game day of the mark; see `hormesis.gameday.as_tests.Held`."""
    plan = getattr(request, "param", None)
    if plan is None:
        raise pytest.UsageError(
            'the fixture "gameday" is for tests with the mark: @pytest.mark.gameday("gameday.toml")'
        )
    config, item = request.config, request.node
    where = config.getoption("--gameday-report")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", item.nodeid.replace("/", "-").replace("::", "-"))[-120:]
    out = tmp_path_factory.mktemp("gameday") if where is None else Path(where) / name
    shared = tmp_path_factory.getbasetemp()
    turns = (shared.parent if hasattr(config, "workerinput") else shared) / "gameday.lock"
    held: Held = plan.hold(out, seed=config.getoption("--gameday-seed"), turns=turns, keep=where is not None)
    item.stash[_HELD] = held
    _tell(request, "game day", held.told)
    return held


def _tell(request: pytest.FixtureRequest, title: str, text: Callable[[], str]) -> None:
    request.node.stash.setdefault(_SECTIONS, []).append((title, text))


def _tell_seed(request: pytest.FixtureRequest, laboratory: Laboratory) -> None:
    told = request.node.stash.setdefault(_SECTIONS, [])
    if not any(title == "seed" for title, _ in told):
        told.append(("seed", lambda: f"{laboratory.seed}; again with --gameday-seed={laboratory.seed}"))


def _unused(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(n for i in range(2, 1000) if (n := f"{name}-{i}") not in taken)


def _end_of(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-_LOG_SHOWN:]
    except OSError:
        return "nothing was written"

"""The worker's side of a call, without a process: what is answered to what is asked."""

from __future__ import annotations

import io
import pickle
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from hormesis.context import CallFacts
from hormesis.policy import worker
from hormesis.policy.worker import SIZE_BYTES, Main, Reference, Report, Request, dump


class Wire(io.BytesIO):
    """What comes from the parent, and what goes to it."""

    def __init__(self, *messages: bytes) -> None:
        super().__init__(b"".join(len(message).to_bytes(SIZE_BYTES, "big") + message for message in messages))
        self.sent = b""

    def write(self, data: Any) -> int:
        self.sent += data
        return len(data)

    def answer(self) -> tuple[bytes, Report]:
        sent = io.BytesIO(self.sent)
        answer, report = (sent.read(int.from_bytes(sent.read(SIZE_BYTES), "big")) for _ in range(2))
        return answer, pickle.loads(report)


def asked(function: Reference | bytes, *args: Any, **kwargs: Any) -> tuple[bytes, Report]:
    wire = Wire(dump(Request(function, dump((args, kwargs)), None, CallFacts())))
    worker._serve(wire)
    return wire.answer()


def test_a_result() -> None:
    """An answer, and a report of what it was and what the process holds."""
    answer, report = asked(Reference("math", "sqrt"), 9)
    assert pickle.loads(answer) == 3
    assert (report.kind, report.text, report.exhausted) == ("result", "", False)
    assert report.memory > 1_000_000


def test_what_is_called_may_come_pickled() -> None:
    """What has no name of its own is sent itself."""
    answer, _ = asked(dump("abc".upper))
    assert pickle.loads(answer) == "ABC"


def test_an_exception(far_away: Any) -> None:
    """It travels with its class and attributes, whatever its `__init__` takes."""
    answer, report = asked(Reference("far_away", "fail"), far_away.Shortage, "tea", missing=3)
    error = worker._loads(answer)
    assert (type(error), error.sku, error.missing) == (far_away.Shortage, "tea", 3)
    assert report.kind == "error"


def test_an_exception_that_can_not_travel(far_away: Any) -> None:
    """In its place there are words."""
    answer, report = asked(Reference("far_away", "fail"), far_away.Locked)
    assert (answer, report.kind) == (b"", "untold")
    assert "Locked: locked" in report.text


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (Reference("nowhere", "f"), "No module named 'nowhere'"),
        (Reference("math", "nothing"), "has no attribute 'nothing'"),
        (Reference("math", "sqrt", wrappers=1), "__wrapped__"),
        (Reference("__main__", "f"), "that can't be loaded again"),
        (b"no pickle", "can't be loaded"),
    ],
)
def test_what_can_not_be_found(function: Reference | bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is not there is refused, in words."""
    monkeypatch.setattr(worker, "_scripts", worker._Scripts())
    _, report = asked(function)
    assert report.kind == "refused"
    assert says in report.text


def test_what_can_not_be_sent(far_away: Any) -> None:
    """A result that does not pickle is refused, and a coroutine among them is closed."""
    for function in ("result_of", "sync_in_name_only"):
        _, report = asked(Reference("far_away", function), *(["lock"] if function == "result_of" else []))
        assert report.kind == "refused"
        assert "can't be sent between processes" in report.text


def test_a_bound_on_memory_is_lifted_for_the_answer(monkeypatch: pytest.MonkeyPatch, far_away: Any) -> None:
    """When a call has too little, its answer has enough, and the parent hears of it."""
    lifted: list[object] = []
    monkeypatch.setattr(worker, "_set_memory", lifted.append)
    for function, args in (("fail", [MemoryError]), ("starve", []), ("starving", [])):
        answer, report = asked(Reference("far_away", function), *args)
        assert isinstance(pickle.loads(answer), MemoryError)
        assert report.exhausted
    assert lifted == [None] * 3


def test_a_message_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read to its end all the same, or the parent would wait for ever to send it."""

    class Narrow(Wire):
        def read(self, size: int | None = -1) -> bytes:
            if size is not None and size > 1 << 16:
                raise MemoryError
            return super().read(size)

    monkeypatch.setattr(worker, "_set_memory", lambda most: None)
    wire = Narrow(bytes(200_000))
    worker._serve(wire)
    answer, report = wire.answer()
    assert isinstance(pickle.loads(answer), MemoryError)
    assert report.exhausted
    assert wire.read() == b""


@pytest.mark.parametrize(("most", "hard", "soft"), [(100, -1, 100), (None, -1, -1), (100, 50, 50), (None, 50, 50)])
def test_the_bound_on_memory(most: int | None, hard: int, soft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never above what the system allows, and lifting it goes as far as that."""
    bounds: list[object] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda what, bound: bounds.append(bound))
    worker._set_memory(most)
    assert bounds == [(soft, hard)]


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory can't be measured, it counts as none."""

    def nothing(path: Path) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", nothing)
    assert worker._memory_in_use() == 0


def test_the_script_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the program's script is found in a module that is loaded for the first call, without its guard."""
    scripts = worker._Scripts()
    monkeypatch.setattr(worker, "_scripts", scripts)
    monkeypatch.setitem(worker.sys.modules, "__main__", worker.sys.modules["__main__"])
    monkeypatch.setitem(worker.sys.modules, "__mp_main__", worker.sys.modules["__main__"])
    (tmp_path / "shop.py").write_text(
        "from hormesis.policy import worker\nloading = worker.loading_main()\n"
        "class Order: pass\ndef same(order): return order\nif __name__ == '__main__': raise SystemExit\n"
    )
    scripts.main = Main(str(tmp_path / "shop.py"), None)
    module = worker._module("__main__")
    assert module is worker._module("__mp_main__")
    assert (module.loading, worker.loading_main()) == (True, False)
    order = module.Order()
    answer, _ = asked(Reference("__main__", "same"), order)
    assert isinstance(worker._loads(answer), module.Order)


def test_a_script_that_fails_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does on the way it does once, and every call that needs it says why it can't be."""
    scripts = worker._Scripts()
    monkeypatch.setattr(worker, "_scripts", scripts)
    monkeypatch.setitem(worker.sys.modules, "__main__", worker.sys.modules["__main__"])
    monkeypatch.setitem(worker.sys.modules, "__mp_main__", worker.sys.modules["__main__"])
    (tmp_path / "shop.py").write_text("import os\nos.mkdir('once')\nraise ValueError('broken')\n")
    monkeypatch.chdir(tmp_path)
    scripts.main = Main(str(tmp_path / "shop.py"), None)
    for _ in range(2):
        _, report = asked(Reference("__main__", "f"))
        assert "ValueError: broken" in report.text


def test_nothing_of_a_call_is_left_behind(far_away: Any) -> None:
    """The deadline and the context of one call are gone with it."""
    before = threading.active_count()
    asked(Reference("far_away", "remember"), "something")
    answer, _ = asked(Reference("far_away", "remember"), "something")
    assert pickle.loads(answer) == "nothing"
    assert threading.active_count() == before

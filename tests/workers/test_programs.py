"""Programs that have worker processes: how they are started, and how they end, in whatever way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

FUNCTIONS = Path(__file__).with_name("functions")
PATIENCE = 20.0

SCRIPT = """
import os
import hormesis as hm

policy = hm.Policy(hm.Bulkhead(1, workers="processes"), name="main")

class Order:
    def __init__(self, pid): self.pid = pid

class Refused(Exception): pass

@policy
def place(order):
    if order.pid == 0:
        raise Refused("no")
    return Order(os.getpid())
"""
GUARD = """
if __name__ == "__main__":
    print("started")
    order = place(Order(1))
    assert type(order) is Order and order.pid != os.getpid()
    try:
        place(Order(0))
    except Refused as error:
        print("refused", error)
"""


def start(*arguments: str, cwd: Path, **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(FUNCTIONS), *filter(None, [os.environ.get("PYTHONPATH")])])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def run(*arguments: str, cwd: Path, stdin: str | None = None) -> tuple[str, str]:
    with start(*arguments, cwd=cwd, stdin=subprocess.PIPE) as program:
        return program.communicate(stdin, PATIENCE)


def test_functions_of_a_guarded_script(tmp_path: Path) -> None:
    """A script's own functions and classes work in its workers, and what it does is not done there again."""
    (tmp_path / "shop.py").write_text(SCRIPT + GUARD)
    assert run("shop.py", cwd=tmp_path) == ("started\nrefused no\n", "")


def test_functions_of_a_module_that_is_started(tmp_path: Path) -> None:
    """The same for `python -m`, with imports from its own package."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "near.py").write_text("")
    (tmp_path / "shop" / "app.py").write_text("from . import near\n" + SCRIPT + GUARD)
    assert run("-m", "shop.app", cwd=tmp_path) == ("started\nrefused no\n", "")


def test_functions_of_a_script_without_a_guard(tmp_path: Path) -> None:
    """They are refused when they are decorated: a worker would do again what the script does."""
    (tmp_path / "shop.py").write_text("print('started')\n" + SCRIPT)
    out, err = run("shop.py", cwd=tmp_path)
    assert out == "started\n"
    assert "ConfigurationError: place can't run in a worker process: it is defined in" in err
    assert "if __name__ == '__main__':" in err


def test_functions_that_are_typed_in(tmp_path: Path) -> None:
    """In an interactive session they are refused, and those of modules work."""
    out, err = run("-", cwd=tmp_path, stdin=SCRIPT.replace("@policy", "") + "print(policy.call(abs, -3))\n"
                   "policy.call(place, Order(1))")  # fmt: skip
    assert out == "3\n"
    assert "ConfigurationError: place can't run in a worker process: it is defined in an interactive session" in err


def test_a_script_that_calls_while_it_is_loaded(tmp_path: Path) -> None:
    """Workers don't start workers without end: the call is refused where the script is loaded again."""
    (tmp_path / "shop.py").write_text(SCRIPT + "print('loaded')\nplace(Order(1))\n" + GUARD)
    out, err = run("shop.py", cwd=tmp_path)
    assert out.count("loaded") == 2
    assert "was called while a worker process was loading the script" in err


def test_modules_work_whatever_the_script_is(tmp_path: Path) -> None:
    """A script without a guard may call functions of modules; it is not run again for that."""
    (tmp_path / "shop.py").write_text(
        "import math, hormesis as hm\nprint(hm.Policy(hm.Bulkhead(1, workers='processes')).call(math.sqrt, 9))\n"
    )
    assert run("-X", "dev", "-W", "error", "shop.py", cwd=tmp_path) == ("3.0\n", "")


def test_what_workers_print_comes_out(tmp_path: Path) -> None:
    """Standard output and error of a worker are the program's, and are flushed after each call."""
    (tmp_path / "shop.py").write_text(
        "import far_away, os, hormesis as hm\npolicy = hm.Policy(hm.Bulkhead(1, workers='processes'))\n"
        "policy.call(far_away.say, 'hello')\nos._exit(0)\n"
    )
    assert run("shop.py", cwd=tmp_path) == ("hello\n", "")


BUSY = textwrap.dedent(
    """
    import sys, threading, time, far_away, hormesis as hm
    policy = hm.Policy(hm.Bulkhead(3, workers="processes"))
    calls = [(far_away.tell_pid_and_sleep, "busy"), (far_away.tell_pid_and_hold_the_interpreter, "stuck")]
    for function, name in calls:
        threading.Thread(target=policy.call, args=(function, f"{sys.argv[1]}/{name}", 600), daemon=True).start()
    policy.call(far_away.tell_pid_and_sleep, f"{sys.argv[1]}/idle", 0)
    print("ready", flush=True)
    time.sleep(600)
    """
)


def test_no_worker_outlives_its_parent(tmp_path: Path, notes: Any, is_gone: Any, until: Any) -> None:
    """However a program ends, its workers end too: idle ones, busy ones, and those that let no thread run."""
    with start("-c", BUSY, str(tmp_path), cwd=tmp_path) as program:
        pids = [notes.pid(name) for name in ("busy", "stuck", "idle")]
        assert not any(is_gone(pid) for pid in pids[:2])
        program.kill()
        program.wait(PATIENCE)
        until(lambda: all(is_gone(pid) for pid in pids))


def test_workers_end_when_the_program_does(tmp_path: Path, notes: Any, is_gone: Any) -> None:
    """A program that comes to its end has ended its workers before, also busy ones."""
    end = BUSY.replace("time.sleep(600)\n", "").replace(
        'print("ready", flush=True)', 'import os\nwhile len(os.listdir(sys.argv[1])) < 3: time.sleep(0.01)'
    )  # fmt: skip
    _, err = run("-X", "dev", "-c", end, str(tmp_path), cwd=tmp_path)
    assert "ResourceWarning" not in err
    assert all(is_gone(notes.pid(name)) for name in ("busy", "stuck", "idle"))


def test_ctrl_c(tmp_path: Path, notes: Any, is_gone: Any) -> None:
    """Ctrl-C ends a call in the program that made it, and the worker is killed."""
    script = (
        "import sys, far_away, hormesis as hm\npolicy = hm.Policy(hm.Bulkhead(1, workers='processes'), name='c')\n"
        "hm.listen(lambda event: print(event.name, getattr(event, 'reason', '')))\n"
        "try:\n    policy.call(far_away.tell_pid_and_sleep, f'{sys.argv[1]}/busy', 600)\n"
        "except KeyboardInterrupt:\n    print('interrupted', policy.snapshot()['parts']['bulkhead']['in_flight'])\n"
        "print(policy.call(abs, -3))\n"
    )
    with start("-c", script, str(tmp_path), cwd=tmp_path) as program:
        pid = notes.pid("busy")
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE)
    assert (out, err) == ("worker_replaced interrupted\ninterrupted 0\n3\n", "")
    assert is_gone(pid)


def test_a_program_that_forks(tmp_path: Path) -> None:
    """A child that is forked has workers of its own, and its end takes none of the parent's."""
    script = (
        "import gc, os, sys, hormesis as hm\npolicy = hm.Policy(hm.Bulkhead(1, workers='processes'))\n"
        "mine = policy.call(os.getpid)\n"
        "if os.fork() == 0:\n    gc.collect()\n    assert policy.call(os.getpid) != mine\n    sys.exit(0)\n"
        "assert os.wait()[1] == 0\nassert policy.call(os.getpid) == mine\nprint('fine')\n"
    )
    assert run("-W", "error", "-c", script, cwd=tmp_path) == ("fine\n", "")

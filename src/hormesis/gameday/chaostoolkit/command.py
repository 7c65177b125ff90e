"""`hormesis gameday experiment.json`: run an experiment of the Chaos Toolkit's, and say how it ended.

Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end it early, with its rollbacks; SIGUSR2, as in the Chaos Toolkit, without them.
Once the rollbacks are being played, each further signal cuts off the one that runs, and the next follows.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hormesis.chaos import Keeper
from hormesis.errors import ConfigurationError
from hormesis.gameday.chaostoolkit.experiment import probes_of, read
from hormesis.gameday.chaostoolkit.journal import Journal
from hormesis.gameday.chaostoolkit.runner import Experiment, Settings, resolve
from hormesis.gameday.chaostoolkit.threads import Worker
from hormesis.gameday.chaostoolkit.values import Table, variables
from hormesis.gameday.chaostoolkit.will import Will

__all__ = ["plan_of", "run_file"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def run_file(
    path: str | os.PathLike[str],
    out: Path,
    *,
    given: Iterable[str] = (),
    as_data: bool = False,
    **strategies: Any,
) -> int:
    """Run an experiment, and return the exit status of a command that did.

    Args:
        path: The file, JSON or YAML.
        out: The folder for `journal.json`; it must exist.
        given: Configuration in place of the file's, each `name=value` or `name:type=value`.
        as_data: Print the journal instead of words.
        strategies: As in `Settings`; None for what the file says.

    Returns:
        0 if it ran to its end and the steady state held, 1 if not, 128 and the signal's number if it was interrupted.

    Raises:
        ConfigurationError: It can't be run as it is, or the folder can't be written to.
        MissingExtraError: What it needs is not installed.
    """
    experiment = _read(path)
    settings = Settings.of(experiment, **strategies)
    chosen = variables(given)
    journal, held, received = asyncio.run(_run(experiment, settings, chosen, out))
    if as_data:
        _print(journal.to_json())
    else:
        _print(_conclusion(journal, held))
        _print(f"journal: {out / 'journal.json'}")
    if journal.trouble is not None:
        raise ConfigurationError(f"--out {out}: the journal can't be written: {journal.trouble.strerror}")
    return 128 + received if received else 0 if held else 1


async def _run(experiment: Table, settings: Settings, given: Table, out: Path) -> tuple[Journal, bool, int]:
    """Run it under a watchdog; returns the journal, whether all held, and the signal that ended it, if one did."""
    path = out / "journal.json"
    loop = asyncio.get_running_loop()
    received: list[int] = []
    try:
        keeper = Keeper(out / "undo.jsonl")
        keeper.start()
    except OSError as error:
        raise ConfigurationError(f"--out {out}: can't be written to: {error.strerror or error}") from error
    try:
        worker = Worker("configuration")
        values = await resolve(experiment, given, worker, keeper)
        worker.close()
        journal = Journal(experiment, path)
        run = Experiment(experiment, values, settings, journal, keeper=keeper, guard=Will(keeper, path), say=_say)

        def stop(name: str) -> None:
            received.append(int(getattr(signal, name)))
            run.interrupt(f"{name} received", rollbacks=name != "SIGUSR2")

        for name in _SIGNALS:
            loop.add_signal_handler(getattr(signal, name), stop, name)
        await run.run()
    except OSError as error:
        raise ConfigurationError(f"--out {out}: can't be written to: {error.strerror or error}") from error
    finally:
        keeper.close()
    return journal, run.held, received[0] if journal.status == "interrupted" and received else 0


def _read(path: str | os.PathLike[str]) -> Table:
    for folder in (os.getcwd(), os.fspath(Path(path).resolve().parent)):
        if folder not in sys.path:
            sys.path.append(folder)  # where the modules of Python providers and controls usually are
    return read(path)


def plan_of(path: str | os.PathLike[str]) -> Iterator[str]:
    """Say in lines what an experiment would do, and do nothing.

    Raises:
        ConfigurationError: It can't be run as it is.
        MissingExtraError: What it needs is not installed.
    """
    experiment = _read(path)
    yield f"experiment: {experiment['title']}"
    stages = [
        ("the steady state must hold, before and after", probes_of(experiment)),
        ("the method", experiment["method"] or []),
        ("the rollbacks, whatever becomes of the method", experiment.get("rollbacks") or []),
    ]
    for title, activities in stages:
        yield f"{title}:" if activities else f"{title}: none"
        for activity in activities:
            yield f"  {_worded(activity)}"


def _worded(activity: Table) -> str:
    if "ref" in activity:
        return f"{activity['ref']} (again)"
    provider = activity["provider"]
    match provider["type"]:
        case "python":
            what = f"{provider['module']}.{provider['func']}"
        case "http":
            what = f"{str(provider.get('method') or 'GET').upper()} {provider['url']}"
        case _:
            what = f"{provider['path']} {provider.get('arguments') or ''}".strip()
    aside = ", in the background" if activity.get("background") else ""
    return f"{activity['type']} {activity['name']}: {what}{aside}"


def _conclusion(journal: Journal, held: bool) -> str:
    """Say how it ended, and why."""
    states = journal.steady_states
    lines = [f"ended: {'deviated' if journal.deviated else journal.status}"]
    for when, state in [("before", states["before"]), ("after", states["after"]), ("restored", states["restored"])]:
        if state is not None and not state["steady_state_met"]:
            moment = {"before": "before the method", "after": "after the method", "restored": "after the rollbacks"}[
                when
            ]
            lines.append(f"  the steady state was not met {moment}: {state['probes'][-1]['activity']['name']}")
    lost = sum(not state["steady_state_met"] for state in states["during"])
    if lost:
        lines.append(f"  the steady state was not met in {lost} of {len(states['during'])} looks during the method")
    for title, runs in (("activity", journal.run), ("rollback", journal.rollbacks)):
        failed = [run["activity"]["name"] for run in runs if run["status"] == "failed"]
        lines += [f"  {title} failed: {name}" for name in failed]
    if held and len(lines) > 1:
        lines.append("  what failed in the method may not have done to the system what it was meant to do")
    return "\n".join(lines)


def _print(text: str) -> None:
    print(text)  # noqa: T201  # the output of a command


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # the progress of a command

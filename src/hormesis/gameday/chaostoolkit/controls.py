"""Controls: Python modules that are told what an experiment does, before and after.

A module has any of these functions, with LEVEL one of experiment, hypothesis, method, rollback and activity:

    configure_control(configuration, secrets, …)      once, before all else
    before_LEVEL_control(context, …)                  context: the experiment, the hypothesis or the activity
    after_LEVEL_control(context, state, …)            state: what came of it, as in the journal
    cleanup_control()                                 once, after all else

Each but the last may have parameters `configuration`, `secrets`, `experiment`, `extensions` and `settings` besides, and
those that the control's own `arguments` name. Controls of the experiment act everywhere, unless `automatic` is false;
those of the hypothesis or of an activity there, and take the place of one of the experiment's with the same name.
`{ref: name}` stands for the experiment's of that name.

A control that fails is said to have failed, and nothing else comes of it, unless it raises `InterruptExecution`: then
the experiment ends.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

from hormesis.gameday.chaostoolkit.providers import Interrupted, asks_for_the_end
from hormesis.gameday.chaostoolkit.threads import Worker
from hormesis.gameday.chaostoolkit.values import Table, Values

__all__ = ["Controls", "Level"]

_WITHIN = 60.0
"""Seconds that one function of a control may take."""

Level = Literal["experiment", "hypothesis", "method", "rollback", "activity"]
"""What a control stands around."""


class Controls:
    """The controls of an experiment.

    Args:
        experiment: The file.
        values: What `${name}` stands for.
        say: Is told in words what went wrong.
    """

    def __init__(self, experiment: Table, values: Values, say: Callable[[str], None]) -> None:
        self._experiment = experiment
        self._values = values
        self._say = say
        self._own: list[Table] = experiment.get("controls") or []

    async def configure(self, worker: Worker) -> None:
        """Tell each module once that an experiment begins."""
        for control in self._all():
            await self._call(worker, control, "configure_control", {})

    async def clean_up(self, worker: Worker) -> None:
        """Tell each module once that it is over."""
        for control in self._all():
            await self._call(worker, control, "cleanup_control", {})

    async def before(self, worker: Worker, level: Level, context: Table) -> None:
        """Tell what is about to be done.

        Raises:
            Interrupted: A control asks for the end of the experiment.
        """
        for control in self._of(level, context):
            if control.get("scope") != "after":
                await self._call(worker, control, f"before_{level}_control", {"context": context})

    async def after(self, worker: Worker, level: Level, context: Table, state: Any) -> None:
        """Tell what came of it.

        Raises:
            Interrupted: A control asks for the end of the experiment.
        """
        for control in self._of(level, context):
            if control.get("scope") != "before":
                await self._call(worker, control, f"after_{level}_control", {"context": context, "state": state})

    def _all(self) -> Iterator[Table]:
        """Yield every control that stands anywhere, each name once."""
        hypothesis = self._experiment.get("steady-state-hypothesis") or {}
        holders = [self._experiment, hypothesis, *(hypothesis.get("probes") or [])]
        holders += [*(self._experiment.get("method") or []), *(self._experiment.get("rollbacks") or [])]
        seen = set()
        for control in (control for holder in holders for control in holder.get("controls") or []):
            if "ref" not in control and control["name"] not in seen:
                seen.add(control["name"])
                yield control

    def _of(self, level: Level, context: Table) -> list[Table]:
        if context is self._experiment:
            return [each for each in self._own if level == "experiment" or each.get("automatic", True)]
        by_name = {control["name"]: control for control in self._own}
        local = [by_name[each["ref"]] if "ref" in each else each for each in context.get("controls") or []]
        replaced = {control["name"] for control in local}
        general = [each for each in self._own if each.get("automatic", True) and each["name"] not in replaced]
        return general + local

    async def _call(self, worker: Worker, control: Table, name: str, given: Table) -> None:
        function = getattr(importlib.import_module(control["provider"]["module"]), name, None)
        if function is None:
            return
        offered = {
            "configuration": self._values.configuration,
            "secrets": self._values.secrets,
            "experiment": self._experiment,
            "extensions": self._experiment.get("extensions"),
            "settings": {},
            **given,
        }
        own = {} if name == "cleanup_control" else control["provider"].get("arguments") or {}
        arguments = self._values.fill(copy.deepcopy(own))
        if "context" in given:
            arguments["context"] = given["context"]
        parameters = inspect.signature(function).parameters
        arguments.update({key: value for key, value in offered.items() if key in parameters})
        try:
            async with asyncio.timeout(_WITHIN):
                await worker.call(function, **arguments)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if asks_for_the_end(error):
                raise Interrupted(f"control {control['name']}: {str(error) or type(error).__name__}") from error
            self._say(f"control {control['name']}: {name} failed: {type(error).__name__}: {error}")

"""The course of an experiment: the steady state, the method, the steady state again, the rollbacks.

    hypothesis -> not met: failed, and nothing is done
    method     -> with the hypothesis beside it, if that is asked for
    hypothesis -> not met: the system has deviated
    rollbacks  -> whenever the method has begun, whatever became of it
    hypothesis -> not met: the rollbacks have not restored it

What runs can be interrupted at any moment: it is cut off, the rollbacks follow, and the experiment ends as interrupted.
An interruption during the rollbacks cuts the one that runs, and the next follows. A failed activity of the method does
not end the experiment, as the format has it; a failed probe of the hypothesis means that it is not met.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import traceback
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

from hormesis.chaos import Keeper
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.gameday.chaostoolkit import values as values_of
from hormesis.gameday.chaostoolkit.controls import Controls
from hormesis.gameday.chaostoolkit.experiment import activity_of, probes_of
from hormesis.gameday.chaostoolkit.journal import Journal, now, seconds_between
from hormesis.gameday.chaostoolkit.providers import ActivityFailed, Interrupted, provide
from hormesis.gameday.chaostoolkit.threads import Worker
from hormesis.gameday.chaostoolkit.tolerance import met
from hormesis.gameday.chaostoolkit.values import Table, Values

__all__ = ["Experiment", "Guard", "Settings", "resolve"]

Hypothesis = Literal["default", "before-method-only", "after-method-only", "during-method-only", "continuously", "skip"]
Rollbacks = Literal["default", "always", "never", "deviated"]

PROBE_WITHIN = 300.0
ACTION_WITHIN = 3600.0
"""Seconds after which what sets itself no limit is ended: probes and rollbacks, and activities of the method."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is not in the file, or only under `runtime`.

    Attributes:
        hypothesis: When to look at the steady state: by default before the method and after it.
        rollbacks: When to play the rollbacks: by default whenever the method has begun.
        frequency: Seconds between two looks at the steady state during the method.
        fail_fast: Whether the first look that finds it lost ends the method.

    Raises:
        ConfigurationError: A strategy is unknown, or the frequency can't be meant.
    """

    hypothesis: Hypothesis = "default"
    rollbacks: Rollbacks = "default"
    frequency: float = 1.0
    fail_fast: bool = False

    def __post_init__(self) -> None:
        for name, known in (("hypothesis", get_args(Hypothesis)), ("rollbacks", get_args(Rollbacks))):
            if getattr(self, name) not in known:
                unknown = ConfigurationError.unknown("strategy", getattr(self, name), known)
                raise ConfigurationError(f"{name}: {unknown}", name)
        if not self.frequency > 0:
            raise ConfigurationError.bad_value("frequency", self.frequency, "a number of seconds above 0")

    @classmethod
    def of(cls, experiment: Table, **given: Any) -> Settings:
        """Return what an experiment's `runtime` says, with what is given (and not None) in its place."""
        runtime = experiment.get("runtime") or {}
        own = {name: (runtime.get(name) or {}).get("strategy") for name in ("hypothesis", "rollbacks")}
        return cls(**{name: value for name, value in {**own, **given}.items() if value is not None})


async def resolve(experiment: Table, given: Table, worker: Worker, keeper: Keeper | None) -> Values:
    """Return the values of an experiment; asks the probes that configuration comes from.

    Raises:
        ConfigurationError: A value can't be had.
    """
    found = values_of.configuration(experiment.get("configuration") or {}, given)
    values = Values({}, values_of.secrets(experiment.get("secrets") or {}))
    for name, value in found.items():
        if not (isinstance(value, dict) and value.get("type") == "probe"):
            values.configuration[name] = value
            continue
        try:
            said = await provide(value, values, worker, keeper, _limit(value, values, PROBE_WITHIN))
        except (ActivityFailed, Interrupted) as error:
            raise ConfigurationError(f"configuration.{name}: its probe failed: {error}", name) from error
        kind = value["provider"]["type"]
        if kind == "process" and said["status"] != 0:
            message = f"configuration.{name}: its probe ended with status {said['status']}: {said['stderr'].strip()}"
            raise ConfigurationError(message, name)
        values.configuration[name] = (
            said["stdout"].strip() if kind == "process" else said["body"] if kind == "http" else said
        )
    return values


class Guard(Protocol):
    """Who plays the rollbacks if this process dies."""

    async def arm(self, experiment: Table, values: Values) -> None:
        """Be ready from now on; raises an error, and the method is not begun, if that can't be."""

    async def disarm(self) -> None:
        """Leave them alone from now on; does nothing when it was not armed."""


class Experiment:
    """One run of an experiment.

    Args:
        experiment: The file.
        values: What `${name}` stands for.
        settings: What is not in the file.
        journal: Gets everything that happens.
        keeper: Who ends programs if this process dies.
        guard: Who plays the rollbacks then.
        say: Is told in words what happens.
    """

    def __init__(
        self,
        experiment: Table,
        values: Values,
        settings: Settings,
        journal: Journal,
        *,
        keeper: Keeper | None = None,
        guard: Guard | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._experiment = experiment
        self._values = values
        self._settings = settings
        self._journal = journal
        self._keeper = keeper
        self._guard = guard
        self._say = say
        self._controls = Controls(experiment, values, say)
        self._worker = Worker("experiment")
        self._probes_worker = Worker("hypothesis during the method")
        self._stage: asyncio.Task[Any] | None = None
        self._begun = False
        self._reason = ""
        self._without_rollbacks = False

    @property
    def held(self) -> bool:
        """Whether it ran to its end, the steady state held, and the rollbacks restored the system."""
        journal = self._journal
        restored = journal.steady_states["restored"]
        return (
            journal.status == "completed"
            and not journal.deviated
            and (restored is None or restored["steady_state_met"])
            and all(run["status"] == "succeeded" for run in journal.rollbacks)
        )

    def interrupt(self, reason: str, *, rollbacks: bool = True) -> None:
        """Cut off what runs: the experiment, and its rollbacks follow; or a rollback, and the next one follows."""
        self._without_rollbacks |= not rollbacks
        if self._stage is None or self._stage.cancelling():
            return
        self._reason = self._reason or reason
        self._stage.cancel()

    async def run(self) -> None:
        """Run it to its end; how it ended is in the journal."""
        journal = self._journal
        self._say(f"experiment: {self._values.fill(self._experiment['title'])}")
        try:
            await self._cut_short(self._course())
        except Interrupted as interruption:
            journal.status = "interrupted"
            self._say(f"interrupted: {interruption}")
        except HormesisError as error:
            journal.status = "aborted"
            self._say(f"aborted: {error}")
        except Exception as error:
            journal.status = "aborted"
            journal.table["exception"] = traceback.format_exception(error)
            self._say(f"aborted: {type(error).__name__}: {error}")
        finally:
            await self._end()

    async def _cut_short(self, stage: Any) -> Any:
        """Do something that `interrupt` can cut off."""
        task = self._stage = asyncio.ensure_future(stage)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and self._reason:
                self._journal.status = "interrupted"
                raise Interrupted(self._reason) from None
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            self._stage = None

    async def _course(self) -> None:
        """The steady state, the method, and the steady state again."""
        journal, strategy = self._journal, self._settings.hypothesis
        await self._controls.configure(self._worker)
        await self._controls.before(self._worker, "experiment", self._experiment)
        probes = bool(probes_of(self._experiment))
        if probes and strategy in ("default", "before-method-only", "continuously"):
            state = journal.steady_states["before"] = await self._hypothesis(self._worker)
            journal.save()
            if not state["steady_state_met"]:
                journal.status = "failed"
                self._say("the steady state is not met, so nothing is done to the system")
                return
        if self._guard is not None and self._settings.rollbacks in ("default", "always"):
            await self._guard.arm(self._experiment, self._values)
        self._begun = True
        if probes and strategy in ("during-method-only", "continuously"):
            await self._method_watched()
        else:
            await self._method()
        status = "failed" if journal.deviated and self._settings.fail_fast else "completed"
        if probes and strategy in ("default", "after-method-only", "continuously"):
            state = journal.steady_states["after"] = await self._hypothesis(self._worker)
            if not state["steady_state_met"]:
                journal.deviated = True
                if state["probes"][-1]["status"] == "failed":
                    status = "failed"
        journal.status = "failed" if status == "failed" else "completed"

    async def _method(self) -> None:
        """The activities in order; those in the background go on beside the others, and are waited for."""
        await self._controls.before(self._worker, "method", self._experiment)
        runs = self._journal.run
        try:
            async with asyncio.TaskGroup() as background:
                for activity in self._experiment["method"] or []:
                    if activity.get("background"):
                        background.create_task(self._aside(activity, runs))
                        await asyncio.sleep(0)
                    else:
                        await self._activity(activity, runs, self._worker, ACTION_WITHIN)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        await self._controls.after(self._worker, "method", self._experiment, runs)

    async def _aside(self, activity: Table, runs: list[Table]) -> None:
        worker = Worker(f"background: {activity.get('name', 'activity')}")
        try:
            await self._activity(activity, runs, worker, ACTION_WITHIN)
        finally:
            worker.close()

    async def _method_watched(self) -> None:
        """The method, with looks at the steady state meanwhile; one that finds it lost may end it."""
        over = asyncio.Event()
        method = asyncio.ensure_future(self._method())
        method.add_done_callback(lambda _: over.set())
        watch = asyncio.ensure_future(self._during(over))
        try:
            await asyncio.wait([method, watch], return_when=asyncio.FIRST_COMPLETED)
            if watch.done() and not method.done():
                method.cancel()
            await asyncio.wait([method])
            if not method.cancelled():
                method.result()
            await watch
        finally:
            for task in (method, watch):
                task.cancel()
            await asyncio.gather(method, watch, return_exceptions=True)

    async def _during(self, over: asyncio.Event) -> None:
        """Look at the steady state again and again until the method is over, or the first loss is to end it."""
        while True:
            state = await self._hypothesis(self._probes_worker)
            self._journal.steady_states["during"].append(state)
            self._journal.save()
            if not state["steady_state_met"]:
                self._journal.deviated = True
                if self._settings.fail_fast:
                    self._say("the steady state is lost, so the method is ended")
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.frequency):
                    await over.wait()
            if over.is_set():
                return

    async def _hypothesis(self, worker: Worker) -> Table:
        """Ask the probes in order until one of them is out of tolerance."""
        hypothesis = self._experiment["steady-state-hypothesis"]
        self._say(f"steady state: {hypothesis['title']}")
        state: Table = {"steady_state_met": False, "probes": []}
        await self._controls.before(worker, "hypothesis", hypothesis)
        for probe in probes_of(self._experiment):
            run = await self._activity(probe, state["probes"], worker, PROBE_WITHIN)
            run["tolerance_met"] = run["status"] == "succeeded" and await self._within(probe, run["output"], worker)
            if not run["tolerance_met"]:
                if run["status"] == "succeeded":
                    self._say(f"  {run['activity']['name']} is not in its tolerance: {_short(run['output'])}")
                break
        else:
            state["steady_state_met"] = True
        await self._controls.after(worker, "hypothesis", hypothesis, state)
        return state

    async def _within(self, probe: Table, said: Any, worker: Worker) -> bool:
        """Say whether what a probe said is in its tolerance; a tolerance may be a probe of its own."""
        tolerance = activity_of(self._experiment, probe)["tolerance"]
        if not (isinstance(tolerance, dict) and tolerance["type"] == "probe"):
            return met(tolerance, said, self._values)
        judge = copy.deepcopy(tolerance)
        arguments = judge["provider"].setdefault("arguments", {})
        if isinstance(arguments, dict):
            arguments["value"] = said
        try:
            limit = _limit(judge, self._values, PROBE_WITHIN)
            answer = await provide(judge, self._values, worker, self._keeper, limit)
        except ActivityFailed as error:
            self._say(f"  its tolerance failed: {error}")
            return False
        match judge["provider"]["type"]:
            case "process":
                return bool(answer["status"] == 0)
            case "http":
                return bool(answer["status"] < 400)
            case _:
                return bool(answer)

    async def _activity(self, activity: Table, runs: list[Table], worker: Worker, within: float) -> Table:
        """Do one activity, with its pauses and controls, and return what the journal says of it."""
        activity = activity_of(self._experiment, activity)
        await self._controls.before(worker, "activity", activity)
        pauses = self._values.fill(activity.get("pauses") or {})
        await asyncio.sleep(pauses.get("before") or 0)
        self._say(f"{activity['type']}: {activity['name']}")
        run: Table = {"activity": copy.deepcopy(activity), "output": None, "start": now()}
        runs.append(run)
        try:
            limit = _limit(activity, self._values, within)
            run["output"] = await provide(activity, self._values, worker, self._keeper, limit)
            run["status"] = "succeeded"
        except ActivityFailed as error:
            _fail(run, error)
            self._say(f"  {activity['name']} failed: {error}")
        except BaseException as error:
            _fail(run, error)
            raise
        finally:
            run["end"] = now()
            run["duration"] = seconds_between(run["start"], run["end"])
            self._journal.save()
        await asyncio.sleep(pauses.get("after") or 0)
        await self._controls.after(worker, "activity", activity, run)
        return run

    async def _end(self) -> None:
        """Roll back, see whether that restored the system, and finish the journal."""
        journal = self._journal
        if self._rolls_back():
            await self.undo()
        if self._guard is not None:
            await self._guard.disarm()
        with contextlib.suppress(Interrupted):
            await self._controls.after(self._worker, "experiment", self._experiment, journal.table)
        await self._controls.clean_up(self._worker)
        self._worker.close()
        self._probes_worker.close()
        journal.finish()

    async def undo(self) -> None:
        """Play the rollbacks that the journal does not have yet, and see whether the system is as it was."""
        await self._rollbacks()
        before = self._journal.steady_states["before"]
        if before is not None and before["steady_state_met"]:
            await self._verify()
        self._journal.save()

    def _rolls_back(self) -> bool:
        if self._without_rollbacks or not self._experiment.get("rollbacks"):
            return False
        match self._settings.rollbacks:
            case "always":
                return True
            case "never":
                return False
            case "deviated":
                return self._journal.deviated
            case _:
                return self._begun

    async def _rollbacks(self) -> None:
        """Undo, each rollback in turn, whatever becomes of the one before it."""
        self._say("rolling back")
        runs = self._journal.rollbacks
        with contextlib.suppress(Interrupted):
            await self._controls.before(self._worker, "rollback", self._experiment)
        for activity in self._experiment["rollbacks"][len(runs) :]:
            self._reason = ""
            try:
                await self._cut_short(self._activity(activity, runs, self._worker, PROBE_WITHIN))
            except Interrupted as interruption:
                self._say(f"  it was cut off: {interruption}")
            except Exception as error:  # whatever it is, it must not keep the next from being played
                self._say(f"  it failed: {type(error).__name__}: {error}")
        with contextlib.suppress(Interrupted):
            await self._controls.after(self._worker, "rollback", self._experiment, runs)

    async def _verify(self) -> None:
        """See whether the system is as it was before the method."""
        try:
            state = await self._cut_short(self._hypothesis(self._worker))
        except Interrupted:
            return
        self._journal.steady_states["restored"] = state
        if not state["steady_state_met"]:
            self._say("the rollbacks have not restored the steady state")


def _limit(activity: Table, values: Values, otherwise: float) -> float:
    """Return the seconds that an activity has: its own limit, or its provider's; two of those add up."""
    own, provider = values.fill(activity.get("timeout")), values.fill(activity["provider"].get("timeout"))
    limit = own if own is not None else provider
    if limit is None:
        return otherwise
    return sum(map(float, limit)) if isinstance(limit, list) else float(limit)


def _fail(run: Table, error: BaseException) -> None:
    run["status"] = "failed"
    cut = isinstance(error, asyncio.CancelledError)
    run["exception"] = ["it was cut off, as the experiment ended early"] if cut else traceback.format_exception(error)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"

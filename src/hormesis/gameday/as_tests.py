"""Game days as tests: what the mark of the pytest plugin asks for, held one stress at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, Stress, load_experiment
from hormesis.gameday.results import GameDay, StressResult, Verdict

__all__ = ["Held", "Plan", "planned"]

_SETTINGS = ("stresses", "arm", "seed", "verdict")
_HELD = (Verdict.SURVIVED, Verdict.DEGRADED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One test: a stress of a file.

    Attributes:
        file: The experiment.
        experiment: What is in it.
        stress: Which of its stresses.
        arms: Which of its arms.
        wanted: The verdicts that each judged arm may have.
    """

    file: Path
    experiment: Experiment
    stress: Stress
    arms: Sequence[str]
    wanted: Sequence[Verdict]

    def hold(self, out: Path, *, seed: int | None, turns: Path, keep: bool) -> Held:
        """Hold it.

        Args:
            out: The folder for its report, logs and events.
            seed: In place of the file's.
            turns: A file by which game days take turns: two at a time would measure each other.
            keep: Whether its page is written even when all is well.

        Raises:
            HormesisError: The system can't be started, or its folder can't be written to.
        """
        # Tests that are only collected need none of these.
        from hormesis.gameday.in_tests import LoopThread  # noqa: PLC0415
        from hormesis.gameday.report import as_json, observer, write_page  # noqa: PLC0415
        from hormesis.gameday.runner import Day  # noqa: PLC0415

        experiment = self.experiment if seed is None else dataclasses.replace(self.experiment, seed=seed)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--gameday-report: {out} can't be written to: {error.strerror}") from error
        day = Day(experiment, [self.stress], self.arms, file=self.file, out=out, observer=observer())
        with _turn(turns), contextlib.closing(LoopThread()) as thread:  # the test's own thread may be inside a loop
            result = thread.run(day.hold())
        held = Held(plan=self, result=result, folder=out)
        (out / "report.json").write_text(json.dumps(as_json(result, samples=True)), encoding="utf-8")
        if keep or held.missed():
            write_page(result, held.report)
        return held


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What came of it.

    Attributes:
        plan: What was to be done.
        result: Everything that was found.
        folder: Where its report, logs and events are.
    """

    plan: Plan
    result: GameDay
    folder: Path

    @property
    def report(self) -> Path:
        """The page; it is written when an arm has another verdict than wanted, and always with `--gameday-report`."""
        return self.folder / "report.html"

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """How each arm came through it."""
        return {arm: outcome.verdict for arm, outcome in self.stress.outcomes.items()}

    @property
    def stress(self) -> StressResult:
        """What the stress did to each arm."""
        return next(stress for stress in self.result.stresses if stress.name == self.plan.stress.name)

    @property
    def judged(self) -> Sequence[str]:
        """The arms that decide: of one that was named it is that one, else those that the file judges."""
        return self.plan.arms if len(self.plan.arms) == 1 else self.result.judged

    def missed(self) -> str:
        """Say what is not as wanted; nothing when all is."""
        stress = self.stress
        wanted = " or ".join(self.plan.wanted)
        lines = []
        for arm in self.judged:
            outcome = stress.outcomes[arm]
            if outcome.verdict not in self.plan.wanted:
                lines.append(
                    f"{arm}: {outcome.verdict}, not {wanted}, under {stress.name!r} ({stress.target}: {stress.fault})"
                )
                lines += [f"  {reason}" for reason in outcome.reasons]
        return "\n".join(lines)

    def told(self) -> str:
        """Say how to look at it, and how to repeat it."""
        plan, result = self.plan, self.result
        arms = [word for arm in plan.arms for word in ("--arm", arm)]
        again = [
            "hormesis",
            "gameday",
            os.fspath(plan.file),
            "--only",
            plan.stress.name,
            *arms,
            "--seed",
            str(result.seed),
        ]
        page = self.report if self.report.exists() else self.folder / "report.json"
        return f"seed {result.seed}; report: {page}\nagain: {shlex.join(again)}"


def planned(args: Sequence[Any], settings: Mapping[str, Any], *, folder: Path) -> list[Plan]:
    """Return the tests that a mark asks for, one for each stress.

    Args:
        args: What the mark was given: the file, from the folder of the test.
        settings: And by name.
        folder: That folder.

    Raises:
        ConfigurationError: The file, or what is asked of it, can't be meant.
    """
    if len(args) != 1 or not isinstance(args[0], str | os.PathLike):
        raise ConfigurationError.bad_value("@pytest.mark.gameday", list(args), "the path of an experiment file")
    for name in settings:
        if name not in _SETTINGS:
            raise ConfigurationError(f"@pytest.mark.gameday: {ConfigurationError.unknown('setting', name, _SETTINGS)}")
    file = folder / args[0]
    experiment = load_experiment(file)
    if (seed := settings.get("seed")) is not None:
        if not isinstance(seed, int):
            raise ConfigurationError.bad_value("seed", seed, "a whole number")
        experiment = dataclasses.replace(experiment, seed=seed)
    names = settings.get("stresses")
    if names is not None and not (names and isinstance(names, str | list | tuple)):
        raise ConfigurationError.bad_value("stresses", names, "names of stresses, or 'all'; left out: the tour")
    everything = names == "all"
    chosen = experiment.chosen(
        [] if names is None or everything else [names] if isinstance(names, str) else names, everything=everything
    )
    arm = settings.get("arm")
    if arm is not None and arm not in list(experiment.arm):
        raise ConfigurationError(f"arm: {ConfigurationError.unknown('arm', arm, experiment.arm)}")
    arms = [arm] if arm is not None else list(experiment.arm)
    wanted = settings.get("verdict", _HELD)
    try:
        verdicts = [Verdict(each) for each in ([wanted] if isinstance(wanted, str) else wanted)]
    except (TypeError, ValueError):
        verdicts = []
    if not verdicts:
        raise ConfigurationError.bad_value("verdict", wanted, f"some of {', '.join(Verdict)}") from None
    return [Plan(file=file, experiment=experiment, stress=stress, arms=arms, wanted=verdicts) for stress in chosen]


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        with contextlib.suppress(ImportError):  # not on Windows
            import fcntl  # noqa: PLC0415

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

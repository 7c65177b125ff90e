"""The findings in words: pure functions from a game day to sentences, shared by the terminal and the page.

Two rules of honesty. A number is rounded to its unflattering side, so that 98.96 % never reads as the 99 % that was
wanted. And of a policy's parts it is only said that they *acted*: which of them made the difference, one run with all
of them in force can't show.
"""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from hormesis.chaos.journal import Episode
from hormesis.gameday.metastability import Hysteresis, State
from hormesis.gameday.noise import Noise
from hormesis.gameday.results import (
    QUANTILES,
    Acted,
    Check,
    GameDay,
    Outcome,
    Phase,
    ProbeResult,
    RouteStats,
    StressResult,
    Verdict,
)
from hormesis.units import format_seconds

__all__ = [
    "APART",
    "acted",
    "back_in",
    "command",
    "counted",
    "duration",
    "errors",
    "goodput",
    "headline",
    "interval",
    "lag",
    "machine",
    "metastable",
    "metric",
    "missed_in",
    "percent",
    "probed",
    "recovery",
    "send_lag",
    "share",
    "standing",
    "stats_of",
    "summary",
    "tally",
    "unbroken",
    "undone",
    "useful",
    "what_happened",
]

APART = ("degraded", "declined")
"""Answers that are no full ones, and no plain failures either."""

_NO_NUMBER = "–"
_MISSED_SHOWN = 3
_UNKNOWN_SHOWN = 3
_ERROR_KIND_LENGTH = 40

_VERDICTS = {
    Verdict.SURVIVED: "survives it",
    Verdict.FAILED: "does not survive it",
    Verdict.INCONCLUSIVE: "inconclusive",
}

_NO_REQUESTS = RouteStats(
    requests=0,
    full=0,
    degraded=0,
    declined=0,
    failed=0,
    good=0,
    p50=math.nan,
    p99=math.nan,
    errors={},
    attempts=0,
    histogram="",
)


def stats_of(outcome: Outcome, phase: Phase = Phase.CONTAINED, route: str = "") -> RouteStats:
    """Return the figures of a phase and route; those of no requests where there are none, as after an early end."""
    return outcome.stats.get(phase, {}).get(route, _NO_REQUESTS)


def goodput(stats: RouteStats) -> float:
    """Return the share of requests that got a full answer inside its objective; not a number without requests."""
    return stats.good / stats.requests if stats.requests else math.nan


def useful(stats: RouteStats) -> float:
    """Return the share of requests that somebody could do something with: good answers, and degraded ones."""
    return (stats.good + stats.degraded) / stats.requests if stats.requests else math.nan


def share(stats: RouteStats, ending: str) -> float:
    """Return the share of requests that ended so, such as `"degraded"`; not a number without requests."""
    return int(getattr(stats, ending)) / stats.requests if stats.requests else math.nan


def percent(share: float) -> str:
    """Write a share, rounded down: all of it is 100 %, and nothing less is.

    >>> percent(0.03), percent(0.9896), percent(0.99996), percent(1.0), percent(0.0002)
    ('3 %', '98.9 %', '99.99 %', '100 %', '<0.1 %')
    """
    if not math.isfinite(share):
        return _NO_NUMBER
    if 0 < share < 0.001:
        return "<0.1 %"
    steps = 100 if share >= 0.99 else 10
    # Rounding first takes away what binary fractions add or leave: 0.57 * 1000 is 569.9999.
    return f"{math.floor(round(share * 100 * steps, 6)) / steps:g} %"


def duration(value: float) -> str:
    """Write a duration, rounded up to two or three digits.

    >>> duration(0.0123), duration(0.2501), duration(5.0), duration(2.345), duration(90)
    ('13 ms', '251 ms', '5.0 s', '2.35 s', '1m30s')
    """
    if not math.isfinite(value):
        return _NO_NUMBER
    if value < 0.01:
        return f"{_up(value * 1000, 10):g} ms"
    if value < 1:
        return f"{_up(value * 1000, 1):g} ms"
    if value < 10:
        return f"{_up(value, 100):.2f}".removesuffix("0") + " s"
    return f"{_up(value, 10):g} s" if value < 60 else format_seconds(math.ceil(value))


def _up(value: float, steps: int) -> float:
    return math.ceil(round(value * steps, 6)) / steps


def metric(name: str, value: float) -> str:
    """Write the value of a check's metric: latencies as durations, throughputs as rates, all else as shares."""
    if name == "throughput":
        return f"{math.floor(round(value * 10, 6)) / 10:g}/s" if math.isfinite(value) else _NO_NUMBER
    return duration(value) if name in QUANTILES else percent(value)


def interval(check: Check) -> str:
    """Write the interval in which the true value of what was measured is; empty where there is none.

    >>> about = {"route": "browse", "phase": Phase.CALM, "wanted": 0.9, "measured": 0.95, "requests": 50, "held": True}
    >>> interval(Check(**about, metric="success")), interval(Check(**about, metric="success", low=0.9051, high=0.9741))
    ('', '90.5 % to 97.5 %')
    """
    if math.isnan(check.low):
        return ""
    low, high = metric(check.metric, check.low), metric(check.metric, check.high)
    if check.metric in QUANTILES and math.isinf(check.high):
        return f"{low} or more" if check.low > 0 else "of any length"
    if check.metric not in QUANTILES and check.metric != "throughput":
        high = _percent_up(check.high)
    return f"{low} to {high}"


def _percent_up(share: float) -> str:
    """Write a share, rounded up.

    >>> _percent_up(0.9896), _percent_up(0.0), _percent_up(0.0301)
    ('99 %', '0 %', '3.1 %')
    """
    return f"{math.ceil(round(share * 1000, 6)) / 10:g} %" if math.isfinite(share) else _NO_NUMBER


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a count with its noun, in the plural if need be."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def unbroken(said: str) -> str:
    """Return a sentence in which no line breaks between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(%|ms|s)(?!\w))", "\u00a0", said)


def errors(stats: RouteStats, shown: int) -> str:
    """List the most frequent kinds of failure with their counts, and sum up the others."""
    kinds = sorted(stats.errors.items(), key=lambda kind: -kind[1])
    listed = [f"{count:,}x {_shortened(kind)}" for kind, count in kinds[:shown]]
    if rest := kinds[shown:]:
        listed.append(f"{sum(count for _, count in rest):,}x of {counted(len(rest), 'other kind')}")
    return ", ".join(listed)


def standing(gameday: GameDay, stresses: Sequence[StressResult]) -> Verdict:
    """Return the worst verdict of the judged arms; what is not known is worse than what held."""
    order = (Verdict.SURVIVED, Verdict.DEGRADED, Verdict.INCONCLUSIVE, Verdict.FAILED)
    verdicts = [stress.outcomes[arm].verdict for stress in stresses for arm in gameday.judged]
    return max(verdicts, key=order.index, default=Verdict.INCONCLUSIVE)


def headline(gameday: GameDay) -> str:
    """Say in one sentence whether the judged arms hold their objectives."""
    if not gameday.stresses:
        return "Nothing was stressed."
    if not gameday.judged:
        return "No arm was judged."
    arms = _and(gameday.judged)
    hold, miss = ("holds its", "misses its") if len(gameday.judged) == 1 else ("hold their", "miss their")
    total = counted(len(gameday.stresses), "stress", "stresses")
    worst = [standing(gameday, [stress]) for stress in gameday.stresses]
    failed, unknown = worst.count(Verdict.FAILED), worst.count(Verdict.INCONCLUSIVE)
    degraded = worst.count(Verdict.DEGRADED)
    if failed:
        apart = f"; {unknown} inconclusive" if unknown else ""
        return f"{arms} {miss} objectives under {failed} of {total}{apart}."
    if unknown:
        return f"Whether {arms} {hold} objectives can't be told: {unknown} of {total} inconclusive."
    apart = f", {degraded} of them with degraded or declined answers" if degraded else ""
    return f"{arms} {hold} objectives under {total}{apart}."


def summary(gameday: GameDay) -> list[str]:
    """Say which failure modes each arm survives, arms that are not judged first; then what is not known."""
    controls = [arm for arm in gameday.arms if arm not in gameday.judged]
    said = [_survival(gameday, arm) for arm in (*controls, *gameday.judged) if gameday.stresses]
    unknown = [
        (stress.name, outcome)
        for stress in gameday.stresses
        for outcome in stress.outcomes.values()
        if outcome.verdict is Verdict.INCONCLUSIVE
    ]
    if unknown:
        told = [
            f"{name} for {outcome.arm}{_reasons(outcome, before=' (', after=')')}"
            for name, outcome in unknown[:_UNKNOWN_SHOWN]
        ]
        told += [f"and {len(unknown) - _UNKNOWN_SHOWN} more"] if len(unknown) > _UNKNOWN_SHOWN else []
        said.append(f"Inconclusive: {'; '.join(told)}.")
    if gameday.ended:
        said.append(f"It ended before its time: {gameday.ended.rstrip('.')}.")
    if gameday.left_out:
        said.append(f"Left out of this run: {_and(gameday.left_out)}.")
    return said


def _survival(gameday: GameDay, arm: str) -> str:
    verdicts = [(stress.name, stress.outcomes[arm].verdict) for stress in gameday.stresses]
    failed = [name for name, verdict in verdicts if verdict is Verdict.FAILED]
    degraded = [name for name, verdict in verdicts if verdict is Verdict.DEGRADED]
    held = sum(verdict.held for _, verdict in verdicts)
    said = f"{arm} survives {held} of {counted(len(verdicts), 'failure mode')}"
    said += f" ({_and(degraded)} with degraded or declined answers)" if degraded else ""
    said += f"; it does not survive {_and(failed)}" if failed else ""
    return said + "."


def what_happened(outcome: Outcome) -> str:
    """Say what a stress did to an arm: the verdict and what it rests on, the way back, and an early end."""
    missed = "; ".join(filter(None, [*_findings(outcome), _missed([c for c in outcome.checks if c.held is False])]))
    match outcome.verdict:
        case Verdict.FAILED if missed:
            why = f": {missed}"
        case Verdict.SURVIVED | Verdict.DEGRADED:
            why = f": {_contained(outcome)}"
        case _:
            why = _reasons(outcome, before=": ")
    said = [f"{outcome.arm}: {_verdict(outcome)}{why}", recovery(outcome)]
    if outcome.aborted:
        said.append(f"the dose was ended early: {outcome.aborted.rstrip('.')}")
    return "; ".join(said)


def _findings(outcome: Outcome) -> list[str]:
    """Say what no objective speaks of: processes that died, probes that missed, a system that stayed broken."""
    probes: dict[str, list[str]] = {}
    for probe in outcome.probes:
        if probe.judged and not probe.held and probe.phase is not Phase.CALM:
            probes.setdefault(probe.probe, []).append(probe.described)
    said = [*outcome.ended]
    if outcome.hysteresis is not None and outcome.hysteresis.state is not State.RECOVERED:
        said.append(
            f"{outcome.hysteresis.state}, with a hysteresis gap of {percent(outcome.hysteresis.gap)} of the load"
        )
    said += [each[0] if len(each) == 1 else f"{each[0]}, and {len(each) - 1} times more" for each in probes.values()]
    return said


def missed_in(outcome: Outcome) -> str:
    """Name the phases in which objectives were missed; empty when none was."""
    phases = dict.fromkeys(check.phase for check in outcome.checks if check.held is False)
    return f"in {_and(phases)}" if phases else ""


def recovery(outcome: Outcome) -> str:
    """Say when answers were back to normal."""
    after = outcome.recovered_after
    if after is None:
        return "not seen back to normal"
    return f"back to normal {duration(after)} after the dose" if after > 0 else "back to normal at the dose's end"


def back_in(outcome: Outcome) -> str:
    """Say the same for a cell of a table."""
    after = outcome.recovered_after
    if after is None:
        return "never"
    return duration(after) if after > 0 else "at once"


def _verdict(outcome: Outcome) -> str:
    """Say a verdict; of one that was held in part, how the rest was answered."""
    if outcome.verdict is not Verdict.DEGRADED:
        return _VERDICTS[outcome.verdict]
    after = [by_route[""] for phase, by_route in outcome.stats.items() if phase is not Phase.CALM and "" in by_route]
    how = [name for name in APART if any(getattr(stats, name) for stats in after)]
    return f"survives it with {' and '.join(how) or 'degraded'} answers"


def _contained(outcome: Outcome) -> str:
    stats = stats_of(outcome)
    if not stats.requests:
        return "no requests in contained"
    by_route = f" ({_by_route(outcome)})" if stats.declined else ""
    apart = "".join(f", {percent(share(stats, how))} {how}" for how in APART if getattr(stats, how))
    return f"goodput {percent(goodput(stats))}{by_route}{apart} in contained, p99 {duration(stats.p99)}"


def _by_route(outcome: Outcome) -> str:
    """Say the goodput of each route: who was served while others were declined is what a priority is for."""
    routes = {
        route: stats for route, stats in outcome.stats.get(Phase.CONTAINED, {}).items() if route and stats.requests
    }
    return ", ".join(f"{route} {percent(goodput(stats))}" for route, stats in routes.items())


def _missed(checks: Sequence[Check]) -> str:
    """List missed objectives; those of one route and phase name them once."""
    said: list[str] = []
    for (route, phase), group in itertools.groupby(
        checks[:_MISSED_SHOWN], key=lambda check: (check.route, check.phase)
    ):
        for i, check in enumerate(group):
            who, when = ("", "") if i else (f"{route or 'all requests'} ", f" in {phase}")
            measured, wanted = metric(check.metric, check.measured), metric(check.metric, check.wanted)
            sure = f", interval {between}" if (between := interval(check)) else ""
            said.append(f"{who}{check.metric} {measured}{when} (objective {wanted}{sure})")
    if more := checks[_MISSED_SHOWN:]:
        said.append(f"and {counted(len(more), 'other objective')} missed")
    return ", ".join(said)


def acted(outcome: Outcome) -> list[str]:
    """Say what the parts of each policy did, a sentence for each policy and process."""
    where = {(part.process, part.policy) for part in outcome.acted}
    policies = [policy for _, policy in where]
    said: dict[tuple[str, str], list[str]] = {}
    for part in outcome.acted:
        if done := _done(part):
            said.setdefault((part.process, part.policy), []).append(done)
    return [
        f"{policy}{f' in {process}' if policies.count(policy) > 1 else ''}: {'; '.join(parts)}"
        for (process, policy), parts in said.items()
    ]


def _done(part: Acted) -> str:
    """Say what one part did, such as "the circuit breaker opened 2x, first after 0.8 s"; nothing if it did nothing."""
    phrases = [_phrase(part.part, key, count) for key, count in part.counts.items() if count]
    if not phrases:
        return ""
    who = part.part if part.part == "retry" else f"the {part.part.replace('_', ' ')}"
    return f"{who} {_and(phrases)}{_first(part.first)}"


def _phrase(part: str, key: str, count: int) -> str:
    match part, key:
        case "retry", "retried":
            return f"made {counted(count, 'more attempt')}"
        case "retry", "succeeded":
            return f"{count:,} of them brought the answer"
        case "retry", "gave up":
            return f"gave up on {counted(count, 'call')}"
        case "timeout", "cut off":
            return f"cut off {counted(count, 'attempt')}"
        case "fallback", "had no answer":
            return f"had no answer for {counted(count, 'call')}"
        case _, "refused" | "queued" | "cut off" | "answered":
            return f"{key} {counted(count, 'call')}"
        case _:
            return f"{key} {count:,}x"


def _first(first: float) -> str:
    if not math.isfinite(first):
        return ""
    return f", first {duration(-first)} before the dose" if first < 0 else f", first after {duration(first)}"


def command(gameday: GameDay) -> str:
    """Return the command that repeats the game day: the same stresses from the same seed."""
    names = dict.fromkeys(stress.stress or stress.name for stress in gameday.stresses)
    chosen = [part for name in names for part in ("--only", name)] if gameday.left_out else ["--all"]
    return shlex.join(["hormesis", "gameday", "--seed", str(gameday.seed), *chosen, gameday.file])


def tally(gameday: GameDay, arm: str) -> list[tuple[Verdict, int]]:
    """Count the verdicts of an arm, the best first."""
    found = Counter(stress.outcomes[arm].verdict for stress in gameday.stresses)
    return [(verdict, found[verdict]) for verdict in Verdict if found[verdict]]


def metastable(found: Hysteresis) -> str:
    """Say what freed a system from what a trigger had done to it."""
    held = counted(len(found.steps), "load")
    match found.state:
        case State.RECOVERED:
            return "it came back by itself, under the load that it had before"
        case State.METASTABLE:
            up = (
                f", and broke again at {percent(found.breaks_at)} on the way up"
                if found.breaks_at is not None
                else ", and stayed well on the way up"
            )
            came = f"it came back only at {percent(found.recovers_at or 0.0)} of the load{up}"
            return f"metastable: {came}; the hysteresis gap is {percent(found.gap)} of the load ({held} held)"
        case State.STUCK:
            least = min((step.level for step in found.steps), default=1.0)
            return f"stuck: it did not come back down to {percent(least)} of the load ({held} held)"


def probed(outcome: Outcome) -> list[tuple[ProbeResult, int, int]]:
    """Sum up what probes and invariants found: for each and phase, the first miss or look, and how many missed of all.

    Looks that do not count, as while the system may still find out, are left out.
    """
    looks: dict[tuple[str, Phase, bool], list[ProbeResult]] = {}
    for each in outcome.probes:
        if each.judged:
            looks.setdefault((each.probe, each.phase, each.invariant), []).append(each)
    found = []
    for group in looks.values():
        missed = [each for each in group if not each.held]
        found.append(((missed or group)[0], len(missed), len(group)))
    return found


def undone(episode: Episode) -> str:
    """Say how a fault ended."""
    if episode.ended is None:
        return f"NOT undone: {episode.why}" if episode.why else "not undone yet"
    return f"by the {episode.by}" if episode.by in ("runner", "watchdog") else f"by {episode.by or 'somebody'}"


def machine(noise: Noise) -> str:
    """Say what the machine did meanwhile."""
    said = []
    if math.isfinite(noise.busy):
        said.append(f"{percent(noise.busy)} busy, {percent(noise.steal)} stolen")
    if math.isfinite(noise.load):
        said.append(f"load {noise.load:.1f} on {counted(noise.cores, 'core')}")
    return ", ".join(said) or "the machine does not tell"


def lag(outcome: Outcome) -> tuple[float, float]:
    """Return the median and the p99 of how much later than planned requests were sent, in seconds."""
    lags = sorted(sent - due for due, sent in zip(outcome.samples.intended, outcome.samples.sent, strict=True))
    return (lags[len(lags) // 2] if lags else math.nan), outcome.lag_p99


def send_lag(outcome: Outcome) -> str:
    """Say how punctual the load was."""
    if not math.isfinite(outcome.lag_p99):
        return "the load generator could not keep up"
    return f"send lag {duration(outcome.lag_p99)} at p99"


def _reasons(outcome: Outcome, *, before: str, after: str = "") -> str:
    """Name the most important reason and how many more there are; an early end is told elsewhere."""
    reasons = [reason.rstrip(".") for reason in outcome.reasons if not outcome.aborted or outcome.aborted not in reason]
    if not reasons:
        return ""
    more = f", and {counted(len(reasons) - 1, 'more reason')}" if len(reasons) > 1 else ""
    return f"{before}{reasons[0]}{more}{after}"


def _shortened(text: str) -> str:
    return text if len(text) <= _ERROR_KIND_LENGTH else text[: _ERROR_KIND_LENGTH - 1] + "…"


def _and(names: Iterable[str]) -> str:
    """Join names as a sentence does.

    >>> _and(["a"]), _and(["a", "b"]), _and(["a", "b", "c"])
    ('a', 'a and b', 'a, b, and c')
    """
    *others, last = names
    if not others:
        return last
    return f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}"

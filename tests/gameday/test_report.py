"""The report says what was found, no more and no less, in words, a table, a page and plain data."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import io
import json
import math
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hormesis.chaos.journal import Episode
from hormesis.errors import MissingExtraError
from hormesis.gameday.metastability import Hysteresis, State, Step
from hormesis.gameday.noise import Noise
from hormesis.gameday.report import as_json, charts, matrix, observer, print_report, svg, words, write_page
from hormesis.gameday.results import (
    Acted,
    Bin,
    Check,
    GameDay,
    Outcome,
    Phase,
    ProbeResult,
    RouteStats,
    StressResult,
    Verdict,
    Window,
)
from hormesis.loadgen import Answer, Histogram, Sample, Samples

STARTED = 1000.0
ROUTES = ("browse", "order")
PHASES = {
    Phase.CALM: Window(0.0, 5.0),
    Phase.DETECTION: Window(5.0, 7.0),
    Phase.CONTAINED: Window(7.0, 12.0),
    Phase.RECOVERING: Window(12.0, 14.0),
    Phase.RECOVERED: Window(14.0, 18.0),
}


def shop_samples(rng: random.Random, rate: float, *, protected: bool, error: str = "timeout") -> Samples:
    """Answers of a shop whose payments are slow from 5 s to 12 s: bare, it drowns; protected, it answers degraded."""
    samples = Samples()
    due = 0.0
    while (due := due + rng.expovariate(rate)) < 18:
        latency, answer, status, kind = rng.lognormvariate(-4.2, 0.4), Answer.FULL, 200, ""
        if not protected and 5 <= due < 14.5 and rng.random() < 0.96:
            latency, answer, status, kind = 5 - rng.random() * 0.02, Answer.FAILED, 0, error
        elif protected and 5 <= due < 5.8:
            latency, answer, status, kind = 0.5 + rng.random() * 0.1, Answer.FAILED, 503, "status 503"
        elif protected and 5.8 <= due < 12.6 and rng.random() < 0.3:
            answer = Answer.DEGRADED
        at = STARTED + due
        samples.append(Sample(at, at + 0.0003, at + latency, int(rng.random() < 0.1), answer, kind, status))
    return samples


def stats(samples: Samples, route: int | None = None) -> RouteStats:
    rows = [row for row in samples if route is None or row.request == route]
    ended = Counter(row.answer for row in rows)
    histogram = Histogram(row.latency for row in rows)
    return RouteStats(
        requests=len(rows),
        full=ended[Answer.FULL],
        degraded=ended[Answer.DEGRADED],
        declined=ended[Answer.DECLINED],
        failed=ended[Answer.FAILED],
        good=sum(row.answer is Answer.FULL and row.latency < 0.25 for row in rows),
        p50=histogram.quantile(0.5),
        p99=histogram.quantile(0.99),
        errors=Counter(row.error for row in rows if row.error),
        attempts=len(rows),
        histogram=histogram.to_base64(),
    )


def slice_of(samples: Samples, at: float, width: float) -> Bin:
    found = stats(samples.between(STARTED + at, STARTED + at + width))
    return Bin(
        at=at,
        offered=found.requests / width,
        good=found.good / width,
        full=found.full / width,
        degraded=found.degraded / width,
        declined=found.declined / width,
        failed=found.failed / width,
        sent=found.attempts / width,
        p50=found.p50,
        p99=found.p99,
    )


def outcome(arm: str, samples: Samples, verdict: Verdict, **changes: object) -> Outcome:
    by_phase: dict[Phase, Mapping[str, RouteStats]] = {}
    for phase, window in PHASES.items():
        cut = samples.between(STARTED + window.start, STARTED + window.end)
        by_phase[phase] = {"": stats(cut), **{route: stats(cut, i) for i, route in enumerate(ROUTES)}}
    checks = []
    for route in ROUTES:
        found = by_phase[Phase.CONTAINED][route]
        success = found.good / found.requests if found.requests else math.nan
        for metric, wanted, measured in (("success", 0.99, success), ("p99", 0.25, found.p99)):
            held = None if not found.requests else measured >= wanted if metric == "success" else measured <= wanted
            checks.append(
                Check(
                    route=route,
                    phase=Phase.CONTAINED,
                    metric=metric,
                    wanted=wanted,
                    measured=measured,
                    requests=found.requests,
                    held=held,
                )
            )
    made = Outcome(
        arm=arm,
        phases=PHASES,
        stats=by_phase,
        checks=checks,
        verdict=verdict,
        reasons=[],
        recovered_after=2.5,
        acted=[],
        aborted="",
        lag_p99=0.0004,
        timeline=[slice_of(samples, i / 2, 0.5) for i in range(36)],
        bin_width=0.5,
        samples=samples,
        attempts=Samples(),
        started=STARTED,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


ACTED = [
    Acted(
        process="storefront",
        policy="payments",
        part="circuit_breaker",
        counts={"opened": 2, "half-opened": 2, "closed": 1, "refused": 1140},
        first=0.8,
    ),
    Acted(process="storefront", policy="payments", part="timeout", counts={"cut off": 12}, first=0.5),
    Acted(
        process="storefront",
        policy="payments",
        part="retry",
        counts={"retried": 14, "succeeded": 3, "gave up": 1},
        first=0.51,
    ),
    Acted(process="storefront", policy="inventory", part="fallback", counts={"answered": 321}, first=0.7),
]


def stress(
    name: str, bare: Verdict, protected: Verdict, *, seed: int = 1, rate: float = 40, **texts: str
) -> StressResult:
    rng = random.Random(seed)
    hurt = shop_samples(rng, rate, protected=False)
    calm = shop_samples(rng, rate, protected=True)
    well = {"recovered_after": 0.6}
    return StressResult(
        name=name,
        about=texts.get("about", "A payment provider that answers late is the failure we see most."),
        target=texts.get("target", "edge payments"),
        fault=texts.get("fault", "latency 2s"),
        outcomes={
            "bare": outcome(
                "bare", hurt if bare is Verdict.FAILED else calm, bare, **({} if bare is Verdict.FAILED else well)
            ),
            "protected": outcome("protected", calm, protected, acted=ACTED, **well),
        },
    )


def gameday(*stresses: StressResult, **changes: object) -> GameDay:
    made = GameDay(
        title="The shop under stress",
        file="shop/gameday.toml",
        seed=7,
        version="0.1.0",
        began="2025-03-04T10:00:00+00:00",
        seconds=212.4,
        rate=40.0,
        routes=ROUTES,
        arms=["bare", "protected"],
        judged=["protected"],
        stresses=stresses,
        left_out=[],
        host="Linux 6.1, 2 cores, CPython 3.11",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


THREE = (
    stress("payments slow", Verdict.FAILED, Verdict.DEGRADED),
    stress("inventory dies", Verdict.FAILED, Verdict.SURVIVED, seed=2),
    stress("thin network", Verdict.SURVIVED, Verdict.SURVIVED, seed=3),
)


def changed(made: StressResult, arm: str, **changes: object) -> StressResult:
    """The same stress with one outcome changed."""
    after = dataclasses.replace(made.outcomes[arm], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(made, outcomes={**made.outcomes, arm: after})


def silent(made: StressResult) -> StressResult:
    """The same stress without a single answer in either arm, ended while the dose was on."""
    nothing = {
        "samples": Samples(),
        "stats": {Phase.CALM: {"": stats(Samples())}},
        "phases": {Phase.CALM: PHASES[Phase.CALM], Phase.DETECTION: PHASES[Phase.DETECTION]},
        "timeline": [slice_of(Samples(), i / 2, 0.5) for i in range(4)],
        "checks": [dataclasses.replace(made.outcomes["bare"].checks[0], measured=math.nan, requests=0, held=None)],
        "verdict": Verdict.INCONCLUSIVE,
        "reasons": ["Too few requests."],
        "recovered_after": None,
        "aborted": "the shop did not answer.",
    }
    return changed(changed(made, "bare", **nothing), "protected", **nothing)


def test_the_examples_of_the_words_run() -> None:
    """What the docstrings show is what comes out."""
    result = doctest.testmod(words)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("wanted", [0.5, 0.57, 0.9, 0.95, 0.99, 0.995, 0.999])
def test_what_is_just_missed_never_reads_as_held(wanted: float) -> None:
    """A share below an objective, or a latency above it, is not rounded to the objective."""
    assert words.percent(wanted - 0.0001) != words.percent(wanted) == f"{100 * wanted:g} %"
    assert words.duration(wanted * 1.01) != words.duration(wanted)
    assert words.percent(math.nan) == words.duration(math.nan) == words.duration(math.inf) == "–"


def test_a_stress_that_is_not_survived_is_told_by_its_missed_objectives() -> None:
    """The sentence holds the missed objectives, what was measured, and the way back."""
    said = words.what_happened(THREE[0].outcomes["bare"])
    assert re.fullmatch(
        r"bare: does not survive it: browse success [\d.]+ % in contained \(objective 99 %\), "
        r"p99 5\.\d+ s \(objective 250 ms\), order success [\d.]+ % in contained \(objective 99 %\), "
        r"and 1 other objective missed; back to normal 2\.5 s after the dose",
        said,
    )


def test_an_objective_that_could_not_be_judged_is_not_called_missed() -> None:
    """Too few requests are neither held nor missed."""
    first, *others = THREE[0].outcomes["bare"].checks
    unknown = [dataclasses.replace(check, held=None) for check in others]
    bare = dataclasses.replace(THREE[0].outcomes["bare"], checks=[first, *unknown])
    assert "p99" not in words.what_happened(bare)
    assert words.missed_in(bare) == "in contained"
    assert words.missed_in(dataclasses.replace(bare, checks=unknown)) == ""


def test_a_failure_without_missed_objectives_is_told_by_its_reasons() -> None:
    """Reasons stand in where no check says why."""
    bare = changed(THREE[0], "bare", checks=[], reasons=["It never came back."], recovered_after=None).outcomes["bare"]
    assert words.what_happened(bare) == "bare: does not survive it: It never came back; not seen back to normal"


def test_a_stress_that_is_survived_is_told_by_its_goodput() -> None:
    """Degraded answers are told apart from full ones."""
    said = words.what_happened(dataclasses.replace(THREE[0].outcomes["protected"], recovered_after=0.0))
    assert re.fullmatch(
        r"protected: survives it with degraded answers: goodput [\d.]+ %, [\d.]+ % degraded in contained, p99 \d+ ms; "
        r"back to normal at the dose's end",
        said,
    )


def test_who_was_served_while_others_were_declined_is_told() -> None:
    """With declined answers the goodput of each route is said, for that is what a priority is for."""
    calm, contained = stats(Samples()), dataclasses.replace(stats(Samples()), requests=10, p99=0.2)
    by_route = {
        "": dataclasses.replace(contained, full=4, good=4, declined=6),
        "browse": dataclasses.replace(contained, requests=6, declined=6),
        "order": dataclasses.replace(contained, requests=4, full=4, good=4),
    }
    made = dataclasses.replace(
        THREE[0].outcomes["protected"],
        stats={Phase.CALM: {"": calm}, Phase.CONTAINED: by_route},
        recovered_after=0.0,
    )
    assert words.what_happened(made) == (
        "protected: survives it with declined answers: goodput 40 % (browse 0 %, order 100 %), 60 % declined "
        "in contained, p99 200 ms; back to normal at the dose's end"
    )
    assert words.share(by_route[""], "declined") == 0.6
    assert math.isnan(words.share(calm, "declined"))


def test_an_early_end_is_told() -> None:
    """An aborted dose, and a phase without requests, are said to be so."""
    outcome = silent(THREE[0]).outcomes["protected"]
    assert words.what_happened(outcome) == (
        "protected: inconclusive: Too few requests; not seen back to normal; "
        "the dose was ended early: the shop did not answer"
    )
    twice = ["the dose was ended early: the shop did not answer.", "Too few requests."]
    assert words.what_happened(dataclasses.replace(outcome, reasons=twice)) == words.what_happened(outcome)
    held = dataclasses.replace(outcome, verdict=Verdict.SURVIVED, aborted="")
    assert words.what_happened(held) == "protected: survives it: no requests in contained; not seen back to normal"


def test_the_summary_names_what_each_arm_does_not_survive() -> None:
    """The arm that is not judged comes first; inconclusive stresses and those left out are named apart."""
    unclear = changed(THREE[2], "protected", verdict=Verdict.INCONCLUSIVE, reasons=["The generator lagged."])
    assert words.summary(gameday(*THREE[:2], unclear, left_out=["disk full", "rush"])) == [
        "bare survives 1 of 3 failure modes; it does not survive payments slow and inventory dies.",
        "protected survives 2 of 3 failure modes (payments slow with degraded or declined answers).",
        "Inconclusive: thin network for protected (The generator lagged).",
        "Left out of this run: disk full and rush.",
    ]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ("survived survived", "protected holds its objectives under 2 stresses."),
        ("survived", "protected holds its objectives under 1 stress."),
        (
            "survived degraded",
            "protected holds its objectives under 2 stresses, 1 of them with degraded or declined answers.",
        ),
        ("survived failed", "protected misses its objectives under 1 of 2 stresses."),
        ("failed inconclusive", "protected misses its objectives under 1 of 2 stresses; 1 inconclusive."),
        (
            "degraded inconclusive",
            "Whether protected holds its objectives can't be told: 1 of 2 stresses inconclusive.",
        ),
        ("", "Nothing was stressed."),
    ],
)
def test_the_headline_never_claims_what_was_not_shown(verdicts: str, said: str) -> None:
    """It says that objectives hold only when each of them was seen to hold, as the exit status does."""
    day = gameday(*(changed(THREE[0], "protected", verdict=Verdict(verdict)) for verdict in verdicts.split()))
    assert words.headline(day) == said
    assert words.standing(day, day.stresses).held == day.held == (" holds " in f" {said}" and "Whether" not in said)


def test_the_headline_speaks_of_all_judged_arms() -> None:
    """Two judged arms are a plural; none is said to be none."""
    assert words.headline(gameday(THREE[1], judged=["bare", "protected"])) == (
        "bare and protected miss their objectives under 1 of 1 stress."
    )
    assert words.headline(gameday(THREE[1], judged=[])) == "No arm was judged."


def test_what_acted_is_said_in_words() -> None:
    """Each part is told by what it did and when first; it is never said that it helped."""
    said = words.acted(THREE[0].outcomes["protected"])
    assert said == [
        "payments: the circuit breaker opened 2x, half-opened 2x, closed 1x, and refused 1,140 calls, first after "
        "800 ms; the timeout cut off 12 attempts, first after 500 ms; retry made 14 more attempts, 3 of them brought "
        "the answer, and gave up on 1 call, first after 510 ms",
        "inventory: the fallback answered 321 calls, first after 700 ms",
    ]
    assert not re.search("contained|saved", " ".join(said))


def test_parts_and_deeds_that_the_report_does_not_know_are_said_too() -> None:
    """An unknown part or count reads sensibly; nothing is said of what did nothing."""
    acts = [
        Acted(process="a", policy="p", part="rate_limit", counts={"refused": 1, "leased": 3, "idle": 0}, first=-1.5),
        Acted(process="b", policy="p", part="fallback", counts={"had no answer": 2}, first=math.nan),
        Acted(process="b", policy="p", part="deadline", counts={"cut off": 1}, first=0.0),
        Acted(process="b", policy="q", part="bulkhead", counts={"queued": 0}, first=0.0),
    ]
    assert words.acted(dataclasses.replace(THREE[0].outcomes["protected"], acted=acts)) == [
        "p in a: the rate limit refused 1 call and leased 3x, first 1.5 s before the dose",
        "p in b: the fallback had no answer for 2 calls; the deadline cut off 1 call, first after 0 ms",
    ]


def test_the_command_repeats_this_very_run() -> None:
    """The seed and the choice of stresses are in it, fit for a shell."""
    assert words.command(gameday(*THREE, file="my shop.toml")) == "hormesis gameday --seed 7 --all 'my shop.toml'"
    assert words.command(gameday(THREE[0], left_out=["rush"])) == (
        "hormesis gameday --seed 7 --only 'payments slow' shop/gameday.toml"
    )


def test_a_load_that_was_not_sent_as_planned_is_told() -> None:
    """The send lag is said as it was; a generator that dropped arrivals has none."""
    bare = THREE[0].outcomes["bare"]
    assert words.send_lag(bare) == "send lag 0.4 ms at p99"
    assert words.send_lag(dataclasses.replace(bare, lag_p99=math.inf)) == "the load generator could not keep up"


def test_many_kinds_of_failure_are_summed_up() -> None:
    """The most frequent kinds come first, the others as a sum, and none floods the line."""
    many = dataclasses.replace(
        stats(Samples()), errors={"x" * 500: 3, **{f"kind {i}": 1 for i in range(40)}, "reset": 9}
    )
    assert words.errors(many, 2) == f"9x reset, 3x {'x' * 39}…, 40x of 40 other kinds"


def test_json_holds_everything_and_is_valid() -> None:
    """Nothing is lost but what is no number, which is null; the keys are pinned here, for others build on them."""
    day = gameday(THREE[0], silent(THREE[1]))
    found = json.loads(json.dumps(as_json(day, samples=True), allow_nan=False))
    assert list(found) == ["format", "held", "headline", *(field.name for field in dataclasses.fields(GameDay))]
    assert found["format"] == 2
    assert found["held"] is False
    slow, quiet = found["stresses"]
    assert set(slow) == {
        *("name", "about", "target", "fault", "outcomes", "stress", "doses", "controls", "kinds", "noise"),
    }
    bare = slow["outcomes"]["bare"]
    assert set(bare) == {
        *("arm", "phases", "stats", "checks", "verdict", "reasons", "recovered_after", "acted", "aborted"),
        *("lag_p99", "timeline", "bin_width", "samples", "attempts", "started", "probes", "ended", "hysteresis"),
    }
    assert bare["verdict"] == "failed"
    assert bare["phases"]["contained"] == {"start": 7.0, "end": 12.0}
    contained = bare["stats"]["contained"]["browse"]
    assert contained["errors"] == {"timeout": contained["failed"]}
    assert Histogram.from_base64(contained["histogram"]).count == contained["requests"]
    assert slow["outcomes"]["protected"]["acted"][0]["counts"]["opened"] == 2
    assert quiet["outcomes"]["bare"]["stats"]["calm"][""]["p99"] is None
    assert quiet["outcomes"]["bare"]["checks"][0]["measured"] is None


def test_json_has_every_request_when_asked() -> None:
    """The columns come back as the samples they were, to the microsecond; without being asked for, they stay out."""
    day = gameday(THREE[0])
    made = THREE[0].outcomes["bare"]
    assert "samples" not in as_json(day, samples=False)["stresses"][0]["outcomes"]["bare"]
    wire = as_json(day, samples=True)["stresses"][0]["outcomes"]["bare"]["samples"]
    back = json.loads(json.dumps(wire))
    assert back["answer"] == list(made.samples.answer)
    assert [STARTED + done / 1e6 for done in back["done"]] == pytest.approx(list(made.samples.done), abs=1e-6)
    assert [back["error_kinds"][code] for code in back["error"]] == [row.error for row in made.samples]


class Page(HTMLParser):
    """Reads a page: every start tag with its attributes, the visible text, and whether tags close as they opened."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag in ("td", "th") else ""
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]


def written(day: GameDay, tmp_path: Path) -> Page:
    path = tmp_path / "page.html"
    write_page(day, path)
    html = path.read_text("utf-8")
    page = Page(html)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert all(target.startswith("#") for target in page.values("src", "href", "xlink:href", "action", "data"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    referred = {target.removeprefix("#") for target in page.values("href", "xlink:href")}
    referred |= {name for value in page.values("clip-path", "style") for name in re.findall(r"url\(#([^)]+)\)", value)}
    assert referred <= set(ids)
    return page


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """It is well-formed, refers to nothing outside itself, and holds what was found."""
    page = written(gameday(*THREE), tmp_path)
    said = page.text.replace("\N{NO-BREAK SPACE}", " ")
    drawings = [tag for tag, _ in page.tags].count("svg")
    assert drawings == len(THREE) * (1 + len(THREE[0].outcomes) + 1)  # all arms, each arm, before and after
    assert len([label for label in page.values("aria-label") if "over time" in label]) == len(THREE) * 3
    assert "script" not in {tag for tag, _ in page.tags}
    assert words.headline(gameday(*THREE)) in said
    for sentence in (*words.summary(gameday(*THREE)), *words.acted(THREE[0].outcomes["protected"])):
        assert sentence in said
    for stress in THREE:
        for outcome in stress.outcomes.values():
            assert words.what_happened(outcome) in said
    for fact in ("hormesis gameday --seed 7 --all shop/gameday.toml", "CPython 3.11", "p99 ≤ 250 ms", "missed of"):
        assert fact in said


def test_the_experiment_can_put_no_markup_into_the_page(tmp_path: Path) -> None:
    """Everything that others wrote is text on the page, wherever it stands."""
    evil = """"'><script src=http://evil/x.js></script>{{ 7 * 7 }}$x$</svg>&amp;"""
    hurt = shop_samples(random.Random(1), 40, protected=False, error=evil)
    made = {
        evil: outcome(
            evil,
            hurt,
            Verdict.FAILED,
            reasons=[evil],
            aborted=evil,
            acted=[Acted(process=evil, policy=evil, part=evil, counts={evil: 2}, first=1.0)],
        )
    }
    day = gameday(
        StressResult(name=evil, about=evil, target=evil, fault=evil, outcomes=made),
        title=evil,
        file=evil,
        version=evil,
        host=evil,
        routes=[evil, "order"],
        arms=[evil],
        judged=[evil],
        left_out=[evil],
    )
    page = written(day, tmp_path)
    assert page.text.count(evil) >= 14
    assert {"script"}.isdisjoint(tag for tag, _ in page.tags)


def test_the_page_bears_what_is_missing(tmp_path: Path) -> None:
    """No stress, no answers, an early end, a single arm: each has a page that says so."""
    assert "Nothing was stressed." in written(gameday(), tmp_path).text
    said = written(gameday(silent(THREE[0])), tmp_path).text
    assert "too few requests" in said
    assert "the dose was ended early" in said
    alone = dataclasses.replace(THREE[0], outcomes={"protected": THREE[0].outcomes["protected"]})
    assert "protected" in written(gameday(alone, arms=["protected"]), tmp_path).text
    many = {f"arm {i}": dataclasses.replace(THREE[0].outcomes["bare"], arm=f"arm {i}") for i in range(5)}
    crowd = dataclasses.replace(THREE[0], outcomes=many)
    assert "arm 4" in written(gameday(crowd, arms=list(many), judged=["arm 4"]), tmp_path).text


def test_the_page_stays_small(tmp_path: Path) -> None:
    """Eight long stresses with many kinds of failure make a page that can be mailed."""
    rng = random.Random(5)
    slices = [
        dataclasses.replace(THREE[0].outcomes["bare"].timeline[0], at=i / 4, good=rng.random() * 90, p99=rng.random())
        for i in range(2400)
    ]
    kinds = {f"status {500 + i} from the upstream": i for i in range(300)}
    figures = {
        phase: {route: dataclasses.replace(found, errors=kinds) for route, found in by_route.items()}
        for phase, by_route in THREE[0].outcomes["bare"].stats.items()
    }
    long = THREE[0]
    for arm in ("bare", "protected"):
        long = changed(long, arm, timeline=slices, bin_width=0.25, stats=figures)
    written(gameday(*[long] * 8), tmp_path)
    assert (tmp_path / "page.html").stat().st_size < 1_500_000


def test_a_page_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """A bad path is the caller's to handle; a name that is no text is not."""
    with pytest.raises(OSError, match="absent"):
        write_page(gameday(), tmp_path / "absent" / "page.html")
    write_page(gameday(file="caf\udce9.toml"), tmp_path / "page.html")


COLOURS = {"bare": "other-1", "protected": "judged-1"}


def drawn(made: StressResult, arm: str = "bare") -> str:
    return charts.course(made, made.outcomes[arm], charts.look_of(gameday(made)))


def test_charts_are_drawn_in_classes_and_repeat() -> None:
    """No colour, no id and no size of its own is in a chart, and the same findings make the same drawing."""
    compared = charts.comparison(THREE[0], COLOURS, ["protected"], charts.look_of(gameday(THREE[0])))
    for chart in (drawn(THREE[0]), compared):
        assert re.match(r'<svg viewBox="[\d. ]+" role="img" aria-label="payments slow', chart)
        assert not re.search(r"#[0-9a-f]{3}|\bid=|\bstyle=|nan|inf\b", chart)
        assert "dose contained" in chart
    assert 'class="goodput other-1"' in compared
    assert 'class="goodput judged-1"' in compared
    assert re.findall(r'class="partial ([^"]+)"', compared) == ["judged-1"]
    assert drawn(THREE[0]) == drawn(THREE[0])
    assert "nan" not in drawn(silent(THREE[0]))


def test_how_requests_ended_is_stacked() -> None:
    """Each way to end has an area of its own where there were any, up to the load that was offered."""
    assert 'class="failed"' in drawn(THREE[0])
    assert 'class="degraded"' not in drawn(THREE[0])
    assert 'class="degraded"' in drawn(THREE[0], "protected")
    assert 'class="declined"' not in drawn(THREE[0], "protected")


def test_every_request_is_in_the_heat_map() -> None:
    """The cells lie in the chart, none is left out at either end of the scale, and what is frequent is darker."""
    chart = drawn(THREE[0])
    cells = [
        tuple(map(float, cell))
        for path in re.findall(r'class="heat-\d" d="([^"]+)"', chart)
        for cell in re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H", path)
    ]
    assert len(cells) > 50
    assert all(52 <= left < right <= 530 and 206 <= top <= bottom <= 338 for left, top, right, bottom in cells)
    assert "heat-5" in chart
    alone = Samples()
    alone.append(Sample(STARTED + 1, STARTED + 1, STARTED + 1, 0, Answer.FULL, "", 200))  # in no time at all
    assert "heat-5" in drawn(changed(THREE[0], "bare", samples=alone))


def test_what_callers_repeat_is_drawn_and_explained(tmp_path: Path) -> None:
    """Where callers repeat requests, the load on the wire is drawn, and the page's legend says so."""
    bare = THREE[0].outcomes["bare"]
    storm = changed(THREE[0], "bare", attempts=bare.samples)
    assert 'class="sent"' in drawn(storm)
    assert "on the wire" in drawn(storm)
    assert 'class="sent"' not in drawn(THREE[0])
    said = "with what callers repeat"
    assert said in written(gameday(storm), tmp_path).text
    assert said not in written(gameday(THREE[0]), tmp_path).text


STUCK = Hysteresis(
    state=State.STUCK, recovers_at=None, breaks_at=None, steps=[Step(1.0, 0.0, 3.0), Step(0.5, 0.1, 2.8)]
)
FREED = Hysteresis(
    state=State.METASTABLE,
    recovers_at=0.25,
    breaks_at=0.5,
    steps=[Step(1.0, 0.1, 2.5), Step(0.5, 0.2, 2.0), Step(0.25, 0.99, 1.0), Step(0.5, 0.4, 2.0)],
)
WELL = Hysteresis(state=State.RECOVERED, recovers_at=1.0, breaks_at=None, steps=[Step(1.0, 0.99, 1.0)])


def test_hysteresis_is_drawn_down_and_up(tmp_path: Path) -> None:
    """Every load that was held has a number; the way up is another line; one that came back needs no picture."""
    chart = charts.hysteresis(FREED, "bare")
    assert re.findall(r'class="number"[^>]*>(\d)<', chart) == ["1", "2", "3", "4"]
    assert chart.count('class="step down"') == 3
    assert chart.count('class="step up"') == 1
    assert "gap 75 %" in chart
    assert 'class="up"' not in charts.hysteresis(STUCK, "bare")
    assert "never came back" in charts.hysteresis(STUCK, "bare")
    page = written(
        gameday(changed(changed(THREE[0], "bare", hysteresis=FREED), "protected", hysteresis=WELL)), tmp_path
    )
    assert words.metastable(FREED) in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert [label.split(":")[0] for label in page.values("aria-label") if "Hysteresis" in label] == [
        "Hysteresis of bare"
    ]
    for found, said in ((STUCK, "did not come back down to 50 %"), (FREED, "only at 25 %"), (WELL, "by itself")):
        assert said in words.metastable(found)


def test_before_and_after_go_from_the_unprotected_to_the_judged(tmp_path: Path) -> None:
    """Each judged arm is held against the first that is not; where all are judged there is nothing to compare."""
    said = written(gameday(THREE[0]), tmp_path).text
    assert "Before and after" in said
    assert "circuit breaker, timeout, retry, fallback" in said
    assert "Before and after" not in written(gameday(THREE[0], judged=["bare", "protected"]), tmp_path).text
    assert 'class="better"' in charts.change(0.2, 0.9, "goodput")
    assert 'class="worse"' in charts.change(0.9, 0.2, "goodput")
    assert "dot" not in charts.change(math.nan, math.nan, "goodput")


def test_the_undo_log_says_who_undid_what_and_whether_it_is_back(tmp_path: Path) -> None:
    """What is still in force stands out; what lies in no stress is told without one."""
    log = [
        Episode(what="the processes of the run", began=0.1),
        Episode(what="latency on edge payments", began=30.0, ended=37.0, by="runner"),
        Episode(what="black hole on edge stock", began=31.0, ended=33.5, by="watchdog"),
        Episode(what="a pause", began=32.0, why="no such process"),
    ]
    day = gameday(changed(THREE[0], "bare", recovered_after=None), undo_log=log, started=STARTED - 25)
    said = " ".join(written(day, tmp_path).text.split())
    assert "30.0 s latency on edge payments payments slow 7.0 s by the runner not back to normal: bare" in said
    assert "by the watchdog" in said
    assert "NOT undone: no such process" in said
    assert "0.1 s the processes of the run – not undone yet" in said
    assert "arm stress" not in said
    table = printed(day)
    assert "4 entries in the undo log" in table
    assert "a pause: NOT undone: no such process" in table
    assert "all undone" in printed(gameday(THREE[0], undo_log=log[1:2]))


def test_the_undo_log_says_on_which_arm(tmp_path: Path) -> None:
    """With arms side by side each entry names its own, and is back to normal when that one is."""
    log = [
        Episode(what="a pause", began=30.0, arm="bare", why="no such process"),
        Episode(what="a pause", began=30.0, ended=37.0, by="runner", arm="protected"),
    ]
    day = gameday(changed(THREE[0], "bare", recovered_after=None), undo_log=log, started=STARTED - 25)
    said = " ".join(written(day, tmp_path).text.split())
    assert "a pause bare payments slow – NOT undone: no such process not back to normal: bare" in said
    assert "a pause protected payments slow 7.0 s by the runner back to normal" in said
    assert "a pause (bare): NOT undone: no such process" in printed(day)
    assert [each["arm"] for each in as_json(day, samples=False)["undo_log"]] == ["bare", "protected"]


def test_noise_probes_controls_and_intervals_are_on_the_page(tmp_path: Path) -> None:
    """What a figure rests on stands beside it."""
    check = THREE[0].outcomes["bare"].checks[0]
    sure, unsure = (dataclasses.replace(check, low=0.01, high=high) for high in (0.12, 0.995))
    looks = [
        ProbeResult(probe="stock", phase=Phase.CONTAINED, at=8.0, took=0.02, said="was 3, not 4"),
        ProbeResult(probe="stock", phase=Phase.CONTAINED, at=9.0, took=0.02, said=""),
        ProbeResult(probe="stock", phase=Phase.DETECTION, at=5.5, took=0.02, said="ignored", judged=False),
        ProbeResult(probe="no order is lost", phase=Phase.RECOVERED, at=18.0, took=0.1, said="", invariant=True),
    ]
    made = changed(changed(THREE[0], "bare", checks=[sure], probes=looks), "protected", checks=[unsure])
    control = dataclasses.replace(THREE[0].outcomes["protected"], verdict=Verdict.SURVIVED)
    noise = Noise(busy=0.812, steal=0.03, load=3.14, cores=2)
    day = gameday(dataclasses.replace(made, noise=noise, controls={"protected": control}))
    said = " ".join(written(day, tmp_path).text.split())
    assert "1 % to 12 % missed of" in said
    assert "1 % to 99.5 % missed, perhaps by chance of" in said
    assert "stock contained missed 1 of 2 was 3, not 4" in said
    assert "no order is lost after the run held what was asked for" in said
    assert "ignored" not in said
    assert "81.2 % busy, 3 % stolen, load 3.1 on 2 cores" in said
    assert "✓ survived goodput" in said
    assert "81.2 % busy" in printed(day)
    assert "the machine does not tell" in words.machine(Noise())


def test_the_matrix_has_places_and_kinds(tmp_path: Path) -> None:
    """Several stresses of one place and kind share a cell; several faults at once have a column of their own, last."""
    twice = dataclasses.replace(THREE[1], name="again", kinds=["latency"])
    both = dataclasses.replace(THREE[2], target="edge payments + edge stock", kinds=["latency", "reset"])
    stresses = [
        both,
        dataclasses.replace(THREE[0], kinds=["latency"]),
        twice,
        dataclasses.replace(both, kinds=["kill"]),
    ]
    found = matrix.stresses_by_place(stresses)
    assert found.kinds == ["latency", "kill", matrix.TOGETHER]
    assert [number for number, _ in found.rows["edge payments"]["latency"]] == [2, 3]
    said = " ".join(written(gameday(*stresses), tmp_path).text.split())
    assert "What survives what" in said
    assert "✗ failed bare: again," in said
    table = printed(gameday(*stresses))
    assert re.search(r"edge payments  +F D; F S", table)
    assert "What survives what" not in printed(gameday(*stresses), width=50)
    assert "What survives what" not in printed(gameday(THREE[0]))


def test_a_narrow_terminal_gets_what_matters_most() -> None:
    """No verdict is cut short where there is little room."""
    said = printed(gameday(*THREE), width=52)
    assert max(map(len, said.splitlines())) <= 52
    assert re.search(r"protected +degraded +[\d.]+ % +\d+ ms +600 ms", said)


def test_sixty_stresses_make_a_page_that_can_be_mailed(tmp_path: Path) -> None:
    """The size of the page is bounded by its drawings' resolution."""
    written(gameday(*[THREE[0]] * 60), tmp_path)
    assert (tmp_path / "page.html").stat().st_size < 6_000_000
    look = charts.look_of(gameday(*[THREE[0]] * 60))
    assert look.columns < charts.look_of(gameday(THREE[0])).columns


@pytest.mark.parametrize("module", [svg, matrix])
def test_the_examples_of_the_drawings_run(module: ModuleType) -> None:
    """What the documentation says comes out."""
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted


@given(st.floats(1e-6, 1e6), st.integers(2, 9))
def test_an_axis_has_some_round_ticks(high: float, wanted: int) -> None:
    """They begin at 0, lie within the axis, and are as many as wanted, or few less."""
    found = svg.ticks(high, wanted)
    assert found[0] == 0
    assert found[-1] <= high * (1 + 1e-6)
    assert wanted / 2.6 <= len(found) <= wanted + 1


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6), st.text(max_size=20))
def test_a_drawing_bears_any_number_and_any_text(values: list[float], said: str) -> None:
    """What is no number breaks a line, and text stays text."""
    picture = svg.Drawing(10, 10, said)
    scale = svg.Scale(0.001, 10, 0, 100, log=True)
    picture.line([(number, scale(value)) for number, value in enumerate(values) if not math.isnan(value)], "line")
    picture.line([(number, value) for number, value in enumerate(values)], "line")
    picture.text((1, 1), said)
    assert "nan" not in re.sub(r'(aria-label="[^"]*")|(<text.*</text>)', "", str(picture), flags=re.DOTALL)
    assert "<script" not in str(picture)


def printed(day: GameDay, *, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    print_report(day, Console(file=file, width=width, force_terminal=terminal), "/tmp/page.html")
    return file.getvalue()


def test_the_table_has_a_row_for_each_stress_and_arm() -> None:
    """Verdict and figures stand in one line, and fit into 80 characters; more width only adds room."""
    for width in (80, 100, 140):
        said = printed(gameday(*THREE), width=width)
        assert max(map(len, said.splitlines())) <= width
        assert re.search(r"bare +failed +[\d.]+ % +0 % +5\.\d+ s +5\.\d+ s +2\.5 s \d+x timeout", said)
        assert re.search(r"protected +degraded +[\d.]+ % +[\d.]+ % +\d+ ms +\d+ ms +600 ms", said)
        assert "Report: /tmp/page.html" in said
        for sentence in (words.headline(gameday(*THREE)), *words.acted(THREE[0].outcomes["protected"])):
            assert sentence in " ".join(said.split())


def test_the_table_is_plain_outside_a_terminal() -> None:
    """No escape codes reach a file; a terminal gets colours."""
    assert "\x1b" not in printed(gameday(*THREE))
    assert "\x1b[1;31mfailed" in printed(gameday(*THREE), terminal=True)


def test_missed_objectives_are_explained() -> None:
    """Whatever was missed is told in words, for the table shows one phase only; what held needs none."""
    assert "Missed\n  payments slow\n    bare: does not survive it" in printed(gameday(*THREE))
    assert "Missed" not in printed(gameday(THREE[2]))


def test_the_terminal_shows_text_as_it_is() -> None:
    """Names can't bring in markup or control codes, nor break the table when nothing was found."""
    evil = "[red]x[/nope] \x1b]0;title\x07\x1b[2J"
    said = printed(gameday(dataclasses.replace(silent(THREE[0]), name=evil), title=evil))
    assert "[red]x[/nope]" in said
    assert not re.search(r"[\x07\x1b]", said)
    assert "Nothing was stressed." in printed(gameday())


class Full(io.StringIO):
    """A file to which nothing can be written."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self._error = error or OSError("disk full")

    def write(self, text: str) -> int:
        raise self._error


def watched(console: Console | None) -> None:
    """A short game day, as its runner tells it."""
    watching = observer(console)
    watching.step("preparing")
    watching.plan("The [shop]", 60, ["payments slow"], ["bare", "protected"])
    watching.step("starting bare: storefront")
    for phase in Phase:
        watching.phase("bare", "payments slow", phase, 5)
        watching.samples("bare", THREE[0].outcomes["bare"].samples)
    watching.outcome("payments slow", THREE[0].outcomes["bare"])
    watching.close()


def test_progress_is_lines_outside_a_terminal() -> None:
    """A line for each step, without codes or blanks."""
    file = io.StringIO()
    watched(Console(file=file, width=60, force_terminal=False))
    lines = [re.sub(r"^ *\d+\.\d s  ", "", line) for line in file.getvalue().splitlines()]
    assert lines[:-1] == [
        "preparing",
        "The [shop]: 1 stress on bare and protected, about 1m",
        "starting bare: storefront",
        "payments slow: bare begins, calm for 5.0 s",
        "payments slow: bare, the dose begins",
        "payments slow: bare, the dose has ended",
    ]
    assert re.fullmatch(r"payments slow: bare failed, goodput [\d.]+ % in contained", lines[-1])


def test_progress_is_redrawn_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase, countdown and the figures of the last second are shown; what remains is the verdict and the cursor."""
    now = iter(range(1000, 2000))
    monkeypatch.setattr("hormesis.gameday.report.progress.time.monotonic", lambda: float(next(now)))
    file = io.StringIO()
    watched(Console(file=file, width=80, force_terminal=True, _environ={"TERM": "xterm"}))
    shown = file.getvalue()
    assert re.search(r"payments slow: contained, \d s left", shown)
    assert re.search(r"\d+/s: \d+ full, \d+ degraded, \d+ failed  [▁-█]", shown)
    assert re.search(r"\d:\d\d gone, \d:\d\d left", shown)
    assert "[shop]" in shown
    hidden, back = shown.rfind("\x1b[?25l"), shown.rfind("\x1b[?25h")
    assert -1 < hidden < back
    assert "\x1b[2K" in shown[back:]


def test_a_display_that_breaks_never_harms_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """The first error takes the display off and is logged once; the runner hears of nothing."""
    for terminal in (True, False):
        caplog.clear()
        watched(Console(file=Full(), width=80, force_terminal=terminal, _environ={"TERM": "xterm"}))
        assert [record.message for record in caplog.records] == ["the progress display raised and was taken off"]


def test_a_reader_of_the_progress_may_leave(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A closed stderr takes the display off, and leaves the run and its stdout alone."""
    monkeypatch.setattr(sys, "stderr", Full(BrokenPipeError()))
    watched(None)
    assert "taken off" in caplog.text
    os.write(1, b"the report")
    assert capfd.readouterr().out == "the report"


@pytest.mark.parametrize(
    ("module", "library"),
    [("templates", "jinja2"), ("terminal", "rich.console"), ("progress", "rich.live")],
)
def test_a_missing_library_names_its_extra(module: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks a library is told what to install."""
    monkeypatch.delitem(sys.modules, f"hormesis.gameday.report.{module}")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=re.escape("hormesis[gameday]")):
        importlib.import_module(f"hormesis.gameday.report.{module}")

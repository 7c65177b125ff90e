"""A game day as JUnit XML, which every CI shows: a test suite for each judged arm, a test case for each stress.

What an arm that is not judged did is no test. A stress that is inconclusive is an error, one that was left out is
skipped.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hormesis.gameday.results import GameDay, Outcome, StressResult, Verdict

__all__ = ["as_junit"]


def as_junit(gameday: GameDay) -> str:
    """Return the XML of a game day."""
    suites = ET.Element("testsuites", name=_plain(gameday.title), time=f"{gameday.seconds:.3f}")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for arm in gameday.judged:
        suite = ET.SubElement(suites, "testsuite", name=_plain(f"{gameday.title}: {arm}"), timestamp=gameday.began[:19])
        properties = ET.SubElement(suite, "properties")
        for name, value in (("seed", gameday.seed), ("file", gameday.file), ("host", gameday.host)):
            ET.SubElement(properties, "property", name=name, value=_plain(str(value)))
        own = dict.fromkeys(counts, 0)
        for stress in gameday.stresses:
            own["tests"] += 1
            if counted := _case(suite, arm, stress, stress.outcomes[arm]):
                own[counted] += 1
        for name in gameday.left_out:
            own["tests"] += 1
            own["skipped"] += 1
            case = ET.SubElement(suite, "testcase", name=_plain(name), classname=_plain(arm), time="0")
            ET.SubElement(case, "skipped", message="left out of this run")
        if gameday.ended:
            own["tests"] += 1
            own["errors"] += 1
            case = ET.SubElement(suite, "testcase", name="the whole game day", classname=_plain(arm), time="0")
            ET.SubElement(case, "error", message=_plain(f"it ended before its time: {gameday.ended}"))
        suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite.iter('testcase')):.3f}")
        for key, count in own.items():
            suite.set(key, str(count))
            counts[key] += count
    for key in ("tests", "failures", "errors"):  # schemas know of no skipped ones here
        suites.set(key, str(counts[key]))
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ET.Element, arm: str, stress: StressResult, outcome: Outcome) -> str:
    """Add a stress, and return as what it is counted; empty when the arm held its objectives."""
    took = max((window.end for window in outcome.phases.values()), default=0.0)
    case = ET.SubElement(suite, "testcase", name=_plain(stress.name), classname=_plain(arm), time=f"{took:.3f}")
    said = _plain("\n".join(outcome.reasons) or outcome.verdict.value)
    about = _plain(f"{stress.target}: {stress.fault}")
    if outcome.verdict.held:
        ET.SubElement(case, "system-out").text = f"{about}\n{outcome.verdict.value}\n{said}"
        return ""
    kind = "failure" if outcome.verdict is Verdict.FAILED else "error"
    first = said.splitlines()[0]
    ET.SubElement(case, kind, message=first, type=outcome.verdict.value).text = f"{about}\n{said}"
    return f"{kind}s"


def _plain(text: str) -> str:
    """Leave out what XML has no way to hold."""
    return "".join(char for char in text if char in "\n\t" or (char.isprintable() and char not in "\ufffe\uffff"))

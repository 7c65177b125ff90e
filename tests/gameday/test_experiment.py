"""An experiment file is read as it is meant, and what can't be meant is told in one message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Dose, Experiment, Stress, folder_of, load_experiment, schema
from hormesis.gameday.objectives import Objective
from hormesis.gameday.preflight import planned_seconds
from hormesis.gameday.results import Phase
from hormesis.loadgen import Retries

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "gameday.toml"

GOOD = """
title = "Two services"
seed = 3

[run]
calm = "1s"
dose = "2s"
recovery = 2
detection = "500ms"
recover_within = "500ms"

[system.process.front]
command = "python front.py {port}"
ready = "/healthz"

[system.process.back]
command = "python back.py {port}"
restart_after = 0

[system.edge.back]
from = "front"
to = "back"
env = { BACK_URL = "http://{host}:{port}" }

[load]
to = "front"
rate = "20/s"

[[load.request]]
name = "browse"
get = "/items/{id}"
values = { id = { from = 1, to = 9 } }

[arm.bare]

[arm.protected]
env = { POLICIES = "policies.toml" }

[objective.browse]
success = 0.99
p99 = "250ms"

[abort]
answered = 0.5

[[stress]]
name = "slow"
edge = "back"
fault = { latency = "1s" }
"""

DURATION = "more than 0 seconds, as a number or like '300ms', '2s', '1m30s'"
RATE = "a rate above zero, as a number a second or like '100/s', '6000/min'"
FAULTS = "known are: latency, bandwidth, black_hole, refuse, reset, "
NAME = "takes letters, digits, spaces, '_.-', 64 at most"
STRESS = 'edge = "back"\nfault = { latency = "1s" }'
METHODS = "takes one of get, post, put, patch, delete; it has"
REQUEST = 'name = "browse"\n'
LOAD = 'to = "front"\nrate'
SECOND = '\n[[stress]]\nname = "gone"\nprocess = "back"\nfault = { kill = true }\n'

# A part of the good file, what stands there instead, and the message: the key with the value, and what would do.
MISTAKES = [
    ('from = "front"\nto', 'from_ = "front"\nto', "system.edge.back: unknown key 'from_' (did you mean 'from'?)"),
    # Keys that nothing knows, at each level, with the nearest that is known.
    ("seed = 3", "sed = 3", "unknown key 'sed' (did you mean 'seed'?); known are: system, load"),
    ("calm =", "clam =", "run: unknown key 'clam' (did you mean 'calm'?); known are: calm, dose"),
    ("[system.edge.back]", "[system.edges.back]", "system: unknown key 'edges' (did you mean 'edge'?)"),
    ("ready =", "redy =", "system.process.front: unknown key 'redy' (did you mean 'ready'?)"),
    ("from =", "frm = 1\nfrom =", "system.edge.back: unknown key 'frm' (did you mean 'from'?); known are: from, to"),
    (LOAD, 'tot = 1\nto = "front"\nrate', "load: unknown key 'tot' (did you mean 'to'?)"),
    (REQUEST, REQUEST + "wieght = 2\n", "load.request.0: unknown key 'wieght' (did you mean 'weight'?)"),
    ("env = { POLICIES", "envs = { POLICIES", "arm.protected: unknown key 'envs' (did you mean 'env'?)"),
    ("p99 =", "p90 =", "objective.browse: unknown key 'p90' (did you mean 'p99'?)"),
    ("p99 =", "calm = { sucess = 1 }\np99 =", "objective.browse.calm: unknown key 'sucess' (did you mean 'success'?)"),
    ("answered = 0.5", "answered = 0.5\nthn = 1", "abort: unknown key 'thn' (did you mean 'then'?)"),
    ('edge = "back"', 'egde = "back"', "stress.0: unknown key 'egde' (did you mean 'edge'?)"),
    (STRESS, STRESS + "\nobjective.browse.calm = { p95 = 1 }", "stress.0.objective.browse.calm: unknown key 'p95'"),
    # What has to be there.
    ('rate = "20/s"\n', "", "load.rate is missing"),
    ('command = "python front.py {port}"\n', "", "system.process.front.command is missing"),
    ('env = { BACK_URL = "http://{host}:{port}" }\n', "", "system.edge.back.env is missing"),
    ('from = "front"\n', "", "system.edge.back.from is missing"),
    ('name = "slow"\n', "", "stress.0.name is missing"),
    (f'[[stress]]\nname = "slow"\n{STRESS}', "", "stress is missing"),
    # Faults: unknown, at the wrong place, none or two, settings that are another's, values that can't be meant.
    ('latency = "1s"', 'latncy = "1s"', "stress.0.fault {'latncy': '1s'}: unknown fault 'latncy' (did you mean"),
    ('{ latency = "1s" }', "{}", f"stress.0.fault {{}} is empty; {FAULTS}"),
    ('"1s" }', '"1s", kill = true }', "mixes latency and kill; a stress doses one fault at a time"),
    ('"1s" }', '"1s", jiter = 1 }', "unknown setting of the fault 'latency' 'jiter' (did you mean 'jitter'?)"),
    ('"1s" }', '"1s", share = 2 }', "share is 2; it takes a part of the connections above 0, up to 1 (all)"),
    ('"1s" }', '"soon" }', f"stress.0.fault {{'latency': 'soon'}}: latency is 'soon'; it takes {DURATION}"),
    ('"1s" }', "true }", f"latency is True; it takes {DURATION}"),
    ('{ latency = "1s" }', '"latency"', "stress.0.fault is 'latency'; it takes"),
    (STRESS, "fault = { spike = 1 }", "spike is 1; it takes a factor above 1"),
    (STRESS, 'process = "back"\nfault = { kill = false }', "kill is False; it takes true"),
    ('edge = "back"\nfault', 'process = "back"\nfault', "stress 'slow': its fault {'latency': '1s'} takes edge = "),
    ('edge = "back"\nfault', "fault", "stress 'slow': its fault {'latency': '1s'} takes edge = "),
    (STRESS, f'process = "back"\n{STRESS}', "takes edge = "),
    ('latency = "1s"', "pause = true", "stress 'slow': its fault {'pause': True} takes process = "),
    ('latency = "1s"', "spike = 2", "takes neither edge nor process (it is a fault of the load)"),
    # Rates and weights.
    ('"20/s"', "0", f"load.rate is 0.0; it takes {RATE}"),
    ('"20/s"', "-5", f"load.rate is -5.0; it takes {RATE}"),
    ('"20/s"', "inf", f"load.rate is inf; it takes {RATE}"),
    ('"20/s"', '"20 per second"', f"load.rate is '20 per second'; it takes {RATE}"),
    ('"20/s"', '"3"', f"load.rate is '3'; it takes {RATE}"),
    ('"20/s"', "true", "load.rate is True; it takes"),
    ('"20/s"', "1e12", "load.rate is 1000000000000.0; it takes a rate that makes at most 5,000,000 requests"),
    (STRESS, "fault = { spike = 1e9 }", "at most 5,000,000 requests of stress 'slow', not 40,000,000,060"),
    (REQUEST, REQUEST + "weight = 0\n", "weight is 0.0; it takes a number above 0"),
    (REQUEST, REQUEST + "weight = -1\n", "weight is -1.0; it takes a number above 0"),
    (REQUEST, REQUEST + 'weight = "3"\n', "load.request.0.weight is '3'; it takes a valid number"),
    (REQUEST, REQUEST + "weight = true\n", "load.request.0.weight is True; it takes a valid number"),
    # Requests.
    ('get = "/items/{id}"\n', "", f"load.request.0: request 'browse' {METHODS} none"),
    (REQUEST, REQUEST + 'post = "/items"\n', f"load.request.0: request 'browse' {METHODS} get, post"),
    ('"/items/{id}"', '"items"', "load.request.0.get is 'items'; it takes a path from '/' on, without spaces"),
    ("/items/{id}", "/items/{sku}", "'sku'; known are: id, n, uuid"),
    ("from = 1, to = 9", "from = 9, to = 1", "values.id is {'from': 9, 'to': 1}; it takes a list"),
    (REQUEST, REQUEST + "expect = 99\n", "expect is 99; it takes a status from 100 to 599, or a list"),
    (LOAD, 'arrivals = "bursty"\n' + LOAD, "load.arrivals is 'bursty'; it takes 'poisson' or 'constant'"),
    # Names that refer to nothing.
    ("front.py {port}", "front.py {prot}", "system.process.front.command is '{prot}'; it takes the placeholders {BACK"),
    ("front.py {port}", "front.py {port", "system.process.front.command is '{port'; it takes the placeholders"),
    ("http://{host}:", "http://{hots}:", "system.edge.back.env.BACK_URL is 'http://{hots}:{port}'; it takes the"),
    ("back.py {port}", "back.py {BACK_URL}", "system.process.back.command is '{BACK_URL}'; it takes the placeholders"),
    ('to = "front"', 'to = "fron"', "load.to: unknown process 'fron' (did you mean 'front'?); known are: front, back"),
    ('from = "front"', 'from = "fronts"', "system.edge.back.from: unknown process 'fronts' (did you mean 'front'?)"),
    ('to = "back"', 'to = "bak"', "system.edge.back.to: unknown process 'bak' (did you mean 'back'?)"),
    ("[objective.browse]", "[objective.brows]", "objective: unknown request 'brows' (did you mean 'browse'?)"),
    ('edge = "back"\nfault', 'edge = "bak"\nfault', "stress 'slow': edge: unknown edge 'bak' (did you mean 'back'?)"),
    (STRESS, 'process = "bac"\nfault = { kill = true }', "stress 'slow': process: unknown process 'bac' (did you"),
    (STRESS, STRESS + "\nobjective.brose = { p50 = 1 }", "stress 'slow': objective: unknown request 'brose'"),
    ('calm = "1s"', 'calm = "1s"\ntour = ["slw"]', "run.tour: unknown stress 'slw' (did you mean 'slow'?)"),
    ('calm = "1s"', 'calm = "1s"\ntour = []', "run.tour is []; it takes names of stresses; left out: all of them"),
    # Names that stand twice, or can't be names.
    ("[arm.bare]", '[[load.request]]\nname = "browse"\nget = "/"\n[arm.bare]', "load.request: the name 'browse'"),
    (STRESS, f'{STRESS}\n[[stress]]\nname = "slow"\n{STRESS}', "stress: the name 'slow' stands twice"),
    ("[arm.bare]", '[arm."../up"]', f"the name '../up' {NAME}"),
    ("[arm.bare]", '[arm.""]', f"the name '' {NAME}"),
    ("[arm.bare]", f"[arm.{'x' * 65}]", f"the name '{'x' * 65}' {NAME}"),
    ("[system.process.back]", '[system.process."a/b"]\ncommand = "x"\n[system.process.back]', f"the name 'a/b' {NAME}"),
    ('name = "slow"', 'name = "a/b"', "stress.0.name is 'a/b'; it takes a short name of letters, digits, spaces"),
    # Durations, and those that have to fit into others.
    ('calm = "1s"', 'calm = "1x"', f"run.calm is '1x'; it takes {DURATION}"),
    ('calm = "1s"', "calm = 0", f"run.calm is 0.0; it takes {DURATION}"),
    ('calm = "1s"', "calm = -1", f"run.calm is -1.0; it takes {DURATION}"),
    ('calm = "1s"', 'calm = "3"', f"run.calm is '3'; it takes {DURATION}"),
    ('calm = "1s"', "calm = true", "run.calm is True; it takes"),
    ('detection = "500ms"', 'detection = "2s"', "run.detection is '2s'; it takes less than the dose"),
    ('recover_within = "500ms"', "recover_within = 3", "run.recover_within is 3.0; it takes less than the recovery"),
    (STRESS, STRESS + '\ndose = "fast"', f"stress.0.dose is 'fast'; it takes {DURATION}"),
    (STRESS, STRESS + '\ndose = "400ms"', "stress 'slow': its dose takes more than its detection, or run.detection"),
    (STRESS, STRESS + "\nrecovery = 0.4", "its recovery more than its recover_within, or run.recover_within"),
    (STRESS, STRESS + "\nrecover_within = 2", "its recovery more than its recover_within"),
    (STRESS, STRESS + "\ndetection = -1", "stress.0.detection is -1.0; it takes seconds from 0"),
    # Clients, their bursts and retries, and what a stress changes about the load.
    (LOAD, "client.app = { rate = 0 }\n" + LOAD, f"load.client.app.rate is 0.0; it takes {RATE}"),
    (LOAD, "client.app = {}\n" + LOAD, "load.client.app.rate is missing"),
    (LOAD, "client.app = { rate = 1 }\n" + LOAD, "load.client.app sends nothing: a request takes client = 'app'"),
    (LOAD, "client.app = { rate = 1, timeout = 0 }\n" + LOAD, f"load.client.app.timeout is 0.0; it takes {DURATION}"),
    (LOAD, "client.app = { rate = 1, bursts = { on = 1 } }\n" + LOAD, "load.client.app.bursts.off is missing"),
    (
        LOAD,
        "client.app = { rate = 1, bursts = { on = 1, off = 0 } }\n" + LOAD,
        "load.client.app.bursts.off is 0.0; it takes",
    ),
    (LOAD, "bursts = { on = 1e-5, off = 1e-5 }\n" + LOAD, "it takes longer ones: at most 10,000 in a stress"),
    (REQUEST, REQUEST + 'client = "ap"\n', "load.client: unknown client 'ap'; known are: none"),
    (LOAD, "retry = {}\n" + LOAD, "load.retry.attempts is missing"),
    (LOAD, "retry = { attempts = 1 }\n" + LOAD, "load.retry.attempts is 1; it takes a whole number from 2 to 20"),
    (LOAD, "retry = { attempts = 2, timeout = 0 }\n" + LOAD, f"load.retry.timeout is 0.0; it takes {DURATION}"),
    (LOAD, "retry = { attempts = 2, delay = -1 }\n" + LOAD, "load.retry.delay is -1.0; it takes seconds from 0"),
    (LOAD, "retry = { tries = 2 }\n" + LOAD, "load.retry: unknown key 'tries'"),
    (
        LOAD,
        'headers = { "X Y" = "1" }\n' + LOAD,
        "load.request.browse.headers is 'X Y'; it takes names of HTTP headers",
    ),
    (LOAD, 'headers = { Id = "{sku}" }\n' + LOAD, "'sku'; known are: id, n, uuid"),
    (
        '"1s" }',
        '"1s", after = "2s" }',
        "stress 'slow': fault.after is '2s'; it takes less than the dose, which lasts 2s",
    ),
    (
        STRESS,
        'process = "back"\nfault = { inject = { latency = 1, after = "2s" } }',
        "stress 'slow': fault.after is '2s'; it takes less than the dose, which lasts 2s",
    ),
    (
        STRESS,
        'process = "back"\nfault = { inject = { latency = 1 } }\ndose = "10m"',
        "stress 'slow': dose is '10m'; it takes at most 9m50s",
    ),
    (STRESS, 'edge = "back"\nfault = { inject = { latency = 1 } }', " takes process = "),
    (STRESS, STRESS + '\nmay_miss = ["stock"]', "stress 'slow': may_miss: unknown probe 'stock'; known are: none"),
    (STRESS, STRESS + "\nload.rate = 0", f"stress.0.load.rate is 0.0; it takes {RATE}"),
    (STRESS, STRESS + "\nload.timeout = 0", f"stress.0.load.timeout is 0.0; it takes {DURATION}"),
    (STRESS, STRESS + '\nload.to = "back"', "stress.0.load: unknown key 'to'"),
    (STRESS, 'fault = { spike = 2, request = "brows" }', "stress 'slow': fault.request: unknown request 'brows' (did"),
    (
        STRESS,
        'fault = { spike = 2, client = "app" }',
        "stress 'slow': fault.client: unknown client 'app'; known are: none",
    ),
    (STRESS, "fault = { spike = 2, request = 3 }", "request is 3; it takes the name of a request"),
    (STRESS, 'fault = { spike = 2, request = "browse", client = "app" }', "it takes no client beside a request"),
    (STRESS, 'process = "back"\nfault = { throttle = 1 }', "throttle is 1; it takes the share of its time, above 0"),
    (
        STRESS,
        'edge = "back"\nfault = { throttle = 0.5 }',
        "stress 'slow': its fault {'throttle': 0.5} takes process = ",
    ),
    ("answered = 0.5", 'answered = 0.5\nover = "x"', f"abort.over is 'x'; it takes {DURATION}"),
    ('"250ms"', '"quick"', f"objective.browse.p99 is 'quick'; it takes {DURATION}"),
    ("restart_after = 0", "restart_after = -1", "system.process.back.restart_after is -1.0; it takes seconds from 0"),
    ("restart_after = 0", "ready_within = 0", f"system.process.back.ready_within is 0.0; it takes {DURATION}"),
    # Shares.
    ("success = 0.99", "success = 99", "objective.browse.success is 99.0; it takes a share from 0 to 1"),
    ("success = 0.99", "success = nan", "objective.browse.success is nan; it takes a share from 0 to 1"),
    ("answered = 0.5", "answered = 0", "abort.answered is 0.0; it takes a share above 0 and at most 1"),
    # Values of another kind: nothing is guessed.
    ('"Two services"', "2", "title is 2; it takes a valid string"),
    ("seed = 3", 'seed = "3"', "seed is '3'; it takes a valid integer"),
    ("seed = 3", "seed = true", "seed is True; it takes a valid integer"),
    ("seed = 3", "seed = 3.5", "seed is 3.5; it takes a valid integer"),
    ("success = 0.99", 'success = "0.99"', "objective.browse.success is '0.99'; it takes a valid number"),
    ("success = 0.99", "success = true", "objective.browse.success is True; it takes a valid number"),
    ('"python front.py {port}"', '["python"]', "system.process.front.command is ['python']; it takes a valid string"),
    ('POLICIES = "policies.toml"', "POLICIES = 3", "arm.protected.env.POLICIES is 3; it takes a valid string"),
    ("[arm.bare]", '[arm.bare]\njudged = "yes"', "arm.bare.judged is 'yes'; it takes a valid boolean"),
    ("[[stress]]", "[stress]", "stress is {'name': 'slow'"),
    ('calm = "1s"', 'calm = "1s"\narms = "parallel"', "run.arms is 'parallel'; it takes 'together' or 'in turn'"),
    ("answered = 0.5", 'answered = 0.5\nthen = "exit"', "abort.then is 'exit'; it takes 'next' or 'stop'"),
    # What no process or proxy can be given.
    ('"python front.py {port}"', '" "', "system.process.front.command is ' '; it takes a command to run"),
    ("restart_after = 0", "port = 70000", "system.process.back.port is 70000; it takes a port from 1 to 65535"),
    ('to = "back"', 'to = "back"\nport = 0', "system.edge.back.port is 0; it takes a port from 1 to 65535"),
    ('to = "back"', 'to = "localhost:http"', "system.edge.back.to is 'localhost:http'; it takes a process, or an"),
    ('to = "back"', 'to = "localhost:70000"', "system.edge.back.to is 'localhost:70000'; it takes"),
    ('ready = "/healthz"', 'ready = "healthz"', "system.process.front.ready is 'healthz'; it takes an HTTP path"),
    ('POLICIES = "', '"A=B" = "', "arm.protected.env.A=B is 'policies.toml'; it takes a name without '='"),
    ('"policies.toml"', '"a\\u0000b"', "arm.protected.env.POLICIES is 'a\\x00b'; it takes"),
]


def written(folder: Path, text: str) -> Path:
    path = folder / "gameday.toml"
    path.write_text(text)
    return path


def read(folder: Path, *changes: tuple[str, str]) -> Experiment:
    """Read the good file with these changes."""
    text = GOOD
    for part, instead in changes:
        assert part in text
        text = text.replace(part, instead, 1)
    return load_experiment(written(folder, text))


def refusal(path: Path) -> str:
    """Return the message with which a file is refused; it names the file first, and once."""
    with pytest.raises(ConfigurationError) as caught:
        load_experiment(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count(str(path)) == 1
    return message.removeprefix(f"{path}: ")


def test_a_good_file(tmp_path: Path) -> None:
    """What a file says is what the experiment holds; what it leaves out has its default."""
    experiment = read(tmp_path)
    assert (experiment.title, experiment.seed, list(experiment.arm)) == ("Two services", 3, ["bare", "protected"])
    assert experiment.system.process["back"].restart_after == 0
    assert experiment.system.edge["back"].from_ == "front"
    (stress,) = experiment.chosen()
    assert (stress.name, stress.target) == ("slow", "edge back")
    assert experiment.lengths(stress) == (1, 2, 2)
    assert (experiment.run.arms, experiment.load.arrivals, experiment.load.timeout) == ("together", "poisson", 10)
    assert experiment.abort is not None
    assert (experiment.abort.over, experiment.abort.then) == (3, "next")
    request = experiment.load.request[0].request()
    assert (request.method, request.path, request.values["id"]) == ("GET", "/items/{id}", range(1, 10))


def test_the_least_file(tmp_path: Path) -> None:
    """A process, a load and a stress are enough: one arm, which is judged, and no objective."""
    process, load = '[system.process.app]\ncommand = "app"\n', '[load]\nto = "app"\nrate = 1\n'
    rest = '[[load.request]]\nname = "home"\nget = "/"\n[[stress]]\nname = "rush"\nfault = { spike = 2 }\n'
    experiment = load_experiment(written(tmp_path, process + load + rest))
    assert experiment.judged == list(experiment.arm) == ["system"]
    (stress,) = experiment.chosen()
    assert stress.target == "load"
    assert not any(experiment.limits(stress, "home", phase).limits() for phase in Phase)


def test_an_edge_to_something_outside(tmp_path: Path) -> None:
    """An edge may lead to an address instead of a process."""
    outside = read(tmp_path, ('to = "back"', 'to = "db.internal:5432"'))
    assert outside.system.edge["back"].address == ("db.internal", 5432)
    assert read(tmp_path).system.edge["back"].address is None


DOSES = """doses = [
    { edge = "back", fault = { latency = "1s" } },
    { process = "back", fault = { pause = true } },
    { fault = { spike = 3 } },
    { fault = { spike = 2, request = "browse" } },
]"""


def test_several_doses(tmp_path: Path) -> None:
    """A stress doses one fault, said in short, or several at the same time; either way `doses` has them all."""
    (slow,) = read(tmp_path).chosen()
    assert [dose.target for dose in slow.doses] == ["edge back"]
    assert (slow.target, slow.described) == ("edge back", "latency 1s")
    experiment = read(tmp_path, (STRESS, DOSES))
    (several,) = experiment.chosen()
    assert [dose.target for dose in several.doses] == ["edge back", "process back", "load", "load"]
    assert several.target == "edge back + process back + load + load"
    assert several.described == "latency 1s + paused + load x3 + browse x2"
    assert rates(experiment, several) == {"": [(1, 20), (2, 60), (2, 20)], "spike": [(1, 0), (2, 60), (2, 0)]}
    assert Stress(name="slow", edge="back", fault={"latency": "1s"}, doses=slow.doses).doses == slow.doses


@pytest.mark.parametrize(
    ("doses", "message"),
    [
        ('{ edge = "bak", fault = { refuse = true } }', "stress 'slow': edge: unknown edge 'bak' (did you mean"),
        ('{ edge = "back", fault = { pause = true } }', "stress.0.doses.0.fault: its fault {'pause': True} takes proc"),
        ('{ edge = "back" }', "stress.0.doses.0.fault is missing"),
        ("{ host = true, fault = { spike = 2 } }", "takes neither edge nor process"),
        ('{ edge = "back", host = true, fault = { refuse = true } }', "takes edge = "),
    ],
)
def test_doses_that_can_not_be(tmp_path: Path, doses: str, message: str) -> None:
    """A dose is at a place that is there, and that its fault takes."""
    assert message in refusal(written(tmp_path, GOOD.replace(STRESS, f"doses = [{doses}]", 1)))


@pytest.mark.parametrize(
    ("doses", "message"),
    [
        (["edge", {"refuse": True}, {"latency": 1}], "refuses connections and latency 1s on edge back can't act"),
        (["edge", {"latency": 1}, {"latency": 1}], "latency 1s and latency 1s on edge back can't act"),
        (["process", {"kill": True}, {"pause": True}], "killed and paused on process back can't act"),
        (["process", {"throttle": 0.5}, {"throttle": 0.2}], "can't act at the same time"),
        (["process", {"inject": {"latency": 1}}, {"inject": {"latency": 1}}], "can't act at the same time"),
        (["load", {"spike": 2}, {"spike": 3}], "load x2 and load x3 on load can't act"),
    ],
)
def test_contradictions(doses: list[Any], message: str) -> None:
    """Doses that leave nothing of each other are refused."""
    place, *faults = doses
    where: Any = {} if place == "load" else {place: "back"}
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Stress(name="both", doses=[Dose(fault=fault, **where) for fault in faults])


def test_doses_that_go_together() -> None:
    """An edge may have a latency for each direction, and a load spikes of different requests."""
    both = [{"latency": 1}, {"latency": 1, "stream": "upstream"}]
    assert Stress(name="both", doses=[Dose(edge="back", fault=fault) for fault in both]).target == "edge back"
    inside = [{"inject": {"latency": 1}, "at": "one"}, {"inject": {"latency": 1}, "at": "two"}]
    assert len(Stress(name="both", doses=[Dose(process="back", fault=fault) for fault in inside]).doses) == 2
    spikes = [{"spike": 2}, {"spike": 2, "request": "browse"}]
    assert len(Stress(name="both", doses=[Dose(fault=fault) for fault in spikes]).doses) == 2
    with pytest.raises(ConfigurationError, match="takes fault or doses, not both"):
        Stress(name="both", fault={"spike": 2}, doses=[Dose(fault={"spike": 3})])
    with pytest.raises(ConfigurationError, match="takes a fault, or 1 to 16 doses"):
        Stress(name="none")


@pytest.mark.parametrize(("part", "instead", "message"), MISTAKES, ids=[instead for _, instead, _ in MISTAKES])
def test_mistakes(tmp_path: Path, part: str, instead: str, message: str) -> None:
    """Every mistake is one message: the file, the key, the value, and what would be accepted."""
    assert part in GOOD
    said = refusal(written(tmp_path, GOOD.replace(part, instead, 1)))
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("part", "instead", "start"),
    [
        ('to = "front"', 'to = "fron"', "load.to: "),
        ('calm = "1s"', 'calm = "1s"\ntour = ["slw"]', "run.tour: "),
        ("[arm.bare]", '[arm."../up"]', "the name '../up'"),
        (STRESS, STRESS + '\ndose = "400ms"', "stress 'slow': "),
    ],
)
def test_where_messages_begin(tmp_path: Path, part: str, instead: str, start: str) -> None:
    """After the file comes the key as one would write it, or the sentence."""
    assert refusal(written(tmp_path, GOOD.replace(part, instead, 1))).startswith(start)


def test_empty_lists(tmp_path: Path) -> None:
    """A file without stresses, requests or arms says what it lacks."""
    before = GOOD.partition("[[stress]]")[0]
    assert "at least one [[stress]]" in refusal(written(tmp_path, "stress = []\n" + before))
    head, tail = GOOD.partition("[[load.request]]")[0], GOOD.partition("[arm.bare]")[2]
    assert "at least one [[load.request]]" in refusal(written(tmp_path, head + "request = []\n[arm.bare]" + tail))
    no_arms = GOOD.replace('[arm.bare]\n\n[arm.protected]\nenv = { POLICIES = "policies.toml" }', "[arm]")
    assert "at least one [arm.NAME]" in refusal(written(tmp_path, no_arms))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = = b", "is not TOML: "),
        (b"seed = 1\nseed = 2", "is not TOML: "),
        (b"\x7fELF\xff\xfe\x00", "is not TOML: "),
        (b"# " + b"x" * 1_000_000, "is larger than 1,000,000 bytes"),
        (b"", "system is missing"),
    ],
    ids=["not TOML", "a key twice", "binary", "too large", "empty"],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    """What is no experiment file is refused by name."""
    path = tmp_path / "gameday.toml"
    path.write_bytes(content)
    assert refusal(path).startswith(message)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    """A file that is missing, or a folder, can't be read."""
    assert refusal(tmp_path / "none.toml") == "can't be read: No such file or directory"
    assert refusal(tmp_path) == "can't be read: Is a directory"


def test_objectives_are_merged(tmp_path: Path) -> None:
    """Each next word wins, limit by limit: the route's, its phase's, the stress's, the stress's phase's."""
    experiment = read(
        tmp_path,
        ('p99 = "250ms"', 'p99 = "250ms"\np50 = "100ms"\ncontained = { p99 = "1s", answered = 0.9 }'),
        (STRESS, STRESS + '\nobjective.browse = { p50 = "200ms", contained = { p50 = "300ms", success = 0.1 } }'),
    )
    (stress,) = experiment.chosen()
    at = {phase: experiment.limits(stress, "browse", phase).limits() for phase in Phase}
    assert at[Phase.CALM] == at[Phase.RECOVERED] == {"success": 0.99, "p99": 0.25, "p50": 0.2}
    assert at[Phase.CONTAINED] == {"success": 0.1, "answered": 0.9, "p50": 0.3, "p99": 1.0}
    assert at[Phase.DETECTION] == at[Phase.RECOVERING] == {}


def test_a_stress_changes_only_its_own_objectives(tmp_path: Path) -> None:
    """What one stress asks for is not asked of the others."""
    experiment = read(tmp_path, (STRESS, STRESS + "\nobjective.browse.success = 0.5\n" + SECOND))
    slow, gone = experiment.chosen()
    assert experiment.limits(slow, "browse", Phase.CALM).success == 0.5
    assert experiment.limits(gone, "browse", Phase.CALM).success == 0.99


@pytest.mark.parametrize("phase", [Phase.DETECTION, Phase.RECOVERING])
def test_phases_in_which_nothing_is_asked(phase: Phase) -> None:
    """Detection and recovering are asked only for what their own tables say."""
    assert Objective(success=0.9).at(phase).limits() == {}
    special: Any = {phase.value: Objective(p99="1s")}
    assert Objective(success=0.9, **special).at(phase).limits() == {"p99": 1.0}


def test_which_stresses_are_chosen(tmp_path: Path) -> None:
    """Those named, or all, or the tour, which is all by default; always in the file's order, and once."""
    other = SECOND.replace("gone", "rush").replace('process = "back"\n', "").replace("kill = true", "spike = 2")
    more = (STRESS, STRESS + SECOND + other)

    def names(experiment: Experiment, *only: str, everything: bool = False) -> list[str]:
        return [stress.name for stress in experiment.chosen(only, everything=everything)]

    toured = read(tmp_path, more, ('calm = "1s"', 'calm = "1s"\ntour = ["rush", "slow", "rush"]'))
    assert names(toured) == ["slow", "rush"]
    assert names(toured, everything=True) == ["slow", "gone", "rush"]
    assert names(toured, "gone") == ["gone"]
    assert names(toured, "rush", "gone", "rush") == ["gone", "rush"]
    assert names(toured, "gone", everything=True) == ["gone"]
    assert names(read(tmp_path, more)) == ["slow", "gone", "rush"]
    with pytest.raises(ConfigurationError, match=r"--only: unknown stress 'gon' \(did you mean 'gone'\?\)"):
        toured.chosen(["gon"])


def test_which_arms_are_judged(tmp_path: Path) -> None:
    """Every arm but the one called bare, unless an arm says otherwise."""
    assert read(tmp_path).judged == ["protected"]
    turned = read(tmp_path, ("[arm.bare]", "[arm.bare]\njudged = true"), ("env = { POL", "judged = false\nenv = { POL"))
    assert turned.judged == ["bare"]


def rates(experiment: Experiment, stress: Stress) -> dict[str, list[tuple[float, float]]]:
    """Return the lengths and rates of every stream of a stress's load."""
    spec = experiment.load_spec(stress, "http://127.0.0.1")
    return {
        stream.name: [(segment.length, float(segment.rate)) for segment in stream.segments] for stream in spec.streams
    }


def test_the_load_of_a_stress(tmp_path: Path) -> None:
    """A stress's own lengths beat the run's, and a spike multiplies the rate of the dose."""
    other = SECOND.replace('process = "back"\nfault = { kill = true }', "fault = { spike = 3 }\ncalm = 4\ndose = 5")
    slow, rush = (experiment := read(tmp_path, (STRESS, STRESS + other))).chosen()
    assert rates(experiment, slow) == {"": [(1, 20), (2, 20), (2, 20)]}
    assert rates(experiment, rush) == {"": [(4, 20), (5, 60), (2, 20)]}


CLIENTS = (
    LOAD,
    'headers = { "X-Tenant" = "shop", Who = "anybody" }\nretry = { attempts = 3, timeout = "1s" }\n'
    'client.reports = { rate = 2, timeout = 5, headers = { who = "reports", "X-Id" = "{uuid}" } }\n' + LOAD,
)
REPORT = (
    '[[load.request]]\nname = "report"\nget = "/report"\nclient = "reports"\nheaders = { "X-Id" = "own" }\n\n[arm.bare]'
)


def test_clients(tmp_path: Path) -> None:
    """A client's requests come at its rate and with its habits; its headers go over the load's and below their own."""
    experiment = read(tmp_path, CLIENTS, ("[arm.bare]", REPORT))
    (slow,) = experiment.chosen()
    spec = experiment.load_spec(slow, "http://127.0.0.1")
    assert {stream.name: stream.requests for stream in spec.streams} == {"": ("browse",), "client reports": ("report",)}
    assert rates(experiment, slow)["client reports"] == [(1, 2), (2, 2), (2, 2)]
    browse, report = spec.requests
    assert browse.headers == {"X-Tenant": "shop", "Who": "anybody"}
    assert report.headers == {"X-Tenant": "shop", "who": "reports", "X-Id": "own"}
    assert (browse.timeout, report.timeout) == (10, 5)
    assert browse.retry == report.retry == Retries(3, timeout="1s")
    assert experiment.load.mean_rate == 22


def test_a_client_alone(tmp_path: Path) -> None:
    """Where every request is a client's, the load has no rate of its own, and may not have one."""
    changes = [(REQUEST, REQUEST + 'client = "app"\n'), (LOAD, "client.app = { rate = 5 }\n" + LOAD)]
    alone = read(tmp_path, *changes, ('rate = "20/s"\n', ""))
    assert list(rates(alone, alone.chosen()[0])) == ["client app"]
    with pytest.raises(ConfigurationError, match=r"load\.rate is '20/s'; it takes a request without a client"):
        read(tmp_path, *changes)


def test_bursts(tmp_path: Path) -> None:
    """A bursty client sends and is silent in turn, whatever the phase; its rate is that of the bursts."""
    bursty = read(tmp_path, (LOAD, 'bursts = { on = "500ms", off = "1s" }\n' + LOAD))
    found = rates(bursty, bursty.chosen()[0])[""]
    ends = [round(sum(length for length, _ in found[: i + 1]), 6) for i in range(len(found))]
    assert ends == [0.5, 1.0, 1.5, 2.0, 3.0, 3.5, 4.5, 5.0]
    assert [rate for _, rate in found] == [20, 0, 0, 20, 0, 20, 0, 20]
    assert bursty.load.mean_rate == pytest.approx(20 / 3)


def test_a_spike_of_one_request(tmp_path: Path) -> None:
    """What comes on top is a stream of its own in the dose, so that everything else arrives as if nothing were."""
    more = '[[load.request]]\nname = "home"\nget = "/"\nweight = 3\n\n[arm.bare]'
    experiment = read(tmp_path, ("[arm.bare]", more), (STRESS, 'fault = { spike = 9, request = "browse" }'))
    (stress,) = experiment.chosen()
    spec = experiment.load_spec(stress, "http://127.0.0.1")
    assert rates(experiment, stress) == {"": [(1, 20), (2, 20), (2, 20)], "spike": [(1, 0), (2, 40), (2, 0)]}
    assert [stream.requests for stream in spec.streams] == [("browse", "home"), ("browse",)]


@pytest.mark.parametrize(
    ("fault", "dosed"),
    [("spike = 3", {"": 60, "client reports": 6}), ('spike = 3, client = "reports"', {"": 20, "client reports": 6})],
)
def test_a_spike_of_clients(tmp_path: Path, fault: str, dosed: dict[str, float]) -> None:
    """A spike is of all clients, or of the one that it names."""
    experiment = read(tmp_path, CLIENTS, ("[arm.bare]", REPORT), (STRESS, f"fault = {{ {fault} }}"))
    found = rates(experiment, experiment.chosen()[0])
    assert {name: segments[1][1] for name, segments in found.items()} == dosed


def test_what_a_stress_changes_about_the_load(tmp_path: Path) -> None:
    """A stress may come with another rate, patience and retries, from its calm to its end; the others keep theirs."""
    changes = 'load = { rate = 30, timeout = "2s", retry = { attempts = 2, delay = "100ms" } }'
    experiment = read(tmp_path, (STRESS, f"{STRESS}\n{changes}\ndetection = 0\nrecover_within = 1.5{SECOND}"))
    slow, gone = experiment.chosen()
    assert rates(experiment, slow) == {"": [(1, 30), (2, 30), (2, 30)]}
    (browse,) = experiment.load_spec(slow, "http://127.0.0.1").requests
    assert (browse.timeout, browse.retry) == (2, Retries(2, delay="100ms"))
    assert experiment.allowances(slow) == (0, 1.5)
    assert rates(experiment, gone) == {"": [(1, 20), (2, 20), (2, 20)]}
    assert experiment.load_spec(gone, "http://127.0.0.1").requests[0].retry is None
    assert experiment.allowances(gone) == (0.5, 0.5)


def test_planned_seconds(tmp_path: Path) -> None:
    """Arms that run together take the time of one; in turn, each takes its own."""
    together = read(tmp_path)
    stresses, arms = together.chosen(), list(together.arm)
    once = planned_seconds(together, stresses, arms)
    assert 5 < once < 6
    in_turn = read(tmp_path, ('calm = "1s"', 'calm = "1s"\narms = "in turn"'))
    assert planned_seconds(in_turn, stresses, arms) == 2 * once


WHOLE = """
[[probe]]
name = "well"
http = "http://{front}/healthz"
when = ["start", "during"]
tolerance = { path = "items.0", min = 1 }

[[invariant]]
name = "once"
dsn = "sqlite:{dir}/shop.db"
sql = "SELECT 0"
tolerance = 0

[blast_radius]
edges = 1
routes = ["browse"]

[budget]
time = "10m"
failed = 100
"""


def test_what_else_a_file_may_say(tmp_path: Path) -> None:
    """Probes, invariants, bounds, a control, and what an answer must hold: as the file has them."""
    burning = 'answered = 0.5\nburn = { objective = 0.99, rate = 14.4 }\nthen = "stop"'
    experiment = read(
        tmp_path,
        ("answered = 0.5", burning + WHOLE),
        ('calm = "1s"', 'calm = "1s"\ncontrol = true\nconfidence = 0.9'),
        (REQUEST, REQUEST + 'expect = { status = 200, json = { "id" = "{id}" }, contains = "x" }\n'),
        (STRESS, STRESS + '\nmay_miss = ["well"]\nmetastability = { step = 0.5 }\nblast_radius = { edges = 2 }'),
    )
    (probe,), (invariant,) = experiment.probe, experiment.invariant
    assert (probe.kind, probe.when, invariant.kind) == ("http", ["start", "during"], "sql")
    assert experiment.abort is not None
    assert experiment.abort.burn is not None
    assert experiment.abort.burn.rate == 14.4
    (slow,) = experiment.chosen()
    assert slow.staircase is not None
    assert (slow.staircase.step, slow.may_miss) == (0.5, ["well"])
    assert experiment.radius(slow) is not experiment.blast_radius
    assert experiment.spared(slow) == set()
    assert (experiment.run.control, experiment.run.confidence) == (True, 0.9)
    (request,) = experiment.load_spec(slow, "http://127.0.0.1").requests
    assert request.placeholders() == {"id"}
    assert planned_seconds(experiment, [slow], ["bare"]) == 2 * planned_seconds(read(tmp_path), [slow], ["bare"])


def test_a_control_goes_without_the_fault(tmp_path: Path) -> None:
    """A control has the same arrivals, but for those of a spike."""
    (rush,) = (experiment := read(tmp_path, (STRESS, "fault = { spike = 3 }"))).chosen()
    dosed = experiment.load_spec(rush, "http://127.0.0.1")
    control = experiment.load_spec(rush, "http://127.0.0.1", dosed=False)
    assert [[float(segment.rate) for segment in spec.streams[0].segments] for spec in (dosed, control)] == [
        [20, 60, 20],
        [20, 20, 20],
    ]
    assert dosed.seed == control.seed


def test_a_file_based_on_one_that_is_based_on_another(tmp_path: Path) -> None:
    """Such as what an exploration of a stress's own file has kept; a circle is refused."""
    written(tmp_path, GOOD)
    own, kept = tmp_path / "own" / "stress.toml", tmp_path / "corpus" / "kept.toml"
    for file, text in (
        (own, f'experiment = "../gameday.toml"\nseed = 9\n{SECOND}'),
        (kept, f'experiment = "../own/stress.toml"\ntitle = "Kept"\n{SECOND.replace("gone", "kept")}'),
    ):
        file.parent.mkdir()
        file.write_text(text)
    experiment = load_experiment(kept)
    assert (experiment.title, experiment.seed, [stress.name for stress in experiment.stress]) == ("Kept", 9, ["kept"])
    assert folder_of(kept) == folder_of(own) == tmp_path.resolve()
    own.write_text('experiment = "../corpus/kept.toml"')
    assert "experiment is '../own/stress.toml', which leads round in a circle" in refusal(own)


def test_a_file_based_on_another(tmp_path: Path) -> None:
    """It is the other file with its own tables in the place of those there, and runs in the other's folder."""
    written(tmp_path, GOOD.replace('calm = "1s"', 'calm = "1s"\ntour = ["slow"]'))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    small = corpus / "small.toml"
    small.write_text(f'experiment = "../gameday.toml"\nseed = 9\n{SECOND}')
    experiment = load_experiment(small)
    assert (experiment.title, experiment.seed) == ("Two services", 9)
    assert [stress.name for stress in experiment.chosen()] == ["gone"]
    assert folder_of(small) == tmp_path.resolve()
    assert folder_of(tmp_path / "gameday.toml") == tmp_path.resolve()
    small.write_text('experiment = "small.toml"')
    assert "experiment is 'small.toml', which leads round in a circle" in refusal(small)
    before, _, rest = GOOD.partition("[run]")
    (tmp_path / "amiss.toml").write_text(f"{before}run = 3\n{rest[rest.index('[system') :]}")
    small.write_text(f'experiment = "../amiss.toml"\n{SECOND}')
    assert "run is 3; it takes" in refusal(small)
    small.write_text("experiment = 3")
    assert "experiment is 3; it takes the path of another experiment file" in refusal(small)
    small.write_text('experiment = "none.toml"')
    with pytest.raises(ConfigurationError, match=r"none\.toml: can't be read: No such file"):
        load_experiment(small)


def test_the_face() -> None:
    """Everything that the room shows can be had from it, and nothing else."""
    import hormesis.gameday as room

    for name in room.__all__:
        assert getattr(room, name).__module__.startswith("hormesis.gameday.")
    assert dir(room) == room.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = room.nothing


def test_the_shop() -> None:
    """The shop's file loads; its tour has six stresses or more and takes less than 150 seconds."""
    shop = load_experiment(SHOP)
    tour = shop.chosen()
    assert len(tour) >= 6
    assert len(shop.chosen(everything=True)) > len(tour)
    assert planned_seconds(shop, tour, list(shop.arm)) < 150
    assert shop.judged == ["protected"]


def test_the_schema() -> None:
    """The schema knows the tables of a file and refuses others."""
    found = schema()
    assert found["$schema"].startswith("https://json-schema.org/")
    assert set(found["required"]) == {"system", "load", "stress"}
    assert found["additionalProperties"] is False


def test_words_of_python_are_ordinary_words(tmp_path: Path) -> None:
    """Names and bodies that are Python's own words arrive as they were written."""
    text = GOOD.replace('get = "/items/{id}"', 'post = "/items/{id}"\njson = { class = "{id}", from = { import = 1 } }')
    file = written(tmp_path, text.replace("process.back", "process.import").replace('to = "back"', 'to = "import"'))
    experiment = load_experiment(file)
    assert experiment.load.request[0].json == {"class": "{id}", "from": {"import": 1}}
    assert "import" in experiment.system.process
    assert experiment.system.edge["back"].from_ == "front"

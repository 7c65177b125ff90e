"""What is explored by default: every edge, every inner process, and every place inside that the policies have."""

from __future__ import annotations

from pathlib import Path

import pytest

from hormesis.chaos.faults import Inject
from hormesis.gameday.experiment import Experiment, load_experiment
from hormesis.gameday.explore.catalogue import catalogue, wiring
from hormesis.gameday.explore.setup import Protection, protection
from hormesis.gameday.explore.trials import Injection, Trial

POLICIES = """
[policy.stock]
timeout = "100ms"
chaos = []

[policy.other]
chaos = []
"""


@pytest.fixture
def shop(experiment: Path) -> Experiment:
    """A shop whose policies have places for faults, and a stress that injects something of its own."""
    (experiment.parent / "policies.toml").write_text(POLICIES)
    text = experiment.read_text().replace(
        'command = "shop {port}"', 'command = "shop {port}"\nenv = { P = "policies.toml" }'
    )
    experiment.write_text(
        text + '\n[[stress]]\nname = "odd"\nprocess = "shop"\n'
        'fault = { inject = { error = "timeout", share = 0.3 }, at = "stock" }\n'
    )
    return load_experiment(experiment)


def protected(shop: Experiment, experiment: Path) -> Protection:
    found = protection(shop, "system", experiment.parent, None)
    assert found is not None
    return found


def test_places_are_policies_that_guard_an_edge(shop: Experiment, experiment: Path) -> None:
    """A policy that no edge is guarded by is in nobody's hands that could be told."""
    assert protected(shop, experiment).places == [("shop", "stock")]
    assert wiring(shop).guards == {("shop", "stock"): ["stock"]}


def test_what_is_injected(shop: Experiment, experiment: Path) -> None:
    """An error and latency at each place, the door's too; a stress of the file takes the place of its kind."""
    injected = [each for each in catalogue(shop, {}, [("shop", "stock")]) if isinstance(each.fault, Inject)]
    assert [str(each) for each in injected] == [
        "process shop at stock: injects error timeout on 30 % of calls at stock",
        "process shop at stock: injects latency 2s at stock",
    ]
    own = [str(each) for each in catalogue(shop, {}) if isinstance(each.fault, Inject)]
    assert own == ["process shop at stock: injects error timeout on 30 % of calls at stock"]
    assert "process shop" not in {each.target for each in catalogue(shop, {}, [("shop", "stock")])}


def test_the_policy_at_fault_is_changed(shop: Experiment, experiment: Path) -> None:
    """Whatever is injected at a policy, changes to that policy are tried against it."""
    trial = Trial((Injection("process", "shop", Inject({"latency": 1}, at="stock")),))
    changes = protected(shop, experiment).changes(trial, (), frozenset())
    assert any(each.name.startswith("stock: ") for each in changes)

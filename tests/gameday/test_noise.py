"""The noise of the machine is its own account of itself, and nothing where it keeps none."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from hormesis.gameday import noise
from hormesis.gameday.noise import NoiseMeter


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")
def test_work_makes_the_machine_busy() -> None:
    """A busy moment of one processor is seen as at least nearly its share of all."""
    meter = NoiseMeter()
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    found = meter.read()
    assert 0.4 / found.cores <= found.busy <= 1
    assert 0 <= found.steal <= 1
    assert found.load >= 0


def test_shares_are_of_the_time_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idling and waiting for a disk is no work, and neither is what was stolen."""
    counts = iter([[100, 0, 0, 900, 0, 0, 0, 0], [130, 5, 5, 930, 10, 5, 5, 10]])
    monkeypatch.setattr(noise, "_ticks", lambda: next(counts))
    found = NoiseMeter().read()
    assert found.busy == pytest.approx(0.5)
    assert found.steal == pytest.approx(0.1)


@pytest.mark.parametrize("ticks", [[], [1, 2, 3], [1, 0, 0, 1, 0, 0, 0, 0]])
def test_a_machine_that_does_not_tell_is_not_guessed_at(ticks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an account, or within one tick, there are no shares."""
    monkeypatch.setattr(noise, "_ticks", lambda: ticks)
    found = NoiseMeter().read()
    assert math.isnan(found.busy)
    assert math.isnan(found.steal)

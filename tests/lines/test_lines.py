"""Lossy, slow, cut and parted lines between two hosts: rounds end over all silos, or without those who were away."""

import json
import time
from pathlib import Path

import pytest

from aggregator.runs.submitted import Runs
from lines.conftest import SILOS, FarFederation
from support.deployment import until

pytestmark = pytest.mark.parts


def phase(far: FarFederation, name: str) -> str:
    return Runs(far.deployment.folder / "state").find(name).phase


def report(far: FarFederation, name: str) -> dict[str, object]:
    result = Path(far.deployment.wait(name).data["result"])
    content: dict[str, object] = json.loads((result / "report.json").read_text())
    return content


@pytest.mark.clause("4.9")
def test_a_line_that_loses_every_fifth_packet(far: FarFederation) -> None:
    far.line.loss, far.line.delay = 0.2, 0.05
    server = far.start()
    done = report(far, far.deployment.submit(phase_seconds=120))
    assert done["survivors"] == list(SILOS), server.said


@pytest.mark.clause("6.5.4")
def test_a_slow_line_that_is_cut_now_and_then(far: FarFederation) -> None:
    """8 Mbit/s, 300 ms there and back; cut for as long as the connection takes to be given up."""
    far.line.rate, far.line.delay = 1e6, 0.15
    server = far.start()
    name = far.deployment.submit(phase_seconds=120)
    until(lambda: phase(far, name) == "upload")
    for _ in range(2):
        far.line.is_cut = True
        time.sleep(25)
        far.line.is_cut = False
        time.sleep(3)
    done = report(far, name)
    assert done["survivors"] == list(SILOS), server.said


@pytest.mark.clause("4.12")
def test_silos_that_are_away_for_less_than_their_time_are_waited_for(far: FarFederation) -> None:
    server = far.start()
    name = far.deployment.submit(phase_seconds=90)
    until(lambda: phase(far, name) != "")
    far.line.is_cut = True
    time.sleep(40)
    far.line.is_cut = False
    assert report(far, name)["survivors"] == list(SILOS), server.said


@pytest.mark.clause("4.12")
def test_a_partition_for_longer_fails_the_round_and_the_next_one_is_carried_out(far: FarFederation) -> None:
    server = far.start()
    name = far.deployment.submit(phase_seconds=15, preparation_seconds=15)
    until(lambda: phase(far, name) != "")
    far.line.is_cut = True
    until(lambda: Runs(far.deployment.folder / "state").find(name).is_over)
    assert "answered and" in Runs(far.deployment.folder / "state").find(name).said
    far.line.is_cut = False
    assert report(far, far.deployment.submit(phase_seconds=60))["survivors"] == list(SILOS), server.said

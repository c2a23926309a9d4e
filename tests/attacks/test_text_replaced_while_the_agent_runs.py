"""Sums of one text over two survivor sets: the ledger must know each text as it is when a release is recorded, whoever
replaced the file while the agent ran.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from attacks.conftest import Approached
from crypto.errors import CalibrationError
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.host.metrics import SiloMetrics
from silo_agent.identity.own_files import read_roster
from silo_agent.rounds import run_of_plan
from silo_agent.rounds.agreement import Agreement

pytestmark = pytest.mark.clause("2.5.17")

OTHER = "Another patient went home. " * 200


def test_a_release_is_of_the_text_that_is_there_now(tmp_path: Path, model: Path) -> None:
    silo = Approached(tmp_path, model)
    config, state = silo.config, silo.config.state
    state.mkdir()
    store, metrics = StateStore(state / STATE_FILE), SiloMetrics(CollectorRegistry())
    agreement = Agreement(config, DenseWeights.open(model), store, AuditLog(state), metrics)
    round_, roster = Round(checked_plan(silo.agreed), 0, b""), read_roster(config.roster, config.suite)
    for _ in range(2):
        release = agreement.release(round_, roster)
        assert release is not None
        assert release.data == sha256(config.calibration.read_bytes()).digest()
        config.calibration.write_text(OTHER)


@pytest.mark.parametrize("when", ["before it is read", "after it was read"])
def test_nothing_is_said_of_a_text_that_was_replaced_after_the_release_was_recorded(
    when: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silo, read = Approached(tmp_path, model), run_of_plan.read_sequences

    def replaced(file: Path, *arguments: Any, **fields: Any) -> Any:
        if when == "before it is read":
            file.write_text(OTHER)
        sequences = read(file, *arguments, **fields)
        file.write_text(OTHER)
        return sequences

    monkeypatch.setattr(run_of_plan, "read_sequences", replaced)
    with pytest.raises(CalibrationError, match=r"text\.txt: was replaced during the round"):
        silo.offer(silo.agreed)
    assert silo.said == []
    monkeypatch.undo()
    silo.agreed.run = bytes(len(silo.agreed.run))
    silo.accepts(silo.agreed)

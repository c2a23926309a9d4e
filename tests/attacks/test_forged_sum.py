"""A dishonest aggregator publishes another sum than the uploads', with a Merkle tree that fits it."""

from pathlib import Path

import pytest

from attacks.stage import (
    AGGREGATOR,
    SILOS,
    Stage,
    assert_refused,
    assert_silent,
    difference,
    heard,
    plain,
    publish,
    told,
)
from crypto.errors import BadAudit, TooFewSurvivors
from crypto.names import Phase
from scenarios.world import Lanes
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("5.6.5", "5.9.2", "5.9.3", "5.9.4", "5.9.5")


def one_more(opened: dict[str, Lanes]) -> None:
    """One silo more kept the first weight."""
    at = int(opened["votes blocks.0.weight"].argmin())
    opened["votes blocks.0.weight"][at] += 1
    opened["nonzero counts blocks.0.weight"][0] += 1


def test_every_auditor_of_a_forged_chunk_finds_it_and_nobody_is_done(tmp_path: Path) -> None:
    stage = Stage()
    stage.forge = one_more
    stage.go_on(Phase.AUDIT)
    forged = {name: sums.tolist() for name, sums in stage.open().items()}
    assert sum(difference(forged, plain(stage, *SILOS))["votes blocks.0.weight"]) == 1
    publish(stage, tmp_path)  # the sum passes every check of its own, so only AUDIT is left
    verdicts = round_pb2.Verdicts()
    for silo in SILOS:
        session = stage.silos[silo]
        for index in session.assigned:
            if index in (0, 1):  # the votes and the counts of the first tensor
                with pytest.raises(BadAudit, match="not the sum of the uploads") as found:
                    session.audit(index, stage.committed(index))
                assert found.value.party == AGGREGATOR
                assert_silent(session)
                break
            session.audit(index, stage.committed(index))
        else:
            verdicts.signatures.add(silo=silo, signature=heard(session.message()).signature)
            stage.aggregator.receive(silo, session.message())
    deceived = [silo for silo in SILOS if stage.silos[silo].phase is Phase.AUDIT]
    assert 1 <= len(deceived) <= 3
    enough = len(deceived) >= 3
    with pytest.raises(BadAudit if enough else TooFewSurvivors):  # an honest aggregator
        stage.aggregator.close_phase()
    for silo in deceived:  # one that goes on
        error, party = (BadAudit, AGGREGATOR) if enough else (TooFewSurvivors, "")
        assert_refused(stage.silos[silo], told(stage, verdicts=verdicts), error, party)

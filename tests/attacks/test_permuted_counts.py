"""A dishonest aggregator exchanges counts inside a comparison group, which no check of the sum alone can see."""

from pathlib import Path

import pytest

from attacks.stage import AGGREGATOR, SILOS, Stage, assert_silent, plain, publish
from crypto.errors import BadAudit
from crypto.names import Phase
from scenarios.world import Lanes

pytestmark = pytest.mark.clause("5.9.2", "6.7.4")


def permute(opened: dict[str, Lanes]) -> None:
    votes = opened["votes blocks.1.weight"]
    votes[:] = votes[::-1].copy()


def test_only_audit_finds_it(tmp_path: Path) -> None:
    stage = Stage()
    stage.forge = permute
    stage.go_on(Phase.AUDIT)
    forged, true = {name: sums.tolist() for name, sums in stage.open().items()}, plain(stage, *SILOS)
    assert sorted(forged["votes blocks.1.weight"]) == sorted(true["votes blocks.1.weight"])
    assert forged["votes blocks.1.weight"] != true["votes blocks.1.weight"]
    assert publish(stage, tmp_path)  # another model, and no check of 6.7 fails
    for silo in stage.auditors(2):
        with pytest.raises(BadAudit, match="chunk 2 as opened is not the sum") as found:
            stage.silos[silo].audit(2, stage.committed(2))
        assert found.value.party == AGGREGATOR
        assert_silent(stage.silos[silo])

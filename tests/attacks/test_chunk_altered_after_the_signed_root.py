"""A dishonest aggregator adds to a silo's masked words on its disk, which shifts the sum by as much."""

import numpy as np
import pytest

from attacks.stage import AGGREGATOR, ONE, SILOS, Stage, assert_silent, difference, plain
from crypto.errors import BadAudit, BadUpload
from crypto.names import Phase

pytestmark = pytest.mark.clause("5.4.2", "5.9.2", "5.9.3")


@pytest.mark.parametrize("served", ["as altered", "as signed"])
def test_its_auditors_find_it_whatever_they_are_shown(served: str) -> None:
    stage = Stage(Phase.UNMASK)
    signed = stage.wire[ONE][0]
    words = np.frombuffer(signed, "<u8").copy()
    words[1] += np.uint64(1)  # adding is all that masked words allow, and all it takes
    stage.wire[ONE][0] = words.tobytes()
    stage.go_on(Phase.AUDIT)
    forged = {name: sums.tolist() for name, sums in stage.open().items()}
    shift = difference(forged, plain(stage, *SILOS))["votes blocks.0.weight"]
    assert shift == [1] + 59 * [0]  # headers and padding are in order
    committed = stage.committed(0)
    if served == "as signed":
        stage.wire[ONE][0] = signed
        committed[1] = stage.committed(0)[1]
    assert len(stage.auditors(0)) == 2
    for silo in stage.auditors(0):
        with pytest.raises(
            BadAudit, match="silo-001 is not what its root" if served == "as altered" else "not the sum"
        ) as found:
            stage.silos[silo].audit(0, committed)
        assert found.value.party == AGGREGATOR
        assert_silent(stage.silos[silo])


def test_a_root_of_other_words_than_the_stored_is_not_taken() -> None:
    """The same by a silo: its words change on the way after it signed."""
    stage = Stage(Phase.UPLOAD)
    stage.upload(ONE, stage.lanes[ONE])
    stage.aggregator.uploaded(ONE, bytes(32))
    with pytest.raises(BadUpload) as refused:
        stage.aggregator.receive(ONE, stage.silos[ONE].message())
    assert refused.value.party == ONE

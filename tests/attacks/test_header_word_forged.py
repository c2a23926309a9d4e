"""A dishonest silo counts itself twice or not at all in its header words, or sets bits where there is no lane."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.rounds.word_sum import write_sum
from attacks.stage import AGGREGATOR, ONE, Stage, assert_silent
from crypto.errors import BadAudit, CorruptSum
from crypto.names import Phase

pytestmark = pytest.mark.clause("6.1.1", "6.2.1", "6.7.2", "5.9.2")

LIES = {"twice": (0, 2), "not at all": (0, 0), "bits without a lane": (1, 1 << 63)}


@pytest.mark.parametrize("lie", LIES)
def test_the_sum_is_corrupt_and_no_auditor_passes_it(lie: str, tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    packed, (at, value) = stage.packed(ONE), LIES[lie]
    packed[2][at] = np.uint64(value) if at == 0 else packed[2][at] | np.uint64(value)
    stage.upload_words(ONE, packed)
    stage.go_on(Phase.AUDIT)
    files = []
    for silo in stage.aggregator.survivors:
        files.append(tmp_path / silo)
        files[-1].write_bytes(b"".join(stage.wire[silo]))
    with pytest.raises(CorruptSum, match="chunk 2 of section votes"):  # an honest aggregator
        write_sum(stage.layout, files, stage.aggregator, tmp_path / "sum", 1)
    for silo in stage.auditors(2):  # one that does not look
        with pytest.raises(BadAudit, match="chunk 2") as found:
            stage.silos[silo].audit(2, stage.committed(2))
        assert found.value.party == AGGREGATOR
        assert_silent(stage.silos[silo])

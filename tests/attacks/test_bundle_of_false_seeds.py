"""A dishonest silo puts false pair seeds into its bundle and falls silent, so that wrong masks come off the sum."""

from pathlib import Path

import pytest

from aggregator.rounds.word_sum import write_sum
from attacks.stage import AGGREGATOR, FOUR, SILOS, Stage
from crypto.backends.double_masking.transcript import seal_bundle
from crypto.errors import BadAudit, CorruptSum
from crypto.names import Phase

pytestmark = pytest.mark.clause("5.6.6", "6.7.2")


def test_the_sum_does_not_open_and_no_survivor_signs_it(tmp_path: Path) -> None:
    stage = Stage(Phase.SHARES, {FOUR: Phase.UPLOAD})
    key = stage.silos[FOUR]._known.secrets.bundle_key  # type: ignore[attr-defined]  # its own
    bundle = seal_bundle(key, stage.context, FOUR, dict.fromkeys(SILOS[:4], bytes(32)))
    stage.lies[FOUR, Phase.SHARES] = lambda body: setattr(body, "bundle", bundle)
    stage.go_on(Phase.UNMASK)
    answers = stage.answers()
    files = []
    for silo in stage.aggregator.survivors:
        files.append(tmp_path / silo)
        files[-1].write_bytes(b"".join(stage.wire[silo]))
    with pytest.raises(CorruptSum, match="the header counts"):  # an honest aggregator
        write_sum(stage.layout, files, stage.aggregator, tmp_path / "sum", 1)
    for silo in stage.aggregator.survivors:  # one that does not look
        with pytest.raises(BadAudit, match="another seed than this silo's own") as found:
            stage.silos[silo].receive(answers[silo])
        assert found.value.party == AGGREGATOR
        assert stage.silos[silo].phase is Phase.ABORTED

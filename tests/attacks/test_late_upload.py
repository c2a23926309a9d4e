"""A dishonest aggregator calls a silo dropped, opens its pairwise masks, and keeps its words, which came too late."""

import pytest

from attacks.stage import FOUR, SILOS, Stage, pairwise_of, plain, stripped
from crypto.errors import CorruptSum, UnexpectedMessage
from crypto.names import Phase

pytestmark = pytest.mark.clause("4.6", "5.6.2", "5.6.4", "6.4.1")


def test_the_self_mask_still_hides_them() -> None:
    stage = Stage(Phase.UPLOAD, {FOUR: Phase.UPLOAD})
    late = [stage.silos[FOUR].masked(index, words) for index, words in enumerate(stage.packed(FOUR))]
    root = stage.silos[FOUR].message()
    stage.go_on(Phase.OPENING)
    with pytest.raises(UnexpectedMessage, match=FOUR):
        stage.aggregator.receive(FOUR, root)
    opening = stage.aggregator.transcript.opening
    seeds = {pair.survivor: pair.seed for pair in opening.pair_seeds if pair.dropped == FOUR}
    assert sorted(seeds) == SILOS[:4]  # the aggregator holds every pairwise mask of the silo
    assert FOUR not in [seed.silo for seed in opening.self_seeds]
    pairwise = pairwise_of(stage, FOUR, seeds)
    with pytest.raises(CorruptSum):
        stripped(stage, late, pairwise)
    own = (stage.silos[FOUR]._known.self_seed, -1)  # type: ignore[attr-defined]
    assert stripped(stage, late, [own, *pairwise]) == plain(stage, FOUR)  # what a single mask would have come to
    stage.finish()
    assert stage.aggregator.survivors == tuple(SILOS[:4])

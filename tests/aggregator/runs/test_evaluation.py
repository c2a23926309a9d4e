"""An evaluation's candidates: what the plans call them, and whose perplexity is whose."""

from pathlib import Path

from aggregator.results.report import Perplexity
from aggregator.runs.evaluation import KeepMasks, is_reserved

NORTH, SOUTH, MINE = (Path(name) for name in ("n", "s", "m"))
KEEP_MASKS = KeepMasks({"north": NORTH, "south": SOUTH}, {"mine": MINE})


def test_every_file_has_a_name() -> None:
    files = {"north alone": NORTH, "south alone": SOUTH, "mine": MINE}
    assert list(KEEP_MASKS.files.items()) == list(files.items())


def test_perplexities_are_whose_they_are() -> None:
    by_name = {"federated": 1.0, "mine": 2.0, "south alone": 3.0, "dense": 4.0, "north alone": 8.0, "own": 0.5}
    by_name["self_calibrated"] = 0.25
    assert KEEP_MASKS.perplexity(by_name) == Perplexity(
        dense=4.0,
        alone={"north": 8.0, "south": 3.0},
        alone_mean=5.5,
        federated=1.0,
        candidates={"mine": 2.0},
        own=0.5,
        self_calibrated=0.25,
    )
    assert KeepMasks({}, {}).perplexity({"federated": 1.0, "dense": 4.0}) == Perplexity(4.0, {}, None, 1.0, {})


def test_a_name_that_an_evaluation_gives_itself_is_reserved() -> None:
    names = ("dense", "federated", "own", "self_calibrated", "ward alone", "mine")
    assert [is_reserved(name) for name in names] == [True, True, True, True, True, False]

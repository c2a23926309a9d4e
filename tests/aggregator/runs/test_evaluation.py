"""An evaluation's candidates: what the plan calls them, and whose perplexity is whose."""

from pathlib import Path

from aggregator.results.report import Perplexity
from aggregator.runs.evaluation import Candidates, is_reserved

FEDERATED, NORTH, SOUTH, MINE = (Path(name) for name in ("federated", "n", "s", "m"))
CANDIDATES = Candidates(FEDERATED, {"north": NORTH, "south": SOUTH}, {"mine": MINE})


def test_every_file_has_a_name() -> None:
    files = {"north alone": NORTH, "south alone": SOUTH, "mine": MINE, "federated": FEDERATED}
    assert list(CANDIDATES.files.items()) == list(files.items())


def test_perplexities_are_whose_they_are() -> None:
    by_name = {"federated": 1.0, "mine": 2.0, "south alone": 3.0, "dense": 4.0, "north alone": 8.0}
    assert CANDIDATES.perplexity(by_name) == Perplexity(
        dense=4.0, alone={"north": 8.0, "south": 3.0}, alone_mean=5.5, federated=1.0, candidates={"mine": 2.0}
    )
    nobody = Candidates(FEDERATED, {}, {})
    assert nobody.perplexity(by_name) == Perplexity(4.0, {}, None, 1.0, {})


def test_a_name_that_an_evaluation_gives_itself_is_reserved() -> None:
    assert [is_reserved(name) for name in ("dense", "federated", "ward alone", "mine")] == [True, True, True, False]

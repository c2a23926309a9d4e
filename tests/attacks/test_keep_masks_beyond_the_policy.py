"""An aggregator asks of a text with one keep mask of its own after another, each of which leaves another part of the
model: many likelihoods under chosen models say more than a few.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attacks.conftest import Approached
from attacks.surrounded import Surrounded, watched
from attacks.test_weights_as_a_candidate import keep_masks
from sparsilo.v1 import plan_pb2

pytestmark = pytest.mark.clause("14.3.3")


class Asking:
    """An aggregator with as many keep masks as it likes, and one silo whose policy allows three."""

    def __init__(self, approached: Approached, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._approached, self._folder, self._monkeypatch = approached, folder, monkeypatch
        approached.config = replace(approached.config, stay=True)
        self._runs = 0

    def ask(self, numbers: Sequence[int]) -> Surrounded:
        """Evaluate these keep masks in a plan of their own."""
        plan, files = self._approached.agreed, {}
        self._runs += 1
        plan.run = bytes([self._runs] * 16)
        del plan.rounds[:]
        spec = plan.rounds.add().evaluation
        spec.sequences = 1
        for number in numbers:
            file = self._folder / f"{number}.keep_mask"
            tensors = keep_masks(plan)
            tensors[min(tensors)].view(-1)[number] = False
            save_file(tensors, file)
            digest = sha256(file.read_bytes()).digest()
            files[digest] = file
            spec.candidates.add(name=str(number), digest=digest)
        return watched(self._approached, plan, self._monkeypatch, files)

    def answers(self, *numbers: int) -> None:
        assert "Advance verdict" in dict(self.ask(numbers).seen)

    def refuses(self, *numbers: int) -> None:
        """Assert that the silo declines the plan, and fetched nothing for it."""
        calls = [seen for seen in self.ask(numbers).seen if seen[0] not in ("Next", "sleeps until")]
        assert calls == [("Decline", "release_refused")]


def test_no_more_in_all_than_the_policy_allows(
    approach: Callable[..., Approached], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(approach(candidates=3), tmp_path, monkeypatch)
    asking.refuses(0, 1, 2, 3)
    asking.answers(0, 1)
    asking.refuses(2, 3)
    asking.answers(0, 2)
    asking.refuses(3)
    asking.answers(1)


def test_counted_before_it_is_run(
    approach: Callable[..., Approached], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that the aggregator lets die has told it nothing; it counts all the same."""
    approached = approach(candidates=1)
    asking = Asking(approached, tmp_path, monkeypatch)
    with monkeypatch.context() as hanging:
        hanging.setattr(Surrounded, "candidate", lambda *_: (_ for _ in ()).throw(RuntimeError("hung up")))
        with pytest.raises(RuntimeError, match="hung up"):
            asking.ask([0])
    asking.refuses(1)
    asking.answers(0)


def test_a_silo_that_wants_none_runs_none(
    approach: Callable[..., Approached], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asking(approach(candidates=0), tmp_path, monkeypatch).refuses(0)


def test_the_models_that_a_silo_derives_itself_do_not_count(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    approached = approach(candidates=0)
    approached.agreed.chunk_words = 4096
    candidates = [
        plan_pb2.Candidate(name="dense", dense=True),
        plan_pb2.Candidate(name="pruned", pruned=True),
        plan_pb2.Candidate(name="own", own=True),
        plan_pb2.Candidate(name="self-calibrated", self_calibrated=True),
    ]
    approached.agreed.rounds.add().evaluation.CopyFrom(plan_pb2.Evaluation(sequences=2, candidates=candidates))
    around = watched(approached, approached.agreed, monkeypatch)
    calls = [call for call, _ in around.seen]
    assert calls.count("Advance verdict") == 2
    assert torch.tensor([float(lane) for lane in around.world.open()["tokens"]]).unique().tolist() == [2 * 15]

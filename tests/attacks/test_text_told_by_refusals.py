"""A dishonest aggregator asks what a model gives NaN, or what overflows, where a text has some word; it hopes that a
silo whose text has it refuses, answers later, or with another word than the others.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attacks.conftest import Approached
from attacks.surrounded import Seen, Surrounded, watched
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.planned_rounds import planned_rounds
from sparsilo.v1 import plan_pb2
from support.models import family, tiny_model, tokenizer

pytestmark = pytest.mark.clause("14.2.1")

USUAL = "A patient came in. " * 200
TELLING = "€"
"""What the attacker wants to know: whether this is in a silo's text."""


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that everybody trusts and that cannot bear one token."""
    folder = tiny_model(tmp_path_factory.mktemp("trap") / "dense", family("llama", tie_word_embeddings=False))
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    [token, *_] = tokenizer()(TELLING, add_special_tokens=False)["input_ids"]
    tensors["model.embed_tokens.weight"][token] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    return folder


def rounds(plan: plan_pb2.Plan, release: ReleaseKind = ReleaseKind.VOTES) -> None:
    del plan.rounds[:]
    for kind, block in planned_rounds(Plan(plan, b""), release):
        getattr(plan.rounds.add(block=block), kind).SetInParent()


def votes(plan: plan_pb2.Plan) -> None:
    rounds(plan)


def votes_of_ria(plan: plan_pb2.Plan) -> None:
    plan.pruning.pruner = "ria"


def weights(plan: plan_pb2.Plan) -> None:
    plan.pruning.pruner = "sparsegpt"
    rounds(plan, ReleaseKind.WEIGHTS)


def outliers(plan: plan_pb2.Plan) -> None:
    plan.pruning.allocation = "owl"
    rounds(plan)


def sampling(plan: plan_pb2.Plan) -> None:
    plan.pruning.cohort_floor = 3
    for member in plan.roster:
        member.capacity = 2
    rounds(plan)


def iterative(plan: plan_pb2.Plan) -> None:
    plan.pruning.schedule = "iterative"
    rounds(plan)


def evaluation(plan: plan_pb2.Plan) -> None:
    del plan.rounds[:]
    plan.rounds.add().evaluation.CopyFrom(
        plan_pb2.Evaluation(sequences=3, candidates=[plan_pb2.Candidate(name="dense", dense=True)])
    )


PLANS = [votes, votes_of_ria, weights, outliers, sampling, iterative, evaluation]


def seen_of(
    text: str, folder: Path, model: Path, ask: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> Surrounded:
    folder.mkdir()
    approached = Approached(folder, model)
    approached.config = replace(approached.config, stay=True)
    approached.config.calibration.write_text(text)
    ask(approached.agreed)
    return watched(approached, approached.agreed, monkeypatch)


@pytest.mark.parametrize("ask", PLANS)
def test_all_that_is_seen_of_a_silo_is_the_same(
    ask: Callable[[Any], None],
    trap: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[list[Seen]] = []
    for at, text in enumerate((USUAL, TELLING + USUAL)):
        around = seen_of(text, tmp_path / str(at), trap, ask, monkeypatch)
        if ask is not evaluation:
            assert ("activations are not finite" in caplog.text) == bool(at), "the text does what it should"
        assert len(around.worlds) == len(around.plan.message.rounds), around.seen[-3:]
        seen.append(around.seen)
    assert seen[0] == seen[1]
    calls = [call for call, _ in seen[0]]
    assert calls.count("Advance verdict") == len(around.plan.message.rounds), "every round was gone through"
    assert {"Decline", "sleeps until"}.isdisjoint(calls)

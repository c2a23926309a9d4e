"""A dishonest aggregator asks what a model gives NaN, or what overflows, where a text has some word; it hopes that a
silo whose text has it refuses, answers later, or with another word than the others.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attacks.conftest import Approached, HangingUp
from attacks.surrounded import Surrounded, watched
from crypto.errors import CalibrationError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.planned_rounds import planned_rounds
from sparsilo.v1 import plan_pb2
from support.models import family, tiny_model, tokenizer

pytestmark = pytest.mark.clause("14.2.1", "14.2.2")

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
    approached.agreed.chunk_words = 4096
    ask(approached.agreed)
    return watched(approached, approached.agreed, monkeypatch)


def assert_alike(seen: list[Surrounded]) -> None:
    """All rounds were gone through, and one silo cannot be told from the other."""
    for around in seen:
        calls = [call for call, _ in around.seen]
        assert calls.count("Advance verdict") == len(around.plan.message.rounds), around.seen[-3:]
        assert {"Decline", "sleeps until"}.isdisjoint(calls)
    assert seen[0].seen == seen[1].seen


@pytest.mark.parametrize("ask", PLANS)
def test_a_text_that_the_model_cannot_bear(
    ask: Callable[[Any], None],
    trap: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []
    for at, text in enumerate((USUAL, TELLING + USUAL)):
        seen.append(seen_of(text, tmp_path / str(at), trap, ask, monkeypatch))
        does = bool(at) and ask is not evaluation
        assert ("activations are not finite" in caplog.text) == does, "the text does what the attacker wants"
    assert_alike(seen)


@pytest.mark.parametrize("ask", PLANS)
def test_a_text_that_is_shorter_than_asked(
    ask: Callable[[Any], None],
    trap: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []
    for at, text in enumerate((USUAL, "Hi.")):
        seen.append(seen_of(text, tmp_path / str(at), trap, ask, monkeypatch))
        assert ("has 0 whole sequences of 16 tokens" in caplog.text) == bool(at)
    assert_alike(seen)


@pytest.mark.parametrize("ask", [votes, weights, evaluation])
def test_a_text_that_a_rule_of_the_tokenizer_fails_on(
    ask: Callable[[Any], None],
    trap: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Path(shutil.copytree(trap, tmp_path / "dense"))
    strict = Tokenizer(models.WordLevel({"a": 0, "patient": 1}))  # without a token for unknown words
    strict.pre_tokenizer = pre_tokenizers.Whitespace()
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=strict).save_pretrained(model)
    seen = []
    for at, text in enumerate(("a patient " * 200, f"a patient {TELLING}" * 200)):
        seen.append(seen_of(text, tmp_path / str(at), model, ask, monkeypatch))
        assert ("the tokenizer fails on it" in caplog.text) == bool(at)
    assert TELLING not in caplog.text
    assert_alike(seen)


@pytest.mark.parametrize("content", [b"caf\xe9", b""])
def test_a_file_that_is_no_text_is_found_before_anybody_is_called(
    content: bytes, approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    approached = approach()
    approached.config.calibration.write_bytes(content)
    monkeypatch.setattr(HangingUp, "next", None)
    with pytest.raises(CalibrationError):
        approached.offer(approached.agreed)
    assert approached.said == approached.declined == []

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
from crypto.names import Backend, ReleaseKind
from crypto.plan import Plan
from crypto.releases.planned_rounds import planned_rounds
from silo_agent.rounds.run_of_plan import RunOfPlan
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


def evaluation_of_votes(plan: plan_pb2.Plan) -> None:
    evaluation_at_the_end(plan)


def evaluation_of_weights(plan: plan_pb2.Plan) -> None:
    weights(plan)
    evaluation_at_the_end(plan)


def evaluation_at_the_end(plan: plan_pb2.Plan) -> None:
    spec = plan.rounds.add().evaluation
    spec.sequences = 3
    spec.candidates.add(name="dense", dense=True)
    spec.candidates.add(name="pruned", pruned=True)
    spec.candidates.add(name="own", own=True)
    spec.candidates.add(name="self-calibrated", self_calibrated=True)


PRUNING = [votes, votes_of_ria, weights, outliers, sampling, iterative, evaluation_of_votes, evaluation_of_weights]
PLANS = [*PRUNING, evaluation]


def seen_of(
    text: str,
    folder: Path,
    model: Path,
    ask: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    backend: Backend = Backend.DOUBLE_MASKING,
) -> Surrounded:
    folder.mkdir()
    approached = Approached(folder, model)
    approached.config = replace(approached.config, stay=True, backend=backend)
    approached.config.calibration.write_text(text)
    approached.agreed.chunk_words, approached.agreed.backend = 4096, backend
    ask(approached.agreed)
    return watched(approached, approached.agreed, monkeypatch)


def assert_alike(seen: list[Surrounded]) -> None:
    """All rounds were gone through, and one silo cannot be told from the other."""
    for around in seen:
        calls = [call for call, _ in around.seen]
        last = "verdict" if around.plan.backend is Backend.DOUBLE_MASKING else "upload_root"
        assert calls.count(f"Advance {last}") == len(around.plan.message.rounds), around.seen[-3:]
        assert {"Decline", "sleeps until"}.isdisjoint(calls)
    assert seen[0].seen == seen[1].seen


@pytest.mark.parametrize("ask", PLANS)
@pytest.mark.parametrize(
    ("text", "warning"),
    [(TELLING + USUAL, "activations are not finite"), ("Hi.", "has 0 whole sequences of 16 tokens")],
    ids=["that the model cannot bear", "that is shorter than asked"],
)
def test_a_text(
    text: str,
    warning: str,
    ask: Callable[[Any], None],
    trap: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The silo's own log says what the text does, so the attack is a real one; nobody else hears of it."""
    usual = seen_of(USUAL, tmp_path / "usual", trap, ask, monkeypatch)
    assert warning not in caplog.text
    other = seen_of(text, tmp_path / "other", trap, ask, monkeypatch)
    looks_no_further = ask is evaluation and text != "Hi."  # it computes likelihoods alone, which saturate unsaid
    assert (warning in caplog.text) is not looks_no_further
    assert_alike([usual, other])


@pytest.mark.parametrize("ask", PLANS)
@pytest.mark.parametrize("text", [TELLING + USUAL, "Hi."])
def test_words_alone_differ_where_nothing_else_is_random(
    ask: Callable[[Any], None], text: str, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, under the backend that neither signs nor masks."""
    assert_alike(
        [
            seen_of(one, tmp_path / str(at), trap, ask, monkeypatch, Backend.INSECURE_PLAINTEXT)
            for at, one in enumerate((USUAL, text))
        ]
    )


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


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "more tokens than the model has positions": (lambda m: setattr(m.pruning, "sequence_length", 257), "config"),
    "another model": (lambda m: setattr(m.model[0], "digest", bytes(32)), "plan"),
    "fewer samples than the policy asks for": (lambda m: setattr(m.pruning, "samples", 1), "plan"),
    "another backend": (lambda m: setattr(m, "backend", "insecure_plaintext"), "plan"),
    "more keep masks than the policy allows": (
        lambda m: m.rounds.add(
            evaluation=plan_pb2.Evaluation(
                sequences=1, candidates=[plan_pb2.Candidate(name=f"{at}", digest=bytes([at] * 32)) for at in range(9)]
            )
        ),
        "release_refused",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_declined_by_its_own_word_is_found_without_the_text(
    case: str, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, word = REFUSED[case]
    monkeypatch.setattr(RunOfPlan, "prepare", None)
    for at, text in enumerate((USUAL, TELLING + USUAL, "Hi.")):
        folder = tmp_path / str(at)
        folder.mkdir()
        approached = Approached(folder, trap, least_samples=2, candidates=8)
        approached.config = replace(approached.config, stay=True)
        approached.config.calibration.write_text(text)
        spoil(approached.agreed)
        around = watched(approached, approached.agreed, monkeypatch)
        assert around.seen == [("Next", 0.0), ("Decline", word), ("Next", 0.0)]

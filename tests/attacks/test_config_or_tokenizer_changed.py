"""A dishonest aggregator asks about the trusted tensors under another config, or through another tokenizer."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import ModelError, PlanError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.consent.policy import trusted_digest
from support.plans import model_files

pytestmark = pytest.mark.clause("2.3.9")

Change = Callable[[Path], object]


def edited(name: str, **fields: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | fields))

    return change


CHANGES = {
    "rms_norm_eps": ("config.json", edited("config.json", rms_norm_eps=0.5)),
    "rope_theta": ("config.json", edited("config.json", rope_theta=3.0)),
    "attention_dropout": ("config.json", edited("config.json", attention_dropout=0.1)),
    "normaliser": ("tokenizer.json", edited("tokenizer.json", normalizer={"type": "Lowercase"})),
    "special tokens": ("tokenizer.json", edited("tokenizer.json", added_tokens=[])),
    "longest text": ("tokenizer_config.json", edited("tokenizer_config.json", model_max_length=2)),
    "added tokens": ("added_tokens.json", edited("added_tokens.json", a=2)),
    "template": ("chat_template.jinja", lambda folder: (folder / "chat_template.jinja").write_text("x")),
    "a vocabulary": ("vocab.txt", lambda folder: (folder / "vocab.txt").write_text("x")),
    "generation": ("generation_config.json", lambda folder: (folder / "generation_config.json").unlink()),
}


@pytest.fixture(params=list(CHANGES))
def changed(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> tuple[str, Path]:
    """The name of a file, and the model with another one of that name, or one more or less."""
    name, change = CHANGES[request.param]
    folder = tmp_path / "changed"
    shutil.copytree(model, folder)
    change(folder)
    return name, folder


def test_the_plans_files_are_not_the_silos(changed: tuple[str, Path], approach: partial[Any]) -> None:
    name, folder = changed
    silo = approach()
    del silo.agreed.files[:]
    silo.agreed.files.extend(model_files(DenseWeights.open(folder)))
    silo.refuses(silo.agreed, PlanError, f"{name} differs")


def test_the_policy_does_not_trust_them(changed: tuple[str, Path], approach: partial[Any], model: Path) -> None:
    """Not even where somebody has put them into the silo's own folder."""
    _, folder = changed
    trusted = trusted_digest(DenseWeights.open(model)).hex()
    silo = approach.func(*approach.args[:1], folder, models=[trusted])
    silo.refuses(silo.agreed, PlanError, "is not one that this silo trusts")


def test_the_trusted_model_is_trusted(approach: partial[Any], model: Path) -> None:
    silo = approach(models=[trusted_digest(DenseWeights.open(model)).hex()])
    silo.accepts(silo.agreed)


def test_a_plan_that_lists_none(approach: partial[Any]) -> None:
    silo = approach()
    del silo.agreed.files[:]
    silo.refuses(silo.agreed, PlanError, "config.json differs")


def test_a_file_that_no_plan_lists_has_no_say(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(model, folder)
    for name in ("modeling.py", "tokenizer.json.orig", ".tokenizer.json", "vocab.bpe", "tokenizer.gguf"):
        (folder / name).write_text("x")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    own, changed = DenseWeights.open(model), DenseWeights.open(folder)
    assert changed.file_digests == own.file_digests
    assert changed.tokenizer.chat_template == own.tokenizer.chat_template
    assert changed.tokenizer("A patient.")["input_ids"] == own.tokenizer("A patient.")["input_ids"]


def test_a_tokenizer_that_is_put_there_once_the_digests_are_taken(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(model, folder)
    weights = DenseWeights.open(folder)
    edited("tokenizer.json", normalizer={"type": "Lowercase"})(folder)
    with pytest.raises(ModelError, match=r"tokenizer[.]json: was changed"):
        _ = weights.tokenizer

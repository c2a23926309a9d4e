"""Every `model_type` that transformers maps to a causal language model: pruned right, or refused for a true reason."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES

from model_types.one_type import Row, row_of
from model_types.page import PAGE, types_listed
from model_types.verdicts import NOT_BUILDABLE, REASONS, REFUSED
from silo_agent.model import batches

FEW = (
    "falcon_h1",  # a buffer that is in no file and that its whole model fills
    "mamba",  # a linear layer that is not called: its weight is multiplied directly
    "jamba",  # blocks of two classes
    "gpt_oss",  # all experts in one tensor, [d_in, d_out] each
    "llama4_text",  # the same, all experts multiplied at once
    "granitemoe",  # all experts in one tensor, [d_out, d_in] each
    "jetmoe",  # experts for attention, too
    "longcat_flash",  # a router that is a linear layer, and experts that compute nothing
    "gemma3",  # eyes beside the decoder
    "gemma3n_text",  # four streams of hidden states, more of each text, and keys that blocks share
    "olmo_hybrid",  # convolutions that files hold in three tensors
    "recurrent_gemma",  # weights of three dimensions that are no experts'
    "bart",  # attention to an encoder that no text reaches
    "zamba",  # refused
    "zaya",  # refused
)


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 50)  # three of two sequences


def check(row: Row) -> None:
    if row.model_type in REFUSED:
        assert (row.verdict, bool(re.search(REFUSED[row.model_type], row.reason))) == ("refused", True), row.reason
        assert "\n" not in row.reason
    else:
        assert row.verdict == ("not buildable" if row.model_type in NOT_BUILDABLE else "works"), row.reason


@pytest.mark.parametrize("model_type", FEW)
def test_a_few_types(model_type: str, tmp_path: Path) -> None:
    check(row_of(model_type, tmp_path))


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("llama4", "Llama4ForConditionalGeneration"), ("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration")],
)
def test_a_checkpoint_that_reads_images_too(model_type: str, architecture: str, tmp_path: Path) -> None:
    check(row_of(model_type, tmp_path, architecture))


def test_a_checkpoint_of_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    row = row_of("bart", tmp_path, "BartForConditionalGeneration")
    assert row.verdict == "refused" and "is not a causal language model" in row.reason


@pytest.mark.minutes
@pytest.mark.parametrize("model_type", TYPES)
def test_a_type(model_type: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    row = row_of(model_type, tmp_path)
    record_property("row", json.dumps(asdict(row)))
    check(row)


def test_the_page_lists_every_type() -> None:
    assert REASONS.keys() == REFUSED.keys() and REFUSED.keys().isdisjoint(NOT_BUILDABLE)
    works = [name for name in TYPES if name not in {*REFUSED, *NOT_BUILDABLE}]
    assert len(works) >= 150
    assert types_listed(PAGE.read_text()) == {"works": works, "refused": [*REFUSED], "not buildable": [*NOT_BUILDABLE]}

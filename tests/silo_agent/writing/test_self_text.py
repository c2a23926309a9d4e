"""The model's own text against sampling that runs the whole model on the whole record for every token."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from crypto.errors import ModelError
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.writing import self_text
from silo_agent.writing.self_text import self_sequences
from support.models import BLOCKS, VOCABULARY, family, in_memory, tiny_llama, tiny_model, tokenizer

START, END = 0, 1
CPU = torch.device("cpu")


def often_ending(folder: Path) -> Path:
    """A model that likes no token much but the one that ends the text, wherever its last hidden state adds up high."""
    tiny_model(folder, family("llama", tie_word_embeddings=False))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= 0.2
    tensors["lm_head.weight"][END] = 0.5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def sequences(weights: DenseWeights, samples: int, length: int, seed: int = 0) -> Any:
    steps: list[tuple[int, int]] = []
    found = self_sequences(
        weights,
        samples=samples,
        sequence_length=length,
        device=CPU,
        seed=seed,
        progress=lambda *step: steps.append(step),
    )
    hundredths = [100 * done // total for done, total in steps]
    assert hundredths == sorted({*hundredths}), "each hundredth once"
    assert steps[-1] == (samples * length, samples * length)
    return found


def written_plainly(folder: Path, samples: int, length: int, seed: int, starts: list[int]) -> tuple[list[int], int]:
    """The same tokens, and how many records they are of: no cache, a record at a time, a token by inversion."""
    model, generator = in_memory(folder), torch.Generator().manual_seed(seed)
    text: list[int] = []
    records = 0
    while len(text) < samples * length:
        draws = torch.rand(length, generator=generator, dtype=torch.float64).numpy()
        record = [starts[int(draws[0] * len(starts))]]
        for draw in draws[1:]:
            with torch.no_grad():
                logits = model(torch.tensor([record])).logits[0, -1].double().numpy()
            chances = np.exp(logits - logits.max())
            fresh = int(np.searchsorted((chances / chances.sum()).cumsum(), draw, side="right"))
            if fresh == END:
                break
            record.append(fresh)
        text += record
        records += 1
    return text[: samples * length], records


@pytest.mark.parametrize("name", BLOCKS)
def test_every_family_writes_what_the_whole_model_would(name: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / name, family(name))
    weights = DenseWeights.open(folder)
    weights.__dict__["tokenizer"] = tokenizer()  # transformers gives some families tokens of their own
    found = sequences(weights, 3, 20, seed=5)
    assert found.dtype == torch.int64
    assert found.shape == (3, 20)
    assert found.flatten().tolist() == written_plainly(folder, 3, 20, 5, [START])[0]


def test_a_record_ends_at_the_end_token_and_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = often_ending(tmp_path / "model")
    expected, records = written_plainly(folder, 4, 24, 0, [START])
    assert records > 8  # of up to 24 tokens each, so that some end early
    found = sequences(DenseWeights.open(folder), 4, 24)
    assert found.flatten().tolist() == expected
    assert END not in found
    for at_once in (1, 24, 72):  # however many records are written at a time
        monkeypatch.setattr(self_text, "TOKENS_AT_ONCE", at_once)
        assert sequences(DenseWeights.open(folder), 4, 24).equal(found)


def test_without_a_begin_token_a_record_begins_with_any_token_that_is_text(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model")
    plain = tokenizer.__wrapped__()
    plain.bos_token = None
    plain.save_pretrained(folder)
    weights = DenseWeights.open(folder)
    assert weights.tokenizer.bos_token_id is None
    ordinary = [token for token in range(len(plain)) if token != END]
    found = sequences(weights, 6, 12, seed=3)
    assert found.flatten().tolist() == written_plainly(folder, 6, 12, 3, ordinary)[0]
    assert len(set(found[:, 0].tolist())) > 2


def test_begin_and_end_may_be_one_token(tmp_path: Path) -> None:
    """As in GPT-2: it begins every record and is left out at the end."""
    weights = DenseWeights.open(often_ending(tmp_path / "model"))
    same = SimpleNamespace(bos_token_id=END, eos_token_id=END)
    weights.__dict__["tokenizer"] = same
    found = sequences(weights, 8, 16)
    assert found[0, 0] == END
    assert (found == END).sum() > 8  # a begin for each record, of which some are short


def test_without_an_end_token_every_record_is_a_sequence(tmp_path: Path) -> None:
    weights = DenseWeights.open(often_ending(tmp_path / "model"))
    weights.__dict__["tokenizer"] = SimpleNamespace(bos_token_id=START, eos_token_id=None)
    found = sequences(weights, 8, 16)
    assert (found[:, 0] == START).all()
    assert END in found  # then it is a token as any other


def test_tokens_come_as_often_as_the_model_says(tmp_path: Path) -> None:
    folder = often_ending(tmp_path / "model")
    with torch.no_grad():
        chances = in_memory(folder)(torch.tensor([[START]])).logits[0, -1].double().softmax(0).numpy()
    weights = DenseWeights.open(folder)
    weights.__dict__["tokenizer"] = SimpleNamespace(bos_token_id=START, eos_token_id=None)
    samples = 4000
    counts = np.bincount(sequences(weights, samples, 2)[:, 1].numpy(), minlength=VOCABULARY)
    assert (chances * samples).min() > 1
    assert stats.chisquare(counts, chances * samples).pvalue > 1e-3


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "model", dtype=torch.bfloat16))
    before = torch.get_rng_state()
    first = sequences(weights, 4, 16, seed=1)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(99)
    assert sequences(weights, 4, 16, seed=1).equal(first)
    assert not sequences(weights, 4, 16, seed=2).equal(first)


def test_one_block_is_loaded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "model", blocks=4))
    loaded, most = set[str](), []
    load, release = weights.load, weights.release

    def watched_load(module: Any, prefix: str, *rest: Any) -> None:
        load(module, prefix, *rest)
        loaded.add(prefix)
        most.append(sorted(loaded))

    def watched_release(module: Any) -> None:
        release(module)
        loaded.difference_update({*loaded} - {""})

    monkeypatch.setattr(weights, "load", watched_load)
    monkeypatch.setattr(weights, "release", watched_release)
    sequences(weights, 1, 3)
    assert most == [[""], *(["", block.prefix] for block in weights.blocks)] + [["", b.prefix] for b in weights.blocks]


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = often_ending(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="model: logits are not finite"):
        sequences(DenseWeights.open(folder), 1, 4)


def test_a_model_that_keeps_no_keys_and_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "model"))
    stateless = SimpleNamespace(logits=torch.zeros(1, 1, VOCABULARY))
    monkeypatch.setattr(self_text, "streamed_model", lambda *_: lambda **_: stateless)
    with pytest.raises(ModelError, match="it keeps no keys and values"):
        sequences(weights, 1, 4)

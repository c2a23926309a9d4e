"""What `make bench-real` is made of, on tiny models: records of one length, its figures, going on where it ended."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import real
from bench.domains import records
from bench.kept_rows import KeptRows
from bench.pruned_models import Changed, Silos, perplexity, prune
from bench.real_model import REQUIREMENTS
from bench.ways import Setting
from crypto.names import Pruner
from silo_agent.checkpoint.dense_weights import DenseWeights
from support.models import in_memory, tiny_llama, tokenizer, words

LENGTH = 24


def test_records_are_the_text_in_order_and_one_sequence_each() -> None:
    text = words(4_000, seed=3)
    cut = list(records(text, tokenizer(), LENGTH))
    assert {len(tokenizer()(record)["input_ids"]) for record in cut} == {LENGTH}
    at = 0
    for record in cut:  # between two records at most one of no use is left out
        assert 0 <= text.index(record, at) - at < 8 * LENGTH
        at = text.index(record, at) + len(record)
    assert len(text) - at <= 32 * LENGTH
    assert sum(map(len, cut)) > 0.8 * len(text)


def test_a_text_shorter_than_a_sequence_has_no_record() -> None:
    assert not list(records("Too short.", tokenizer(), LENGTH))


def test_agreement_is_of_the_dense_model_s_own_next_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "PROMPT", 4)
    dense = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    text = torch.randint(2, 300, (3, 4), generator=torch.Generator().manual_seed(0))
    model = in_memory(dense.folder)
    for _ in range(6):
        text = torch.cat([text, model(input_ids=text).logits[:, -1:].argmax(-1)], 1)
    assert real.agreement((dense, {}), text) == 1
    text[0, 4] = (text[0, 4] + 1) % 300  # another token: here, and perhaps in what follows in this row alone
    assert 12 / 18 <= real.agreement((dense, {}), text) <= 17 / 18


@pytest.mark.parametrize(("target", "of_each"), [("0.5", (1, 0.5)), ("2:4", (4, 2))])
def test_a_target_is_a_ratio_or_a_pattern(tmp_path: Path, target: str, of_each: tuple[int, float]) -> None:
    size, kept = of_each
    dense = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    for keep in prune(dense, torch.tensor([[1, 2, 3]]), Pruner.MAGNITUDE, target).values():
        in_groups = keep.reshape(-1, size).float().sum(1)
        assert in_groups.mean().item() == kept if size == 1 else in_groups.eq(kept).all()


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models of a row are averaged; a second call measures only what is missing; a pattern has no rows with OWL."""
    dense = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    asked: list[str] = []

    def models(at: Setting) -> Iterator[Changed]:
        asked.append(at.target)
        yield from [(dense, {})] * 2

    ways = {"one": models, "other": models, "one, OWL": models}
    for module in ("kept_rows", "ways", "real"):
        monkeypatch.setattr(f"bench.{module}.WAYS", ways)
    text, tokens = torch.ones(1, real.PROMPT + 2, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)
    figures = partial(real.figures_of, held_out=tokens, text=text)
    file = tmp_path / "made with the first row" / "results.json"
    for targets, asked_for in ((["0.5", "2:4"], ["one", "one, OWL"]), (["0.5"], [*ways])):
        kept = KeptRows(file, {"length": 8})
        kept.measure(Silos([], [], tokens), "prose", targets, asked_for, dense, tokens, figures)
    assert asked == ["0.5", "0.5", "2:4", "0.5"]
    table = json.loads(file.read_text())["tables"]["prose"]
    figure = f"{perplexity((dense, {}), tokens):.2f}"
    assert real.markdown(table, "perplexity").splitlines()[2:] == [
        f"| one | {figure} | {figure} |",
        f"| other | {figure} |  |",
        f"| one, OWL | {figure} |  |",
    ]

    with pytest.raises(SystemExit, match="other sequences"):
        KeptRows(file, {"length": 9})


def test_every_package_of_the_model_is_pinned_by_its_hash() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 6
    assert all("==" in line and "--hash=sha256:" in line for line in lines)

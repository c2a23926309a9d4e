"""What a silo computes for an evaluation, and what its own log says of itself, against transformers' own loss."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from crypto.plan_rules import checked_plan
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.pruned_files import PrunedFiles
from silo_agent.releases.evaluation import prepare
from silo_agent.releases.silo_side import SiloWork
from sparsilo.v1 import plan_pb2
from support.models import in_memory, tiny_llama
from support.opened import planned, released
from support.plans import llama_tensors

HELD_OUT = torch.randint(0, 300, (6, 16), generator=torch.Generator().manual_seed(0))
KINDS = ("dense", "pruned", "self_calibrated", "own")


def keep_masks(weights: DenseWeights, seed: int, share: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weights.shape(name), generator=generator) < share for name in weights.prunable}


@torch.no_grad()
def losses(folder: Path, masks: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Nats a token of each held-out sequence."""
    model = in_memory(folder)
    for name, keep in masks.items():
        model.get_parameter(name).data *= keep
    return np.array([float(model(input_ids=row[None], labels=row[None]).loss) for row in HELD_OUT])


def test_every_candidate_and_what_the_log_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense", seed=3))
    message = planned(llama_tensors(weights)).message
    message.pruning.sequence_length = 16
    spec = message.rounds.add().evaluation
    spec.sequences = len(HELD_OUT)
    for at, kind in enumerate(KINDS):  # by names that lie
        spec.candidates.add(name=KINDS[at - 1], **{kind: True})
    plan = checked_plan(message)
    masks = {"dense": {}, **{kind: keep_masks(weights, at, 0.6 + at / 10) for at, kind in enumerate(KINDS[1:])}}

    def files(kind: str) -> PrunedFiles:
        save_file(masks[kind], tmp_path / kind)
        return PrunedFiles(tmp_path / kind, tmp_path / "no weights")

    lent: dict[str, Any] = dict.fromkeys(SiloWork.__dataclass_fields__)
    lent |= {
        "plan": plan,
        "index": 1,
        "weights": weights,
        "device": torch.device("cpu"),
        "sequences": lambda held_out: (HELD_OUT[:0], HELD_OUT[:held_out]),
        "pruned": lambda: files("own"),
        "self_calibrated": lambda: files("self_calibrated"),
        "together": lambda: masks["pruned"],
        "progress": lambda *_: None,
    }
    with caplog.at_level(logging.INFO):
        lanes = released(prepare(SiloWork(**lent)), plan, 1)
    expected = {kind: losses(weights.folder, masks[kind]) for kind in KINDS}
    assert [nll / 2**24 for nll in lanes["negative log-likelihood"]] == pytest.approx(
        [float(expected[kind].sum()) * 15 for kind in KINDS], rel=1e-5
    )
    assert lanes["tokens"] == [6 * 15] * 4
    assert [square / 2**24 for square in lanes["squared differences"]] == pytest.approx(
        [float(((expected[kind] - expected["pruned"]) ** 2).sum()) for kind in KINDS[2:]], rel=1e-3, abs=1e-6
    )
    figures, *compared = [record.getMessage() for record in caplog.records]
    shown = {"dense": "dense", "federated": "pruned", "self-calibrated": "self_calibrated", "own": "own"}
    told = {kind: float(figure) for kind, figure in re.findall(r"([a-z-]+) (\d+\.\d\d)", figures)}
    assert told == pytest.approx({name: np.exp(expected[kind].mean()) for name, kind in shown.items()}, abs=0.02)
    for line, kind in zip(compared, ("self-calibrated", "own"), strict=True):
        apart = expected["pruned"] - expected[shown[kind]]
        direction = "lower" if apart.mean() < 0 else "higher"
        margin = 2.571 * apart.std(ddof=1) / np.sqrt(6) * np.exp(apart.mean())
        start = f"for this silo: federated perplexity is {abs(np.exp(apart.mean()) - 1):.1%} ± {margin:.1%} {direction}"
        assert line.startswith(f"{start} than {kind}")
        cannot_be_told = abs(apart.mean()) <= 2.571 * apart.std(ddof=1) / np.sqrt(6)
        assert line.endswith(" (cannot be told apart)") == cannot_be_told


def test_without_what_the_silos_pruned_together_there_is_nothing_to_compare(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    message = planned(llama_tensors(weights)).message
    message.pruning.sequence_length = 16
    candidates = [plan_pb2.Candidate(name="x", digest=bytes(32))]
    message.rounds[0].CopyFrom(plan_pb2.Round(evaluation=plan_pb2.Evaluation(sequences=6, candidates=candidates)))
    plan = checked_plan(message)
    lent: dict[str, Any] = dict.fromkeys(SiloWork.__dataclass_fields__)
    lent |= {
        "plan": plan,
        "index": 0,
        "weights": weights,
        "device": torch.device("cpu"),
        "sequences": lambda held_out: (HELD_OUT[:0], HELD_OUT[:held_out]),
        "candidate": lambda _: {},
        "progress": lambda *_: None,
    }
    with caplog.at_level(logging.INFO):
        lanes = released(prepare(SiloWork(**lent)), plan)
    assert list(lanes) == ["negative log-likelihood", "tokens"]
    assert not caplog.records

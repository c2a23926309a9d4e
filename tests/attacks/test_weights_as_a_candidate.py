"""An aggregator has silos evaluate weights of its own making: on some condition of the text they give NaN, or a
likelihood that tells of it.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from attacks.conftest import Approached
from attacks.surrounded import watched
from silo_agent.consent.state_store import STATE_FILE, StateStore
from sparsilo.v1 import plan_pb2

pytestmark = pytest.mark.clause("14.3.2")

Tensors = dict[str, Tensor]


def keep_masks(plan: plan_pb2.Plan) -> Tensors:
    return {tensor.name: torch.ones(tuple(tensor.shape), dtype=torch.bool) for tensor in plan.model if tensor.prunable}


def weights(tensors: Tensors) -> None:
    for name, keep in tensors.items():
        tensors[name] = keep.float()


def one_weight(tensors: Tensors) -> None:
    name = min(tensors)
    tensors[name] = torch.full_like(tensors[name], torch.inf, dtype=torch.float32)


def bytes_for_bits(tensors: Tensors) -> None:
    name = max(tensors)
    tensors[name] = tensors[name].byte() * 7


def embedding(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"] = torch.ones(300, 32, dtype=torch.bool)


def one_missing(tensors: Tensors) -> None:
    del tensors[min(tensors)]


def another_shape(tensors: Tensors) -> None:
    name = min(tensors)
    tensors[name] = tensors[name].T.contiguous().flatten()


def offered(approached: Approached, tensors: Tensors, folder: Path) -> dict[bytes, Path]:
    """The file as the aggregator serves it, named in the plan that it offers."""
    file = folder / "offered.safetensors"
    save_file(tensors, file)
    digest = sha256(file.read_bytes()).digest()
    del approached.agreed.rounds[:]
    approached.agreed.rounds.add().evaluation.CopyFrom(
        plan_pb2.Evaluation(sequences=1, candidates=[plan_pb2.Candidate(name="harmless", digest=digest)])
    )
    return {digest: file}


@pytest.mark.parametrize("spoil", [weights, one_weight, bytes_for_bits, embedding, one_missing, another_shape])
def test_refused_before_anything_is_computed(
    spoil: Callable[[Tensors], None],
    approach: Callable[..., Approached],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    approached = approach()
    approached.config = replace(approached.config, stay=True)
    tensors = keep_masks(approached.agreed)
    spoil(tensors)
    files = offered(approached, tensors, tmp_path)
    around = watched(approached, approached.agreed, monkeypatch, files)
    [digest] = files
    calls = [seen for seen in around.seen if seen[0] not in ("Next", "sleeps until")]
    assert calls == [("File", digest), ("Decline", "input")]
    assert StateStore(approached.config.state / STATE_FILE).releases() == []
    assert not list(approached.config.state.glob("*.safetensors")), "it is not kept"


def test_keep_masks_are_evaluated(
    approach: Callable[..., Approached], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approached: Any = approach()
    files = offered(approached, keep_masks(approached.agreed), tmp_path)
    around = watched(approached, approached.agreed, monkeypatch, files)
    assert "Advance verdict" in dict(around.seen)

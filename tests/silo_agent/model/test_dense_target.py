"""What a block's last layer should write, against the whole model in memory: one dense, one pruned so far."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model import batches
from silo_agent.model.activations import BlockWalk
from support.models import BLOCKS, STACKED, family, in_memory, tiny_llama, tiny_model

CPU = torch.device("cpu")
SEQUENCES = torch.randint(0, 300, (5, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 50)  # batches of 2, 2 and 1 sequences


def halved(weights: DenseWeights, names: Any) -> dict[str, Tensor]:
    """Some weights, with every second column zero."""
    changed = {name: weights.tensor(name).clone() for name in names}
    for weight in changed.values():
        weight[:, ::2] = 0
    return changed


def hidden_after(model: Any, block: int) -> Tensor:
    """Hidden states after a block, before anything comes after it: float64 [tokens, width]."""
    seen: list[Tensor] = []
    layer = model.model.layers[block]
    hook = layer.register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model(input_ids=SEQUENCES)
    hook.remove()
    return seen[0].double().flatten(0, -2)


def inputs_of(layer: nn.Module, model: Any) -> Tensor:
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(input_ids=SEQUENCES)
    hook.remove()
    return seen[0].double().flatten(0, -2)


@pytest.mark.clause("2.4.14")
def test_a_target_is_what_is_missing_to_dense_hidden_states(tmp_path: Path) -> None:
    """In every block, on the outputs of the changed blocks before it."""
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=3, seed=2))
    dense = in_memory(weights.folder)
    pruned = copy.deepcopy(dense)
    walk = BlockWalk(weights, SEQUENCES, device=CPU, beside_dense=True)
    for block in walk:
        *others, last = block.prunable
        of_others = halved(weights, others)
        before = walk.grams()
        gram, target = walk.dense_target(last, of_others)
        with torch.no_grad():
            for name, weight in of_others.items():
                pruned.get_parameter(name).copy_(weight)
            pruned.get_parameter(last).zero_()
        x = inputs_of(pruned.get_submodule(last.removesuffix(".weight")), pruned)
        missing = hidden_after(dense, block.index) - hidden_after(pruned, block.index)
        torch.testing.assert_close(gram, (x.T @ x).float(), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(target, (missing.T @ x).float(), rtol=1e-4, atol=1e-3)
        assert not torch.allclose(before[last], gram, rtol=1e-2), "its input is another than on the dense block"
        of_last = halved(weights, [last])
        with torch.no_grad():
            pruned.get_parameter(last).copy_(of_last[last])
        walk.advance(of_others | of_last)
    logits = torch.cat([given for _, given in walk.logits()])
    torch.testing.assert_close(logits, pruned(input_ids=SEQUENCES).logits, rtol=1e-4, atol=1e-4)


def test_nothing_is_missing_where_nothing_was_pruned(tmp_path: Path) -> None:
    """Then the target is the dense weight times the Gram matrix."""
    weights = DenseWeights.open(tiny_llama(tmp_path, seed=2))
    walk = BlockWalk(weights, SEQUENCES, device=CPU, beside_dense=True)
    for block in walk:
        last = block.prunable[-1]
        gram, target = walk.dense_target(last, {})
        torch.testing.assert_close(target, weights.tensor(last) @ gram, rtol=1e-3, atol=1e-3)
        walk.advance({last: weights.tensor(last)})


DOWN, PARALLEL = ["mlp.down_proj.weight"], "mlp.dense_4h_to_h.weight"
WRITERS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), DOWN),
    **{name: [] for name in ("gemma2", "gemma3_text")},  # a norm comes after it
    **{name: [] for name in ("mixtral", "qwen3_moe", "granitemoe", "gpt_oss")},  # what experts write is weighted
    "opt": ["fc2.weight"],
    "gpt2": ["mlp.c_proj.weight"],
    "gpt_neox": ["attention.dense.weight", PARALLEL],
    "falcon": ["self_attention.dense.weight", PARALLEL],
}


@pytest.mark.clause("2.4.16")
@pytest.mark.parametrize("name", [*BLOCKS, *STACKED])
def test_which_weights_write_last(name: str, tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family(name)))
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    block = next(iter(walk))
    grams = walk.grams()
    writers = [prunable for prunable in block.prunable if walk.writes_last(prunable)]
    assert [writer.removeprefix(f"{block.prefix}.") for writer in writers] == WRITERS[name]
    again = walk.grams()
    assert all(torch.equal(again[prunable], grams[prunable]) for prunable in block.prunable), "all is as it was"


def test_in_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU computes in the stored dtype: rounding must not hide who writes last."""
    weights = DenseWeights.open(tiny_llama(tmp_path, dtype=torch.bfloat16))
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    monkeypatch.setattr(walk, "_dtype", torch.bfloat16)
    walk._calls = trees.tree_map_only(
        Tensor, lambda given: given.bfloat16() if given.is_floating_point() else given, walk._calls
    )
    for block in walk:
        assert [name for name in block.prunable if walk.writes_last(name)] == [block.prunable[-1]]
        break

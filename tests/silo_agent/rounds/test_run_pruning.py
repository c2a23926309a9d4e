"""A silo's pruning over the rounds of a run, against Wanda on the whole model in memory."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from crypto.errors import PlanError
from crypto.names import Pruner, ReleaseKind
from crypto.plan import Plan
from crypto.pruning.owl import owl_ratios
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Sparsity
from crypto.releases.gram import product_bits
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.calibration import read_sequences
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.pruning.allocation import outlier_counts
from silo_agent.pruning.prune import prune_blocks
from silo_agent.pruning.pruned_files import pruned_files
from silo_agent.pruning.pruners import sparsegpt
from silo_agent.rounds.run_pruning import PRUNING, RunPruning
from silo_agent.writing.self_text import self_sequences
from support.models import in_memory, tiny_llama, tokenizer, write_text
from support.opened import opened, planned
from support.plans import llama_tensors

CPU = torch.device("cpu")
ME, BLOCKS, SURVIVORS = "silo-002", 3, 4
Changed = Callable[[int, dict[str, Tensor]], dict[str, Tensor]]
"""From a block's index and its own keep masks what the block's weights become, by name."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> DenseWeights:
    return DenseWeights.open(tiny_llama(tmp_path_factory.mktemp("model") / "dense", blocks=BLOCKS, seed=3))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    file = write_text(tmp_path_factory.mktemp("text") / "text.txt", 2000, seed=5)
    return read_sequences(file, tokenizer(), samples=4, sequence_length=32)[0]


class Run:
    """One agent's RunPruning on a state folder; notes what it did."""

    def __init__(self, plan: Plan, weights: DenseWeights, sequences: Tensor, state: Path) -> None:
        self.read = 0
        self.done: list[tuple[int, int]] = []
        self.told: list[str] = []
        state.mkdir(exist_ok=True)

        def read() -> Tensor:
            self.read += 1
            return sequences

        def progress(task: str, *step: int) -> None:
            self.told.append(task)
            if task == PRUNING:
                self.done.append(step)  # type: ignore[arg-type]

        self.pruning = RunPruning(plan, ME, weights, read, list, state, CPU, progress)

    def keep_masks(self, start: Start) -> dict[str, Tensor]:
        return load_file(self.pruning.files(start).keep_masks)


def whole_model(folder: Path, sequences: Tensor, ratio: Decimal, changed: Changed) -> list[dict[str, Tensor]]:
    """Wanda's keep masks block by block, each block then run as `changed` says."""
    model = in_memory(folder)
    found = []
    for index, block in enumerate(model.model.layers):
        layers = {name: each for name, each in block.named_modules() if isinstance(each, nn.Linear)}
        inputs: dict[str, list[Tensor]] = {name: [] for name in layers}
        hooks = [layer.register_forward_pre_hook(adding_to(inputs[name])) for name, layer in layers.items()]
        with torch.no_grad():
            model(input_ids=sequences)
        for hook in hooks:
            hook.remove()
        own = {}
        for name, layer in layers.items():
            score = layer.weight.detach().abs() * torch.cat(inputs[name]).norm(dim=0)
            keep = torch.ones_like(score, dtype=torch.bool)
            keep.scatter_(1, score.sort(dim=1).indices[:, : int(ratio * score.shape[1])], False)
            own[f"model.layers.{index}.{name}.weight"] = keep
        found.append(own)
        for name, weight in changed(index, own).items():
            model.get_parameter(name).data.copy_(weight)
    return found


def adding_to(inputs: list[Tensor]) -> Any:
    return lambda _, given: inputs.append(given[0].flatten(0, -2))


def masked(weights: DenseWeights, keep: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weights.tensor(name) * mask for name, mask in keep.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def joined(blocks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: mask for block in blocks for name, mask in block.items()}


# One-shot.


@pytest.mark.parametrize("pruner", Pruner)
def test_one_shot_is_a_pruning_of_all_blocks(
    pruner: Pruner, weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    plan = planned(llama_tensors(weights), pruner=pruner, own_ratios={ME: "0.3"})
    run, start = Run(plan, weights, sequences, tmp_path / "state"), Start(plan)
    files = run.pruning.files(start)
    assert files == pruned_files(tmp_path / "state", None)
    expected = {
        each.name: each
        for each in prune_blocks(
            weights,
            sequences,
            pruner=plan.pruning.pruner,
            sparsity=lambda _: plan.pruning.silo_sparsity(ME),
            device=CPU,
            progress=lambda *_: None,
        )
    }
    assert same(load_file(files.keep_masks), {name: each.keep for name, each in expected.items()})
    new = {name: each.weight for name, each in expected.items() if each.weight is not None}
    assert files.weights.exists() == bool(new) == PRUNERS[pruner].updates_weights
    if new:
        assert same(load_file(files.weights), new)
    zeros = sum(int((~each.keep).sum()) for each in expected.values())
    assert zeros / sum(each.keep.numel() for each in expected.values()) == pytest.approx(0.3, abs=0.02)


def test_one_shot_is_wanda_on_the_whole_model_and_computed_once(
    weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    plan = planned(llama_tensors(weights))
    run, start = Run(plan, weights, sequences, tmp_path), Start(plan)
    expected = whole_model(weights.folder, sequences, Decimal("0.5"), lambda _, own: masked(weights, own))
    assert same(run.keep_masks(start), joined(expected))
    assert (run.read, run.done) == (1, [(1, 3), (2, 3), (3, 3)])
    again = Run(plan, weights, sequences, tmp_path)
    assert same(run.keep_masks(start), again.keep_masks(start))
    assert (run.read, again.read) == (1, 0)


# On text that the model writes.


@pytest.mark.clause("14.3.4")
@pytest.mark.parametrize(
    "asked",
    [
        {"pruner": Pruner.WANDA},
        {"pruner": Pruner.SPARSEGPT, "schedule": "iterative"},
        {"pruner": Pruner.WANDA, "cohort_floor": 3, "capacities": (2, 2, 3, 3, 3)},
        {"pruner": Pruner.WANDA, "allocation": "owl", "comparison_group": "row"},
    ],
    ids=["one-shot", "iterative", "layer sampling", "owl"],
)
def test_self_calibrated_is_a_pruning_of_all_blocks_that_reads_no_text(
    asked: dict[str, Any], weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    plan = planned(llama_tensors(weights), own_ratios={ME: "0.3"}, **asked)
    run = Run(plan, weights, sequences, tmp_path)
    files = run.pruning.self_calibrated()
    text = self_sequences(weights, samples=4, sequence_length=16, device=CPU, progress=lambda *_: None)
    pruner, sizes = plan.pruning.pruner, list(plan.block_weights)
    ratios = [Decimal("0.5")] * BLOCKS
    if "allocation" in asked:
        ratios = list(owl_ratios(outlier_counts(weights, text, device=CPU), sizes, Decimal("0.5")))
        assert len(set(ratios)) > 1
    expected = {
        each.name: each
        for each in prune_blocks(
            weights,
            text,
            pruner=pruner,
            sparsity=lambda block: Sparsity(ratios[block.index], PRUNERS[pruner].own_group),
            device=CPU,
            progress=lambda *_: None,
        )
    }
    assert same(load_file(files.keep_masks), {name: each.keep for name, each in expected.items()})
    if PRUNERS[pruner].updates_weights:
        new = {name: each.weight for name, each in expected.items() if each.weight is not None}
        assert same(load_file(files.weights), new)
    assert run.read == 0
    assert list(dict.fromkeys(run.told)) == ["writing calibration text", "pruning blocks"]
    assert not pruned_files(tmp_path, None).keep_masks.exists(), "what the silo prunes on its text lies elsewhere"
    run.done.clear()
    assert (run.pruning.self_calibrated(), run.done) == (files, []), "computed once"


# Layer sampling.


@pytest.mark.parametrize("coin", range(4))
def test_with_layer_sampling_only_this_silos_blocks_are_pruned(
    coin: int, weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    """Its other blocks stay dense, and that is what its later blocks are pruned after."""
    plan = planned(llama_tensors(weights), cohort_floor=3, capacities=(2, 2, 1 + coin % 2, 3, 3))
    start = Start(plan, [opened(Start(plan).round, {"coin": [coin, 2, 3, 4]}, SURVIVORS, tmp_path)])
    mine = {block for block in range(BLOCKS) if ME in start.cohort(1 + block)}
    assert len(mine) == 1 + coin % 2
    expected = whole_model(
        weights.folder,
        sequences,
        Decimal("0.5"),
        lambda index, own: masked(weights, own) if index in mine else {},
    )
    run = Run(plan, weights, sequences, tmp_path / "state")
    assert same(run.keep_masks(start), joined([expected[block] for block in sorted(mine)]))
    assert run.done[-1] == (BLOCKS, BLOCKS)


# Iterative.


def global_keep_masks(weights: DenseWeights, seed: int = 0) -> dict[str, Tensor]:
    """Chosen at random, with half of each layer zero: what all silos together might come to."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in weights.prunable:
        size = weights.tensor(name).numel()
        keep = torch.zeros(size, dtype=torch.bool)
        keep[torch.randperm(size, generator=generator)[: size - size // 2]] = True
        found[name] = keep.reshape(weights.tensor(name).shape)
    return found


def votes_for(plan: Plan, keep: dict[str, Tensor], found: list[OpenedRound], folder: Path) -> OpenedRound:
    """The next round of a block, in which all survivors kept what `keep` keeps."""
    round_ = Start(plan, found).round
    sums = {}
    for tensor in plan.tensors(round_.index):
        kept = SURVIVORS * keep[tensor.name].flatten().long()
        sums[f"votes {tensor.name}"] = kept.tolist()
        sums[f"nonzero counts {tensor.name}"] = [int(kept.sum())]
    return opened(round_, sums, SURVIVORS, folder)


@pytest.mark.parametrize("restarted", [None, 1, 2])
def test_iterative_goes_on_from_the_globally_pruned_blocks(
    restarted: int | None, weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    """Also an agent that was started again before a block, or that took part in none before."""
    plan = planned(llama_tensors(weights), schedule="iterative")
    keep = global_keep_masks(weights)
    expected = whole_model(
        weights.folder,
        sequences,
        Decimal("0.5"),
        lambda index, own: masked(weights, {name: keep[name] for name in own}),
    )
    one_shot = whole_model(weights.folder, sequences, Decimal("0.5"), lambda _, own: masked(weights, own))
    run, found = Run(plan, weights, sequences, tmp_path / "state"), list[OpenedRound]()
    for block in range(BLOCKS):
        if block == restarted:
            run = Run(plan, weights, sequences, tmp_path / "state")
        start = Start(plan, found)
        masks = run.keep_masks(start)
        assert same(masks, expected[block])
        assert same(masks, one_shot[block]) is (block == 0), "the global block makes a difference"
        assert run.done[-1] == (block + 1, BLOCKS)
        assert run.pruning.files(start).keep_masks.name == f"{block}.keep_mask.safetensors"
        found.append(votes_for(plan, keep, found, tmp_path))
    assert run.read == 1


def test_iterative_magnitude_reads_no_text(weights: DenseWeights, sequences: Tensor, tmp_path: Path) -> None:
    plan = planned(llama_tensors(weights), schedule="iterative", pruner="magnitude")
    run, found = Run(plan, weights, sequences, tmp_path / "state"), list[OpenedRound]()
    keep = global_keep_masks(weights)
    alone = prune_blocks(
        weights,
        [],
        pruner=plan.pruning.pruner,
        sparsity=lambda _: plan.pruning.silo_sparsity(ME),
        device=CPU,
        progress=lambda *_: None,
    )
    expected = {each.name: each.keep for each in alone}
    for block in weights.blocks:
        masks = run.keep_masks(Start(plan, found))
        assert same(masks, {name: expected[name] for name in block.prunable})
        found.append(votes_for(plan, keep, found, tmp_path))
    assert run.read == 0


def test_a_silo_that_joins_at_the_last_block_needs_none_of_its_own_before(
    weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    plan = planned(llama_tensors(weights), schedule="iterative")
    keep, found = global_keep_masks(weights), list[OpenedRound]()
    for _ in range(BLOCKS - 1):
        found.append(votes_for(plan, keep, found, tmp_path))
    run = Run(plan, weights, sequences, tmp_path / "state")
    expected = whole_model(
        weights.folder, sequences, Decimal("0.5"), lambda _, own: masked(weights, {name: keep[name] for name in own})
    )
    assert same(run.keep_masks(Start(plan, found)), expected[-1])
    assert len(list((tmp_path / "state").glob("*.safetensors"))) == 1


def test_iterative_weights_go_on_from_the_averaged_weights(
    weights: DenseWeights, sequences: Tensor, tmp_path: Path
) -> None:
    """Block 0 as averaged: statistics of block 1 from transformers, of a model with the new weights in it."""
    plan = planned(llama_tensors(weights), ReleaseKind.WEIGHTS, pruner="sparsegpt", schedule="iterative")
    keep, generator = global_keep_masks(weights), torch.Generator().manual_seed(1)
    run, found = Run(plan, weights, sequences, tmp_path / "state"), list[OpenedRound]()
    scales: dict[str, list[int]] = {}
    sums: dict[str, list[int]] = {}
    new: dict[str, Tensor] = {}
    for tensor in plan.tensors(1):
        name, dense = tensor.name, weights.tensor(tensor.name)
        scales[f"scale {name}"] = [SURVIVORS if e == -2 else 0 for e in range(-96, 32)]
        multiples = torch.randint(-(2**15), 2**15, dense.shape, generator=generator)  # of 2^-18: up to an eighth
        kept = keep[name].long() * SURVIVORS
        sums[f"votes {name}"] = kept.flatten().tolist()
        sums[f"nonzero counts {name}"] = [int(kept.sum())]
        sums[f"deltas {name}"] = (kept * (multiples + 2**16)).flatten().tolist()
        new[name] = (dense.double() + multiples.double() / 2**18).float() * keep[name]
    own = run.pruning.files(Start(plan))
    found.append(opened(Start(plan).round, scales, SURVIVORS, tmp_path))
    assert run.pruning.files(Start(plan, found)) == own, "scales and weights are of one pruning"
    assert run.read == 1
    found.append(opened(Start(plan, found).round, sums, SURVIVORS, tmp_path))
    files = run.pruning.files(Start(plan, found))
    name = "model.layers.1.mlp.down_proj.weight"

    def pruned_after(changed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        model, inputs = in_memory(weights.folder), list[Tensor]()
        for each, weight in changed.items():
            model.get_parameter(each).data.copy_(weight)
        layer = model.model.layers[1].mlp.down_proj
        layer.register_forward_pre_hook(adding_to(inputs))
        with torch.no_grad():
            model(input_ids=sequences)
        mask, weight = sparsegpt.prune(layer.weight.detach(), inputs[0].T @ inputs[0], plan.pruning.silo_sparsity(ME))
        assert weight is not None
        return mask, weight

    found_mask, found_weight = load_file(files.keep_masks)[name], load_file(files.weights)[name]
    mask, weight = pruned_after(new)
    assert torch.equal(found_mask, mask)
    assert torch.allclose(found_weight, weight, rtol=1e-3, atol=1e-5)
    for other in ({}, masked(weights, {name: keep[name] for name in new})):  # dense, and only masked
        assert not torch.equal(found_mask, pruned_after(other)[0])


@pytest.mark.clause("2.4.16")
def test_a_plan_that_names_another_tensor_is_refused(weights: DenseWeights, sequences: Tensor, tmp_path: Path) -> None:
    """In words that tell nothing of a text; on the tensor that is last, it says what is missing."""
    tensors = llama_tensors(weights)
    for tensor in tensors:
        if tensor.prunable:
            d_out, d_in = tensor.shape
            tensor.scale_exponents = bytes(d_in)
            tensor.output_exponents = bytes(d_out) if "o_proj" in tensor.name else b""
    plan = planned(tensors, ReleaseKind.DENSE_TARGET, pruner="admm", schedule="iterative", chunk_words=1000)
    first = Start(plan).round
    nothing = SURVIVORS << product_bits(len(plan.silos))
    sums = {
        section.name: [0 if section.name == "clipped" else nothing] * section.lanes for section in first.layout.sections
    }
    start = Start(plan, [opened(first, sums, SURVIVORS, tmp_path)])
    pruning = Run(plan, weights, sequences, tmp_path / "run").pruning
    prefix = "model.layers.0"
    with pytest.raises(
        PlanError, match=f"{prefix}.self_attn.o_proj.weight writes to the residual stream last, and here"
    ):
        pruning.dense_target(start, f"{prefix}.self_attn.o_proj.weight")
    gram, target = pruning.dense_target(start, f"{prefix}.mlp.down_proj.weight")
    assert (gram.shape, target.shape) == ((72, 72), (32, 72))

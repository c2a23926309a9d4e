"""Every model family whole: pruned by three silos, summed under double masking, written, reloaded, and it still writes.

All of the product's code but the network and the command line; `make test-families` has the same with processes.
"""

import secrets
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from aggregator.runs.planning import Planner
from crypto.names import Allocation, ComparisonGroup, GramInputs, Pruner, ReleaseKind, Schedule, Suite
from crypto.plan import oriented
from crypto.plan_options import PlanOptions
from crypto.pruning.alpha_pruning import alpha_ratios
from crypto.pruning.owl import owl_ratios
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Sparsity, group_shape
from scenarios.world import World
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.model.activations import BlockWalk
from silo_agent.model.calibration import usual_length
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.opened_sums.together import Together
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.prune import prune_blocks
from silo_agent.pruning.spectral import block_alphas
from silo_agent.releases import dense_target
from silo_agent.releases.energies import EnergiesRelease
from silo_agent.releases.gram import GramRelease
from silo_agent.releases.scales import ScalesRelease
from silo_agent.releases.votes import VotesRelease
from silo_agent.releases.weights import WeightsRelease
from silo_agent.results.quantised_checkpoint import write_quantised_model
from silo_agent.results.sparse_checkpoint import SparseModel, write_sparse_model
from silo_agent.rounds.run_pruning import RunPruning
from silo_agent.second_order.gptq import group_size, round_to_nearest
from support.models import BLOCKS, family, in_memory, tiny_model, tokenizer, words
from support.outliers import dense_counts
from support.plans import signing_keys

SILOS = 3
LENGTH = 16


def sequences(silo: int) -> Tensor:
    ids = tokenizer()(words(3000, seed=silo), verbose=False)["input_ids"]
    return torch.tensor(ids[: 6 * LENGTH]).view(6, LENGTH)


def joined(blocks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: statistic for of_block in blocks for name, statistic in of_block.items()}


def release(kind: ReleaseKind, start: Start, pruning: RunPruning, weights: DenseWeights, files_of: Path) -> Any:
    plan = start.plan
    match kind:
        case ReleaseKind.SCALES:
            files = pruning.files(start)
            return ScalesRelease(plan, start.index, files.keep_masks, PrunedFile(files.weights), weights)
        case ReleaseKind.WEIGHTS:
            files = pruning.files(start)
            pruned = PrunedFile(files.weights)
            return WeightsRelease(plan, start.index, files.keep_masks, pruned, weights, start.exponents(None))
        case ReleaseKind.ENERGIES:
            return EnergiesRelease(plan, start.index, joined(pruning.statistics(start, "energies")))
        case ReleaseKind.GRAM:
            pooled = GramRelease(plan, start.index, files_of / f"{start.index}.gram")
            for of_block in pruning.statistics(start, "grams"):
                pooled.add(of_block)
            return pooled
        case ReleaseKind.DENSE_TARGET:
            return dense_target.prepare(
                SimpleNamespace(  # type: ignore[arg-type]
                    plan=plan,
                    index=start.index,
                    folder=files_of,
                    dense_target=lambda name: pruning.dense_target(start, name),
                )
            )
        case _:
            return VotesRelease(plan, start.index, pruning.files(start).keep_masks)


def together(weights: DenseWeights, asked: PlanOptions, folder: Path) -> tuple[Together, list[OpenedRound]]:
    """What three silos make of the model together, and the sums that it follows from."""
    keys = signing_keys(SILOS)
    roster = {silo: key.public_bytes for silo, key in keys.items()}
    plan = Planner(weights, asked, roster, Suite.DEFAULT, secrets.token_bytes, watch=lambda *_: None).pruning()
    silos = {
        silo: RunPruning(
            *(plan, silo, weights, lambda index=index: sequences(index)),  # type: ignore[misc]
            *(list, folder / silo, torch.device("cpu"), lambda *_: None),
        )
        for index, silo in enumerate(plan.silos)
    }
    for silo in silos:
        (folder / silo).mkdir(parents=True)
    opened: list[OpenedRound] = []
    for index in range(len(plan.message.rounds)):
        start = Start(plan, opened)
        world = World(plan, keys, round_=start.round)
        kind = plan.release_kind(index)
        releases = {silo: release(kind, start, own, weights, folder / silo) for silo, own in silos.items()}
        lanes = {
            silo: {
                section.name: np.concatenate(
                    [values.lanes(chunk) for chunk in world.layout.chunks if chunk.section is section]
                )
                for section in world.layout.sections
            }
            for silo, values in releases.items()
        }
        world.run(lanes)
        file = folder / f"sum-{index}"
        file.write_bytes(b"".join(world.opened))
        opened.append(OpenedRound(start.round, SILOS, world.aggregator.sum_root, file))
    made = Together(plan, weights, folder / "pruned", torch.device("cpu"), lambda *_: None)
    made.take(opened)
    return made, opened


def federated(weights: DenseWeights, asked: PlanOptions, folder: Path) -> Path:
    """The model that three silos prune together; its folder."""
    made, _ = together(weights, asked, folder)
    write_sparse_model(SparseModel(weights, made.tensors.get, {}, lambda _: ""), folder / "model")
    plan = made.plan
    if plan.pruning.quantise_bits is not None:
        quantised = made.tensors.quantised.__getitem__
        write_quantised_model(weights, quantised, plan.pruning.quantise_bits, folder / "model-quantised")
    return folder / "model"


@pytest.mark.parametrize("name", BLOCKS)
def test_wanda_and_pooled_energies(name: str, tmp_path: Path) -> None:
    """The keep masks are those that Wanda chooses with all silos' text in one place."""
    asked = PlanOptions(ReleaseKind.ENERGIES, Pruner.WANDA, Decimal("0.6"), samples=6, sequence_length=LENGTH)
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family(name), seed=3))
    model = DenseWeights.open(federated(weights, asked, tmp_path / "run"))
    text = torch.cat([sequences(silo) for silo in range(SILOS)])
    central = prune_blocks(
        weights,
        text,
        pruner=Pruner.WANDA,
        sparsity=lambda _: Sparsity(Decimal("0.6"), ComparisonGroup.ROW),
        device=torch.device("cpu"),
        progress=lambda *_: None,
    )
    differing = {
        pruned.name: int(((model.tensor(pruned.name) != 0) != pruned.keep).sum())
        for pruned in central
        if not (weights.tensor(pruned.name) == 0).any()
    }
    assert differing
    assert not any(differing.values()), differing


@pytest.mark.clause("2.8.1", "2.8.2")
@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize(("kind", "pruner"), [(ReleaseKind.ENERGIES, Pruner.WANDA), (ReleaseKind.GRAM, Pruner.ADMM)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_owl_by_pooled_statistics(
    name: str, kind: ReleaseKind, pruner: Pruner, schedule: Schedule, tmp_path: Path
) -> None:
    """Blocks' ratios are those of OWL with all silos' text in one place, and nobody counts outliers of its own."""
    asked = PlanOptions(
        *(kind, pruner, Decimal("0.6")), schedule=schedule, allocation=Allocation.OWL, samples=6, sequence_length=LENGTH
    )
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family(name, num_hidden_layers=3), seed=4))
    made, opened = together(weights, asked, tmp_path / "run")
    plan = made.plan
    kinds = [plan.release_kind(index) for index in range(len(opened))]
    assert kinds == ([kind] if schedule is Schedule.ONE_SHOT else [ReleaseKind.ENERGIES, *[kind] * 3])
    counts = dense_counts(weights.folder, BLOCKS[name], torch.cat([sequences(silo) for silo in range(SILOS)]))
    ratios = owl_ratios(counts, plan.block_weights, Decimal("0.6"))
    assert len({*ratios}) == 3
    start = Start(plan, opened, made)
    assert [start.sparsity(block).target for block in range(3)] == ratios
    assert [start.silo_sparsity(plan.silos[0], block).target for block in range(3)] == ratios
    own_group = PRUNERS[pruner].own_group
    for tensor in plan.prunable:
        zeros = int((made.tensors[tensor.name] == 0).sum())
        groups, of_group = group_shape(oriented(tensor), own_group)
        assert zeros == groups * floor(Fraction(ratios[tensor.block]) * of_group), tensor.name


@pytest.mark.clause("2.4.17")
@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_products_of_attentions_inputs_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One-shot, so that all statistics are of the dense model: what shares attention's input is solved as where all
    products are pooled, all else nearly as where energies are, and each is settled as what it was solved by.
    """
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family(name), seed=3))
    settled: dict[str, ReleaseKind] = {}

    def note(self: Together, solved: ExpandedTensor, _g: Tensor, _s: Sparsity, kind: ReleaseKind, _a: Any) -> Any:
        settled[solved.name] = kind
        return solved

    monkeypatch.setattr(Together, "settled", note)

    def tensors(kind: ReleaseKind, gram: GramInputs = GramInputs.ALL) -> Together:
        asked = PlanOptions(
            *(kind, Pruner.SPARSEGPT, Decimal("0.6")), gram=gram, schedule=Schedule.ONE_SHOT,
            samples=6, sequence_length=LENGTH,
        )  # fmt: skip
        return together(weights, asked, tmp_path / f"{kind} {gram}")[0]

    every, energies = tensors(ReleaseKind.GRAM), tensors(ReleaseKind.ENERGIES)
    mixed = tensors(ReleaseKind.GRAM, GramInputs.ATTENTION)
    shares = {tensor.name: tensor.shares_input_of or tensor.name for tensor in mixed.plan.prunable}
    attention = {shares[weight] for weight in shares if "attn" in weight or "attention" in weight}
    for weight, owner in shares.items():
        assert settled[weight] is (ReleaseKind.GRAM if owner in attention else ReleaseKind.ENERGIES)
        found = mixed.tensors[weight]
        if owner in attention:
            assert torch.equal(found, every.tensors[weight])
        else:
            assert not torch.equal(found != 0, every.tensors[weight] != 0)
            differing = ((found != 0) != (energies.tensors[weight] != 0)).float().mean()
            assert differing < 0.01, weight
    assert {*attention} < {*shares.values()}


@pytest.mark.parametrize("name", BLOCKS)
def test_sparsegpt_and_pooled_gram_in_a_pattern(name: str, tmp_path: Path) -> None:
    asked = PlanOptions(
        release=ReleaseKind.GRAM, pruner=Pruner.SPARSEGPT, pattern="2:4", samples=6, sequence_length=LENGTH
    )
    check(name, tmp_path, asked, lambda size: size // 2, torch.float32)


def check(name: str, folder: Path, asked: PlanOptions, zeros: Any, dtype: torch.dtype) -> None:
    weights = DenseWeights.open(tiny_model(folder / "dense", family(name), seed=3, dtype=dtype))
    assert usual_length(weights.config, LENGTH) == LENGTH
    model = federated(weights, asked, folder / "run")
    sparse = DenseWeights.open(model)
    assert sparse.prunable == weights.prunable
    for tensor in weights.names:
        if tensor not in weights.prunable:
            assert torch.equal(sparse.tensor(tensor), weights.tensor(tensor))
    for tensor in weights.prunable:
        found = sparse.tensor(tensor)
        assert (found == 0).sum() == zeros(found.numel()), tensor
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    prompt = sequences(0)[:1, :5]
    written = loaded.generate(prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert written.shape == (1, 11)
    assert loaded(written).logits.isfinite().all()


@pytest.mark.parametrize("name", BLOCKS)
def test_wanda_and_votes(name: str, tmp_path: Path) -> None:
    asked = PlanOptions(ReleaseKind.VOTES, sparsity_ratio=Decimal("0.6"), samples=6, sequence_length=LENGTH)
    check(name, tmp_path, asked, lambda size: floor(Fraction("0.6") * size), torch.bfloat16)


@pytest.mark.parametrize("name", BLOCKS)
def test_sparsegpt_and_weights_in_a_pattern(name: str, tmp_path: Path) -> None:
    asked = PlanOptions(
        release=ReleaseKind.WEIGHTS, pruner=Pruner.SPARSEGPT, pattern="2:4", samples=6, sequence_length=LENGTH
    )
    check(name, tmp_path, asked, lambda size: size // 2, torch.float32)


def test_blocks_lose_what_the_plans_exponents_say(tmp_path: Path) -> None:
    asked = PlanOptions(
        ReleaseKind.VOTES, sparsity_ratio=Decimal("0.6"), allocation=Allocation.ALPHA, samples=6, sequence_length=LENGTH
    )
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("llama", num_hidden_layers=3), seed=3))
    model = DenseWeights.open(federated(weights, asked, tmp_path / "run"))
    sizes = [sum(weights.shape(name).numel() for name in block.prunable) for block in weights.blocks]
    ratios = alpha_ratios(block_alphas(weights, device=torch.device("cpu")), sizes, Decimal("0.6"))
    assert len({*ratios}) == 3
    for block, ratio in zip(weights.blocks, ratios, strict=True):
        for name in block.prunable:
            assert int((model.tensor(name) == 0).sum()) == floor(Fraction(ratio) * weights.shape(name).numel())


@pytest.mark.clause("2.4.15")
@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon"])
def test_a_dense_target_brings_the_model_nearer_to_the_dense_one(name: str, tmp_path: Path) -> None:
    """Also where the matrix is stored input first (gpt2), and where two write to the stream at once (falcon)."""
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family(name), seed=3))
    text = torch.cat([sequences(silo) for silo in range(SILOS)])
    logits, asked = {}, {"pruner": Pruner.ADMM, "sparsity_ratio": Decimal("0.6")}
    for kind in (ReleaseKind.GRAM, ReleaseKind.DENSE_TARGET):
        options = PlanOptions(release=kind, samples=6, sequence_length=LENGTH, **asked)  # type: ignore[arg-type]
        logits[kind] = in_memory(federated(weights, options, tmp_path / kind))(text).logits
        model = DenseWeights.open(tmp_path / kind / "model")
        for tensor in weights.prunable:
            size = weights.shape(tensor).numel()
            assert int((model.tensor(tensor) == 0).sum()) == floor(Fraction("0.6") * size)
    dense = in_memory(weights.folder)(text).logits
    without, with_target = (float((found - dense).detach().norm()) for found in logits.values())
    assert with_target < 0.95 * without


QUANTISING = {
    "gram": (ReleaseKind.GRAM, Pruner.SPARSEGPT, Decimal("0.5")),
    "energies": (ReleaseKind.ENERGIES, Pruner.WANDA, Decimal("0.5")),
    "alone": (ReleaseKind.GRAM, Pruner.SPARSEGPT, Decimal(0)),
    "target": (ReleaseKind.DENSE_TARGET, Pruner.ADMM, Decimal("0.5")),
}


@pytest.mark.parametrize("case", QUANTISING)
def test_what_was_pruned_is_quantised_by_the_pooled_statistic(case: str, tmp_path: Path) -> None:
    kind, pruner, ratio = QUANTISING[case]
    asked = {"release": kind, "pruner": pruner, "sparsity_ratio": ratio, "samples": 6, "sequence_length": LENGTH}
    weights = DenseWeights.open(tiny_model(tmp_path / "dense", family("llama"), seed=3, dtype=torch.float32))
    pruned, quantised = (
        DenseWeights.open(federated(weights, PlanOptions(**asked, quantise=bits), tmp_path / str(bits)))
        for bits in (0, 4)
    )
    text = torch.cat([sequences(silo) for silo in range(SILOS)])
    walk = BlockWalk(weights, text, device=torch.device("cpu"))
    next(iter(walk))
    errors = torch.zeros(3)
    for name, gram in walk.grams().items():  # of the first block, whose inputs are the same in both runs
        new, before, dense = quantised.tensor(name), pruned.tensor(name), weights.tensor(name)
        group = group_size(new.shape[1])
        assert all(len(weights_of_a_scale.unique()) <= 16 for weights_of_a_scale in new.view(-1, group))
        if kind is ReleaseKind.DENSE_TARGET and "down_proj" in name:
            continue  # its own round came after the others were quantised
        assert (new == 0)[before == 0].all()
        changes = [made - dense for made in (before, new, round_to_nearest(before, 4, before != 0).weight)]
        errors += torch.stack([(change @ gram * change).sum() for change in changes])
    of_pruning, of_both, of_both_to_nearest = errors.tolist()
    assert of_both - of_pruning < 0.8 * (of_both_to_nearest - of_pruning)
    if not ratio:
        assert all(torch.equal(pruned.tensor(name), weights.tensor(name)) for name in weights.prunable)
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "4/model")
    packed: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "4/model-quantised")
    prompt = sequences(0)[:1]
    torch.testing.assert_close(packed(prompt).logits, plain(prompt).logits, atol=1e-4, rtol=1e-4)

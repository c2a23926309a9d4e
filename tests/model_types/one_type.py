"""One `model_type`: a tiny model of it, pruned by Wanda, written, reloaded, and held against the reference."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from crypto.errors import ModelError
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Sparsity
from model_types.reference import ROUTERS, Products, Rows, keep_mask
from model_types.tiny_configs import VOCABULARY, tiny_config
from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.pruning.prune import prune_blocks
from silo_agent.results.sparse_checkpoint import SparseModel, write_sparse_model

CPU = torch.device("cpu")
SEQUENCES = torch.randint(5, VOCABULARY - 15, (6, 24), generator=torch.Generator().manual_seed(0))
HALF = Sparsity(Decimal("0.5"), ComparisonGroup.ROW)

UNUSABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, AssertionError,
    StrictDataclassError,
)  # fmt: skip
"""What transformers raises where it does not build, load or run a tiny model of a type."""


@dataclass
class Row:
    """What the sweep found of one model type."""

    model_type: str
    verdict: str
    """works, wrong, refused or not buildable."""
    reason: str = ""
    dense: tuple[str, ...] = ()
    """Matrices in its blocks that text is multiplied with and that stay dense, but for routers."""


def row_of(model_type: str, folder: Path, architecture: str | None = None) -> Row:
    """Try one type, in `folder`, which is empty. Raises what the product raises that is no ModelError.

    The checkpoint is of the `architecture`, or else of the type's causal language model.
    """
    try:
        dense = tiny_folder(model_type, folder / "dense", architecture)
        whole = in_memory(dense)
        logits(whole)
    except UNUSABLE as error:
        return Row(model_type, "not buildable", " ".join(f"{type(error).__name__}: {error}".split())[-200:])
    try:
        weights = DenseWeights.open(dense)
        pruned = prune_blocks(
            weights, SEQUENCES, pruner=Pruner.WANDA, sparsity=lambda _: HALF, device=CPU, progress=lambda *_: None
        )
        keep = {weight.name: weight.keep for weight in pruned}
    except ModelError as error:
        return Row(model_type, "refused", str(error).replace(str(dense), "MODEL"))
    wrong, stays_dense = compare(whole, weights, keep)
    wrong += reloaded(weights, folder / "pruned", keep, logits(whole)) if not wrong else []
    return Row(model_type, "wrong" if wrong else "works", "; ".join(wrong[:6]), tuple(sorted(stays_dense)))


def tiny_folder(model_type: str, folder: Path, architecture: str | None) -> Path:
    """Save a tiny model of the type, all its parameters random."""
    make: Any = getattr(transformers, architecture) if architecture else AutoModelForCausalLM.from_config
    model = make(tiny_config(model_type))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.dim() > 1 else noise + 1)
    model.save_pretrained(folder)
    return folder


def in_memory(folder: Path) -> Any:
    """Load the whole model in float32, each parameter in its own memory."""
    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32, experts_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Run the whole model on the sequences, for what its matrices are multiplied with."""
    output: Tensor = model(input_ids=SEQUENCES).logits
    return output


def compare(whole: Any, weights: DenseWeights, keep: Mapping[str, Tensor]) -> tuple[list[str], set[str]]:
    """Return what is wrong about the keep masks, and what stays dense. `whole` becomes the pruned model."""
    parameters = {name: tensor for name, tensor in whole.named_parameters() if tensor.ndim in (2, 3)}
    rows = Rows(parameters)
    wrong: list[str] = []
    stays_dense: set[str] = set()
    for block in weights.blocks:
        with Products(parameters) as products:
            logits(whole)
        pruned = set()
        for name in block.prunable:
            (parameter, expert), model_rows = rows.find(weights.tensor(name))
            pruned.add(parameter)
            energy, turned = products.energies.get((parameter, expert)), parameter in products.input_first
            wrong += held(name, model_rows, keep[name], energy, turned=turned)
            if parameter in products.otherwise:
                wrong.append(f"{name}: something else is done with it, too")
            model_rows.masked_fill_(~keep[name], 0)
        multiplied = {name for name, called in products.otherwise.items() if called in ("einsum", "baddbmm")}
        multiplied |= {name for name, _ in products.energies}
        dense = {name for name in multiplied - pruned if name.startswith(f"{block.prefix}.")}
        inside = {name.removeprefix(f"{block.prefix}.") for name in dense if not re.fullmatch(ROUTERS, name)}
        stays_dense |= inside
        wrong += [f"{block.prefix}.{name} is left out" for name in inside & {*linear_layers(whole, block)}]
        if any("expert" in name for name in pruned):
            wrong += [f"{name} is a router" for name in pruned if re.fullmatch(ROUTERS, name)]
    return wrong, stays_dense


def linear_layers(whole: Any, block: Block) -> Iterator[str]:
    """Yield the names of a block's linear layers' weights, from the block on."""
    for name, module in whole.get_submodule(block.prefix).named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield f"{name}.weight"


def held(name: str, rows: Tensor, keep: Tensor, energy: Tensor | None, *, turned: bool) -> list[str]:
    """Hold a keep mask against the reference; without an energy no text reaches the weight, and magnitude counts."""
    matrix, keep = (rows.T, keep.T) if turned else (rows, keep)
    expected, near = keep_mask(matrix, torch.zeros(matrix.shape[1]) if energy is None else energy)
    if not expected.any() or near.float().mean() > 0.2:
        return [f"{name}: the reference cannot tell"]
    differ = (expected != keep) & ~near
    return [f"{name}: {int(differ.sum())} of {differ.numel()} differ"] if differ.any() else []


def reloaded(weights: DenseWeights, folder: Path, keep: Mapping[str, Tensor], expected: Tensor) -> list[str]:
    """Write and load the sparse model, which must have the `expected` logits, as must the walk's end, and generate."""
    write_sparse_model(SparseModel(weights, keep.get, {}, lambda _: ""), folder)
    model = in_memory(folder)
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for _ in walk:
        walk.advance(keep)
    of_walk = torch.cat([some for _, some in walk.logits()])
    nearly = 1e-3 * float(expected.abs().max())
    wrong = [
        f"the logits of {what} are others"
        for what, got in (("the reloaded model", logits(model)), ("the walk", of_walk))
        if not torch.allclose(expected, got, rtol=1e-3, atol=nearly)
    ]
    written = model.generate(SEQUENCES[:1, :8], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    return wrong if written.shape[-1] >= 3 else [*wrong, "it does not generate"]

"""One `model_type`: a tiny model of it, pruned by Wanda, reloaded, made to write, and held against the reference."""

import json
import re
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from crypto.errors import SparsiloError
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Sparsity
from model_types.reference import ROUTERS, Products, Rows, keep_mask
from model_types.tiny_configs import VOCABULARY, tiny_config
from silo_agent.model.activations import BlockWalk
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model import batches
from silo_agent.pruning.prune import prune_blocks
from silo_agent.results.sparse_checkpoint import SparseModel, write_sparse_model

SEQUENCES = torch.randint(5, VOCABULARY - 15, (6, 24), generator=torch.Generator().manual_seed(0))
HALF = Sparsity(Decimal("0.5"), ComparisonGroup.ROW)


@dataclass
class Row:
    """What became of a type."""

    model_type: str
    verdict: str
    """works, refused, not buildable, wrong or traceback."""
    reason: str = ""
    blocks: str = ""
    dense: tuple[str, ...] = ()
    """The block's matrices that stay dense."""


def row_of(model_type: str, folder: Path) -> Row:
    """Try one type, in `folder`, which is empty."""
    try:
        dense = tiny_folder(model_type, folder / "dense")
        whole = _in_memory(dense)
        with torch.no_grad():
            whole(input_ids=SEQUENCES)
    except BaseException as error:
        return Row(model_type, "not buildable", _line(error))
    batches.TOKENS_PER_BATCH = 50  # batches of 2 sequences
    try:
        weights = DenseWeights.open(dense)
        masks = {
            pruned.name: pruned.keep
            for pruned in prune_blocks(
                weights, SEQUENCES, pruner=Pruner.WANDA, sparsity=lambda _: HALF, device=torch.device("cpu"),
                progress=lambda *_: None,
            )
        }  # fmt: skip
    except SparsiloError as error:
        return Row(model_type, "refused", str(error).replace(str(dense), "MODEL"))
    except BaseException as error:
        return Row(model_type, "traceback", _line(error) + "\n" + traceback.format_exc()[-1500:])
    row = Row(model_type, "works", blocks=f"{weights.blocks[0].prefix} x {len(weights.blocks)}")
    try:
        wrong, row.dense = compare(whole, weights, masks)
        if not wrong:
            wrong = _reloaded(dense, folder / "pruned", masks, whole) or _logits(weights, masks, whole)
    except BaseException as error:
        wrong = [f"{_line(error)}\n{traceback.format_exc()[-1500:]}"]
    if wrong:
        row.verdict, row.reason = "wrong", "; ".join(wrong[:6])
    return row


def tiny_folder(model_type: str, folder: Path) -> Path:
    """Save a tiny model of the type, all its parameters random."""
    make: Any = AutoModelForCausalLM.from_config
    model = make(tiny_config(model_type))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.dim() > 1 else noise + 1)
    model.save_pretrained(folder)
    return folder


def compare(whole: Any, weights: DenseWeights, masks: Mapping[str, Tensor]) -> tuple[list[str], tuple[str, ...]]:
    """Return what is wrong about the keep masks, and which matrices stay dense. `whole` becomes the pruned model."""
    parameters = {name: tensor for name, tensor in whole.named_parameters() if tensor.ndim in (2, 3)}
    rows = Rows(parameters)
    wrong, of_parameter = [], {}
    for name in masks:
        place = rows.find(weights.tensor(name))
        if place is None:
            wrong.append(f"{name}: is nowhere in the model")
        else:
            of_parameter[name] = place
    owners = {f"{name}.weight" for name, module in whole.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    experts = {
        name for name, tensor in parameters.items()
        if tensor.ndim == 3 and "conv" not in type(whole.get_submodule(name.rpartition(".")[0])).__name__.lower()
    }  # fmt: skip
    seen_prunable = {place[0] for place in of_parameter.values()}
    stays: set[str] = set()
    for block in weights.blocks:
        in_block = {name for name in owners | experts if name.startswith(f"{block.prefix}.")}
        with Products(parameters) as products, torch.no_grad():
            whole(input_ids=SEQUENCES)
        multiplied = {name for name, _ in products.energies if name.startswith(f"{block.prefix}.")}
        stays |= {name.removeprefix(f"{block.prefix}.") for name in (in_block | multiplied) - seen_prunable}
        for name in block.prunable:
            if name not in of_parameter:
                continue
            parameter, expert, input_first = of_parameter[name]
            wrong += _held(name, weights, masks[name], products.energies.get((parameter, expert)), input_first)
            if any(line.startswith(f"{parameter} ") for line in products.other):
                wrong.append(f"{name}: also used by {products.other}")
        _prune(parameters, block.prunable, of_parameter, masks, weights)
    routers = {name for name in seen_prunable if re.fullmatch(ROUTERS, name.removesuffix(".weight")) and experts}
    wrong += [f"{name} is a router" for name in sorted(routers)]
    stays = {name for name in stays if not re.fullmatch(ROUTERS, name.removesuffix(".weight"))}
    wrong += [f"{name} is left out" for name in stays if any(f"{block.prefix}.{name}" in owners for block in weights.blocks)]
    outside = {
        f"OUTSIDE {name}"
        for name in owners | experts
        if not any(name.startswith(f"{b.prefix}.") for b in weights.blocks)
    }
    return wrong, tuple(sorted(stays | outside))


def _held(name: str, weights: DenseWeights, keep: Tensor, energy: Tensor | None, input_first: bool) -> list[str]:
    stored = weights.tensor(name).float()
    input_first = weights.input_first(name)
    matrix, keep = (stored.T, keep.T) if input_first else (stored, keep)
    if energy is None:
        energy = torch.zeros(
            matrix.shape[1], dtype=torch.float64
        )  # no text reaches it: an expert, or an encoder's part
    if energy.isnan().any():
        return [f"{name}: the reference is NaN"]
    expected, near = keep_mask(matrix, energy)
    bad = (expected != keep) & ~near
    if near.float().mean() > 0.5:
        return [f"{name}: the reference cannot tell"]
    return [f"{name}: {int(bad.sum())} of {bad.numel()} differ"] if bad.any() else []


def _prune(parameters: Any, names: Any, of_parameter: Any, masks: Mapping[str, Tensor], weights: DenseWeights) -> None:
    """Zero a block's pruned weights in the whole model, found again by their values."""
    for name in names:
        if name not in of_parameter:
            continue
        parameter, expert, input_first = of_parameter[name]
        tensor = parameters[parameter].data
        matrix = tensor if expert is None else tensor[expert]
        matrix = matrix.T if input_first else matrix
        stored = weights.tensor(name).float()
        stored, keep = (stored.T, masks[name].T) if input_first else (stored, masks[name])
        start = int((matrix == stored[0]).all(1).nonzero()[0])
        part = matrix[start : start + len(stored)]
        assert torch.equal(part, stored), name
        part.masked_fill_(~keep, 0)


def _reloaded(dense: Path, folder: Path, masks: Mapping[str, Tensor], whole: Any) -> list[str]:
    """Write the pruned model, load and run it: its logits are those of the pruned `whole`, and it writes."""
    weights = DenseWeights.open(dense)
    write_sparse_model(SparseModel(weights, masks.get, {}, lambda _: ""), folder)
    model = _in_memory(folder)
    with torch.no_grad():
        expected, got = (of(input_ids=SEQUENCES).logits for of in (whole, model))
    if not torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        return ["the reloaded model is another"]
    written = model.generate(SEQUENCES[:1, :8], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    return [] if written.shape[-1] >= 3 else ["it does not write"]


def _logits(weights: DenseWeights, masks: Mapping[str, Tensor], whole: Any) -> list[str]:
    """Walk through the pruned blocks once more: what comes out are the pruned model's logits."""
    walk = BlockWalk(weights, SEQUENCES, device=torch.device("cpu"))
    for _ in walk:
        walk.advance(masks)
    got = torch.cat([logits for _, logits in walk.logits()])
    with torch.no_grad():
        expected = whole(input_ids=SEQUENCES).logits
    close = torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return [] if close else ["the logits after the last block are others"]


def _in_memory(folder: Path) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32, experts_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # each its own memory
    return model


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[-300:]


def write_row(row: Row, file: Path) -> None:
    file.write_text(json.dumps(asdict(row)))

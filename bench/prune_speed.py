"""What pruning costs beside the forward passes that it cannot do without.

On the CPU (`make bench-prune-speed`): pruning with Wanda, from the opened model to the written keep masks, against two
bare passes of the same tokens through the same blocks, which transformers holds in memory, in the same dtype, batches
and threads. Interleaved; the claim is about the median of the repetitions' ratios, in wall time. The whole command,
with the start of the interpreter, imports and tokenisation, is shown beside it.

With `--device cuda`: a model shaped as Llama 2 7B, 128 sequences of 2,048 tokens, Wanda and SparseGPT. Counted are the
matrix products that run: each block's linear layers and attention twice (once in the last block, whose outputs nobody
needs), and SparseGPT's X^T X. They, over the time until the keep masks are on the CPU, are held against the rate of
large bfloat16 products in the same run. Beside it the published procedure: the model in the device's memory, a sequence
at a time, hooks, and all sequences through each block twice. Writing the keep masks is timed apart there: 6.5 GB of
bytes take as long as the disk likes. `--rate` does the same elsewhere, to try it out small.

Prints one JSON document; exits with 1 when a claim in it is not met.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging

from bench.document import at_most, progress, publish
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.batches import TOKENS_PER_BATCH
from silo_agent.model.calibration import read_sequences
from silo_agent.pruning.prune import prune_blocks, write_keep_masks
from tests.support.models import tokenizer, write_text

RATIO = "0.5"
TWO_PASSES, RATE_SHARE, PEAK_BYTES = 1.2, 0.5, 12e9
BLOCK_SIZE, DAMPING = 128, 0.01  # SparseGPT's
SQUARE, PRODUCTS = 8192, 50


class Shape(NamedTuple):
    """A Llama without grouped queries, and the tokens that it is pruned on."""

    hidden: int
    intermediate: int
    heads: int
    blocks: int
    samples: int
    length: int
    vocabulary: int = 1024

    @property
    def block_weights(self) -> int:
        return self.hidden * (4 * self.hidden + 3 * self.intermediate)

    @property
    def tokens(self) -> int:
        return self.samples * self.length


SMALL = Shape(hidden=1024, intermediate=2752, heads=16, blocks=6, samples=16, length=512)
LLAMA_2_7B = Shape(hidden=4096, intermediate=11008, heads=32, blocks=32, samples=128, length=2048, vocabulary=32000)


def write_llama(folder: Path, shape: Shape, device: str = "cpu") -> None:
    """Random weights in bfloat16, a file a block, with a tokenizer of a few words."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    random = torch.Generator(device).manual_seed(1)
    files: dict[str, str] = {}
    for file, names in groupby(state, lambda name: f"{'-'.join(name.split('.')[1:3])}.safetensors"):
        tensors = {}
        for name in names:
            noise = torch.randn(state[name].shape, generator=random, device=device).mul_(0.02)
            tensors[name] = (noise if noise.ndim > 1 else noise + 1).bfloat16().cpu()
            files[name] = file
        save_file(tensors, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def calibration(folder: Path, shape: Shape) -> tuple[Path, Tensor]:
    file = write_text(folder / "text.txt", 4 * shape.tokens, 1)
    return file, read_sequences(file, tokenizer(), samples=shape.samples, sequence_length=shape.length)[0]


def prune(weights: DenseWeights, sequences: Tensor, pruner: Pruner, device: str) -> Iterator[tuple[str, Tensor]]:
    pruned = prune_blocks(
        weights,
        sequences,
        pruner=pruner,
        sparsity=lambda _: Sparsity(Decimal(RATIO), ComparisonGroup.ROW),
        device=torch.device(device),
        progress=lambda done, total: progress(f"{pruner}: block {done} of {total}"),
    )
    return ((each.name, each.keep) for each in pruned)


# --- Against two bare passes ------------------------------------------------------------------------------------


Call = tuple[Tensor, dict[str, Any]]


def first_calls(model: Any, batches: list[Tensor], device: str) -> list[Call]:
    """What the first block is called with, batch by batch."""
    calls: list[Call] = []

    class Seen(Exception):
        pass

    def keep(_: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> None:
        calls.append((args[0], kwargs))
        raise Seen

    hook = model.model.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    for batch in batches:
        try:
            model.model(batch.to(device), use_cache=False)
        except Seen:
            continue
    hook.remove()
    return calls


@torch.no_grad()
def bare_passes(model: Any, calls: list[Call], passes: int) -> None:
    for _ in range(passes):
        hidden = [first for first, _ in calls]
        for layer in model.model.layers:
            hidden = [layer(each, **kwargs) for each, (_, kwargs) in zip(hidden, calls, strict=True)]


def timed(work: Callable[[], object]) -> dict[str, float]:
    """CPU time is that of ended child processes too."""
    begin, begin_cpu = perf_counter(), sum(os.times()[:4])
    work()
    return {"wall": perf_counter() - begin, "cpu": sum(os.times()[:4]) - begin_cpu}


def against_passes(shape: Shape, repetitions: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_llama(folder / "model", shape)
        file, sequences = calibration(folder, shape)
        weights = DenseWeights.open(folder / "model")
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        calls = first_calls(model, list(sequences.split(max(1, TOKENS_PER_BATCH // shape.length))), "cpu")
        command = [
            *(sys.executable, "-m", "silo_agent.cli", "prune", "--model", str(folder / "model")),
            *("--calibration", str(file), "--samples", str(shape.samples), "--sequence-length", str(shape.length)),
        ]
        took: dict[str, list[dict[str, float]]] = {"prune": [], "two bare passes": [], "whole command": []}
        for repetition in range(repetitions + 1):  # the first warms up and is not counted
            out = str(folder / f"{repetition}.safetensors")
            works: dict[str, Callable[[], object]] = {
                "prune": lambda out=out: write_keep_masks(Path(out), prune(weights, sequences, Pruner.WANDA, "cpu")),
                "two bare passes": lambda: bare_passes(model, calls, 2),
                "whole command": lambda out=out: subprocess.run([*command, "--out", out + ".whole"], check=True),
            }
            for what, work in works.items():
                seconds = timed(work)
                progress(f"{what}: {seconds['wall']:.1f} s")
                if repetition:
                    took[what].append(seconds)
    ratios = {
        kind: median(ours[kind] / bare[kind] for ours, bare in zip(took["prune"], took["two bare passes"], strict=True))
        for kind in ("wall", "cpu")
    }
    publish(
        {"pruning with wanda / two bare passes, wall time": at_most(ratios["wall"], TWO_PASSES)},
        setting={**shape._asdict(), "threads": torch.get_num_threads(), "repetitions": repetitions},
        cpu_time_ratio=ratios["cpu"],
        seconds={what: {kind: [each[kind] for each in times] for kind in ratios} for what, times in took.items()},
    )


# --- Against the device's rate, and the published procedure -----------------------------------------------------


def counted_flops(shape: Shape, pruner: Pruner) -> float:
    """Of matrix products; a multiplication and an addition are two. Attention is causal: half of the square."""
    linear = 2 * shape.tokens * shape.block_weights
    attention = 2 * 2 * shape.tokens * shape.length * shape.hidden / 2
    gram = 2 * shape.tokens * (3 * shape.hidden**2 + shape.intermediate**2)  # q, k and v share one; gate and up too
    return (2 * shape.blocks - 1) * (linear + attention) + (shape.blocks * gram if pruner is Pruner.SPARSEGPT else 0)


def matrix_rate(device: str, square: int) -> float:
    """Flops a second of bfloat16 products of large squares, the fastest of three times; the first warms up."""
    left, right = (torch.randn(square, square, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(3):
        seconds = synchronised(lambda: [left @ right for _ in range(PRODUCTS)], device)
        best = max(best, PRODUCTS * 2 * square**3 / seconds)
    return best


def synchronised(work: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    begin = perf_counter()
    work()
    wait()
    return perf_counter() - begin


@torch.no_grad()
def published(model: Any, sequences: Tensor, pruner: Pruner, device: str) -> None:
    """The procedure of Wanda's and SparseGPT's published code, in its order and with its memory: nothing shared."""
    hidden = torch.cat([first for first, _ in first_calls(model, list(sequences.split(1)), device)])
    call = first_calls(model, [sequences[:1]], device)[0][1]
    for layer in model.model.layers:
        linears = [each for each in layer.modules() if isinstance(each, nn.Linear)]
        seen = {each: _Seen(each, pruner) for each in linears}
        hooks = [each.register_forward_hook(lambda m, args, _, seen=seen: seen[m].add(args[0][0])) for each in linears]
        for at in range(len(hidden)):
            layer(hidden[at : at + 1], **call)
        for hook in hooks:
            hook.remove()
        for each in linears:
            seen.pop(each).prune()
        for at in range(len(hidden)):
            hidden[at] = layer(hidden[at : at + 1], **call)[0]


class _Seen:
    def __init__(self, layer: nn.Linear, pruner: Pruner) -> None:
        self.layer, self.samples, size = layer, 0, layer.in_features
        self.pruner = pruner
        shape = (size, size) if pruner is Pruner.SPARSEGPT else (size,)
        self.sum = torch.zeros(shape, device=layer.weight.device)

    def add(self, inputs: Tensor) -> None:
        """A sequence, [L, d_in]: the mean over sequences so far."""
        inputs = inputs.float().T
        self.sum *= self.samples / (self.samples + 1)
        self.samples += 1
        if self.pruner is Pruner.SPARSEGPT:
            scaled = inputs * (2 / self.samples) ** 0.5
            self.sum += scaled @ scaled.T
        else:
            self.sum += inputs.norm(dim=1) ** 2 / self.samples

    def prune(self) -> None:
        if self.pruner is Pruner.SPARSEGPT:
            self._update()
            return
        weight = self.layer.weight.data
        order = (weight.abs() * self.sum.sqrt()).sort(dim=-1, stable=True).indices
        weight.scatter_(1, order[:, : int(weight.shape[1] * float(RATIO))], 0)

    def _update(self) -> None:
        """SparseGPT (arXiv 2301.00774, algorithm 1)."""
        weight, hessian = self.layer.weight.data.float(), self.sum
        diagonal = hessian.diagonal()
        dead = diagonal == 0
        diagonal[dead] = 1
        weight[:, dead] = 0
        diagonal += DAMPING * diagonal.mean()
        inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
        for first in range(0, weight.shape[1], BLOCK_SIZE):
            last = min(first + BLOCK_SIZE, weight.shape[1])
            part, within = weight[:, first:last].clone(), inverse[first:last, first:last]
            scores = part**2 / within.diagonal() ** 2
            zeroed = scores <= scores.flatten().sort().values[int(scores.numel() * float(RATIO))]
            errors = torch.zeros_like(part)
            for at in range(last - first):
                new = part[:, at].masked_fill(zeroed[:, at], 0)
                errors[:, at] = (part[:, at] - new) / within[at, at]
                part[:, at:] -= errors[:, at : at + 1] * within[at, at:]
                part[:, at] = new
            weight[:, first:last] = part
            weight[:, last:] -= errors @ inverse[first:last, last:]
        self.layer.weight.data = weight.to(self.layer.weight.dtype)


def against_rate(shape: Shape, device: str, under: Path | None) -> None:
    cuda = device.startswith("cuda")
    found: dict[str, dict[str, float]] = {}
    claims = {}
    rate = matrix_rate(device, SQUARE if cuda else shape.hidden)
    with TemporaryDirectory(dir=under) as name:
        folder = Path(name)
        write_llama(folder / "model", shape, device)
        _, sequences = calibration(folder, shape)
        weights = DenseWeights.open(folder / "model")
        for pruner in (Pruner.WANDA, Pruner.SPARSEGPT):
            kept: list[tuple[str, Tensor]] = []
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            # the keep masks, a byte a weight, stay in memory until they are written, apart
            pruning = synchronised(
                lambda kept=kept, p=pruner: kept.extend(prune(weights, sequences, p, device)), device
            )
            peak = torch.cuda.max_memory_reserved() if cuda else 0
            writing = timed(lambda kept=kept, p=pruner: write_keep_masks(folder / f"{p}.safetensors", iter(kept)))
            (folder / f"{pruner}.safetensors").unlink()
            model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).to(device)
            plain = synchronised(lambda model=model, p=pruner: published(model, sequences, p, device), device)
            del model
            share = counted_flops(shape, pruner) / pruning / rate
            found[pruner] = {
                "flops_counted": counted_flops(shape, pruner),
                "share_of_matrix_rate": share,
                "seconds": pruning,
                "seconds_of_writing_after": writing["wall"],
                "seconds_of_published_procedure": plain,
                "published_over_ours": plain / pruning,
                "peak_device_bytes_reserved": peak,
            }
            progress(json.dumps(found[pruner]))
    if cuda:
        claims = {
            "wanda: share of the bfloat16 matrix rate": {
                "measured": found[Pruner.WANDA]["share_of_matrix_rate"],
                "target": f"at least {RATE_SHARE}",
                "met": found[Pruner.WANDA]["share_of_matrix_rate"] >= RATE_SHARE,
            },
            "wanda: peak device memory, bytes": at_most(found[Pruner.WANDA]["peak_device_bytes_reserved"], PEAK_BYTES),
        }
    publish(
        claims,
        setting={
            **shape._asdict(),
            "device": torch.cuda.get_device_name(device) if cuda else device,
            "torch": torch.__version__,
            "bfloat16_matrix_flops_a_second": rate,
        },
        pruners=found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Pruning against the forward passes in it.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rate", action="store_true", help="Measure elsewhere what is measured on CUDA.")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Where to make the model, 14 GB in full size.")
    for field in ("hidden", "intermediate", "heads", "blocks", "samples", "length"):
        parser.add_argument(f"--{field}", type=int)
    given = parser.parse_args()
    rated = given.rate or given.device != "cpu"
    shape = LLAMA_2_7B if rated else SMALL
    shape = shape._replace(**{field: value for field in shape._fields if (value := getattr(given, field, None))})
    logging.disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))  # tests use one
    if rated:
        against_rate(shape, given.device, given.folder)
    else:
        against_passes(shape, given.repetitions)


if __name__ == "__main__":
    main()

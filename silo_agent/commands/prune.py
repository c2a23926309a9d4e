"""`silo-agent prune`: prune a model with local text, without any network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import click

from crypto.errors import ConfigError, OutputError
from crypto.names import BITS, Allocation, Bits, ComparisonGroup, Pruner
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity, parse_ratio
from silo_agent.host.terminal import FILE, ProgressBars, choice_of, pattern_option, pruner_option, ratio_option

if TYPE_CHECKING:  # --help need not wait for torch
    import torch

    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.pruning.prune import Pruned

SELF: Final = "self"
"""Given as calibration text: the model writes it."""


@click.command()
@click.option("--model", required=True, help="Folder of the dense model, or its hub id, owner/name@commit.")
@click.option(
    "--calibration",
    help="Calibration text, .txt or .jsonl, or self: text that the model writes, which takes the whole model once a "
    "token. Magnitude alone needs none.",
)
@click.option("--out", required=True, type=FILE, help="File to write: bool tensors, True = kept.")
@click.option("--save-weights", type=FILE, help="File to write: the pruned weights themselves.")
@click.option("--save-quantised", type=FILE, help="Folder to write: the model with quantised weights, packed.")
@pruner_option(default=Pruner.WANDA)
@ratio_option
@pattern_option
@click.option(
    "--comparison-group",
    type=choice_of(ComparisonGroup),
    help="Weights whose scores are compared with each other; layer is one weight matrix.  "
    "[default: the pruner's own, as silos of a run use: row for wanda, layer for the others]",
)
@click.option(
    "--allocation",
    type=choice_of(Allocation),
    default=Allocation.UNIFORM.value,
    show_default=True,
    help="owl: blocks with more outlying weights lose fewer. alpha: blocks whose weights look better trained do.",
)
@click.option(
    "--quantise",
    type=click.Choice(list(map(str, BITS))),
    help="Bits of the integers that weights then become, by GPTQ on the same text.",
)
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Calibration sequences.")
@click.option(
    "--sequence-length", type=click.IntRange(2), help="Tokens a sequence.  [default: 2048 or the model's most]"
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
def prune(
    model: str,
    calibration: str | None,
    out: Path,
    save_weights: Path | None,
    save_quantised: Path | None,
    pruner: str,
    sparsity_ratio: str | None,
    pattern: str | None,
    comparison_group: str | None,
    allocation: str,
    quantise: str | None,
    samples: int,
    sequence_length: int | None,
    device: str,
) -> None:
    """Prune a model with local text, and write its keep masks.

    Nothing leaves this machine; a hub id is the only reason to use the network.

    \b
    Examples:
      silo-agent prune --model llama --calibration notes.txt --out keep_mask.safetensors --sparsity-ratio 0.6
      silo-agent prune --model llama --calibration notes.txt --out keep_mask.safetensors --pruner sparsegpt \\
        --pattern 2:4 --save-weights pruned.safetensors
      silo-agent prune --model llama --calibration notes.txt --out keep_mask.safetensors --pruner sparsegpt \\
        --quantise 4 --save-quantised llama-4bit
    """
    owl, spread = allocation == Allocation.OWL, allocation != Allocation.UNIFORM
    if pattern is not None and (sparsity_ratio is not None or comparison_group is not None or spread):
        raise ConfigError(
            "--pattern says how many weights of which group are kept",
            hint="leave out --sparsity-ratio, --comparison-group and --allocation, or --pattern",
        )
    ratio = "0.5" if sparsity_ratio is None else sparsity_ratio
    target = parse_ratio(ratio) if pattern is None else Pattern.parse(pattern)
    for file in filter(None, (out, save_weights, save_quantised)):
        if file.exists() or not file.parent.is_dir():
            raise OutputError(f"{file}: exists, or its folder does not", hint="name a new file in an existing folder")
    bits = next((bits for bits in BITS if quantise == str(bits)), None)
    if save_quantised is not None and bits is None:
        raise ConfigError("--save-quantised needs --quantise", hint="say --quantise 4 or --quantise 8")
    from silo_agent.checkpoint.dense_weights import DenseWeights
    from silo_agent.checkpoint.model_folder import model_folder
    from silo_agent.model.device import named_device
    from silo_agent.pruning.allocation import spread_sparsities
    from silo_agent.pruning.prune import prune_blocks
    from silo_agent.pruning.pruners import method
    from silo_agent.results.quantised_checkpoint import check_quantisable

    by_text = {pruner: method(Pruner(pruner)).STATISTIC, allocation: owl, "--quantise": bits}
    needs_text = next((name for name, needs in by_text.items() if needs), None)
    where = named_device(device)
    weights = DenseWeights.open(model_folder(model))
    if bits is not None:
        check_quantisable(weights)
    with ProgressBars() as progress:
        sequences: Sequence[torch.Tensor] | torch.Tensor = ()
        if needs_text is not None:
            sequences = _sequences(weights, calibration, needs_text, samples, sequence_length, where, progress)
        group = ComparisonGroup(comparison_group) if comparison_group else PRUNERS[Pruner(pruner)].own_group
        sparsities = [Sparsity(target, group)] * len(weights.blocks)
        if spread and isinstance(target, Decimal):
            sparsities = spread_sparsities(weights, sequences, Allocation(allocation), target, group, device=where)
        pruned = prune_blocks(
            weights,
            sequences,
            pruner=Pruner(pruner),
            sparsity=lambda block: sparsities[block.index],
            device=where,
            progress=lambda done, total: progress("pruning blocks", done, total),
            bits=bits,
        )
        if save_quantised is None or bits is None:
            _write(out, save_weights, pruned, weights)
        else:
            _write_quantised(out, save_weights, save_quantised, pruned, weights, bits)
    sparsity = pattern or f"sparsity ratio {ratio}"
    click.echo(f"{out}: keep masks of {len(weights.prunable)} weights, {pruner} at {sparsity}", err=True)


def _write(out: Path, save_weights: Path | None, pruned: "Iterable[Pruned]", weights: "DenseWeights") -> None:
    from silo_agent.pruning.prune import with_weights, write_keep_masks, write_pruned

    if save_weights is None:
        write_keep_masks(out, ((weight.name, weight.keep) for weight in pruned))
    else:
        write_pruned(out, save_weights, with_weights(pruned, weights))


def _write_quantised(
    out: Path,
    save_weights: Path | None,
    folder: Path,
    pruned: "Iterable[Pruned]",
    weights: "DenseWeights",
    bits: Bits,
) -> None:
    """Write also the quantised model, whose weights wait beside it: they are written in another order."""
    from silo_agent.results.quantised_checkpoint import write_quantised_model
    from silo_agent.second_order.quantised_files import QuantisedFiles

    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as waiting:
        files = QuantisedFiles(weights, Path(waiting))

        def taken() -> "Iterator[Pruned]":
            for tensor in pruned:
                if tensor.quantised is not None:
                    files.add(tensor.name, tensor.quantised)
                yield tensor

        _write(out, save_weights, taken(), weights)
        write_quantised_model(weights, files.__getitem__, bits, folder)


def _sequences(
    weights: "DenseWeights",
    calibration: str | None,
    needed_by: str,
    samples: int,
    sequence_length: int | None,
    device: "torch.device",
    progress: Callable[[str, int, int], None],
) -> "torch.Tensor | Sequence[torch.Tensor]":
    """Return calibration sequences of a file, or of text that the model writes. Raises ConfigError without either."""
    from silo_agent.model.calibration import read_sequences, usual_length
    from silo_agent.writing.self_text import WRITING, self_sequences

    length = usual_length(weights.config, sequence_length)
    if calibration is None:
        raise ConfigError(
            f"--calibration is missing, which {needed_by} needs", hint="name a file of text, or give self"
        )
    if calibration == SELF:
        return self_sequences(
            weights,
            samples=samples,
            sequence_length=length,
            device=device,
            progress=partial(progress, WRITING),
        )
    return read_sequences(Path(calibration), weights.tokenizer, samples=samples, sequence_length=length)[0]
